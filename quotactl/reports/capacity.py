"""Which number fits: the largest caps under which recorded demand stays within a capacity."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from quotactl.errors import InvalidInput
from quotactl.frozen import frozen
from quotactl.ledger.loaded import tier_or_default
from quotactl.ledger.values import View
from quotactl.policy.foresight import NO_LIMIT, ceilings_of, own
from quotactl.policy.levers import Lever, lever
from quotactl.policy.model import Limit, Override, Resource, Tier
from quotactl.policy.notation import limit_text, parse_assignment, parse_limit
from quotactl.policy.resolve import Ceiling
from quotactl.policy.solve import solve
from quotactl.policy.window import DAY_LENGTH_MIN, Period, period_of_length
from quotactl.reports.usage import Span, span_of, window_of

if TYPE_CHECKING:
    from quotactl.ledger.engine import Engine, Reading


@frozen
class Fit(View):
    """The caps that fit, by tier, in the capacity's period; None where none is needed.

    `served` is what they would have served in the fullest window of the recorded demand.
    Where even the least that everybody must have is too much, `short_by` says by how many
    units, and `caps` are that least. `command` applies the caps.
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
    before: Sequence[str] = (),
) -> tuple[Fit, list[Lever]]:
    """The largest caps that fit into `capacity` (`40k/day`), and the throttles they are.

    One number for all users of all tiers that are not protected, never above their own
    limit; tiers to `protect`, and those that are protected anyway, come first, and users
    who are protected one by one have what they ask for. `least` are as `free=1/day`.
    Demand is what was used plus granted plus denied, per user and window, as far as the
    user's own limit goes. `before` are global options for the command.
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
        windows, asked = _windows(book, what, span, whole.period, now_ms)
        found = solve(
            windows,
            whole.amount_max,
            protected=frozenset(first),
            # Users who are protected one by one are spared by every cap on their tier.
            least=minima | {_name(t, 1): NO_LIMIT for t in [None, *policy.tiers.values()]},
        )
        caps: dict[str, int | None] = {}
        for tier in policy.tiers.values():
            if what.id not in tier.limits and not any(w.get(tier.name) for w in windows):
                continue
            cap = found.caps.get(tier.name)
            limit = _most(ceilings_of(policy, tier, what, now_ms), whole.period)
            caps[tier.name] = None if cap is None or cap >= limit else cap
        levers = _levers(what, whole.period, caps, guarded)
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
                command=command_of(levers, whole, *before) if levers else None,
            ),
            levers,
        )


def command_of(levers: Sequence[Lever], capacity: Limit, *before: str) -> str:
    """The command line that puts such throttles on; `before` are global options."""
    lines = []
    for one in levers:
        words = ["quotactl", *before, "throttle", "on"]
        for option, names in (("--resource", one.resources), ("--tier", one.tiers)):
            for name in names:
                words += [option, name]
        words += ["--cap", str(one.limit)]
        if one.include_protected:
            words += ["--include-protected", "--allow-impact"]
        lines.append(shlex.join([*words, "--reason", f"to fit into {capacity}"]))
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


def _windows(
    book: Reading, resource: Resource, span: Span, period: Period, now_ms: int
) -> tuple[list[dict[str, dict[int, int]]], int]:
    """Each window's histogram by tier: units that a user would take → users. And what was
    asked for in all."""
    policy = book.policy
    groups = {
        (_id(tier), protected): (_name(tier, protected), ceiling)
        for tier in [None, *policy.tiers.values()]
        for protected in (0, 1)
        for ceiling in [
            _most(ceilings_of(policy, tier, resource, now_ms, protected=bool(protected)), period)
        ]
    }
    empty: dict[str, dict[int, int]] = {name: {} for name, _ in groups.values()}
    windows: dict[int, dict[str, dict[int, int]]] = {}
    asked_in_all = 0

    def add(start: int, name: str, asked: int, most: int, users: int) -> None:
        nonlocal asked_in_all
        window = windows.setdefault(start, {group: dict(h) for group, h in empty.items()})
        units = min(asked, most)
        window[name][units] = window[name].get(units, 0) + users
        asked_in_all += asked * users

    overrides = _overrides(book, resource, now_ms)

    def add_user(start: int, user_id: int, tier_id: int | None, protected: int, asked: int) -> None:
        tier = tier_or_default(policy, tier_id)
        name, most = groups[_id(tier), protected]
        if user_id in overrides:
            ceilings = ceilings_of(
                policy,
                tier,
                resource,
                now_ms,
                protected=bool(protected),
                overrides=tuple(overrides[user_id]),
            )
            most = _most(ceilings, period)
        add(start, name, asked, most, 1)

    stored = [(t.id, p) for t in policy.tiers.values() for p in (0, 1)] + [(None, 0), (None, 1)]
    for start, ends_at_ms, starts in _spans(book, span, period):
        if period.shorter_than_day:
            for row in _short_rows(book, resource, period, (start, ends_at_ms), stored, now_ms):
                add_user(*row)
            continue
        for tier_id, protected, asked, users in book.histogram_of_users(
            resource.id, starts, now_ms
        ):
            tier = tier_or_default(policy, tier_id)
            name, most = groups[_id(tier), protected]
            add(start, name, asked, most, users)
        if overrides:
            summed: dict[tuple[int, int | None, int], int] = {}
            for user_id, tier_id, protected, _, _, asked in book.demand_of_users(
                resource.id,
                DAY_LENGTH_MIN,
                (start, ends_at_ms),
                groups=(),
                overridden=True,
                now_ms=now_ms,
            ):
                of_user = (user_id, tier_id, protected)
                summed[of_user] = summed.get(of_user, 0) + asked
            for of_user, asked in summed.items():
                add_user(start, *of_user, asked)
    return list(windows.values()) or [empty], asked_in_all


def _spans(book: Reading, span: Span, period: Period) -> Iterator[tuple[int, int, list[int]]]:
    """(start, end, starts of days) of the days of a span, or of the weeks or months that
    they lie in."""
    calendar = book.policy.calendar
    seen = set()
    for on in span.dates():
        day = window_of(book, on)
        if day.reset_at_ms == day.starts_at_ms:
            continue
        window = day
        if period.length_min > DAY_LENGTH_MIN:
            window = calendar.window(period, day.starts_at_ms)
        if window not in seen:
            seen.add(window)
            yield *window, calendar.day_starts(window)


def _short_rows(
    book: Reading,
    resource: Resource,
    period: Period,
    span: tuple[int, int],
    stored: Sequence[tuple[int | None, int]],
    now_ms: int,
) -> Iterator[tuple[int, int, int | None, int, int]]:
    """(window start, user id, tier id, protected, asked) of windows shorter than a day: as
    counted where they were, else as taken."""
    counted = False
    for overridden in (False, True):
        for user_id, tier_id, protected, start, _, asked in book.demand_of_users(
            resource.id,
            period.length_min,
            span,
            groups=stored,
            overridden=overridden,
            now_ms=now_ms,
        ):
            counted = True
            yield start, user_id, tier_id, protected, asked
    if not counted:
        places = {row["id"]: (row["tier_id"], row["protected"]) for row in book.rows("user")}
        for user_id, start, units in book.taken_of_users(resource.id, period.length_min, span):
            yield start, user_id, *places[user_id], units


def _overrides(book: Reading, resource: Resource, now_ms: int) -> dict[int, list[Override]]:
    found: dict[int, list[Override]] = {}
    for user_id, id_, period, most, expires in book.overrides_of_resource(resource.id, now_ms):
        override = Override(
            id_, None if period is None else period_of_length(period), most, expires
        )
        found.setdefault(user_id, []).append(override)
    return found


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


def _id(tier: Tier | None) -> int | None:
    return None if tier is None else tier.id


def _name(tier: Tier | None, protected: int) -> str:
    """The group of a tier's users, or of those who are protected one by one; no tier has
    the name of the latter."""
    name = "-" if tier is None else tier.name
    return f"{name} (protected)" if protected else name


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
