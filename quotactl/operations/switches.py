"""Switches: what throttles and enforcement share. One row, whatever the number of users.

A switch edits nothing below it: when it ends or is lifted, what was there is there again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from quotactl.errors import InvalidInput, NotFound
from quotactl.ledger.loaded import Row
from quotactl.ledger.values import rfc3339
from quotactl.ledger.views import StepView, SwitchView
from quotactl.operations.acts import Act, end_of
from quotactl.policy.model import Scope, Step
from quotactl.policy.notation import duration_text, instant_text
from quotactl.policy.resolve import totals_kept
from quotactl.policy.window import from_ms, moment_of, period_of_length

if TYPE_CHECKING:
    from quotactl.ledger.engine import Reading

DEFAULT_DURATION = "1h"
THROTTLE_KINDS = ("deny", "cap", "scale")
"""How throttles are stored; one over everybody is a cap with `total` set."""
ENFORCEMENT_KINDS = ("shadow", "off")


# ---- as people see them


def find_switch(book: Reading, which: int | str, kinds: Sequence[str], now_ms: int) -> Row:
    """A switch by id, or by name: the one that is on, else the newest. NotFound if none."""
    text = str(which)
    if text.isascii() and text.isdecimal() and len(text) < 18:
        found = [s for s in book.rows("switch", {"id": int(text)}) if s["kind"] in kinds]
    else:
        # First those that are on: of a name that is used each night there are ever more.
        live = [s for s in book.rows("switch", {"ended_at_ms": None}) if s["name"] == text]
        found = [s for s in live if s["kind"] in kinds and not over(s, now_ms)]
        if not found:
            found = [s for s in book.rows("switch", {"name": text}) if s["kind"] in kinds]
    if not found:
        raise NotFound(f"no throttle {which!r}", hint="quotactl throttle list --all")
    return found[-1]


def switch_view(book: Reading, row: Row, now_ms: int) -> SwitchView:
    """A switch as people see it."""
    scope = book.scope_of(row)
    period = None if row["period"] is None else period_of_length(row["period"]).name
    value = None
    if row["kind"] == "cap":
        value = f"{row['amount_max']}/{period}"
    elif row["kind"] == "scale":
        value = f"{row['percent']}%"
    steps = book.steps_of(row)
    lifting = [step for step in steps if step.lifting and step.at_ms <= now_ms]
    current = [step for step in steps if step.at_ms <= now_ms]
    if row["lifted"]:
        state = "lifted"
    elif over(row, now_ms):
        state = "over"
    else:
        state = "on" if row["starts_at_ms"] <= now_ms else "scheduled"
    return SwitchView(
        id=row["id"],
        name=row["name"],
        kind="total" if row["total"] else row["kind"],
        value=value,
        period=period,
        floor=row["floor"],
        resources=_names(scope.resource_ids, book.resource_name),
        tiers=_names(scope.tier_ids, book.tier_name),
        freeze_grants=bool(row["freeze_grants"]),
        include_protected=bool(row["include_protected"]),
        starts_at=from_ms(row["starts_at_ms"]),
        ends_at=moment_of(row["ends_at_ms"]),
        state=state,
        created_at=from_ms(row["created_at_ms"]),
        lifted_at=from_ms(row["ended_at_ms"]) if row["lifted"] else None,
        message=row["message"],
        preset=row["preset"],
        drill=bool(row["drill"]),
        held_at=moment_of(row["held_at_ms"]),
        step=(lifting or current)[-1].percent if lifting or current else None,
        steps=tuple(StepView(from_ms(s.at_ms), s.percent, s.lifting) for s in steps),
        **book.why(row["audit_id"]),
    )


def describe(view: SwitchView) -> str:
    """What a switch does, in a few words: `cap 3/day for tier free, resource image`."""
    what = view.kind if view.value is None else f"{view.kind} {view.value}"
    if view.floor is not None:
        what += f" but at least {view.floor}"
    extras = []
    if view.steps:
        lifting = any(step.lifting for step in view.steps)
        parts = [f"{step.percent}%" for step in view.steps if step.lifting is lifting]
        extras.append(f"{'ramping off' if lifting else 'in steps'} {', '.join(parts)}")
    if view.held_at is not None:
        extras.append(f"held at {view.step}%")
    if view.freeze_grants and view.kind != "deny":
        extras.append("grants frozen")
    if view.include_protected:
        extras.append("protected ones too")
    if view.drill:
        extras.append("a drill, denies nothing")
    extra = f" ({'; '.join(extras)})" if extras else ""
    return f"{what} for {whom(view)}{extra}"


def whom(view: SwitchView) -> str:
    """Whom a switch is for: `tier free, image`."""
    tiers = "all tiers" if view.tiers is None else f"tier {', '.join(view.tiers)}"
    resources = "all resources" if view.resources is None else f"{', '.join(view.resources)}"
    return f"{tiers}, {resources}"


def title(switch: Row) -> str:
    """A switch's id, and its name if it has one."""
    return f"{switch['id']} ({switch['name']})" if switch["name"] else str(switch["id"])


def ending(act: Act, ends_at_ms: int | None) -> str:
    """The end for people, always absolute."""
    if ends_at_ms is None:
        return "with no end"
    return f"until {instant_text(ends_at_ms, act.book.policy.calendar)}"


def over(switch: Row, now_ms: int) -> bool:
    """Whether a switch was lifted or has come to its end."""
    if switch["ended_at_ms"] is not None:
        return True
    return switch["ends_at_ms"] is not None and now_ms >= switch["ends_at_ms"]


# ---- changing them


def switch_end(
    book: Reading,
    now_ms: int,
    *,
    duration: str | timedelta | None,
    until: str | datetime | None,
    no_expiry: bool,
    default: str = DEFAULT_DURATION,
    start_ms: int | None = None,
) -> int | None:
    """The end that was asked for; None is none."""
    if no_expiry and (duration is not None or until is not None):
        raise InvalidInput("both an end and none are given", hint="give one of them")
    if no_expiry:
        return None
    return end_of(book, now_ms, duration=duration, until=until, default=default, start_ms=start_ms)


def switch_on(
    act: Act,
    action: str,
    values: Row,
    scope: Scope,
    *,
    starts_at_ms: int,
    ends_at_ms: int | None,
    steps: Sequence[Step] = (),
    replaced: Sequence[Row] = (),
) -> Row:
    """Write a new switch with its audit row."""
    book = act.book
    switch: Row = {
        **values,
        "all_resources": int(scope.resource_ids is None),
        "all_tiers": int(scope.tier_ids is None),
        "created_at_ms": act.now_ms,
        "starts_at_ms": starts_at_ms,
        "ends_at_ms": ends_at_ms,
    }
    id_ = book.insert("switch", switch)
    for resource_id in sorted(scope.resource_ids or ()):
        book.insert("switch_resource", {"switch_id": id_, "resource_id": resource_id})
    for tier_id in sorted(scope.tier_ids or ()):
        book.insert("switch_tier", {"switch_id": id_, "tier_id": tier_id})
    put_steps(act, id_, steps)
    (made,) = book.rows("switch", {"id": id_})
    audit_id = act.record(
        action,
        subject=f"{'throttle' if values['kind'] in THROTTLE_KINDS else 'enforcement'} {id_}",
        before={"switches": [facts(book, s) for s in replaced]} if replaced else None,
        after=facts(book, made),
    )
    book.update("switch", {"id": id_}, {"audit_id": audit_id})
    switches_moved(act)
    return book.rows("switch", {"id": id_})[0]


def end_switch(act: Act, switch: Row) -> None:
    """Lift a switch; the caller records it."""
    act.book.update("switch", {"id": switch["id"]}, {"ended_at_ms": act.now_ms, "lifted": 1})
    switches_moved(act)


def move_end(act: Act, what: str, switch: Row, ends_at_ms: int | None) -> SwitchView:
    """Give a switch another end, with its audit row."""
    act.book.update("switch", {"id": switch["id"]}, {"ends_at_ms": ends_at_ms})
    switches_moved(act)
    act.record(
        f"{what}.extend",
        subject=f"{what} {switch['id']}",
        before={"ends_at": rfc3339(moment_of(switch["ends_at_ms"]))},
        after={"ends_at": rfc3339(moment_of(ends_at_ms))},
    )
    moved = act.book.rows("switch", {"id": switch["id"]})[0]
    return switch_view(act.book, moved, act.now_ms)


def put_steps(act: Act, switch_id: int, steps: Sequence[Step]) -> None:
    """Write steps of a ramp."""
    for step in steps:
        act.book.insert(
            "switch_step",
            {
                "switch_id": switch_id,
                "at_ms": step.at_ms,
                "percent": step.percent,
                "lifting": int(step.lifting),
            },
        )


def switches_moved(act: Act) -> None:
    """Let every process see the change; forget sums of everybody that nobody needs now."""
    act.book.touch_policy()
    policy = act.book.reread_policy()
    act.book.prune_totals(totals_kept(policy), 0)


def live(act: Act, kinds: Sequence[str]) -> list[Row]:
    """The switches that are on or scheduled."""
    rows = act.book.rows("switch", {"ended_at_ms": None})
    return [s for s in rows if s["kind"] in kinds and not over(s, act.now_ms)]


def facts(book: Reading, switch: Row) -> dict[str, Any]:
    """What the audit keeps of a switch."""
    view = switch_view(book, switch, switch["starts_at_ms"]).to_dict()
    kept = ("id", "name", "kind", "value", "floor", "resources", "tiers")
    told = {field: view[field] for field in kept}
    told["freeze_grants"] = view["freeze_grants"]
    told["include_protected"] = view["include_protected"]
    if switch["starts_at_ms"] != switch["created_at_ms"]:
        told["starts_at"] = view["starts_at"]
    told["ends_at"] = view["ends_at"]
    told |= {field: view[field] for field in ("message", "preset", "drill") if view[field]}
    if view["steps"]:
        told["steps"] = view["steps"]
    if switch["promise"]:
        told["promise"] = json.loads(switch["promise"])
    return told


def span_text(ms: int) -> str:
    """A span for people, to the minute: `2h30m`; a shorter one in seconds."""
    return duration_text(ms - ms % 60_000 if ms >= 60_000 else max(1000, ms))


def _names(ids: frozenset[int] | None, name_of: Callable[[int], str]) -> tuple[str, ...] | None:
    return None if ids is None else tuple(name_of(id_) for id_ in sorted(ids))
