"""How `schema1.db` and `schema1.json` were made: a ledger in which much had happened, by the
last version whose schema was 1 (commit ec4c49d), and what that version decided on it.

    git worktree add /tmp/v1 ec4c49d
    PYTHONPATH=/tmp/v1 python tests/packaging/schema1.py tests/packaging
    git worktree remove /tmp/v1

`decide` is the part that a test does once more, after the upgrade.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import quotactl

# The last moment of its life: a Friday. All times are UTC, its days are Rome's.
NOW = datetime(2025, 3, 28, 9, 0, tzinfo=UTC)
USERS = ("ada", "bob", "carl", "dan", "eve", "fay", "gus", "pia", "zed", "nobody")


class Life:
    """Makes the ledger; the clock is set by `at`."""

    def __init__(self, path: Path) -> None:
        self.now = datetime(2025, 2, 10, 9, 0, tzinfo=UTC)
        self.q = quotactl.create(
            path, name="prod", zone="Europe/Rome", clock=lambda: self.now, actor="ops"
        )
        self.admin = self.q.admin

    def at(self, text: str) -> None:
        self.now = datetime.fromisoformat(f"2025-{text}:00+00:00")

    def take(self, user: str, amount: int = 1, resource: str = "image", key: str = "") -> int:
        found = self.q.consume(
            user=user, resource=resource, amount=amount, idempotency_key=key or None
        )
        return found.entry_id or 0

    def hold(self, user: str, amount: int, ttl_s: float) -> int:
        found = self.q.reserve(user=user, resource="image", amount=amount, ttl_s=ttl_s)
        assert found.reservation_id is not None
        return found.reservation_id

    def live(self) -> None:
        self.found()
        self.february()
        self.the_week()
        self.today()
        self.q.close()

    def found(self) -> None:
        for resource in ("image", "video", "song"):
            self.admin.create_resource(resource, unit=resource)
        for tier, protected in (("free", False), ("plus", False), ("pro", True), ("old", False)):
            self.admin.create_tier(tier, protected=protected)
        for tier, resource, limit in (
            ("free", "image", "3/day,9/hour"),
            ("plus", "image", "50/day,5/minute,90/week"),
            ("plus", "video", "2/day,20/month"),
            ("pro", "image", "unlimited"),
            ("old", "image", "1/day"),
        ):
            self.admin.set_limit(tier=tier, resource=resource, limit=limit)
        for user, tier in (("bob", "plus"), ("carl", "plus"), ("pia", "pro"), ("gus", "old")):
            self.admin.set_tier(user, tier)
        self.admin.delete_resource("song")

    def february(self) -> None:
        """What is pruned by now, but for its days."""
        self.at("02-10T10:00")
        self.admin.add_grant(user="ada", resource="image", amount=9, reason="launch")
        first = self.take("ada", 5, key="feb")
        self.take("bob", 4)
        self.at("02-12T10:30")
        self.q.refund(entry_id=first, amount=2)
        self.take("bob", 3)
        self.admin.reset_user("bob", reason="a render farm failed")
        self.q.close_days()

    def the_week(self) -> None:
        self.at("03-24T10:15")  # Monday
        self.take("bob", 3)
        self.take("bob", 1, "video")
        self.take("carl", 2)
        self.at("03-25T23:30")  # Wednesday's first hour in Rome
        self.take("bob", 2)
        self.q.refund(entry_id=self.take("carl", 4), amount=1)
        self.at("03-26T15:00")
        self.admin.delete_tier("old", move_to="free")
        self.admin.throttle_on(
            cap="1/day", tiers=["free"], name="melt", duration="2h", reason="our GPUs melt"
        )
        self.take("fay")
        assert not self.take("fay")
        self.admin.enforcement_set("shadow", resources=["video"], duration="1h", reason="trial")
        self.take("ada", 2, "video")
        assert not self.take("zed", 9)
        self.at("03-27T12:00")
        self.take("carl", 5)
        self.take("gus", 2)
        self.admin.throttle_on(deny=True, tiers=["plus"], name="stop", reason="worse")
        assert not self.take("bob")
        self.admin.throttle_off("stop", reason="better")
        self.admin.throttle_on(cap="40/day", tiers=["plus"], duration="30d", reason="careful")
        self.admin.throttle_on(
            cap="30/day", tiers=["plus"], duration="30d", replace=True, reason="very careful"
        )

    def today(self) -> None:
        self.at("03-27T23:10")  # Friday's first hour in Rome
        self.take("carl", 1)
        self.at("03-27T23:30")
        self.admin.reset_user("carl", reason="wrong images")  # of this day and four before
        self.take("carl", 4)
        self.at("03-28T00:30")
        self.q.close_days()
        self.at("03-28T07:05")
        self.take("bob", 5)
        self.q.refund(entry_id=self.take("dan", 3), amount=1)
        self.take("ada", 3, key="k1")
        self.take("ada", 2, key="k2")  # by a grant
        self.admin.add_grant(
            user="ada", resource="image", amount=2, priority=-1, duration="3d", reason="goodwill"
        )
        self.take("ada", 3)  # by both
        revoked = self.admin.add_grant(user="fay", resource="image", amount=5, reason="mistake")
        self.admin.revoke_grant(revoked.item["id"], reason="mistake")
        self.at("03-28T07:45")
        self.q.refund(idempotency_key="k2", amount=1, refund_key="r1")
        self.take("bob", 3)
        self.q.refund(entry_id=self.take("bob", 2))
        self.admin.reset_user("bob", reason="failed renders")  # Monday's 3 are fewer than today's
        self.take("bob", 4)
        self.admin.reset_user("dan", reason="failed renders")
        self.take("dan", 2)
        self.admin.set_override(
            user="zed", resource="image", limit="10/day,4/hour", duration="7d", reason="event"
        )
        self.take("zed", 4)
        self.admin.set_override(user="fay", resource="video", limit="1/day", reason="trial")
        self.admin.clear_override(user="fay")
        self.admin.protect("eve")
        self.admin.block("gus", resource="image", duration="2d", reason="abuse")
        assert not self.take("gus")
        self.hold("eve", 1, 10)
        self.hold("eve", 1, 86_400)
        self.hold("pia", 7, 7_200)
        self.q.post(self.hold("pia", 5, 600), 3)
        self.q.void(self.hold("pia", 5, 600))
        self.at("03-28T08:59")
        self.admin.throttle_on(
            scale=50, floor=1, tiers=["free"], name="half", duration="6h", reason="hot again"
        )
        assert not self.take("nobody", 2)
        self.take("nobody")


def decide(path: Path) -> list[Any]:
    """What a ledger answers at NOW; changes it."""
    with quotactl.connect(path, clock=lambda: NOW, actor="ops") as q:
        told: list[Any] = [
            q.check(user=user, resource=resource, amount=amount).to_dict()
            for resource in ("image", "video")
            for user in USERS
            for amount in (1, 3, 20)
        ]
        told += [
            q.consume(user=user, resource="image", amount=amount).to_dict()
            for user in USERS
            for amount in (2, 1, 4)
        ]
        again = q.consume(user="ada", resource="image", amount=3, idempotency_key="k1")
        told.append(again.to_dict())
        told.append(q.refund(idempotency_key="k2").to_dict())
        told.append(q.refund(idempotency_key="k2", amount=1, refund_key="r1").to_dict())
        for hold_id in range(1, 60):
            with suppress(quotactl.QuotaError):
                told.append(q.void(hold_id).to_dict())
        told.append(q.close_days().to_dict()["closed"])
    return told


def make(folder: Path, name: str, life: type[Life]) -> None:
    path = folder / f"{name}.db"
    path.unlink(missing_ok=True)
    life(path).live()
    path.with_name(f"{name}.db-queue").unlink(missing_ok=True)
    path.with_name(f"{name}.db-turn").unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        # Small pages, for a small file; the size can't change while there is a WAL.
        for pragma in ("journal_mode = DELETE", "page_size = 512"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("VACUUM")
        connection.execute("PRAGMA journal_mode = WAL")
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copy(path, scratch))
        told = decide(copy)
    lines = ",\n".join(json.dumps(one) for one in told)
    (folder / f"{name}.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]), "schema1", Life)
