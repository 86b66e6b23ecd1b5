"""reset daily, status, user and install."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quotactl.cli import schedule


def test_daily_closes_what_is_over_and_twice_is_once(cli: Any) -> None:
    cli.ok("consume ada image 2")
    assert cli("reset daily").err.startswith("no day to close; audit hash ")
    cli.later(days=4)
    ran = cli.ok("reset daily")
    assert ran.out.splitlines() == [
        "day\tusers\trequests\tused\tgranted\tdenied\tshadow_denied",
        "2025-03-27\t1\t1\t2\t0\t0\t0",
        "2025-03-28\t0\t0\t0\t0\t0\t0",
        "2025-03-29\t0\t0\t0\t0\t0\t0",
        "2025-03-30\t0\t0\t0\t0\t0\t0",
    ]
    assert ran.err.startswith("4 days closed; audit hash ")
    assert cli.json("audit verify")["hash"] in ran.err
    before = cli.dump()
    assert cli.json("reset daily")["closed"] == []
    assert cli.dump() == before
    assert cli.ok("db verify").code == 0


def test_daily_says_what_timed_out(cli: Any) -> None:
    cli.ok("reserve ada image 2")
    cli.later(days=1)
    assert "1 day closed, timed-out reservations freed: 1; " in cli("reset daily").err


def test_daily_in_cron_is_silent_when_fine_and_not_when_it_fails(cli: Any) -> None:
    cli.later(days=2)
    assert cli("reset daily -q") == cli("reset daily -q").__class__(0, "", "")
    assert cli.json("reset status")["last_closed"] == "2025-03-28"
    cli.later(days=-10)
    cli.ok("reset daily -q")
    failed = cli("reset daily -q --db gone.db")
    assert (failed.code, failed.err.count("\n")) == (6, 1)


def test_status_says_what_is_due(cli: Any) -> None:
    assert cli.json("reset status") == {
        "last_closed": None, "next_day": "2025-03-27", "due": [],
    }  # fmt: skip
    cli.later(days=2)
    assert cli.json("reset status")["due"] == ["2025-03-27", "2025-03-28"]
    cli.ok("reset daily")
    assert cli.json("reset status") == {
        "last_closed": "2025-03-28", "next_day": "2025-03-29", "due": [],
    }  # fmt: skip


def test_one_user_gets_a_fresh_window_and_the_books_still_add_up(cli: Any) -> None:
    cli.ok("consume ada image 3")
    cli.ok("consume bob image 3")
    ran = cli.ok("reset user ada image --reason 'failed jobs' --ticket T-4")
    assert ran.err == "ada starts afresh: 3 image taken off\n"
    assert cli.json("consume ada image")["used"] == 1
    assert cli("consume bob image").code == 3
    assert cli.ok("db verify").code == 0
    (act,) = cli.json("audit list --action reset.user")
    assert (act["user"], act["reason"], act["ticket"]) == ("ada", "failed jobs", "T-4")


def test_the_crontab_line_runs_as_a_shell_reads_it(cli: Any) -> None:
    cli.ok("consume ada image")
    text = cli.ok("reset install --cron").out
    *comments, line = text.splitlines()
    assert all(comment.startswith("#") for comment in comments)
    schedule_part, command = line.split(" * * * * ", 1)
    assert schedule_part == "17"
    words = shlex.split(command)
    assert Path(words[0]).is_absolute()
    assert words[-5:] == ["--db", str(cli.path), "reset", "daily", "-q"]
    done = subprocess.run(command, shell=True, capture_output=True, cwd="/", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    closed = cli.json("reset status")["last_closed"]
    assert closed is not None  # by the machine's clock, long after this ledger's


@pytest.mark.parametrize("name", ["my ledger.db", "50%.db", "it's.db", "a$HOME.db", 'q"x\\y.db'])
def test_paths_are_quoted_for_cron_and_for_systemd(name: str) -> None:
    path = Path("/srv") / name
    line = schedule.cron(path, "prod").splitlines()[-1]
    # cron takes `\%` for a percent sign and hands the rest to the shell.
    assert "%" not in line.replace("\\%", "")
    command = line.split(" * * * * ", 1)[1].replace("\\%", "%")
    assert str(path) in shlex.split(command)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("prod.db", "/x/prod.db"),
        ("my ledger.db", '"/x/my ledger.db"'),
        ("50%.db", '"/x/50%%.db"'),
        ('q"x\\y.db', '"/x/q\\"x\\\\y.db"'),
        ("a$HOME.db", '"/x/a$HOME.db"'),
    ],
)
def test_systemd_words_are_escaped(name: str, word: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    text = schedule.systemd(tmp_path / name, "prod")
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    assert word.replace("/x", str(tmp_path)) in line
    # `:` keeps systemd from putting variables in; older ones don't know it.
    assert line.startswith("ExecStart=:") == ("$" in name)


def test_the_systemd_units_are_whole(cli: Any) -> None:
    import configparser

    text = cli.ok("reset install --systemd").out
    service, timer = text.split("# /etc/systemd/system/quotactl-reset.timer\n")
    units = []
    for part in (service, timer):
        unit = configparser.ConfigParser(interpolation=None)
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read_string(part)
        units.append(unit)
    assert units[0]["Service"]["Type"] == "oneshot"
    assert units[0]["Service"]["ExecStart"].endswith(f"--db {cli.path} reset daily -q")
    assert units[1]["Timer"]["Persistent"] == "true"
    assert units[1]["Timer"]["OnCalendar"] == "*-*-* *:17:00"
    assert units[1]["Install"]["WantedBy"] == "timers.target"


def test_without_a_console_script_the_module_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    assert schedule.command(Path("/srv/q.db"))[:3] == [
        str(tmp_path / "python3"),
        "-m",
        "quotactl",
    ]


def test_a_schedule_for_a_ledger_that_is_not_there_is_refused(cli: Any) -> None:
    ran = cli("reset install --cron --db gone.db")
    assert (ran.code, ran.out) == (6, "")


def test_a_path_with_a_line_break_can_not_be_scheduled(cli: Any, tmp_path: Path) -> None:
    cli.ok("init", "two\nlines.db")
    for kind in ("--cron", "--systemd"):
        ran = cli("reset install", kind, "--db", "two\nlines.db")
        assert (ran.code, ran.out) == (2, "")
