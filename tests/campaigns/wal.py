"""The WAL cut short, torn and damaged: a ledger opens to a prefix of its history.

    python tests/campaigns/wal.py [--seed 1] [--rounds 1000] [--commits 100]

So many commits stand in a WAL that was never written back, and the ledger's state after
each is known. Copies of it are opened with the WAL cut at every frame boundary; and for each
of `--rounds`: cut at a random byte, one random byte changed, a sector never written though
what came after it was, and a last page that is torn, its rest zeros or noise. Each must show
exactly the state after the last commit that lies whole before the damage, verify, and work
on. Prints the figures as JSON; exits 1 at the first copy that does not.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import struct
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import rig
from rig import Failure, Line, Load, Tell, require

import quotactl

SECTOR = 512
HEADER, FRAME_HEADER = 32, 24

Cut = tuple[str, int, int]


def make_history(tell: Tell, path: Path, seed: int, count: int) -> None:
    """Commit, telling the state after each, and die without writing the WAL back."""
    rig.make_ledger(path)
    q = quotactl.connect(path, notify=False)
    load = Load("k", random.Random(seed))
    tell({"state": rig.digest(path)})
    size = commits = 0
    while commits < count:
        op = load.next()
        load.learn(op, rig.perform(q, op))
        # It only grows: what did not make it grow wrote nothing, such as a void that was due.
        if (now := wal_of(path).stat().st_size) > size:
            size, commits = now, commits + 1
            tell({"state": rig.digest(path)})
    os.kill(os.getpid(), signal.SIGKILL)


def wal_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def commit_ends(wal: bytes) -> tuple[int, list[int]]:
    """The size of a frame, and where each commit's last frame ends."""
    (page_size,) = struct.unpack_from(">I", wal, 8)
    frame = FRAME_HEADER + page_size
    # Of a frame that ends a commit, the second word is the database's size in pages.
    return frame, [
        start + frame
        for start in range(HEADER, len(wal), frame)
        if struct.unpack_from(">I", wal, start + 4)[0]
    ]


def cuts(wal: bytes, rounds: int, rng: random.Random) -> list[Cut]:
    """What to do to the WAL: a kind, where, and a seed or a length."""
    frame, ends = commit_ends(wal)
    found = [("cut", at, 0) for at in (0, *range(HEADER, len(wal) + 1, frame))]
    for _ in range(rounds):
        found.append(("cut", rng.randrange(len(wal)), 0))
        found.append(("change", rng.randrange(len(wal)), rng.randrange(1, 256)))
        found.append(("skip", rng.randrange(len(wal) // SECTOR) * SECTOR, 0))
        torn = rng.choice(ends) - rng.randint(1, frame)
        found.append(("torn", torn, frame) if rng.random() < 0.5 else ("noise", torn, frame))
    return found


def damaged(wal: bytes, ends: list[int], cut: Cut) -> bytes:
    kind, at, value = cut
    match kind:
        case "cut":
            return wal[:at]
        case "change":
            return wal[:at] + bytes([wal[at] ^ value]) + wal[at + 1 :]
        case "skip":
            return wal[:at] + bytes(SECTOR) + wal[at + SECTOR :]
    # A last page: the file is as long as it should be, and the page not all there.
    end = next(end for end in ends if end > at)
    rest = bytes(end - at) if kind == "torn" else random.Random(at).randbytes(end - at)
    return wal[:at] + rest


def try_cuts(tell: Tell, some: list[Cut], source: Path, states: list[str]) -> None:
    """Open a copy for each cut."""
    ledger, wal = source.read_bytes(), wal_of(source).read_bytes()
    _, ends = commit_ends(wal)
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        path = Path(folder) / "copy.db"
        for cut in some:
            left = damaged(wal, ends, cut)
            whole = next(
                (at for at, (a, b) in enumerate(zip(wal, left, strict=False)) if a != b),
                min(len(wal), len(left)),
            )
            # Nothing after the first byte that is not as it was may count.
            kept = sum(end <= whole for end in ends) if whole >= HEADER else 0
            path.write_bytes(ledger)
            wal_of(path).write_bytes(left)
            try:
                require_state(path, states, kept)
            except (Failure, quotactl.QuotaError) as failure:
                raise Failure(f"{cut} of {len(wal)}, {kept} commits whole: {failure}") from failure
            tell({"kind": cut[0], "kept": kept})
            for file in Path(folder).iterdir():
                file.unlink()


def require_state(path: Path, states: list[str], kept: int) -> None:
    """The ledger opens to the state after `kept` commits, verifies, and works on."""
    with quotactl.connect(path, notify=False) as q:
        rig.require_sound(q)
        found = rig.digest(path)
        require(
            found == states[kept],
            "state",
            states.index(found) if found in states else "unknown to history",
        )
        require(q.consume(user="u1", resource="image", idempotency_key="after").allowed)
        rig.require_sound(q)
    with quotactl.connect(path, notify=False) as q:
        require(q.consume(user="u1", resource="image", idempotency_key="after").replayed)


def campaign(seed: int, rounds: int, commits: int) -> dict[str, Any]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        states = [line["state"] for line in rig.ask(make_history, path, seed, commits)]
        wal = wal_of(path).read_bytes()
        frame, ends = commit_ends(wal)
        require(len(states) == len(ends) + 1 == commits + 1, len(states), "states", len(ends))
        require(all(a != b for a, b in pairwise(states)), "a commit that changed nothing")
        every = cuts(wal, rounds, random.Random(seed))
        told: list[Line] = rig.spread(try_cuts, every, path, states)
        require(len(told) == len(every), "only", len(told), "of", len(every), "were tried")
    return {
        "campaign": "wal",
        "seed": seed,
        "commits": len(ends),
        "frames": len(wal) // frame,
        "boundaries": len(every) - 4 * rounds,
        "cut": rounds,
        "changed": rounds,
        "skipped": rounds,
        "torn": rounds,
        "seconds": round(time.monotonic() - began),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--commits", type=int, default=100)
    asked = parser.parse_args()
    try:
        rig.report(campaign(asked.seed, asked.rounds, asked.commits))
    except Failure as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main()
