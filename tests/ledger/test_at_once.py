"""A request of routine is one statement, which counts all of it or nothing: nothing, where
anything that it was decided by is another by now."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import quotactl
from quotactl.engines.sqlite import at_once, door
from quotactl.engines.sqlite.files import identity_of
from quotactl.engines.sqlite.queue import Turnstile
from quotactl.engines.sqlite.session import Session

NOW = datetime(2025, 3, 28, 9, 0, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)


class Gateway:
    """A ledger in which ada has 2 of 5 and zed all of them, and who has asked for both."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = NOW
        self.q = quotactl.create(path, clock=lambda: self.now, actor="it", notify=False)
        self.q.admin.create_resource("image")
        for tier in ("free", "plus"):
            self.q.admin.create_tier(tier)
            self.q.admin.set_limit(tier=tier, resource="image", limit="5/day")
        self.q.admin.set_default_tier("free")
        for user, taken in (("ada", 2), ("zed", 5)):
            self.q.consume(user=user, resource="image", amount=taken, idempotency_key=user)
            self.q.check(user=user, resource="image")

    @property
    def session(self) -> Session:
        session: Session = self.q.engine._session  # type: ignore[attr-defined]
        return session

    def sql(self, statement: str, *values: object) -> list[Any]:
        """As somebody else writes."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            return connection.execute(statement, values).fetchall()

    def dump(self) -> list[str]:
        with closing(sqlite3.connect(self.path)) as connection:
            return list(connection.iterdump())


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path / "l.db")
    yield gateway
    gateway.q.close()


def of_what_is_known(
    gateway: Gateway, user: str, key: str | None, *, anyhow: bool = False
) -> Callable[[], object]:
    """The statement for a request as it is decided now, to be run later."""
    from quotactl.operations.routine import _plan

    session, known = gateway.session, gateway.session.known
    session.get_ready()
    ahead = _plan(known, user, "image", 1, key, NOW_MS)
    assert ahead is not None and ahead[1] is not None
    planned = (ahead[0], None, None) if anyhow else ahead
    if ahead[2] is not None:
        return lambda: session.refuse(known, planned, 1, NOW_MS)
    return lambda: session.take(known, planned, 1, key, NOW_MS)


CHANGES = (
    "UPDATE ledger SET policy_version = policy_version + 1",
    "UPDATE ledger SET checkpoint_entry_id = 1",
    f"UPDATE ledger SET closed_until_ms = {NOW_MS + 1}",
    "UPDATE user SET tier_id = 2",
    "UPDATE user SET protected = 1",
    "UPDATE user SET has_own = 1",
    "UPDATE user SET name = name || 'x'",
    "UPDATE counter SET used = used - 1",
)


@pytest.mark.parametrize("user", ["ada", "zed"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_was_decided_by_something_else_is_not_counted(
    gateway: Gateway, user: str, change: str
) -> None:
    count = of_what_is_known(gateway, user, "k" if user == "ada" else None)
    gateway.sql(change)
    before = gateway.dump()
    assert count() is None
    assert gateway.dump() == before


@pytest.mark.parametrize("change", [*CHANGES[:-1], "UPDATE counter SET used = 5"])
def test_nor_is_what_is_taken_whatever_the_day_has(gateway: Gateway, change: str) -> None:
    count = of_what_is_known(gateway, "ada", "k", anyhow=True)
    gateway.sql(change)
    before = gateway.dump()
    assert count() is None
    assert gateway.dump() == before


def test_what_is_taken_whatever_the_day_has_says_what_it_has_found(gateway: Gateway) -> None:
    count = of_what_is_known(gateway, "ada", "k", anyhow=True)
    gateway.sql("UPDATE counter SET used = 4 WHERE used = 2")
    gateway.sql("INSERT INTO entry (id, at_ms, kind, amount, granted) VALUES (70, 0, 1, 1, 0)")
    counted: Any = count()
    assert counted[1:] == (71, (5, 0), False)
    assert gateway.sql("SELECT entry_id FROM idempotency_key WHERE key = 'k'") == [(71,)]


def test_an_id_that_was_pruned_does_not_come_back(gateway: Gateway) -> None:
    gateway.sql("DROP TRIGGER entry_is_kept")
    gateway.sql("UPDATE ledger SET checkpoint_entry_id = 90")
    gateway.sql("DELETE FROM entry")
    for _ in range(2):
        gateway.q.check(user="ada", resource="image")
    counted: Any = of_what_is_known(gateway, "ada", "k", anyhow=True)()
    assert counted[1] == 91


@pytest.mark.parametrize(
    "change",
    [
        (
            "INSERT INTO entry (id, at_ms, kind, amount, granted) "
            "SELECT max(id) + 1, 0, 1, 1, 0 FROM entry"
        ),
        "INSERT INTO idempotency_key VALUES ('k', 2, 0)",
    ],
)
def test_an_id_or_a_key_that_somebody_else_has_by_now_is_not_taken(
    gateway: Gateway, change: str
) -> None:
    count = of_what_is_known(gateway, "ada", "k")
    gateway.sql(change)
    before = gateway.dump()
    assert count() is None
    assert gateway.dump() == before


def test_a_close_of_the_hour_before_does_not_stop_it(gateway: Gateway) -> None:
    count = of_what_is_known(gateway, "ada", "k")
    gateway.sql("UPDATE ledger SET closed_until_ms = ?", NOW_MS)
    assert count() is not None


def test_new_users_and_what_is_set_anew_as_it_was_move_no_version(gateway: Gateway) -> None:
    version = gateway.sql("SELECT users_version FROM ledger")
    gateway.sql("INSERT INTO user (name, created_at_ms) VALUES ('new', 0)")
    gateway.sql("UPDATE user SET protected = 0, has_own = 0, tier_id = tier_id")
    assert gateway.sql("SELECT users_version FROM ledger") == version


def test_a_user_is_not_looked_up_again_because_others_were_served(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    look_up = Session.look_up

    def seen(self: Session, name: str, *more: Any) -> Any:
        looked.append(name)
        return look_up(self, name, *more)

    monkeypatch.setattr(Session, "look_up", seen)
    with quotactl.connect(gateway.path, clock=lambda: NOW, notify=False) as other:
        assert other.consume(user="bob", resource="image").used == 1
        assert other.consume(user="ada", resource="image").used == 3
        looked.clear()
        assert gateway.q.consume(user="ada", resource="image").used == 4
        assert looked == []
        other.admin.set_tier("bob", "plus", reason="x")
        assert gateway.q.consume(user="ada", resource="image").used == 5
        # Of whom something was changed is not told: all are met anew.
        assert looked == ["ada"]


def test_who_is_denied_among_others_who_write_waits_for_no_turn_in_vain(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Turnstile, "enter_at_once", lambda _: False)
    in_line = at_once._in_line
    turns: list[object] = []

    def seen(*asked: Any) -> Any:
        turns.append(asked[3][0])
        return in_line(*asked)

    monkeypatch.setattr(at_once, "_in_line", seen)
    with quotactl.connect(gateway.path, clock=lambda: NOW, notify=False) as other:
        other.consume(user="bob", resource="image")
        # What is known now is that others have written, and nothing of zed's count.
        gateway.q.check(user="ada", resource="image")
        turns.clear()
        for _ in range(3):
            assert not gateway.q.consume(user="zed", resource="image").allowed
    assert turns == ["zed"]
    assert gateway.q.consume(user="ada", resource="image").used == 3
    assert turns == ["zed", "ada"]
    assert gateway.q.verify().differences == ()


def test_who_has_something_of_their_own_takes_no_turn_here(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("a turn in vain")

    gateway.q.admin.add_grant(user="ada", resource="image", amount=9, reason="x")
    gateway.q.check(user="ada", resource="image")
    monkeypatch.setattr(at_once, "_in_turn", never)
    assert gateway.q.consume(user="ada", resource="image").allowed


def test_the_name_is_looked_up_in_each_of_the_first_turns_and_then_at_times(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def seen(file: str) -> Any:
        nonlocal looks
        looks += 1
        return identity_of(file)

    monkeypatch.setattr(door, "identity_of", seen)
    monkeypatch.setattr(door, "LOOK_S", 3600)
    gateway.q.admin.set_limit(tier="free", resource="image", limit="1000/day", reason="x")
    gateway.q.consume(user="ada", resource="image")
    looks = 0
    for _ in range(door.LOOKS_FIRST + 20):
        gateway.q.consume(user="ada", resource="image")
    assert door.LOOKS_FIRST - 5 <= looks <= door.LOOKS_FIRST + 5
    aside = gateway.path.with_name("aside.db")
    gateway.path.rename(aside)
    # The time is over.
    gateway.session.same_until = time.monotonic()
    with pytest.raises(quotactl.NotFound, match="is gone"):
        gateway.q.consume(user="ada", resource="image")
    aside.rename(gateway.path)
    assert gateway.q.verify().differences == ()


def test_who_was_changed_is_met_anew_although_another_was_met_since(gateway: Gateway) -> None:
    with quotactl.connect(gateway.path, clock=lambda: NOW, notify=False) as other:
        other.admin.set_limit(tier="plus", resource="image", limit="2/day", reason="x")
        for _ in range(2):
            gateway.q.check(user="ada", resource="image")
        assert "ada" in gateway.session.known.users
        other.consume(user="bob", resource="image")
        other.admin.set_tier("ada", "plus", reason="x")
    assert gateway.q.consume(user="bob", resource="image").used == 2
    denied = gateway.q.consume(user="ada", resource="image")
    assert (denied.allowed, denied.tier, denied.limit) == (False, "plus", 2)


@pytest.mark.parametrize("who", ["bob", "nobody"])
def test_who_was_changed_while_another_was_looked_up_is_looked_up_anew(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    with quotactl.connect(gateway.path, clock=lambda: NOW, notify=False) as other:
        other.consume(user="bob", resource="image")
        other.admin.set_limit(tier="plus", resource="image", limit="2/day", reason="x")
        for _ in range(2):
            gateway.q.check(user="ada", resource="image")
        glance = Session.glance

        def meanwhile(self: Session, *asked: Any) -> Any:
            # Of what is one view only statement by statement, this comes in between.
            with monkeypatch.context() as patched:
                patched.setattr(Session, "glance", glance)
                other.admin.set_tier("ada", "plus", reason="x")
            return glance(self, *asked)

        with monkeypatch.context() as patched:
            patched.setattr(gateway.session, "glance", meanwhile.__get__(gateway.session))
            gateway.q.check(user=who, resource="image")
        denied = gateway.q.consume(user="ada", resource="image")
        assert (denied.allowed, denied.limit) == (False, 2)


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_who_is_changed_while_being_looked_up_is_not_counted_by_what_was(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, late: bool, waits: bool
) -> None:
    if waits:
        monkeypatch.setattr(Turnstile, "enter_at_once", lambda _: False)
    gateway.q.admin.set_limit(tier="plus", resource="image", limit="2/day", reason="x")
    gateway.sql("INSERT INTO user (name, created_at_ms) VALUES ('bob', 0)")
    gateway.q.consume(user="ada", resource="image")
    assert gateway.session.known.head is not None
    look_up = Session.look_up

    def meanwhile(self: Session, *asked: Any) -> Any:
        monkeypatch.setattr(Session, "look_up", look_up)
        before = look_up(self, *asked) if late else None
        gateway.sql("UPDATE user SET tier_id = 2 WHERE name = 'bob'")
        return before if late else look_up(self, *asked)

    monkeypatch.setattr(Session, "look_up", meanwhile)
    denied = gateway.q.consume(user="bob", resource="image", amount=3)
    assert (denied.allowed, denied.tier, denied.limit) == (False, "plus", 2)
    assert Session.look_up is look_up
    allowed = gateway.q.consume(user="bob", resource="image", amount=2)
    assert (allowed.allowed, allowed.tier) == (True, "plus")


def test_a_retry_is_answered_with_what_holds_now(gateway: Gateway) -> None:
    again: dict[str, Any] = {
        "user": "ada",
        "resource": "image",
        "amount": 2,
        "idempotency_key": "ada",
    }
    first = gateway.q.consume(**again)
    assert (first.replayed, first.limit, first.remaining) == (True, 5, 3)
    with quotactl.connect(gateway.path, clock=lambda: NOW, notify=False) as other:
        other.consume(user="ada", resource="image")
        second = gateway.q.consume(**again)
        assert (second.entry_id, second.replayed, second.used) == (first.entry_id, True, 3)
        other.admin.set_limit(tier="free", resource="image", limit="9/day", reason="x")
    third = gateway.q.consume(**again)
    assert (third.entry_id, third.replayed, third.limit) == (first.entry_id, True, 9)
    with pytest.raises(quotactl.Conflict):
        gateway.q.consume(user="ada", resource="image", amount=1, idempotency_key="ada")


@pytest.mark.parametrize("waits", [False, True])
def test_hourly_demand_is_summed_up_every_so_many_entries(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    if waits:
        monkeypatch.setattr(Turnstile, "enter_at_once", lambda _: False)
    monkeypatch.setattr("quotactl.engines.sqlite.session.LOT", 10)
    gateway.q.admin.set_limit(tier="free", resource="image", limit="1000/day", reason="x")
    for _ in range(35):
        gateway.q.consume(user="ada", resource="image")
        ((left,),) = gateway.sql("SELECT max(e.id) - summed_entry_id FROM entry AS e, ledger")
        assert left <= 10
    assert gateway.sql("SELECT sum(used) FROM demand WHERE reason = 'ok'") == [(42,)]
    assert gateway.q.verify().differences == ()


def test_a_sum_that_was_rolled_back_is_not_thought_to_be_there(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quotactl.engines.sqlite.session.LOT", 10)
    gateway.q.admin.set_limit(tier="free", resource="image", limit="1000/day", reason="x")
    known = gateway.session.known
    while known.head is None or known.next_entry_id - known.head.summed_entry_id < 10:
        gateway.q.consume(user="ada", resource="image")
        known = gateway.session.known
    # A lot is full, but nothing comes of this.
    again = gateway.q.consume(user="ada", resource="image", amount=2, idempotency_key="ada")
    assert again.replayed
    head = gateway.session.known.head
    assert head is None or [(head.summed_entry_id,)] == gateway.sql(
        "SELECT summed_entry_id FROM ledger"
    )


def test_what_was_planned_for_a_file_is_not_counted_in_another(gateway: Gateway) -> None:
    from quotactl.operations.routine import _plan

    engine: Any = gateway.q.engine

    def plan(*asked: Any) -> Any:
        planned = _plan(*asked)
        # As another thread does when it has found another file in the ledger's place.
        engine._go_over()
        return planned

    before = gateway.dump()
    assert engine.count("ada", "image", 1, "k", NOW_MS, plan) is None
    assert gateway.dump() == before


def test_what_is_counted_by_what_was_known_is_known_to_whoever_looked_since(
    gateway: Gateway,
) -> None:
    count = of_what_is_known(gateway, "ada", None)
    with quotactl.connect(gateway.path, clock=lambda: NOW, notify=False) as other:
        # No entry, but a write: what was known stands no more.
        assert not other.consume(user="zed", resource="image").allowed
    assert gateway.q.check(user="ada", resource="image").used == 2
    assert count() is not None
    assert gateway.q.check(user="ada", resource="image").used == 3


def test_what_is_broken_off_after_it_was_counted_leaves_nothing_known(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.q.consume(user="ada", resource="image")
    execute = gateway.session.execute

    def interrupted(statement: str, *values: Any) -> Any:
        execute(statement, *values)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(gateway.session, "execute", interrupted)
        with pytest.raises(KeyboardInterrupt):
            gateway.q.consume(user="ada", resource="image")
    assert gateway.q.check(user="ada", resource="image").used == 4
    assert gateway.q.consume(user="ada", resource="image").used == 5


def test_a_day_later_all_is_met_anew(gateway: Gateway) -> None:
    for days in range(1, 4):
        gateway.now = NOW + timedelta(days=days)
        for used in (1, 2):
            assert gateway.q.consume(user="ada", resource="image").used == used
    assert gateway.q.verify().differences == ()
