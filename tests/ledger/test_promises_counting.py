"""DESIGN §3, promises 1 to 6: counting."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from quotactl import ClockBehind, Conflict, InvalidInput
from quotactl.operations.close import close_status

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import MakeWorld, World

AMOUNT_MAX = 2**53 - 1

# ---- 1. A denied request takes nothing


def test_denied_consume_takes_nothing(world: World) -> None:
    world.take(2)
    denied = world.consume(2)
    assert (denied.allowed, denied.reason, denied.entry_id) == (False, "limit_reached", None)
    assert (denied.used, denied.remaining) == (2, 1)
    assert world.consume(1).allowed
    assert world.counters() == [(3, 0, 2, 0)]


def test_denied_reserve_takes_nothing(world: World) -> None:
    denied = world.q.reserve(user="ada", resource="image", amount=4)
    assert (denied.allowed, denied.reservation_id) == (False, None)
    assert world.counters() == [(0, 0, 4, 0)]
    assert world.count("reservation") == 0
    world.take(3)


def test_denied_consume_leaves_grants_alone(world: World) -> None:
    grant_id = world.grant(2)
    assert not world.consume(6).allowed
    assert world.balance(grant_id) == 2
    assert world.consume(5).granted == 2


# ---- 2. Never over-admitted (with many processes: tests/processes)


def test_no_sequence_of_amounts_exceeds_the_limit(world: World) -> None:
    world.limit("10/day")
    admitted = sum(amount for amount in (4, 7, 3, 5, 2, 2, 1, 1) if world.consume(amount).allowed)
    assert admitted == 10
    assert world.counters()[0][0] == 10


def test_two_connections_share_one_limit(world: World) -> None:
    other = world.reopened()
    asked = [
        (world.q if turn % 2 else other).consume(user="ada", resource="image").allowed
        for turn in range(6)
    ]
    assert asked == [True, True, True, False, False, False]


def test_a_limit_lowered_below_what_was_used_admits_nothing_more(world: World) -> None:
    world.take(3)
    world.limit("2/day")
    denied = world.consume()
    assert (denied.allowed, denied.limit, denied.used, denied.remaining) == (False, 2, 3, 0)


# ---- 3. Changing a limit, a tier or a throttle keeps what was used


def test_a_new_limit_keeps_what_was_used(world: World) -> None:
    world.take(3)
    world.limit("5/day")
    assert world.check().remaining == 2
    world.limit("3/day")
    assert not world.consume().allowed


def test_a_new_tier_keeps_what_was_used(world: World) -> None:
    world.take(3)
    world.admin.set_tier("ada", "plus")
    assert world.consume().allowed
    assert world.counters() == [(4, 0, 0, 0)]
    world.admin.set_tier("ada", "free")
    assert world.check().used == 4


def test_a_throttle_on_and_off_keeps_what_was_used(world: World) -> None:
    world.take(2)
    throttle_id = world.throttle(cap="1/day")
    assert world.check().used == 2
    world.admin.throttle_off(throttle_id, reason="cool again")
    assert world.check().used == 2


@pytest.mark.parametrize("period", ["week", "month"])
def test_a_new_week_or_month_limit_counts_what_came_before(world: World, period: str) -> None:
    world.take(2)
    world.later(days=1)
    world.take(1)
    world.limit(f"10/day,4/{period}")
    decision = world.check()
    assert (decision.period, decision.used, decision.remaining) == (period, 3, 1)
    world.take(1)
    assert world.consume().reason == "limit_reached"


def test_a_cap_per_week_counts_what_came_before_it(world: World) -> None:
    world.take(3)
    world.later(days=1)
    world.throttle(cap="4/week")
    assert world.consume().allowed
    denied = world.consume()
    assert (denied.reason, denied.period, denied.used) == ("throttled", "week", 4)


@pytest.mark.parametrize("period", ["week", "month"])
def test_an_override_per_week_or_month_counts_what_came_before_it(
    world: World, period: str
) -> None:
    world.take(3)
    world.later(days=1)
    world.admin.set_override(user="ada", resource="image", limit=f"4/{period}", reason="vip")
    decision = world.check()
    assert (decision.period, decision.used, decision.remaining) == (period, 3, 1)
    assert world.consume(2).reason == "limit_reached"


def test_a_new_shorter_period_starts_at_zero(world: World) -> None:
    world.take(3)
    world.limit("10/day,3/hour")
    decision = world.check()
    assert (decision.period, decision.used, decision.remaining) == ("hour", 0, 3)
    world.take(3)
    assert world.consume().period == "hour"


def test_a_user_on_a_tier_without_short_limits_is_charged_no_short_window(world: World) -> None:
    world.take(3)
    world.admin.set_tier("ada", "plus")
    world.take(5)
    assert world.consume().period == "minute"
    assert world.counters(period=1) == [(5, 0, 1, 0)]
    assert world.counters() == [(8, 0, 1, 0)]


# ---- 4. A day is a calendar day in the ledger's zone


def test_a_day_ends_before_its_end(world: World) -> None:
    world.at("2025-03-27T23:59:59.999Z")
    world.take(3)
    denied = world.consume()
    assert denied.to_dict()["reset_at"] == "2025-03-28T00:00:00Z"
    assert denied.retry_after_s == 1
    world.at("2025-03-28T00:00:00Z")
    world.take(3)


def test_a_minute_ends_before_its_end(world: World) -> None:
    world.admin.set_tier("ada", "plus")
    world.at("2025-03-27T09:00:59.999Z")
    world.take(5)
    assert world.consume().to_dict()["reset_at"] == "2025-03-27T09:01:00Z"
    world.at("2025-03-27T09:01:00Z")
    world.take(5)


def test_a_multiple_of_hours_is_aligned_to_the_epoch(world: World) -> None:
    world.limit("2/5h")
    start_s = int(world.now.timestamp()) // (5 * 3600) * 5 * 3600
    world.take(2)
    denied = world.consume()
    assert denied.period == "5h"
    assert denied.reset_at is not None
    assert int(denied.reset_at.timestamp()) == start_s + 5 * 3600


def test_a_day_follows_the_zone_and_not_utc(rome: World) -> None:
    rome.at("2025-03-28T22:59:59Z")
    rome.take(3)
    assert not rome.consume().allowed
    rome.at("2025-03-28T23:00:00Z")
    rome.take(3)


def test_a_week_starts_on_monday(world: World) -> None:
    world.limit("3/week")
    world.at("2025-03-30T23:59:59Z")
    world.take(3)
    denied = world.consume()
    assert denied.to_dict()["reset_at"] == "2025-03-31T00:00:00Z"
    world.at("2025-03-31T00:00:00Z")
    world.take(3)


def test_a_month_starts_on_its_first(world: World) -> None:
    world.limit("3/month")
    world.at("2025-03-31T23:59:59Z")
    world.take(3)
    assert world.consume().to_dict()["reset_at"] == "2025-04-01T00:00:00Z"
    world.at("2025-04-01T00:00:00Z")
    world.take(3)


@pytest.mark.parametrize(
    ("start", "inside", "end"),
    [
        # 23 hours: 02:00 to 03:00 does not exist.
        ("2025-03-29T23:00:00Z", "2025-03-30T21:59:59.999Z", "2025-03-30T22:00:00Z"),
        # 25 hours: 02:00 to 03:00 comes twice.
        ("2025-10-25T22:00:00Z", "2025-10-26T22:59:59.999Z", "2025-10-26T23:00:00Z"),
    ],
)
def test_a_day_on_which_clocks_change_is_one_window(
    make_world: MakeWorld, start: str, inside: str, end: str
) -> None:
    world = make_world(zone="Europe/Rome", at=start)
    world.take(2)
    world.at(inside)
    world.take(1)
    denied = world.consume()
    assert (denied.allowed, denied.used) == (False, 3)
    assert denied.to_dict()["reset_at"] == end
    world.at(end)
    world.take(3)


@pytest.mark.parametrize(
    ("zone", "before", "after"),
    [
        # No midnight: the day starts at 01:00 by the clock.
        ("Africa/Cairo", "2026-04-23T21:59:59Z", "2026-04-23T22:00:00Z"),
        ("Asia/Beirut", "2025-03-29T21:59:59Z", "2025-03-29T22:00:00Z"),
        # Midnight comes twice: the day starts with the first.
        ("America/Havana", "2025-11-02T03:59:59Z", "2025-11-02T04:00:00Z"),
        # The 30th of December 2011 did not exist.
        ("Pacific/Apia", "2011-12-30T09:59:59Z", "2011-12-30T10:00:00Z"),
    ],
)
def test_a_day_starts_with_its_first_existing_instant(
    make_world: MakeWorld, zone: str, before: str, after: str
) -> None:
    world = make_world(zone=zone, at=before)
    world.take(3)
    assert world.consume().to_dict()["reset_at"] == after
    world.at(after)
    world.take(3)


def test_midnight_that_comes_twice_opens_one_day(make_world: MakeWorld) -> None:
    world = make_world(zone="America/Havana", at="2025-11-02T04:00:00Z")
    world.take(3)
    # 00:00 again, an hour later, and 23 hours after that the day is still the same.
    world.at("2025-11-02T05:00:00Z")
    assert not world.consume().allowed
    world.at("2025-11-03T04:59:59Z")
    assert not world.consume().allowed
    world.at("2025-11-03T05:00:00Z")
    world.take(3)


def test_a_month_is_the_sum_of_its_days_across_a_change_of_clocks(rome: World) -> None:
    rome.limit("10/day,5/month")
    for at in ("2025-03-29T22:59:59Z", "2025-03-29T23:00:00Z", "2025-03-30T21:59:59Z"):
        rome.at(at)
        rome.take(1)
    rome.at("2025-03-30T22:00:00Z")
    rome.take(2)
    denied = rome.consume()
    assert (denied.period, denied.used) == ("month", 5)
    assert denied.to_dict()["reset_at"] == "2025-03-31T22:00:00Z"
    assert [used for used, *_ in rome.counters()] == [1, 2, 2]
    rome.at("2025-03-31T22:00:00Z")
    rome.take(5)


def test_a_month_with_25_hours_in_a_day_adds_up(make_world: MakeWorld) -> None:
    world = make_world(zone="Europe/Rome", at="2025-10-25T21:59:59Z")
    world.limit("10/day,4/month")
    for at in ("2025-10-25T21:59:59Z", "2025-10-25T22:00:00Z", "2025-10-26T22:59:59Z"):
        world.at(at)
        world.take(1)
    world.at("2025-10-31T22:59:59Z")
    world.take(1)
    assert world.consume().used == 4
    world.at("2025-10-31T23:00:00Z")
    world.take(4)


@pytest.mark.parametrize("limit", ["3/24h", "3/2d", "3/1440m", "3/1d"])
def test_a_multiple_of_a_day_is_refused_with_the_hint_day(world: World, limit: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        world.limit(limit)
    assert "day" in (caught.value.hint or "")
    assert caught.value.exit_code == 2


def with_zone(policy: str, zone: str) -> str:
    return f'zone = "{zone}"\n' + "".join(
        line for line in policy.splitlines(keepends=True) if not line.startswith("zone")
    )


def test_the_zone_can_change_before_the_first_entry(world: World) -> None:
    world.admin.apply_policy(with_zone(world.admin.export_policy(), "Europe/Rome"))
    world.at("2025-03-27T22:59:59Z")
    world.take(3)
    world.at("2025-03-27T23:00:00Z")
    world.take(3)


def test_the_zone_cannot_change_after_the_first_entry(world: World) -> None:
    world.take(1)
    with pytest.raises(Conflict):
        world.admin.apply_policy(with_zone(world.admin.export_policy(), "Europe/Rome"))
    assert world.sql("SELECT zone FROM ledger") == [("UTC",)]


def test_the_database_too_refuses_another_zone_after_the_first_entry(world: World) -> None:
    import sqlite3

    world.sql("UPDATE ledger SET zone = 'Europe/Paris'")
    world.sql("UPDATE ledger SET zone = 'UTC'")
    world.take(1)
    with pytest.raises(sqlite3.IntegrityError, match="zone cannot change"):
        world.sql("UPDATE ledger SET zone = 'Europe/Rome'")


def test_the_zone_cannot_change_once_all_entries_are_pruned(world: World) -> None:
    world.take(1)
    world.later(days=90)
    assert world.q.close_days().pruned_entries == 1
    assert world.count("entry") == 0
    with pytest.raises(Conflict):
        world.admin.apply_policy(with_zone(world.admin.export_policy(), "Europe/Rome"))


def test_a_ledger_whose_zone_changed_after_a_close_can_be_closed_again(world: World) -> None:
    world.later(days=2)
    assert len(world.q.close_days().closed) == 2
    try:
        world.admin.apply_policy(with_zone(world.admin.export_policy(), "America/New_York"))
    except Conflict:
        return  # refusing is as good
    world.later(days=2)
    world.q.close_days()
    world.take(1)


def test_a_ledger_whose_zone_changed_after_a_denial_verifies(world: World) -> None:
    world.limit("0/day")
    assert not world.consume().allowed
    try:
        world.admin.apply_policy(with_zone(world.admin.export_policy(), "Asia/Tokyo"))
    except Conflict:
        return  # refusing is as good
    assert not world.consume().allowed
    world.verified()


# ---- 5. A new window needs no job


def test_a_missed_close_denies_nobody_and_lets_nobody_through(world: World) -> None:
    world.take(3)
    for _ in range(10):
        world.later(days=1)
        world.take(3)
        assert not world.consume().allowed


def test_closing_a_day_gives_nobody_anything(world: World) -> None:
    world.later(days=1)
    world.take(3)
    world.q.close_days()
    assert not world.consume().allowed


def test_a_day_can_be_closed_ten_minutes_after_its_end(world: World) -> None:
    world.at("2025-03-28T00:09:59.999Z")
    assert world.q.close_days().closed == ()
    world.at("2025-03-28T00:10:00Z")
    assert [day.day for day in world.q.close_days().closed] == ["2025-03-27"]


def test_the_first_day_to_close_is_that_of_the_ledgers_creation(world: World) -> None:
    world.at("2025-03-29T12:00:00Z")
    world.take(1)
    assert [day.day for day in world.q.close_days().closed] == ["2025-03-27", "2025-03-28"]


def test_the_first_day_to_close_is_that_of_an_entry_before_the_creation(world: World) -> None:
    world.at("2025-03-25T12:00:00Z")
    world.take(2)
    world.at("2025-03-28T12:00:00Z")
    closed = world.q.close_days().closed
    assert [(day.day, day.used) for day in closed] == [
        ("2025-03-25", 2),
        ("2025-03-26", 0),
        ("2025-03-27", 0),
    ]


def test_a_machine_that_was_off_for_four_days_catches_up(world: World) -> None:
    world.take(2)
    world.at("2025-03-31T00:05:00Z")
    # The 30th ended five minutes ago: not yet.
    closing = world.q.close_days()
    assert [day.day for day in closing.closed] == ["2025-03-27", "2025-03-28", "2025-03-29"]
    world.at("2025-04-01T03:00:00Z")
    closing = world.q.close_days()
    assert [day.day for day in closing.closed] == ["2025-03-30", "2025-03-31"]
    assert [row[0] for row in world.sql("SELECT day FROM closed_day ORDER BY 1")] == [
        f"2025-03-{day}" for day in range(27, 32)
    ]


def test_what_is_due_is_exactly_what_a_close_would_close(world: World) -> None:
    world.at("2025-03-29T00:09:59.999Z")
    status = close_status(world.q.engine, world.q.now_ms())
    assert (status.last_closed, status.next_day, status.due) == (
        None,
        "2025-03-27",
        ("2025-03-27",),
    )
    world.at("2025-03-29T00:10:00Z")
    status = close_status(world.q.engine, world.q.now_ms())
    assert status.due == ("2025-03-27", "2025-03-28")
    assert tuple(day.day for day in world.q.close_days().closed) == status.due
    status = close_status(world.q.engine, world.q.now_ms())
    assert (status.last_closed, status.next_day, status.due) == ("2025-03-28", "2025-03-29", ())


def test_closing_twice_is_the_same_as_once(world: World) -> None:
    world.take(2)
    world.hold(1, ttl_s=60)
    world.later(days=2)
    first = world.q.close_days()
    assert (len(first.closed), first.expired_reservations) == (2, 1)
    before = [world.sql(f"SELECT * FROM {t}") for t in ("entry", "audit", "closed_day", "counter")]
    second = world.q.close_days()
    assert (second.closed, second.expired_reservations, second.pruned_entries) == ((), 0, 0)
    assert second.audit_hash == first.audit_hash
    assert before == [
        world.sql(f"SELECT * FROM {t}") for t in ("entry", "audit", "closed_day", "counter")
    ]


def test_a_closed_day_has_its_totals(world: World) -> None:
    world.take(3)
    world.take(1, user="bob")
    assert not world.consume(2).allowed
    grant_id = world.grant(4)
    world.take(2)
    assert world.balance(grant_id) == 2
    world.later(days=1)
    (day,) = world.q.close_days().closed
    assert (day.users, day.requests, day.used, day.granted, day.denied) == (2, 4, 4, 2, 2)


@pytest.mark.parametrize(
    ("at", "until", "day", "hours"),
    [
        ("2025-03-30T10:00:00Z", "2025-03-31T10:00:00Z", "2025-03-30", 23),
        ("2025-10-26T10:00:00Z", "2025-10-27T10:00:00Z", "2025-10-26", 25),
        ("2025-03-28T10:00:00Z", "2025-03-29T10:00:00Z", "2025-03-28", 24),
    ],
)
def test_days_of_rome_are_closed_with_the_hours_they_have(
    make_world: MakeWorld, at: str, until: str, day: str, hours: int
) -> None:
    world = make_world(zone="Europe/Rome", at=at)
    world.take(3)
    world.at(until)
    assert [closed.day for closed in world.q.close_days().closed] == [day]
    assert world.sql("SELECT day, (ends_at_ms - starts_at_ms) / 3600000.0 FROM closed_day") == [
        (day, hours)
    ]


def test_closed_days_follow_each_other_without_gap_across_both_changes(
    make_world: MakeWorld,
) -> None:
    world = make_world(zone="Europe/Rome", at="2025-03-28T10:00:00Z")
    world.at("2025-11-01T10:00:00Z")
    assert len(world.q.close_days().closed) == 218
    assert world.sql(
        "SELECT count(*) FROM closed_day AS a JOIN closed_day AS b ON b.starts_at_ms = a.ends_at_ms"
    ) == [(217,)]


def test_a_date_that_a_zone_skipped_is_not_closed(make_world: MakeWorld) -> None:
    world = make_world(zone="Pacific/Apia", at="2011-12-29T12:00:00Z")
    world.at("2012-01-01T12:00:00Z")
    assert [day.day for day in world.q.close_days().closed] == [
        "2011-12-29",
        "2011-12-31",
        "2012-01-01",
    ]


def test_a_close_marks_what_expired_and_changes_no_decision(world: World) -> None:
    world.admin.set_override(
        user="ada", resource="image", limit="9/day", duration="2h", reason="event"
    )
    world.later(days=1)
    before = world.check().to_dict()
    world.q.close_days()
    assert world.check().to_dict() == before
    assert world.sql("SELECT ended_at_ms = expires_at_ms FROM override") == [(1,)]


# ---- 6. Amounts and limits are integers up to 2^53 - 1


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"duration": 3}, "3 is not a duration"),
        ({"until": 3}, "3 is not a moment"),
        ({"duration": timedelta(0)}, "the duration is empty"),
        ({"duration": timedelta(microseconds=999)}, "the duration is empty"),
        ({"duration": timedelta(days=3_000_000)}, "the end is out of range"),
        ({"until": "2025-03-27T09:00:00Z"}, "is in the past"),
        ({"duration": "1h", "until": "18:00"}, "both a duration and an end"),
    ],
)
def test_an_end_that_is_none_or_no_end_is_refused(
    world: World, how: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidInput, match=why):
        world.admin.block("ada", reason="abuse", **how)


def test_an_end_may_be_given_as_a_value(world: World) -> None:
    made = world.admin.block("ada", duration=timedelta(milliseconds=1500), reason="abuse")
    assert made.item["expires_at"] == "2025-03-27T09:00:01.500Z"
    until = world.now + timedelta(seconds=1)
    made = world.admin.block("ada", until=until, reason="abuse")
    assert made.item["expires_at"] == "2025-03-27T09:00:01Z"


def test_what_is_of_another_kind_is_refused(world: World) -> None:
    with pytest.raises(InvalidInput, match="limit 3 is not a text"):
        world.admin.set_limit(tier="free", resource="image", limit=3)  # type: ignore[arg-type]
    for priority in ("high", True, 1.5):
        with pytest.raises(InvalidInput, match="is not a whole number"):
            world.admin.add_grant(
                user="ada",
                resource="image",
                amount=1,
                priority=priority,  # type: ignore[arg-type]
                reason="x",
            )
    for priority in (1_000_001, -1_000_001):
        with pytest.raises(InvalidInput, match="is out of range"):
            world.grant(1, priority=priority)
    world.grant(1, priority=1_000_000)
    world.grant(1, priority=-1_000_000)
    (answer,) = world.q.consume_many([("ada", "image")])  # type: ignore[list-item]
    assert isinstance(answer, InvalidInput) and answer.message == "tuple is not a Request"


@pytest.mark.parametrize("amount", [0, -1, 1.5, "1", None, True, AMOUNT_MAX + 1, 2**63])
def test_an_amount_that_is_none_is_refused(world: World, amount: object) -> None:
    calls: list[Callable[..., object]] = [world.q.consume, world.q.check, world.q.reserve]
    for call in calls:
        with pytest.raises(InvalidInput):
            call(user="ada", resource="image", amount=amount)
    assert world.count("counter") == world.count("entry") == world.count("user") == 0


def test_the_largest_amount_is_taken_and_given_back(world: World) -> None:
    world.limit(f"{AMOUNT_MAX}/day")
    entry_id = world.take(AMOUNT_MAX)
    assert world.counters()[0][0] == AMOUNT_MAX
    assert world.consume(1).reason == "limit_reached"
    assert world.q.refund(entry_id=entry_id).amount == AMOUNT_MAX
    world.take(1)


@pytest.mark.parametrize(
    "limit", [f"{AMOUNT_MAX + 1}/day", "-1/day", "1.5/day", "1_000/day", "٣/day"]
)
def test_a_limit_that_is_no_such_integer_is_refused(world: World, limit: str) -> None:
    with pytest.raises(InvalidInput):
        world.limit(limit)


def test_a_count_is_not_taken_past_the_largest_integer(world: World) -> None:
    world.limit("unlimited")
    world.take(AMOUNT_MAX)
    with pytest.raises(InvalidInput):
        world.consume(1)
    assert world.counters() == [(AMOUNT_MAX, 0, 0, 0)]


def test_a_count_of_granted_units_is_not_taken_past_the_largest_integer(world: World) -> None:
    world.limit("0/day")
    world.grant(AMOUNT_MAX)
    world.grant(AMOUNT_MAX)
    world.take(AMOUNT_MAX)
    with pytest.raises(InvalidInput):
        world.consume(AMOUNT_MAX)


def test_a_short_window_is_not_taken_past_the_largest_integer(world: World) -> None:
    world.limit("0/day,unlimited/hour")
    world.grant(AMOUNT_MAX)
    world.grant(2)
    world.take(AMOUNT_MAX)
    with pytest.raises(InvalidInput):
        world.consume(2)


def test_denials_of_the_largest_amount_add_up_without_a_difference(world: World) -> None:
    for _ in range(3):
        assert not world.consume(AMOUNT_MAX).allowed
    world.verified()


def test_a_clock_behind_a_closed_day_opens_nothing(world: World) -> None:
    world.later(days=1)
    world.q.close_days()
    world.later(days=-1)
    with pytest.raises(ClockBehind):
        world.consume()
