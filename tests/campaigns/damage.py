"""Damage a ledger's file at random, and see whether anybody would be told something wrong.

Each round damages one copy of a ledger in which everything happened once, by flipping bits
of the file or by putting a nasty value into a cell past all guards, and asks it what is asked
every day: decisions, reports, lists. The answers are

- refused: an error, none of them wrong;
- detected: `verify` finds it, or fails on it;
- harmless: all answers are those of the whole ledger, and all rows too;
- unseen: the answers are the same, but some row that nobody asked for has changed;
- uncovered: an answer is wrong and verify is content, in a table that has no second record
  in the ledger to be compared with: limits, settings, throttles and the like;
- silent: the same in a table that verify answers for. There must be none;
- unexpected: a command ended with a failure that nobody thought of. There must be none either.

    python tests/campaigns/damage.py --rounds 400 --seed 1 [--bits 1 | --cells 1 [--commands 99]]
"""

from __future__ import annotations

import argparse
import io
import json
import random
import shutil
import sqlite3
import sys
import tempfile
from collections import Counter
from contextlib import closing, redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import quotactl
from quotactl import api
from quotactl.cli import main
from quotactl.operations import acts
from quotactl.reports import listing
from quotactl.reports.doctor import diagnose
from quotactl.reports.status import status

NOW = datetime(2025, 3, 27, 9, 0, tzinfo=UTC)
THEN = NOW + timedelta(days=2)
KINDS = ("refused", "detected", "harmless", "unseen", "uncovered", "silent", "unexpected")
# Where a row says something that follows from other rows, or lies under a hash.
COVERED = frozenset(
    {"entry", "counter", "total", "grant_movement", "idempotency_key", "reservation"}
    | {"demand_summed", "closed_day", "audit", "audit_text"}
)
# What SQLite's strict tables let a cell be, if nobody checks it.
NUMBERS = (0, 1, -1, 7, 1439, 1440, 2**53, 2**63 - 1, -(2**63), 10**14, -(10**14), None)
TEXTS = (
    b"", b"x", b"Mars/Olympus", b"../../etc/passwd", b"[1", b"1,x", b"0", b"-5", b"1e999",
    b"9" * 400, b'{"day":', b"{}", b"null", b"\xff\xfe", b"\xed\xa0\x80", b"a\0b", b"\x1b[31m",
    b"[red]", None,
)  # fmt: skip
READING = (
    "db verify",
    "doctor",
    "status",
    "check ada image",
    "check bob video",
    "explain cleo image",
    "explain ada image --at 2025-03-27T12:00:00Z",
    "report usage",
    "report usage --by user",
    "report top",
    "report throttle 1",
    "throttle list --all",
    "throttle preview --cap 1/day --tier free",
    "audit list",
    "audit verify",
    "policy export",
    "user show bob",
    "user list",
    "grant list --all",
    "override list --all",
    "limit list",
    "setting list",
    "reset status",
    "db backup copy.db",
)
WRITING = (
    "consume ada image",
    "consume bob image 2 --key new",
    "consume cleo image --key 1-7",
    "refund --key 1-5",
    "reserve cleo image 1 --ttl 60s",
    "throttle on --cap 1/day --tier free --reason r --yes --replace",
    "throttle on --total 100/day --resource image --reason r --yes",
    "consume ada image",
    "throttle off 1 --reason r",
    "grant add ada image=3 --reason r",
    "user set-tier ada plus",
    "reset user ada --reason r --yes",
    "limit set free image=4/day",
    "reset daily",
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
        path = self._copy(bytes(content))
        where = ",".join(f"{place // 8}.{place % 8}" for place in places)
        kind, what = self._kind(path)
        return kind, f"{what} (bits {where})"

    def edit(self, cells: int, commands: int) -> tuple[str, str]:
        """The same with cells that were edited; commands are tried on what is left."""
        path = self._copy(self._bytes)
        where = [self._edited(path) for _ in range(cells)]
        at = f"(cells {', '.join(where)})"
        edited = path.read_bytes()
        reading = self._random.sample(READING, min(commands, len(READING)))
        for line in (*reading, *(WRITING if commands > len(READING) else WRITING[:commands])):
            if failed := unexpected(line, path):
                return "unexpected", f"{line}: {failed} {at}"
        self._copy(edited)
        kind, what = self._kind(path)
        return kind, f"{what} {at}"

    def _copy(self, content: bytes) -> Path:
        for old in self._folder.glob("*.db*"):
            if old != self._whole:
                old.unlink()
        path = self._folder / "damaged.db"
        path.write_bytes(content)
        return path

    def _edited(self, path: Path) -> str:
        """Put a nasty value into a random cell; which one, and what was put there."""
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            triggers = connection.execute(
                "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
            ).fetchall()
            for name, _ in triggers:
                connection.execute(f"DROP TRIGGER {name}")
            while True:
                table = self._random.choice([name for name in self._rows if name[0] not in "_s"])
                columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
                _, column, kind, *_ = self._random.choice(columns)
                value = self._random.choice(NUMBERS if kind == "INTEGER" else TEXTS)
                key = [c[1] for c in sorted(columns, key=lambda c: c[5]) if c[5]]
                rows = connection.execute(f"SELECT {', '.join(key)} FROM {table}").fetchall()
                if not rows:
                    continue
                which = self._random.choice(rows)
                condition = " AND ".join(f"{part} = ?" for part in key)
                cell = "CAST(? AS TEXT)" if isinstance(value, bytes) else "?"
                try:
                    connection.execute(
                        f"UPDATE {table} SET {column} = {cell} WHERE {condition}", (value, *which)
                    )
                except sqlite3.Error:
                    continue  # NOT NULL, UNIQUE: not to be had without breaking the file
                break
            for _, statement in triggers:
                connection.execute(statement)
        return f"{table}.{column} of {which} = {value!r}"

    def _kind(self, path: Path) -> tuple[str, str]:
        try:
            with quotactl.connect(path, clock=lambda: THEN, notify=False) as q:
                try:
                    found = q.verify()
                except quotactl.QuotaError as error:
                    return "detected", f"verify: {error.code}"
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
        except quotactl.QuotaError as error:
            return "refused", error.code
        what = " ".join(changed) or "no row"
        if answers == self._answers:
            return ("unseen" if changed else "harmless"), what
        if COVERED.isdisjoint(changed) and changed:
            return "uncovered", what
        return "silent", what


def unexpected(line: str, path: Path) -> str | None:
    """How a command failed in a way that nobody thought of; None if it did not."""
    said = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(said):
        code = main(["--db", str(path), *line.replace("copy.db", f"{path}.copy").split()])
    lines = said.getvalue().splitlines()
    if code == 1 or "unexpected" in said.getvalue() or "Traceback" in said.getvalue():
        return f"exit {code}, {lines[-1:]}"
    if (
        code not in {0, 3, 4, 5, 8}
        and len([one for one in lines if one.startswith("quotactl: ")]) != 1
    ):
        return f"exit {code}, {lines}"
    return None


def run(
    rounds: int, seed: int, bits: int = 1, cells: int = 0, commands: int = 99
) -> tuple[Counter[str], Counter[str], list[str]]:
    """Rounds by kind, by kind and what, and each that was silent."""
    kinds: Counter[str] = Counter()
    details: Counter[str] = Counter()
    silent = []
    folder = Path(tempfile.mkdtemp(prefix="damage-"))
    try:
        rounds_of = Campaign(folder, seed)
        for _ in range(rounds):
            kind, what = rounds_of.edit(cells, commands) if cells else rounds_of.round(bits)
            kinds[kind] += 1
            details[f"{kind}: {what.partition(' (bits' if not cells else ' (cells')[0]}"] += 1
            if kind in {"silent", "unexpected"}:
                silent.append(f"{kind}: {what}")
    finally:
        shutil.rmtree(folder)
    return kinds, details, silent


def campaign() -> int:
    """Run and print; 1 if any was silent or unexpected."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bits", type=int, default=1)
    parser.add_argument("--cells", type=int, default=0)
    parser.add_argument("--commands", type=int, default=99)
    given = parser.parse_args()
    for module in (api, acts):
        setattr(module, "system_clock", lambda: THEN)  # noqa: B010 - to mypy it is not exported
    kinds, details, silent = run(given.rounds, given.seed, given.bits, given.cells, given.commands)
    out = sys.stdout.write
    for kind in KINDS:
        out(f"{kind:10} {kinds[kind]:6}\n")
    for what, count in details.most_common():
        out(f"  {count:5} {what}\n")
    for line in silent:
        out(f"BAD {line}\n")
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(campaign())
