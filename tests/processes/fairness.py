"""How evenly, and how long, writers wait: a measurement, not a test.

    python tests/processes/fairness.py [--writers 8] [--seconds 2] [--durability full]

Prints decisions per second, Jain's index of the writers' shares (1 is perfectly
even, 1/writers is one who got everything) and the longest wait of any.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import quotactl


def write(path: str, number: int, seconds: float) -> None:
    """Consume without pause for a while, then tell the wait of each decision."""
    with quotactl.connect(path, timeout_s=60) as q:
        q.consume(user=f"u{number}", resource="image")
        print("ready", flush=True)  # noqa: T201
        sys.stdin.readline()
        waits = []
        end = time.perf_counter() + seconds
        while (before := time.perf_counter()) < end:
            q.consume(user=f"u{number}", resource="image")
            waits.append(time.perf_counter() - before)
    print(json.dumps(waits))  # noqa: T201


def measure(writers: int, seconds: float, durability: str) -> dict[str, float]:
    """Run that many writers against one ledger."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "ledger.db")
        with quotactl.create(path) as q:
            q.admin.create_resource("image")
            q.admin.create_tier("free")
            q.admin.set_limit(tier="free", resource="image", limit="unlimited")
            q.admin.set_setting("durability", durability)
        command = [sys.executable, __file__, "--path", path, "--seconds", str(seconds)]
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
        waits = [json.loads(process.communicate(timeout=seconds + 60)[0]) for process in processes]
    shares = [len(one) for one in waits]
    every = sorted(wait for one in waits for wait in one)
    return {
        "writers": writers,
        "per_second": round(sum(shares) / seconds),
        "jain": round(sum(shares) ** 2 / (writers * sum(n * n for n in shares)), 4),
        "p50_ms": round(every[len(every) // 2] * 1000, 2),
        "p99_ms": round(every[len(every) * 99 // 100] * 1000, 2),
        "longest_ms": round(every[-1] * 1000, 2),
    }


def main() -> None:
    """Measure, or be one of the writers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--durability", default="full", choices=["full", "relaxed"])
    parser.add_argument("--path", help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.path:
        write(asked.path, asked.number, asked.seconds)
    else:
        print(json.dumps(measure(asked.writers, asked.seconds, asked.durability)))  # noqa: T201


if __name__ == "__main__":
    main()
