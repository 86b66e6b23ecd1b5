"""The demo: what somebody sees first."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

import quotactl
from quotactl.cli import main


@pytest.fixture
def shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, str]:
    path = tmp_path / "demo.db"
    assert main(["demo", str(path)]) == 0
    return path, capsys.readouterr().out


def test_the_demo_says_where_its_ledger_is_and_it_verifies(shown: tuple[Path, str]) -> None:
    path, text = shown
    assert text.rstrip().endswith(f"The ledger is {path}")
    with quotactl.connect(path) as ledger:
        assert ledger.verify().ok


def test_every_command_that_the_demo_names_shows_again_what_it_showed(
    shown: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    steps = re.findall(r"^\$ \S+ (.*)\n((?:(?!\$ |\n).*\n)*)", shown[1], flags=re.MULTILINE)
    assert len(steps) >= 8
    assert sum(bool(printed) for _, printed in steps) >= 5
    for command, printed in steps:
        assert main(shlex.split(command)) in {0, 3}, command
        if printed:
            assert capsys.readouterr().out == printed, command


def test_the_throttle_lowered_what_free_users_got(
    shown: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = shown
    report = ["--db", str(path), "report", "usage", "--by", "hour", "--tier", "free", "--json"]
    assert main([*report, "--day", "2025-03-27"]) == 0
    hours = json.loads(capsys.readouterr().out)
    share = {
        row["hour"][11:13]: row["used"] / (row["used"] + row["granted"] + row["denied"])
        for row in hours
    }
    assert max(share[f"{h}"] for h in range(15, 20)) < min(share[h] for h in ("11", "13"))


def test_the_demo_is_the_same_every_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.db"
        assert main(["demo", str(path)]) == 0
        texts.append(capsys.readouterr().out.replace(str(path), "PATH"))
    assert "gpu-melt" in texts[0]
    assert texts[0] == texts[1]
