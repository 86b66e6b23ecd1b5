"""What a throttle cost, by hand; the same by brute force; and making good for it, once."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import quotactl
from quotactl.api import Ledger
from quotactl.errors import Conflict, InvalidInput, NotFound
from quotactl.operations import audit
from quotactl.operations.acts import Act
from quotactl.operations.emergency import Timing, put_on
from quotactl.policy.levers import lever
from quotactl.policy.window import period_of_length
from quotactl.reports.aftermath import Aftermath, aftermath

# 10:00 in Rome, on a Thursday.
START = datetime(2025, 3, 27, 9, 0, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.at = START

    def __call__(self) -> datetime:
        return self.at

    def later(self, **span: float) -> None:
        self.at += timedelta(**span)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    """free 3/day is the default, plus 50/day and 5/minute, pro protected and unlimited."""
    path = tmp_path / "ledger.db"
    with quotactl.create(path, zone="Europe/Rome", clock=clock, actor="eve@ops", notify=False) as q:
        q.admin.create_resource("image", unit="image")
        q.admin.create_resource("video")
        q.admin.create_tier("free")
        q.admin.create_tier("plus")
        q.admin.create_tier("pro", protected=True)
        q.admin.set_limits(tier="free", limits={"image": "3/day", "video": "1/day"})
        q.admin.set_limits(tier="plus", limits={"image": "50/day,5/minute"})
        q.admin.set_limits(tier="pro", limits={"image": "unlimited"})
        yield q


def take(q: Ledger, user: str, *amounts: int, resource: str = "image") -> list[str]:
    """The reasons of requests one after the other."""
    return [q.consume(user=user, resource=resource, amount=n).reason for n in amounts]


def on(q: Ledger, **how: Any) -> int:
    how = {"cap": "1/day", "resources": ["image"], "duration": "6h", "reason": "melting"} | how
    found: int = q.admin.throttle_on(**how).item["id"]
    return found


def report(q: Ledger, which: int | str = 1, **how: Any) -> Aftermath:
    return aftermath(q.engine, which, q.now_ms(), **how)


def costs(found: Aftermath) -> dict[str, int]:
    return {row.user: row.cost for row in found.top}


def incident(q: Ledger, clock: Clock) -> None:
    """A throttle of 1/day on everybody's images from 10:00 to 16:00, with everything in it."""
    q.admin.set_tier("bea", "plus")
    q.admin.set_tier("zoe", "pro")
    q.admin.protect("pip")
    q.admin.set_override(user="oto", resource="image", limit="10/day", reason="tester")
    q.admin.add_grant(user="dan", resource="image", amount=2, reason="sorry")
    q.admin.block("bad", reason="abuse")
    take(q, "ada", 1)
    take(q, "cy", 1, 2)
    take(q, "dan", 1)
    take(q, "oto", 2)
    take(q, "bea", 5)
    clock.later(minutes=1)
    on(q, name="gpu-melt", ticket="INC-1")
    clock.later(hours=1)
    assert take(q, "ada", 1, 1, 1, 1, 1) == ["throttled"] * 5
    assert take(q, "bob", 1, 1) == ["ok", "throttled"]
    assert take(q, "cy", 2) == ["limit_reached"]
    assert take(q, "dan", 1, 1, 1) == ["granted", "granted", "throttled"]
    assert take(q, "oto", 3, 3) == ["throttled", "throttled"]
    assert take(q, "bea", 4, 4) == ["throttled", "throttled"]
    assert take(q, "zoe", 9, 9) == ["ok", "ok"]
    assert take(q, "pip", 3, 1) == ["ok", "limit_reached"]
    assert take(q, "bad", 1) == ["blocked"]
    assert take(q, "lee", 1, 1, 1) == ["ok", "throttled", "throttled"]
    assert take(q, "may", 1, 1, 1) == ["ok", "throttled", "throttled"]
    clock.later(hours=6)
    # lee gets one of the two that were refused, may gets both.
    assert take(q, "lee", 1) == ["ok"]
    assert take(q, "may", 1, 1) == ["ok", "ok"]


# What it cost them: min(demand, limit) - min(used, limit), demand being used and denied.
BY_HAND = {
    "oto": 6,  # of 10 used 2, denied 3 + 3
    "bea": 5,  # of 5 in that minute used 0, denied 4 + 4; of 50 on the day 8 would have been left
    "ada": 2,  # of 3 used 1; she tried five times
    "bob": 1,  # of 3 used 1, denied 1
    "dan": 1,  # of 3 used 1, denied 1; what grants paid was not lost
    "lee": 1,  # of 3 used 2, denied 2
}


# ---- what it cost


def test_an_incident_costs_what_is_worked_out_by_hand(ledger: Ledger, clock: Clock) -> None:
    incident(ledger, clock)
    found = report(ledger, "gpu-melt")
    assert costs(found) == BY_HAND
    assert [row.user for row in found.top] == ["oto", "bea", "ada", "dan", "bob", "lee"]
    assert [(t.tier, t.users, t.cost, t.denied) for t in found.tiers] == [
        # ada 5, bob 1, dan 1, oto 6, lee 2, may 2: repeated attempts too.
        ("free", 5, 11, 17),
        ("plus", 1, 5, 8),
    ]
    assert (found.total.users, found.total.cost) == (6, 16)
    assert (found.denied.requests, found.denied.units) == (5 + 1 + 1 + 2 + 2 + 2 + 2, 25)
    assert [(d.day, d.users, d.cost, d.denied) for d in found.days] == [("2025-03-27", 6, 16, 25)]
    dan = next(row for row in found.top if row.user == "dan")
    assert (dan.tier, dan.resource, dan.asked, dan.used, dan.granted) == ("free", "image", 4, 1, 2)
    assert not found.pruned


def test_the_most_affected_are_as_many_as_asked_for_and_sums_are_of_all(
    ledger: Ledger, clock: Clock
) -> None:
    incident(ledger, clock)
    found = report(ledger, limit=2)
    assert [row.user for row in found.top] == ["oto", "bea"]
    assert found.total.cost == 16
    with pytest.raises(InvalidInput):
        report(ledger, limit=0)


def test_several_days_are_counted_each_with_its_own_limit(ledger: Ledger, clock: Clock) -> None:
    throttle_id = on(ledger, cap="1/day", duration="3d")
    # ada is refused 5 on each of the first two days and asks for nothing on the third.
    for _ in range(2):
        take(ledger, "ada", 1, 1, 1, 1, 1, 1)
        clock.later(days=1)
    take(ledger, "bob", 1, 2)
    clock.later(days=3)
    # This day is not its own any more.
    take(ledger, "ada", 3, 1)
    found = report(ledger, throttle_id)
    assert costs(found) == {"ada": 2 + 2, "bob": 2}
    assert [(d.day, d.users, d.cost, d.denied) for d in found.days] == [
        ("2025-03-27", 1, 2, 5),
        ("2025-03-28", 1, 2, 5),
        ("2025-03-29", 1, 2, 2),
    ]
    assert (found.total.users, found.total.cost) == (2, 6)


def test_a_week_costs_no_more_than_its_limit_leaves(ledger: Ledger, clock: Clock) -> None:
    ledger.admin.set_limits(tier="free", limits={"image": "3/day,5/week"})
    take(ledger, "ada", 1, 1)
    clock.later(days=1)
    # On Friday, Saturday and Sunday nothing, on Monday a new week.
    on(ledger, deny=True, cap=None, duration="4d")
    for _ in range(4):
        take(ledger, "ada", 3)
        take(ledger, "bob", 3)
        clock.later(days=1)
    found = report(ledger)
    # Of 5 in the first week ada used 2: of the 9 refused only 3 would have passed.
    assert costs(found) == {"bob": 5 + 3, "ada": 3 + 3}
    assert [d.cost for d in found.days] == [3 + 3, 2, 0, 3 + 3]


def test_a_month_that_was_used_up_later_cost_nothing(ledger: Ledger, clock: Clock) -> None:
    ledger.admin.set_limits(tier="free", limits={"image": "4/month"})
    on(ledger, duration="1h")
    take(ledger, "ada", 1, 1, 1, 1, 1)
    take(ledger, "bob", 1, 1, 1, 1, 1)
    assert costs(report(ledger)) == {"ada": 3, "bob": 3}
    clock.later(days=2)
    take(ledger, "ada", 1, 1)
    assert costs(report(ledger)) == {"bob": 3, "ada": 1}
    take(ledger, "ada", 1)
    assert costs(report(ledger)) == {"bob": 3}


def test_refusals_by_a_rate_before_the_throttle_are_not_its_cost(
    ledger: Ledger, clock: Clock
) -> None:
    ledger.admin.set_tier("bea", "plus")
    ledger.admin.set_tier("gus", "plus")
    assert take(ledger, "bea", 5, 5, 5) == ["ok", "limit_reached", "limit_reached"]
    clock.later(hours=1)
    on(ledger, cap="2/day")
    assert take(ledger, "gus", 2, 1) == ["ok", "throttled"]
    assert costs(report(ledger)) == {"gus": 1}


def test_a_limit_that_is_newer_than_the_throttle_takes_nothing_off(
    ledger: Ledger, clock: Clock
) -> None:
    on(ledger)
    take(ledger, "ada", 1, 2)
    ledger.admin.set_limits(tier="free", limits={"image": "3/day,1/hour"})
    # No hour was counted then, so only the day tells.
    assert costs(report(ledger)) == {"ada": 2}


def test_unlimited_counts_all_that_was_refused(ledger: Ledger) -> None:
    ledger.admin.set_tier("zoe", "pro")
    on(ledger, include_protected=True)
    take(ledger, "zoe", 1, 4, 4)
    found = report(ledger)
    assert costs(found) == {"zoe": 8}
    assert any("repeated attempts count" in note for note in found.notes)


def test_a_ceiling_over_everybody_costs_what_each_could_have_had(ledger: Ledger) -> None:
    on(ledger, cap=None, total="4/hour")
    assert take(ledger, "ada", 3) == ["ok"]
    assert take(ledger, "bob", 1, 1) == ["ok", "throttled"]
    assert take(ledger, "cy", 2, 2) == ["throttled", "throttled"]
    assert costs(report(ledger)) == {"cy": 3, "bob": 1}


def test_overrides_count_as_they_held_while_it_was_on(ledger: Ledger, clock: Clock) -> None:
    # ada's ran out before, bob's came after, cy's was cleared since.
    ledger.admin.set_override(
        user="ada", resource="image", limit="9/day", duration="1h", reason="x"
    )
    ledger.admin.set_override(user="cy", resource="image", limit="9/day", reason="x")
    clock.later(hours=2)
    on(ledger, duration="1h")
    for user in ("ada", "bob", "cy"):
        take(ledger, user, 1, 8)
    clock.later(hours=2)
    ledger.admin.set_override(user="bob", resource="image", limit="9/day", reason="sorry")
    ledger.admin.clear_override(user="cy", resource="image")
    assert costs(report(ledger)) == {"cy": 8, "ada": 2, "bob": 2}


def test_tiers_and_users_that_it_spared_or_never_refused_are_left_out(ledger: Ledger) -> None:
    ledger.admin.set_tier("bea", "plus")
    on(ledger, cap="10/day")
    # A free user has 3 anyway: what is refused is not the throttle's doing.
    assert take(ledger, "ada", 2, 2) == ["ok", "limit_reached"]
    assert take(ledger, "bea", 5) == ["ok"]
    found = report(ledger)
    assert (found.top, found.tiers, found.denied.units) == ((), (), 0)


def test_a_block_that_ends_meanwhile_does_not_hide_what_was_refused_then(
    ledger: Ledger, clock: Clock
) -> None:
    ledger.admin.block("ada", duration="1h", reason="x")
    ledger.admin.block("bob", resource="image", duration="6h", reason="x")
    on(ledger)
    clock.later(hours=2)
    take(ledger, "ada", 1, 1)
    take(ledger, "bob", 1, 1)
    assert costs(report(ledger)) == {"ada": 1}


def test_resources_are_told_apart_and_a_user_is_counted_once(ledger: Ledger) -> None:
    on(ledger, cap=None, deny=True, resources=[])
    take(ledger, "ada", 2)
    take(ledger, "ada", 1, 1, resource="video")
    take(ledger, "bob", 1, resource="video")
    found = report(ledger)
    assert [(r.user, r.resource, r.cost) for r in found.top] == [
        ("ada", "image", 2),
        ("ada", "video", 1),
        ("bob", "video", 1),
    ]
    assert [(t.resource, t.users, t.cost) for t in found.tiers] == [
        ("image", 1, 2),
        ("video", 2, 2),
    ]
    assert (found.total.users, found.total.cost) == (2, 4)


def test_another_throttle_at_the_same_time_is_named(ledger: Ledger) -> None:
    on(ledger, name="one", cap="2/day")
    on(ledger, name="two", cap=None, deny=True)
    on(ledger, name="elsewhere", cap=None, deny=True, resources=["video"])
    take(ledger, "ada", 1)
    found = report(ledger, "one")
    assert any("throttle 2 was on" in note for note in found.notes)
    assert costs(found) == {}, "the lower one refused"
    assert costs(report(ledger, "two")) == {"ada": 1}


def test_a_drill_tells_what_it_would_have_cost(ledger: Ledger, clock: Clock) -> None:
    with ledger.admin._act(reason="drill") as act:
        assert isinstance(act, Act)
        put_on(act, lever(cap="1/day", resources=["image"]), Timing(duration="1h"), drill=True)
    assert take(ledger, "ada", 1, 1, 1, 1) == ["ok", "ok", "ok", "limit_reached"]
    assert take(ledger, "bob", 1) == ["ok"]
    found = report(ledger)
    assert found.throttle.drill
    assert costs(found) == {"ada": 2}
    assert (found.denied.requests, found.denied.units) == (2, 2)
    assert "a drill" in found.notes[0]
    clock.later(hours=2)
    with pytest.raises(InvalidInput, match="a drill"):
        ledger.admin.make_good(1, each=3, reason="x")


def test_a_day_of_enormous_requests_is_added_up(ledger: Ledger) -> None:
    ledger.admin.set_tier("zoe", "pro")
    on(ledger, cap=None, deny=True, include_protected=True)
    for _ in range(3):
        take(ledger, "zoe", 2**53 - 1)
        take(ledger, "ada", 2)
    # Counters stop there, and what is more than the limit would not have passed anyway.
    assert take(ledger, "ada", 2**53 - 1) == ["limit_reached"]
    found = report(ledger)
    assert costs(found) == {"zoe": 2**53 - 1, "ada": 3}
    assert found.total.cost == 2**53 + 2


# ---- by brute force

LENGTHS = {"hour": 60, "day": 1440, "week": 10080, "month": 43200}


@pytest.mark.parametrize("seed", range(12))
def test_what_it_cost_is_what_brute_force_finds(
    ledger: Ledger, clock: Clock, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    limits = {
        "free": {"day": 4, "week": chance.choice([9, 99])},
        "plus": {"hour": 2, "month": chance.choice([9, 30])},
    }
    for tier, of_tier in limits.items():
        text = ",".join(f"{most}/{period}" for period, most in of_tier.items())
        ledger.admin.set_limits(tier=tier, limits={"image": text})
    users = {f"u{n}": chance.choice(["free", "plus"]) for n in range(8)}
    for user, tier in users.items():
        ledger.admin.set_tier(user, tier)
    clock.later(days=chance.randrange(5))
    started = None
    for hour in range(24 * 8):
        if hour == 40:
            started = clock.at
            cap = chance.choice(["0/day", "1/day", "1/hour"])
            on(ledger, cap=cap, resources=[], duration="70h")
        if chance.random() < 0.4:
            for user in users:
                # Little before and after, or weeks and months are used up all the same.
                if chance.random() < (0.4 if 40 <= hour < 110 else 0.06):
                    take(ledger, user, *chance.choices([1, 1, 2, 3], k=chance.randrange(1, 4)))
        clock.later(hours=1)
    assert started is not None
    assert_as_brute_force(ledger, limits, users, (started, started + timedelta(hours=70)))


def assert_as_brute_force(
    q: Ledger,
    limits: dict[str, dict[str, int]],
    users: dict[str, str],
    span: tuple[datetime, datetime],
) -> None:
    """The report against the counters, looked at one by one in the order of the promise's
    words, with sums that are never above what the throttle denied."""
    counters: dict[tuple[str, int, int], tuple[int, int]] = {}
    denied: dict[tuple[str, int], int] = defaultdict(int)
    requests: dict[tuple[str, int], int] = defaultdict(int)
    with q.engine.reading() as book:
        calendar = book.policy.calendar
        for c in book.rows("counter", order="starts_at_ms"):
            key = (book.user_name(c["user_id"]), c["period"], c["starts_at_ms"])
            counters[key] = (c["used"], c["denied"])
        for d in book.rows("demand", order="hour_ms"):
            if d["rule_kind"] == "throttle" and d["denied"]:
                cell = (book.tier_name(d["tier_id"]), calendar.day(d["hour_ms"]).starts_at_ms)
                denied[cell] += d["denied"]
                requests[cell] += d["requests"]
    from_ms, until_ms = (int(at.timestamp() * 1000) for at in span)

    def by_window(user: str, period: str, day: int) -> int | None:
        """What one limit tells of a day; None if it tells nothing."""
        most, length_min = limits[users[user]][period], LENGTHS[period]
        window = calendar.window(period_of_length(length_min), day)
        mine = {
            start: counts
            for (name, length, start), counts in counters.items()
            if name == user and length == min(length_min, 1440)
        }
        if length_min == 60:
            inside = {
                start: counts
                for start, counts in mine.items()
                if calendar.day(start).starts_at_ms == day and counts[1]
            }
            lost_in = [
                min(used + asked, most) - min(used, most)
                for start, (used, asked) in inside.items()
                if start < until_ms and start + 3_600_000 > from_ms
            ]
            return sum(lost_in) if inside else None
        if length_min == 1440:
            used, asked = mine.get(day, (0, 0))
            return min(used + asked, most) - min(used, most)
        days = [s for s in mine if window.starts_at_ms <= s < window.reset_at_ms]
        before = sum(lost[user, s] for s in days if s < day and (user, s) in lost)
        return max(0, most - sum(mine[s][0] for s in days) - before)

    lost: dict[tuple[str, int], int] = {}
    for user, tier in users.items():
        for cell in sorted(cell for cell in denied if cell[0] == tier):
            day = cell[1]
            told = [by_window(user, period, day) for period in limits[tier]]
            _, asked = counters.get((user, 1440, day), (0, 0))
            lost[user, day] = min([asked, denied[cell], *(n for n in told if n is not None)])
    cells: dict[tuple[str, int], list[int]] = defaultdict(list)
    for (user, day), cost in lost.items():
        if cost:
            cells[users[user], day].append(cost)
    sums = {cell: min(sum(found), denied[cell]) for cell, found in cells.items()}

    found = report(q, limit=100)
    of_users = {u: sum(n for (name, _), n in lost.items() if name == u) for u in users}
    assert costs(found) == {user: cost for user, cost in of_users.items() if cost}
    assert found.denied.units == sum(denied.values())
    assert {t.tier: t.cost for t in found.tiers} == {
        tier: sum(n for (of_tier, _), n in sums.items() if of_tier == tier)
        for tier in {tier for tier, _ in denied}
    }
    assert [d.cost for d in found.days] == [
        sum(n for (_, start), n in sums.items() if start == day)
        for day in sorted({day for _, day in denied})
    ]
    assert [d.users for d in found.days] == [
        sum(min(len(cells[cell]), requests[cell]) for cell in denied if cell[1] == day)
        for day in sorted({day for _, day in denied})
    ]
    assert found.total.cost == sum(sums.values()) > 0
    assert (found.total.cost < sum(lost.values())) <= any("Other rules" in n for n in found.notes)


# ---- what became of it


def events(found: Aftermath) -> list[tuple[str, str, str | None]]:
    """(time in UTC, what, detail)."""
    return [(m.at.strftime("%H:%M"), m.what, m.detail) for m in found.timeline]


def test_a_throttle_that_time_ended_says_who_why_and_when(ledger: Ledger, clock: Clock) -> None:
    on(ledger, name="gpu-melt", duration="2h", ticket="INC-1")
    clock.later(hours=1)
    ledger.admin.throttle_extend("gpu-melt", duration="3h", reason="not over yet")
    found = report(ledger)
    assert (found.ended_at, found.throttle.state) == (None, "on")
    assert "so far" in found.notes[0]
    clock.later(hours=9)
    found = report(ledger, 1)
    assert found.ended_at == datetime(2025, 3, 27, 13, 0, tzinfo=UTC)
    assert events(found) == [
        ("09:00", "throttle.on", "cap 1/day for all tiers, image, until 2025-03-27 12:00 CET"),
        (
            "10:00",
            "throttle.extend",
            "until 2025-03-27 14:00 CET (was until 2025-03-27 12:00 CET)",
        ),
        ("13:00", "ends", None),
    ]
    first, second, last = found.timeline
    assert (first.actor, first.reason, first.ticket) == ("eve@ops", "melting", "INC-1")
    assert (second.reason, last.actor, last.reason) == ("not over yet", None, None)


def test_a_throttle_that_was_lifted_does_not_end_by_itself_too(
    ledger: Ledger, clock: Clock
) -> None:
    on(ledger)
    clock.later(hours=1)
    ledger.admin.throttle_off(1, reason="over")
    clock.later(days=2)
    ledger.close_days()
    found = report(ledger)
    assert found.ended_at == START + timedelta(hours=1)
    assert [what for _, what, _ in events(found)] == ["throttle.on", "throttle.off"]


SCALED = (
    "scale 100% for all tiers, all resources (in steps 10%, 50%, 80%), until 2025-03-27 19:00 CET"
)


def test_a_ramp_tells_each_step_that_came(ledger: Ledger, clock: Clock) -> None:
    ledger.admin.throttle_on(
        ramp="10%,50%,80%", every="1h", name="ramp", duration="9h", reason="back"
    )
    clock.later(minutes=90)
    ledger.admin.throttle_hold("ramp", reason="errors")
    clock.later(hours=3)
    ledger.admin.throttle_resume("ramp", reason="fine")
    clock.later(hours=1)
    ledger.admin.throttle_off("ramp", ramp="90%,100%", every="30m", reason="over")
    clock.later(hours=2)
    assert events(report(ledger, "ramp")) == [
        (
            "09:00",
            "throttle.on",
            SCALED,
        ),
        ("09:00", "step", "10%"),
        ("10:00", "step", "50%"),
        ("10:30", "throttle.hold", "at 50%, until 2025-03-27 19:00 CET"),
        (
            "13:30",
            "throttle.resume",
            "80% 2025-03-27 15:00 CET; until 2025-03-27 19:00 CET",
        ),
        ("14:00", "step", "80%"),
        (
            "14:30",
            "throttle.off",
            "90% 2025-03-27 15:30 CET, 100% 2025-03-27 16:00 CET; until 2025-03-27 16:00 CET",
        ),
        ("14:30", "lifting", "90%"),
        ("15:00", "ends", None),
    ]


def test_a_throttle_that_was_replaced_says_by_which(ledger: Ledger, clock: Clock) -> None:
    on(ledger)
    clock.later(hours=1)
    on(ledger, cap="2/day", replace=True, reason="softer")
    found = report(ledger, 1)
    assert [(what, detail) for _, what, detail in events(found)[1:]] == [
        ("replaced", "by throttle 2")
    ]
    assert found.timeline[-1].reason == "softer"
    assert not any("At the same time" in note for note in found.notes)


def test_a_notification_that_failed_is_told(ledger: Ledger, clock: Clock) -> None:
    on(ledger)
    with ledger.engine.writing() as book:
        (row,) = book.audit_rows(where={"action = ?": "throttle.on"})
        for event_id in (f"{row['id']}-{row['hash'][:16]}", f"{row['id']}-another-ledgers"):
            audit.record(
                book,
                now_ms=ledger.now_ms(),
                actor="ops",
                action="notify.failed",
                subject="/bin/post",
                after={"event": event_id, "why": "ended with 1"},
            )
    assert [(what, detail) for _, what, detail in events(report(ledger))[1:]] == [
        ("notify.failed", "/bin/post ended with 1")
    ]


def test_a_throttle_to_come_has_done_nothing_yet(ledger: Ledger, clock: Clock) -> None:
    on(ledger, at="18:00", duration="1h", name="evening")
    take(ledger, "ada", 1, 3)
    found = report(ledger, "evening")
    assert (found.throttle.state, found.ended_at) == ("scheduled", None)
    assert (found.total.cost, found.days, found.top) == (0, (), ())
    assert found.notes == ("It is not in force yet.",)
    ledger.admin.throttle_off("evening", reason="not needed")
    clock.later(days=1)
    found = report(ledger, "evening")
    assert found.ended_at == START
    assert [what for _, what, _ in events(found)] == ["throttle.on", "throttle.off"]
    assert found.notes == ("It was never in force.",)
    outcome = ledger.admin.make_good("evening", each=3, reason="x")
    assert not outcome.changed


def test_a_scheduled_throttle_says_when_it_started(ledger: Ledger, clock: Clock) -> None:
    on(ledger, at="18:00", duration="1h")
    clock.later(hours=8, minutes=30)
    take(ledger, "ada", 1, 1)
    found = report(ledger)
    assert [(at, what) for at, what, _ in events(found)] == [
        ("09:00", "throttle.on"),
        ("17:00", "starts"),
    ]
    assert costs(found) == {"ada": 1}


def test_only_throttles_have_such_a_report(ledger: Ledger) -> None:
    ledger.admin.enforcement_set("shadow", reason="x")
    for which in (1, 99, "nope"):
        with pytest.raises(NotFound):
            report(ledger, which)


def test_pruned_counters_are_told_and_not_made_up(ledger: Ledger, clock: Clock) -> None:
    ledger.admin.set_setting("counter_retention", "62d")
    take(ledger, "ada", 1)
    on(ledger, duration="36h")
    take(ledger, "ada", 1, 1)
    clock.later(days=1)
    take(ledger, "ada", 1, 1)
    clock.later(days=60)
    ledger.close_days()
    whole = report(ledger)
    assert (whole.pruned, whole.total.cost) == (False, 2 + 1)
    # 62 days ago is now between the two days' starts.
    clock.later(days=1)
    ledger.close_days()
    part = report(ledger)
    assert (part.pruned, part.total.cost) == (True, 1)
    assert any("2025-03-27 are pruned" in note for note in part.notes)
    clock.later(days=3)
    ledger.close_days()
    none = report(ledger)
    assert (none.pruned, none.total.cost, none.denied.units) == (True, 0, 0)
    outcome = ledger.admin.make_good(1, each=3, limit_to="refused", reason="late")
    assert not outcome.changed
    assert "pruned" in outcome.message


def test_the_report_as_json_has_all_of_it(ledger: Ledger, clock: Clock) -> None:
    incident(ledger, clock)
    found = json.loads(json.dumps(report(ledger, limit=1).to_dict()))
    assert list(found) == [
        "throttle", "ended_at", "timeline", "denied", "total", "tiers", "top", "days",
        "pruned", "made_good_id", "notes",
    ]  # fmt: skip
    assert (found["throttle"]["id"], found["throttle"]["name"]) == (1, "gpu-melt")
    assert found["ended_at"] == "2025-03-27T15:01:00Z"
    assert found["timeline"][0] == {
        "at": "2025-03-27T09:01:00Z",
        "actor": "eve@ops",
        "what": "throttle.on",
        "detail": "cap 1/day for all tiers, image, until 2025-03-27 16:01 CET",
        "reason": "melting",
        "ticket": "INC-1",
    }
    assert found["tiers"][1] == {
        "tier": "plus", "resource": "image", "users": 1, "cost": 5, "denied": 8,
    }  # fmt: skip
    assert found["top"] == [
        {"user": "oto", "tier": "free", "resource": "image", "cost": 6, "asked": 8, "used": 2,
         "granted": 0},
    ]  # fmt: skip
    assert found["total"] == {"users": 6, "cost": 16}
    assert (found["pruned"], found["made_good_id"]) == (False, None)


# ---- making good


def granted(q: Ledger) -> dict[str, int]:
    with q.engine.reading() as book:
        return {
            book.user_name(g["user_id"]): g["balance"] for g in book.rows("grant_pool")
            if g["created_at_ms"] == q.now_ms()
        }  # fmt: skip


def test_making_good_for_the_refused_gives_to_those_that_the_report_names(
    ledger: Ledger, clock: Clock
) -> None:
    incident(ledger, clock)
    outcome = ledger.admin.make_good(
        "gpu-melt", each=3, limit_to="refused", duration="7d", reason="sorry", ticket="INC-1"
    )
    assert outcome.changed
    assert granted(ledger) == dict.fromkeys(BY_HAND, 3)
    assert (outcome.item["users"], outcome.item["units"]) == (6, 18)
    assert outcome.item["tiers"] == [
        {"tier": "free", "resource": "image", "users": 5, "units": 15},
        {"tier": "plus", "resource": "image", "users": 1, "units": 3},
    ]
    assert ledger.verify().differences == ()
    found = report(ledger)
    assert found.made_good_id == outcome.item["audit_id"]
    assert events(found)[-1][1:] == ("grant.make_good", "6 users get 3 more of image")
    # And it is as any other grant: usable, with its reason, revocable.
    take(ledger, "ada", 2)
    assert ledger.consume(user="ada", resource="image", amount=3).granted == 3
    with ledger.engine.reading() as book:
        (grant,) = [g for g in book.rows("grant_pool") if book.user_name(g["user_id"]) == "bob"]
        assert book.why(grant["audit_id"])["reason"] == "sorry"
        (row,) = book.rows("audit", {"id": grant["audit_id"]})
        assert (row["action"], row["subject"], row["user_id"]) == (
            "grant.make_good",
            "throttle 1",
            None,
        )
        assert json.loads(row["after"]) == {
            "users": 6,
            "units": 18,
            "each": 3,
            "resources": ["image"],
            "limited_to": "refused",
            "priority": 0,
            "expires_at": "2025-04-03T16:01:00Z",
        }
    ledger.admin.revoke_grant(grant["id"], reason="x")
    assert ledger.verify().differences == ()


def test_making_good_for_all_gives_to_everybody_in_scope_who_asked(
    ledger: Ledger, clock: Clock
) -> None:
    incident(ledger, clock)
    clock.later(days=2)
    take(ledger, "later", 1)
    ledger.admin.make_good("gpu-melt", each=2, reason="sorry")
    # Not the protected ones, nor who was blocked, nor who came two days later.
    assert granted(ledger) == dict.fromkeys([*BY_HAND, "cy", "may"], 2)
    assert ledger.verify().differences == ()


def test_each_gets_what_they_asked_for_or_of_the_one_resource_that_is_named(
    ledger: Ledger, clock: Clock
) -> None:
    for name in ("one", "two"):
        on(ledger, name=name, cap=None, deny=True, resources=["image", "video"])
        take(ledger, "ada", 1)
        take(ledger, "bob", 1, resource="video")
        clock.later(hours=1)
        ledger.admin.throttle_off(name, reason="over")
    with pytest.raises(NotFound):
        ledger.admin.make_good("one", each=1, resource="audio", reason="x")
    outcome = ledger.admin.make_good("one", each=1, reason="x")
    assert outcome.item["tiers"] == [
        {"tier": "free", "resource": "image", "users": 1, "units": 1},
        {"tier": "free", "resource": "video", "users": 1, "units": 1},
    ]
    outcome = ledger.admin.make_good("two", each=1, resource="video", reason="x")
    assert (outcome.item["users"], outcome.item["resources"]) == (1, ["video"])
    on(ledger, name="three")
    ledger.admin.throttle_off("three", reason="over")
    with pytest.raises(InvalidInput, match="not for video"):
        ledger.admin.make_good("three", each=1, resource="video", reason="x")


def test_making_good_happens_once_whatever_is_asked_for_then(ledger: Ledger, clock: Clock) -> None:
    incident(ledger, clock)
    first = ledger.admin.make_good(1, each=3, limit_to="refused", reason="sorry")
    clock.later(hours=1)
    second = ledger.admin.make_good("gpu-melt", each=9, reason="again")
    assert not second.changed
    assert second.message == (
        f"throttle 1 (gpu-melt) was made good already by audit row {first.item['audit_id']} "
        "(2025-03-27 17:01 CET): 3 each of image"
    )
    assert second.item["users"] == 6
    assert granted(ledger) == {}


def test_making_good_for_one_resource_leaves_the_others_to_be_made_good(
    ledger: Ledger, clock: Clock
) -> None:
    for name in ("one", "two"):
        on(ledger, name=name, cap=None, deny=True, resources=["image", "video"])
        take(ledger, "ada", 1)
        take(ledger, "bob", 1, resource="video")
        clock.later(hours=1)
        ledger.admin.throttle_off(name, reason="over")
    first = ledger.admin.make_good("one", each=2, resource="image", reason="x")
    again = ledger.admin.make_good("one", each=5, resource="image", reason="x")
    assert (again.changed, again.item["audit_id"]) == (False, first.item["audit_id"])
    assert again.message.endswith("2 each of image")
    assert ledger.admin.make_good("one", each=3, resource="video", reason="x").changed
    both = ledger.admin.make_good("one", each=3, reason="x")
    assert (both.changed, both.item["resources"]) == (False, ["video"])
    assert granted(ledger) == {"ada": 2, "bob": 3}
    # For all is for what is left, and then nothing is.
    assert ledger.admin.make_good("two", each=1, resource="video", reason="x").changed
    rest = ledger.admin.make_good("two", each=1, reason="x")
    assert (rest.changed, rest.item["resources"]) == (True, ["image"])
    for resource in ("image", "video", None):
        assert not ledger.admin.make_good("two", each=1, resource=resource, reason="x").changed
    assert ledger.verify().differences == ()


def test_making_good_waits_until_it_is_over(ledger: Ledger, clock: Clock) -> None:
    on(ledger)
    take(ledger, "ada", 1, 1)
    with pytest.raises(Conflict, match="is on"):
        ledger.admin.make_good(1, each=3, reason="x")
    on(ledger, name="evening", at="tomorrow 18:00")
    with pytest.raises(Conflict, match="is scheduled"):
        ledger.admin.make_good("evening", each=3, reason="x")
    clock.later(hours=6)
    assert ledger.admin.make_good(1, each=3, reason="x").changed


GOOD: dict[str, Any] = {"throttle": "gpu-melt", "each": 3, "reason": "x"}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"each": 0}, InvalidInput),
        ({"each": -3}, InvalidInput),
        ({"each": True}, InvalidInput),
        ({"each": 2**53}, InvalidInput),
        ({"limit_to": "angry"}, InvalidInput),
        ({"priority": 10**9}, InvalidInput),
        ({"reason": None}, InvalidInput),
        ({"until": "2025-03-27T09:00:00Z"}, InvalidInput),
        ({"throttle": "nope"}, NotFound),
    ],
)
def test_what_cannot_be_made_good_is_refused_and_nothing_changes(
    ledger: Ledger, clock: Clock, arguments: dict[str, Any], error: type[Exception]
) -> None:
    incident(ledger, clock)
    with pytest.raises(error):
        ledger.admin.make_good(**GOOD | arguments)
    assert granted(ledger) == {}
    assert report(ledger).made_good_id is None


def test_nobody_to_make_good_for_can_be_asked_again(ledger: Ledger, clock: Clock) -> None:
    on(ledger, duration="1h")
    take(ledger, "ada", 1)
    clock.later(hours=2)
    outcome = ledger.admin.make_good(1, each=3, limit_to="refused", reason="x")
    assert (outcome.changed, outcome.item["users"]) == (False, 0)
    assert ledger.admin.make_good(1, each=3, reason="x").changed


def test_ids_of_grants_and_entries_go_on_after_it(ledger: Ledger, clock: Clock) -> None:
    incident(ledger, clock)
    ledger.admin.make_good(1, each=1, reason="x")
    last = max(g["id"] for g in rows(ledger, "grant_pool"))
    made = ledger.admin.add_grant(user="new", resource="image", amount=1, reason="x")
    assert made.item["id"] == last + 1
    assert take(ledger, "new", 1) == ["ok"]
    assert ledger.verify().differences == ()


def rows(q: Ledger, table: str) -> list[dict[str, Any]]:
    with q.engine.reading() as book:
        return book.rows(table)


def test_nothing_of_it_stays_on_the_connection(ledger: Ledger, clock: Clock) -> None:
    incident(ledger, clock)
    report(ledger)
    ledger.admin.make_good(1, each=1, reason="x")
    report(ledger)
    connection = ledger.engine._connection  # type: ignore[attr-defined]
    left = {name for (name,) in connection.execute("SELECT name FROM sqlite_temp_master")}
    # The gateway's own, which holds no rows.
    assert left <= {"taking_next", "taking_next_is_counted"}


MAKE_GOOD = """
import sys
from datetime import datetime, UTC
import quotactl
q = quotactl.connect(sys.argv[1], clock=lambda: datetime(2025, 3, 28, 12, tzinfo=UTC))
print("ready", flush=True)
sys.stdin.readline()
print(q.admin.make_good("gpu-melt", each=3, reason="sorry").changed, flush=True)
"""


def test_two_processes_at_once_make_good_once(ledger: Ledger, clock: Clock, tmp_path: Path) -> None:
    incident(ledger, clock)
    path = tmp_path / "ledger.db"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", MAKE_GOOD, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(quotactl.__file__).parent.parent,
        )
        for _ in range(4)
    ]
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = sorted(process.communicate(timeout=60)[0].strip() for process in running)
    finally:
        for process in running:
            process.kill()
            process.wait(60)
    assert said == ["False"] * 3 + ["True"]
    # One of dan's was there before.
    assert len(rows(ledger, "grant_pool")) == 1 + 8
    assert ledger.verify().differences == ()


def test_twenty_thousand_users_are_reported_and_made_good_quickly(
    ledger: Ledger, clock: Clock, tmp_path: Path
) -> None:
    count = 20_000
    on(ledger)
    requests = [
        quotactl.Request(f"u{n}", "image", amount) for n in range(count) for amount in (1, 1)
    ]
    for start in range(0, len(requests), 10_000):
        ledger.consume_many(requests[start : start + 10_000])
    clock.later(hours=7)
    began = time.monotonic()
    found = report(ledger)
    assert (found.total.users, found.total.cost, len(found.top)) == (count, count, 10)
    outcome = ledger.admin.make_good(1, each=3, limit_to="refused", reason="sorry")
    assert time.monotonic() - began < 5, "it takes about a quarter of a second"
    assert outcome.item["users"] == count
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        assert connection.execute("SELECT count(*), sum(balance) FROM grant_pool").fetchone() == (
            count,
            3 * count,
        )
        # One row for all of them.
        assert connection.execute(
            "SELECT count(*) FROM audit WHERE action LIKE 'grant.%'"
        ).fetchone() == (1,)
    assert ledger.verify().differences == ()
