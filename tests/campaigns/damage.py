"""Flip random bits of a ledger's file, and see whether anybody would be told something wrong.

Each round damages one copy of a ledger in which everything happened once, and asks it
what is asked every day: decisions, reports, lists. The answers are

- refused: an error, none of them wrong;
- detected: `verify` finds it, or fails on it;
- harmless: all answers are those of the whole ledger, and all rows too;
- unseen: the answers are the same, but some row that nobody asked for has changed;
- uncovered: an answer is wrong and verify is content, in a table that has no second record
  in the ledger to be compared with: limits, settings, throttles and the like;
- silent: the same in a table that verify answers for. There must be none.

    python tests/campaigns/damage.py --rounds 400 --seed 1 [--bits 1]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sqlite3
import sys
import tempfile
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import quotactl
from quotactl.reports import listing
from quotactl.reports.doctor import diagnose
from quotactl.reports.status import status

NOW = datetime(2025, 3, 27, 9, 0, tzinfo=UTC)
THEN = NOW + timedelta(days=2)
KINDS = ("refused", "detected", "harmless", "unseen", "uncovered", "silent")
# Where a row says something that follows from other rows, or lies under a hash.
COVERED = frozenset(
    {"entry", "counter", "total", "grant_movement", "idempotency_key", "reservation"}
    | {"demand", "closed_day", "audit", "audit_text"}
)
USERS = ("ada", "bob", "cleo", "dora", "stranger")


def make(path: Path) -> None:
    """A ledger in which everything happened once, closed cleanly."""
    clock = [NOW]
    with quotactl.create(
        path, name="prod", zone="Europe/Rome", clock=lambda: clock[0], actor="root", notify=False
    ) as q:
        for resource in ("image", "video"):
            q.admin.create_resource(resource)
        for tier, limits in (("free", "3/day"), ("plus", "50/day,5/minute"), ("pro", "unlimited")):
            q.admin.create_tier(tier)
            q.admin.set_limits(tier=tier, limits={"image": limits, "video": "1/day,9/month"})
        q.admin.set_default_tier("free")
        q.admin.set_tier("bob", "plus")
        q.admin.set_override(user="cleo", resource="image", limit="10/day", reason="a tester")
        q.admin.add_grant(user="ada", resource="image", amount=5, reason="sorry")
        q.admin.block("dora", reason="fraud", ticket="T-1")
        for day in range(3):
            clock[0] = NOW + timedelta(days=day)
            for number in range(60):
                user = f"user{number % 25}" if number % 3 else USERS[number % 4]
                q.consume(
                    user=user,
                    resource="image" if number % 4 else "video",
                    idempotency_key=f"{day}-{number}" if number % 2 else None,
                )
            held = q.reserve(user="bob", resource="image", amount=2, ttl_s=600)
            if held.reservation_id is not None:
                q.post(held.reservation_id, amount=1)
            q.refund(idempotency_key=f"{day}-5", amount=1)
            if day < 2:
                clock[0] += timedelta(hours=15)
                q.close_days()
        q.reserve(user="cleo", resource="image", amount=1, ttl_s=600)
        q.admin.throttle_on(cap="2/day", tiers=["free"], duration="6h", reason="melting")


def ask(path: Path) -> str:
    """What is asked every day, as one text."""
    with quotactl.connect(path, clock=lambda: THEN, notify=False) as q:
        answers: list[Any] = [
            q.check(user=user, resource=resource, amount=amount).to_dict()
            for user in USERS
            for resource in ("image", "video")
            for amount in (1, 3)
        ]
        now_ms = q.now_ms()
        answers.append(status(q.engine, now_ms).to_dict())
        answers += [act.to_dict() for act in listing.audit_rows(q.engine, count=100)]
        answers += [tier.to_dict() for tier in listing.tiers(q.engine)]
        with q.engine.reading() as book:
            answers.append(book.table_counts())
        return json.dumps(answers, default=str)


def rows(path: Path) -> dict[str, list[Any]]:
    """All rows, by table, as they are read in the tables' own order."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        connection.text_factory = bytes
        names = [
            name.decode(errors="replace")
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        return {
            name: connection.execute(f'SELECT * FROM "{name}" NOT INDEXED').fetchall()
            for name in names
        }


class Campaign:
    """A whole ledger, and rounds that damage copies of it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._random = random.Random(seed)
        self._whole = folder / "whole.db"
        make(self._whole)
        self._bytes = self._whole.read_bytes()
        self._rows = rows(self._whole)
        self._answers = ask(self._whole)
        with quotactl.connect(self._whole, clock=lambda: THEN, notify=False) as q:
            assert q.verify().ok

    def round(self, bits: int) -> tuple[str, str]:
        """Damage one copy; which kind it was, and what changed or who said it."""
        content = bytearray(self._bytes)
        places = [self._random.randrange(len(content) * 8) for _ in range(bits)]
        for place in places:
            content[place // 8] ^= 1 << place % 8
        path = self._folder / "damaged.db"
        for old in self._folder.glob("damaged.db*"):
            old.unlink()
        path.write_bytes(content)
        where = ",".join(f"{place // 8}.{place % 8}" for place in places)
        kind, what = self._kind(path)
        return kind, f"{what} (bits {where})"

    def _kind(self, path: Path) -> tuple[str, str]:
        try:
            with quotactl.connect(path, clock=lambda: THEN, notify=False) as q:
                try:
                    found = q.verify()
                except Exception as error:  # noqa: BLE001 - however it fails, it is told
                    return "detected", f"verify: {type(error).__name__}"
        except quotactl.QuotaError as error:
            return "refused", error.code
        healthy = diagnose(path, int(THEN.timestamp() * 1000))
        verified = {f.check: f.ok for f in healthy.findings}
        told = all(verified.get(check, False) for check in ("integrity", "book", "audit"))
        assert told == found.ok, "doctor says what verify says"
        if not found.ok:
            return "detected", found.differences[0].what
        try:
            now = rows(path)
        except sqlite3.Error as error:
            return "silent", f"unreadable: {error}"
        changed = sorted(n for n in {*now, *self._rows} if now.get(n) != self._rows.get(n))
        try:
            answers = ask(path)
        except Exception as error:  # noqa: BLE001 - as above
            return "refused", type(error).__name__
        what = " ".join(changed) or "no row"
        if answers == self._answers:
            return ("unseen" if changed else "harmless"), what
        if COVERED.isdisjoint(changed) and changed:
            return "uncovered", what
        return "silent", what


def run(rounds: int, seed: int, bits: int = 1) -> tuple[Counter[str], Counter[str], list[str]]:
    """Rounds by kind, by kind and what, and each that was silent."""
    kinds: Counter[str] = Counter()
    details: Counter[str] = Counter()
    silent = []
    folder = Path(tempfile.mkdtemp(prefix="damage-"))
    try:
        campaign = Campaign(folder, seed)
        for _ in range(rounds):
            kind, what = campaign.round(bits)
            kinds[kind] += 1
            details[f"{kind}: {what.partition(' (bits')[0]}"] += 1
            if kind == "silent":
                silent.append(what)
    finally:
        shutil.rmtree(folder)
    return kinds, details, silent


def main() -> int:
    """Run and print; 1 if any was silent."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bits", type=int, default=1)
    given = parser.parse_args()
    kinds, details, silent = run(given.rounds, given.seed, given.bits)
    out = sys.stdout.write
    for kind in KINDS:
        out(f"{kind:10} {kinds[kind]:6}\n")
    for what, count in details.most_common():
        out(f"  {count:5} {what}\n")
    for line in silent:
        out(f"SILENT {line}\n")
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(main())
