"""A short pass of `damage.py`. The long one is the same with more rounds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import quotactl

# Far beyond what it takes: it only turns a hang into a failure.
DEADLINE_S = 300


def counts(*arguments: str) -> dict[str, int]:
    """Run the campaign in a process of its own; rounds by what came of them."""
    source = str(Path(quotactl.__file__).resolve().parent.parent)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("damage.py")), *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, "PYTHONPATH": source, "QUOTACTL_CONFIG": os.devnull},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {line.split()[0]: int(line.split()[1]) for line in done.stdout.splitlines()[:7]}


def test_no_flipped_bit_makes_an_answer_wrong_in_silence() -> None:
    found = counts("--rounds", "60")
    assert sum(found.values()) == 60
    assert found["silent"] == found["unexpected"] == 0
    assert found["detected"] > 0


def test_no_nasty_value_makes_an_answer_wrong_in_silence_or_a_command_fail_unexpectedly() -> None:
    found = counts("--cells", "1", "--rounds", "10", "--commands", "4")
    assert sum(found.values()) == 10
    assert found["silent"] == found["unexpected"] == 0
    assert found["detected"] > 0
