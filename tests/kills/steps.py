"""Kill -9 at each step of what makes and replaces files, one step after the other.

A step is a call that changes names, modes or locks, or opens a file of the folder, and each
statement that SQLite is given. A forked child does the act and kills itself before its n-th
step; what it leaves is looked at, and has to be whole; then the act is done again and has to
work. Prints the figures as a line of JSON; raises where a promise does not hold.

    python tests/kills/steps.py init race [--every 1] [--no-links]

`--every 10` takes each tenth of the statements, and all other steps. `--no-links` is a file
system without hard links.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import itertools
import json
import os
import signal
import sqlite3
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import quotactl
from quotactl.cli import main

CALLS = frozenset(
    {"os.rename", "os.remove", "os.link", "os.symlink", "os.mkdir", "os.rmdir", "os.chmod"}
    | {"os.chown", "os.truncate", "fcntl.flock", "sqlite3.connect"}
)


class Steps:
    """Counts the steps of this process, and kills it before the one that was asked for."""

    def __init__(self, folder: Path, fatal: int, every: int) -> None:
        self._folder = str(folder)
        self._fatal = fatal
        self._every = every
        self._statements = 0
        self._count = 0
        self._connect = sqlite3.connect
        sqlite3.connect = self._traced  # type: ignore[assignment]
        sys.addaudithook(self._hear)

    def _traced(self, *arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = self._connect(*arguments, **options)
        connection.set_trace_callback(self._statement)
        return connection

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in CALLS or (event == "open" and self._folder in str(arguments[0])):
            self._step()

    def _statement(self, _: str) -> None:
        self._statements += 1
        if self._statements % self._every == 0:
            self._step()

    def _step(self) -> None:
        self._count += 1
        if self._count == self._fatal:
            os.kill(os.getpid(), signal.SIGKILL)


def cli(*words: str) -> tuple[int, str]:
    """A command in this process: its exit code and what it said."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        return main(list(words)), said.getvalue()


def in_child(work: Callable[[], object]) -> int:
    """How a child that does `work` ends: 0, or minus the signal."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - told by its exit code
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def init(folder: Path, every: int) -> dict[str, int]:
    """Kill `init` at each of its steps."""
    path = folder / "prod.db"
    words = ("init", str(path), "--zone", "Europe/Rome", "--as", "root")

    def act(fatal: int) -> None:
        Steps(folder, fatal, every)
        assert cli(*words)[0] == 0, cli("--debug", *words)

    made = 0
    for fatal in itertools.count(1):
        ended = in_child(partial(act, fatal))
        if ended == 0:
            return {"steps": fatal - 1, "made": made}
        assert ended == -signal.SIGKILL, ended
        there = path.exists()
        made += there
        if there:
            require_founded(path)
        code, said = cli(*words)
        assert code == (7 if there else 0), (fatal, said)
        require_founded(path)
        left = {file.name for file in folder.iterdir()}
        assert left <= {"prod.db", "prod.db-queue", "prod.db-turn"}, (fatal, left)
        for file in folder.iterdir():
            file.unlink()
    raise AssertionError


def require_founded(path: Path) -> None:
    """A whole ledger, and its audit begins with its making."""
    assert path.stat().st_mode & 0o777 == 0o600
    with quotactl.connect(path) as q:
        assert q.verify().ok
        with q.engine.reading() as book:
            assert [row["action"] for row in book.audit_rows()] == ["init"]


def race(folder: Path, every: int) -> dict[str, int]:
    """Several at once make one ledger: one of them does, the others are told of a conflict."""
    rounds = max(1, 100 // every)
    for number in range(rounds):
        path = folder / f"ledger{number}.db"
        start, go = os.pipe()
        children = []
        for _ in range(4):
            pid = os.fork()
            if pid == 0:
                os.close(go)
                os.read(start, 1)
                os._exit(cli("init", str(path))[0])
            children.append(pid)
        os.close(start)
        os.close(go)
        codes = sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children)
        assert codes == [0, 7, 7, 7], codes
        require_founded(path)
    assert not list(folder.glob(".*")), list(folder.glob(".*"))
    return {"rounds": rounds}


ACTS = {act.__name__: act for act in (init, race)}


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("acts", choices=ACTS, nargs="+")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--no-links", action="store_true")
    asked = parser.parse_args()
    if asked.no_links:
        os.link = refused
    for name in asked.acts:
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
            # Once in this process, so that its children need not import anything.
            assert cli("init", f"{other}/warm.db")[0] == 0
            figures = ACTS[name](Path(folder), asked.every)
        print(json.dumps({"act": name, **figures}))  # noqa: T201


def refused(*_arguments: Any, **_options: Any) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


if __name__ == "__main__":
    run()
