"""Presets: what each does, whether it is on, and what a drill of one would have denied."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from quotactl.errors import NotFound
from quotactl.frozen import changed, frozen
from quotactl.ledger.loaded import Row
from quotactl.ledger.values import View
from quotactl.ledger.views import SwitchView
from quotactl.operations.administer import presets_of
from quotactl.operations.emergency import is_of
from quotactl.operations.presets import preset_named, switches_of
from quotactl.operations.switches import (
    DEFAULT_DURATION,
    ENFORCEMENT_KINDS,
    describe,
    over,
    switch_view,
)
from quotactl.policy.levers import (
    EnforcementLever,
    Lever,
    Preset,
    lever_text,
    mode_text,
    preset_table,
    scope_of,
)
from quotactl.policy.notation import check_name, duration_text
from quotactl.policy.window import HOUR_MS, from_ms, moment_of

if TYPE_CHECKING:
    from quotactl.ledger.engine import Engine, Reading

GONE = "removed from the policy"


@frozen
class PresetView(View):
    """A preset: `what` it does in words; `state` is on, partly, or off.

    `switches` are the ids of what came on with it and still is, `drill` whether one of it
    is under way.
    """

    name: str
    what: str
    state: str
    switches: tuple[int, ...]
    drill: bool


@frozen
class LeverView(View):
    """One part of a preset: how long it stays on, and, where it is on, the id and end of
    the switch that it is then. An `ends_at` of None beside an id is no end."""

    what: str
    duration: str
    switch_id: int | None
    ends_at: datetime | None
    message: str | None


@frozen
class PresetDetail(View):
    """A preset in whole; `definition` is as in a policy file, and `switches` is what came
    on with it and still is, drills too."""

    name: str
    state: str
    levers: tuple[LeverView, ...]
    definition: dict[str, Any]
    switches: tuple[SwitchView, ...]


def presets(engine: Engine, now_ms: int) -> list[PresetView]:
    """The presets by name, also those that left the policy while they were on."""
    with engine.reading() as book:
        defined = presets_of(book)
        rows = book.rows("switch", {"ended_at_ms": None})
        on = {row["preset"] for row in rows if row["preset"] and not over(row, now_ms)}
        return [_preset(book, name, defined.get(name), now_ms) for name in sorted({*defined, *on})]


def preset_detail(engine: Engine, name: str, now_ms: int) -> PresetDetail:
    """One preset; NotFound if there is none of that name."""
    with engine.reading() as book:
        preset = preset_named(book, name)
        return PresetDetail(
            name,
            _preset(book, name, preset, now_ms).state,
            tuple(_levers(book, name, preset, now_ms)),
            preset_table(preset),
            tuple(switch_view(book, row, now_ms) for row in switches_of(book, name, now_ms)),
        )


# ---- drills


@frozen
class Denials(View):
    """Requests that would have been denied, and the units that they asked for."""

    requests: int
    units: int


@frozen
class TierDenials(View):
    """The same, of the users of one tier."""

    tier: str | None
    requests: int
    units: int


@frozen
class Drilled(View):
    """One throttle of a drill; a request is counted under the one that decides it."""

    id: int
    what: str
    starts_at: datetime
    ends_at: datetime | None
    requests: int
    units: int
    tiers: tuple[TierDenials, ...]


@frozen
class DrillReport(View):
    """What a drill would have denied so far, or did when it is `over`.

    Each request is judged by what was really used before it, and what would have been
    denied was served, and used. So of caps and scales of a day, and users who ask for one
    unit at a time, it is exactly what the real ones would have denied beside what limits
    deny anyway. With several units at once, with a total, or over several windows it can
    be more; with grants, which a drill does not use up, less. Where enforcement is off
    nothing is judged.
    """

    preset: str
    starts_at: datetime
    ends_at: datetime | None
    over: bool
    throttles: tuple[Drilled, ...]
    would_deny: Denials


def drill_report(engine: Engine, name: str, now_ms: int) -> DrillReport:
    """The newest drill of a preset; NotFound if there was none."""
    check_name(name, "preset")
    with engine.reading() as book:
        rows = book.rows("switch", {"preset": name, "drill": 1})
        if not rows:
            if not book.rows("switch", {"preset": name}):
                preset_named(book, name)
            raise NotFound(
                f"preset {name!r} was never drilled",
                hint=f"quotactl preset drill {name} --for 10m --reason 'why'",
            )
        newest = [row for row in rows if row["created_at_ms"] == rows[-1]["created_at_ms"]]
        throttles = tuple(_drilled(book, row, now_ms) for row in newest)
        ends = [throttle.ends_at for throttle in throttles]
        return DrillReport(
            preset=name,
            starts_at=min(throttle.starts_at for throttle in throttles),
            ends_at=None if None in ends else max(end for end in ends if end is not None),
            over=all(over(row, now_ms) for row in newest),
            throttles=throttles,
            would_deny=Denials(
                sum(throttle.requests for throttle in throttles),
                sum(throttle.units for throttle in throttles),
            ),
        )


# ---- steps


def _preset(book: Reading, name: str, preset: Preset | None, now_ms: int) -> PresetView:
    rows = switches_of(book, name, now_ms)
    real = [row for row in rows if not row["drill"]]
    drill = len(real) < len(rows)
    ids = tuple(row["id"] for row in rows)
    if preset is None:
        return PresetView(name, GONE, "on" if real else "off", ids, drill)
    on = [lever.switch_id is not None for lever in _levers(book, name, preset, now_ms)]
    state = "on" if all(on) else "partly" if any(on) or real else "off"
    what = [lever_text(one) for one in preset.throttles]
    if preset.enforcement is not None:
        what.append(mode_text(preset.enforcement))
    return PresetView(name, "; ".join(what), state, ids, drill)


def _levers(book: Reading, name: str, preset: Preset, now_ms: int) -> list[LeverView]:
    """The parts of a preset, each with the switch that is on for it, whoever put it on."""
    rows = [
        row
        for row in book.rows("switch", {"ended_at_ms": None})
        if row["starts_at_ms"] <= now_ms and not over(row, now_ms)
    ]
    rows.sort(key=lambda row: row["preset"] != name)
    views = []
    for one in preset.throttles:
        found = next((row for row in rows if _is_on(book, row, one)), None)
        default = duration_text(one.ramp_ms) if one.ramp else DEFAULT_DURATION
        views.append(_lever(lever_text(one), one.duration_ms, default, found, one.message))
    if preset.enforcement is not None:
        mode = preset.enforcement
        found = next((row for row in rows if _mode_is_on(book, row, mode)), None)
        views.append(_lever(mode_text(mode), mode.duration_ms, DEFAULT_DURATION, found, None))
    return views


def _lever(
    what: str, duration_ms: int | None, default: str, row: Row | None, message: str | None
) -> LeverView:
    return LeverView(
        what,
        default if duration_ms is None else duration_text(duration_ms),
        None if row is None else row["id"],
        None if row is None else moment_of(row["ends_at_ms"]),
        message,
    )


def _is_on(book: Reading, row: Row, one: Lever) -> bool:
    try:
        return is_of(book, row, one)
    except NotFound:  # a tier or resource of it is gone
        return False


def _mode_is_on(book: Reading, row: Row, mode: EnforcementLever) -> bool:
    if row["kind"] not in ENFORCEMENT_KINDS or row["kind"] != mode.mode:
        return False
    try:
        return book.scope_of(row) == scope_of(book.policy, mode.resources, mode.tiers)
    except NotFound:
        return False


def _drilled(book: Reading, row: Row, now_ms: int) -> Drilled:
    calendar = book.policy.calendar
    ends_at_ms = row["ended_at_ms"] if row["lifted"] else row["ends_at_ms"]
    last_ms = now_ms if ends_at_ms is None else ends_at_ms
    sums: dict[int, list[int]] = {}
    first_ms, until_ms = calendar.hour_of(row["starts_at_ms"]), calendar.hour_of(last_ms) + HOUR_MS
    for _, _, tier_id, requests, units in book.denied_by(row["id"], first_ms, until_ms, drill=True):
        of_tier = sums.setdefault(tier_id, [0, 0])
        of_tier[0] += requests
        of_tier[1] += units
    tiers = tuple(
        TierDenials(None if tier_id == 0 else book.tier_name(tier_id), requests, units)
        for tier_id, (requests, units) in sorted(sums.items())
    )
    view = switch_view(book, row, now_ms)
    return Drilled(
        id=row["id"],
        what=describe(changed(view, drill=False)),
        starts_at=from_ms(row["starts_at_ms"]),
        ends_at=moment_of(ends_at_ms),
        requests=_sum(tiers, "requests"),
        units=_sum(tiers, "units"),
        tiers=tiers,
    )


def _sum(tiers: Sequence[TierDenials], field: str) -> int:
    return sum(getattr(tier, field) for tier in tiers)
