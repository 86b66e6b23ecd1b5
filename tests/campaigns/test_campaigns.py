"""A short pass of each campaign. The long ones are the same scripts with larger numbers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import quotactl

HERE = Path(__file__).parent
# Far beyond what any of these takes: it only turns a hang into a failure.
DEADLINE_S = 120


def figures(script: str, *arguments: str) -> list[dict[str, Any]]:
    """Run a campaign in a process of its own, which forks; its lines of figures."""
    source = str(Path(quotactl.__file__).resolve().parent.parent)
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, "PYTHONPATH": source},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_processes_doing_everything_at_once_leave_what_each_was_told() -> None:
    found = figures("concurrency.py", "--rounds", "40", "--processes", "1,2,8")
    assert [one["processes"] for one in found] == [1, 2, 8]
    assert all(one["allowed"] and one["denied"] and one["corrections"] for one in found)


def test_kills_at_random_moments_lose_nothing_acknowledged_and_take_nothing_twice() -> None:
    (found,) = figures("crash.py", "--rounds", "8")
    assert found["acknowledged"] > 0
    assert found["kills"] >= 8
    assert found["acts"] + found["killed_in_an_act"] > 0
    assert found["closed_days"] > 0


def test_a_wal_cut_anywhere_opens_to_the_commits_before_the_cut() -> None:
    (found,) = figures("wal.py", "--rounds", "5", "--commits", "8")
    assert found["boundaries"] > 8


@pytest.mark.skipif(shutil.which("cc") is None, reason="the recorder needs a C compiler")
@pytest.mark.parametrize("durability", ["full", "relaxed"])
def test_a_power_cut_leaves_a_prefix_of_history_and_in_full_all_that_was_acknowledged(
    durability: str,
) -> None:
    (found,) = figures(
        "power.py", "--rounds", "8", "--images", "4", "--writes", "40", "--durability", durability
    )  # fmt: skip
    assert found["images"] == 8
    assert found["acknowledged"] == 240
    if durability == "full":
        assert found["lost"] == 0
