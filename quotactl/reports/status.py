"""How things stand, on one screen."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from quotactl.ledger.engine import Engine
from quotactl.ledger.values import View
from quotactl.ledger.views import SwitchView
from quotactl.operations.close import due_days
from quotactl.operations.switches import ENFORCEMENT_KINDS, THROTTLE_KINDS, switch_view
from quotactl.policy.notation import duration_text
from quotactl.policy.window import from_ms


@dataclass(frozen=True)
class ResourceToday(View):
    """One resource's units so far today."""

    resource: str
    unit: str | None
    requests: int
    used: int
    granted: int
    denied: int
    shadow_denied: int


@dataclass(frozen=True)
class Status(View):
    """`enforcement` is on, shadow, off, or partial; `due` are days waiting to be closed."""

    name: str
    zone: str
    now: datetime
    day: str
    default_tier: str | None
    tiers: int
    users: int
    enforcement: str
    throttles: tuple[SwitchView, ...]
    enforcement_switches: tuple[SwitchView, ...]
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
            throttles=tuple(v for row, v in live if row["kind"] in THROTTLE_KINDS),
            enforcement_switches=modes,
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
