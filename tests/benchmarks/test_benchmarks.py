"""That the benchmarks still run and their ledgers are sound. No time is judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import quotactl

HERE = Path(__file__).parent
# Far beyond what any of these takes: it only turns a hang into a failure.
DEADLINE_S = 120


def run(script: str, *arguments: str) -> None:
    source = str(Path(quotactl.__file__).resolve().parent.parent)
    # A trace that somebody has named takes its time.
    env = {**os.environ, "PYTHONPATH": source}
    env.pop("QUOTACTL_TRACE", None)
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env=env,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_generated_ledger_agrees_with_itself(tmp_path: Path) -> None:
    path = tmp_path / "large.db"
    run("generator.py", str(path), "--users", "2000", "--entries", "10000")
    with quotactl.connect(path) as q:
        found = q.verify()
        assert found.ok, found.differences
        assert found.entries == 10_000
        decision = q.check(user="user-0002000", resource="image")
        assert decision.used > 0


def test_one_command_measures_and_writes_every_figure_down(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    run("run.py", "size", "replay", "--quick", "--runs", "1", "--json", str(file))
    figures = json.loads(file.read_text())["figures"]
    sizes = [figure for figure in figures if figure["point"] == "6 size"]
    assert all(figure["value"] and figure["target"] for figure in sizes)
    # Without a trace there is nothing to measure, and it says so.
    (replay,) = [figure for figure in figures if figure["point"] == "7 replay"]
    assert replay["value"] is None
    assert "skipped" in replay["note"]
