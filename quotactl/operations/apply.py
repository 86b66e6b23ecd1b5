"""Policy files: export, diff, apply."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quotactl.errors import Conflict, InvalidInput
from quotactl.frozen import frozen
from quotactl.operations.acts import Act, Acts
from quotactl.operations.administer import (
    add_resource,
    add_tier,
    make_default,
    presets_of,
    put_limits,
    put_preset,
    retire_resource,
    retire_tier,
    set_capacity,
    set_protected,
)
from quotactl.policy.plan import Change, Plan, differences, plan_of, read_plan, to_toml
from quotactl.policy.window import calendar_of

if TYPE_CHECKING:
    from quotactl.ledger.engine import Reading

Approve = Callable[[tuple[Change, ...]], None]


@frozen
class Applied:
    """What applying a policy file did, or would do: its changes, none if already in force."""

    changes: tuple[Change, ...]
    applied: bool

    def to_dict(self) -> dict[str, Any]:
        return {
            "changed": bool(self.changes),
            "applied": self.applied,
            "changes": [change.to_dict() for change in self.changes],
        }


def read_policy_file(text: str) -> Plan:
    """A policy file's text; InvalidInput names the line or the key that is wrong."""
    import tomllib

    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"the policy file is not TOML: {error}") from None
    except RecursionError:
        raise InvalidInput("the policy file is not TOML: nested too deeply") from None
    except ValueError:
        # Python reads no decimal number of more than 4300 digits.
        raise InvalidInput("the policy file has a number in it that is too long") from None
    plan = read_plan(document)
    if plan.zone is not None:
        try:
            calendar_of(plan.zone)
        except (KeyError, ValueError, OSError):
            raise InvalidInput(
                f"zone {plan.zone!r} is not known", hint="such as Europe/Rome"
            ) from None
    return plan


class PolicyFiles(Acts):
    """Acts with whole policies."""

    def export_policy(self) -> str:
        """The policy in force, as a policy file."""
        with self._engine.reading() as book:
            return to_toml(_present(book))

    def diff_policy(self, text: str) -> Applied:
        """What applying a file's text would change."""
        plan = read_policy_file(text)
        with self._engine.reading() as book:
            return Applied(differences(_present(book), plan), applied=False)

    def apply_policy(
        self,
        text: str,
        *,
        approve: Approve | None = None,
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Applied:
        """Bring a file's text into force, in one transaction; twice is the same as once.

        `approve` is shown the changes before anything is written and raises to
        stop; if the policy has moved meanwhile, nothing is done and Conflict raised.
        """
        plan = read_policy_file(text)
        seen = self.diff_policy(text)
        if not seen.changes:
            return seen
        if approve is not None:
            # Not inside the transaction: a person may take long to answer.
            approve(seen.changes)
        with self._act(reason=reason, ticket=ticket) as act:
            present = _present(act.book)
            changes = differences(present, plan)
            if changes != seen.changes:
                raise Conflict("the policy was changed meanwhile", hint="look again and repeat")
            _bring_about(act, present, plan)
            act.record("policy.apply", after={"changes": [change.to_dict() for change in changes]})
        return Applied(changes, applied=True)


def _present(book: Reading) -> Plan:
    return plan_of(book.policy, presets_of(book))


def _bring_about(act: Act, present: Plan, wanted: Plan) -> None:
    book = act.book
    if wanted.zone not in (None, present.zone):
        if book.has_history():
            raise Conflict(
                f"the zone is {present.zone} and can't change once anything was counted or closed",
                hint="make a new ledger for another zone",
            )
        book.update("ledger", {"id": 1}, {"zone": wanted.zone})
        book.touch_policy()
    for name, resource in wanted.resources.items():
        was = present.resources.get(name)
        if was is None:
            add_resource(act, name, resource.unit, resource.capacity)
            continue
        if resource.unit != was.unit:
            book.update("resource", {"name": name, "retired_at_ms": None}, {"unit": resource.unit})
            book.touch_policy()
        if resource.capacity != was.capacity:
            set_capacity(act, name, resource.capacity)
    for name, tier in wanted.tiers.items():
        if name not in present.tiers:
            add_tier(act, name, protected=tier.protected)
        elif tier.protected != present.tiers[name].protected:
            set_protected(act, name, protected=tier.protected)
    if wanted.default_tier not in (None, present.default_tier):
        make_default(act, wanted.default_tier or "")
    for name in present.resources:
        if name not in wanted.resources:
            retire_resource(act, name)
    policy = book.reread_policy()
    for name in present.tiers:
        if name in wanted.tiers:
            continue
        users = book.count_users(policy.tiers_by_name[name].id)
        if users:
            raise Conflict(
                f"tier {name!r} is not in the file but has {users} user{'s' if users > 1 else ''}",
                hint=f"quotactl tier delete {name} --move-to TIER",
            )
        if policy.tiers_by_name[name] is policy.default_tier:
            raise Conflict(f"tier {name!r} is not in the file but is the default tier")
        retire_tier(act, name)
    policy = book.reread_policy()
    for name, tier in wanted.tiers.items():
        row = policy.tiers_by_name[name]
        wanted_limits = {policy.resources_by_name[r].id: ls for r, ls in tier.limits.items()}
        for resource_id in {*row.limits, *wanted_limits}:
            limits = wanted_limits.get(resource_id, ())
            if limits != row.limits.get(resource_id, ()):
                put_limits(act, row.id, resource_id, limits)
    for name in {**present.presets, **wanted.presets}:
        if present.presets.get(name) != wanted.presets.get(name):
            put_preset(act, name, wanted.presets.get(name))
