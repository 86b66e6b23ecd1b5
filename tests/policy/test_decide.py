"""Laws of deciding: what must hold for every policy, account and request."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import quotactl
from quotactl.policy.decide import Verdict, decide, routine_of
from quotactl.policy.model import (
    AMOUNT_MAX,
    Account,
    Block,
    Enforcement,
    Grant,
    Limit,
    Override,
    Policy,
    Resource,
    Scope,
    Throttle,
    Tier,
)
from quotactl.policy.resolve import scaled
from quotactl.policy.window import DAY, MONTH, WEEK, Period, calendar_of, period_of_length, to_ms

NOW = to_ms(datetime(2025, 3, 29, 22, 58, 20, tzinfo=UTC))
IMAGE = Resource(1, "image", None)
MINUTE = period_of_length(1)
PERIODS = (MINUTE, period_of_length(180), DAY, WEEK, MONTH)

some_period = st.sampled_from(PERIODS)
limits = st.dictionaries(some_period, st.none() | st.integers(0, 9), max_size=3).map(
    lambda found: tuple(Limit(p, found[p]) for p in sorted(found, key=lambda p: p.length_min))
)


def throttle(id_: int, kind: Any, **values: Any) -> Throttle:
    plain: dict[str, Any] = {
        "name": None,
        "scope": Scope(),
        "amount_max": None,
        "period": None,
        "percent": None,
        "floor": None,
        "freeze_grants": kind == "deny",
        "include_protected": False,
        "starts_at_ms": NOW - 1000,
        "ends_at_ms": None,
    }
    return Throttle(id=id_, kind=kind, **{**plain, **values})


throttles = st.one_of(
    st.just({"kind": "deny"}),
    st.fixed_dictionaries(
        {
            "kind": st.just("cap"),
            "amount_max": st.integers(0, 6),
            "period": some_period,
            "freeze_grants": st.booleans(),
        }
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("scale"),
            "percent": st.integers(0, 100),
            "floor": st.none() | st.integers(0, 12),
            "freeze_grants": st.booleans(),
        }
    ),
).flatmap(
    lambda values: st.fixed_dictionaries(
        {
            **{key: st.just(value) for key, value in values.items()},
            "include_protected": st.booleans(),
            "ends_at_ms": st.none() | st.integers(NOW + 1, NOW + 200_000),
            "scope": st.sampled_from(
                (Scope(), Scope(frozenset({1})), Scope(frozenset({2})), Scope(None, frozenset({1})))
            ),
        }
    )
)
several = st.lists(throttles, max_size=4).map(
    lambda found: tuple(throttle(n, **values) for n, values in enumerate(found, start=1))
)


def policy(
    limits: Sequence[Limit] = (),
    throttles: Sequence[Throttle] = (),
    *,
    protected: bool = False,
    enforcements: Sequence[Enforcement] = (),
) -> Policy:
    tier = Tier(1, "free", protected, {1: tuple(limits)} if limits else {})
    return Policy(
        version=1,
        zone="Europe/Rome",
        default_tier_id=1,
        resources={1: IMAGE},
        tiers={1: tier},
        throttles=tuple(throttles),
        enforcements=tuple(enforcements),
    )


def account(of: Policy, used: dict[Period, int] | None = None, **values: Any) -> Account:
    """`used` of a week or month lies on other days than today."""
    calendar = calendar_of("Europe/Rome")
    windows: dict[tuple[int, int], int] = {}
    for period, units in (used or {}).items():
        if period.shorter_than_day or period == DAY:
            windows[period.length_min, calendar.window(period, NOW).starts_at_ms] = units
        else:
            start = calendar.window(period, NOW).starts_at_ms
            windows[1440, start] = windows.get((1440, start), 0) + units
    return Account("ada", 1, True, of.tiers[1], False, IMAGE, used=windows, **values)


@st.composite
def accounts(draw: st.DrawFn) -> dict[str, Any]:
    grants = tuple(
        Grant(n, draw(st.integers(-1, 1)), draw(st.none() | st.integers(NOW - 1, NOW + 99_000)))
        for n in range(1, draw(st.integers(0, 3)) + 1)
    )
    blocks = draw(st.lists(st.none() | st.integers(NOW - 1, NOW + 99_000), max_size=1))
    return {
        "used": draw(st.dictionaries(some_period, st.integers(0, 9), max_size=4)),
        "grants": grants,
        "balances": {g.id: draw(st.integers(0, 5)) for g in grants},
        "blocks": tuple(Block(1, None, ends) for ends in blocks),
        "overrides": draw(
            st.sampled_from(
                ((), (), (Override(1, DAY, 4, None),), (Override(1, None, None, NOW + 50_000),))
            )
        ),
    }


amounts = st.integers(1, 8)
cases = {"limits": limits, "owned": accounts(), "amount": amounts}


def decided(of: Policy, owned: dict[str, Any], amount: int, now: int = NOW) -> Verdict:
    return decide(of, account(of, **owned), amount, now)


@given(**cases, before=several, more=throttles, gap=st.integers(0, 10**6))
def test_a_throttle_that_is_over_leaves_no_trace(
    limits: tuple[Limit, ...],
    owned: dict[str, Any],
    amount: int,
    before: tuple[Throttle, ...],
    more: dict[str, Any],
    gap: int,
) -> None:
    over = replace(throttle(9, **more), starts_at_ms=NOW - gap - 1, ends_at_ms=NOW - gap)
    without = decided(policy(limits, before), owned, amount)
    assert decided(policy(limits, (*before, over)), owned, amount) == without


@given(**cases, more=throttles)
def test_a_throttle_for_others_changes_nothing(
    limits: tuple[Limit, ...], owned: dict[str, Any], amount: int, more: dict[str, Any]
) -> None:
    without = decided(policy(limits), owned, amount)
    for scope in (Scope(frozenset({2})), Scope(None, frozenset({2}))):
        other = replace(throttle(1, **more), scope=scope)
        found = decided(policy(limits, [other]), owned, amount)
        # Its end is a moment to look at again, but nothing comes of it.
        assert found == without


@given(**cases, stacked=several)
def test_throttles_spare_a_protected_tier_unless_told_otherwise(
    limits: tuple[Limit, ...],
    owned: dict[str, Any],
    amount: int,
    stacked: tuple[Throttle, ...],
) -> None:
    reaching = [t for t in stacked if t.include_protected]
    spared = decided(policy(limits, stacked, protected=True), owned, amount)
    assert spared == decided(policy(limits, reaching, protected=True), owned, amount)


@given(**cases, stacked=several, data=st.data())
def test_the_order_of_throttles_does_not_matter(
    limits: tuple[Limit, ...],
    owned: dict[str, Any],
    amount: int,
    stacked: tuple[Throttle, ...],
    data: st.DataObject,
) -> None:
    shuffled = data.draw(st.permutations(stacked))
    assert decided(policy(limits, shuffled), owned, amount) == decided(
        policy(limits, stacked), owned, amount
    )


@given(**cases, stacked=several, more=throttles)
def test_one_more_throttle_never_lets_more_through(
    limits: tuple[Limit, ...],
    owned: dict[str, Any],
    amount: int,
    stacked: tuple[Throttle, ...],
    more: dict[str, Any],
) -> None:
    free = decided(policy(limits), owned, amount)
    few = decided(policy(limits, stacked), owned, amount)
    many = decided(policy(limits, (*stacked, throttle(9, **more))), owned, amount)
    assert free.allowed >= few.allowed >= many.allowed
    # What would have been refused anyway is not put down to a throttle.
    for found in (few, many):
        if found.reason == "throttled":
            assert free.allowed and found.rule.kind == "throttle"
        elif not found.allowed:
            assert found.reason == free.reason


@given(**cases, stacked=several)
def test_less_passes_where_more_does(
    limits: tuple[Limit, ...],
    owned: dict[str, Any],
    amount: int,
    stacked: tuple[Throttle, ...],
) -> None:
    of = policy(limits, stacked)
    if decided(of, owned, amount + 1).allowed:
        assert decided(of, owned, amount).allowed


@given(**cases, stacked=several)
def test_the_moment_to_retry_is_the_first_that_passes(
    limits: tuple[Limit, ...],
    owned: dict[str, Any],
    amount: int,
    stacked: tuple[Throttle, ...],
) -> None:
    of = policy(limits, stacked)
    found = decided(of, owned, amount)
    if found.allowed:
        assert found.retry_after_ms is None
        return
    after = found.retry_after_ms
    if after is not None:
        assert after > 0
        assert decided(of, owned, amount, NOW + after).allowed
        assert not decided(of, owned, amount, NOW + after - 1).allowed
    else:
        # Not in any minute of the next hour, nor on any of the next forty days.
        for later in (*range(60_000, 3_660_000, 60_000), *(d * 86_400_000 for d in range(1, 41))):
            assert not decided(of, owned, amount, NOW + later).allowed


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("period", [WEEK, MONTH])
def test_the_days_of_a_week_or_month_count_and_those_beside_it_do_not(
    period: Period, shared: bool
) -> None:
    of = policy([Limit(period, 30)])
    window = of.calendar.window(period, NOW)
    days = [of.calendar.day(at).starts_at_ms for at in (window.starts_at_ms, NOW)]
    beside = [window.starts_at_ms - 1, window.reset_at_ms]
    units = dict(zip([*days, *beside], (1, 2, 4, 8), strict=True))
    used = {(1440, of.calendar.day(at).starts_at_ms): n for at, n in units.items()}
    # Of another length is no day, whenever it starts.
    used[60, NOW - NOW % 3_600_000] = 16
    asking, limit = account(of), 30
    if shared:
        asking.resource = replace(IMAGE, capacity=Limit(period, 20))
        asking.totals = {k: {1: n} for k, n in used.items()}
        limit = 20
    else:
        asking.used = used
    found = decide(of, asking, 1, NOW)
    assert (found.period, found.limit, found.used, found.shared) == (period, limit, 3, shared)


def test_who_is_blocked_sees_what_was_used_today_and_nothing_where_nothing_was() -> None:
    of = policy([Limit(DAY, 3)])
    blocks = (Block(7, None, None),)
    assert decided(of, {"blocks": blocks}, 1).used == 0
    found = decided(of, {"blocks": blocks, "used": {DAY: 2}}, 1)
    assert (found.reason, found.used, found.limit, found.period) == ("blocked", 2, 0, None)


@pytest.mark.parametrize("mode", ["shadow", "off"])
def test_the_start_of_a_lenient_enforcement_is_a_moment_to_retry(mode: Any) -> None:
    switch = Enforcement(1, mode, Scope(), NOW + 7_000, NOW + 9_000)
    of = policy([Limit(DAY, 0)], enforcements=[switch])
    assert decided(of, {}, 1).retry_after_ms == 7_000
    assert decided(of, {}, 1, NOW + 7_000).allowed
    assert decided(of, {}, 1, NOW + 9_000).retry_after_ms is None


@given(**cases, stacked=several)
def test_what_is_granted_is_what_burns_and_never_exceeds_the_amount(
    limits: tuple[Limit, ...],
    owned: dict[str, Any],
    amount: int,
    stacked: tuple[Throttle, ...],
) -> None:
    found = decided(policy(limits, stacked), owned, amount)
    assert found.granted == sum(units for _, units in found.burns) <= amount
    assert (found.reason == "granted") == (found.granted > 0)
    for grant_id, units in found.burns:
        assert 1 <= units <= owned["balances"][grant_id]


@given(**cases, stacked=several, mode=st.sampled_from(("shadow", "off")))
def test_enforcement_lets_everything_through_but_blocks(
    limits: tuple[Limit, ...],
    owned: dict[str, Any],
    amount: int,
    stacked: tuple[Throttle, ...],
    mode: Any,
) -> None:
    switch = Enforcement(1, mode, Scope(), NOW - 1, None)
    enforced = decided(policy(limits, stacked), owned, amount)
    found = decided(policy(limits, stacked, enforcements=[switch]), owned, amount)
    assert found.allowed == (enforced.reason != "blocked")
    if found.allowed and mode == "shadow":
        assert found.would_be == (None if enforced.allowed else enforced.reason)
        assert found.granted == enforced.granted
    else:
        assert found.would_be is None and found.granted == 0


# ---- scales


@given(
    base=st.integers(0, AMOUNT_MAX),
    percent=st.integers(0, 100),
    floor=st.none() | st.integers(0, AMOUNT_MAX),
)
@example(base=AMOUNT_MAX, percent=99, floor=None)
def test_a_scale_lies_between_its_floor_and_the_base(
    base: int, percent: int, floor: int | None
) -> None:
    result = scaled(base, percent, floor)
    assert isinstance(result, int)
    assert result <= base
    assert result >= min(base, floor or 0)
    if result > min(base, floor or 0):
        # Rounded down: one more would be above the percentage.
        assert result * 100 <= base * percent < (result + 1) * 100


@pytest.mark.parametrize(
    ("base", "percent", "floor", "result"),
    [
        (3, 25, None, 0), (3, 25, 1, 1), (3, 25, 5, 3), (0, 50, 5, 0), (4, 25, None, 1),
        (7, 50, None, 3), (9, 100, None, 9), (9, 0, None, 0), (9, 0, 2, 2), (9, 50, 2, 4),
        (AMOUNT_MAX, 29, None, 2612087783874887),
    ],
)  # fmt: skip
def test_scales(base: int, percent: int, floor: int | None, result: int) -> None:
    assert scaled(base, percent, floor) == result


# ---- examples


def cap(id_: int, amount_max: int, period: Period = DAY, **values: Any) -> Throttle:
    return throttle(id_, "cap", amount_max=amount_max, period=period, **values)


THREE = (Limit(DAY, 3),)
TEN = {"grants": (Grant(7, 0, None),), "balances": {7: 10}}
# what stands in the way, what is asked → reason, rule, limit, granted
EXAMPLES: list[tuple[str, Policy, dict[str, Any], int, tuple[Any, ...]]] = [
    ("the last unit", policy(THREE), {"used": {DAY: 2}}, 1, ("ok", "tier", 3, 0)),
    ("one too many", policy(THREE), {"used": {DAY: 2}}, 2, ("limit_reached", "tier", 3, 0)),
    ("more than the limit", policy(THREE), {}, 4, ("limit_reached", "tier", 3, 0)),
    ("nothing a day", policy([Limit(DAY, 0)]), {}, 1, ("limit_reached", "tier", 0, 0)),
    ("nothing but a grant", policy([Limit(DAY, 0)]), TEN, 2, ("granted", "grant", 0, 2)),
    ("not listed", policy(), {}, 1, ("not_in_tier", "tier", 0, 0)),
    ("not listed, granted", policy(), TEN, 10, ("granted", "grant", 0, 10)),
    ("not listed, granted in part", policy(), TEN, 11, ("not_in_tier", "tier", 0, 0)),
    ("a part", policy(THREE), {**TEN, "used": {DAY: 1}}, 4, ("granted", "grant", 3, 2)),
    (
        "grants buy no speed",
        policy([Limit(MINUTE, 2)]), {**TEN, "used": {MINUTE: 2}}, 1,
        ("limit_reached", "tier", 2, 0),
    ),
    ("capped", policy(THREE, [cap(1, 1)]), {"used": {DAY: 1}}, 1, ("throttled", "throttle", 1, 0)),
    ("capped, granted", policy(THREE, [cap(1, 1)]), TEN, 2, ("granted", "grant", 1, 1)),
    (
        "capped and frozen",
        policy(THREE, [cap(1, 1, freeze_grants=True)]), TEN, 2,
        ("throttled", "throttle", 1, 0),
    ),
    (
        "refused anyway",
        policy(THREE, [cap(1, 1)]), {"used": {DAY: 3}}, 1,
        ("limit_reached", "tier", 3, 0),
    ),
    ("denied", policy(THREE, [throttle(1, "deny")]), TEN, 1, ("throttled", "throttle", 0, 0)),
    (
        "unlimited, capped",
        policy([Limit(DAY, None)], [cap(1, 2)]), {}, 3,
        ("throttled", "throttle", 2, 0),
    ),
    (
        "unlimited, scaled",
        policy([Limit(DAY, None)], [throttle(1, "scale", percent=0)]), {}, 999,
        ("ok", "tier", None, 0),
    ),
    (
        "scales do not multiply",
        policy([Limit(DAY, 8)], [throttle(n, "scale", percent=50) for n in (1, 2)]), {}, 4,
        ("ok", "throttle", 4, 0),
    ),
    (
        "of several the lowest result",
        policy(THREE, [cap(1, 2), cap(2, 1)]), {}, 2,
        ("throttled", "throttle", 1, 0),
    ),
    (
        "override for the day",
        policy(THREE), {"overrides": (Override(5, DAY, 9, None),)}, 9,
        ("ok", "override", 9, 0),
    ),
    (
        "override ended",
        policy(THREE), {"overrides": (Override(5, DAY, 9, NOW),)}, 9,
        ("limit_reached", "tier", 3, 0),
    ),
    (
        "override for every period",
        policy([*THREE, Limit(MONTH, 3)]), {"overrides": (Override(5, None, None, None),)}, 99,
        ("ok", "override", None, 0),
    ),
    ("blocked", policy(THREE), {"blocks": (Block(4, 1, None),)}, 1, ("blocked", "block", 0, 0)),
    (
        "a block that ended",
        policy(THREE), {"blocks": (Block(4, 1, NOW),)}, 1,
        ("ok", "tier", 3, 0),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("of", "owned", "amount", "expected"),
    [case[1:] for case in EXAMPLES],
    ids=[case[0] for case in EXAMPLES],
)
def test_examples(
    of: Policy, owned: dict[str, Any], amount: int, expected: tuple[Any, ...]
) -> None:
    found = decided(of, owned, amount)
    assert (found.reason, found.rule.kind, found.limit, found.granted) == expected
    assert found.allowed == (found.reason in ("ok", "granted"))


def test_the_rule_is_the_lowest_id_among_equal_throttles() -> None:
    of = policy(THREE, [cap(8, 1), cap(5, 1), cap(6, 2)])
    assert decided(of, {}, 2).rule.id == 5


# ---- batches

requests = st.lists(
    st.builds(
        quotactl.Request,
        user=st.sampled_from(("ada", "bob", "")),
        resource=st.sampled_from(("image", "image", "video", "nothing")),
        amount=st.integers(0, 4),
        idempotency_key=st.none() | st.sampled_from(("k1", "k2")),
    ),
    max_size=10,
)


def shape(answer: quotactl.Decision | quotactl.QuotaError) -> object:
    return answer.to_dict()


@given(batch=requests, data=st.data())
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
def test_where_a_batch_is_split_makes_no_difference(
    batch: list[quotactl.Request], data: st.DataObject
) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(batch)), max_size=3).map(sorted))
    now = datetime(2025, 3, 29, 22, 58, tzinfo=UTC)
    with tempfile.TemporaryDirectory() as folder:
        ledgers = [
            quotactl.create(Path(folder) / f"{n}.db", zone="Europe/Rome", clock=lambda: now)
            for n in range(2)
        ]
        try:
            for ledger in ledgers:
                ledger.admin.set_setting("durability", "relaxed")
                ledger.admin.create_resource("image")
                ledger.admin.create_resource("video")
                ledger.admin.create_tier("free")
                ledger.admin.set_limit(tier="free", resource="image", limit="6/day,5/minute")
                ledger.admin.add_grant(user="ada", resource="image", amount=3, reason="test")
                ledger.admin.add_grant(user="ada", resource="video", amount=3, reason="test")
            whole, parts = ledgers
            at_once = [shape(answer) for answer in whole.consume_many(batch)]
            edges = [0, *cuts, len(batch)]
            in_parts = [
                shape(answer)
                for start, end in pairwise(edges)
                for answer in parts.consume_many(batch[start:end])
            ]
            assert in_parts == at_once
            for user in ("ada", "bob"):
                for resource in ("image", "video"):
                    left = [ledger.check(user=user, resource=resource) for ledger in ledgers]
                    assert left[0] == left[1]
            assert all(ledger.verify().ok for ledger in ledgers)
        finally:
            for ledger in ledgers:
                ledger.close()


def test_a_throttle_on_and_off_again_leaves_the_ledger_as_it_was(tmp_path: Path) -> None:
    now = datetime(2025, 3, 29, 12, tzinfo=UTC)
    with quotactl.create(tmp_path / "l.db", zone="Europe/Rome", clock=lambda: now) as ledger:
        ledger.admin.create_resource("image")
        ledger.admin.create_tier("free")
        ledger.admin.set_limit(tier="free", resource="image", limit="3/day")
        ledger.consume(user="ada", resource="image", amount=2)
        before = [ledger.check(user="ada", resource="image", amount=n) for n in (1, 2)]
        for how in ({"deny": True}, {"cap": "1/hour"}, {"scale": 50}):
            ledger.admin.throttle_on(**how, name="melt", reason="test")
            assert ledger.check(user="ada", resource="image", amount=2).reason != "ok"
            ledger.admin.throttle_off("melt", reason="test")
            assert [ledger.check(user="ada", resource="image", amount=n) for n in (1, 2)] == before


@given(
    **cases,
    switches=several,
    used=st.integers(0, 9),
    protected=st.booleans(),
    later=st.integers(0, 90_000_000),
)
def test_routine_decides_as_decide_does(
    limits: tuple[Limit, ...],
    owned: dict[str, Any],
    amount: int,
    switches: tuple[Throttle, ...],
    used: int,
    protected: bool,
    later: int,
) -> None:
    of = policy(limits, switches, protected=protected)
    routine = routine_of(of, account(of), NOW)
    at = NOW + later
    if routine is None or not routine.from_ms <= at < routine.until_ms:
        return
    verdict = decide(of, account(of, {DAY: used}), amount, at)
    if routine.allows(used, amount):
        wanted: tuple[Any, ...] = (True, "ok", None)
    elif routine.refusal is None:
        return
    else:
        wanted = (False, routine.refusal, routine.retry_after_ms(amount, at))
    assert (verdict.allowed, verdict.reason, verdict.retry_after_ms) == wanted
    assert (verdict.rule, verdict.period, verdict.limit, verdict.used) == (
        routine.ceiling.rule,
        DAY,
        routine.ceiling.amount_max,
        used,
    )
    assert (verdict.day_ms, verdict.reset_at_ms, verdict.periods) == (*routine.day, ())
    assert (verdict.granted, verdict.would_be, verdict.shared) == (0, None, False)
