"""One world for the contract suite: a ledger, a clock that is set by hand, and short words.

Every promise of DESIGN §3 is tried through the public interface, so that another
engine joins by adding its name to `ENGINES` and a way to make its ledgers. Only
`World.sql` looks behind an engine's back; it skips where that is not SQLite.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import quotactl

ENGINES = ("sqlite",)
# A Thursday. Its week began on Monday the 24th; Rome's clocks change on Sunday the 30th.
START = "2025-03-27T09:00:00Z"


def moment(text: str) -> datetime:
    """An RFC 3339 text as an aware datetime."""
    return datetime.fromisoformat(text).astimezone(UTC)


class World:
    """A ledger with tiers free (3/day, the default), plus (50/day, 5/minute) and pro.

    pro is unlimited and protected. At the end of a test its ledger must verify,
    unless the test set `tampered`.
    """

    def __init__(self, engine: str, path: Path, *, zone: str, at: str) -> None:
        self.engine = engine
        self.path = path
        self.now = moment(at)
        self.tampered = False
        self.q = quotactl.create(path, name="prod", zone=zone, clock=self.clock, actor="tester")
        self._opened = [self.q]
        self.admin = self.q.admin
        self.admin.create_resource("image", unit="image")
        for tier, limit in (("free", "3/day"), ("plus", "50/day,5/minute"), ("pro", "unlimited")):
            self.admin.create_tier(tier, protected=tier == "pro")
            self.admin.set_limit(tier=tier, resource="image", limit=limit)

    # ---- time

    def clock(self) -> datetime:
        return self.now

    def at(self, text: str) -> None:
        """Set the clock."""
        self.now = moment(text)

    def later(self, **span: float) -> None:
        """Let time pass: `later(hours=2)`."""
        self.now += timedelta(**span)

    # ---- short words

    def limit(self, limit: str, *, tier: str = "free", resource: str = "image") -> None:
        self.admin.set_limit(tier=tier, resource=resource, limit=limit)

    def consume(
        self, amount: int = 1, *, user: str = "ada", resource: str = "image", key: str | None = None
    ) -> quotactl.Decision:
        return self.q.consume(user=user, resource=resource, amount=amount, idempotency_key=key)

    def take(self, amount: int = 1, *, user: str = "ada", key: str | None = None) -> int:
        """Consume what must be allowed; the entry's id."""
        decision = self.consume(amount, user=user, key=key)
        assert decision.allowed, decision
        assert decision.entry_id is not None
        return decision.entry_id

    def check(
        self, amount: int = 1, *, user: str = "ada", resource: str = "image"
    ) -> quotactl.Decision:
        return self.q.check(user=user, resource=resource, amount=amount)

    def used(self, *, user: str = "ada") -> int:
        """Units used in the window that a request of one would be decided by."""
        return self.check(user=user).used

    def hold(self, amount: int = 1, *, user: str = "ada", ttl_s: float = 120) -> int:
        """Reserve what must be allowed; the reservation's id."""
        decision = self.q.reserve(user=user, resource="image", amount=amount, ttl_s=ttl_s)
        assert decision.reservation_id is not None, decision
        return decision.reservation_id

    def grant(
        self, amount: int, *, user: str = "ada", duration: str | None = None, priority: int = 0
    ) -> int:
        made = self.admin.add_grant(
            user=user,
            resource="image",
            amount=amount,
            duration=duration,
            priority=priority,
            reason="goodwill",
        )
        grant_id: int = made.item["id"]
        return grant_id

    def throttle(self, **how: Any) -> int:
        made = self.admin.throttle_on(reason="melting", **how)
        assert made.changed, made.message
        throttle_id: int = made.item["id"]
        return throttle_id

    def reopened(self) -> quotactl.Ledger:
        """The same ledger through another connection, as another process would have it."""
        other = quotactl.connect(self.path, clock=self.clock, actor="other")
        self._opened.append(other)
        return other

    # ---- behind the ledger's back

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement on the file itself, with the database's own guards on."""
        if self.engine != "sqlite":
            pytest.skip(f"looks into a SQLite file, not into {self.engine}")
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("PRAGMA foreign_keys = ON")
            return connection.execute(statement, values).fetchall()

    def counters(self, *, user: str = "ada", period: int = 1440) -> list[tuple[int, int, int, int]]:
        """(used, granted, denied, shadow_denied) of a user's windows, oldest first."""
        return self.sql(
            "SELECT used, granted, denied, shadow_denied FROM counter JOIN user ON id = user_id "
            "WHERE name = ? AND period = ? ORDER BY starts_at_ms",
            user,
            period,
        )

    def balance(self, grant_id: int) -> int:
        units: int = self.sql("SELECT balance FROM grant_pool WHERE id = ?", grant_id)[0][0]
        return units

    def count(self, table: str) -> int:
        rows: int = self.sql(f"SELECT count(*) FROM {table}")[0][0]
        return rows

    def tamper(self, statement: str, *values: object, drop: str | None = None) -> None:
        """Change the file unseen; `drop` names the trigger that would have refused it."""
        self.tampered = True
        if drop is not None:
            self.sql(f"DROP TRIGGER {drop}")
        self.sql(statement, *values)

    def found(self) -> set[str]:
        """What verify names."""
        return {difference.what for difference in self.q.verify().differences}

    def verified(self) -> None:
        """Verify now, and not once more at the end."""
        self.tampered = True
        assert self.q.verify().differences == ()

    def close(self) -> None:
        try:
            if not self.tampered:
                assert self.q.verify().differences == ()
        finally:
            for ledger in self._opened:
                ledger.close()


MakeWorld = Callable[..., World]


@pytest.fixture(params=ENGINES)
def make_world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeWorld]:
    """Makes ledgers: `make_world(zone="Europe/Rome", at="2025-03-29T10:00:00Z")`."""
    made: list[World] = []

    def make(*, zone: str = "UTC", at: str = START) -> World:
        world = World(request.param, tmp_path / f"ledger{len(made)}.db", zone=zone, at=at)
        made.append(world)
        return world

    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """A ledger in UTC."""
    return make_world()


@pytest.fixture
def rome(make_world: MakeWorld) -> World:
    """A ledger in Rome, two days before its clocks go forward."""
    return make_world(zone="Europe/Rome", at="2025-03-28T10:00:00Z")
