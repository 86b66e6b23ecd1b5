"""How soon a throttle is obeyed in another process: a measurement, not a test.

    python tests/processes/flip.py [--rounds 50]

One process decides without pause, another puts a throttle on; printed are the times from
the call, and from its return, to the end of the first decision that obeys. That no
decision that began after the return disobeys is a test: tests/processes/test_processes.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import quotactl


def decide(path: str) -> None:
    """Decide until told to stop; at each change of the answer tell when it began and ended."""
    allowed = True
    with quotactl.connect(path) as q:
        print("ready", flush=True)  # noqa: T201
        while True:
            began = time.monotonic()
            decision = q.check(user="ada", resource="image")
            ended = time.monotonic()
            if decision.allowed != allowed:
                allowed = decision.allowed
                print(json.dumps([began, ended]), flush=True)  # noqa: T201


def measure(rounds: int) -> dict[str, float]:
    """Flip so many times."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "ledger.db")
        with quotactl.create(path) as q:
            q.admin.create_resource("image")
            q.admin.create_tier("free")
            q.admin.set_limit(tier="free", resource="image", limit="unlimited")
            command = [sys.executable, __file__, "--path", path]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                from_call, from_return = [], []
                for _ in range(rounds):
                    called = time.monotonic()
                    on = q.admin.throttle_on(deny=True, resources=["image"], reason="measured")
                    returned = time.monotonic()
                    _, ended = json.loads(process.stdout.readline())
                    from_call.append(ended - called)
                    from_return.append(max(0.0, ended - returned))
                    q.admin.throttle_off(on.item["id"], reason="measured")
                    process.stdout.readline()
                process.kill()
    return {
        "from_call_ms_median": round(1000 * statistics.median(from_call), 2),
        "from_call_ms_max": round(1000 * max(from_call), 2),
        "from_return_ms_median": round(1000 * statistics.median(from_return), 2),
        "from_return_ms_max": round(1000 * max(from_return), 2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--path")
    given = parser.parse_args()
    if given.path:
        decide(given.path)
    else:
        print(json.dumps(measure(given.rounds)))  # noqa: T201
