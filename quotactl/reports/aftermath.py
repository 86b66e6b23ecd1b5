"""A throttle afterwards: who, why, when, what became of it, and whom it cost what.

What it cost is, per user and window, min(demand, limit) - min(used, limit): the refused
try again, and of ten attempts at a limit of 3 with 1 used it cost 2. Demand is what
was used and denied; what grants paid beside was not lost. The limit is what the user
would have had without any throttle. A user with limits for several windows lost the
least that one of them tells.

By user only whole days, and windows that are shorter, are kept, and not which rule denied;
so a day counts whole, and what other rules denied on it may be among it. But to no tier
did a throttle on any day cost more than it denied there. See `operations.aftermath`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from quotactl.errors import InvalidInput
from quotactl.frozen import changed, frozen
from quotactl.ledger.loaded import Row, Sought
from quotactl.ledger.values import View
from quotactl.ledger.views import StepView, SwitchView
from quotactl.operations.aftermath import Course, course_of, sought_of
from quotactl.operations.switches import THROTTLE_KINDS, describe, find_switch, switch_view
from quotactl.policy.model import Throttle
from quotactl.policy.notation import instant_text, parse_rfc3339
from quotactl.policy.window import from_ms, moment_of

if TYPE_CHECKING:
    from quotactl.ledger.engine import Engine, Reading

USERS_SHOWN = 10


@frozen
class Moment(View):
    """Something that happened to a throttle: `what` is an act, as in the audit, or what
    time brought: starts, step, lifting, ends. That has no actor."""

    at: datetime
    actor: str | None
    what: str
    detail: str | None
    reason: str | None
    ticket: str | None


@frozen
class Denied(View):
    """What it denied itself; repeated attempts are counted."""

    requests: int
    units: int


@frozen
class TierCost(View):
    """`denied` units count repeated attempts, `cost` those that were lost, by `users`."""

    tier: str
    resource: str
    users: int
    cost: int
    denied: int


@frozen
class DayCost(View):
    """The same by day; `users` may be among those of another day."""

    day: str
    resource: str
    users: int
    cost: int
    denied: int


@frozen
class UserCost(View):
    """One user's cost, and what they asked for, used and were paid by grants on those days."""

    user: str
    tier: str
    resource: str
    cost: int
    asked: int
    used: int
    granted: int


@frozen
class Total(View):
    """Each user once."""

    users: int
    cost: int


@frozen
class Aftermath(View):
    """`ended_at` None: it is not over. `pruned`: counters of some of its days are gone, and
    what it cost on them is not in the figures. `notes` say what these can't tell."""

    throttle: SwitchView
    ended_at: datetime | None
    timeline: tuple[Moment, ...]
    denied: Denied
    total: Total
    tiers: tuple[TierCost, ...]
    top: tuple[UserCost, ...]
    days: tuple[DayCost, ...]
    pruned: bool
    made_good_id: int | None
    notes: tuple[str, ...]


def aftermath(
    engine: Engine, which: int | str, now_ms: int, *, limit: int = USERS_SHOWN
) -> Aftermath:
    """The report of a throttle by id or name, with the `limit` most affected users.

    Also of one that is on or to come, of a drill (what it would have cost), and of one
    that is long over, as far as counters are kept. NotFound if there is none.
    """
    if limit < 1:
        raise InvalidInput(f"limit {limit} is out of range", hint="1 or more")
    with engine.reading() as book:
        switch = find_switch(book, which, THROTTLE_KINDS, now_ms)
        course = course_of(book, switch, now_ms)
        sought = sought_of(book, course)
        with book.affected(sought):
            costs = _costs(book, course)
            top = [_user(book, row) for row in book.most_affected(limit)]
        return Aftermath(
            throttle=switch_view(book, switch, now_ms),
            ended_at=moment_of(course.ended_at_ms),
            timeline=tuple(_timeline(book, course)),
            denied=Denied(*map(sum, zip((0, 0), *course.denied.values(), strict=True))),
            total=costs.total,
            tiers=tuple(costs.tiers),
            top=tuple(top),
            days=tuple(costs.days),
            pruned=bool(course.pruned),
            made_good_id=switch["made_good_id"],
            notes=tuple(_notes(book, course, sought, costs, now_ms)),
        )


# ---- what it cost


@frozen
class _Costs:
    """`capped`: there was more than it denied itself."""

    total: Total
    tiers: list[TierCost]
    days: list[DayCost]
    capped: bool


def _costs(book: Reading, course: Course) -> _Costs:
    """Sums of what it cost: on no day and to no tier more than it denied there itself."""
    found = {tuple(key): (n, units) for *key, n, units in book.affected_by(*_CELL)}
    users_of = {tuple(key): n for *key, n, _ in book.affected_by("resource_id", "tier_id")}
    tiers: dict[tuple[int, int], list[int]] = {}
    days: dict[tuple[int, int], list[int]] = {}
    capped = False
    for (start, resource_id, tier_id), (requests, denied) in sorted(course.denied.items()):
        users, cost = found.get((start, resource_id, tier_id), (0, 0))
        capped = capped or cost > denied or users > requests
        users, cost = min(users, requests), min(cost, denied)
        # A user is in several days of a tier, but on a day in one tier alone.
        for sums, key in ((tiers, (tier_id, resource_id)), (days, (start, resource_id))):
            of_key = sums.setdefault(key, [0, 0, 0])
            for position, value in enumerate((users, cost, denied)):
                of_key[position] += value
    for (tier_id, resource_id), of_tier in tiers.items():
        of_tier[0] = min(of_tier[0], users_of.get((resource_id, tier_id), 0))
    date_of = book.policy.calendar.date_of
    return _Costs(
        Total(
            min(book.count_affected(), sum(users for users, *_ in tiers.values())),
            sum(cost for _, cost, _ in tiers.values()),
        ),
        [
            TierCost(_tier_name(book, tier_id), book.resource_name(resource_id), *values)
            for (tier_id, resource_id), values in sorted(tiers.items())
        ],
        [
            DayCost(date_of(start).isoformat(), book.resource_name(resource_id), *values)
            for (start, resource_id), values in sorted(days.items())
        ],
        capped,
    )


_CELL = ("starts_at_ms", "resource_id", "tier_id")


def _user(book: Reading, row: Row) -> UserCost:
    return UserCost(
        user=row["name"] if row["name"] is not None else f"#{row['user_id']}",
        tier=_tier_name(book, row["tier_id"]),
        resource=book.resource_name(row["resource_id"]),
        cost=row["cost"],
        asked=row["asked"],
        used=row["used"],
        granted=row["granted"],
    )


def _tier_name(book: Reading, tier_id: int) -> str:
    return book.tier_name(tier_id) if tier_id else "-"


# ---- what became of it


def _timeline(book: Reading, course: Course) -> list[Moment]:
    switch = course.switch
    moments: list[tuple[int, int, Moment]] = []

    def add(at_ms: int, what: str, detail: str | None, row: Row | None = None) -> None:
        why = book.why(row["id"]) if row else {"actor": None, "reason": None, "ticket": None}
        # Of one millisecond acts come first: a ramp's first step follows from them.
        order = row["id"] if row else 2**62 + len(moments)
        moments.append((at_ms, order, Moment(from_ms(at_ms), what=what, detail=detail, **why)))

    acts = list(book.audit_rows(where={"subject = ?": f"throttle {switch['id']}"}))
    for row in acts:
        add(row["at_ms"], row["action"], _detail(book, course, row), row)
    events = {f"{row['id']}-{row['hash'][:16]}" for row in acts}
    for row in book.audit_rows(where={"action = ?": "notify.failed"}) if events else ():
        after = _json(row["after"])
        if after.get("event") in events:
            add(row["at_ms"], row["action"], f"{row['subject']} {after.get('why', '')}", row)
    start, end = course.on
    if switch["created_at_ms"] < start < end:
        add(start, "starts", None)
    for step in book.steps_of(switch):
        if step.at_ms < end:
            add(step.at_ms, "lifting" if step.lifting else "step", f"{step.percent}%")
    if switch["lifted"]:
        lifted_ms = switch["ended_at_ms"]
        if not any(r["action"] == "throttle.off" and r["at_ms"] == lifted_ms for r in acts):
            _add_replacement(book, switch, add)
    elif course.over:
        add(end, "ends", None)
    return [moment for *_, moment in sorted(moments, key=lambda one: one[:2])]


def _add_replacement(book: Reading, switch: Row, add: Callable[..., None]) -> None:
    """What put another throttle in this one's place has no word of this one in its subject."""
    at_ms = switch["ended_at_ms"]
    for row in book.audit_rows(where={"at_ms = ?": at_ms, "action = ?": "throttle.on"}):
        replaced = _json(row["before"]).get("switches", [])
        if any(facts.get("id") == switch["id"] for facts in replaced):
            add(at_ms, "replaced", f"by {row['subject']}", row)
            return
    add(at_ms, "lifted", None)


def _detail(book: Reading, course: Course, row: Row) -> str | None:
    """What an act did, in a few words."""
    action, before, after = row["action"], _json(row["before"]), _json(row["after"])
    if action == "throttle.on":
        view = switch_view(book, course.switch, row["at_ms"])
        return f"{_put_on(view, after)}, {_until(book, after)}"
    if action == "throttle.extend":
        return f"{_until(book, after)} (was {_until(book, before)})"
    if action == "throttle.hold":
        held_at_ms = parse_rfc3339(after["held_at"])
        reached = [s for s in _steps(before) if parse_rfc3339(s["at"]) <= held_at_ms]
        at = f"at {reached[-1]['percent']}%" if reached else "before its first step"
        return f"{at}, {_until(book, after)}"
    if action == "throttle.resume" or (action == "throttle.off" and after):
        ahead = [s for s in _steps(after) if parse_rfc3339(s["at"]) >= row["at_ms"]]
        course_text = ", ".join(f"{s['percent']}% {_when(book, s['at'])}" for s in ahead)
        return f"{course_text}; {_until(book, after)}"
    if action == "grant.make_good":
        what = " and ".join(after.get("resources", []))
        return f"{after.get('users')} users get {after.get('each')} more of {what}"
    return None


def _put_on(view: SwitchView, facts: Mapping[str, Any]) -> str:
    """The throttle as it came on: its steps may have been moved since."""
    steps = tuple(
        StepView(from_ms(parse_rfc3339(step["at"])), step["percent"], step["lifting"])
        for step in _steps(facts)
    )
    return describe(changed(view, steps=steps, held_at=None))


def _until(book: Reading, facts: Mapping[str, Any]) -> str:
    ends_at = facts.get("ends_at")
    return "with no end" if ends_at is None else f"until {_when(book, ends_at)}"


def _when(book: Reading, text: str) -> str:
    return instant_text(parse_rfc3339(text), book.policy.calendar)


def _steps(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = facts.get("steps") or []
    return found


def _json(text: str | None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text or "{}")
    return found


# ---- what the figures can't tell


def _notes(book: Reading, course: Course, sought: Sought, costs: _Costs, now_ms: int) -> list[str]:
    if not course.days:
        return ["It was never in force." if course.over else "It is not in force yet."]
    calendar = book.policy.calendar
    notes = []
    if course.throttle.drill:
        notes.append("It was a drill and denied nothing: the figures are what it would have.")
    if not course.over:
        notes.append("It is not over: the figures are those so far.")
    elif course.days[-1].reset_at_ms > now_ms:
        day = calendar.date_of(course.days[-1].starts_at_ms)
        notes.append(f"{day} is not over: who comes back still gets what is left of it.")
    if course.pruned:
        days = ", ".join(str(calendar.date_of(day.starts_at_ms)) for day in course.pruned)
        notes.append(f"The counters of {days} are pruned: what it cost then is not known.")
    notes.append("Tiers, limits and protection are taken as they are now.")
    if any(day.on != day.window for day in sought.days):
        notes.append("A day that it touched counts whole, and a week or month too.")
    if costs.capped:
        notes.append(
            "Other rules denied something to users of the same tiers on the same days, and by "
            "user it is not kept which rule it was: the sums are not above what this throttle "
            "denied, but some of the most affected may not have been refused by it."
        )
    if _unlimited(sought):
        notes.append("Where nothing limits a user, repeated attempts count as cost.")
    if course.throttle.freeze_grants or course.throttle.kind == "deny":
        notes.append("Grants could not pay meanwhile; they are still there, and no cost.")
    if others := _others(book, course):
        notes.append(
            f"At the same time throttle {', '.join(map(str, others))} was on: what both took "
            "counts for each."
        )
    return notes


def _unlimited(sought: Sought) -> bool:
    looked_at = {(day.resource_id, tier_id) for day in sought.days for tier_id in day.tiers}
    return any(
        not limits.most and (limits.resource_id, limits.tier_id) in looked_at
        for limits in sought.limits
    )


def _others(book: Reading, course: Course) -> list[int]:
    """Throttles with some of the same targets that were in force at some time of this one."""
    mine = course.throttle.scope
    found = []
    for row in book.rows("switch"):
        if row["id"] == course.switch["id"] or row["kind"] not in THROTTLE_KINDS or row["drill"]:
            continue
        ends = [end for end in (row["ended_at_ms"], row["ends_at_ms"]) if end is not None]
        if row["starts_at_ms"] >= course.on.reset_at_ms or min(
            [*ends, course.on.reset_at_ms]
        ) <= max(row["starts_at_ms"], course.on.starts_at_ms):
            continue
        other = book.switch_of(row)
        assert isinstance(other, Throttle)
        if _meet(mine.resource_ids, other.scope.resource_ids) and _meet(
            mine.tier_ids, other.scope.tier_ids
        ):
            found.append(row["id"])
    return found


def _meet(one: frozenset[int] | None, other: frozenset[int] | None) -> bool:
    return one is None or other is None or bool(one & other)
