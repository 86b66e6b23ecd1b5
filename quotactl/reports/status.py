"""How things stand, on one screen."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from quotactl.frozen import frozen
from quotactl.ledger.loaded import Row
from quotactl.ledger.values import View
from quotactl.ledger.views import SwitchView
from quotactl.operations.close import due_days
from quotactl.operations.switches import ENFORCEMENT_KINDS, THROTTLE_KINDS, switch_view
from quotactl.policy.notation import duration_text
from quotactl.policy.window import HOUR_MS, MINUTE_MS, from_ms

if TYPE_CHECKING:
    from quotactl.ledger.engine import Engine, Reading

# As many switches, the newest, are looked through for one that ended lately.
LATELY_MAX = 200


@frozen
class ResourceToday(View):
    """One resource's units so far today."""

    resource: str
    unit: str | None
    requests: int
    used: int
    granted: int
    denied: int
    shadow_denied: int


@frozen
class Effect(View):
    """What a throttle has denied so far, repeated attempts included, and about how many
    units an hour of late; beside that what was foreseen when it came on, if anything.
    Of a drill it is what it would have denied.
    """

    requests: int
    units: int
    units_per_hour: int
    promised_per_hour: int | None
    promised_cut_off: int | None


@frozen
class ThrottleNow:
    """A throttle that is on or scheduled, with its effect."""

    view: SwitchView
    effect: Effect

    def to_dict(self) -> dict[str, Any]:
        return {**self.view.to_dict(), "effect": self.effect.to_dict()}


@frozen
class Ended(View):
    """A switch that came to its end by itself."""

    id: int
    name: str | None
    kind: str
    ended_at: datetime


@frozen
class Status(View):
    """`enforcement` is on, shadow, off, or partial; `due` are days waiting to be closed;
    `ended` are the switches that time ended in the last 24 hours.
    """

    name: str
    zone: str
    now: datetime
    day: str
    default_tier: str | None
    tiers: int
    users: int
    enforcement: str
    throttles: tuple[ThrottleNow, ...]
    enforcement_switches: tuple[SwitchView, ...]
    ended: tuple[Ended, ...]
    today: tuple[ResourceToday, ...]
    last_closed: str | None
    due: tuple[str, ...]


def status(engine: Engine, now_ms: int) -> Status:
    """The ledger's state at a moment."""
    with engine.reading() as book:
        policy = book.policy
        calendar = policy.calendar
        day = calendar.day(now_ms)
        switches = [
            (row, switch_view(book, row, now_ms))
            for row in book.rows("switch", {"ended_at_ms": None})
        ]
        live = [(row, view) for row, view in switches if view.state in ("on", "scheduled")]
        modes = tuple(v for row, v in live if row["kind"] in ENFORCEMENT_KINDS)
        sums = {
            row["key"]: row
            for row in book.usage_of_demand(
                day.starts_at_ms, day.reset_at_ms, list(policy.resources), "resource_id", None
            )
        }
        until_ms = book.head.closed_until_ms
        return Status(
            name=book.head.name,
            zone=book.head.zone,
            now=from_ms(now_ms),
            day=calendar.date_of(now_ms).isoformat(),
            default_tier=None if policy.default_tier is None else policy.default_tier.name,
            tiers=len(policy.tiers),
            users=book.count_all_users(),
            enforcement=_mode(modes),
            throttles=tuple(
                ThrottleNow(view, effect_of(book, row, now_ms))
                for row, view in live
                if row["kind"] in THROTTLE_KINDS
            ),
            enforcement_switches=modes,
            ended=_ended(book, now_ms),
            today=tuple(
                ResourceToday(
                    resource.name,
                    resource.unit,
                    **{
                        field: sums[resource.id][field] if resource.id in sums else 0
                        for field in ("requests", "used", "granted", "denied", "shadow_denied")
                    },
                )
                for resource in policy.resources.values()
            ),
            last_closed=None if until_ms is None else calendar.date_of(until_ms - 1).isoformat(),
            due=tuple(calendar.date_of(d.starts_at_ms).isoformat() for d in due_days(book, now_ms)),
        )


def effect_of(book: Reading, row: Row, now_ms: int) -> Effect:
    """What a throttle has done so far, by a row of `switch`."""
    calendar = book.policy.calendar
    this_hour_ms = calendar.hour_of(now_ms)
    hours: dict[int, int] = {}
    requests = 0
    first_ms = calendar.hour_of(row["starts_at_ms"])
    # One hour more, for a clock that runs ahead.
    until_ms = this_hour_ms + 2 * HOUR_MS
    drill = bool(row["drill"])
    for hour_ms, _, _, count, units in book.denied_by(row["id"], first_ms, until_ms, drill=drill):
        requests += count
        hours[hour_ms] = hours.get(hour_ms, 0) + units
    # Demand is kept by the hour: of the one before, the part that is still an hour ago.
    gone_ms = now_ms - this_hour_ms
    last = hours.get(calendar.hour_of(this_hour_ms - 1), 0) * (HOUR_MS - gone_ms) // HOUR_MS
    lately = hours.get(this_hour_ms, 0) + last
    on_for_ms = now_ms - row["starts_at_ms"]
    if 0 < on_for_ms < HOUR_MS:
        # On for less than an hour: at the rate that it has had until now.
        lately = sum(hours.values()) * HOUR_MS // max(on_for_ms, MINUTE_MS)
    promise = json.loads(row["promise"]) if row["promise"] else {}
    return Effect(
        requests,
        sum(hours.values()),
        lately,
        promise.get("refused_per_hour"),
        promise.get("cut_off"),
    )


def _ended(book: Reading, now_ms: int) -> tuple[Ended, ...]:
    return tuple(
        Ended(
            row["id"],
            row["name"],
            "total" if row["total"] else row["kind"],
            from_ms(row["ends_at_ms"]),
        )
        for row in reversed(book.newest_switches(LATELY_MAX))
        if not row["lifted"]
        and row["ends_at_ms"] is not None
        and now_ms - 24 * HOUR_MS < row["ends_at_ms"] <= now_ms
    )


def _mode(switches: tuple[SwitchView, ...]) -> str:
    """The mode for everybody, or `partial` where only some resources or tiers are exempt."""
    everywhere = {s.kind for s in switches if s.resources is None and s.tiers is None}
    if everywhere:
        return "off" if "off" in everywhere else "shadow"
    return "partial" if switches else "on"


def left(view: SwitchView, now: datetime) -> str:
    """How long a switch still holds, for people."""
    if view.ends_at is None:
        return "no end"
    seconds = int((view.ends_at - now).total_seconds())
    minutes = max(1, -(-seconds // 60))
    return duration_text(minutes * 60_000)
