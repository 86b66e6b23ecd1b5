"""Kill -9 at each step of what makes and replaces files, one step after the other.

A step is a call that changes names, modes or locks, or opens a file of the folder, and each
statement that SQLite is given. A forked child does the act and kills itself before its n-th
step; what it leaves is looked at, and has to be whole; then the act is done again and has to
work. Prints the figures as a line of JSON; raises where a promise does not hold.

    python tests/kills/steps.py init race restore damaged migrate [--every 1] [--last 0]
        [--no-links]

`--every 10` takes each tenth of the statements, and all other steps; `--last 9` only the last
nine steps of a restore. `--no-links` is a file system without hard links.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import itertools
import json
import os
import shutil
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
from quotactl.engines.sqlite.backup import mend

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
        self.count = 0
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
        self.count += 1
        if self.count == self._fatal:
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


def init(folder: Path, asked: argparse.Namespace) -> dict[str, int]:
    """Kill `init` at each of its steps."""
    path = folder / "prod.db"
    words = ("init", str(path), "--zone", "Europe/Rome", "--as", "root")

    def act(fatal: int) -> None:
        Steps(folder, fatal, asked.every)
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


def race(folder: Path, asked: argparse.Namespace) -> dict[str, int]:
    """Several at once make one ledger: one of them does, the others are told of a conflict."""
    rounds = max(1, 100 // asked.every)
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


class Running:
    """A process that has the ledger open, and consumes when it is told to."""

    def __init__(self, path: Path) -> None:
        theirs, self._tell = os.pipe()
        self._hear, answers = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._tell)
            with quotactl.connect(path) as q:
                while os.read(theirs, 1):
                    try:
                        used = q.consume(user="ada", resource="image").used
                    except quotactl.QuotaError as error:
                        os.write(answers, error.code.encode() + b"\n")
                    else:
                        os.write(answers, b"%d\n" % used)
            os._exit(0)
        os.close(theirs)
        os.close(answers)

    def consume(self) -> str:
        """How much was used then, or the error's code."""
        os.write(self._tell, b".")
        return os.read(self._hear, 100).decode().strip()

    def end(self) -> None:
        os.close(self._tell)
        os.waitpid(self._pid, 0)
        os.close(self._hear)


def to_restore(folder: Path) -> dict[str, bytes]:
    """The files of a ledger in which 5 were used, 2 of them before its backup."""
    with quotactl.create(folder / "prod.db") as q:
        q.admin.create_resource("image")
        q.admin.create_tier("free")
        q.admin.set_limit(tier="free", resource="image", limit="1000/day")
        q.consume(user="ada", resource="image", amount=2)
    assert cli("--db", str(folder / "prod.db"), "db", "backup", str(folder / "copy.db"))[0] == 0
    with quotactl.connect(folder / "prod.db") as q:
        q.consume(user="ada", resource="image", amount=3)
    made = {file.name: file.read_bytes() for file in folder.iterdir()}
    clear(folder)
    return made


def copied(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def first_of(folder: Path, asked: argparse.Namespace) -> int:
    """The first step of a restore to kill it at."""
    if not asked.last:
        return 1
    read, write = os.pipe()

    def count() -> None:
        steps = Steps(folder, 0, asked.every)
        assert restore_now(folder)[0] == 0
        os.write(write, b"%d" % steps.count)

    copied(to_restore(folder), folder)
    assert in_child(count) == 0
    clear(folder)
    steps = int(os.read(read, 100))
    os.close(read)
    os.close(write)
    last: int = asked.last
    return max(1, steps - last + 1)


def restore(folder: Path, asked: argparse.Namespace) -> dict[str, int]:
    """Kill `db restore` at each of its steps, while another process has the ledger open."""
    path, template = folder / "prod.db", to_restore(folder)
    restored, put_back = 0, 0
    for fatal in range(first_of(folder, asked), 10_000):
        copied(template, folder)
        running = Running(path)
        assert running.consume() == "6"
        ended = in_child(partial(restore_killed, folder, fatal, asked))
        if ended == 0:
            running.end()
            return {"steps": fatal - 1, "restored": restored, "put_back": put_back}
        assert ended == -signal.SIGKILL, ended
        put_back += not path.exists()
        # Either may be the first to come: one that is running, or a new one.
        first = running.consume() if fatal % 2 else ""
        used = used_by_ada(path)
        answer = first or running.consume()
        new = used <= 3
        restored += new
        assert answer == str(3 if new else 7), (fatal, used, answer)
        assert used == int(answer) - (not first), (fatal, used, answer)
        asides = list(folder.glob("prod.db.before-restore-*Z"))
        assert len(asides) == new, (fatal, asides)
        for aside in asides:
            assert used_by_ada(aside) == 6, fatal
        running.end()
        assert used_by_ada(path) == int(answer), fatal
        assert restore_now(folder)[0] == 0
        assert used_by_ada(path) == 2
        clear(folder)
    raise AssertionError


def damaged(folder: Path, asked: argparse.Namespace) -> dict[str, int]:
    """The same of a ledger that can't be read any more, whose WAL is not written back."""
    path, torn, template = folder / "prod.db", b"\0" * 4096, to_restore(folder)
    restored, put_back = 0, 0
    for fatal in range(first_of(folder, asked), 10_000):
        copied(template, folder)
        assert in_child(partial(consume_and_die, path)) == -signal.SIGKILL
        path.write_bytes(torn)
        wal = path.with_name("prod.db-wal").read_bytes()
        ended = in_child(partial(restore_killed, folder, fatal, asked))
        if ended == 0:
            return {"steps": fatal - 1, "restored": restored, "put_back": put_back}
        assert ended == -signal.SIGKILL, ended
        put_back += not path.exists()
        mend(path)
        asides = list(folder.glob("prod.db.before-restore-*Z"))
        restored += len(asides)
        (old,) = asides or [path]
        assert old.read_bytes() == torn, fatal
        assert old.with_name(old.name + "-wal").read_bytes() == wal, fatal
        if asides:
            assert used_by_ada(path) == 2
        else:
            assert cli("--db", str(path), "status")[0] == 78, fatal
        assert restore_now(folder)[0] == 0
        assert used_by_ada(path) == 2
        clear(folder)
    raise AssertionError


def consume_and_die(path: Path) -> None:
    quotactl.connect(path).consume(user="ada", resource="image")
    os.kill(os.getpid(), signal.SIGKILL)


def migrate(folder: Path, asked: argparse.Namespace) -> dict[str, int]:
    """Kill `db migrate` at each of its steps: the old ledger or the new one, no half backup."""
    old = (Path(__file__).parent.parent / "packaging" / "schema1.db").read_bytes()
    path = folder / "prod.db"
    before = dump_of(copied({"old.db": old}, folder) / "old.db")
    migrated = 0

    def act(fatal: int) -> None:
        Steps(folder, fatal, asked.every)
        assert cli("--db", str(path), "db", "migrate")[0] == 0

    for fatal in itertools.count(1):
        copied({"prod.db": old}, folder)
        ended = in_child(partial(act, fatal))
        if ended == 0:
            return {"steps": fatal - 1, "migrated": migrated}
        assert ended == -signal.SIGKILL, ended
        done = dump_of(path) != before
        migrated += done
        assert cli("--db", str(path), "status")[0] == (0 if done else 78)
        for backup in folder.glob("prod.db.backup-*"):
            assert dump_of(backup) == before, fatal
            # Of the same second: else the next would have another name.
            backup.unlink()
        assert cli("--db", str(path), "db", "migrate")[0] == 0, fatal
        assert cli("--db", str(path), "db", "verify")[0] == 0, fatal
        left = [file.name for file in folder.iterdir() if file.name.endswith(".unfinished")]
        # Where there was nothing left to migrate, nothing was cleared away.
        assert not left or done, (fatal, left)
        for name in left:
            shutil.rmtree(folder / name)
        clear(folder)
    raise AssertionError


def dump_of(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return "\n".join(connection.iterdump())


def restore_now(folder: Path) -> tuple[int, str]:
    return cli("--db", str(folder / "prod.db"), "db", "restore", str(folder / "copy.db"), "--yes")


def restore_killed(folder: Path, fatal: int, asked: argparse.Namespace) -> None:
    Steps(folder, fatal, asked.every)
    code, said = restore_now(folder)
    assert code == 0, said


def used_by_ada(path: Path) -> int:
    """What was used of a ledger that is whole."""
    with quotactl.connect(path) as q:
        assert q.verify().ok
        used: int = q.check(user="ada", resource="image").used
        return used


def clear(folder: Path) -> None:
    """Empty the folder, in which nothing may be left of what was killed."""
    for file in folder.iterdir():
        assert not file.name.endswith((".unfinished", "-swap")), file
        file.unlink()


ACTS = {act.__name__: act for act in (init, race, restore, damaged, migrate)}


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("acts", choices=ACTS, nargs="+")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--last", type=int, default=0)
    parser.add_argument("--no-links", action="store_true")
    asked = parser.parse_args()
    if asked.no_links:
        os.link = refused
    for name in asked.acts:
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
            # Once in this process, so that its children need not import anything.
            copied(to_restore(Path(other)), Path(other))
            assert restore_now(Path(other))[0] == 0
            figures = ACTS[name](Path(folder), asked)
        print(json.dumps({"act": name, **figures}))  # noqa: T201


def refused(*_arguments: Any, **_options: Any) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


if __name__ == "__main__":
    run()
