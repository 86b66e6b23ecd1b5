"""A short pass of `damage.py`. The long one is the same with more rounds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import quotactl

# Far beyond what it takes: it only turns a hang into a failure.
DEADLINE_S = 300


def test_no_flipped_bit_makes_an_answer_wrong_in_silence() -> None:
    source = str(Path(quotactl.__file__).resolve().parent.parent)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("damage.py")), "--rounds", "60"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, "PYTHONPATH": source, "QUOTACTL_CONFIG": os.devnull},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {line.split()[0]: int(line.split()[1]) for line in done.stdout.splitlines()[:6]}
    assert sum(counts.values()) == 60
    assert counts["silent"] == 0
    assert counts["detected"] > 0
