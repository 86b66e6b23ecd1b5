"""The host's commands: what they are told, when, and that they change nothing about it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import quotactl
from quotactl.errors import BadConfiguration, LedgerBusy
from quotactl.ledger.engine import Engine
from quotactl.operations import notify
from quotactl.operations.acts import Acts
from quotactl.operations.admin import Admin
from quotactl.operations.hooks import Command, Run, run_all
from quotactl.operations.rehearsal import Rehearsal

ON = "throttle on --name melt --resource image --cap 1/day --reason 'GPUs melt' --ticket INC-1"
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


class Host:
    """A configuration file, and commands that leave what they were told in `log`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.toml"
        self.log = folder / "log"

    def program(self, text: str, name: str = "tell") -> str:
        """Write a program: a shell's lines, or what begins with its own `#!`."""
        path = self.folder / name
        path.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    def python(self, text: str, name: str = "tell") -> str:
        return self.program(f"#!{sys.executable}\n{text}\n", name)

    def recorder(self, name: str = "tell") -> str:
        return self.program(f"cat >> {self.log}", name)

    def notify(self, *command: str, **keys: Any) -> None:
        """Add one table to the file."""
        with self.config.open("a") as file:
            file.write("[[notify]]\n")
            for key, value in {"command": list(command), **keys}.items():
                file.write(f"{key} = {json.dumps(value)}\n")
        self.config.chmod(0o644)

    @property
    def told(self) -> list[dict[str, Any]]:
        if not self.log.exists():
            return []
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    @property
    def actions(self) -> list[str]:
        return [event["data"]["action"] for event in self.told]

    @contextmanager
    def lives(self) -> Iterator[Path]:
        """A pipe for a program to hold open; at the end all that held it must be dead."""
        pipe = self.folder / "alive"
        os.mkfifo(pipe)
        reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            yield pipe
            os.set_blocking(reading, True)
            # A held pipe would keep this waiting for as long as the program sleeps.
            began = time.monotonic()
            assert os.read(reading, 100).startswith(b"up"), "it never ran"
            while os.read(reading, 100):
                pass
            assert time.monotonic() - began < 10
        finally:
            os.close(reading)


def wait_for(path: Path) -> None:
    """Return when a program has made a file, which it must within half a minute."""
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.01)


@pytest.fixture
def host(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    folder = tmp_path / "host"
    folder.mkdir()
    host = Host(folder)
    monkeypatch.setenv("QUOTACTL_CONFIG", str(host.config))
    return host


@pytest.fixture
def failed(cli: Any) -> Any:
    """The audit's rows of notifications that failed."""
    return lambda: cli.json("audit list --action notify.failed")


# ---- what is told


def test_a_throttle_is_told_as_a_whole_cloud_event(cli: Any, host: Host) -> None:
    host.notify(host.recorder())
    ran = cli.ok(f"{ON} --as eve")
    assert "warning" not in ran.err
    (event,) = host.told
    act = cli.json("audit list --action throttle.on")[0]
    data = event.pop("data")
    assert event == {
        "specversion": "1.0",
        "id": f"{act['id']}-{act['hash'][:16]}",
        "source": "quotactl/prod",
        "type": "quotactl.throttle.on",
        "subject": "throttle 1",
        "time": "2025-03-27T09:00:00Z",
        "datacontenttype": "application/json",
    }
    assert data == {
        "ledger": "prod",
        "actor": "eve",
        "action": "throttle.on",
        "subject": "throttle 1",
        "before": None,
        "after": act["after"],
        "reason": "GPUs melt",
        "ticket": "INC-1",
        "audit_id": act["id"],
    }
    assert data["after"]["name"] == "melt"


def test_every_change_is_told_in_order_and_no_other_act(cli: Any, host: Host) -> None:
    host.notify(host.recorder())
    cli.ok(ON)
    cli.ok("throttle extend melt --for 2h --reason more")
    cli.ok("throttle off melt --reason over")
    cli.ok("enforcement shadow --reason try")
    cli.ok("enforcement on --reason tried")
    cli.ok("grant add ada image=5 --reason sorry")
    cli.ok("limit set free image=5/day")
    cli.ok("consume ada image")
    assert host.actions == [
        "throttle.on", "throttle.extend", "throttle.off", "enforcement.shadow", "enforcement.on",
    ]  # fmt: skip
    assert len({event["id"] for event in host.told}) == 5
    lifted = host.told[-1]
    assert "subject" not in lifted, "one that is unset may not be null or empty for all readers"
    assert lifted["data"]["subject"] is None
    assert lifted["data"]["before"]["switches"][0]["kind"] == "shadow"


def test_a_command_hears_only_of_what_it_named(cli: Any, host: Host) -> None:
    host.notify(host.recorder(), on=["throttle.off", "enforcement"])
    cli.ok(ON)
    cli.ok("throttle off melt --reason over")
    cli.ok("enforcement off --reason wrong")
    assert host.actions == ["throttle.off", "enforcement.off"]


def test_a_ledgers_name_makes_a_valid_source(empty: Any, host: Host) -> None:
    host.notify(host.recorder())
    empty.ok("init other.db", "--name", "a b/ü:1")
    empty.ok("resource create image --db other.db")
    empty.ok(f"{ON} --db other.db")
    (event,) = host.told
    assert event["source"] == "quotactl/a%20b%2F%C3%BC%3A1"
    assert event["data"]["ledger"] == "a b/ü:1"


class Presets(Acts):
    """An act that makes several rows, as applying a preset does."""

    def apply(self) -> str:
        with self._act(reason="drill") as act:
            for number in (1, 2, 3):
                act.record("preset.apply", subject=f"preset p{number}")
            return "applied"


@pytest.fixture
def q(cli: Any, host: Host) -> Iterator[quotactl.Ledger]:
    with quotactl.connect(cli.path, clock=lambda: cli.now, actor="api") as ledger:
        yield ledger


def test_an_act_of_several_rows_is_told_row_by_row(q: quotactl.Ledger, host: Host) -> None:
    host.notify(host.recorder())
    assert Presets(q.engine, q.clock, "api").apply() == "applied"
    assert [event["subject"] for event in host.told] == ["preset p1", "preset p2", "preset p3"]


def test_commands_of_one_event_run_at_once(cli: Any, host: Host) -> None:
    # Each waits for the other: one after the other they would both be stopped.
    pipe = host.folder / "pipe"
    os.mkfifo(pipe)
    host.notify(host.program(f"echo x > {pipe}", "one"))
    host.notify(host.program(f"read x < {pipe}", "two"))
    assert "warning" not in cli.ok(ON).err


# ---- when nobody is told


def test_what_is_already_so_is_not_told(cli: Any, host: Host) -> None:
    cli.ok(ON, "--until", "18:00")
    cli.ok("enforcement shadow --reason x --until 18:00")
    host.notify(host.recorder())
    for again in (f"{ON} --until 18:00", "throttle extend melt --until 18:00 --reason x",
                  "enforcement shadow --reason x"):  # fmt: skip
        cli.ok(again)
    assert host.told == []


@pytest.mark.parametrize(
    "words",
    [
        "throttle on --resource image --deny",
        "throttle on --resource video --deny --reason x",
        "throttle off 9 --reason x",
        "throttle on --deny --reason 'nobody there to ask'",
    ],
)
def test_what_is_refused_is_not_told(words: str, cli: Any, host: Host) -> None:
    host.notify(host.recorder())
    assert cli(words).code in {2, 6}
    assert host.told == []


def test_a_rehearsal_tells_nobody(q: quotactl.Ledger, host: Host) -> None:
    host.notify(host.recorder())
    lines: list[str] = []
    rehearsed = Admin(Rehearsal(q.engine), q.clock, "api", warn=lines.append)
    assert rehearsed.throttle_on(deny=True, reason="x").changed
    host.config.write_text("not TOML")
    assert rehearsed.throttle_on(deny=True, reason="x").changed
    assert (host.told, lines) == ([], [])


def test_a_row_of_another_process_is_not_told_in_a_rehearsals_place(
    q: quotactl.Ledger, host: Host
) -> None:
    host.notify(host.recorder())
    assert q.admin.throttle_on(deny=True, reason="x").changed
    with q.engine.reading() as book:
        newest = book.last_audit()
    assert newest is not None
    undone = (newest[0], "0" * 64)
    notify.send(q.engine, q.clock, actor="api", announced=[undone])
    assert len(host.told) == 1
    notify.send(q.engine, q.clock, actor="api", announced=[newest])
    assert host.told[0] == host.told[1], "the same row is the same event, whenever it is told"


def test_an_end_that_time_brings_is_told_by_the_daily_job_alone(cli: Any, host: Host) -> None:
    host.notify(host.recorder(), on=["throttle.off"])
    cli.ok(ON, "--for", "3h")
    cli.ok("throttle on --resource image --tier plus --deny --for 2h --reason x")
    cli.ok("enforcement shadow --for 4h --reason x")
    cli.ok("throttle on --resource image --tier free --deny --for 7d --reason x")
    cli.later(days=1)
    ended = [
        "throttle 2 ended 2025-03-27T11:00:00Z",
        "throttle 1 (melt) ended 2025-03-27T12:00:00Z",
        "enforcement shadow 3 ended 2025-03-27T13:00:00Z",
    ]
    ran = cli.ok("reset daily")
    assert ran.err.splitlines()[:3] == ended
    assert ran.err.splitlines()[3].startswith("1 day closed; audit hash ")
    assert cli.json("reset daily")["ended"] == [], "said once"
    assert host.told == []


def test_the_daily_job_in_cron_says_nothing_of_ends_and_json_has_them(cli: Any) -> None:
    cli.ok(ON)
    cli.later(days=1)
    ran = cli.ok("reset daily -q --json")
    assert (ran.err, ran.json["ended"]) == ("", ["throttle 1 (melt) ended 2025-03-27T10:00:00Z"])
    cli.ok(ON)
    cli.later(days=1)
    assert cli.ok("reset daily -q").err == ""


def test_a_ledger_that_stands_for_nothing_tells_nobody(cli: Any, host: Host) -> None:
    host.notify(host.recorder())
    with quotactl.connect(cli.path, notify=False) as q:
        q.admin.throttle_on(deny=True, reason="x")
    cli.ok("demo demo.db -q")
    assert host.told == []


# ---- the configuration file


def test_without_a_configuration_nothing_happens_and_nothing_is_imported_for_it(cli: Any) -> None:
    script = (
        "import sys; from pathlib import Path; import quotactl; "
        f"q = quotactl.connect({str(cli.path)!r}); admin = q.admin; "
        "from quotactl.operations import notify; notify.HOST_CONFIG = Path('/none/config.toml'); "
        "assert admin.throttle_on(deny=True, reason='x').changed; q.close(); print(*sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "QUOTACTL_CONFIG"}
    environment["XDG_CONFIG_HOME"] = str(cli.path.parent)
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    loaded = set(ran.stdout.split())
    assert loaded & {"tomllib", "subprocess", "selectors", "quotactl.operations.hooks"} == set()


def test_the_hosts_file_comes_before_the_users(
    cli: Any, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QUOTACTL_CONFIG")
    monkeypatch.setattr(notify, "HOST_CONFIG", tmp_path / "etc" / "config.toml")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert notify.config_path() is None
    mine = tmp_path / "xdg" / "quotactl" / "config.toml"
    mine.parent.mkdir(parents=True)
    host.notify(host.recorder())
    host.config.rename(mine)
    assert notify.config_path() == mine
    cli.ok(ON)
    assert host.actions == ["throttle.on"]
    (tmp_path / "etc").mkdir()
    notify.HOST_CONFIG.touch(0o644)
    assert notify.config_path() == notify.HOST_CONFIG
    cli.ok("throttle off melt --reason over")
    assert host.actions == ["throttle.on"], "the host's own file names no command"
    monkeypatch.setenv("QUOTACTL_CONFIG", str(mine))
    assert notify.config_path() == mine
    monkeypatch.setenv("QUOTACTL_CONFIG", "/dev/null")
    assert notify.config_path() is None


def test_a_users_file_lies_at_home_and_not_where_somebody_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QUOTACTL_CONFIG", raising=False)
    monkeypatch.setattr(notify, "HOST_CONFIG", tmp_path / "none")
    mine = tmp_path / ".config" / "quotactl" / "config.toml"
    mine.parent.mkdir(parents=True)
    mine.touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", ".config")
    assert notify.config_path() is None
    monkeypatch.setenv("XDG_CONFIG_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert notify.config_path() == mine


def test_a_named_file_that_is_missing_is_reported_and_the_change_stands(
    cli: Any, host: Host, failed: Any
) -> None:
    ran = cli.ok(f"{ON} -q")
    assert ran.err == (
        f"warning: no notification of throttle.on throttle 1: "
        f"{host.config} can't be read: No such file or directory\n"
    )
    assert cli.json("throttle list")[0]["name"] == "melt"
    (row,) = failed()
    assert row["subject"] == str(host.config)
    cli.ok("grant add ada image=5 --reason x")
    assert len(failed()) == 1, "who has nothing to tell does not look for it"


def test_a_named_path_that_is_no_text_is_reported_too(
    cli: Any, host: Host, failed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUOTACTL_CONFIG", "/none/\udcff.toml")
    assert "/none/?.toml can't be read: No such file" in cli.ok(ON).err
    assert failed()[0]["subject"] == "/none/?.toml"


def _belongs_to_another(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(path, 4242, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4242)


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (0o664, "can be written by others than its owner; chmod go-w "),
        (0o646, "can be written by others than its owner; chmod go-w "),
        (None, "belongs to neither root nor who acts (it is uid "),
    ],
)
def test_nothing_is_run_that_somebody_else_could_have_written(
    mode: int | None, said: str, cli: Any, host: Host, failed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.notify(host.recorder())
    if mode is None:
        _belongs_to_another(host.config, monkeypatch)
    else:
        host.config.chmod(mode)
    ran = cli.ok(f"{ON} -q --as eve")
    assert ran.err.startswith("warning: no notification of throttle.on throttle 1: ")
    assert (said in ran.err, ran.err.count("\n")) == (True, 1)
    (row,) = failed()
    act = cli.json("audit list --action throttle.on")[0]
    assert (row["actor"], row["subject"]) == ("eve", str(host.config))
    assert row["after"]["event"] == f"{act['id']}-{act['hash'][:16]}"
    assert said in row["after"]["why"]
    assert host.told == []


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_configuration_that_is_no_file_is_not_waited_for(kind: str, host: Host) -> None:
    if kind == "folder":
        host.config.mkdir()
    else:
        os.mkfifo(host.config)
    with pytest.raises(BadConfiguration, match=r"is not a file$") as caught:
        notify.read_commands(host.config)
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("notify = 1", "notify is no list of tables"),
        ("[notify]\ncommand = ['/x']", "notify is no list of tables"),
        ("notify = [1, {command = ['/x']}]", "notify is no list of tables"),
        ("[[notify]", "is not TOML"),
        ("[[notifications]]", "'notifications' is not known"),
        ("[[notify]]\ncommand = ['/x']\nshell = true", "notify 1: 'shell' is not known"),
        ("[[notify]]\ncommand = ['/x']\n[[notify]]", "notify 2: command is no list of words"),
        ("[[notify]]\ncommand = '/bin/sh -c x'", "command is no list of words"),
        ("[[notify]]\ncommand = ['/x', 1]", "command is no list of words"),
        ("[[notify]]\ncommand = ['post']", "'post' is no absolute path"),
        ("[[notify]]\ncommand = ['./post']", "'./post' is no absolute path"),
        ('[[notify]]\ncommand = ["/x", "\\u0000"]', "has a NUL in it"),
        ("[[notify]]\ncommand = ['/x']\non = ['grant']", "on 'grant' is not known"),
        ("[[notify]]\ncommand = ['/x']\non = ['throttle.']", "on 'throttle.' is not known"),
        ("[[notify]]\ncommand = ['/x']\non = []", "on is no list of texts"),
        ("[[notify]]\ncommand = ['/x']\non = 'throttle'", "on is no list of texts"),
        ("[[notify]]\ncommand = ['/x']\ntimeout = 10", "timeout: duration '10' is not understood"),
        ("[[notify]]\ncommand = ['/x']\ntimeout = '0s'", "timeout: duration '0s' is empty"),
        ("[[notify]]\ncommand = ['/x']\ntimeout = '6m'", "timeout 6m is too long"),
        ("[[notify]]\ncommand = ['/x']\ntimeout = []", "timeout: duration '[]' is not understood"),
        ("x = " + "[" * 5000, "is not TOML"),
    ],
)
def test_what_is_not_understood_is_refused_as_a_whole(text: str, said: str, host: Host) -> None:
    host.config.write_text(text)
    host.config.chmod(0o644)
    with pytest.raises(BadConfiguration) as caught:
        notify.read_commands(host.config)
    assert said in caught.value.message
    assert "\n" not in f"{caught.value.message}{caught.value.hint}"


def test_what_is_not_utf8_is_refused(host: Host) -> None:
    host.config.write_bytes(b"\xff")
    host.config.chmod(0o644)
    with pytest.raises(BadConfiguration, match="is not UTF-8 text"):
        notify.read_commands(host.config)


def test_defaults_and_what_is_given_are_read(host: Host) -> None:
    host.notify("/x", "-a")
    host.notify("/y", on=["preset"], timeout="1m30s")
    host.notify("/z", timeout="5m")
    assert notify.read_commands(host.config) == (
        Command(("/x", "-a"), ("throttle", "enforcement", "preset"), 10),
        Command(("/y",), ("preset",), 90),
        Command(("/z",), ("throttle", "enforcement", "preset"), 300),
    )


# ---- how commands are run


def test_words_reach_the_program_as_they_are(cli: Any, host: Host) -> None:
    program = host.python(
        "import json, os, sys\n"
        "open_files = [fd for fd in range(100) if os.path.exists(f'/dev/fd/{fd}')]\n"
        "leads = os.getsid(0) == os.getpid()\n"
        "found = [sys.argv[1:], os.getcwd(), leads, os.environ['QUOTACTL_CONFIG'], open_files]\n"
        f"json.dump(found, open({str(host.log)!r}, 'w'))"
    )
    words = ["$(id)", "a b", "*", ";", "-x"]
    host.notify(program, *words)
    assert "warning" not in cli.ok(ON).err
    # Nothing of the ledger's is open in it: closing that would let go of the ledger's locks.
    assert json.loads(host.log.read_text()) == [words, "/", True, "/dev/null", [0, 1, 2]]


def test_a_command_that_uses_the_ledger_itself_waits_for_nobody_and_tells_nobody(
    cli: Any, host: Host
) -> None:
    recorder = host.recorder("record")
    program = host.python(
        "import datetime, subprocess, sys, quotactl\n"
        f"subprocess.run([{recorder!r}], stdin=sys.stdin, check=True)\n"
        f"at = datetime.datetime.fromisoformat({cli.now.isoformat()!r})\n"
        f"with quotactl.connect({str(cli.path)!r}, clock=lambda: at, timeout_s=2) as q:\n"
        "    assert q.consume(user='ada', resource='image').allowed\n"
        "    assert q.admin.throttle_off('melt', reason='a robot thinks better').changed\n"
    )
    host.notify(program)
    assert "warning" not in cli.ok(ON).err
    assert cli.json("throttle list") == []
    assert host.actions == ["throttle.on"]


@pytest.mark.parametrize(
    ("program", "why", "said"),
    [
        ("echo first >&2; echo 'no route to host' >&2; exit 7", "ended with status 7", "no route"),
        ("exit 1", "ended with status 1", None),
        ("kill -9 $$", "was killed by signal 9", None),
        ("#!/nonexistent/sh", "can't be started: No such file or directory", None),
        ("printf 'a\\033[31mb\\n\\n' >&2; exit 2", "ended with status 2", "a?[31mb"),
    ],
)
def test_a_command_that_fails_is_reported_and_in_the_audit(
    program: str, why: str, said: str | None, cli: Any, host: Host, failed: Any
) -> None:
    path = host.program(program)
    host.notify(path, "a secret")
    host.notify(host.recorder("other"))
    ran = cli.ok(f"{ON} -q --json --as eve")
    assert ran.json["changed"] is True
    (line,) = ran.err.splitlines()
    assert line.startswith(f"warning: notification of throttle.on throttle 1: {path} {why}")
    assert line.endswith("; the change stands")
    assert (said or "") in line
    (row,) = failed()
    assert (row["actor"], row["subject"], row["after"]["why"]) == ("eve", path, why)
    assert row["after"]["event"] == host.told[0]["id"], "the others are told all the same"
    assert (row["reason"] or "").startswith(said or "")
    assert "secret" not in json.dumps([ran.err, row])
    assert cli.ok("audit verify").code == 0
    assert path in cli.ok("audit list -o tsv").out


def test_a_program_that_may_not_be_run_is_reported(cli: Any, host: Host, failed: Any) -> None:
    program = Path(host.recorder())
    program.chmod(0o644)
    host.notify(str(program))
    assert "can't be started: Permission denied; the change stands" in cli.ok(ON).err
    assert len(failed()) == 1


def test_a_slow_command_is_stopped_with_all_that_it_started(
    cli: Any, host: Host, failed: Any
) -> None:
    with host.lives() as pipe:
        program = host.program(
            f"exec 3>{pipe}; echo up >&3; trap '' TERM; (sleep 30 & sleep 30) & sleep 30"
        )
        host.notify(program, timeout="1s")
        began = time.monotonic()
        ran = cli.ok(ON)
        assert time.monotonic() - began < 10
    warning, done, _undo = ran.err.splitlines()
    assert warning == (
        f"warning: notification of throttle.on throttle 1: {program} was stopped after 1 s; "
        "the change stands"
    )
    assert done.startswith("throttle 1 (melt) is on")
    assert failed()[0]["after"]["why"] == "was stopped after 1 s"


def _run(program: str, *, stdin: bytes = b"{}\n", timeout_s: float = 10) -> Run:
    run = Run(Command((program,), (), timeout_s), stdin)
    run_all([run], until=time.monotonic() + 60)
    return run


def test_what_is_left_in_the_background_is_not_waited_for(host: Host) -> None:
    pipe = host.folder / "pipe"
    os.mkfifo(pipe)
    # It keeps stderr open until somebody writes into the pipe.
    for status, outcome in ((0, (None, None)), (1, ("ended with status 1", "no"))):
        run = _run(host.program(f"echo no >&2; (read x < {pipe}) & exit {status}"))
        pipe.write_text("done\n")
        assert (run.why, run.said) == outcome


def test_a_command_need_not_read_and_may_be_told_a_lot(host: Host) -> None:
    much = b"x" * 1_000_000
    assert _run(host.program("exit 0"), stdin=much).why is None
    assert _run(host.program("exec <&-; sleep 0.1"), stdin=much).why is None
    assert _run(host.program("test $(wc -c) -eq 1000000"), stdin=much).why is None
    run = _run(host.program("sleep 30"), stdin=much, timeout_s=0.2)
    assert (run.why, run.timed_out) == ("was stopped after 0.2 s", True)


def test_a_command_may_say_a_lot_of_which_one_bounded_line_is_kept(host: Host) -> None:
    run = _run(host.python("import sys; sys.stderr.write('é' * 3_000_000); sys.exit(3)"))
    assert (run.why, set(run.said or "") - {"\ufffd"}) == ("ended with status 3", {"é"})
    assert len(run.said or "") == 200
    assert _run(host.program("yes >&2"), timeout_s=0.2).said == "y"


def test_no_command_is_run_when_no_time_is_left(host: Host) -> None:
    run = Run(Command((host.recorder(),), (), 10), b"{}\n")
    run_all([run], until=time.monotonic() - 1)
    assert (run.why, host.told) == ("was not run: the others took all the time there is", [])


def test_one_that_had_to_be_stopped_is_not_run_for_the_acts_other_events(
    q: quotactl.Ledger, host: Host
) -> None:
    host.notify(host.program(f"cat >> {host.log}; sleep 30", "slow"), timeout="1s")
    lines: list[str] = []
    assert Presets(q.engine, q.clock, "api", warn=lines.append).apply() == "applied"
    assert [line.partition("slow ")[2] for line in lines] == [
        "was stopped after 1 s; the change stands",
        "was not run: it had to be stopped a moment ago; the change stands",
        "was not run: it had to be stopped a moment ago; the change stands",
    ]
    assert len(host.told) == 1


# ---- that nothing of it touches the act


class BusyOnce:
    """An engine that is busy after its first write."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.reading = engine.reading
        self.close = engine.close
        self._wrote = False

    def glancing(self, asked: Any) -> Any:
        return self._engine.glancing(asked)

    def stands(self, *_: object) -> None:
        """Nothing is asked here."""

    def count(self, *_: object) -> None:
        """Nothing is asked here."""

    def expects_denial(self, asked: Any) -> bool:
        return False

    def learn(self, asked: Any, *, denied: bool) -> None:
        """Nor learnt."""

    def writing(self, asked: Any = None, *, durable: bool = True) -> Any:
        if self._wrote:
            raise LedgerBusy("ledger.db is busy")
        self._wrote = True
        return self._engine.writing(asked, durable=durable)


def test_a_busy_ledger_loses_the_audits_row_and_nothing_else(
    q: quotactl.Ledger, host: Host, failed: Any
) -> None:
    host.notify(host.program("exit 1"))
    lines: list[str] = []
    admin = Admin(BusyOnce(q.engine), q.clock, "api", warn=lines.append)
    assert admin.throttle_on(deny=True, reason="x").changed
    assert len(lines) == 2
    assert lines[1] == "nor is that in the audit: ledger.db is busy"
    assert failed() == []


def test_in_python_a_failure_is_a_warning(q: quotactl.Ledger, host: Host) -> None:
    host.notify(host.program("exit 1"))
    with pytest.warns(UserWarning, match="ended with status 1; the change stands"):
        assert q.admin.throttle_on(deny=True, reason="x").changed


def test_warnings_that_are_errors_are_not_the_acts(
    q: quotactl.Ledger, host: Host, failed: Any
) -> None:
    # As they are throughout these tests.
    host.notify(host.program("exit 1"))
    assert q.admin.throttle_on(deny=True, reason="x").changed
    assert len(failed()) == 1


def test_what_can_not_be_foreseen_is_not_the_acts_either(
    q: quotactl.Ledger, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(notify, "config_path", broken)
    lines: list[str] = []
    assert Presets(q.engine, q.clock, "api", warn=lines.append).apply() == "applied"
    assert lines == ["notification failed: RuntimeError: a bug; the change stands"]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT as a terminal has it: a shell's job in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_an_interrupt_stops_the_command_and_the_change_stands(
    number: int, code: int, word: str, cli: Any, host: Host, failed: Any
) -> None:
    with host.lives() as pipe:
        started = host.folder / "started"
        program = host.program(f"exec 3>{pipe}; echo up >&3; sleep 30 & : > {started}; sleep 30")
        host.notify(program, timeout="1m")
        words = ["throttle", "on", "--resource", "image", "--deny", "--reason", "x"]
        with subprocess.Popen(
            [sys.executable, "-m", "quotactl", *words], stderr=subprocess.PIPE, text=True
        ) as process:
            wait_for(started)
            process.send_signal(number)
            _, err = process.communicate(timeout=30)
    assert process.returncode == code
    warning = f"notification of throttle.on throttle 1: {program} was interrupted"
    assert err == f"warning: {warning}; the change stands\nquotactl: {word}\n"
    with quotactl.connect(cli.path) as q, q.engine.reading() as book:
        assert len(book.rows("switch", {"ended_at_ms": None})) == 1
    assert failed()[0]["after"]["why"] == "was interrupted"


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_at_the_very_start_leaves_nothing_running(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            wait_for(host.log)
            signal.raise_signal(signal.SIGINT)

    with host.lives() as pipe:
        program = host.program(f"exec 3>{pipe}; echo up >&3; : > {host.log}; sleep 30")
        monkeypatch.setattr(subprocess, "Popen", Interrupted)
        run = Run(Command((program,), (), 10), b"{}\n")
        with pytest.raises(KeyboardInterrupt):
            run_all([run], until=time.monotonic() + 60)
    assert run.why == "was interrupted"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# ---- the README's sample


class _Chat(BaseHTTPRequestHandler):
    posted: list[tuple[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.posted.append((self.path, json.loads(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its own name
        pass


def test_the_readmes_sample_posts_to_a_chat(cli: Any, host: Host) -> None:
    match = re.search(r"^```python\n(#!.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert match is not None
    _Chat.posted = []
    with HTTPServer(("127.0.0.1", 0), _Chat) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            where = f"http://127.0.0.1:{server.server_port}"
            sample = match[1].replace("https://chat.example.com", where)
            assert where in sample
            program = host.program(sample.replace("/usr/bin/env python3", sys.executable))
            host.notify(program, "#ops")
            ran = cli.ok(f"{ON} --as eve")
        finally:
            server.shutdown()
            thread.join()
    assert "warning" not in ran.err
    text = "prod: throttle.on throttle 1 INC-1 by eve: GPUs melt"
    assert _Chat.posted == [("/hooks/T0001/B0001/secret", {"channel": "#ops", "text": text})]


def test_the_readmes_configuration_is_one(host: Host) -> None:
    match = re.search(r"^```toml\n(\[\[notify\]\]\n.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert match is not None
    host.config.write_text(match[1])
    host.config.chmod(0o644)
    (command,) = notify.read_commands(host.config)
    assert command == Command(
        ("/usr/local/bin/post-to-chat", "#ops"), ("throttle", "enforcement.off"), 5
    )
