"""Making good for a throttle: a grant for everybody whom it hit, once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from quotactl.errors import Conflict, InvalidInput
from quotactl.ledger.loaded import Row
from quotactl.ledger.values import rfc3339
from quotactl.ledger.views import Outcome
from quotactl.operations.acts import Acts
from quotactl.operations.aftermath import course_of, known_only, sought_of
from quotactl.operations.people import check_priority
from quotactl.operations.switches import THROTTLE_KINDS, find_switch, switch_view, title
from quotactl.policy.model import Throttle
from quotactl.policy.notation import check_amount, instant_text
from quotactl.policy.window import from_ms, moment_of

if TYPE_CHECKING:
    from quotactl.ledger.engine import Reading

REFUSED = "refused"


class MakeGood(Acts):
    """The act of giving back what a throttle took."""

    def make_good(
        self,
        throttle: int | str,
        *,
        each: int,
        limit_to: str | None = None,
        resource: str | None = None,
        priority: int = 0,
        duration: str | timedelta | None = None,
        until: str | datetime | None = None,
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Outcome:
        """Give `each` units to every user in a throttle's scope, in one transaction, once for
        each resource.

        To those who asked for something on the days on which it was in force, of each
        resource that they asked for, or of `resource` alone; with `limit_to` "refused" only
        to those whom it cost something, as its report says. One audit row stands for all of
        these grants. A second time changes nothing, whatever is asked for then, but for
        resources that others alone were named before. Raises Conflict while the throttle is
        on or to come, InvalidInput for a drill.
        """
        check_amount(each)
        check_priority(priority)
        if limit_to not in {None, REFUSED}:
            raise InvalidInput(f"{limit_to!r} is no group of users", hint=f"it is {REFUSED}")
        with self._act(reason=reason, ticket=ticket, why_needed="a grant") as act:
            book = act.book
            switch = find_switch(book, throttle, THROTTLE_KINDS, act.now_ms)
            target = book.switch_of(switch)
            assert isinstance(target, Throttle)
            if resource is None:
                resources = [
                    what
                    for what in book.policy.resources.values()
                    if target.scope.covers_resource(what.id)
                ]
            else:
                resources = [act.resource(resource)]
                if not target.scope.covers_resource(resources[0].id):
                    raise InvalidInput(f"throttle {title(switch)} is not for {resource}")
            before = _made(book, switch)
            resources = [what for what in resources if not {None, what.name} & set(before)]
            if before and not resources:
                row = before.get(None) or before.get(resource) or _last(before)
                return _already(book, switch, row)
            _check_over(book, switch, act.now_ms)
            expires_at_ms = act.end(duration=duration, until=until)
            course = course_of(book, switch, act.now_ms)
            sought = sought_of(book, course, resources=resources, refused=limit_to == REFUSED)
            with book.affected(known_only(sought)):
                users = book.count_affected()
                tiers = [
                    {
                        "tier": book.tier_name(tier_id) if tier_id else None,
                        "resource": book.resource_name(resource_id),
                        "users": count,
                        "units": count * each,
                    }
                    for resource_id, tier_id, count, _ in book.affected_by("resource_id", "tier_id")
                ]
                facts: dict[str, Any] = {
                    "users": users,
                    "units": sum(row["units"] for row in tiers),
                    "each": each,
                    "resources": list(dict.fromkeys(row["resource"] for row in tiers)),
                    "limited_to": limit_to,
                    "priority": priority,
                    "expires_at": rfc3339(moment_of(expires_at_ms)),
                }
                if resource is not None:
                    # Without it, it was for all.
                    facts["resource"] = resource
                item = {"throttle": switch["id"], "name": switch["name"], **facts, "tiers": tiers}
                if not users:
                    whom = "refused nobody" if limit_to else "met nobody who asked for anything"
                    gone = "; the counters of its days are pruned" if course.pruned else ""
                    message = f"throttle {title(switch)} {whom}{gone}"
                    return Outcome(False, message, {**item, "audit_id": None})
                audit_id = act.record(
                    "grant.make_good", subject=f"throttle {switch['id']}", after=facts
                )
                made = book.add_grants(
                    amount=each,
                    priority=priority,
                    now_ms=act.now_ms,
                    expires_at_ms=expires_at_ms,
                    audit_id=audit_id,
                )
            assert made * each == facts["units"]
            book.update("switch", {"id": switch["id"]}, {"made_good_id": audit_id})
            end = "for good"
            if expires_at_ms is not None:
                end = f"until {instant_text(expires_at_ms, book.policy.calendar)}"
            part = ""
            if course.pruned:
                part = f"; the counters of {len(course.pruned)} of its days are pruned"
            message = (
                f"throttle {title(switch)} is made good: {users} "
                f"{'user gets' if users == 1 else 'users get'} {each} more "
                f"of {' and '.join(facts['resources'])}, {facts['units']} in all, {end}{part}"
            )
            return Outcome(True, message, {**item, "audit_id": audit_id})


def _check_over(book: Reading, switch: Row, now_ms: int) -> None:
    if switch["drill"]:
        raise InvalidInput(f"throttle {title(switch)} is a drill: it refuses nobody")
    state = switch_view(book, switch, now_ms).state
    if state in {"on", "scheduled"}:
        raise Conflict(
            f"throttle {title(switch)} is {state}: more may be refused yet",
            hint=f"first quotactl throttle off {switch['id']}",
        )


def _made(book: Reading, switch: Row) -> dict[str | None, Row]:
    """The audit rows of what was given before: by the resource that was named, None for all."""
    if switch["made_good_id"] is None:
        return {}
    rows = book.rows("audit", {"action": "grant.make_good", "subject": f"throttle {switch['id']}"})
    return {json.loads(row["after"]).get("resource"): row for row in rows}


def _last(made: Mapping[str | None, Row]) -> Row:
    return max(made.values(), key=lambda row: int(row["id"]))


def _already(book: Reading, switch: Row, row: Row) -> Outcome:
    after = json.loads(row["after"])
    at = from_ms(row["at_ms"])
    item = {"throttle": switch["id"], "name": switch["name"], **after}
    return Outcome(
        False,
        f"throttle {title(switch)} was made good already by audit row {row['id']} "
        f"({instant_text(row['at_ms'], book.policy.calendar)}): "
        f"{after['each']} each of {' and '.join(after['resources'])}",
        {**item, "audit_id": row["id"], "made_good_at": rfc3339(at)},
    )
