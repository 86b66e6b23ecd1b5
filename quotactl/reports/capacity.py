"""Which number fits: the largest caps under which recorded demand stays within a capacity."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from quotactl.errors import Conflict, InvalidInput
from quotactl.frozen import frozen
from quotactl.ledger.loaded import tier_or_default
from quotactl.ledger.values import View
from quotactl.policy.foresight import (
    NO_LIMIT,
    Demand,
    day_ceiling,
    own,
    served_in_shorter,
    served_of_user,
    with_throttles,
)
from quotactl.policy.levers import Lever, lever
from quotactl.policy.model import Limit, Policy, Resource, Tier
from quotactl.policy.notation import instant_text, limit_text, parse_assignment, parse_limit
from quotactl.policy.resolve import Ceiling
from quotactl.policy.solve import solve
from quotactl.policy.window import DAY_LENGTH_MIN, Period
from quotactl.reports.usage import Span, span_of, window_of
from quotactl.reports.what_if import Ground, Group, users_of

if TYPE_CHECKING:
    from quotactl.ledger.engine import Engine, Reading


# Units that one user would take → how many users would, by tier.
Window = dict[str, dict[int, int]]


@frozen
class Fit(View):
    """The caps that fit, by tier, in the capacity's period; None where none is needed.

    `served` is what they would have served in the fullest window of the recorded demand.
    Where even the least that everybody must have is too much, `short_by` says by how many
    units, and `caps` are that least. `command` applies the caps. `warnings` say what of the
    demand is not known.
    """

    fits: bool
    capacity: int
    period: str
    resource: str
    served: int
    asked: int
    caps: Mapping[str, int | None]
    short_by: int
    days: int
    command: str | None
    warnings: tuple[str, ...]


def find_caps(
    engine: Engine,
    now_ms: int,
    *,
    capacity: str,
    resource: str,
    protect: Sequence[str] = (),
    least: Sequence[str] = (),
    day: str | None = None,
    days: int | None = None,
    replace: bool = False,
    before: Sequence[str] = (),
    after: Sequence[str] = (),
) -> tuple[Fit, list[Lever]]:
    """The largest caps that fit into `capacity` (`40k/day`), and the throttles they are.

    One number for all users of all tiers that are not protected, never above their own
    limit; tiers to `protect`, and those that are protected anyway, come first, and users
    who are protected one by one have what they ask for. `least` are as `free=1/day`.
    Demand is what was used plus granted plus denied, per user and window, as far as the
    user's own limits go; each window is looked at by itself. Throttles that are on stay
    so, but with `replace` those that the new ones would be in place of. `before` are global
    options for the command, `after` those that `throttle on` is to have. Conflict where
    nothing is known of the windows.
    """
    whole = _one_limit("capacity", capacity)
    assert whole.amount_max is not None
    with engine.reading() as book:
        policy = book.policy
        guarded = {t.name for t in policy.tiers.values() if t.protected}
        what = policy.resource_named(resource)
        span = span_of(book, now_ms, day=day, days=days)
        first = {policy.tier_named(name).name for name in protect}
        first |= guarded
        minima = dict(_least(text, whole.period) for text in least)
        for name in minima:
            policy.tier_named(name)
        replaced = _like(policy, what, whole.period, None) if replace else frozenset()
        while True:
            without = with_throttles(policy, (), replaced)
            ground = _ground(book, without, what, span, whole.period, now_ms)
            windows, asked = _windows(ground, span, whole.period)
            _check_known(ground, windows, whole.period, asked)
            found = solve(
                windows,
                whole.amount_max,
                protected=frozenset(first),
                # Users who are protected one by one are spared by every cap on their tier.
                least=minima
                | {
                    _name(tier, 1): NO_LIMIT
                    for tier in [None, *policy.tiers.values()]
                    if tier is None or not tier.protected
                },
            )
            caps = _caps(ground, whole.period, windows, found.caps)
            levers = _levers(what, whole.period, caps, guarded)
            # Only those go whose targets are those of a cap that was found; the others stay.
            gone = replaced & _like(policy, what, whole.period, levers)
            if gone == replaced:
                break
            replaced = gone
        return (
            Fit(
                fits=found.fits,
                capacity=whole.amount_max,
                period=whole.period.name,
                resource=what.name,
                served=found.served,
                asked=asked,
                caps=caps,
                short_by=found.short_by,
                days=len(span.dates()),
                command=command_of(levers, whole, *before, after=after) if levers else None,
                warnings=tuple(dict.fromkeys(ground.warnings)),
            ),
            levers,
        )


def command_of(
    levers: Sequence[Lever], capacity: Limit, *before: str, after: Sequence[str] = ()
) -> str:
    """The command line that puts such throttles on; `before` are global options, `after`
    those of `throttle on` that are to be kept, the reason for one."""
    options = [*after]
    if "--reason" not in options:
        options += ["--reason", f"to fit into {capacity}"]
    lines = []
    for one in levers:
        words = ["quotactl", *before, "throttle", "on"]
        for option, names in (("--resource", one.resources), ("--tier", one.tiers)):
            for name in names:
                words += [option, name]
        words += ["--cap", str(one.limit)]
        if one.include_protected:
            words += ["--include-protected", "--allow-impact"]
        lines.append(shlex.join([*words, *options]))
    return " && ".join(lines)


def _levers(
    resource: Resource, period: Period, caps: Mapping[str, int | None], protected: set[str]
) -> list[Lever]:
    """One throttle for all tiers with the same cap; protected tiers in one of their own."""
    together: dict[tuple[int, bool], list[str]] = {}
    for name, cap in caps.items():
        if cap is not None:
            together.setdefault((cap, name in protected), []).append(name)
    return [
        lever(
            cap=f"{cap}/{period}",
            resources=[resource.name],
            tiers=names,
            include_protected=guarded,
        )
        for (cap, guarded), names in together.items()
    ]


def _windows(ground: Ground, span: Span, period: Period) -> tuple[list[Window], int]:
    """Each window's histogram by tier: units that a user would take → users. And what was
    asked for in all."""
    policy = ground.before
    empty: Window = {
        _name(tier, protected): {}
        for tier in [None, *policy.tiers.values()]
        for protected in (0, 1)
    }
    windows: dict[int, Window] = {}
    asked_in_all = 0

    def add(start: int, tier: Tier | None, protected: int, units: int, users: int) -> None:
        if start not in windows:
            windows[start] = {group: {} for group in empty}
        of_group = windows[start][_name(tier, protected)]
        of_group[units] = of_group.get(units, 0) + users

    fast, slow = _places(ground, period)
    everybody: dict[Group, Group] = {group: group for group in [*fast, *slow]}
    spans = _spans(ground.book, span, period)
    for start, starts in {} if period.shorter_than_day else spans.items():
        for tier_id, protected, units, users, asked in ground.book.histogram_of_users(
            ground.resource.id,
            starts,
            [(*place, *most) for place, most in fast.items()],
            ground.now_ms,
        ):
            add(start, tier_or_default(policy, tier_id), protected, units, users)
            asked_in_all += asked
    for places, overridden in ((slow, False), (everybody, True)):
        if not places or (overridden and not ground.overrides):
            continue
        for (tier_id, protected), (under, _), days, shorter in users_of(
            ground,
            ground.starts,
            places,
            overridden=overridden,
            lengths=[period.length_min] if period.shorter_than_day else [],
        ):
            tier = None if tier_id is None else policy.tiers[tier_id]
            asked_in_all += sum(days[day][1] for day in ground.starts if day in days)
            for start, units in _taken(ground, period, spans, under, days, shorter):
                add(start, tier, protected, units, 1)
    return list(windows.values()) or [empty], asked_in_all


def _places(
    ground: Ground, period: Period
) -> tuple[dict[Group, tuple[int, int]], dict[Group, Group]]:
    """Where users are stored, as (tier id, protected): those whose demand adds up in SQL, with
    the most a day and in a window, and those that must be looked at one by one."""
    policy = ground.before
    fast: dict[Group, tuple[int, int]] = {}
    slow: dict[Group, Group] = {}
    for tier in [None, *policy.tiers.values()]:
        for protected in (0, 1):
            # Users on no tier of their own are on the default one.
            stored: list[Group] = [] if tier is None else [(tier.id, protected)]
            if tier is policy.default_tier:
                stored.append((None, protected))
            ceilings, _ = ground.ceilings(tier, protected=bool(protected))
            lengths = {c.period.length_min for c in own(ceilings) if c.amount_max is not None}
            for place in stored:
                if period.shorter_than_day or lengths - {DAY_LENGTH_MIN, period.length_min}:
                    slow[place] = place
                else:
                    fast[place] = (day_ceiling(ceilings), _most(ceilings, period))
    return fast, slow


def _taken(
    ground: Ground,
    period: Period,
    spans: Mapping[int, list[int]],
    ceilings: Sequence[Ceiling],
    days: Demand,
    shorter: Mapping[int, Demand],
) -> Iterator[tuple[int, int]]:
    """(window start, units) that one user would take by limits alone."""
    if period.shorter_than_day:
        yield from served_in_shorter(ceilings, shorter, period.length_min).items()
        return
    for start, starts in spans.items():
        if any(days.get(day, (0, 0))[1] for day in starts):
            units, _ = served_of_user(ceilings, ground.before.calendar, days, shorter, starts)
            yield start, units


def _spans(book: Reading, span: Span, period: Period) -> dict[int, list[int]]:
    """Windows by start, each with its days: the days of a span, or the weeks or months that
    they lie in."""
    calendar = book.policy.calendar
    found = {}
    for on in span.dates():
        day = window_of(book, on)
        if day.reset_at_ms == day.starts_at_ms:
            continue
        window = day
        if period.length_min > DAY_LENGTH_MIN:
            window = calendar.window(period, day.starts_at_ms)
        found[window.starts_at_ms] = calendar.day_starts(window)
    return found


def _ground(
    book: Reading, policy: Policy, resource: Resource, span: Span, period: Period, now_ms: int
) -> Ground:
    """The demand of the windows that a span lies in, under the limits and throttles of now."""
    starts = sorted({day for days in _spans(book, span, period).values() for day in days})
    return Ground(book, resource, policy, policy, (), starts, now_ms, now_ms).loaded()


def _like(
    policy: Policy, resource: Resource, period: Period, levers: Sequence[Lever] | None
) -> frozenset[int]:
    """The caps of a period that are on for a resource alone: which a cap on the same tiers
    would be in place of. With `levers` only those on the tiers of one of them."""
    scopes = None if levers is None else {one.scope(policy) for one in levers}
    return frozenset(
        throttle.id
        for throttle in policy.throttles
        if throttle.kind == "cap"
        and throttle.period == period
        and not throttle.drill
        and throttle.scope.resource_ids == frozenset({resource.id})
        and (scopes is None or throttle.scope in scopes)
    )


def _check_known(ground: Ground, windows: Sequence[Window], period: Period, asked: int) -> None:
    known = any(histogram for window in windows for histogram in window.values())
    if asked and not known and ground.starts[0] < ground.book.head.checkpoint_at_ms:
        raise Conflict(
            f"what was asked for per {period} on these days is not known",
            hint=f"its entries are pruned: {_kept(ground)}; --capacity N/day needs none",
        )


def _caps(
    ground: Ground, period: Period, windows: Sequence[Window], found: Mapping[str, int | None]
) -> dict[str, int | None]:
    """The caps that are needed, by tier, and None for one that is not."""
    caps: dict[str, int | None] = {}
    for tier in ground.before.tiers.values():
        taken = [units for window in windows for units in window[tier.name]]
        if ground.resource.id not in tier.limits and not taken:
            continue
        cap = found.get(tier.name)
        limit = _most(ground.ceilings(tier, protected=False)[0], period)
        # Users with overrides of their own may take more than their tier's limit.
        caps[tier.name] = None if cap is None or cap >= max(limit, *taken, 0) else cap
    return caps


def _kept(ground: Ground) -> str:
    at = instant_text(ground.book.head.checkpoint_at_ms, ground.before.calendar)
    return f"they are kept from {at} on"


def _most(ceilings: Sequence[Ceiling], period: Period) -> int:
    """The most that one user may take in one window of a period, by limits of it or longer."""
    return min(
        (
            c.amount_max
            for c in own(ceilings)
            if c.amount_max is not None and c.period.length_min >= period.length_min
        ),
        default=NO_LIMIT,
    )


def _name(tier: Tier | None, protected: int) -> str:
    """The group of a tier's users, or of those who are protected one by one; no tier has
    the name of the latter. In a tier that is protected itself they are like the others: who
    caps it includes what is protected."""
    name = "-" if tier is None else tier.name
    spared = protected and (tier is None or not tier.protected)
    return f"{name} (protected)" if spared else name


def _least(text: str, period: Period) -> tuple[str, int]:
    name, value = parse_assignment(text, "minimum", example="free=1/day")
    limit = _one_limit("minimum", value)
    if limit.period != period:
        raise InvalidInput(
            f"minimum {limit_text((limit,))} is not per {period}",
            hint=f"as the capacity: 1/{period}",
        )
    assert limit.amount_max is not None
    return name, limit.amount_max


def _one_limit(what: str, text: str) -> Limit:
    limits = parse_limit(text)
    if len(limits) != 1 or limits[0].amount_max is None:
        raise InvalidInput(f"{what} {text!r} is not one number", hint="such as 40k/day")
    return limits[0]
