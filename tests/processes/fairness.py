"""How evenly, and how long, writers wait: a measurement, not a test.

    python tests/processes/fairness.py [--writers 8] [--seconds 2] [--durability full]
                                       [--rounds 1] [--plain]

Prints decisions per second, Jain's index of the writers' shares (1 is perfectly
even, 1/writers is one who got everything) and the longest wait of any: of all rounds
together, but for Jain's index, of which it is the lowest. With `--plain` each round is
followed by one in which the same writers have SQLite's `busy_timeout` alone and do not
queue, and the longest wait is compared.

Of the longest wait it says what it was made of: how much of it somebody's COMMIT took, which
is the disk's fsync and now and then a checkpoint (how many of these), and how much nobody
had the turn in, which is the scheduler. The rest is deciding.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import quotactl
from quotactl.engines.sqlite import door
from quotactl.engines.sqlite.door import SqliteEngine
from quotactl.engines.sqlite.queue import Turnstile


class Act(NamedTuple):
    """One decision, in moments that all processes share; `written_back` by its commit."""

    asked: float
    turn: float
    commit: float
    committed: float
    answered: float
    written_back: bool

    @property
    def wait(self) -> float:
        return self.answered - self.asked


class Watched(SqliteEngine):
    """Notes when the turn came and when the commit began and ended."""

    def watch(self) -> None:
        """From now on."""
        execute = self._session.execute

        def watched(statement: str, *values: Any) -> Any:
            if statement != "COMMIT":
                return execute(statement, *values)
            before = self.path.stat().st_mtime_ns
            self.commit = time.monotonic()
            done = execute(statement, *values)
            self.committed = time.monotonic()
            self.written_back = self.path.stat().st_mtime_ns != before
            return done

        self._session.execute = watched

    def _enter(self) -> None:
        super()._enter()
        self.turn = time.monotonic()


def write(path: str, number: int, seconds: float) -> None:
    """Consume without pause for a while, then tell what each decision waited for."""
    engine = Watched(Path(path), timeout_s=60)
    q = quotactl.Ledger(engine, clock=lambda: datetime.now(UTC), actor="writer")
    q.consume(user=f"u{number}", resource="image")
    engine.watch()
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    acts = []
    end = time.monotonic() + seconds
    while (asked := time.monotonic()) < end:
        q.consume(user=f"u{number}", resource="image")
        acts.append(
            Act(
                asked,
                engine.turn,
                engine.commit,
                engine.committed,
                time.monotonic(),
                engine.written_back,
            )
        )
    q.close()
    print(json.dumps(acts))  # noqa: T201


class NoQueue(Turnstile):
    """Lets everybody through, to wait as SQLite has them wait."""

    def enter(self, deadline: float) -> None:
        pass

    def enter_at_once(self) -> bool:
        return True

    def leave(self) -> None:
        pass


def waits_of(writers: int, seconds: float, durability: str, *, plain: bool) -> list[list[Act]]:
    """Run that many writers against one ledger: what each did."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "ledger.db")
        with quotactl.create(path) as q:
            q.admin.create_resource("image")
            q.admin.create_tier("free")
            q.admin.set_limit(tier="free", resource="image", limit="unlimited")
            q.admin.set_setting("durability", durability)
        command = [sys.executable, __file__, "--path", path, "--seconds", str(seconds)]
        command += ["--plain"] * plain
        processes = [
            subprocess.Popen(
                [*command, "--number", str(n)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for n in range(writers)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        told = [json.loads(process.communicate(timeout=seconds + 60)[0]) for process in processes]
        return [[Act(*act) for act in acts] for acts in told]


def figures_of(rounds: list[list[list[Act]]], seconds: float) -> dict[str, Any]:
    """What the waits of the writers in each round come to."""
    shares = [[len(one) for one in acts] for acts in rounds]
    every = sorted(act.wait for acts in rounds for one in acts for act in one)
    return {
        "per_second": round(len(every) / seconds / len(rounds)),
        "jain": round(min(sum(s) ** 2 / (len(s) * sum(n * n for n in s)) for s in shares), 4),
        "p50_ms": round(every[len(every) // 2] * 1000, 2),
        "p99_ms": round(every[len(every) * 99 // 100] * 1000, 2),
        "longest_ms": round(every[-1] * 1000, 2),
        "longest_made_of": max((made_of(acts) for acts in rounds), key=lambda of: of["ms"]),
    }


def made_of(writers: list[list[Act]]) -> dict[str, Any]:
    """What went on during the longest wait of a round."""
    acts = [act for one in writers for act in one]
    longest = max(acts, key=lambda act: act.wait)
    meanwhile = sorted(
        (a for a in acts if a.turn < longest.answered and a.committed > longest.asked),
        key=lambda act: act.turn,
    )
    commits = [
        min(a.committed, longest.answered) - max(a.commit, longest.asked)
        for a in meanwhile
        if a.committed > longest.asked and a.commit < longest.answered
    ]
    idle = sum(max(0.0, b.turn - a.committed) for a, b in pairwise(meanwhile))
    return {
        "ms": round(longest.wait * 1000, 2),
        "turns": len(meanwhile),
        "commits_ms": round(sum(commits) * 1000, 2),
        "slowest_commit_ms": round(max(commits) * 1000, 2),
        "written_back": sum(a.written_back for a in meanwhile),
        "nobodys_turn_ms": round(idle * 1000, 2),
    }


def measure(
    writers: int, seconds: float, durability: str, rounds: int, *, plain: bool
) -> dict[str, Any]:
    """Figures of the queue and, if wanted, of plain `busy_timeout` in turn with it."""
    queued, unqueued = [], []
    for _ in range(rounds):
        queued.append(waits_of(writers, seconds, durability, plain=False))
        if plain:
            unqueued.append(waits_of(writers, seconds, durability, plain=True))
    found: dict[str, Any] = {"writers": writers, **figures_of(queued, seconds)}
    if plain:
        found["plain"] = figures_of(unqueued, seconds)
        share = 100 * found["longest_ms"] / found["plain"]["longest_ms"]
        found["longest_percent_of_plain"] = round(share, 2)
    return found


def main() -> None:
    """Measure, or be one of the writers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--durability", default="full", choices=["full", "relaxed"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="compare with busy_timeout alone")
    parser.add_argument("--path", help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.path:
        with mock.patch.object(door, "Turnstile", NoQueue) if asked.plain else nullcontext():
            write(asked.path, asked.number, asked.seconds)
        return
    found = measure(asked.writers, asked.seconds, asked.durability, asked.rounds, plain=asked.plain)
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
