"""Power cuts: a real run's writes and fsyncs, replayed up to a random moment.

    python tests/campaigns/power.py [--seed 1] [--rounds 200] [--durability full|relaxed]

In every other run the processes are a crowd that does nothing but consume, so that they wait
for the disk after their turns, and two of them always ask with the same keys: one is told that
it took what the other may not have on the disk yet.

A small library, compiled from `recorder.c` and loaded ahead of the C library, records what
SQLite asks for while several processes write; they add to the same record each
acknowledgement when they have it. An image is what a disk may hold after a cut: what was
written before the begin of an fsync that ended, and of the rest any sectors of 512 bytes, one
of them torn, in any order, or as much as had come; a WAL that was made or removed is there
or not until its folder was synced; the shared memory is noise. In each the ledger must
verify, be a prefix of the history that was recorded, hold every acknowledged unit in full
(`relaxed`: the lost ones are counted), and work on: a retry of the last writes takes nothing
twice. Prints the figures as JSON; exits 1 at the first image that does not. Needs `cc`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import rig
from rig import Child, Failure, Line, Load, Tell, require

import quotactl

HEAD = struct.Struct("<cIQIH")
SECTOR = 512
WRITERS = 3
CROWD = 6


# ---- the run that is recorded


class Crowd:
    """Consumes, few of them in batches; who has the same prefix asks the same."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._rng = random.Random(prefix)
        self._number = 0

    def next(self) -> Line:
        self._number += 1
        user, amount = f"u{self._rng.randrange(5)}", self._rng.randint(1, 4)
        key = f"{self._prefix}-{self._number}"
        if self._rng.random() < 0.1:
            return {"do": "batch", "user": user, "amounts": [amount] * amount, "key": key}
        return {"do": "consume", "user": user, "amount": amount, "key": key}

    def learn(self, op: Line, answer: Line) -> None:
        """Nothing to go on with."""


def record(path: Path, log: Path, seed: str, count: int, crowded: bool) -> None:
    """In the recorded process: write with several processes, which come and go."""
    if crowded:
        # As many writes in all.
        count, prefixes = count * WRITERS // CROWD, [f"{seed}.{n // 2}" for n in range(CROWD)]
    else:
        prefixes = [f"{seed}.{n}" for n in range(WRITERS)]
    children = [Child(write, path, log, prefix, count, crowded) for prefix in prefixes]
    for _ in rig.listen(children):
        pass
    for child in children:
        child.reap()


def write(tell: Tell, path: Path, log: Path, prefix: str, count: int, crowded: bool) -> None:
    rng = random.Random(f"{prefix}.{os.getpid()}" if crowded else prefix)
    load = Crowd(prefix) if crowded else Load(prefix, rng)
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    q = quotactl.connect(path, timeout_s=rig.DEADLINE_S, notify=False)
    for _ in range(count):
        if rng.random() < 0.02:
            q.close()
            q = quotactl.connect(path, timeout_s=rig.DEADLINE_S, notify=False)
        op = load.next()
        answer = rig.perform(q, op)
        load.learn(op, answer)
        text = json.dumps([op, answer]).encode()
        os.write(file, HEAD.pack(b"A", os.getpid(), 0, len(text), 0) + text)
    q.close()


@dataclass(slots=True)
class Event:
    kind: str
    process: int
    offset: int
    name: str
    data: bytes


def events_of(log: Path) -> list[Event]:
    found, at, every = [], 0, log.read_bytes()
    while at < len(every):
        kind, process, offset, length, name_length = HEAD.unpack_from(every, at)
        at += HEAD.size
        name = every[at : at + name_length].decode()
        at += name_length
        found.append(Event(kind.decode(), process, offset, name, every[at : at + length]))
        at += length
    return found


# ---- the disk


@dataclass(slots=True)
class File:
    """What of a file is on the disk for certain, and what was asked for since."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, Event]] = field(default_factory=list)

    def settle(self, before: int) -> None:
        """An fsync that began at `before` has ended."""
        for at, event in self.pending:
            if at < before:
                apply(self.durable, event.kind, event.offset, event.data)
        self.pending = [one for one in self.pending if one[0] >= before]

    def after_a_cut(self, rng: random.Random) -> bytes:
        """One of the many states in which a cut may leave it."""
        found = bytearray(self.durable)
        mode = rng.choice(["none", "all", "in order", "any sectors", "any sectors"])
        share = rng.choice([0.1, 0.5, 0.9])
        pieces = [piece for _, event in self.pending for piece in sectors(event)]
        last = rng.randrange(len(pieces)) if pieces else 0
        if mode == "in order":
            pieces = pieces[: last + 1]
        elif mode == "none":
            pieces = []
        elif mode == "any sectors":
            pieces = [piece for piece in pieces if rng.random() < share]
        torn = rng.randrange(len(pieces)) if pieces and mode != "all" else -1
        if mode == "in order":
            torn = len(pieces) - 1
        for number, (kind, offset, data) in enumerate(pieces):
            part = data[: rng.randrange(len(data) + 1)] if number == torn else data
            apply(found, kind, offset, part)
        return bytes(found)


def sectors(event: Event) -> list[tuple[str, int, bytes]]:
    """A write as the parts that a disk writes whole."""
    if event.kind == "T":
        return [("T", event.offset, b"")]
    pieces, at, end = [], event.offset, event.offset + len(event.data)
    while at < end:
        upto = min(end, (at // SECTOR + 1) * SECTOR)
        pieces.append(("W", at, event.data[at - event.offset : upto - event.offset]))
        at = upto
    return pieces


def apply(content: bytearray, kind: str, offset: int, data: bytes) -> None:
    if kind == "T":
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


class Disk:
    """The files of one ledger, as far as the events told so far go."""

    def __init__(self, ledger: bytes) -> None:
        self.files = {"db": File(bytearray(ledger))}
        # What had a name before, until the folder is synced: None for nothing.
        self.before: dict[str, list[File | None]] = {}
        self._begun: dict[tuple[int, str], int] = {}
        self._named: dict[str, int] = {}

    def happen(self, at: int, event: Event) -> None:
        name = event.name
        match event.kind:
            case "W" | "T":
                if name not in self.files:
                    self.files[name] = File()
                    self.before.setdefault(name, []).append(None)
                    self._named[name] = at
                self.files[name].pending.append((at, event))
            case "U":
                gone = self.files.pop(name, None)
                if gone is not None:
                    self.before.setdefault(name, []).append(gone)
                    self._named[name] = at
            case "B":
                self._begun[event.process, name] = at
            case "E":
                began = self._begun.pop((event.process, name))
                if name == "folder":
                    for other in [n for n in self.before if self._named[n] < began]:
                        del self.before[other]
                elif name in self.files:
                    self.files[name].settle(began)

    def after_a_cut(self, rng: random.Random) -> dict[str, bytes]:
        found = {}
        for name in sorted({*self.files, *self.before}):
            one_of = [self.files.get(name), *self.before.get(name, [])]
            chosen = one_of[0] if rng.random() < 0.5 else rng.choice(one_of)
            if chosen is not None:
                found[name] = chosen.after_a_cut(rng)
        return found


# ---- what must hold


def check(tell: Tell, folder: Path, history: Line, acknowledged: list[tuple[Line, Line]]) -> None:
    """Open an image; tell how much that was acknowledged is lost."""
    path = folder / "db"
    (folder / "db-shm").write_bytes(random.Random(len(acknowledged)).randbytes(32768))
    with quotactl.connect(path, notify=False) as q:
        rig.require_sound(q)
        entries = rig.sql(path, "SELECT * FROM entry ORDER BY id")
        require(entries == history["entries"][: len(entries)], "entries are no prefix")
        audit = rig.sql(path, "SELECT id, hash FROM audit ORDER BY id")
        require(audit == history["audit"][: len(audit)], "audit is no prefix")
        keys = dict(rig.sql(path, "SELECT key, entry_id FROM idempotency_key"))
        require(keys.items() <= history["keys"].items(), "a key of nothing")
        overrides = {
            name
            for (name,) in rig.sql(
                path, "SELECT name FROM override JOIN user ON user.id = override.user_id"
            )
        }
        lost = units = 0
        for op, answer in acknowledged:
            gone = any(entry > len(entries) for entry in answer["entries"])
            if op["do"] == "override":
                gone = op["user"] not in overrides
            lost += gone
            units += abs(answer["units"]) if gone else 0
        for op, answer in acknowledged[-10:]:
            if op["do"] in ("consume", "batch") and answer["entries"]:
                first, second = rig.perform(q, op), rig.perform(q, op)
                require(first == second, "taken twice:", op)
        rig.require_sound(q)
        require(q.consume(user="u1", resource="image").allowed)
    tell({"lost": lost, "units": units})


def try_images(
    tell: Tell, cuts: list[int], base: bytes, log: Path, history: Line, seed: str
) -> None:
    """Replay the record once, and make an image at each of these moments."""
    disk = Disk(base)
    acknowledged: list[tuple[Line, Line]] = []
    wanted = sorted(cuts)
    with tempfile.TemporaryDirectory(dir=log.parent) as folder:
        for at, event in enumerate(events_of(log)):
            while wanted and wanted[0] == at:
                wanted.pop(0)
                image = disk.after_a_cut(random.Random(f"{seed}.{at}"))
                for name, content in image.items():
                    (Path(folder) / ("db" if name == "db" else f"db-{name}")).write_bytes(content)
                try:
                    check(tell, Path(folder), history, acknowledged)
                except (Failure, quotactl.QuotaError) as failure:
                    raise Failure(f"seed {seed}, cut at event {at}: {failure}") from failure
                for file in Path(folder).iterdir():
                    file.unlink()
            if event.kind == "A":
                op, answer = json.loads(event.data)
                acknowledged.append((op, answer))
            else:
                disk.happen(at, event)


def tell_history(tell: Tell, path: Path) -> None:
    """What the run left: what any image may hold a prefix of."""
    with quotactl.connect(path, notify=False) as q:
        rig.require_sound(q)
    tell(
        {
            "entries": rig.sql(path, "SELECT * FROM entry ORDER BY id"),
            "audit": rig.sql(path, "SELECT id, hash FROM audit ORDER BY id"),
            "keys": dict(rig.sql(path, "SELECT key, entry_id FROM idempotency_key")),
        }
    )


def campaign(
    seed: int, rounds: int, durability: str, writes: int, images_per_run: int
) -> dict[str, Any]:
    began = time.monotonic()
    figures = {"images": 0, "events": 0, "fsyncs": 0, "acknowledged": 0, "lost": 0}
    losses: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "recorder.so"
        subprocess.run(
            [
                "cc",
                "-shared",
                "-fPIC",
                "-o",
                library,
                Path(__file__).with_name("recorder.c"),
                "-ldl",
            ],
            check=True,
        )
        for run in range(-(-rounds // images_per_run)):
            of_run = f"{seed}.{run}"
            rng = random.Random(of_run)
            path, log = Path(folder) / f"run{run}" / "ledger.db", Path(folder) / f"log{run}"
            path.parent.mkdir()
            rig.ask(lambda _, *how: rig.make_ledger(how[0], durability=how[1]), path, durability)
            base = path.read_bytes()
            log.touch()
            # Many checkpoints, some, and as many as there are in earnest.
            pages = [40, 400, 4000][run % 3]
            subprocess.run(
                [
                    sys.executable, __file__, "--record", path, "--log", log,
                    "--seed-of-run", of_run, "--writes", str(writes), "--pages", str(pages),
                    *(["--crowded"] if run % 2 else []),
                ],
                env={
                    **os.environ, "LD_PRELOAD": str(library),
                    "RECORD_OF": str(path), "RECORD_TO": str(log),
                },
                check=True,
            )  # fmt: skip
            (history,) = rig.ask(tell_history, path)
            history["entries"] = [tuple(row) for row in history["entries"]]
            history["audit"] = [tuple(row) for row in history["audit"]]
            events = events_of(log)
            require(any(e.kind == "W" for e in events), "nothing was recorded")
            count = min(images_per_run, rounds - run * images_per_run)
            cuts = [rng.randrange(len(events)) for _ in range(count)]
            for line in rig.spread(try_images, cuts, base, log, history, of_run):
                figures["images"] += 1
                figures["lost"] += line["lost"]
                losses.append(line["lost"])
                require(durability != "full" or not line["lost"], of_run, "lost", line)
            figures["events"] += len(events)
            figures["fsyncs"] += sum(e.kind == "E" for e in events)
            figures["acknowledged"] += sum(e.kind == "A" for e in events)
    require(figures["images"] == rounds, "only", figures["images"], "images")
    return {
        "campaign": "power", "seed": seed, "durability": durability, **figures,
        "images_with_loss": sum(map(bool, losses)), "median_lost": median(losses),
        "most_lost": max(losses),
        "seconds": round(time.monotonic() - began),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--durability", default="full", choices=["full", "relaxed"])
    parser.add_argument("--writes", type=int, default=300, help="of each of three processes")
    parser.add_argument("--images", type=int, default=20, help="of each run")
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed-of-run", help=argparse.SUPPRESS)
    parser.add_argument("--pages", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--crowded", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.record:
        rig.checkpoint_every(asked.pages)
        record(asked.record, asked.log, asked.seed_of_run, asked.writes, asked.crowded)
        return
    try:
        rig.report(campaign(asked.seed, asked.rounds, asked.durability, asked.writes, asked.images))
    except Failure as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main()
