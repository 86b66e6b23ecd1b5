"""The command line in this process, on a ledger and at a time of the test's choosing."""

from __future__ import annotations

import json
import shlex
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from quotactl.cli import main

NOW = datetime(2025, 3, 27, 9, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Ran:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


class Cli:
    """`cli("tier show free", "--json")`: words of the first text, then words as they are."""

    def __init__(self, path: Path, read: Callable[[], tuple[str, str]]) -> None:
        self.path = path
        self.now = NOW
        self._read = read

    def __call__(self, words: str, *more: str) -> Ran:
        self._read()
        code = main([*shlex.split(words), *more])
        out, err = self._read()
        return Ran(code, out, err)

    def ok(self, words: str, *more: str) -> Ran:
        """The same, for what has to succeed."""
        ran = self(words, *more)
        assert ran.code == 0, ran
        return ran

    def json(self, words: str, *more: str) -> Any:
        """What it says as JSON."""
        return self.ok(words, "--json", *more).json

    def later(self, **span: float) -> None:
        self.now += timedelta(**span)

    def dump(self) -> str:
        """All that is in the ledger, to tell whether anything changed."""
        with closing(sqlite3.connect(self.path)) as connection:
            return "\n".join(connection.iterdump())

    def sql(self, statement: str) -> None:
        """Change the ledger behind its back."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.executescript(statement)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Cli:
    """A ledger in Rome's zone with nothing in it, at 10:00 there on 2025-03-27."""
    for name in ("SUDO_USER", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "prod.db"
    monkeypatch.setenv("QUOTACTL_DB", str(path))
    monkeypatch.setenv("COLUMNS", "80")
    # What the host's own file names would be run: no test may tell anybody.
    monkeypatch.setenv("QUOTACTL_CONFIG", "/dev/null")
    monkeypatch.chdir(tmp_path)

    def read() -> tuple[str, str]:
        captured = capsys.readouterr()
        return captured.out, captured.err

    cli = Cli(path, read)
    for module in ("quotactl.api", "quotactl.operations.acts"):
        monkeypatch.setattr(f"{module}.system_clock", lambda: cli.now)
    cli.ok("init prod.db --name prod --zone Europe/Rome --as root")
    return cli


@pytest.fixture
def cli(empty: Cli, tmp_path: Path) -> Cli:
    """The same ledger with the policy of the README: free 3/day, plus, pro protected."""
    (tmp_path / "policy.toml").write_text(POLICY)
    empty.ok("policy apply -f policy.toml -q --as root")
    return empty


POLICY = """\
zone = "Europe/Rome"
default_tier = "free"

[resource.image]
unit = "image"

[tier.free]
[tier.free.limits]
image = "3/day"

[tier.plus]
[tier.plus.limits]
image = "50/day,5/minute"

[tier.pro]
protected = true
[tier.pro.limits]
image = "unlimited"
"""
