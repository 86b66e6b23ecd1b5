"""What the campaigns share: forked processes that can be killed, a load whose every
effect is known, and what a ledger holds, for comparison.

The process that leads a campaign never opens a ledger itself: its children do, so that
no connection is carried across a fork.
"""

from __future__ import annotations

import json
import os
import random
import selectors
import signal
import sqlite3
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import quotactl
from quotactl.engines.sqlite import door

# Far beyond what anything here takes: it only turns a hang into a failure.
DEADLINE_S = 120.0

Clock = Callable[[], datetime]
Line = dict[str, Any]
Tell = Callable[[Line], None]


class Failure(Exception):
    """A promise did not hold."""


def require(fact: object, *what: object) -> None:
    """Like assert, but not to be switched off."""
    if not fact:
        raise Failure(" ".join(map(str, what)))


class Child:
    """A forked process that runs `work(tell, …)` and tells its parent lines of JSON."""

    def __init__(self, work: Callable[..., None], *arguments: Any) -> None:
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(read)
            _run(write, work, arguments)
        os.close(write)
        self.pipe = read
        self.ended = False
        self.unread: deque[Line] = deque()
        self._rest = b""

    def read(self) -> None:
        """Wait for what it tells next, or for its end."""
        more = os.read(self.pipe, 1 << 20)
        if not more:
            # What a kill cut off in the middle of a line was not told.
            self.ended = True
            return
        *whole, self._rest = (self._rest + more).split(b"\n")
        self.unread.extend(json.loads(line) for line in whole)

    def told(self) -> Iterator[Line]:
        """What was read; whoever stops listening finds the rest here later."""
        while self.unread:
            line = self.unread.popleft()
            require("broke" not in line, line.get("broke"))
            yield line

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def reap(self) -> None:
        os.close(self.pipe)
        os.waitpid(self.pid, 0)


def _run(write: int, work: Callable[..., None], arguments: Iterable[Any]) -> None:
    def tell(line: Line) -> None:
        os.write(write, json.dumps(line).encode() + b"\n")

    try:
        work(tell, *arguments)
    except BaseException:  # noqa: BLE001 - the parent raises it
        tell({"broke": traceback.format_exc()})
    # Not sys.exit: what the parent has open is not ours to flush or to finalise.
    os._exit(0)


def listen(children: Iterable[Child], until: float | None = None) -> Iterator[tuple[Child, Line]]:
    """What these children tell, until all have ended or, if given, until that moment."""
    children = list(children)
    for child in children:
        for line in child.told():
            yield child, line
    with selectors.DefaultSelector() as selector:
        for child in children:
            if not child.ended:
                selector.register(child.pipe, selectors.EVENT_READ, child)
        while selector.get_map():
            left = DEADLINE_S if until is None else until - time.monotonic()
            if left <= 0:
                return
            ready = selector.select(left)
            require(ready or until is not None, "a process hangs")
            for key, _ in ready:
                child = key.data
                child.read()
                for line in child.told():
                    yield child, line
                if child.ended:
                    selector.unregister(child.pipe)


def ask(work: Callable[..., None], *arguments: Any) -> list[Line]:
    """Run `work` in a child to its end; all that it told."""
    child = Child(work, *arguments)
    try:
        return [line for _, line in listen([child])]
    finally:
        child.kill()
        child.reap()


def spread(work: Callable[..., None], tasks: list[Any], *arguments: Any) -> list[Line]:
    """`work(tell, tasks, …)` with a part of the tasks for each processor."""
    count = min(len(tasks), os.cpu_count() or 1)
    children = [Child(work, tasks[n::count], *arguments) for n in range(count)]
    try:
        return [line for _, line in listen(children)]
    finally:
        for child in children:
            child.kill()
            child.reap()


# ---- a load


def make_ledger(
    path: Path,
    *,
    durability: str = "full",
    clock: Clock | None = None,
    prepare: Callable[[quotactl.Ledger], None] | None = None,
) -> None:
    """`low` may have 5 a day; users on `wide` as much as they like."""
    with quotactl.create(path, name="prod", zone="UTC", clock=clock, notify=False) as q:
        q.admin.create_resource("image")
        q.admin.create_tier("free")
        q.admin.create_tier("wide")
        q.admin.set_limit(tier="free", resource="image", limit="5/day")
        q.admin.set_limit(tier="wide", resource="image", limit="unlimited")
        for n in range(5):
            q.admin.set_tier(f"u{n}", "wide")
        q.admin.add_grant(user="u0", resource="image", amount=5, reason="goodwill")
        q.admin.set_setting("durability", durability)
        if prepare is not None:
            prepare(q)


class Load:
    """Writes of every kind, each with a key or an id by which it can be tried again."""

    def __init__(self, prefix: str, rng: random.Random) -> None:
        self._prefix = prefix
        self._rng = rng
        self._number = 0
        self._left: dict[str, int] = {}
        self._held: list[tuple[int, int]] = []

    def next(self) -> Line:
        """The next write to try."""
        rng = self._rng
        self._number += 1
        key = f"{self._prefix}-{self._number}"
        user = f"u{rng.randrange(5)}"
        chance = rng.random()
        if chance < 0.10 and self._held:
            held, amount = self._held.pop()
            if rng.random() < 0.5:
                return {"do": "void", "id": held, "hold": amount}
            return {"do": "post", "id": held, "amount": rng.randint(1, amount), "hold": amount}
        if chance < 0.25 and self._left:
            of = rng.choice(list(self._left))
            # Something is always left: what was given back in full can't be tried again.
            self._left[of] -= 1
            if self._left[of] == 1:
                del self._left[of]
            return {"do": "refund", "of": of, "key": key}
        if chance < 0.33:
            amount = rng.randint(1, 4)
            return {"do": "reserve", "user": user, "amount": amount, "key": key}
        if chance < 0.43:
            amounts = [rng.randint(1, 3) for _ in range(rng.randint(1, 20))]
            return {"do": "batch", "user": user, "amounts": amounts, "key": key}
        if chance < 0.46:
            return {"do": "override", "user": f"o-{key}"}
        if chance < 0.55:
            return {"do": "consume", "user": "low", "amount": 1, "key": key}
        return {"do": "consume", "user": user, "amount": rng.randint(1, 4), "key": key}

    def learn(self, op: Line, answer: Line) -> None:
        """What it may go on with, given how a write went."""
        if op["do"] == "consume" and op["amount"] > 1 and answer["units"]:
            self._left[op["key"]] = op["amount"]
        if op["do"] == "reserve" and answer["units"]:
            self._held.append((answer["entries"][0], op["amount"]))


def perform(q: quotactl.Ledger, op: Line) -> Line:
    """Try a write: the entries that it made, and by how many units the count moved."""
    entry_id: int | None
    match op["do"]:
        case "consume" | "reserve" as what:
            ask_for = q.consume if what == "consume" else q.reserve
            taken = ask_for(
                user=op["user"],
                resource="image",
                amount=op["amount"],
                idempotency_key=op["key"],
            )
            entry_id, units = taken.entry_id, op["amount"] if taken.allowed else 0
        case "batch":
            requests = [
                quotactl.Request(op["user"], "image", amount, f"{op['key']}.{n}")
                for n, amount in enumerate(op["amounts"])
            ]
            entries, units = [], 0
            for answer in q.consume_many(requests):
                require(isinstance(answer, quotactl.Decision), answer)
                assert isinstance(answer, quotactl.Decision)
                if answer.allowed:
                    entries.append(answer.entry_id)
                    units += answer.amount
            return {"entries": entries, "units": units}
        case "refund":
            refunded = q.refund(idempotency_key=op["of"], amount=1, refund_key=op["key"])
            entry_id, units = refunded.entry_id, -refunded.amount
        case "post":
            settled = q.post(op["id"], amount=op["amount"])
            entry_id, units = settled.entry_id, -settled.freed
        case "void":
            settled = q.void(op["id"])
            entry_id, units = settled.entry_id, -settled.freed
        case "override":
            q.admin.set_override(
                user=op["user"], resource="image", limit="7/day", reason="asked for it"
            )
            entry_id, units = None, 0
        case other:
            raise AssertionError(other)
    return {"entries": [] if entry_id is None else [entry_id], "units": units}


def checkpoint_every(pages: int) -> None:
    """Of all connections opened from here on: few pages, so that checkpoints are many."""
    door.WAL_PAGES = pages


# ---- what a ledger holds


def sql(path: Path, statement: str) -> list[tuple[Any, ...]]:
    """Rows, through SQLite alone."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def digest(path: Path) -> str:
    """One value for all rows of all tables."""
    found = sha256()
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        ).fetchall()
        for (table,) in tables:
            found.update(table.encode())
            for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2"):
                found.update(repr(row).encode())
    return found.hexdigest()


def require_sound(q: quotactl.Ledger) -> None:
    """`verify` has nothing to say."""
    found = q.verify()
    require(found.ok, [d.to_dict() for d in found.differences[:5]])


def report(figures: Mapping[str, Any]) -> None:
    """A line of JSON on stdout."""
    print(json.dumps(figures))  # noqa: T201
