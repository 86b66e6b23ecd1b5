"""Full disk, read-only disk, no more open files, a vanished file, in each of the commands
that write: one clear line, the right exit code, the ledger whole, and work goes on after it.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import quotactl
from quotactl.cli import main
from quotactl.engines.sqlite import door

SOURCE = str(Path(quotactl.__file__).resolve().parent.parent)
SCHEMA_1 = Path(__file__).parent.parent / "packaging" / "schema1.db"
# Runs the command once under each of the limits and then without one, which stands for a
# disk that has room again. What is written to a file beyond the limit fails, as on a full one.
PROGRAM = """
import contextlib, io, json, os, resource, sys
from quotactl.cli import main
import quotactl.cli.run

which, limits, lines = getattr(resource, sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
soft, hard = resource.getrlimit(which)
told = []
for limit in [*limits, soft]:
    for line in lines:
        out, err = io.StringIO(), io.StringIO()
        if which == resource.RLIMIT_NOFILE and limit != soft:
            lowest = os.dup(0)
            os.close(lowest)
            limit += lowest
        resource.setrlimit(which, (limit, hard))
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(line.replace("{limit}", str(limit)).split())
        finally:
            resource.setrlimit(which, (soft, hard))
        told.append([line, limit if limit != soft else None, code, err.getvalue()])
print(json.dumps(told))
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return made(tmp_path / "prod.db")


def made(path: Path) -> Path:
    """A ledger of ten days ago, with something in it."""
    past = datetime.now(UTC) - timedelta(days=10)
    with quotactl.create(path, name="prod", clock=lambda: past) as q:
        q.admin.create_resource("image")
        q.admin.create_tier("free")
        q.admin.set_limit(tier="free", resource="image", limit="10000/day")
        q.consume_many([quotactl.Request(f"u{n}", "image") for n in range(50)])
    return path


def limited(which: str, limits: list[int], path: Path, *lines: str) -> list[list[Any]]:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, which, json.dumps(limits), *lines],
        cwd=path.parent,
        env={
            **os.environ,
            "PYTHONPATH": SOURCE,
            "QUOTACTL_DB": str(path),
            "QUOTACTL_CONFIG": "/dev/null",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    told: list[list[Any]] = json.loads(ran.stdout)
    return told


def assert_told(told: list[list[Any]], *words: str, failed: int = 1) -> None:
    """Each failure in one line that has one of these words in it; none without a limit."""
    failures = 0
    for line, limit, code, err in told:
        if limit is None:
            assert code == 0, (line, err)
        elif code:
            failures += 1
            assert code == 1, (line, limit, code, err)
            assert err.count("\n") == 1, (line, limit, err)
            assert any(word in err for word in words), (line, limit, err)
            assert "unexpected" not in err, (line, limit, err)
    assert failures >= failed, told


def assert_sound(path: Path) -> None:
    with quotactl.connect(path) as q:
        assert q.verify().differences == ()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# 0 for a -shm that can't be made; above its 32 kB the WAL fails somewhere in its midst.
SIZES = [0, 33_000, 34_000, 36_000, 40_000, 50_000]
WRITES = [
    "consume ada image --key k{limit}",
    "throttle on --cap 9999/day --reason r --yes --replace",
    "reset daily",
]


@pytest.mark.parametrize("line", WRITES)
def test_a_file_that_can_not_grow_leaves_the_ledger_whole_and_work_goes_on(
    path: Path, line: str
) -> None:
    # Long enough a WAL that every size is too small for its next page.
    with quotactl.connect(path) as q:
        q.consume_many([quotactl.Request(f"w{n}", "image") for n in range(600)])
        assert path.with_name("prod.db-wal").stat().st_size > max(SIZES)
        told = limited("RLIMIT_FSIZE", SIZES, path, line)
        assert_told(told, "the disk f", failed=len(SIZES) - 1)
    told = limited("RLIMIT_FSIZE", SIZES, path, line)
    assert_told(told, "the disk f", "can't be opened", failed=0)
    assert_sound(path)


def test_a_denial_that_can_not_be_written_is_an_error_and_takes_nothing(path: Path) -> None:
    with quotactl.connect(path) as q:
        q.consume_many([quotactl.Request(f"w{n}", "image") for n in range(300)])
        ((_, _, code, err), *_, (_, _, denied, _)) = limited(
            "RLIMIT_FSIZE", [33_000], path, "consume ada image 10001"
        )
        assert (code, err.count("\n")) == (1, 1), err
        assert denied == 3
        assert q.check(user="ada", resource="image").used == 0
    assert_sound(path)


def test_a_migration_that_finds_no_room_leaves_the_old_ledger(path: Path) -> None:
    old = path.with_name("old.db")
    shutil.copyfile(SCHEMA_1, old)
    size = old.stat().st_size
    sizes = [0, 40_000, size // 2, size - 1000, size + 1000]
    told = limited("RLIMIT_FSIZE", sizes, old, "db migrate")
    assert_told(told, "the disk f", "can't be", "can't create", failed=4)
    assert_sound(old)
    # Only the one of the migration that went through: failed ones leave no backup.
    assert len(list(old.parent.glob("old.db.backup*"))) == 1


def test_a_backup_that_finds_no_room_leaves_nothing_behind(path: Path) -> None:
    size = path.stat().st_size
    sizes = [0, 4096, 40_000, size // 2, size - 1000]
    told = limited("RLIMIT_FSIZE", sizes, path, "db backup copy-{limit}.db")
    assert_told(told, "the disk f", "can't be", "can't create", failed=4)
    assert len(list(path.parent.glob("copy-*"))) == 1
    assert_sound(path)


def test_a_making_that_finds_no_room_leaves_nothing_behind(path: Path) -> None:
    folder = path.with_name("new")
    folder.mkdir()
    told = limited("RLIMIT_FSIZE", [0, 4096, 33_000, 50_000], path, "init new/{limit}.db")
    assert_told(told, "the disk f", "can't", failed=4)
    assert len({file.name.partition(".")[0] for file in folder.iterdir()}) == 1


@pytest.mark.parametrize("line", [*WRITES, "db backup copy-{limit}.db", "db verify"])
def test_too_many_open_files_are_named_and_work_goes_on(path: Path, line: str) -> None:
    told = limited("RLIMIT_NOFILE", list(range(10)), path, line)
    assert_told(told, "oo many open files", failed=3)
    assert_sound(path)


def test_a_migration_with_too_many_open_files_leaves_the_old_ledger(path: Path) -> None:
    old = path.with_name("old.db")
    shutil.copyfile(SCHEMA_1, old)
    told = limited("RLIMIT_NOFILE", list(range(9)), old, "db migrate")
    assert_told(told, "oo many open files", failed=3)
    assert_sound(old)


# ---- a commit whose outcome is not known


def failing(execute: Callable[..., Any], code: int) -> Callable[..., Any]:
    """The same, but COMMIT fails as a disk does."""

    def fail(statement: str, *values: Any) -> Any:
        if statement == "COMMIT":
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = code
            raise error
        return execute(statement, *values)

    return fail


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (sqlite3.SQLITE_IOERR_FSYNC, "whether the last change was kept is unknown"),
        (sqlite3.SQLITE_FULL, "the disk is full"),
    ],
)
def test_a_commit_that_fails_says_what_is_known_of_its_outcome(
    path: Path, code: int, said: str
) -> None:
    with quotactl.connect(path) as q:
        session = q.engine._session  # type: ignore[attr-defined]
        execute = session.execute
        session.execute = failing(execute, code)
        with pytest.raises(quotactl.QuotaError, match=said) as failure:
            q.consume(user="ada", resource="image", idempotency_key="k")
        assert failure.value.hint is not None
        assert ("same key" in failure.value.hint) == ("unknown" in said)
        session.execute = execute
        assert q.consume(user="ada", resource="image", idempotency_key="k").used == 1


# ---- a real file system, where it can be mounted


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    at = tmp_path / "small"
    at.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None or _call(mount, "-t", "tmpfs", "-o", "size=1m", "t", at):
        pytest.skip("nothing can be mounted here")
    yield at
    _call("umount", "-l", at)


def _call(*words: str | Path) -> int:
    return subprocess.run(words, check=False, capture_output=True).returncode


def test_a_full_file_system_refuses_each_command_in_a_line_and_goes_on_with_room(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made(small / "prod.db")
    shutil.copyfile(SCHEMA_1, small / "old.db")
    lines = [
        *(f"{line.replace('{limit}', '1')} --db {path}" for line in WRITES),
        f"db migrate --db {small}/old.db",
        f"db backup {small}/copy.db --db {path}",
    ]
    gateway = quotactl.connect(path)
    assert gateway.consume(user="ada", resource="image").used == 1
    with (small / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass
    capsys.readouterr()
    served, refused = 0, []
    for _ in range(100):
        try:
            gateway.consume(user="ada", resource="image")
            served += 1
        except quotactl.QuotaError as error:
            refused.append(error.message)
    assert {message.partition(": ")[2] for message in refused} == {"the disk is full"}
    for line in lines:
        assert main(line.split()) == 1, line
        err = capsys.readouterr().err
        assert "quotactl: " in err and err.count("\n") == 1, (line, err)
        assert "disk is full" in err or "No space left" in err, (line, err)
    assert gateway.check(user="ada", resource="image").used == 1 + served
    (small / "filler").unlink()
    assert gateway.consume(user="ada", resource="image").used == 2 + served
    for line in lines:
        assert main(line.split()) == 0, (line, capsys.readouterr().err)
    gateway.close()
    assert_sound(path)
    assert_sound(small / "old.db")


def test_a_read_only_file_system_is_read_and_not_written(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made(small / "prod.db")
    shutil.copyfile(SCHEMA_1, small / "old.db")
    assert _call("mount", "-o", "remount,ro", small) == 0
    for line in ("check ada image", "status", "db verify", "report usage"):
        assert main([*line.split(), "--db", str(path)]) == 0, capsys.readouterr().err
    for line in [*WRITES, "db migrate", f"db backup {small}/copy.db", f"init {small}/new.db"]:
        db = path if line != "db migrate" else small / "old.db"
        capsys.readouterr()
        assert main([*line.split(), "--db", str(db)]) == 1, line
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "read-only" in err.lower(), err
    assert main(["db", "backup", f"{small.parent}/elsewhere.db", "--db", str(path)]) == 0
    assert _call("mount", "-o", "remount,rw", small) == 0
    for line in WRITES:
        assert main([*line.split(), "--db", str(path)]) == 0, capsys.readouterr().err
    assert_sound(path)


# ---- a vanished file, and another one in its place


def take(q: quotactl.Ledger) -> int:
    return q.consume(user="ada", resource="image").used


@pytest.mark.parametrize("how", ["removed", "renamed", "folder renamed"])
def test_what_has_vanished_is_refused_rather_than_written_and_served_when_it_is_back(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ledgers").mkdir()
    path = made(tmp_path / "ledgers" / "prod.db")
    aside = tmp_path / "aside"
    with quotactl.connect(path) as q:
        assert take(q) == 1
        if how == "folder renamed":
            path.parent.rename(aside)
        elif how == "renamed":
            path.rename(aside)
        else:
            os.link(path, aside)
            path.unlink()
        for act in (
            lambda: take(q),
            lambda: q.check(user="ada", resource="image"),
            lambda: q.admin.throttle_on(deny=True, reason="r"),
            q.close_days,
            q.verify,
        ):
            with pytest.raises(quotactl.NotFound, match="is gone") as failure:
                act()
            assert failure.value.exit_code == 6
        for line in [*WRITES, "db backup copy.db", "db migrate", "db verify"]:
            assert main([*line.split(), "--db", str(path)]) == 6
            err = capsys.readouterr().err
            assert err.count("\n") == 1 and "no ledger at" in err, err
        aside.rename(path.parent if how == "folder renamed" else path)
        assert take(q) == 2
    assert_sound(path)


def test_another_ledger_in_its_place_is_gone_over_to_by_the_next_write_and_read(
    tmp_path: Path,
) -> None:
    path, other = made(tmp_path / "prod.db"), made(tmp_path / "other.db")
    with quotactl.connect(other) as q:
        q.admin.throttle_on(cap="7/day", reason="r")
        assert take(q) == 1
    writer, reader = quotactl.connect(path), quotactl.connect(path)
    assert [take(writer), take(writer)] == [1, 2]
    assert reader.check(user="ada", resource="image").used == 2
    with door.SqliteEngine(path).writing() as book:
        assert book.head.name == "prod"
    # As `db restore` does it, in the queue's turn and with nothing left in the WAL.
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()
    path.rename(tmp_path / "old.db")
    other.rename(path)
    decision = reader.check(user="ada", resource="image")
    assert (decision.used, decision.limit) == (1, 7)
    assert take(writer) == 2
    assert reader.check(user="ada", resource="image").used == 2
    writer.close()
    reader.close()
    assert_sound(path)
    with quotactl.connect(tmp_path / "old.db") as q:
        assert q.check(user="ada", resource="image").used == 2
    assert_sound(tmp_path / "old.db")


def test_a_link_and_its_file_are_one_ledger_with_one_queue(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path = made(tmp_path / "real" / "prod.db")
    link = tmp_path / "link.db"
    link.symlink_to(path)
    with quotactl.connect(link, timeout_s=0.05) as by_link, quotactl.connect(path) as q:
        assert [take(by_link), take(q)] == [1, 2]
        with q.engine.writing(), pytest.raises(quotactl.LedgerBusy):
            take(by_link)
        other = made(tmp_path / "other.db")
        link.unlink()
        link.symlink_to(other)
        assert take(by_link) == 1
        assert take(q) == 3
    assert not list(tmp_path.glob("link.db-*"))


def test_a_relative_path_is_the_same_ledger_in_another_folder(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path.parent / "elsewhere").mkdir()
    with quotactl.connect("prod.db") as q:
        monkeypatch.chdir(path.parent / "elsewhere")
        assert take(q) == 1
        assert list(Path().iterdir()) == [], "the queue is the ledger's own"
        # And after it has gone over to another file of that name.
        backup = path.with_name("prod.backup")
        assert main(["--db", str(path), "db", "backup", str(backup)]) == 0
        assert main(["--db", str(path), "db", "restore", str(backup), "--yes"]) == 0
        assert take(q) == 2
        assert list(Path().iterdir()) == []
