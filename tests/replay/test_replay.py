"""What a policy would have done to recorded traffic, against a count made apart from it."""

from __future__ import annotations

import csv
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import quotactl
from quotactl.cli import main

FREE_3 = """\
zone = "UTC"
default_tier = "free"
[resource.image]
[tier.free.limits]
image = "3/day"
"""


def replayed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["replay", *arguments, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def counted(trace: Path, *, amount: str, status: str, limit: int) -> Counter[str]:
    """The same sums in a few lines that share nothing with quotactl: calendar days are UTC."""
    used: Counter[tuple[str, str]] = Counter()
    sums: Counter[str] = Counter()
    with trace.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            sums["requests"] += 1
            if not row[amount]:
                sums["skipped"] += 1
                continue
            key, units = (row["user"], row["at"][:10]), int(row[amount])
            sums["asked"] += units
            if used[key] + units > limit:
                sums["denied"] += 1
                sums["units denied"] += units
                continue
            sums["allowed"] += 1
            sums["units allowed"] += units
            if row[status] == "failed":
                sums["refunded"] += units
            else:
                used[key] += units
    return sums


def assert_same(result: dict[str, Any], sums: Counter[str]) -> None:
    assert result["requests"] == sums["requests"]
    assert result["allowed"] == sums["allowed"]
    assert result["denied"] == sums["denied"]
    assert result["skipped"] == sums["skipped"]
    assert result["units"] == {
        "asked": sums["asked"],
        "allowed": sums["units allowed"],
        "denied": sums["units denied"],
        "refunded": sums["refunded"],
    }


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "free3.toml"
    path.write_text(FREE_3)
    return str(path)


def write_trace(path: Path, rows: int, seed: int) -> None:
    """Traffic of several days, not in order, with gaps and failures in it."""
    chance = random.Random(seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["at", "user", "images", "status"])
        for _ in range(rows):
            day, hour, minute = chance.randint(1, 6), chance.randrange(24), chance.randrange(60)
            writer.writerow(
                [
                    f"2025-03-{day:02d}T{hour:02d}:{minute:02d}:07Z",
                    f"u{int(chance.paretovariate(0.8)) % 300}",
                    chance.choice(["", "1", "1", "2", "3", "8"]),
                    chance.choice(["succeed", "succeed", "failed"]),
                ]
            )


@pytest.mark.parametrize("seed", [1, 2])
def test_a_replay_gives_what_a_count_made_apart_gives(
    tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    trace = tmp_path / "trace.csv"
    write_trace(trace, 5000, seed)
    result = replayed(
        capsys, str(trace), "--policy", policy, "--amount", "images", "--failed", "failed"
    )
    sums = counted(trace, amount="images", status="status", limit=3)
    assert sums["refunded"] > 0
    assert sums["skipped"] > 0
    assert_same(result, sums)
    assert sum(day["requests"] for day in result["by_day"]) == sums["requests"] - sums["skipped"]
    assert sum(result["by_reason"].values()) == sums["allowed"] + sums["denied"]


@pytest.mark.skipif("QUOTACTL_TRACE" not in os.environ, reason="QUOTACTL_TRACE names no trace")
def test_a_replay_of_real_traffic_gives_what_a_count_made_apart_gives(
    policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = Path(os.environ["QUOTACTL_TRACE"])
    result = replayed(
        capsys, str(trace), "--policy", policy, "--amount", "images", "--failed", "failed"
    )
    assert_same(result, counted(trace, amount="images", status="status", limit=3))


def test_rows_that_cannot_be_read_are_listed_with_line_and_reason(
    tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(
        "at,user,amount\n"
        "2025-03-01T10:00:00Z,ada,1\n"
        "yesterday,ada,1\n"
        '2025-03-01T10:00:01Z,"two\nlines",1\n'
        "2025-03-01T10:00:02Z,ada,1.5\n"
        "2025-03-01T10:00:03Z,ada\n"
        "2025-03-01T10:00:04Z,ada,0\n"
        "9999-12-31T10:00:04Z,ada,1\n"
        "2025-03-01T10:00:05Z,ada,2\n"
    )
    result = replayed(capsys, str(trace), "--policy", policy)
    assert (result["requests"], result["allowed"], result["skipped"]) == (8, 2, 6)
    assert [row["line"] for row in result["skipped_rows"]] == [3, 4, 6, 7, 8, 9]
    whys = [row["why"] for row in result["skipped_rows"]]
    assert "'yesterday'" in whys[0]
    assert "control character" in whys[1]
    assert "'1.5'" in whys[2]
    assert "2 fields instead of 3" in whys[3]


def test_an_unknown_resource_in_a_row_skips_that_row(
    tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(
        "at,user,what\n2025-03-01T10:00:00Z,ada,image\n2025-03-01T10:00:01Z,ada,video\n"
    )
    result = replayed(capsys, str(trace), "--policy", policy, "--resource-column", "what")
    assert (result["allowed"], result["skipped"]) == (1, 1)
    assert "video" in result["skipped_rows"][0]["why"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--user", "account"], "no column 'account'"),
        (["--at", "when"], "no column 'when'"),
        (["--amount", "images"], "no column 'images'"),
        (["--failed", "x", "--status", "state"], "no column 'state'"),
        (["--resource-column", "kind"], "no column 'kind'"),
    ],
)
def test_a_trace_without_the_named_column_is_refused(
    tmp_path: Path,
    policy: str,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("at,user\n2025-03-01T10:00:00Z,ada\n")
    assert main(["replay", str(trace), "--policy", policy, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_kept_ledger_serves_reports_and_verifies(
    tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, kept = tmp_path / "trace.csv", tmp_path / "kept.db"
    write_trace(trace, 3000, 3)
    result = replayed(
        capsys,
        *(str(trace), "--policy", policy, "--amount", "images"),
        *("--failed", "failed", "--keep", str(kept)),
    )
    with quotactl.connect(kept) as ledger:
        assert ledger.verify().ok
    arguments = ["--db", str(kept), "report", "usage", "--by", "day", "--json"]
    assert main([*arguments, "--from", "2025-03-01", "--to", "2025-03-06"]) == 0
    rows = json.loads(capsys.readouterr().out)
    for day, row in zip(result["by_day"], rows, strict=True):
        assert row["day"] == day["day"]
        assert row["used"] == day["units"]["allowed"] - day["units"]["refunded"]
        assert row["denied"] == day["units"]["denied"]
        assert row["requests"] == day["requests"]


def test_a_scratch_ledger_is_gone_afterwards(
    tmp_path: Path,
    policy: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    trace = tmp_path / "trace.csv"
    write_trace(trace, 50, 4)
    replayed(capsys, str(trace), "--policy", policy, "--amount", "images")
    assert list(scratch.iterdir()) == []


def test_an_existing_file_is_never_overwritten(
    tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, kept = tmp_path / "trace.csv", tmp_path / "kept.db"
    write_trace(trace, 5, 5)
    kept.write_text("mine")
    arguments = ["replay", str(trace), "--policy", policy, "--amount", "images"]
    assert main([*arguments, "--keep", str(kept)]) == 7
    assert kept.read_text() == "mine"
    assert "exists already" in capsys.readouterr().err


def test_what_a_spreadsheet_puts_before_the_header_is_no_part_of_it(
    tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("\ufeffat,user\n2025-03-01T10:00:00Z,ada\n", encoding="utf-8")
    assert replayed(capsys, str(trace), "--policy", policy)["allowed"] == 1


def test_a_line_that_is_not_utf8_is_skipped_and_the_rest_goes_on(
    tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_bytes(
        b"at,user\n2025-03-01T10:00:00Z,ada\n2025-03-01T10:00:01Z,caf\xe9\n"
        b"2025-03-01T10:00:02Z,ada\n"
    )
    result = replayed(capsys, str(trace), "--policy", policy)
    assert (result["allowed"], result["skipped"]) == (2, 1)
    assert result["skipped_rows"][0]["line"] == 3


@pytest.mark.parametrize(("rows", "count"), [("", 0), ("x,ada\ny,bob\n", 2)])
def test_a_trace_of_which_nothing_can_be_read_is_counted_all_the_same(
    tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str], rows: str, count: int
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("at,user\n" + rows)
    result = replayed(capsys, str(trace), "--policy", policy)
    assert (result["requests"], result["skipped"]) == (count, count)
    assert result["by_day"] == []


def test_a_kept_ledger_is_whole_or_not_there(
    tmp_path: Path, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quotactl.operations.batch import Batch

    def broken_off(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Batch, "consume", broken_off)
    trace, kept = tmp_path / "trace.csv", tmp_path / "kept.db"
    write_trace(trace, 5, 6)
    arguments = ["replay", str(trace), "--policy", policy, "--amount", "images"]
    assert main([*arguments, "--keep", str(kept)]) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["free3.toml", "trace.csv"]
