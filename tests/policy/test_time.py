"""Time goes wrong: clocks set back, machines suspended, odd days, zones with new rules.

On whole ledgers through the public interface. What windows are is in `test_window.py`,
what a ledger counts in them in `tests/ledger/test_promises_counting.py`.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import zoneinfo
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock
from zoneinfo import ZoneInfo

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import quotactl
from quotactl import ClockBehind
from quotactl.engines.sqlite.door import SqliteEngine
from quotactl.engines.sqlite.session import Session
from quotactl.policy.window import HOUR_MS, MONTH, calendar_of, to_ms
from quotactl.reports.usage import usage

# Of a session: nothing here waits for the disk.
NEVER = property(lambda _: False, lambda *_: None)


class Clocked:
    """A ledger with 3 images a day for everybody, and a clock that is set by hand."""

    def __init__(self, path: Path, zone: str, at: str) -> None:
        self.path = path
        self.zone = zone
        self.now = moment(at)
        self.q = quotactl.create(path, name="t", zone=zone, clock=self.clock, actor="tester")
        self.q.admin.create_resource("image")
        self.q.admin.create_tier("free")
        self.limit("3/day")

    def clock(self) -> datetime:
        return self.now

    def at(self, text: str) -> None:
        self.now = moment(text)

    def later(self, **span: float) -> None:
        self.now += timedelta(**span)

    def limit(self, limit: str) -> None:
        self.q.admin.set_limit(tier="free", resource="image", limit=limit)

    def take(self, amount: int = 1, *, user: str = "ada") -> bool:
        return self.q.consume(user=user, resource="image", amount=amount).allowed

    def check(self, *, user: str = "ada") -> quotactl.Decision:
        return self.q.check(user=user, resource="image", amount=1)

    def closed(self) -> list[str]:
        return [day.day for day in self.q.close_days().closed]

    def reopen(self) -> None:
        """As another process, which has nothing in memory."""
        self.q.close()
        self.q = quotactl.connect(self.path, clock=self.clock, actor="tester")


Make = Callable[[str, str], Clocked]


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes ledgers by zone and time; in the end each verifies."""
    monkeypatch.setattr(Session, "wants_full", NEVER, raising=False)
    made: list[Clocked] = []

    def ledger(zone: str, at: str) -> Clocked:
        made.append(Clocked(tmp_path / f"{len(made)}.db", zone, at))
        return made[-1]

    yield ledger
    for one in made:
        if one.zone != "Test/Town":
            assert one.q.verify().differences == ()
        one.q.close()


# ---- a clock that is set back


def test_an_hour_back_within_a_day_is_the_same_day(make: Make) -> None:
    ledger = make("Europe/Rome", "2025-03-27T12:00:00Z")
    assert ledger.take(2)
    ledger.later(hours=-1)
    assert ledger.take(1)
    assert not ledger.take(1)
    ledger.later(hours=2)
    assert not ledger.take(1)


def test_an_hour_back_is_another_hour_and_never_more_than_its_limit(make: Make) -> None:
    ledger = make("UTC", "2025-03-27T12:30:00Z")
    ledger.limit("9/day,2/hour")
    assert ledger.take(2)
    assert not ledger.take(1)
    ledger.later(hours=-1)
    assert ledger.take(2)
    assert not ledger.take(1)
    ledger.later(hours=1)
    assert not ledger.take(1)
    # The day saw all of it.
    assert ledger.check().retry_after_s == 1800
    ledger.later(hours=1)
    assert ledger.take(2)
    ledger.later(hours=1)
    assert ledger.take(2)
    ledger.later(hours=1)
    assert ledger.take(1)
    assert not ledger.take(1)


def test_an_hour_back_over_midnight_is_the_open_day_before(make: Make) -> None:
    ledger = make("UTC", "2025-03-28T00:05:00Z")
    assert ledger.take(3)
    ledger.later(hours=-1)
    assert ledger.take(3)
    assert not ledger.take(1)
    ledger.later(hours=1)
    assert not ledger.take(1)


def test_a_day_back_into_a_closed_one_is_refused_and_counts_nothing(make: Make) -> None:
    ledger = make("UTC", "2025-03-27T12:00:00Z")
    assert ledger.take(1)
    ledger.later(days=1)
    assert ledger.closed() == ["2025-03-27"]
    ledger.later(days=-1)
    for write in (
        lambda: ledger.take(1),
        lambda: ledger.take(9),
        lambda: ledger.q.reserve(user="ada", resource="image", amount=1, ttl_s=60),
    ):
        with pytest.raises(ClockBehind) as caught:
            write()
        assert caught.value.exit_code == 75
    # Asking takes nothing, so it is answered.
    assert ledger.check().used == 1
    assert ledger.closed() == []
    ledger.later(days=1)
    assert ledger.take(3)


def test_in_a_batch_a_clock_behind_a_closed_day_lets_nothing_through(make: Make) -> None:
    ledger = make("UTC", "2025-03-27T12:00:00Z")
    ledger.later(days=1)
    ledger.closed()
    ledger.later(days=-1)
    requests = [quotactl.Request(user=user, resource="image") for user in ("ada", "bob")]
    answers = ledger.q.consume_many(requests)
    assert [type(answer) for answer in answers] == [ClockBehind, ClockBehind]
    ledger.later(days=1)
    assert [ledger.check(user=user).used for user in ("ada", "bob")] == [0, 0]


def test_a_close_by_a_clock_that_is_a_day_ahead_locks_out_the_right_ones_until_then(
    make: Make,
) -> None:
    """One host's clock is wrong: it closes today. Refusing is all there is; nothing is lost."""
    ledger = make("UTC", "2025-03-27T12:00:00Z")
    assert ledger.take(2)
    ledger.later(days=1)
    assert ledger.closed() == ["2025-03-27"]
    ledger.later(days=-1)
    with pytest.raises(ClockBehind):
        ledger.take(1)
    ledger.at("2025-03-28T00:00:00Z")
    assert ledger.take(3)


def test_a_throttle_seen_by_a_clock_before_its_start_is_not_on_yet(make: Make) -> None:
    ledger = make("UTC", "2025-03-27T12:00:00Z")
    ledger.q.admin.throttle_on(cap="1/day", duration="2h", reason="hot")
    assert ledger.check().limit == 1
    ledger.later(hours=-1)
    assert ledger.check().limit == 3
    ledger.later(hours=1)
    assert ledger.check().limit == 1
    ledger.later(hours=2)
    assert ledger.check().limit == 3


def test_a_hold_that_timed_out_holds_again_for_a_clock_set_back(make: Make) -> None:
    ledger = make("UTC", "2025-03-27T12:00:00Z")
    ledger.q.reserve(user="ada", resource="image", amount=3, ttl_s=60)
    ledger.later(minutes=2)
    assert ledger.check().allowed
    ledger.later(minutes=-2)
    assert not ledger.check().allowed
    ledger.later(minutes=2)
    assert ledger.take(3)
    # Its units are out for somebody else: it does not hold twice.
    ledger.later(minutes=-2)
    assert not ledger.take(1)


# ---- a machine that was suspended


def test_after_days_of_suspension_everything_is_as_if_time_had_passed(make: Make) -> None:
    ledger = make("Europe/Rome", "2025-03-27T22:30:00Z")
    assert ledger.take(2)
    ledger.q.reserve(user="ada", resource="image", amount=1, ttl_s=120)
    ledger.q.admin.throttle_on(
        cap="1/day", duration="6h", ramp="50%,100%", every="3h", reason="hot"
    )
    ledger.q.admin.add_grant(user="bob", resource="image", amount=5, duration="1d", reason="sorry")
    assert not ledger.take(1)
    # The lid was closed on Thursday evening and opened on Tuesday morning.
    ledger.later(days=4, hours=9)
    decision = ledger.check()
    assert (decision.allowed, decision.limit, decision.used) == (True, 3, 0)
    assert not ledger.take(4, user="bob")
    assert ledger.take(3)
    assert ledger.closed() == [f"2025-03-{day}" for day in range(27, 32)]
    assert ledger.q.close_days().expired_reservations == 0
    assert not ledger.take(1)


def test_a_close_in_the_middle_of_a_suspension_is_caught_up_without_the_day_that_runs(
    make: Make,
) -> None:
    ledger = make("UTC", "2025-03-27T23:59:59Z")
    assert ledger.take(3)
    ledger.at("2025-04-02T00:09:59Z")
    assert ledger.closed()[-1] == "2025-03-31"
    ledger.at("2025-04-02T00:10:00Z")
    assert ledger.closed() == ["2025-04-01"]


# ---- the ends of years, and the day that comes every four


@pytest.mark.parametrize("zone", ["Europe/Rome", "Pacific/Kiritimati", "America/St_Johns"])
def test_closes_go_over_the_end_of_a_year(make: Make, zone: str) -> None:
    ledger = make(zone, "2027-12-29T12:00:00Z")
    ledger.limit("9/day,4/week,5/month")
    ledger.at("2027-12-31T00:30:00Z")
    assert ledger.take(3)
    ledger.at("2028-01-02T09:00:00Z")
    # 2027-12-27 was a Monday: the same week, another month.
    decision = ledger.check()
    assert (decision.period, decision.used) == ("week", 3)
    assert ledger.take(1)
    assert not ledger.take(1)
    ledger.at("2028-01-03T14:00:00Z")
    assert ledger.take(4)
    assert not ledger.take(1)
    closed = ledger.closed()
    assert [d for d in closed if d >= "2027-12-30"] == [
        "2027-12-30", "2027-12-31", "2028-01-01", "2028-01-02",
        *(["2028-01-03"] if zone == "Pacific/Kiritimati" else []),
    ]  # fmt: skip


def test_a_leap_day_is_a_day_of_its_month_and_is_closed(make: Make) -> None:
    ledger = make("Europe/Rome", "2028-02-28T22:59:59Z")
    ledger.limit("3/day,5/month")
    assert ledger.take(2)
    ledger.at("2028-02-28T23:00:00Z")
    assert ledger.take(3)
    assert ledger.check().to_dict()["reset_at"] == "2028-02-29T23:00:00Z"
    ledger.at("2028-02-29T22:59:59Z")
    assert not ledger.take(1)
    ledger.at("2028-02-29T23:10:00Z")
    assert ledger.closed() == ["2028-02-28", "2028-02-29"]
    assert ledger.take(3)
    assert ledger.check().period == "day"


def test_a_year_without_a_leap_day_goes_from_the_28th_to_march(make: Make) -> None:
    ledger = make("UTC", "2027-02-28T12:00:00Z")
    ledger.at("2027-03-02T12:00:00Z")
    assert ledger.closed() == ["2027-02-28", "2027-03-01"]


# ---- days of 23 and 25 hours, with totals per hour and ramps over them

ODD_DAYS = [
    # zone, the day's first moment, its hours
    ("Europe/Rome", "2025-03-29T23:00:00Z", 23),
    ("Europe/Rome", "2025-10-25T22:00:00Z", 25),
    ("America/Havana", "2025-03-09T05:00:00Z", 23),
    ("America/Havana", "2025-11-02T04:00:00Z", 25),
    ("Asia/Beirut", "2025-03-29T22:00:00Z", 23),
    ("Asia/Beirut", "2025-10-24T21:00:00Z", 25),
]


@pytest.mark.parametrize(("zone", "first", "hours"), ODD_DAYS)
def test_a_total_an_hour_lets_through_as_many_as_the_day_has_hours(
    make: Make, zone: str, first: str, hours: int
) -> None:
    ledger = make(zone, first)
    ledger.limit("1k/day")
    ledger.q.admin.throttle_on(total="2/hour", duration="2d", reason="hot")
    for _ in range(hours):
        assert [ledger.take(user=user) for user in ("ada", "bob", "cyd")] == [True, True, False]
        ledger.later(hours=1)
    used = sum(ledger.check(user=user).used for user in ("ada", "bob"))
    # An hour later another day has begun, for everybody.
    assert used == 0
    ledger.later(minutes=10)
    (day,) = ledger.q.close_days().closed
    assert (day.used, day.denied) == (2 * hours, hours)


@pytest.mark.parametrize(("zone", "first", "hours"), ODD_DAYS)
def test_a_ramp_over_a_change_of_clocks_takes_its_steps_by_real_time(
    make: Make, zone: str, first: str, hours: int
) -> None:
    ledger = make(zone, first)
    ledger.limit("100/day")
    ledger.q.admin.throttle_on(cap="80/day", ramp="25%,50%,100%", every="2h", reason="hot")
    seen = []
    for _ in range(7):
        seen.append(ledger.check().limit)
        ledger.later(hours=1)
    assert seen == [20, 20, 40, 40, 80, 80, 100]


@pytest.mark.parametrize(("zone", "first", "hours"), ODD_DAYS)
def test_a_throttle_for_a_day_lasts_24_hours_and_one_until_midnight_as_long_as_the_day(
    make: Make, zone: str, first: str, hours: int
) -> None:
    ledger = make(zone, first)
    ledger.later(minutes=1)
    started = ledger.now - timedelta(minutes=1)
    for_a_day = ledger.q.admin.throttle_on(cap="1/day", duration="1d", reason="hot").item
    assert moment(for_a_day["ends_at"]) == ledger.now + timedelta(hours=24)
    # Havana and Beirut have no midnight in spring: then the day's first moment is meant.
    until = ledger.q.admin.throttle_on(cap="2/hour", until="23:59", reason="hot").item
    assert moment(until["ends_at"]) == started + timedelta(hours=hours, minutes=-1) or (
        # Where 23:59 comes twice the first is meant.
        moment(until["ends_at"]) == started + timedelta(hours=hours - 1, minutes=-1)
    )


# ---- a zone whose rules change

# QUOTACTL_LONG=1 tries the last of these tests on 300 random ledgers.
LONG = int(os.environ.get("QUOTACTL_LONG", "0"))
WAS, IS = "Africa/Lagos", "Europe/Athens"  # an hour ahead of UTC; two, and three in summer


@contextmanager
def zone_files(files: Path) -> Iterator[Callable[[str], None]]:
    """Sets what `Test/Town` means from now on, as an update of the zone files does."""
    before = zoneinfo.TZPATH

    def town_is(zone: str) -> None:
        found = next(
            Path(folder) / zone
            for folder in (*before, _packaged())
            if (Path(folder) / zone).exists()
        )
        (files / "Test").mkdir(parents=True, exist_ok=True)
        shutil.copy(found, files / "Test" / "Town")
        # A process reads a zone once: a new rule holds for those that start after it.
        ZoneInfo.clear_cache()
        calendar_of.cache_clear()

    zoneinfo.reset_tzpath([str(files), *before])
    try:
        yield town_is
    finally:
        zoneinfo.reset_tzpath(before)
        ZoneInfo.clear_cache()
        calendar_of.cache_clear()


@pytest.fixture
def rules(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    with zone_files(tmp_path / "zones") as town_is:
        yield town_is


def _packaged() -> str:
    return str(Path(str(resources.files("tzdata"))) / "zoneinfo")


def test_new_rules_hold_for_a_process_that_starts_after_them(
    tmp_path: Path, rules: Callable[[str], None]
) -> None:
    rules(WAS)
    midnight = to_ms(moment("2025-07-01T12:00:00Z"))
    assert calendar_of("Test/Town").day(midnight).starts_at_ms % (24 * HOUR_MS) == 23 * HOUR_MS
    rules(IS)
    assert calendar_of("Test/Town").day(midnight).starts_at_ms % (24 * HOUR_MS) == 21 * HOUR_MS


@pytest.mark.parametrize(("before", "after"), [(WAS, IS), (IS, WAS)])
def test_where_a_days_edge_moves_what_was_used_counts_for_the_same_date(
    make: Make, rules: Callable[[str], None], before: str, after: str
) -> None:
    """Counters bear the start of their day; under new rules they count in the day that holds
    most of it: nobody is let in twice for a date, nor shut out from the next."""
    rules(before)
    ledger = make("Test/Town", "2025-07-01T12:00:00Z")
    assert ledger.take(2)
    rules(after)
    ledger.reopen()
    assert ledger.check().used == 2
    assert not ledger.take(2)
    assert ledger.take(1)
    midnight = moment(ledger.check().to_dict()["reset_at"])
    assert midnight == moment(f"2025-07-01T{21 if after is IS else 23}:00:00Z")
    ledger.now = midnight - timedelta(milliseconds=1)
    assert not ledger.take(1)
    ledger.now = midnight
    assert ledger.take(3)
    assert not ledger.take(1)


def test_a_day_that_had_begun_before_its_edge_moved_ahead_is_counted_when_it_comes(
    make: Make, rules: Callable[[str], None]
) -> None:
    rules(IS)
    ledger = make("Test/Town", "2025-06-30T12:00:00Z")
    assert ledger.take(1)
    ledger.at("2025-06-30T22:00:00Z")
    assert ledger.take(3)
    rules(WAS)
    ledger.reopen()
    # It is still the 30th, of which two are left, and the 1st of July is used up.
    assert ledger.take(2)
    assert not ledger.take(1)
    ledger.at("2025-06-30T23:00:00Z")
    assert not ledger.take(1)
    ledger.at("2025-07-01T22:59:59Z")
    assert not ledger.take(1)
    ledger.at("2025-07-01T23:00:00Z")
    assert ledger.take(3)


@pytest.mark.parametrize("period", ["week", "month"])
@pytest.mark.parametrize(("before", "after"), [(WAS, IS), (IS, WAS)])
def test_a_week_or_month_counts_days_whose_edges_have_moved(
    make: Make, rules: Callable[[str], None], period: str, before: str, after: str
) -> None:
    rules(before)
    # Both a Tuesday and the first of a month: the week counts a day more.
    ledger = make("Test/Town", "2025-06-30T12:00:00Z")
    assert ledger.take(1)
    ledger.limit(f"3/day,7/{period}")
    ledger.later(days=1)
    assert ledger.take(2)
    ledger.later(days=1)
    assert ledger.take(3)
    rules(after)
    ledger.reopen()
    used = 6 if period == "week" else 5
    assert ledger.q.check(user="ada", resource="image", amount=8).used == used
    ledger.later(days=1)
    assert not ledger.take(8 - used)
    assert ledger.take(7 - used)
    assert not ledger.take(1)


def test_processes_with_old_and_new_rules_count_what_the_other_counted(
    make: Make, rules: Callable[[str], None]
) -> None:
    """An update of the zone files while gateways run: each keeps the rules it started with."""
    rules(WAS)
    ledger = make("Test/Town", "2025-07-01T12:00:00Z")
    ledger.limit("3/day,8/week")
    old = quotactl.connect(ledger.path, clock=ledger.clock)
    assert ledger.take(1, user="bob")
    assert old.check(user="ada", resource="image").used == 0
    rules(IS)
    ledger.reopen()
    assert ledger.take(1)
    rules(WAS)
    assert old.consume(user="ada", resource="image", amount=2).allowed
    assert not old.consume(user="ada", resource="image").allowed
    rules(IS)
    assert not ledger.take(1)
    ledger.later(days=1)
    assert ledger.take(2)
    rules(WAS)
    assert not old.consume(user="ada", resource="image", amount=2).allowed
    assert old.consume(user="ada", resource="image", amount=1).allowed
    old.close()
    rules(IS)
    assert not ledger.take(1)
    ledger.later(days=1)
    assert not ledger.take(3)
    assert ledger.take(2)
    assert ledger.q.verify().differences == ()


def test_a_total_counts_what_was_taken_before_its_days_edge_moved(
    make: Make, rules: Callable[[str], None]
) -> None:
    rules(WAS)
    ledger = make("Test/Town", "2025-07-01T12:00:00Z")
    ledger.q.admin.throttle_on(total="4/day", name="all", no_expiry=True, reason="hot")
    ledger.q.admin.throttle_on(total="9/week", name="more", no_expiry=True, reason="hot")
    assert ledger.take(3)
    rules(IS)
    ledger.reopen()
    assert not ledger.take(2, user="bob")
    assert ledger.take(1, user="bob")
    assert not ledger.take(1, user="cyd")
    ledger.later(days=1)
    assert ledger.take(3, user="bob")
    ledger.later(days=1)
    assert not ledger.take(3, user="bob")
    assert ledger.take(2, user="bob")
    assert not ledger.take(1, user="cyd")
    assert ledger.q.verify().differences == ()


def test_a_total_learns_of_a_refund_that_was_made_under_other_rules(
    make: Make, rules: Callable[[str], None]
) -> None:
    rules(WAS)
    ledger = make("Test/Town", "2025-07-01T12:00:00Z")
    ledger.q.admin.throttle_on(total="4/day", no_expiry=True, reason="hot")
    taken = ledger.q.consume(user="ada", resource="image", amount=3)
    rules(IS)
    ledger.reopen()
    ledger.q.refund(entry_id=taken.entry_id)
    rules(WAS)
    ledger.reopen()
    assert ledger.take(3, user="bob")
    assert ledger.take(1)
    assert not ledger.take(1)
    assert ledger.q.verify().differences == ()


def test_a_hold_that_timed_out_is_free_also_where_its_days_edge_has_moved(
    make: Make, rules: Callable[[str], None]
) -> None:
    rules(WAS)
    ledger = make("Test/Town", "2025-07-01T12:00:00Z")
    assert ledger.q.reserve(user="ada", resource="image", amount=2, ttl_s=60).allowed
    rules(IS)
    ledger.reopen()
    assert not ledger.take(2)
    ledger.later(minutes=1)
    assert ledger.take(3)
    assert ledger.q.verify().differences == ()


def test_refunds_and_resets_reach_a_day_whose_edge_has_moved(
    make: Make, rules: Callable[[str], None]
) -> None:
    rules(WAS)
    ledger = make("Test/Town", "2025-07-01T12:00:00Z")
    ledger.q.admin.add_grant(user="ada", resource="image", amount=2, reason="sorry")
    first = ledger.q.consume(user="ada", resource="image", amount=3)
    paid = ledger.q.consume(user="ada", resource="image", amount=2)
    assert paid.granted == 2
    rules(IS)
    ledger.reopen()
    assert ledger.q.refund(entry_id=first.entry_id, amount=2).amount == 2
    assert ledger.check().used == 1
    assert ledger.take(1)
    assert ledger.q.admin.reset_user("ada", reason="test").item["freed"] == {"image": 2}
    assert ledger.check().used == 0
    # Nothing more goes back to a window that was reset.
    ledger.q.refund(entry_id=first.entry_id, amount=1)
    assert ledger.take(3)
    assert not ledger.take(1)
    assert ledger.q.verify().differences == ()


def test_reports_show_a_day_whose_edge_has_moved_under_its_date(
    make: Make, rules: Callable[[str], None]
) -> None:
    rules(IS)
    ledger = make("Test/Town", "2025-07-01T12:00:00Z")
    assert ledger.take(2)
    ledger.later(days=1)
    rules(WAS)
    ledger.reopen()
    with closing(SqliteEngine(ledger.path)) as engine:
        _, rows = usage(
            engine, to_ms(ledger.now), by="day", user="ada", first="2025-07-01", last="2025-07-02"
        )
        assert [(row.key, row.used) for row in rows] == [("2025-07-01", 2)]
        _, rows = usage(engine, to_ms(ledger.now), by="user", day="2025-07-01")
        assert [(row.key, row.used) for row in rows] == [("ada", 2)]
        _, rows = usage(engine, to_ms(ledger.now), by="user", day="2025-06-30")
        assert rows == []


@pytest.mark.parametrize(("before", "after"), [(WAS, IS), (IS, WAS)])
def test_verify_names_nothing_for_days_whose_edges_have_moved_but_what_was_edited(
    make: Make, rules: Callable[[str], None], before: str, after: str
) -> None:
    rules(before)
    ledger = make("Test/Town", "2025-07-01T12:00:00Z")
    assert ledger.take(3)
    ledger.later(hours=10)
    assert not ledger.take(7, user="bob")
    rules(after)
    ledger.reopen()
    ledger.take(1)
    ledger.later(days=3)
    assert ledger.take(2)
    assert ledger.q.verify().differences == ()
    with closing(sqlite3.connect(ledger.path)) as connection:
        connection.execute("UPDATE demand_summed SET used = used + 1 WHERE used = 3")
        connection.commit()
    (difference,) = ledger.q.verify().differences
    assert (difference.what, difference.found - difference.expected) == ("demand.used", 1)


def test_verify_knows_the_longest_days_there_are(make: Make) -> None:
    ledger = make("Antarctica/Troll", "2025-10-25T22:00:00Z")
    ledger.later(hours=25, minutes=30)
    assert ledger.take(1)
    assert ledger.check().to_dict()["reset_at"] == "2025-10-27T00:00:00Z"


@settings(
    max_examples=300 * LONG or 10,
    deadline=None,
    derandomize=not LONG,
    database=None,
    phases=(Phase.generate,),
)
@given(data=st.data())
def test_rules_that_change_at_any_time_lose_nothing_and_let_nobody_in(data: st.DataObject) -> None:
    with (
        TemporaryDirectory() as folder,
        zone_files(Path(folder) / "zones") as rules,
        mock.patch.object(Session, "wants_full", NEVER, create=True),
    ):
        rules(data.draw(st.sampled_from((WAS, IS))))
        ledger = Clocked(Path(folder) / "l.db", "Test/Town", "2025-07-01T12:00:00Z")
        ledger.limit("3/day,8/month")
        ledger.q.admin.throttle_on(total="5/day", no_expiry=True, reason="hot")
        taken: dict[int, tuple[str, date, int]] = {}
        acts = st.sampled_from(("take", "take", "take", "refund", "rules", "close"))
        for act in data.draw(st.lists(acts, min_size=4, max_size=14)):
            ledger.later(minutes=data.draw(st.integers(0, 20 * 60)))
            if act == "rules":
                rules(data.draw(st.sampled_from((WAS, IS, "Asia/Kolkata"))))
                ledger.reopen()
            elif act == "close":
                ledger.q.close_days()
            elif act == "take":
                user = data.draw(st.sampled_from(("ada", "bob")))
                amount = data.draw(st.integers(1, 3))
                on = calendar_of("Test/Town").date_of(to_ms(ledger.now))
                with suppress(ClockBehind):
                    found = ledger.q.consume(user=user, resource="image", amount=amount)
                    if found.entry_id is not None:
                        taken[found.entry_id] = (user, on, amount)
            elif taken:
                entry_id = data.draw(st.sampled_from(sorted(taken)))
                with suppress(ClockBehind):
                    ledger.q.refund(entry_id=entry_id)
                    del taken[entry_id]
        assert ledger.q.verify().differences == ()
        by_user: Counter[str] = Counter()
        by_date: Counter[tuple[str, date]] = Counter()
        for user, on, amount in taken.values():
            by_user[user] += amount
            by_date[user, on] += amount
        assert max(by_user.values(), default=0) <= 8
        assert max(by_date.values(), default=0) <= 3
        ledger.q.close()


def test_days_go_on_being_closed_under_new_rules_without_gap_or_overlap(
    make: Make, rules: Callable[[str], None]
) -> None:
    rules(WAS)
    ledger = make("Test/Town", "2025-07-01T12:00:00Z")
    assert ledger.take(3)
    ledger.later(days=1)
    assert ledger.closed() == ["2025-07-01"]
    assert ledger.take(2)
    assert ledger.take(1, user="bob")
    rules(IS)
    ledger.reopen()
    assert not ledger.take(2)
    assert ledger.take(1)
    ledger.later(days=2)
    closed = ledger.q.close_days().closed
    assert [(day.day, day.users, day.used) for day in closed] == [
        ("2025-07-02", 2, 4),
        ("2025-07-03", 0, 0),
    ]
    assert ledger.closed() == []
    assert ledger.take(3)


def test_rules_that_move_an_edge_the_other_way_close_no_day_twice(
    make: Make, rules: Callable[[str], None]
) -> None:
    rules(IS)
    ledger = make("Test/Town", "2025-07-01T12:00:00Z")
    assert ledger.take(3)
    ledger.later(days=1)
    assert ledger.closed() == ["2025-07-01"]
    rules(WAS)
    ledger.reopen()
    assert ledger.take(3)
    assert not ledger.take(1)
    ledger.later(days=1)
    closed = ledger.closed()
    assert closed
    assert len(set(closed)) == len(closed)
    assert ledger.take(3)


def test_a_zone_that_is_gone_is_one_clear_error(
    make: Make, rules: Callable[[str], None], tmp_path: Path
) -> None:
    rules(WAS)
    ledger = make("Test/Town", "2025-07-01T12:00:00Z")
    assert ledger.take(1)
    (tmp_path / "zones" / "Test" / "Town").unlink()
    ZoneInfo.clear_cache()
    calendar_of.cache_clear()
    other = quotactl.connect(ledger.path, clock=ledger.clock)
    try:
        with pytest.raises(quotactl.QuotaError, match="Test/Town") as caught:
            other.consume(user="ada", resource="image", amount=1)
        assert (caught.value.exit_code, caught.value.hint) == (78, "install the package tzdata")
    finally:
        other.close()
        rules(WAS)
        ledger.reopen()


def test_a_date_that_a_zone_skipped_is_no_day_of_its_month() -> None:
    calendar = calendar_of("Pacific/Apia")
    december = calendar.window(MONTH, to_ms(moment("2011-12-15T12:00:00Z")))
    starts = calendar.day_starts(december)
    assert len(starts) == len(set(starts)) == 30
