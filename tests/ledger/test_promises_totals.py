"""A ceiling over the sum of all users: `throttle on --total 40k/hour`, and a resource's capacity.

It may not be passed in a window, first come, first served; it counts what the window had
before it came on; its own rule denies. Whatever a limit promises holds for it too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from quotactl import Conflict, Decision, InvalidInput, NotFound, Request
from quotactl.engines.sqlite.session import Session
from quotactl.operations.administer import set_capacity
from quotactl.operations.batch import Batch
from quotactl.operations.emergency import Emergency, Timing, put_on
from quotactl.policy.levers import lever, one_limit

# Of a session: nothing here waits for the disk.
NEVER = property(lambda _: False, lambda *_: None)

if TYPE_CHECKING:
    from conftest import MakeWorld, World


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about power cuts: don't wait for the disk."""
    monkeypatch.setattr(Session, "wants_full", NEVER, raising=False)


@pytest.fixture(autouse=True)
def roomy(quick: None, world: World) -> None:
    """Limits of their own are in nobody's way, unless a test sets them."""
    world.limit("100/day")


def capacity(world: World, limit: str | None, *, resource: str = "image") -> None:
    """Set a resource's capacity, as a policy file does."""
    emergency = Emergency(world.q.engine, world.clock, "tester", notify=False)
    with emergency._act() as act:
        set_capacity(act, resource, None if limit is None else one_limit("capacity", limit))


def drill(world: World, **how: Any) -> int:
    emergency = Emergency(world.q.engine, world.clock, "tester", notify=False)
    with emergency._act(reason="practice") as act:
        put = put_on(act, lever(**how), Timing(), drill=True)
        assert isinstance(put, tuple)
        switch_id: int = put[0]["id"]
        return switch_id


def sums(world: World, period: int = 60) -> list[tuple[Any, ...]]:
    """What is kept of everybody: (tier id, units), by window and tier, without the zeros."""
    return world.sql(
        "SELECT tier_id, used FROM total WHERE period = ? AND used > 0 "
        "ORDER BY resource_id, starts_at_ms, tier_id",
        period,
    )


def assert_total(decision: Decision, *, limit: int, used: int, rule: int | None = None) -> None:
    """That a total denied, and with which figures."""
    assert (decision.allowed, decision.reason, decision.rule.kind) == (
        False,
        "throttled",
        "throttle",
    )
    assert (decision.limit, decision.used, decision.remaining) == (
        limit,
        used,
        max(0, limit - used),
    )
    assert rule in (None, decision.rule.id)


# ---- one ceiling for all together


def test_a_total_is_for_all_together_first_come_first_served(world: World) -> None:
    throttle_id = world.throttle(total="5/hour", name="gpu")
    world.take(3)
    world.take(2, user="bob")
    for user in ("ada", "bob", "new"):
        denied = world.consume(user=user)
        assert_total(denied, limit=5, used=5, rule=throttle_id)
        assert (denied.rule.name, denied.period) == ("gpu", "hour")
        assert denied.reset_at is not None
        assert denied.reset_at.isoformat() == "2025-03-27T10:00:00+00:00"
    world.at("2025-03-27T10:00:00Z")
    # The throttle is over with the hour.
    assert world.consume().rule.kind == "tier"


def test_a_request_above_what_is_left_takes_nothing_and_a_smaller_one_passes(world: World) -> None:
    world.throttle(total="5/day")
    world.take(3)
    assert_total(world.consume(3, user="bob"), limit=5, used=3)
    assert world.consume(2, user="bob").allowed
    assert world.sql("SELECT sum(used), sum(denied) FROM counter") == [(5, 3)]


def test_a_total_of_nothing_denies_all(world: World) -> None:
    world.throttle(total="0/hour")
    assert_total(world.consume(), limit=0, used=0)


def test_a_total_is_for_each_resource_by_itself(world: World) -> None:
    world.admin.create_resource("video")
    world.limit("100/day", resource="video")
    world.throttle(total="3/hour")
    world.take(3)
    assert not world.consume(user="bob").allowed
    assert world.consume(3, resource="video", user="bob").allowed
    assert_total(world.consume(resource="video"), limit=3, used=3)


def test_a_total_for_one_resource_leaves_the_others_alone(world: World) -> None:
    world.admin.create_resource("video")
    world.limit("100/day", resource="video")
    world.throttle(total="1/hour", resources=["video"])
    world.take(20)
    assert world.consume(resource="video").allowed
    assert not world.consume(resource="video").allowed


def test_each_window_has_the_whole_total(world: World) -> None:
    world.throttle(total="2/minute", no_expiry=True)
    for _ in range(3):
        world.take(2)
        assert not world.consume(user="bob").allowed
        world.later(minutes=1)


def test_another_process_counts_on_from_what_the_first_allowed(world: World) -> None:
    other = world.reopened()
    assert other.consume(user="bob", resource="image", amount=1).allowed
    world.throttle(total="4/hour")
    world.take(2)
    assert other.consume(user="bob", resource="image", amount=1).allowed
    assert_total(world.consume(), limit=4, used=4)
    assert_total(other.consume(user="bob", resource="image"), limit=4, used=4)


def test_a_check_says_the_same_and_writes_nothing(world: World) -> None:
    world.take(2)
    world.throttle(total="3/hour")
    before = world.sql("SELECT * FROM total")
    assert world.check(1, user="bob").remaining == 1
    assert_total(world.check(2, user="bob"), limit=3, used=2)
    assert world.sql("SELECT * FROM total") == before == []


def test_a_retry_with_its_key_is_counted_once(world: World) -> None:
    world.throttle(total="3/hour")
    world.take(2, key="k")
    again = world.consume(2, key="k")
    assert (again.replayed, again.used, again.limit) == (True, 2, 3)
    world.take(1, user="bob")
    assert not world.consume(user="bob").allowed


# ---- what a window had before


@pytest.mark.parametrize(
    ("zone", "period", "before", "within"),
    [
        # The flip is on Friday 2025-03-28 at 10:17:30 UTC.
        ("UTC", "minute", "2025-03-28T10:16:59.999Z", "2025-03-28T10:17:00Z"),
        ("UTC", "5m", "2025-03-28T10:14:59Z", "2025-03-28T10:15:00Z"),
        ("UTC", "hour", "2025-03-28T09:59:59.999Z", "2025-03-28T10:00:00Z"),
        ("UTC", "90m", "2025-03-28T08:59:59Z", "2025-03-28T09:00:00Z"),
        ("UTC", "3h", "2025-03-28T08:59:59Z", "2025-03-28T09:00:00Z"),
        ("UTC", "day", "2025-03-27T23:59:59Z", "2025-03-28T00:00:00Z"),
        ("UTC", "week", "2025-03-23T23:59:59Z", "2025-03-24T00:00:00Z"),
        ("UTC", "month", "2025-02-28T23:59:59Z", "2025-03-01T00:00:00Z"),
        ("Europe/Rome", "hour", "2025-03-28T09:59:59.999Z", "2025-03-28T10:00:00Z"),
        ("Europe/Rome", "day", "2025-03-27T22:59:59Z", "2025-03-27T23:00:00Z"),
        ("Europe/Rome", "week", "2025-03-23T22:59:59Z", "2025-03-23T23:00:00Z"),
        # Half an hour off: no hour of UTC is one of the zone's days' hours.
        ("Asia/Kolkata", "hour", "2025-03-28T09:59:59.999Z", "2025-03-28T10:00:00Z"),
        ("Asia/Kolkata", "3h", "2025-03-28T08:59:59Z", "2025-03-28T09:00:00Z"),
        ("Asia/Kolkata", "day", "2025-03-27T18:29:59Z", "2025-03-27T18:30:00Z"),
        ("Asia/Kolkata", "week", "2025-03-23T18:29:59Z", "2025-03-23T18:30:00Z"),
        ("Asia/Kolkata", "month", "2025-02-28T18:29:59Z", "2025-02-28T18:30:00Z"),
    ],
)
def test_a_total_counts_all_that_its_window_had_before_it_came_on(
    make_world: MakeWorld, zone: str, period: str, before: str, within: str
) -> None:
    world = make_world(zone=zone, at="2025-02-27T09:00:00Z")
    world.limit("unlimited")
    world.at(before)
    world.take(50)
    world.at(within)
    world.take(1, user="bob")
    world.take(2)
    world.at("2025-03-28T10:17:30Z")
    world.take(1)
    world.throttle(total=f"5/{period}")
    decision = world.consume(user="eve")
    assert (decision.used, decision.remaining, decision.period) == (5, 0, period)
    assert_total(world.consume(user="bob"), limit=5, used=5)


def test_a_total_counts_what_came_before_on_the_day_that_lacks_an_hour(rome: World) -> None:
    rome.limit("unlimited")
    rome.at("2025-03-30T00:30:00Z")  # half past one in Rome; at two it is three
    rome.take(2)
    rome.at("2025-03-30T21:59:00Z")
    rome.throttle(total="3/day")
    assert_total(rome.check(2), limit=3, used=2)
    rome.at("2025-03-30T22:00:00Z")
    assert rome.check(2).used == 0


def test_a_total_that_comes_on_in_the_very_moment_counts_what_was_taken_in_it(
    make_world: MakeWorld,
) -> None:
    world = make_world(at="2025-03-27T09:01:00Z")
    world.limit("unlimited")
    world.take(2)
    world.throttle(total="3/minute")
    assert_total(world.check(2), limit=3, used=2)


def test_units_that_a_fast_clock_took_before_the_flip_count_in_their_window(world: World) -> None:
    world.at("2025-03-27T09:01:02Z")
    world.take(2)
    world.at("2025-03-27T09:00:58Z")
    world.throttle(total="3/minute")
    world.at("2025-03-27T09:01:03Z")
    assert_total(world.check(2, user="bob"), limit=3, used=2)


def test_a_unit_that_a_sum_missed_can_be_refunded_and_verify_says_that_it_was_missed(
    world: World,
) -> None:
    world.at("2025-03-27T09:20:00Z")  # a clock that is more than ten minutes fast
    entry = world.take(5)
    world.at("2025-03-27T09:00:00Z")
    for user in ("bob", "eve", "dan", "fay"):
        world.take(1, user=user)
    world.at("2025-03-27T09:20:05Z")
    world.throttle(total="50/minute")
    assert world.consume(user="gus").used == 1
    (missed,) = world.q.verify().differences
    assert (missed.what, missed.expected, missed.found) == ("total.used", 6, 1)
    world.tampered = True
    assert world.q.refund(entry_id=entry).amount == 5


@pytest.mark.parametrize("asked", [1, 9])
def test_the_first_decision_sums_up_and_the_next_count_on(world: World, asked: int) -> None:
    world.take(4)
    world.take(1, user="bob")
    world.throttle(total="8/hour")
    assert sums(world) == []
    # A denial sums up as well.
    assert world.consume(asked, user="bob").allowed is (asked == 1)
    taken = 5 + (1 if asked == 1 else 0)
    assert sums(world) == [(1, taken)]
    world.take(8 - taken)
    assert sums(world) == [(1, 8)]
    assert not world.consume(user="eve").allowed


@pytest.mark.parametrize("period", ["minute", "hour", "day", "week"])
@pytest.mark.parametrize("ending", ["off", "replaced", "over", "closed"])
def test_what_was_taken_while_no_total_was_on_counts_in_the_next(
    world: World, period: str, ending: str
) -> None:
    world.at("2025-03-27T09:00:10Z")
    throttle_id = world.throttle(total=f"3/{period}", duration="20s")
    world.take(2)
    if ending == "off":
        world.admin.throttle_off(throttle_id, reason="cool")
    elif ending == "replaced":
        throttle_id = world.throttle(total=f"4/{period}", duration="20s", replace=True)
        world.admin.throttle_off(throttle_id, reason="cool")
    else:
        world.later(seconds=20)
    if ending == "closed":
        # A close marks what is over; that of a day to come would end the window.
        with world.q.engine.writing() as book:
            now_ms = int(world.now.timestamp() * 1000)
            assert book.mark_expired("switch", "ends_at_ms", now_ms) == 1
            book.touch_policy()
            book.prune_totals([], 0)
    if ending != "over":
        assert sums(world, {"minute": 1, "hour": 60}.get(period, 1440)) == []
    world.take(3, user="bob")
    world.later(seconds=2)
    world.throttle(total=f"6/{period}", duration="20s")
    assert_total(world.check(2), limit=6, used=5)
    world.take(1)
    assert_total(world.consume(), limit=6, used=6)


def test_a_window_that_begins_within_an_hour_counts_what_was_taken_since(world: World) -> None:
    world.at("2025-03-27T10:10:00Z")
    world.take(1)
    world.at("2025-03-27T10:40:00Z")
    world.take(2)
    world.throttle(total="3/90m")
    assert_total(world.check(2, user="bob"), limit=3, used=2)


def test_a_total_that_is_scheduled_counts_what_comes_before_its_start(world: World) -> None:
    world.throttle(total="3/hour", at="2025-03-27T09:30:00Z")
    world.take(2)
    world.at("2025-03-27T09:29:59.999Z")
    world.take(2, user="bob")
    world.at("2025-03-27T09:30:00Z")
    assert_total(world.consume(), limit=3, used=4)


def test_a_window_starts_at_nothing_once_the_clock_is_in_it(world: World) -> None:
    world.take(5)
    world.throttle(total="3/day", no_expiry=True)
    assert_total(world.consume(), limit=3, used=5)
    world.later(days=1)
    world.take(3)
    assert_total(world.consume(user="bob"), limit=3, used=3)


def test_a_week_is_the_sum_of_its_days_and_forgets_none(world: World) -> None:
    world.throttle(total="5/week", no_expiry=True)
    world.take(2)
    world.later(days=1)
    world.q.close_days()
    world.take(1, user="bob")
    world.later(days=1)
    assert_total(world.consume(3), limit=5, used=3)
    world.take(2)
    assert_total(world.consume(user="eve"), limit=5, used=5)
    world.at("2025-03-31T00:00:00Z")
    world.take(5)


def test_a_month_counts_days_that_were_closed_before_the_flip(world: World) -> None:
    world.at("2025-04-01T10:00:00Z")
    world.take(2)
    world.at("2025-04-29T10:00:00Z")
    world.q.close_days()
    world.throttle(total="4/month")
    assert_total(world.check(3, user="bob"), limit=4, used=2)


# ---- which units


def test_units_that_grants_pay_count_and_grants_do_not_pay_a_total(world: World) -> None:
    world.limit("1/day")
    grant_id = world.grant(9)
    world.throttle(total="3/day")
    granted = world.consume(2)
    assert (granted.reason, granted.granted) == ("granted", 1)
    assert_total(world.consume(2), limit=3, used=2)
    assert world.balance(grant_id) == 8
    assert world.consume(1).granted == 1
    assert_total(world.consume(user="bob"), limit=3, used=3)


def test_grants_of_before_the_flip_count_too(world: World) -> None:
    world.limit("1/day")
    world.grant(4)
    world.take(3)
    for period in ("minute", "hour", "day"):
        world.throttle(total=f"3/{period}")
        assert_total(world.consume(user="bob"), limit=3, used=3)


def test_protected_ones_pass_and_count(world: World) -> None:
    world.admin.set_tier("pia", "pro")
    world.admin.protect("eve")
    world.take(1, user="pia")
    world.throttle(total="4/hour")
    world.take(1, user="eve")
    world.take(1)
    world.take(5, user="pia")
    world.take(5, user="eve")
    assert_total(world.consume(user="bob"), limit=4, used=13)


def test_include_protected_spares_nobody(world: World) -> None:
    world.admin.set_tier("pia", "pro")
    world.throttle(total="2/hour", include_protected=True)
    world.take(2, user="pia")
    assert_total(world.consume(user="pia"), limit=2, used=2)


def test_a_total_for_tiers_counts_each_unit_on_the_tier_it_was_taken_on(world: World) -> None:
    world.limit("unlimited", tier="plus")
    world.take(2)
    world.admin.set_tier("ada", "plus")
    world.take(20)
    world.throttle(total="4/hour", tiers=["free"])
    # ada is no longer in scope, but what she took then is.
    world.take(20)
    assert_total(world.check(3, user="bob"), limit=4, used=2)
    world.admin.set_tier("ada", "free")
    # Back in scope, and what she took on plus is not.
    world.take(1)
    world.take(1, user="bob")
    assert_total(world.consume(), limit=4, used=4)
    world.admin.set_tier("bob", "plus")
    assert world.consume(9, user="bob").allowed


def test_a_move_between_tiers_frees_nothing(world: World) -> None:
    world.limit("unlimited", tier="plus")
    world.throttle(total="3/hour", tiers=["free"])
    entry = world.take(3)
    world.admin.set_tier("ada", "plus")
    assert not world.consume(user="bob").allowed
    # Until it is given back, to the tier it was taken on.
    world.q.refund(entry_id=entry, amount=1)
    world.take(1, user="bob")
    assert not world.consume(user="bob").allowed


def test_users_on_the_default_tier_count_on_that(world: World) -> None:
    world.throttle(total="2/hour", tiers=["free"])
    world.take(1, user="never-heard-of")
    world.admin.set_default_tier("plus")
    world.take(3, user="nor-of-this-one")
    world.admin.set_tier("ada", "free")
    world.take(1)
    assert_total(world.consume(), limit=2, used=2)


def test_the_sums_go_on_over_a_tier_that_was_deleted(world: World) -> None:
    world.admin.set_tier("ada", "plus")
    world.take(3)
    world.throttle(total="5/hour")
    world.take(1, user="bob")
    world.admin.delete_tier("plus", move_to="free")
    assert_total(world.consume(2), limit=5, used=4)


# ---- what is given back


def test_a_refund_gives_room_to_whoever_comes_next(world: World) -> None:
    world.throttle(total="3/hour")
    entry = world.take(3)
    assert not world.consume(user="bob").allowed
    world.q.refund(entry_id=entry, amount=2)
    world.take(2, user="bob")
    assert_total(world.consume(), limit=3, used=3)


@pytest.mark.parametrize("period", ["minute", "hour", "90m", "day", "week"])
@pytest.mark.parametrize("when", ["before the flip", "before the first decision", "after it"])
def test_a_refund_of_what_was_taken_before_the_flip_counts_once(
    world: World, period: str, when: str
) -> None:
    world.at("2025-03-27T09:03:10Z")
    entry = world.take(4)
    world.take(1, user="bob")
    if when == "before the flip":
        world.q.refund(entry_id=entry, amount=3)
    world.throttle(total=f"5/{period}")
    if when == "before the first decision":
        world.q.refund(entry_id=entry, amount=3)
    if when == "after it":
        assert_total(world.consume(user="bob"), limit=5, used=5)
        world.q.refund(entry_id=entry, amount=3)
    assert_total(world.check(4, user="bob"), limit=5, used=2)
    world.take(3, user="eve")
    assert_total(world.consume(user="bob"), limit=5, used=5)


def test_a_refund_goes_back_into_the_window_in_which_it_was_taken(world: World) -> None:
    world.throttle(total="3/hour", no_expiry=True)
    entry = world.take(3)
    world.later(hours=1)
    world.take(3, user="bob")
    world.q.refund(entry_id=entry)
    assert_total(world.consume(user="eve"), limit=3, used=3)
    # For a week that holds both it is room.
    world.throttle(total="4/week")
    assert world.check(1, user="eve").used == 3
    assert world.sql("SELECT used FROM total WHERE period = 60 AND tier_id = 1") == [(0,), (3,)]


def test_a_refund_of_yesterday_gives_no_room_today(world: World) -> None:
    entry = world.take(3)
    world.later(days=1)
    world.throttle(total="2/day")
    world.take(2)
    world.q.refund(entry_id=entry)
    assert_total(world.consume(), limit=2, used=2)


def test_a_users_reset_gives_nothing_back_and_neither_do_later_refunds(world: World) -> None:
    world.limit("3/day")
    entry = world.take(3)
    world.throttle(total="5/day")
    world.throttle(total="5/hour")
    world.take(1, user="bob")
    assert world.admin.reset_user("ada", reason="wrong images").changed
    assert_total(world.check(2), limit=5, used=4)
    # ada's day began anew: there the refund goes nowhere, and so it does here.
    world.q.refund(entry_id=entry)
    assert_total(world.check(2), limit=5, used=4)
    world.take(1)
    assert_total(world.consume(), limit=5, used=5)


@pytest.mark.parametrize("period", ["hour", "90m", "day"])
def test_a_reset_before_the_flip_gives_nothing_back_either(world: World, period: str) -> None:
    entry = world.take(3)
    other = world.take(3, user="bob")
    world.q.refund(entry_id=entry, amount=1)
    world.admin.reset_user("ada", reason="wrong images")
    world.q.refund(entry_id=entry, amount=1)
    world.q.refund(entry_id=other, amount=1)
    world.throttle(total=f"9/{period}")
    # Of ada's 3 one was given back before the reset; bob's 3 less 1.
    assert_total(world.check(9, user="eve"), limit=9, used=4)


def test_a_total_of_a_week_makes_no_reset_reach_further_back(world: World) -> None:
    world.take(5)
    world.later(days=1)
    world.take(2)
    world.throttle(total="50/week")
    assert world.admin.reset_user("ada", reason="failed renders").item["freed"] == {"image": 2}
    assert [used for used, *_ in world.counters()] == [5, 0]


def test_a_hold_counts_until_it_is_settled(world: World) -> None:
    world.throttle(total="4/hour")
    posted, voided = world.hold(2), world.hold(2, user="bob")
    assert_total(world.consume(user="eve"), limit=4, used=4)
    world.q.void(voided)
    assert world.check(user="eve").remaining == 2
    world.q.post(posted, 1)
    assert world.check(user="eve").remaining == 3


@pytest.mark.parametrize("asks", ["check", "consume"])
@pytest.mark.parametrize("flip", ["before", "after", "last"])
def test_a_hold_that_timed_out_is_room_for_others_without_a_job(
    world: World, asks: str, flip: str
) -> None:
    if flip == "before":
        world.throttle(total="4/hour")
    world.hold(4, ttl_s=60)
    if flip == "after":
        world.throttle(total="4/hour")
        assert not world.consume(user="bob").allowed
    world.at("2025-03-27T09:00:59.999Z")
    if flip == "last":
        world.throttle(total="4/hour")
    assert not world.check(user="bob").allowed
    world.at("2025-03-27T09:01:00Z")
    # Nobody has asked for ada since, and no day was closed.
    decision = world.q.check if asks == "check" else world.q.consume
    asked = decision(user="bob", resource="image", amount=4)
    assert (asked.allowed, asked.limit) == (True, 4)
    assert world.count("entry") == (1 if asks == "check" else 3)


def test_a_batch_that_frees_holds_decides_as_if_its_items_came_one_by_one(world: World) -> None:
    world.limit("0/day")
    grant_id = world.grant(3)
    world.throttle(total="3/hour")
    world.hold(3, ttl_s=60)
    world.later(seconds=60)
    world.admin.set_override(user="bob", resource="image", limit="9/day", reason="r")
    # bob's request frees ada's hold, and with it the grant that paid for it.
    answers = world.q.consume_many([Request("bob", "image", 1), Request("ada", "image", 2)])
    assert [isinstance(a, Decision) and a.allowed for a in answers] == [True, True]
    assert world.balance(grant_id) == 1
    assert_total(world.check(user="bob"), limit=3, used=3)


Step = Callable[[Batch, int], Any]


def consume(user: str, amount: int) -> Step:
    return lambda batch, now_ms: batch.consume(Request(user, "image", amount), now_ms)


def refund(entry_id: int, amount: int) -> Step:
    return lambda batch, now_ms: batch.refund(now_ms, entry_id=entry_id, amount=amount)


@pytest.mark.parametrize("period", ["minute", "week"])
def test_splitting_a_batch_anywhere_changes_no_answer(make_world: MakeWorld, period: str) -> None:
    """Refunds before and after the window is summed up, of it and of others, in one batch."""

    def run(split: int) -> tuple[Any, ...]:
        world = make_world(at="2025-03-26T23:59:30Z")
        world.limit("9/day")
        entries = [world.take(3)]
        world.at("2025-03-27T00:00:30Z")
        entries += [world.take(2), world.take(2, user="bob")]
        world.admin.set_tier("pia", "plus")
        entries += [world.take(1, user="pia")]
        hold = world.hold(1, user="bob", ttl_s=1)
        world.hold(2, user="eve", ttl_s=1)
        world.throttle(total=f"9/{period}", tiers=["free", "plus"], no_expiry=True)
        world.later(seconds=2)
        steps: list[Step] = [
            refund(entries[1], 1),
            refund(entries[0], 2),
            consume("bob", 2),
            refund(entries[2], 2),
            consume("pia", 3),
            consume("eve", 5),
            lambda batch, now_ms: batch.void(hold, now_ms),
            refund(entries[3], 1),
            refund(entries[1], 1),
            consume("ada", 4),
            consume("ada", 1),
        ]
        now_ms = int(world.now.timestamp() * 1000)
        answers = []
        for part in (steps[:split], steps[split:]):
            with world.q.engine.writing() as book:
                batch = Batch(book)
                answers += [step(batch, now_ms).to_dict() for step in part]
                batch.store(book)
        shown = [decision_without_ids(answer) for answer in answers]
        tables = [
            world.sql(f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4, 5, 6")
            for table in ("demand", "counter")
        ]
        kept = world.sql("SELECT * FROM total WHERE used > 0 ORDER BY 1, 2, 3, 4")
        world.verified()
        return shown, tables, kept

    whole = run(0)
    assert any(answer.get("reason") == "throttled" for answer in whole[0])
    for split in range(1, 12):
        assert run(split) == whole, f"split before step {split}"


def decision_without_ids(answer: dict[str, Any]) -> dict[str, Any]:
    # A hold that timed out is freed by whoever comes first, which moves the ids after it.
    return {name: value for name, value in answer.items() if not name.endswith("entry_id")}


# ---- beside everything else


def test_a_limit_of_ones_own_denies_as_ever(world: World) -> None:
    world.limit("2/day")
    world.throttle(total="10/hour")
    world.take(2)
    denied = world.consume()
    assert (denied.reason, denied.rule.kind, denied.limit) == ("limit_reached", "tier", 2)


def test_who_would_be_refused_anyway_is_not_called_throttled(world: World) -> None:
    world.limit("2/day")
    world.throttle(total="2/day")
    world.take(2)
    assert world.consume().reason == "limit_reached"
    assert world.consume(user="bob").reason == "throttled"


def test_of_two_totals_each_holds(world: World) -> None:
    hourly = world.throttle(total="3/hour", no_expiry=True)
    daily = world.throttle(total="5/day", no_expiry=True)
    world.take(3)
    assert_total(world.consume(), limit=3, used=3, rule=hourly)
    world.later(hours=1)
    world.take(2, user="bob")
    assert_total(world.consume(), limit=5, used=5, rule=daily)


def test_where_two_totals_refuse_the_latest_reset_is_named(world: World) -> None:
    world.throttle(total="3/hour", no_expiry=True)
    daily = world.throttle(total="3/day", no_expiry=True)
    world.take(3)
    assert_total(world.consume(), limit=3, used=3, rule=daily)


def test_of_two_totals_for_one_window_the_older_is_named(world: World) -> None:
    first = world.throttle(total="3/day")
    world.throttle(total="3/day", tiers=["free"])
    # Before a cap of one's own for the same window too.
    cap = world.throttle(cap="1/day")
    assert world.consume(4).rule.id == first
    world.take(1)
    assert world.consume(1).rule.id == cap


def test_a_total_for_all_and_one_for_a_tier_each_count_their_own(world: World) -> None:
    world.admin.set_tier("pia", "plus")
    everybody = world.throttle(total="6/hour")
    free = world.throttle(total="3/hour", tiers=["free"])
    world.take(3)
    assert_total(world.consume(), limit=3, used=3, rule=free)
    world.take(3, user="pia")
    assert_total(world.consume(user="pia"), limit=6, used=6, rule=everybody)


def test_totals_stack_with_caps_and_scales(world: World) -> None:
    world.limit("10/day")
    cap = world.throttle(cap="4/day")
    total = world.throttle(total="6/hour")
    world.take(4)
    assert world.consume().rule.id == cap
    world.take(2, user="bob")
    assert_total(world.consume(user="bob"), limit=6, used=6, rule=total)
    world.admin.throttle_off(total, reason="cool")
    world.throttle(scale=30)
    assert world.consume(2, user="bob").limit == 3


def test_when_allowed_the_tightest_window_is_shown_a_total_too(world: World) -> None:
    world.limit("5/day")
    world.take(2)
    world.throttle(total="6/day", no_expiry=True)
    # Three are left of each, and of all that are left her own is shown.
    assert (world.check().rule.kind, world.check().remaining) == ("tier", 3)
    assert (world.check(user="bob").rule.kind, world.check(user="bob").remaining) == ("throttle", 4)
    shown = world.consume(2, user="bob")
    assert (shown.limit, shown.used, shown.remaining, shown.period) == (6, 4, 2, "day")


def test_a_total_is_shown_with_all_units_also_those_that_grants_paid(world: World) -> None:
    world.limit("1/day")
    world.grant(9)
    world.throttle(total="2/week")
    # As many are left of both, and the week is longer.
    shown = world.consume(2)
    assert (shown.granted, shown.period, shown.used, shown.remaining) == (1, "week", 2, 0)


def test_a_block_goes_before_a_total_and_takes_nothing(world: World) -> None:
    world.throttle(total="1/hour")
    world.admin.block("ada", reason="abuse")
    assert world.consume().reason == "blocked"
    world.take(1, user="bob")
    assert world.consume().reason == "blocked"
    assert not world.consume(user="bob").allowed


def test_not_to_have_a_resource_goes_before_a_total(world: World) -> None:
    world.admin.create_resource("video")
    world.throttle(total="0/hour")
    assert world.consume(resource="video").reason == "not_in_tier"


@pytest.mark.parametrize("mode", ["shadow", "off"])
def test_what_enforcement_lets_pass_counts(world: World, mode: str) -> None:
    world.throttle(total="2/hour")
    world.admin.enforcement_set(mode, reason="trial")
    passed = world.consume(3)
    assert (passed.allowed, passed.would_be) == (True, "throttled" if mode == "shadow" else None)
    world.admin.enforcement_set("on", reason="done")
    assert_total(world.consume(user="bob"), limit=2, used=3)


def test_a_drill_denies_nothing_and_counts_what_it_would_have(world: World) -> None:
    world.take(2)
    switch_id = drill(world, total="3/hour")
    assert world.consume(1, user="bob").would_be is None
    passed = world.consume(2, user="bob")
    assert (passed.allowed, passed.reason, passed.would_be) == (True, "ok", "throttled")
    assert (passed.rule.kind, passed.limit) == ("tier", 100)
    assert world.counters(user="bob") == [(3, 0, 0, 2)]
    assert world.sql(
        "SELECT rule_kind, rule_id, shadow_denied FROM demand WHERE shadow_denied > 0"
    ) == [("throttle", switch_id, 2)]


def test_a_drill_counts_in_its_own_window_what_comes_after_it_began(world: World) -> None:
    world.take(1)
    drill(world, cap="2/hour")
    assert [world.consume().would_be for _ in range(3)] == [None, None, "throttled"]
    assert world.counters(period=60) == [(3, 0, 0, 1)]


def test_a_total_tells_what_end_users_are_to_be_told(world: World) -> None:
    world.throttle(total="1/hour", message="Images are back at noon.")
    assert world.consume().message is None
    denied = world.consume(user="bob")
    assert denied.message == "Images are back at noon."
    assert denied.to_dict()["message"] == "Images are back at noon."


# ---- when it passes again


def test_the_moment_to_retry_is_the_windows_reset(world: World) -> None:
    world.throttle(total="2/hour", no_expiry=True)
    world.take(2, user="bob")
    world.at("2025-03-27T09:59:30.400Z")
    assert world.consume().retry_after_s == 30
    world.later(seconds=30)
    assert world.consume().allowed


def test_the_moment_to_retry_is_the_throttles_end_where_that_is_sooner(world: World) -> None:
    world.throttle(total="2/day", duration="2h")
    world.take(2, user="bob")
    assert world.consume().retry_after_s == 7200
    # Of a request that no window can have it is the end too.
    assert world.consume(3).retry_after_s == 7200


def test_there_is_no_moment_to_retry_for_more_than_a_total_without_end(world: World) -> None:
    world.throttle(total="2/hour", no_expiry=True)
    assert world.consume(3).retry_after_s is None
    assert world.consume(2).allowed


def test_the_moment_to_retry_looks_over_several_totals(world: World) -> None:
    world.throttle(total="2/hour", no_expiry=True)
    world.throttle(total="2/day", duration="90m")
    world.take(2)
    # The hour is over at ten, the day's total at half past.
    after_s = world.consume(user="bob").retry_after_s
    assert after_s == 5400
    world.later(seconds=after_s)
    assert world.consume(user="bob").allowed


# ---- capacity: a total that is always there


def test_a_capacity_is_a_limit_of_everybody_and_no_throttle(world: World) -> None:
    world.take(2)
    capacity(world, "5/day")
    world.take(3, user="bob")
    denied = world.consume(user="eve")
    assert (denied.reason, denied.rule.kind, denied.rule.name) == (
        "limit_reached",
        "resource",
        "image",
    )
    assert (denied.limit, denied.used, denied.remaining, denied.period) == (5, 5, 0, "day")
    assert denied.retry_after_s == 15 * 3600
    world.later(days=1)
    assert world.consume(5, user="eve").allowed


@pytest.mark.parametrize("period", ["minute", "hour", "90m", "day", "week", "month"])
def test_a_capacity_counts_what_its_window_had_and_goes_on(world: World, period: str) -> None:
    world.at("2025-03-27T09:03:10Z")
    world.take(2)
    capacity(world, f"3/{period}")
    world.take(1, user="bob")
    assert world.consume(user="eve").used == 3
    # As other totals it is forgotten when it is lifted, and summed up when it is back.
    capacity(world, None)
    assert world.count("total") == 0
    world.take(2, user="bob")
    capacity(world, f"6/{period}")
    assert world.consume(2, user="eve").used == 5
    world.take(1)
    assert not world.consume().allowed


def test_protected_ones_pass_a_capacity_and_count(world: World) -> None:
    capacity(world, "3/day")
    world.admin.protect("eve")
    world.take(7, user="eve")
    assert world.consume().used == 7


def test_grants_do_not_pay_a_capacity(world: World) -> None:
    world.limit("1/day")
    world.grant(9)
    capacity(world, "2/day")
    world.take(2)
    denied = world.consume()
    assert (denied.reason, denied.rule.kind) == ("limit_reached", "resource")


def test_under_a_capacity_and_a_total_the_lower_holds_and_is_named(world: World) -> None:
    capacity(world, "5/day")
    throttle_id = world.throttle(total="3/day")
    world.take(3)
    assert_total(world.consume(), limit=3, used=3, rule=throttle_id)
    # Refused anyway.
    denied = world.consume(3)
    assert (denied.reason, denied.rule.kind, denied.limit) == ("limit_reached", "resource", 5)
    world.admin.throttle_off(throttle_id, reason="cool")
    world.take(2)
    assert world.consume().rule.kind == "resource"


def test_not_to_have_a_resource_goes_before_there_being_none_left(world: World) -> None:
    world.admin.create_resource("video")
    capacity(world, "0/day", resource="video")
    assert world.consume(resource="video").reason == "not_in_tier"
    world.admin.add_grant(user="ada", resource="video", amount=5, reason="goodwill")
    # The grant would pay it whole; but there is none.
    assert world.consume(resource="video").reason == "limit_reached"


# ---- what is kept


def test_nothing_is_kept_while_no_ceiling_over_everybody_needs_it(world: World) -> None:
    world.take(2)
    assert world.count("total") == 0
    throttle_id = world.throttle(total="9/hour")
    world.take(2)
    assert world.count("total") > 0
    world.throttle(cap="9/day")
    assert world.count("total") > 0
    world.admin.throttle_off(throttle_id, reason="cool")
    assert world.count("total") == 0


def test_of_a_week_the_days_so_far_are_kept(world: World) -> None:
    world.throttle(total="9/week")
    world.take(2)
    # It is Thursday.
    assert world.sql("SELECT used FROM total WHERE tier_id = 0") == [(0,)] * 4
    assert sums(world, 1440) == [(1, 2)]


def test_a_close_forgets_windows_that_no_week_or_month_reaches(world: World) -> None:
    world.throttle(total="9/hour", no_expiry=True)
    world.take(1)
    world.later(days=40)
    world.take(2)
    world.q.close_days()
    assert sums(world) == [(1, 2)]


def test_a_close_forgets_the_sums_of_a_total_that_is_over(world: World) -> None:
    world.throttle(total="9/hour")
    world.take(1)
    world.later(days=1, hours=1)
    world.q.close_days()
    assert world.count("total") == 0


def test_a_refund_into_a_window_that_was_forgotten_is_nobodys_harm(world: World) -> None:
    world.throttle(total="9/hour", no_expiry=True)
    entry = world.take(2)
    world.later(days=8)
    world.q.close_days()
    world.q.refund(entry_id=entry)
    world.take(9)
    assert_total(world.consume(), limit=9, used=9)


# ---- verify


@pytest.fixture
def lived(world: World) -> World:
    """Totals of an hour and a week over two tiers, with everything that changes sums."""
    world.admin.set_tier("pia", "plus")
    world.take(2)
    world.throttle(total="20/hour", no_expiry=True)
    world.throttle(total="90/week", no_expiry=True)
    first = world.take(3, user="pia")
    world.take(1, user="bob")
    world.q.void(world.hold(2))
    world.hold(1, ttl_s=86_400 * 2)
    world.q.refund(entry_id=first, amount=1)
    world.admin.reset_user("bob", reason="r")
    world.later(days=1)
    world.take(2, user="bob")
    world.q.close_days()
    assert world.q.verify().ok
    assert sums(world) == [(1, 4), (2, 2), (1, 2)]
    return world


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE total SET used = used + 1 WHERE period = 60 AND tier_id = 1 AND used = 4",
        "UPDATE total SET used = used - 1 WHERE period = 60 AND tier_id = 2",
        "UPDATE total SET used = 5 WHERE tier_id = 0",
        "UPDATE total SET used = 3 WHERE period = 1440 AND used = 2",
        "UPDATE total SET tier_id = 3 WHERE tier_id = 2",
        "DELETE FROM total WHERE tier_id = 1",
        "DELETE FROM total WHERE period = 1440 AND tier_id = 2",
        "INSERT INTO total SELECT resource_id, 60, starts_at_ms + 3600000, 1, 4 FROM total LIMIT 1",
    ],
)
def test_verify_names_a_sum_of_everybody_that_was_edited(lived: World, statement: str) -> None:
    lived.tamper(statement)
    assert lived.found() == {"total.used"}


def test_verify_says_which_sum_differs(lived: World) -> None:
    lived.tamper("UPDATE total SET used = 40 WHERE period = 60 AND used = 4")
    (difference,) = lived.q.verify().differences
    assert difference.to_dict() == {
        "what": "total.used",
        "where": "image hour 2025-03-27T09:00:00Z tier 1",
        "expected": 4,
        "found": 40,
    }


def test_an_entry_that_was_slipped_in_is_missing_from_the_sums(lived: World) -> None:
    lived.tamper(
        "INSERT INTO entry (at_ms, kind, user_id, resource_id, tier_id, amount, granted, day_ms) "
        "SELECT at_ms, 1, user_id, resource_id, tier_id, 1, 0, day_ms FROM entry WHERE amount = 3"
    )
    assert "total.used" in lived.found()


def test_verify_finds_no_fault_with_windows_that_are_not_kept(world: World) -> None:
    world.take(3)
    world.later(hours=1)
    world.throttle(total="9/hour", no_expiry=True)
    world.take(2)
    world.admin.create_resource("video")
    assert world.q.verify().ok
    # Nor where a resource is retired, which may be refunded still.
    entry = world.take(1)
    world.admin.delete_resource("image")
    world.q.refund(entry_id=entry)
    assert world.q.verify().ok


def test_verify_goes_by_the_windows_from_the_checkpoint_on(world: World) -> None:
    world.throttle(total="90/hour", no_expiry=True)
    world.throttle(total="90/month", no_expiry=True)
    entry = world.take(3)
    world.later(days=80)
    world.take(4)
    assert world.q.close_days().pruned_entries > 0
    with pytest.raises(NotFound):
        world.q.refund(entry_id=entry)
    world.later(minutes=1)
    assert world.q.verify().ok
    assert world.check().used == 4


def test_verify_knows_a_refund_of_what_is_pruned_by_now(world: World) -> None:
    world.throttle(total="90/hour", no_expiry=True)
    entry = world.take(3)
    world.at("2025-05-02T09:00:00Z")
    world.q.refund(entry_id=entry)
    world.take(4)
    assert world.q.close_days().pruned_entries == 1
    assert world.count("entry") == 2
    assert sums(world) == [(1, 4)]
    assert world.q.verify().ok


def test_a_total_is_refused_where_it_is_none(world: World) -> None:
    for total in ("5", "unlimited", "5/day,1/hour", "-1/day", "1.5/day", "5/24h"):
        with pytest.raises(InvalidInput):
            world.admin.throttle_on(total=total, reason="r")
    assert world.count("switch") == 0


def test_another_total_for_the_same_window_needs_replace_and_counts_on(world: World) -> None:
    world.throttle(total="5/hour")
    world.take(4)
    with pytest.raises(Conflict):
        world.admin.throttle_on(total="9/hour", reason="r")
    assert not world.admin.throttle_on(total="5/hour", reason="r").changed
    world.throttle(cap="50/hour")  # another kind
    world.throttle(total="9/hour", replace=True)
    assert_total(world.check(6, user="bob"), limit=9, used=4)
