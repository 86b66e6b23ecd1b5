"""Tiers, resources, limits and settings: what is decided for everybody at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from quotactl.errors import Conflict, InvalidInput
from quotactl.ledger.loaded import Row
from quotactl.ledger.views import Outcome, ResourceView, SettingView, TierView
from quotactl.operations.acts import Act, Acts
from quotactl.operations.switches import switches_moved
from quotactl.policy.levers import Preset, one_limit, preset_table, read_preset
from quotactl.policy.model import Limit, Policy, Tier
from quotactl.policy.notation import check_name, check_unit, limit_text, parse_limit
from quotactl.policy.settings import SETTINGS, setting_named, value_of
from quotactl.policy.window import from_ms, moment_of, period_of_length

if TYPE_CHECKING:
    from quotactl.ledger.engine import Reading


class Catalogue(Acts):
    """Acts on tiers, resources, limits and settings."""

    # ---- resources

    def create_resource(
        self,
        name: str,
        *,
        unit: str | None = None,
        capacity: str | None = None,
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Outcome:
        """Make a resource that can be counted. `unit` is what one of it is called,
        `capacity` (`2M/day`) the most that all users together may have of it."""
        check_name(name, "resource")
        if unit is not None:
            check_unit(unit)
        most = None if capacity is None else one_limit("capacity", capacity)
        with self._act(reason=reason, ticket=ticket) as act:
            present = act.book.policy.resources_by_name.get(name)
            if present is not None:
                if unit not in (None, present.unit):
                    raise Conflict(f"resource {name!r} exists, with the unit {present.unit!r}")
                if most not in (None, present.capacity):
                    what = f"the capacity {present.capacity}" if present.capacity else "no capacity"
                    raise Conflict(
                        f"resource {name!r} exists, with {what}",
                        hint="a policy file changes it: quotactl policy apply -f FILE",
                    )
                (row,) = act.book.rows("resource", {"id": present.id})
                item = resource_view(row).to_dict()
                return Outcome(False, f"resource {name} exists already", item)
            add_resource(act, name, unit, most)
            after = {"unit": unit}
            if most is not None:
                after["capacity"] = str(most)
            act.record("resource.create", subject=name, after=after)
            (row,) = act.book.rows("resource", {"name": name, "retired_at_ms": None})
            return Outcome(True, f"resource {name} made", resource_view(row).to_dict())

    def delete_resource(
        self, name: str, *, reason: str | None = None, ticket: str | None = None
    ) -> Outcome:
        """Retire a resource: its history stays, nothing more is decided for it."""
        with self._act(reason=reason, ticket=ticket) as act:
            if already := _retired(act, "resource", name):
                item = resource_view(already).to_dict()
                return Outcome(False, f"resource {name} is retired already", item)
            resource = act.resource(name)
            before = {t.name: limit_text(t.limits[resource.id]) for t in _listing(act, resource.id)}
            retire_resource(act, name)
            act.record(
                "resource.delete", subject=name, before={"unit": resource.unit, "limits": before}
            )
            (row,) = act.book.rows("resource", {"id": resource.id})
            named = _named_by(act, resource=name)
            message = f"resource {name} retired; its history stays{named}"
            return Outcome(True, message, resource_view(row).to_dict())

    # ---- tiers

    def create_tier(
        self,
        name: str,
        *,
        protected: bool = False,
        default: bool = False,
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Outcome:
        """Make a tier. The first one becomes the default tier."""
        check_name(name, "tier")
        with self._act(reason=reason, ticket=ticket) as act:
            policy = act.book.policy
            present = policy.tiers_by_name.get(name)
            if present is not None:
                if protected and not present.protected:
                    raise Conflict(
                        f"tier {name!r} exists, not protected", hint=f"quotactl tier protect {name}"
                    )
                if default and policy.default_tier is not present:
                    raise Conflict(
                        f"tier {name!r} exists, not as the default",
                        hint=f"quotactl tier default {name}",
                    )
                return Outcome(False, f"tier {name} exists already", tier_item(policy, present))
            add_tier(act, name, protected=protected)
            becomes_default = default or policy.default_tier is None
            if becomes_default:
                make_default(act, name)
            act.record(
                "tier.create",
                subject=name,
                after={"protected": protected, "default": becomes_default},
            )
            policy = act.book.reread_policy()
            message = f"tier {name} made" + ("; it is the default tier" if becomes_default else "")
            return Outcome(True, message, tier_item(policy, policy.tiers_by_name[name]))

    def delete_tier(
        self,
        name: str,
        *,
        move_to: str | None = None,
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Outcome:
        """Retire a tier; users on it need `move_to`. Its history and id stay."""
        with self._act(reason=reason, ticket=ticket) as act:
            if already := _retired(act, "tier", name):
                at = from_ms(already["retired_at_ms"])
                item = TierView(name, False, bool(already["protected"]), {}, at).to_dict()
                return Outcome(False, f"tier {name} is retired already", item)
            tier = act.tier(name)
            target = None if move_to is None else act.tier(move_to)
            if target is tier:
                raise InvalidInput(f"tier {name!r} can't be moved to itself")
            policy = act.book.policy
            users = act.book.count_users(tier.id)
            if policy.default_tier_id == tier.id:
                raise Conflict(
                    f"tier {name!r} is the default tier",
                    hint="make another one the default first: quotactl tier default NAME",
                )
            if users and target is None:
                raise Conflict(
                    f"tier {name!r} has {users} user{'s' if users > 1 else ''}",
                    hint=f"quotactl tier delete {name} --move-to TIER",
                )
            if users and target is not None:
                act.book.update("user", {"tier_id": tier.id}, {"tier_id": target.id})
            before = tier_item(policy, tier)
            retire_tier(act, name)
            after = {"moved": users, "move_to": move_to} if users else None
            act.record("tier.delete", subject=name, before=before, after=after)
            item = TierView(name, False, tier.protected, {}, from_ms(act.now_ms)).to_dict()
            moved = f"; {users} moved to {move_to}" if users else ""
            named = _named_by(act, tier=name)
            return Outcome(True, f"tier {name} retired; its history stays{moved}{named}", item)

    def set_default_tier(
        self, name: str, *, reason: str | None = None, ticket: str | None = None
    ) -> Outcome:
        """Name the tier of unknown users, and of known ones that were never put on one."""
        with self._act(reason=reason, ticket=ticket) as act:
            tier = act.tier(name)
            before = act.book.policy.default_tier
            if before is tier:
                item = tier_item(act.book.policy, tier)
                return Outcome(False, f"tier {name} is the default already", item)
            make_default(act, name)
            act.record(
                "tier.default",
                subject=name,
                before={"default": None if before is None else before.name},
                after={"default": name},
            )
            policy = act.book.reread_policy()
            item = tier_item(policy, policy.tiers_by_name[name])
            return Outcome(True, f"tier {name} is the default", item)

    def protect_tier(
        self, name: str, *, reason: str | None = None, ticket: str | None = None
    ) -> Outcome:
        """Make throttles spare a tier unless they are told otherwise."""
        return self._protect(name, protected=True, reason=reason, ticket=ticket)

    def unprotect_tier(
        self, name: str, *, reason: str | None = None, ticket: str | None = None
    ) -> Outcome:
        """Let throttles reach a tier again."""
        return self._protect(name, protected=False, reason=reason, ticket=ticket)

    def _protect(
        self, name: str, *, protected: bool, reason: str | None, ticket: str | None
    ) -> Outcome:
        state = "protected" if protected else "not protected"
        with self._act(reason=reason, ticket=ticket) as act:
            tier = act.tier(name)
            if tier.protected == protected:
                item = tier_item(act.book.policy, tier)
                return Outcome(False, f"tier {name} is {state} already", item)
            set_protected(act, name, protected=protected)
            act.record(
                "tier.protect" if protected else "tier.unprotect",
                subject=name,
                before={"protected": tier.protected},
                after={"protected": protected},
            )
            policy = act.book.reread_policy()
            return Outcome(
                True, f"tier {name} is {state}", tier_item(policy, policy.tiers_by_name[name])
            )

    # ---- limits

    def set_limit(
        self,
        *,
        tier: str,
        resource: str,
        limit: str,
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Outcome:
        """Set a tier's limits for one resource: `3/day`, `50/day,5/minute`, `unlimited`."""
        return self.set_limits(tier=tier, limits={resource: limit}, reason=reason, ticket=ticket)

    def set_limits(
        self,
        *,
        tier: str,
        limits: Mapping[str, str],
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Outcome:
        """The same for several resources, all or none."""
        wanted = {resource: parse_limit(text) for resource, text in limits.items()}
        with self._act(reason=reason, ticket=ticket) as act:
            target = act.tier(tier)
            before: dict[str, str | None] = {}
            after: dict[str, str] = {}
            for name, new in wanted.items():
                resource = act.resource(name)
                old = target.limits.get(resource.id)
                if old == new:
                    continue
                put_limits(act, target.id, resource.id, new)
                before[name] = None if old is None else limit_text(old)
                after[name] = limit_text(new)
            if not after:
                item = tier_item(act.book.policy, target)
                return Outcome(False, f"tier {tier} has these limits already", item)
            act.record("limit.set", subject=tier, before=before, after=after)
            policy = act.book.reread_policy()
            changes = ", ".join(f"{r} {after[r]} (was {before[r] or 'not listed'})" for r in after)
            item = tier_item(policy, policy.tiers_by_name[tier])
            return Outcome(True, f"tier {tier}: {changes}", item)

    def unset_limit(
        self, *, tier: str, resource: str, reason: str | None = None, ticket: str | None = None
    ) -> Outcome:
        """Take a resource off a tier: its users are then `not_in_tier` for it."""
        with self._act(reason=reason, ticket=ticket) as act:
            target, what = act.tier(tier), act.resource(resource)
            old = target.limits.get(what.id)
            if old is None:
                item = tier_item(act.book.policy, target)
                return Outcome(False, f"tier {tier} does not list {resource}", item)
            put_limits(act, target.id, what.id, ())
            act.record("limit.unset", subject=tier, before={resource: limit_text(old)})
            policy = act.book.reread_policy()
            item = tier_item(policy, policy.tiers_by_name[tier])
            return Outcome(True, f"tier {tier} lists {resource} no more", item)

    # ---- settings

    def set_setting(
        self, key: str, value: str, *, reason: str | None = None, ticket: str | None = None
    ) -> Outcome:
        """Set one of the ledger's settings."""
        value = setting_named(key).read(value)
        return self._put_setting(key, value, reason=reason, ticket=ticket)

    def unset_setting(
        self, key: str, *, reason: str | None = None, ticket: str | None = None
    ) -> Outcome:
        """Let a setting be its default again."""
        setting_named(key)
        return self._put_setting(key, None, reason=reason, ticket=ticket)

    def _put_setting(
        self, key: str, value: str | None, *, reason: str | None, ticket: str | None
    ) -> Outcome:
        with self._act(reason=reason, ticket=ticket) as act:
            stored = {row["key"]: row["value"] for row in act.book.rows("setting", order="key")}
            before = stored.get(key)
            if before != value:
                act.book.delete("setting", {"key": key})
                if value is not None:
                    act.book.insert("setting", {"key": key, "value": value})
                act.book.touch_policy()
                act.record(
                    "setting.set" if value is not None else "setting.unset",
                    subject=key,
                    before={key: before},
                    after={key: value},
                )
            stored = {} if value is None else {key: value}
            view = setting_view(stored, key)
            already = "" if before != value else " already"
            return Outcome(before != value, f"{key} is {view.value}{already}", view.to_dict())


# ---- steps that the policy file takes too; the caller records them


def add_resource(act: Act, name: str, unit: str | None, capacity: Limit | None) -> None:
    """Insert a resource."""
    act.book.insert(
        "resource",
        {"name": name, "unit": unit, "created_at_ms": act.now_ms, **_capacity(capacity)},
    )
    act.book.touch_policy()


def set_capacity(act: Act, name: str, capacity: Limit | None) -> None:
    """Set the most that all users together may have of a resource, or lift it."""
    act.book.update("resource", {"name": name, "retired_at_ms": None}, _capacity(capacity))
    # Sums of everybody that are no longer kept up must not be there if they are wanted again.
    switches_moved(act)


def retire_resource(act: Act, name: str) -> None:
    """Take a resource off all tiers and out of use."""
    resource = act.resource(name)
    act.book.delete("tier_limit", {"resource_id": resource.id})
    act.book.update("resource", {"id": resource.id}, {"retired_at_ms": act.now_ms})
    act.book.touch_policy()


def add_tier(act: Act, name: str, *, protected: bool) -> None:
    """Insert a tier."""
    act.book.insert(
        "tier", {"name": name, "protected": int(protected), "created_at_ms": act.now_ms}
    )
    act.book.touch_policy()


def retire_tier(act: Act, name: str) -> None:
    """Take a tier without users out of use."""
    tier = act.tier(name)
    act.book.delete("tier_limit", {"tier_id": tier.id})
    act.book.update("tier", {"id": tier.id}, {"retired_at_ms": act.now_ms})
    act.book.touch_policy()


def make_default(act: Act, name: str) -> None:
    """Make a tier the default one."""
    act.book.reread_policy()
    act.book.update("ledger", {"id": 1}, {"default_tier_id": act.tier(name).id})
    act.book.touch_policy()


def set_protected(act: Act, name: str, *, protected: bool) -> None:
    """Protect a tier or lift its protection."""
    act.book.update("tier", {"id": act.tier(name).id}, {"protected": int(protected)})
    act.book.touch_policy()


def presets_of(book: Reading) -> dict[str, Preset]:
    """The presets that there are, by name."""
    return {
        row["name"]: read_preset(row["name"], json.loads(row["definition"]))
        for row in book.rows("preset", order="name")
    }


def put_preset(act: Act, name: str, preset: Preset | None) -> None:
    """Store a preset in place of one of the same name; None removes it.

    What came on with it before stays as it is until it ends.
    """
    act.book.delete("preset", {"name": name})
    if preset is not None:
        definition = json.dumps(preset_table(preset), ensure_ascii=False)
        act.book.insert("preset", {"name": name, "definition": definition})


def put_limits(act: Act, tier_id: int, resource_id: int, limits: Sequence[Limit]) -> None:
    """Replace a tier's limits for a resource; none takes it off the tier."""
    act.book.delete("tier_limit", {"tier_id": tier_id, "resource_id": resource_id})
    for limit in limits:
        act.book.insert(
            "tier_limit",
            {
                "tier_id": tier_id,
                "resource_id": resource_id,
                "period": limit.period.length_min,
                "amount_max": limit.amount_max,
            },
        )
    act.book.touch_policy()


# ---- views


def tier_item(policy: Policy, tier: Tier) -> dict[str, Any]:
    """The JSON of a tier."""
    return tier_view(policy, tier).to_dict()


def tier_view(policy: Policy, tier: Tier) -> TierView:
    """A tier as people see it."""
    limits = {
        policy.resources[resource_id].name: limit_text(limits)
        for resource_id, limits in tier.limits.items()
        if resource_id in policy.resources
    }
    return TierView(tier.name, policy.default_tier_id == tier.id, tier.protected, limits)


def resource_view(row: Row) -> ResourceView:
    """A row of `resource` as people see it."""
    capacity = None
    if row["capacity_max"] is not None:
        capacity = str(Limit(period_of_length(row["capacity_period"]), row["capacity_max"]))
    return ResourceView(row["name"], row["unit"], capacity, moment_of(row["retired_at_ms"]))


def setting_view(stored: Mapping[str, str], key: str) -> SettingView:
    """A setting as people see it."""
    setting = SETTINGS[key]
    return SettingView(key, value_of(stored, key), setting.default, setting.help)


def setting_views(book: Reading) -> list[SettingView]:
    """All settings."""
    stored = {row["key"]: row["value"] for row in book.rows("setting", order="key")}
    return [setting_view(stored, key) for key in SETTINGS]


def _retired(act: Act, table: str, name: str) -> Row | None:
    """The row of that name which was retired last, where none is live."""
    rows = act.book.rows(table, {"name": name})
    if not rows or any(row["retired_at_ms"] is None for row in rows):
        return None
    return rows[-1]


def _capacity(capacity: Limit | None) -> Row:
    if capacity is None:
        return {"capacity_max": None, "capacity_period": None}
    return {
        "capacity_max": capacity.amount_max,
        "capacity_period": capacity.period.length_min,
    }


def _named_by(act: Act, *, tier: str | None = None, resource: str | None = None) -> str:
    """What to say of presets that can't come on any more without a tier or resource."""
    names = [
        name
        for name, preset in presets_of(act.book).items()
        if tier in preset.tiers or resource in preset.resources
    ]
    if not names:
        return ""
    one = len(names) == 1
    return (
        f"; preset{'' if one else 's'} {', '.join(names)} name{'s' if one else ''} it and can't "
        "come on until the policy file is changed"
    )


def _listing(act: Act, resource_id: int) -> list[Tier]:
    return [t for t in act.book.policy.tiers.values() if resource_id in t.limits]
