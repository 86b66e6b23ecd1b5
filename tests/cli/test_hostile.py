"""Hostile input at every border, a short pass: no traceback, no escape, nothing half done.

The long one is `python tests/campaigns/fuzz.py --seed 1 --examples 2000`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "campaigns"))
from fuzz import HARMFUL, NOW, SETUP, Bench, fuzz

SHORT = {"words": 150, "rendering": 60, "commands": 30, "batch": 15, "policy": 15, "users": 15,
         "trace": 6, "config": 8, "restore": 8}  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    for name, value in {"NO_COLOR": "1", "COLUMNS": "80", "QUOTACTL_CONFIG": os.devnull}.items():
        monkeypatch.setenv(name, value)
    # The bench names a ledger for each example.
    monkeypatch.setenv("QUOTACTL_DB", "")
    monkeypatch.delenv("SUDO_USER", raising=False)
    return Bench(tmp_path)


@pytest.mark.parametrize("target", SHORT)
def test_hostile_input_is_refused_in_one_line_or_shown_harmless(target: str, bench: Bench) -> None:
    fuzz(bench, target, examples=SHORT[target])


def test_the_fuzzer_starts_from_a_ledger_with_something_of_everything(bench: Bench) -> None:
    assert len(SETUP) == bench.codes.total()
    with bench.ledger() as watch:
        assert len(watch.taken()) > 20
        assert not watch.changed()
        bench.run(["consume", "bob", "image"])
        assert watch.changed()


@pytest.mark.parametrize("text", ["\x1b", "\x9b", "\u202e", "\u2067", "\u200f", "\ud800", "\r"])
def test_the_fuzzer_knows_what_a_terminal_would_obey(text: str) -> None:
    assert HARMFUL.search(f"ada{text}bob")


def test_the_fuzzers_clock_is_that_of_the_other_tests(cli: Any) -> None:
    assert cli.now == NOW


# What the fuzzer found.
FOUND: list[tuple[list[str], int, str]] = [
    (["policy", "diff", "-f", "a\0b"], 2, "embedded null byte"),
    (["policy", "diff", "-f", "x" * 300], 2, "File name too long"),
    (["replay", "a\0b", "-f", "policy.toml"], 2, "embedded null byte"),
    (["policy", "diff", "-f", "digits.toml"], 2, "has a number in it that is too long"),
    (["policy", "diff", "-f", "hex.toml"], 2, "zone a number of thousands of digits is not a name"),
    (["resource", "delete", "\ud800", "--yes"], 2, r"'\ud800' is half a character"),
    (["db", "restore", "header.backup", "--yes", "--reason", "x"], 78, "is damaged: unsupported"),
    (["report", "top", "--day", "0001-01-01"], 2, "day '0001-01-01' is out of range"),
    (["report", "usage", "--to", "9999-12-31"], 2, "day '9999-12-31' is out of range"),
]


@pytest.mark.parametrize(("argv", "code", "message"), FOUND)
def test_what_the_fuzzer_found_stays_mended(
    argv: list[str], code: int, message: str, cli: Any, tmp_path: Path
) -> None:
    (tmp_path / "digits.toml").write_text("zone = " + "9" * 5000)
    (tmp_path / "hex.toml").write_text("zone = 0x" + "f" * 5000)
    if argv[:2] == ["db", "restore"]:
        cli("", "db", "backup", "header.backup")
        header = bytearray((tmp_path / "header.backup").read_bytes())
        header[47] = 5  # the schema's format, of which there are four
        (tmp_path / "header.backup").write_bytes(header)
    before = cli.dump()
    ran = cli("", *argv)
    assert message in ran.err
    assert (ran.code, ran.out, ran.err.count("\n")) == (code, "", 1)
    assert cli.dump() == before


MEGABYTE = "x" * 1_000_000


@pytest.mark.parametrize(
    "words",
    ["consume --batch long.jsonl", "user import long.csv", "policy apply -f long.toml --yes"],
)
def test_a_line_of_a_megabyte_is_refused_in_a_short_one(
    words: str, cli: Any, tmp_path: Path
) -> None:
    policy = (tmp_path / "policy.toml").read_text()
    (tmp_path / "long.jsonl").write_text(f'{{"user": "{MEGABYTE}", "resource": "image"}}\n')
    (tmp_path / "long.csv").write_text(f"user,tier\n{MEGABYTE},free\n")
    (tmp_path / "long.toml").write_text(policy.replace("3/day", MEGABYTE))
    before = cli.dump()
    ran = cli(words)
    assert ran.code == 2
    assert len(ran.out) + len(ran.err) < 1000
    assert cli.dump() == before


LET_IN = ("'; DROP TABLE user; --", "[red]ada[/red]", "[/]", "=cmd|' /C calc'!A0", "@SUM(A1)",
          "a,b", '"', "%s{0}", "e\u0301", "🦊")  # fmt: skip


def test_what_is_let_in_comes_out_as_it_went_in_and_harmless(cli: Any) -> None:
    for user in LET_IN:
        assert cli("", "consume", user, "image").code == 0
    told = json.loads(cli("", "report", "usage", "--by", "user", "-o", "json").out)
    assert {row["user"] for row in told} == set(LET_IN)
    listed = cli("", "report", "usage", "--by", "user", "-o", "csv").out
    cells = [row[0] for row in csv.reader(io.StringIO(listed, newline=""), strict=True)][1:]
    assert not [cell for cell in cells if cell.startswith(("=", "@", "+", "-"))]
    assert {cell.removeprefix("'") for cell in cells} == {u.removeprefix("'") for u in LET_IN}
    drawn = cli("", "report", "usage", "--by", "user", "-o", "table").out
    assert "[red]ada[/red]" in drawn
    assert cli("", "db", "verify").code == 0
