"""Laws on random histories: closing days, throttles that are lifted, and what entries add up to.

That splitting a batch anywhere changes nothing is in `tests/policy/test_decide.py` and, with
corrections under totals, in `test_promises_totals.py`. QUOTACTL_LONG=1 tries 150 histories
of each instead of 10.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import quotactl

LONG = int(os.environ.get("QUOTACTL_LONG", "0"))
lawful = settings(
    max_examples=150 * LONG or 10,
    deadline=None,
    derandomize=not LONG,
    database=None,
    phases=(Phase.generate, Phase.shrink) if LONG else (Phase.generate,),
)
# Before the spring's and the autumn's change of clocks, and before the end of a year.
STARTS = tuple(
    datetime(*at, tzinfo=UTC) for at in ((2025, 3, 28, 20), (2025, 10, 24, 20), (2025, 12, 29, 20))
)
LIMITS = ("3/day", "5/day,2/hour", "4/week,6/month", "9/day,4/3h,7/week")
users = st.sampled_from(("ada", "ada", "bob", "new"))
amounts = st.integers(1, 4)
acts = st.lists(
    st.one_of(
        st.tuples(st.just("take"), users, amounts),
        st.tuples(st.just("take"), users, amounts),
        st.tuples(st.just("hold"), users, amounts),
        st.tuples(st.just("settle"), st.integers(0, 9), st.none() | amounts),
        st.tuples(st.just("refund"), st.integers(0, 9), amounts),
        st.tuples(
            st.just("later"), st.sampled_from((40, 3600, 7 * 3600, 7 * 3600, 26 * 3600, 40 * 86400))
        ),
    ),
    min_size=3,
    max_size=14,
)
LEVERS: Sequence[dict[str, Any]] = (
    {"deny": True},
    {"cap": "1/day"},
    {"cap": "1/hour", "freeze_grants": True},
    {"cap": "2/month"},
    {"scale": 50},
    {"total": "2/day"},
    {"total": "1/3h"},
    {"cap": "2/day", "ramp": "50%,100%", "every": "10m"},
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with a tier and grants, made once."""
    path = tmp_path_factory.mktemp("laws") / "l.db"
    with quotactl.create(path, zone="Europe/Rome", clock=lambda: STARTS[0]) as q:
        q.admin.set_setting("durability", "relaxed")
        q.admin.create_resource("image")
        q.admin.create_tier("free")
        q.admin.add_grant(user="bob", resource="image", amount=3, reason="test")
    return path


class World:
    """A copy of it, with its own clock, and all that was taken in it."""

    def __init__(self, template: Path, path: Path, limit: str, start: datetime, hours: int) -> None:
        shutil.copyfile(template, path)
        self.path = path
        self.now = start
        self.q = quotactl.connect(path, clock=lambda: self.now)
        admin = self.q.admin
        admin.set_limit(tier="free", resource="image", limit=limit)
        duration = f"{hours}h"
        admin.add_grant(user="ada", resource="image", amount=3, duration=duration, reason="test")
        admin.set_override(
            user="new", resource="image", limit="1/day", duration=duration, reason="test"
        )
        self.taken: list[tuple[int, datetime]] = []
        self.held: list[tuple[int, datetime]] = []

    def perform(self, act: tuple[Any, ...]) -> Any:
        """Do something, and say how it went, but for ids: those may differ between worlds."""
        try:
            return getattr(self, act[0])(*act[1:])
        except quotactl.QuotaError as error:
            return error.code

    def take(self, user: str, amount: int) -> Any:
        decision = self.q.consume(user=user, resource="image", amount=amount)
        if decision.entry_id is not None:
            self.taken.append((decision.entry_id, self.now))
        return shown(decision)

    def hold(self, user: str, amount: int) -> Any:
        decision = self.q.reserve(user=user, resource="image", amount=amount, ttl_s=1800)
        if decision.reservation_id is not None:
            self.held.append((decision.reservation_id, self.now))
        return shown(decision)

    def settle(self, which: int, amount: int | None) -> Any:
        held = [hold for hold in self.held if self.is_kept(hold)]
        if not held:
            return None
        hold, _ = taken = held[which % len(held)]
        self.held.remove(taken)
        done = self.q.void(hold) if amount is None else self.q.post(hold, amount=amount)
        return done.state, done.posted

    def refund(self, which: int, amount: int) -> Any:
        taken = [entry for entry in self.taken if self.is_kept(entry)]
        if not taken:
            return None
        return self.q.refund(entry_id=taken[which % len(taken)][0], amount=amount).amount

    def is_kept(self, taken: tuple[int, datetime]) -> bool:
        """Whether no close can have pruned it: then it is not found any more."""
        return self.now - taken[1] < timedelta(days=30)

    def later(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    def outlook(self) -> list[Any]:
        """What everybody would be told now."""
        return [
            shown(self.q.check(user=user, resource="image", amount=amount))
            for user in ("ada", "bob", "new")
            for amount in (1, 2, 4)
        ]

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(statement).fetchall()


def shown(decision: quotactl.Decision) -> dict[str, Any]:
    return {k: v for k, v in decision.to_dict().items() if not k.endswith("_id")}


@contextmanager
def worlds(template: Path, count: int, data: st.DataObject) -> Iterator[list[World]]:
    limit = data.draw(st.sampled_from(LIMITS), "limit")
    start = data.draw(st.sampled_from(STARTS), "start")
    hours = data.draw(st.integers(4, 80), "what expires lasts")
    with TemporaryDirectory() as folder:
        made = [
            World(template, Path(folder) / f"{n}.db", limit, start, hours) for n in range(count)
        ]
        try:
            yield made
            for world in made:
                assert world.q.verify().differences == ()
        finally:
            for world in made:
                world.q.close()


@lawful
@given(history=acts, data=st.data())
def test_closing_at_any_time_changes_no_decision(
    template: Path, history: list[tuple[Any, ...]], data: st.DataObject
) -> None:
    with worlds(template, 2, data) as (open_, closed):
        for act in history:
            if data.draw(st.booleans(), "close"):
                closed.q.close_days()
            assert closed.perform(act) == open_.perform(act)
        closed.q.close_days()
        assert closed.outlook() == open_.outlook()


@lawful
@given(before=acts, levers=st.lists(st.sampled_from(LEVERS), min_size=1, max_size=3), after=acts,
       data=st.data())  # fmt: skip
def test_a_throttle_on_and_off_is_the_identity(
    template: Path,
    before: list[tuple[Any, ...]],
    levers: list[dict[str, Any]],
    after: list[tuple[Any, ...]],
    data: st.DataObject,
) -> None:
    with worlds(template, 2, data) as (plain, throttled):
        for act in before:
            assert throttled.perform(act) == plain.perform(act)
        for number, lever in enumerate(levers):
            throttled.q.admin.throttle_on(**lever, name=f"t{number}", replace=True, reason="test")
        on_for_s = data.draw(st.sampled_from((0, 700, 1800)), "on for")
        for world in (plain, throttled):
            world.later(on_for_s)
        # Whoever only asks is told, and nothing is counted.
        throttled.outlook()
        for number in range(len(levers)):
            # One that took its place, or its end, may have lifted it.
            with suppress(quotactl.NotFound):
                throttled.q.admin.throttle_off(f"t{number}", reason="test")
        assert throttled.outlook() == plain.outlook()
        for act in after:
            assert throttled.perform(act) == plain.perform(act)
        assert throttled.outlook() == plain.outlook()


@lawful
@given(history=acts, data=st.data())
def test_entries_replayed_are_the_counters_and_balances(
    template: Path, history: list[tuple[Any, ...]], data: st.DataObject
) -> None:
    """Added up here one by one, by the words of `ledger/entries.py`, not by `verify`'s SQL."""
    with worlds(template, 1, data) as (world,):
        for act in history:
            world.perform(act)
        entries = world.rows("SELECT id, at_ms, user_id, resource_id, amount, granted, day_ms, "
                             "periods, of_id FROM entry ORDER BY id")  # fmt: skip
        at_of = {id_: at_ms for id_, at_ms, *_ in entries}
        used: Counter[tuple[int, int, int, int]] = Counter()
        granted: Counter[tuple[int, int, int, int]] = Counter()
        for _, at_ms, user, resource, amount, paid, day_ms, periods, of_id in entries:
            if day_ms is not None:
                used[resource, 1440, day_ms, user] += amount - paid
                granted[resource, 1440, day_ms, user] += paid
            for period in map(int, periods.split(",")) if periods else ():
                taken_ms = at_of.get(of_id, at_ms)
                start = taken_ms - taken_ms % (period * 60_000)
                used[resource, period, start, user] += amount
        kept = world.rows("SELECT resource_id, period, starts_at_ms, user_id, used, granted "
                          "FROM counter")  # fmt: skip
        assert {row[:4]: row[4] for row in kept if row[4]} == +used
        assert {row[:4]: row[5] for row in kept if row[5]} == +granted
        balances: Counter[int] = Counter()
        for grant_id, amount in world.rows("SELECT grant_id, amount FROM grant_movement"):
            balances[grant_id] += amount
        assert dict(world.rows("SELECT id, balance FROM grant_pool")) == dict(balances)
