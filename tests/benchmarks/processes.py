"""Point 3: eight processes writing to one ledger, durability full.

The yardstick is the bare script of `deciding` behind the same kind of queue, which is here in
full: two lock files, of which a writer takes the first, waits with it for the second, hands
the first on, does its work and gives back the second. For scale the same bare script without
a queue, where SQLite's `busy_timeout` has writers poll. Each kind has processes of its own,
which have their ledger open all the time, and all of which write for half a second in turn.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import Figure, Options, milliseconds, progress, share, thousands
from deciding import Bare, make_ledger, name_of

import quotactl

POINT = "3 processes"
WRITERS = 8
USERS = 1000
KINDS = ("product", "bare", "plain")
# Longer than any wait here.
TIMEOUT_S = 120

Waits = list[list[float]]


class QueuedBare(Bare):
    """Writers in line: the kernel wakes them in the order in which they came."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "full")
        self.queue = os.open(f"{path}-queue", os.O_RDWR | os.O_CREAT, 0o600)
        self.turn = os.open(f"{path}-turn", os.O_RDWR | os.O_CREAT, 0o600)

    def consume(self, user_id: int, amount: int, key: str | None) -> bool:
        fcntl.flock(self.queue, fcntl.LOCK_EX)
        fcntl.flock(self.turn, fcntl.LOCK_EX)
        fcntl.flock(self.queue, fcntl.LOCK_UN)
        try:
            return super().consume(user_id, amount, key)
        finally:
            fcntl.flock(self.turn, fcntl.LOCK_UN)


def measure(options: Options) -> Iterator[Figure]:
    seconds, slices = (0.3, 1) if options.quick else (0.5, 4)
    make_ledger(options.folder / "product.db", "full", USERS).close()
    for kind in ("bare", "plain"):
        Bare(options.folder / f"{kind}.db", "full").close()
    taken: dict[str, list[Waits]] = {kind: [] for kind in KINDS}
    order = random.Random(1)
    with ExitStack() as stack:
        writers = {
            kind: stack.enter_context(Writers(kind, options.folder / f"{kind}.db"))
            for kind in KINDS
        }
        for one in writers.values():
            one.write(seconds)
        for number in range(options.runs):
            progress(f"processes: run {number + 1} of {options.runs}")
            for runs in taken.values():
                runs.append([[] for _ in range(WRITERS)])
            for _ in range(slices):
                # None is always the one that comes after another.
                for kind in order.sample(KINDS, len(KINDS)):
                    more = writers[kind].write(seconds)
                    for waited, waits in zip(taken[kind][-1], more, strict=True):
                        waited.extend(waits)
    totals = {
        kind: [sum(map(len, waits)) / seconds / slices for waits in runs]
        for kind, runs in taken.items()
    }
    speed = tuple(a / b for a, b in zip(totals["product"], totals["bare"], strict=True))
    yield Figure(
        POINT,
        f"{WRITERS} writers, full: total, to bare behind a queue",
        statistics.median(speed),
        bound=0.8,
        at_most=False,
        beside=" to ".join(
            thousands(statistics.median(totals[kind])) for kind in ("product", "bare")
        ),
        note=f"plain busy_timeout {thousands(statistics.median(totals['plain']))}",
        values=speed,
    )
    longest = {
        kind: [1000 * max(max(one) for one in waits) for waits in runs]
        for kind, runs in taken.items()
    }
    yield Figure(
        POINT,
        f"{WRITERS} writers, full: longest wait",
        statistics.median(longest["product"]),
        "ms",
        bound=30,
        beside=f"bare {statistics.median(longest['bare']):.0f} ms, "
        f"plain {statistics.median(longest['plain']):.0f} ms",
        note=f"of all runs {max(longest['product']):.0f} ms",
        values=tuple(longest["product"]),
    )
    p99s = {
        kind: statistics.median(share([w for one in waits for w in one], 0.99) for waits in runs)
        for kind, runs in taken.items()
    }
    yield Figure(
        POINT,
        f"{WRITERS} writers, full: p99",
        1000 * p99s["product"],
        "ms",
        beside=f"bare {milliseconds(p99s['bare'])}, plain {milliseconds(p99s['plain'])}",
    )
    even = {kind: [jain([len(one) for one in waits]) for waits in taken[kind]] for kind in KINDS}
    yield Figure(
        POINT,
        "evenness of their shares (Jain)",
        statistics.median(even["product"]),
        "of 1",
        beside=f"bare {statistics.median(even['bare']):.4f}, "
        f"plain {statistics.median(even['plain']):.4f}",
        note=f"lowest {min(even['product']):.4f}",
        values=tuple(even["product"]),
    )


def jain(shares: Sequence[int]) -> float:
    """1 is perfectly even, 1/writers is one who got everything."""
    squares: int = sum(n * n for n in shares)
    return sum(shares) ** 2 / (len(shares) * squares)


class Writers:
    """Processes that have the ledger open, as gateways have, and write when they are told."""

    def __init__(self, kind: str, path: Path) -> None:
        command = [sys.executable, __file__, kind, str(path)]
        self._processes = [
            subprocess.Popen(
                [*command, "--number", str(number)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(WRITERS)
        ]

    def __enter__(self) -> Writers:
        self._hear("ready")
        return self

    def write(self, seconds: float) -> Waits:
        """How long each decision of each took, while all of them write for a while."""
        self._say(str(seconds))
        # What they tell takes the processors: not before everybody has written their last.
        self._hear("done")
        self._say("tell")
        told = [process.stdout.readline() for process in self._processes if process.stdout]
        return [json.loads(one) for one in told]

    def _say(self, word: str) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{word}\n")
            process.stdin.flush()

    def _hear(self, word: str) -> None:
        for process in self._processes:
            assert process.stdout is not None
            assert process.stdout.readline() == f"{word}\n"

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.communicate(timeout=TIMEOUT_S)


def be_writer(kind: str, path: Path, number: int) -> None:
    """Consume without pause as long as one is told to, then tell the wait of each decision."""
    anybody = random.Random(number).randrange
    bits = random.Random().getrandbits
    consume: Callable[[int, str], object]
    if kind == "product":
        q = quotactl.connect(path, timeout_s=TIMEOUT_S, notify=False)
        consume = lambda n, key: q.consume(  # noqa: E731
            user=name_of(n), resource="image", idempotency_key=key
        )
    else:
        bare = QueuedBare(path) if kind == "bare" else Bare(path, "full")
        bare.db.execute(f"PRAGMA busy_timeout = {1000 * TIMEOUT_S}")
        consume = lambda n, key: bare.consume(n, 1, key)  # noqa: E731
    # Not before everybody is there: what comes first is slower.
    consume(anybody(USERS), f"{bits(144):036x}")
    print("ready", flush=True)  # noqa: T201
    clock = time.perf_counter
    while word := sys.stdin.readline():
        waits = []
        end = clock() + float(word)
        while (began := clock()) < end:
            consume(anybody(USERS), f"{bits(144):036x}")
            waits.append(clock() - began)
        print("done", flush=True)  # noqa: T201
        sys.stdin.readline()
        print(json.dumps(waits), flush=True)  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description="One of the writers.")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("path", type=Path)
    parser.add_argument("--number", type=int, required=True)
    asked = parser.parse_args()
    be_writer(asked.kind, asked.path, asked.number)


if __name__ == "__main__":
    main()
