"""Usage reports: every way of summing gives the same sums."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import quotactl
from quotactl.api import Ledger
from quotactl.errors import InvalidInput, NotFound
from quotactl.reports.status import status
from quotactl.reports.usage import GROUPS, top, usage


class Clock:
    def __init__(self) -> None:
        self.at = datetime(2025, 3, 29, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    """Two days over the change of clocks in Kolkata's half-hour zone, with every kind of demand."""
    with quotactl.create(tmp_path / "ledger.db", zone="Asia/Kolkata", clock=clock) as q:
        q.admin.create_resource("image")
        q.admin.create_resource("video")
        q.admin.create_tier("free")
        q.admin.create_tier("plus")
        q.admin.set_limits(tier="free", limits={"image": "3/day", "video": "1/day"})
        q.admin.set_limits(tier="plus", limits={"image": "50/day,5/minute"})
        q.admin.set_tier("bob", "plus")
        q.admin.add_grant(user="ada", resource="image", amount=2, reason="sorry")
        for _day in range(2):
            for user, resource, amount in [
                ("ada", "image", 2),
                ("ada", "image", 2),
                ("ada", "image", 4),
                ("ada", "video", 1),
                ("ada", "video", 1),
                ("bob", "image", 5),
                ("bob", "image", 1),
                ("bob", "video", 1),
            ]:
                clock.at += timedelta(seconds=1)
                q.consume(user=user, resource=resource, amount=amount)
            d = q.consume(user="cy", resource="image", amount=2)
            clock.at += timedelta(hours=3)
            q.refund(entry_id=d.entry_id, amount=1)
            clock.at += timedelta(hours=21)
        clock.at -= timedelta(hours=21)
        q.admin.reset_user("bob", reason="wrong limit")
        q.admin.set_tier("bob", "free")
        yield q


def now(ledger: Ledger) -> int:
    return ledger.now_ms()


@pytest.mark.parametrize("by", GROUPS)
def test_every_grouping_adds_up_to_the_same(ledger: Ledger, by: str) -> None:
    sums: dict[str, dict[str, int]] = {}
    for group in ("resource", by):
        _, rows = usage(ledger.engine, now(ledger), by=group, days=2)
        for field in ("used", "granted", "denied"):
            total = sum(getattr(row, field) for row in rows)
            sums.setdefault(field, {})[group] = total
    for field, totals in sums.items():
        assert len(set(totals.values())) == 1, (field, totals)
        assert totals["resource"] > 0, field


def test_usage_by_tier_stays_with_the_tier_of_the_time(ledger: Ledger) -> None:
    _, rows = usage(ledger.engine, now(ledger), by="tier", days=2, resource="image")
    # bob's 5 of the first day are plus's, though he is on free now; those of the
    # second were reset.
    assert {row.key: row.used for row in rows} == {"free": 8, "plus": 5}


def test_usage_is_after_refunds(ledger: Ledger) -> None:
    _, rows = usage(ledger.engine, now(ledger), by="user", days=2, user="cy")
    assert [(row.key, row.used, row.denied) for row in rows] == [("cy", 2, 0)]


def test_top_is_ordered_by_units_then_by_age_and_leaves_out_those_with_none(ledger: Ledger) -> None:
    _, rows = top(ledger.engine, now(ledger), by="denied", days=2)
    assert [(row.key, row.resource, row.denied) for row in rows] == [
        ("ada", "image", 8),
        ("bob", "image", 2),
        ("bob", "video", 2),
        ("ada", "video", 2),
    ]
    _, rows = top(ledger.engine, now(ledger), by="granted", days=2, limit=1)
    assert [(row.key, row.granted) for row in rows] == [("ada", 2)]


def test_one_users_days_are_the_ledgers_days(ledger: Ledger) -> None:
    _, rows = usage(ledger.engine, now(ledger), by="day", days=3, user="ada", resource="video")
    assert [(row.key, row.used) for row in rows] == [("2025-03-29", 1), ("2025-03-30", 1)]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"by": "colour"}, InvalidInput),
        ({"day": "2025-02-30"}, InvalidInput),
        ({"day": "today", "days": 2}, InvalidInput),
        ({"days": 0}, InvalidInput),
        ({"first": "2025-03-30", "last": "2025-03-29"}, InvalidInput),
        ({"by": "tier", "user": "ada"}, InvalidInput),
        ({"by": "user", "user": "nobody"}, NotFound),
        ({"by": "resource", "resource": "audio"}, NotFound),
        ({"by": "day", "tier": "gold"}, NotFound),
    ],
)
def test_what_cannot_be_reported_is_refused(
    ledger: Ledger, arguments: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        usage(ledger.engine, now(ledger), **arguments)  # type: ignore[arg-type]


def test_status_tells_what_is_in_force_and_what_waits(ledger: Ledger, clock: Clock) -> None:
    ledger.admin.throttle_on(cap="1/day", tiers=["free"], duration="2h", reason="melting")
    state = status(ledger.engine, now(ledger))
    assert [one.view.value for one in state.throttles] == ["1/day"]
    assert state.enforcement == "on"
    assert state.due == ("2025-03-29",)
    assert {r.resource: r.used for r in state.today} == {"image": 4, "video": 1}
    ledger.close_days()
    clock.at += timedelta(hours=2)
    state = status(ledger.engine, now(ledger))
    assert state.throttles == ()
    assert (state.last_closed, state.due) == ("2025-03-29", ())


@pytest.mark.parametrize("by", ["used", "denied"])
def test_the_top_by_the_index_of_those_with_much_is_the_top(ledger: Ledger, by: str) -> None:
    ledger.admin.create_tier("big")
    ledger.admin.set_limits(tier="big", limits={"image": "90/day", "video": "70/day"})
    for number in range(12):
        user = f"user-{number}"
        ledger.admin.set_tier(user, "big")
        for resource in ("image", "video"):
            ledger.consume(user=user, resource=resource, amount=60 + number % 5 * 3)
            ledger.consume(user=user, resource=resource, amount=91 + number % 7)
    everybody = top(ledger.engine, ledger.now_ms(), by=by, limit=1000)[1]
    assert sum(getattr(row, by) >= 64 for row in everybody) >= 10
    for limit in (1, 5, 10, 24):
        assert top(ledger.engine, ledger.now_ms(), by=by, limit=limit)[1] == everybody[:limit]


def test_the_top_of_a_day_is_found_without_looking_at_everybody(ledger: Ledger) -> None:
    ledger.admin.create_tier("big")
    ledger.admin.set_limits(tier="big", limits={"image": "90/day"})
    ledger.admin.set_tier("max", "big")
    ledger.consume(user="max", resource="image", amount=70)
    steps = [0]

    def step() -> None:
        steps[0] += 1

    connection = ledger.engine._connection  # type: ignore[attr-defined]
    for number in range(300):
        ledger.consume(user=f"small-{number}", resource="image")
    connection.set_progress_handler(step, 100)
    found = top(ledger.engine, ledger.now_ms(), resource="image", limit=1)[1]
    connection.set_progress_handler(None, 0)
    assert (found[0].key, steps[0] < 10) == ("max", True), steps
