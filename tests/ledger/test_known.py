"""What a process knows of a ledger without looking is never another than what stands there.

Two connections act in turn, each with what it knows; after each act both are asked, and
their answers are those of a third, which has just been opened and knows nothing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import quotactl
from quotactl.engines.sqlite.queue import Turnstile
from quotactl.engines.sqlite.session import Session

LONG = int(os.environ.get("QUOTACTL_LONG", "0"))
START = datetime(2025, 3, 27, 21, 30, tzinfo=UTC)
# Of a session: nothing here waits for the disk.
NEVER = property(lambda _: False, lambda *_: None)

users = st.sampled_from(("ada", "ada", "bob", "new"))
resources = st.sampled_from(("image", "image", "text"))
amounts = st.sampled_from((1, 1, 1, 2, 5))
keys = st.none() | st.sampled_from(("k1", "k2"))
durations = st.sampled_from(("30m", "3h"))
plain = st.one_of(
    st.tuples(st.just("consume"), users, resources, amounts, keys),
    st.tuples(st.just("consume"), users, resources, amounts, st.none()),
    st.tuples(st.just("batch"), st.lists(st.tuples(users, resources, amounts), max_size=4)),
    st.tuples(st.just("reserve"), users, resources),
    st.tuples(st.just("refund"), st.sampled_from(("k1", "k2"))),
    st.tuples(st.just("tier"), users, st.sampled_from(("free", "plus"))),
    st.tuples(st.just("limit"), st.sampled_from(("2/day", "7/day", "5/day,3/hour"))),
    st.tuples(st.just("override"), users, st.sampled_from(("1/day", "9/day"))),
    st.tuples(st.just("grant"), users, st.integers(1, 3)),
    st.tuples(st.just("block"), users, durations),
    st.tuples(st.just("unblock"), users),
    st.tuples(st.just("cap"), st.sampled_from(("1/day", "3/day")), durations),
    st.tuples(st.just("off")),
    st.tuples(st.just("shadow"), durations),
    st.tuples(st.just("reset"), users),
    st.tuples(
        st.just("refused"),
        users,
        st.sampled_from((("COMMIT", False), ("INSERT INTO taking", False), ("INSERT", True))),
    ),
    st.tuples(st.just("later"), st.sampled_from((60, 1900, 4 * 3600))),
    st.tuples(st.just("close")),
)
acts = st.one_of(
    plain,
    plain,
    # The other acts in the midst of what this one asks: before so many of its statements.
    st.tuples(st.just("meanwhile"), st.integers(0, 7), users, st.booleans(), plain),
)


class Ledgers:
    """One file, two connections to it, and a clock that they share."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        self.now = START
        with quotactl.create(path, zone="Europe/Rome", clock=self.clock, actor="it") as q:
            for resource in ("image", "text"):
                q.admin.create_resource(resource)
            for tier in ("free", "plus"):
                q.admin.create_tier(tier)
                q.admin.set_limit(tier=tier, resource="image", limit="4/day")
            q.admin.set_limit(tier="plus", resource="text", limit="6/day")
            q.admin.set_default_tier("free")
            q.consume(user="ada", resource="image")
            q.admin.set_tier("bob", "plus")
        self.both = [stack.enter_context(self.open()) for _ in range(2)]

    def clock(self) -> datetime:
        return self.now

    def open(self) -> quotactl.Ledger:
        return quotactl.connect(
            self.path, clock=self.clock, actor="it", notify=False, timeout_s=0.02
        )

    def act(self, who: int, name: str, *given: Any) -> None:
        q = self.both[who]
        if name == "consume":
            user, resource, amount, key = given
            q.consume(user=user, resource=resource, amount=amount, idempotency_key=key)
        elif name == "batch":
            q.consume_many([quotactl.Request(*one) for one in given[0]])
        elif name == "reserve":
            q.reserve(user=given[0], resource=given[1], ttl_s=1200)
        elif name == "refund":
            q.refund(idempotency_key=given[0])
        elif name == "tier":
            q.admin.set_tier(*given, reason="x")
        elif name == "limit":
            q.admin.set_limit(tier="free", resource="image", limit=given[0], reason="x")
        elif name == "override":
            q.admin.set_override(user=given[0], resource="image", limit=given[1], reason="x")
        elif name == "grant":
            q.admin.add_grant(user=given[0], resource="image", amount=given[1], reason="x")
        elif name == "block":
            q.admin.block(user=given[0], duration=given[1], reason="x")
        elif name == "unblock":
            q.admin.unblock(user=given[0], reason="x")
        elif name == "cap":
            q.admin.throttle_on(cap=given[0], duration=given[1], reason="x")
        elif name == "off":
            q.admin.throttle_off("all", reason="x")
        elif name == "shadow":
            q.admin.enforcement_set("shadow", duration=given[0], reason="x")
        elif name == "reset":
            q.admin.reset_user(given[0], reason="x")
        elif name == "refused":
            # A failure in the middle leaves nothing of what was thought to be written, and one
            # after the end nothing of what was known.
            where, later = given[1]
            execute = q.engine._session.execute  # type: ignore[attr-defined]

            def fail(statement: str, *values: Any) -> Any:
                broken = statement.startswith(where)
                done = None if broken and not later else execute(statement, *values)
                if broken:
                    raise OSError("no")
                return done

            # As where others have written: then all is looked at in a transaction with an end.
            q.engine._session.shared = where == "COMMIT"  # type: ignore[attr-defined]
            q.engine._session.execute = fail  # type: ignore[attr-defined]
            try:
                q.consume(user=given[0], resource="image")
            finally:
                q.engine._session.execute = execute  # type: ignore[attr-defined]
        elif name == "meanwhile":
            left, user, consumes, (other, *more) = given

            def between(statement: str, *values: Any) -> Any:
                nonlocal left
                left -= 1
                if left == -1:
                    with suppress(quotactl.QuotaError, OSError):
                        self.act(1 - who, other, *more)
                return execute(statement, *values)

            session = q.engine._session  # type: ignore[attr-defined]
            execute, session.execute = session.execute, between
            try:
                if consumes:
                    q.consume(user=user, resource="image")
                else:
                    q.check(user=user, resource="image")
            finally:
                session.execute = execute
        elif name == "later":
            self.now += timedelta(seconds=given[0])
        else:
            q.close_days()

    def answers(self, q: quotactl.Ledger) -> list[Any]:
        return [
            q.check(user=user, resource=resource, amount=amount).to_dict()
            for user in ("ada", "bob", "new")
            for resource in ("image", "text")
            for amount in (1, 4)
        ]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "wants_full", NEVER, raising=False)
    # So that demand is summed up every few entries.
    monkeypatch.setattr("quotactl.engines.sqlite.session.LOT", 3)
    monkeypatch.setattr("quotactl.engines.sqlite.book.LOT", 3)


@pytest.fixture(params=["at once", "in line"])
def turn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How the turn comes: who is in line has the work done by another thread, and looks anew at
    what others change."""
    if request.param == "in line":
        monkeypatch.setattr(Turnstile, "enter_at_once", lambda _: False)


@pytest.mark.usefixtures("turn")
@settings(
    max_examples=300 * LONG or 16,
    deadline=None,
    derandomize=not LONG,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    # Both fixtures say how all examples are run.
    suppress_health_check=(HealthCheck.function_scoped_fixture,),
)
@given(st.lists(st.tuples(st.integers(0, 1), acts), min_size=4, max_size=16))
def test_two_that_know_answer_as_one_that_has_just_come(
    acted: list[tuple[int, tuple[Any, ...]]],
) -> None:
    with TemporaryDirectory() as folder, ExitStack() as stack:
        ledgers = Ledgers(Path(folder) / "l.db", stack)
        for who, act in acted:
            with suppress(quotactl.QuotaError, OSError):
                ledgers.act(who, *act)
            with ledgers.open() as stranger:
                expected = ledgers.answers(stranger)
            for q in ledgers.both:
                assert ledgers.answers(q) == expected, act
                # Asked again, it is what it knows that answers.
                assert ledgers.answers(q) == expected, act
            for q in ledgers.both:
                with (
                    ledgers.open() as stranger,
                    suppress(quotactl.ClockBehind, quotactl.LedgerBusy),
                ):
                    told = stranger.check(user="ada", resource="image")
                    took = q.consume(user="ada", resource="image")
                    for field in ("allowed", "reason", "tier", "limit", "rule"):
                        assert getattr(took, field) == getattr(told, field), act
        with ledgers.open() as stranger:
            assert stranger.verify().differences == ()


@pytest.fixture
def ledgers(tmp_path: Path) -> Iterator[Ledgers]:
    with ExitStack() as stack:
        yield Ledgers(tmp_path / "l.db", stack)


def test_threads_of_one_process_take_no_more_than_there_is(ledgers: Ledgers) -> None:
    q = ledgers.both[0]
    q.admin.set_limit(tier="free", resource="image", limit="60/day", reason="x")
    taken: list[int] = []

    def take() -> None:
        for _ in range(30):
            decision = q.consume(user="ada", resource="image")
            if decision.allowed:
                taken.append(decision.used)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # One was taken to begin with.
    assert sorted(taken) == list(range(2, 61))
    assert q.verify().differences == ()


def demand(q: quotactl.Ledger) -> list[Any]:
    with q.engine.reading() as book:
        rows = book.rows("demand", order="hour_ms")
    return [sum(row[what] for row in rows) for what in ("requests", "used", "denied")]


def test_demand_that_only_entries_tell_of_outlives_them(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quotactl.engines.sqlite.session.LOT", 1000)
    q = ledgers.both[0]
    for user in ("ada", "bob", "ada", "ada", "ada"):
        q.consume(user=user, resource="image")
    assert demand(q) == [6, 5, 1]
    q.admin.set_setting("entry_retention", "1d")
    q.admin.set_setting("key_retention", "1d")
    ledgers.now += timedelta(days=40)
    assert q.close_days().pruned_entries == 5
    assert demand(q) == [6, 5, 1]
    assert q.verify().differences == ()


def test_verify_names_demand_that_an_edit_has_hidden(ledgers: Ledgers) -> None:
    q = ledgers.both[0]
    for _ in range(3):
        q.consume(user="ada", resource="image")
    q.engine._session.execute(  # type: ignore[attr-defined]
        "UPDATE ledger SET summed_entry_id = 1000"
    )
    assert {found.what for found in q.verify().differences} == {"demand.used"}


def test_what_is_known_does_not_grow_for_ever(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quotactl.engines.sqlite.session.KNOWN_MAX", 6)
    q = ledgers.both[0]
    for _ in range(9):
        ledgers.now += timedelta(days=1)
        for user in ("ada", "bob"):
            assert q.consume(user=user, resource="image").used == 1
        known = q.engine._session.known  # type: ignore[attr-defined]
        assert len(known.users) + len(known.counts) <= 8


def test_a_clock_behind_is_told_so_by_who_knew_the_day_open(ledgers: Ledgers) -> None:
    one, other = ledgers.both
    for _ in range(2):
        one.consume(user="ada", resource="image")
    ledgers.now += timedelta(days=1)
    other.close_days()
    ledgers.now -= timedelta(days=1)
    with pytest.raises(quotactl.ClockBehind):
        one.consume(user="ada", resource="image")
