"""What Tab offers."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from quotactl.cli import main
from quotactl.cli.commands import COMMANDS
from quotactl.cli.completing import answer, candidates


def offered(line: str, begun: str = "") -> list[str]:
    return [word for word, _ in candidates(line.split(), begun)]


def test_nouns_then_verbs_then_options_are_offered() -> None:
    assert offered("") == list(COMMANDS)
    assert offered("", "th") == ["throttle"]
    assert offered("--db x.db", "th") == ["throttle"]
    assert offered("throttle", "o") == ["on", "off"]
    assert offered("throttle on", "--c") == ["--cap"]
    assert "--no-wait" in offered("preset drill", "--")
    assert "--json" in offered("consume", "--j")
    assert offered("consume -o", "js") == ["json", "jsonl"]
    assert offered("nonsense") == offered("throttle nonsense") == []


def test_what_is_hidden_is_not_offered() -> None:
    assert "--allow-impact" not in offered("throttle preview", "--")


def test_names_come_from_the_ledger(cli: Any) -> None:
    cli.ok("throttle on --name melt --resource image --cap 1/day --reason x --yes -q")
    assert offered("limit set") == ["free", "plus", "pro"]
    assert offered("limit set free") == ["image="]
    assert offered("limit set free image=3/day", "im") == ["image="]
    assert offered("throttle on --tier", "p") == ["plus", "pro"]
    assert offered("throttle on --resource") == ["image"]
    assert offered("throttle off", "m") == ["melt"]
    assert offered("consume --key k ada") == ["image"]
    assert offered("consume") == offered("throttle on --reason") == []


def test_bash_gets_words(capsys: pytest.CaptureFixture[str]) -> None:
    asked = {"_QUOTACTL_COMPLETE": "complete_bash", "COMP_WORDS": "quotactl throttle o"}
    assert answer(asked | {"COMP_CWORD": "2"}) == 0
    assert capsys.readouterr().out == "on\noff\n"
    assert answer(asked | {"COMP_WORDS": "quotactl throttle ", "COMP_CWORD": "2"}) == 0
    assert "preview\n" in capsys.readouterr().out


def test_zsh_and_fish_get_words_with_what_they_mean(capsys: pytest.CaptureFixture[str]) -> None:
    asked = {"_TYPER_COMPLETE_ARGS": "quotactl audit v"}
    assert answer(asked | {"_QUOTACTL_COMPLETE": "complete_zsh"}) == 0
    assert capsys.readouterr().out.startswith('_arguments \'*: :(("verify":"')
    fish = asked | {"_QUOTACTL_COMPLETE": "complete_fish"}
    assert answer(fish | {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}) == 0
    assert capsys.readouterr().out.startswith("verify\t")
    nothing = {"_TYPER_COMPLETE_ARGS": "quotactl audit verify x"}
    assert answer(fish | nothing | {"_TYPER_COMPLETE_FISH_ACTION": "is-args"}) == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shells_script_calls_back(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--show-completion", shell]) == 0
    assert f"_QUOTACTL_COMPLETE=complete_{shell}" in capsys.readouterr().out
    assert main(["--show-completion", "csh"]) == 2


def test_whatever_goes_wrong_nothing_is_said_amid_a_line() -> None:
    asked = {"_QUOTACTL_COMPLETE": "complete_bash", "COMP_WORDS": "quotactl limit set 'open"}
    done = subprocess.run(
        [sys.executable, "-m", "quotactl"],
        env=os.environ | asked | {"COMP_CWORD": "3", "QUOTACTL_DB": "/nowhere/x.db"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("", "")
