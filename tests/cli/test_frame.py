"""The frame, tried on a noun of its own. Run as a program, this file is that command line."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest

from quotactl.cli import main
from quotactl.cli.app import Root
from quotactl.cli.commands import COMMANDS, Entry
from quotactl.cli.declared import Argument, Noun, Option
from quotactl.cli.invocation import Invocation, invocation, started
from quotactl.cli.run import run
from quotactl.errors import Conflict

app = Noun(help="Things, to try the frame on.")
ROWS = [{"id": "a", "n": 1, "more": {"x": 1}}, {"id": "b", "n": -2, "more": None}]


@app.command("list")
def list_things() -> None:
    """List the things.

    They are two.

    Examples:
      fruit list
      fruit list --json      # as JSON, not wrapped however long the line may be in here
    """
    invocation().emit(ROWS, columns=["id", "n"])


@app.command("show")
def show(
    name: str,
    amount: Annotated[int, Argument()] = 1,
    reason: Annotated[str, Option("--reason")] = "",
) -> None:
    """Show what arrived."""
    this = invocation()
    this.say(f"about {name}")
    this.emit({"name": name, "amount": amount, "reason": reason, "quiet": this.quiet})


@app.command("remove")
def remove(name: str) -> None:
    """Remove a thing."""
    invocation().confirm(f"Remove {name}?")
    invocation().say(f"removed {name}")


@app.command("fail")
def fail(kind: str) -> int:
    """Fail in the way named."""
    if kind == "conflict":
        raise Conflict("pear is \x1b[31mtaken", hint="choose another")
    if kind == "bug":
        raise ValueError("two\nlines")
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
    return int(kind)


@app.command("where")
def where() -> None:
    """Say which ledger."""
    invocation().emit({"db": invocation().db, "actor": invocation().actor})


@app.command("flood")
def flood() -> None:
    """Write more than a pipe holds."""
    invocation().emit([{"n": n} for n in range(200_000)])


def single(count: Annotated[int, Option("--count")] = 0) -> int:
    """Be a command without a noun."""
    return count


def missing_module(name: str) -> Entry:
    return Entry("Test", f"quotactl.cli.no_such_{name}", "app", "Can't be loaded.")


TABLE = {
    "fruit": Entry("Test", __name__, "app", "Things."),
    "single": Entry("Test", __name__, "single", "A command without a noun."),
    "broken": missing_module("module"),
}
PROGRAM = [sys.executable, __file__]

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QUOTACTL_DB", "SUDO_USER", "NO_COLOR", "COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "words",
    ["--json fruit list", "fruit --json list", "fruit list --json", "fruit list -o json",
     "-o csv fruit list --output=json", "-ocsv fruit -o tsv list --json"],
)  # fmt: skip
def test_global_options_work_before_the_noun_after_it_and_after_the_verb(
    words: str, capsys: Captured
) -> None:
    assert run(words.split(), TABLE) == 0
    assert json.loads(capsys.readouterr().out) == ROWS


def test_an_option_s_value_that_looks_like_a_global_option_stays_a_value(capsys: Captured) -> None:
    assert run(["fruit", "show", "ada", "--reason", "-q", "--json"], TABLE) == 0
    assert json.loads(capsys.readouterr().out)["reason"] == "-q"
    assert run(["--json", "fruit", "show", "--", "--json"], TABLE) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "--json"


def test_quiet_is_silent_unless_a_format_is_named(capsys: Captured) -> None:
    assert run(["fruit", "show", "ada"], TABLE) == 0
    loud = capsys.readouterr()
    assert (loud.out.splitlines()[0], loud.err) == ("name\tada", "about ada\n")
    assert run(["fruit", "show", "ada", "-q"], TABLE) == 0
    assert capsys.readouterr() == ("", "")
    assert run(["-q", "fruit", "show", "ada", "-o", "jsonl"], TABLE) == 0
    named = capsys.readouterr()
    assert (json.loads(named.out)["quiet"], named.err) == (True, "")


def test_a_list_into_a_pipe_is_tsv_with_a_header(capsys: Captured) -> None:
    assert run(["fruit", "list"], TABLE) == 0
    assert capsys.readouterr().out == "id\tn\na\t1\nb\t-2\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("fruit fail conflict", 7, r"pear is \x1b[31mtaken; choose another"),
        ("fruit fail bug", 1, r"unexpected: ValueError: two\nlines; --debug shows the traceback"),
        ("fruit fail interrupt", 130, "interrupted"),
        ("fruit fail terminate", 143, "terminated"),
        ("fruit show", 2, "missing argument 'NAME'; see quotactl fruit show --help"),
        ("fruit show a b", 2,
         "invalid value for 'AMOUNT': 'b' is not a valid int; see quotactl fruit show --help"),
        ("fruit show a --bogus", 2, "no such option: --bogus; see quotactl fruit show --help"),
        ("fruit show a -5", 2,
         ("no such option: -5; a quantity is 1 or more, and other words that begin with -"
          " go after --")),
        ("fruit list -o xml", 2,
         ("invalid value for '-o' / '--output': 'xml' is none of table, json, jsonl, csv, tsv;"
          " see quotactl fruit list --help")),
        ("fruit lst", 2, "no such command 'lst', did you mean 'list'? see quotactl fruit --help"),
        ("friut", 2, "no such command 'friut', did you mean 'fruit'? see quotactl --help"),
        ("fruit where", 2, "no ledger named; give --db PATH or set QUOTACTL_DB"),
        ("--bogus", 2, "no such option: --bogus; see quotactl --help"),
    ],
)  # fmt: skip
def test_a_failure_is_one_line_on_stderr_and_its_exit_code(
    words: str, code: int, message: str, capsys: Captured
) -> None:
    assert run(words.split(), TABLE) == code
    assert capsys.readouterr() == ("", f"quotactl: {message}\n")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("fruit fail conflict --json", "conflict"),
        ("fruit fail bug -o jsonl", "unexpected"),
        ("fruit show --json", "invalid_input"),
        ("fruit show a --bogus --output json", "invalid_input"),
        ("-ojson fruit nothing", "invalid_input"),
        ("fruit --json", "invalid_input"),
        ("--json fruit remove a", "needs_confirmation"),
        ("broken --json", "unexpected"),
    ],
)
def test_over_json_a_failure_is_an_object_on_stdout_too(
    words: str, error: str, capsys: Captured
) -> None:
    assert run(words.split(), TABLE) != 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)["error"]
    assert (told["code"], set(told)) == (error, {"code", "message", "hint"})
    assert captured.err.count("\n") == 1


def test_behind_a_double_dash_json_is_no_format(capsys: Captured) -> None:
    assert run(["fruit", "show", "--", "--json", "1", "surplus"], TABLE) == 2
    assert capsys.readouterr().out == ""


def test_a_traceback_appears_only_with_debug(capsys: Captured) -> None:
    run(["fruit", "fail", "bug"], TABLE)
    assert "Traceback" not in capsys.readouterr().err
    assert run(["fruit", "fail", "bug", "--debug"], TABLE) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("code", [0, 3, 5, 8, 75])
def test_what_a_command_returns_is_the_exit_code(code: int) -> None:
    assert run(["fruit", "fail", str(code)], TABLE) == code
    assert run(["single", "--count", str(code)], TABLE) == code


def test_a_noun_alone_prints_its_help_and_fails(capsys: Captured) -> None:
    for words in ([], ["fruit"]):
        assert run(words, TABLE) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("Usage: quotactl")


def test_help_shows_examples_as_they_stand_and_arguments_as_the_manual_writes_them(
    capsys: Captured,
) -> None:
    assert run(["fruit", "list", "-h"], TABLE) == 0
    text = capsys.readouterr().out
    assert "\nExamples:\n  fruit list\n  fruit list --json      # as JSON, not wrapped" in text
    assert "They are two." in text
    assert "--db PATH|URL" in text
    assert run(["fruit", "show", "--help"], TABLE) == 0
    text = capsys.readouterr().out
    assert "Usage: quotactl fruit show [OPTIONS] NAME [AMOUNT]\n" in text
    assert "--reason REASON" in text


def test_the_help_of_a_noun_lists_its_verbs(capsys: Captured) -> None:
    assert run(["fruit", "--help"], TABLE) == 0
    text = capsys.readouterr().out
    assert "Things, to try the frame on." in text
    assert "remove  Remove a thing." in text


def test_a_command_can_not_take_the_name_of_a_global_option() -> None:
    def clash(out: Annotated[str, Option("-o", "--out")] = "") -> None:
        """Clash."""

    sys.modules[__name__].__dict__["clash"] = clash
    table = {"clash": Entry("Test", __name__, "clash", "Clash.")}
    with pytest.raises(TypeError, match="-o means something everywhere"):
        Root(table).commands["clash"]


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["fruit", "remove", "the pear"], "quotactl fruit remove 'the pear' --yes"),
        (["fruit", "remove", "--", "-x"], "quotactl fruit remove --yes -- -x"),
    ],
)
def test_without_a_terminal_a_dangerous_act_is_refused_and_the_way_through_printed(
    argv: list[str], command: str, capsys: Captured
) -> None:
    assert run(argv, TABLE) == 2
    captured = capsys.readouterr()
    assert captured.err == (
        f"quotactl: needs confirmation: Remove {argv[-1]}? to go ahead: {command}\n"
    )
    assert captured.out == ""


def test_yes_agrees_beforehand(capsys: Captured) -> None:
    assert run(["-y", "fruit", "remove", "pear"], TABLE) == 0
    assert capsys.readouterr().err == "removed pear\n"


@pytest.mark.parametrize(
    ("typed", "code", "answer"),
    [("y\n", 0, "removed pear"), ("\n", 2, "not confirmed, nothing changed"),
     ("n\n", 2, "not confirmed, nothing changed"), ("\x04", 2, "not confirmed, nothing changed")],
)  # fmt: skip
def test_on_a_terminal_the_person_is_asked_and_the_default_is_no(
    typed: str, code: int, answer: str
) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, typed.encode())
    with subprocess.Popen(
        [*PROGRAM, "fruit", "remove", "pear"], stdin=theirs, stderr=theirs, stdout=subprocess.PIPE
    ) as process:
        assert process.wait(20) == code
        said = os.read(ours, 4096).decode()
    os.close(ours)
    os.close(theirs)
    assert "Remove pear? [y/N] " in said
    assert answer in said


@pytest.mark.parametrize(("no_color", "escapes"), [("", True), ("1", False)])
def test_a_terminal_gets_a_table_and_no_escape_sequence_with_no_color(
    no_color: str, escapes: bool
) -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"NO_COLOR": no_color, "TERM": "xterm"}
    done = subprocess.run(
        [*PROGRAM, "fruit", "list"], env=environment, stdout=theirs, stdin=theirs, check=False
    )
    text = os.read(ours, 4096).decode()
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0
    assert "─────" in text
    assert ("\x1b" in text) is escapes


@pytest.mark.parametrize(
    ("environment", "argv", "db", "actor"),
    [
        ({"QUOTACTL_DB": "e.db", "SUDO_USER": "ada"}, [], "e.db", "ada"),
        ({"QUOTACTL_DB": "e.db", "SUDO_USER": "ada"}, ["--db", "o.db"], "o.db", "ada"),
        ({"QUOTACTL_DB": "e.db", "SUDO_USER": "ada"}, ["--as", "bob"], "e.db", "bob"),
    ],
)
def test_what_is_given_wins_over_the_environment(
    environment: dict[str, str],
    argv: list[str],
    db: str,
    actor: str,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run(["fruit", "where", "--json", *argv], TABLE) == 0
    assert json.loads(capsys.readouterr().out) == {"db": db, "actor": actor}


def test_the_actor_is_not_what_the_environment_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    monkeypatch.setenv("USER", "mallory")
    monkeypatch.setenv("LOGNAME", "mallory")
    assert Invocation([]).actor == pwd.getpwuid(os.getuid()).pw_name


def test_a_reader_that_goes_away_ends_the_run_quietly() -> None:
    # With PYTHONUNBUFFERED Python itself drops the rest of a write that was cut short.
    environment = {name: v for name, v in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [*PROGRAM, "fruit", "flood"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "n\n"
        process.stdout.close()
        assert process.wait(20) == 141
        assert process.stderr.read() == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_under_stdout_is_one_line(unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PROGRAM, "fruit", "list"],
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "can't write the output: No space left" in done.stderr


def test_a_name_that_the_terminal_can_not_show_is_escaped() -> None:
    done = subprocess.run(
        [*PROGRAM, "fruit", "show", "żółw", "-o", "table"],
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    assert b"\\u017c\xf3\\u0142w" in done.stdout


def _modules_after(*argv: str) -> set[str]:
    program = (
        "import sys; from quotactl.cli import main; code = main(sys.argv[1:]);"
        "sys.stderr.write(' '.join(sys.modules)); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *argv], capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())


def test_help_imports_no_noun_and_nothing_heavy() -> None:
    modules = _modules_after("--help")
    heavy = {"rich", "sqlite_utils", "pydantic", "sqlite3", "tomllib", "csv", "asyncio"}
    assert not modules & heavy
    nouns = {entry.module for entry in COMMANDS.values()}
    assert not modules & nouns


def test_the_version_is_answered_before_typer_is_imported(capsys: Captured) -> None:
    assert not _modules_after("--version") & {"typer", "rich", "sqlite_utils", "pydantic"}
    assert main(["--version"]) == 0
    short = capsys.readouterr().out
    assert run(["--json", "--version"], TABLE) == 0
    assert capsys.readouterr().out == short
    assert short.startswith("quotactl 0.")


def test_a_list_as_json_or_tsv_does_not_import_rich() -> None:
    program = (
        "import sys; from quotactl.render import render;"
        "[render([{'a': 1}], f) for f in ('json', 'jsonl', 'tsv', 'csv')];"
        "sys.exit('rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_root_help_lists_every_command(capsys: Captured) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, entry in COMMANDS.items():
        assert f"  {name} " in text
        assert entry.help in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_with_examples(name: str) -> None:
    with started(Invocation([])):
        command = Root(COMMANDS).commands[name]
        verbs = getattr(command, "commands", {name: command})
        for verb, built in verbs.items():
            assert built.help, f"{name} {verb} says nothing"
            assert f"quotactl {name}" in built.examples, f"{name} {verb} has no example"


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], TABLE))
