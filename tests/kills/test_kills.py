"""A short pass of `steps.py`, which kills at each step. The long one is the same without
`--every`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import quotactl
from quotactl.cli import main

SOURCE = str(Path(quotactl.__file__).resolve().parent.parent)
# Far beyond what it takes: it only turns a hang into a failure.
DEADLINE_S = 120


def figures(*arguments: str) -> dict[str, dict[str, Any]]:
    """Run it in a process of its own, which forks; its figures by act."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("steps.py")), *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, "PYTHONPATH": SOURCE, "QUOTACTL_CONFIG": os.devnull},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {line["act"]: line for line in map(json.loads, done.stdout.splitlines())}


def test_an_init_killed_anywhere_leaves_nothing_or_a_whole_ledger_and_one_of_several_wins() -> None:
    found = figures("init", "race", "--every", "100")
    assert 0 < found["init"]["made"] < found["init"]["steps"]


def test_where_there_are_no_links_one_of_several_wins_all_the_same() -> None:
    assert figures("race", "--every", "100", "--no-links")["race"]["rounds"] == 1


def test_a_restore_killed_anywhere_in_the_swap_leaves_the_old_ledger_or_the_new_one() -> None:
    found = figures("restore", "damaged", "--every", "100000", "--last", "17")
    for act in found.values():
        assert act["restored"] > 0
        assert act["put_back"] == 3


def test_a_migration_killed_anywhere_leaves_the_old_ledger_or_the_new_and_no_half_backup() -> None:
    found = figures("migrate", "--every", "60")["migrate"]
    assert 0 < found["migrated"] < found["steps"]


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_what_is_left_of_another_ledger_is_not_taken_for_a_part_of_a_new_one(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prod.db"
    left = tmp_path / f"prod.db{suffix}"
    left.write_bytes(b"precious")
    assert main(["init", str(path)]) == 7
    assert f"{left} is there already" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == [left.name]
    left.unlink()
    assert main(["init", str(path)]) == 0
