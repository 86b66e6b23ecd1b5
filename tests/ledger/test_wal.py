"""A writer among others waits for the disk after its turn: nobody is told before."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import quotactl
from quotactl.engines.sqlite import wal as module
from quotactl.engines.sqlite.door import SqliteEngine
from quotactl.engines.sqlite.queue import Turnstile
from quotactl.engines.sqlite.wal import Wal

_commit_nothing = SqliteEngine._commit_nothing
EIO = OSError(errno.EIO, os.strerror(errno.EIO))


class Disk:
    """What was waited for, each time with whether the turn was free and what was committed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waits: list[tuple[bool, int]] = []
        # What the next waits come to.
        self.fails: list[OSError] = []

    def wait(self, descriptor: int) -> None:
        assert os.path.samestat(os.fstat(descriptor), Path(f"{self.path}-wal").stat())
        with closing(Turnstile(self.path)) as another:
            free = self.enters(another)
        with closing(sqlite3.connect(self.path)) as connection:
            (used,) = connection.execute("SELECT sum(used) FROM counter").fetchone()
        self.waits.append((free, used))
        if self.fails:
            raise self.fails.pop()

    def commit(self, engine: SqliteEngine) -> None:
        """Of a commit SQLite does not tell; it waits, if it has written anything."""
        wal = Path(f"{self.path}-wal")
        before = wal.stat().st_size
        _commit_nothing(engine)
        assert wal.stat().st_size > before
        assert engine._connection.execute("PRAGMA synchronous").fetchone() == (2,)
        with closing(Turnstile(self.path)) as another:
            free = self.enters(another)
        (used,) = engine._connection.execute("SELECT sum(used) FROM counter").fetchone()
        self.waits.append((free, used))

    enters = staticmethod(Turnstile.enter_at_once)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "l.db"
    make(path)
    return path


def make(path: Path) -> None:
    with quotactl.create(path, notify=False, actor="it") as q:
        q.admin.create_resource("image")
        q.admin.create_tier("free")
        q.admin.set_limit(tier="free", resource="image", limit="9/day")
        q.admin.set_default_tier("free")
        q.consume(user="ada", resource="image", idempotency_key="first")


@pytest.fixture
def disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(path)
    monkeypatch.setattr(module, "_to_disk", disk.wait)

    def commit(engine: SqliteEngine) -> None:
        disk.commit(engine)

    monkeypatch.setattr(SqliteEngine, "_commit_nothing", commit)
    return disk


@pytest.fixture
def q(path: Path, disk: Disk) -> Iterator[quotactl.Ledger]:
    with quotactl.connect(path, notify=False) as q:
        q.consume(user="ada", resource="image", idempotency_key="second")
        assert not disk.waits
        yield q


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch, q: quotactl.Ledger) -> None:
    """From now on nobody's turn comes at once."""
    monkeypatch.setattr(Turnstile, "enter_at_once", lambda _: False)


def synchronous(q: quotactl.Ledger) -> int:
    connection: sqlite3.Connection = q.engine._connection  # type: ignore[attr-defined]
    return int(connection.execute("PRAGMA synchronous").fetchone()[0])


def test_alone_commit_waits(q: quotactl.Ledger, disk: Disk) -> None:
    q.consume(user="ada", resource="image")
    assert (synchronous(q), disk.waits) == (2, [])


@pytest.mark.usefixtures("crowd")
def test_among_others_the_turn_is_free_and_the_unit_there_while_one_waits(
    q: quotactl.Ledger, disk: Disk
) -> None:
    for taken in (3, 4):
        q.consume(user="ada", resource="image", idempotency_key=f"{taken}")
        assert disk.waits.pop() == (True, taken)
        assert synchronous(q) == 1
    assert not disk.waits


@pytest.mark.usefixtures("crowd")
def test_nor_when_the_turn_comes_at_once_again(
    q: quotactl.Ledger, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    q.consume(user="ada", resource="image")
    monkeypatch.setattr(Turnstile, "enter_at_once", Disk.enters)
    q.consume(user="ada", resource="image")
    assert disk.waits == [(True, 3), (True, 4)]


@pytest.mark.usefixtures("crowd")
def test_what_is_not_taken_is_not_waited_for(q: quotactl.Ledger, disk: Disk) -> None:
    assert not q.consume(user="ada", resource="image", amount=9).allowed
    assert q.consume(user="bob", resource="image", amount=9).allowed
    disk.waits.clear()
    for _ in range(3):
        assert not q.consume(user="bob", resource="image").allowed
    q.admin.set_setting("durability", "relaxed")
    q.consume(user="ada", resource="image")
    q.consume(user="ada", resource="image")
    q.consume(user="ada", resource="image", idempotency_key="first")
    assert not disk.waits


@pytest.mark.usefixtures("crowd")
def test_an_act_waits_in_its_turn(q: quotactl.Ledger, disk: Disk) -> None:
    q.consume(user="ada", resource="image")
    disk.waits.clear()
    q.admin.set_override(user="ada", resource="image", limit="7/day", reason="x")
    assert (synchronous(q), disk.waits) == (2, [])


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("waits", [False, True])
def test_who_is_told_by_a_key_waits_for_what_others_may_still_wait_for(
    path: Path,
    q: quotactl.Ledger,
    disk: Disk,
    monkeypatch: pytest.MonkeyPatch,
    waits: bool,
    many: bool,
) -> None:
    if waits:
        monkeypatch.setattr(Turnstile, "enter_at_once", lambda _: False)

    def ask(key: str) -> bool:
        if not many:
            return q.consume(user="ada", resource="image", idempotency_key=key).replayed
        (answer,) = q.consume_many([quotactl.Request("ada", "image", 1, key)])
        assert isinstance(answer, quotactl.Decision)
        return answer.replayed

    # Others may have written before this process came.
    assert ask("first")
    assert disk.waits.pop() == (True, 2)
    # What nobody has written since is there.
    assert ask("first") and ask("second")
    assert not disk.waits
    with quotactl.connect(path, notify=False) as other:
        other.consume(user="ada", resource="image", idempotency_key="other")
    disk.waits.clear()
    assert ask("other")
    assert disk.waits.pop() == (True, 3)
    assert ask("other")
    assert not disk.waits


def test_a_schema_that_was_raised_meanwhile_is_left_so(
    path: Path, q: quotactl.Ledger, disk: Disk
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as newer:
        newer.execute("PRAGMA user_version = 77")
        assert q.consume(user="ada", resource="image", idempotency_key="first").replayed
        assert disk.waits == [(True, 2)]
        assert newer.execute("PRAGMA user_version").fetchone() == (77,)


@pytest.mark.usefixtures("crowd")
def test_where_the_disk_fails_once_the_wal_is_written_again_in_a_turn(
    path: Path, q: quotactl.Ledger, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.fails = [EIO]
    wal = Path(f"{path}-wal")
    before = b""
    pwrite = os.pwrite

    def write(descriptor: int, content: bytes, at: int) -> int:
        nonlocal before
        before = before or wal.read_bytes()
        assert len(content) <= 1000
        with (
            closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("BEGIN IMMEDIATE")
        # As if it had been lost; and not all of it at once.
        content = content[:700]
        pwrite(descriptor, bytes(len(content)), at)
        return pwrite(descriptor, content, at)

    monkeypatch.setattr(os, "pwrite", write)
    monkeypatch.setattr(module, "_AT_ONCE", 1000)
    assert q.consume(user="ada", resource="image", idempotency_key="k").used == 3
    assert disk.waits == [(True, 3), (False, 3)]
    assert len(before) > 3000
    assert wal.read_bytes() == before
    disk.waits.clear()
    assert q.consume(user="ada", resource="image").used == 4
    assert disk.waits == [(True, 4)]
    assert q.verify().ok


@pytest.mark.usefixtures("crowd")
def test_where_the_disk_goes_on_failing_nothing_more_is_told(
    q: quotactl.Ledger, disk: Disk
) -> None:
    # What was there before is, which is found out by a look.
    assert q.consume(user="ada", resource="image", idempotency_key="first").replayed
    disk.waits.clear()
    disk.fails = [EIO] * 5
    for _ in range(2):
        with pytest.raises(quotactl.QuotaError, match="is unknown") as failure:
            q.consume(user="ada", resource="image", idempotency_key="k")
        assert failure.value.hint == "try again with the same key"
    # It waits itself, then in a turn, and as long as that fails in a turn only.
    assert disk.waits == [(True, 3), (False, 3), (False, 3)]
    with pytest.raises(quotactl.QuotaError, match="can't be written"):
        q.admin.set_override(user="ada", resource="image", limit="7/day", reason="x")
    with pytest.raises(quotactl.QuotaError, match="is unknown"):
        q.consume(user="ada", resource="image", idempotency_key="l")
    disk.waits.clear()
    assert not disk.fails
    again = q.consume(user="ada", resource="image", idempotency_key="k")
    assert (again.replayed, again.used) == (True, 4)
    assert disk.waits == [(False, 4)]
    assert q.consume(user="ada", resource="image").used == 5
    assert q.verify().ok


@pytest.mark.usefixtures("crowd")
@pytest.mark.parametrize("where", ["run", "leave", "disk"])
def test_a_wait_that_was_broken_off_is_made_up_for_by_a_retry(
    q: quotactl.Ledger, disk: Disk, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    q.consume(user="ada", resource="image")
    assert q.consume(user="ada", resource="image", idempotency_key="first").replayed
    disk.waits.clear()

    def broken_off(of: Callable[..., object]) -> Callable[..., object]:
        def broken(*given: object) -> object:
            of(*given)
            raise KeyboardInterrupt

        return broken

    with monkeypatch.context() as patched:
        if where == "run":
            patched.setattr(Turnstile, "run", broken_off(Turnstile.run))
        elif where == "leave":
            patched.setattr(Turnstile, "enter_at_once", Disk.enters)
            patched.setattr(Turnstile, "leave", broken_off(Turnstile.leave))
            q.engine._queue._contended = False  # type: ignore[attr-defined]
        else:
            patched.setattr(module, "_to_disk", broken_off(lambda _: None))
        with pytest.raises(KeyboardInterrupt):
            q.consume(user="ada", resource="image", idempotency_key="k")
    assert not disk.waits
    for _ in range(2):
        assert q.consume(user="ada", resource="image", idempotency_key="k").replayed
        assert disk.waits == [(True, 4)]


def test_what_was_taken_without_waiting_is_waited_for_once_that_is_wanted(
    q: quotactl.Ledger, disk: Disk
) -> None:
    assert q.consume(user="ada", resource="image", idempotency_key="first").replayed
    q.admin.set_setting("durability", "relaxed")
    q.consume(user="ada", resource="image", idempotency_key="k")
    # As somebody else sets it, who commits without waiting.
    with closing(sqlite3.connect(disk.path, isolation_level=None)) as other:
        other.execute("DELETE FROM setting")
        other.execute("UPDATE ledger SET policy_version = policy_version + 1")
    q.check(user="ada", resource="image")
    disk.waits.clear()
    assert q.consume(user="ada", resource="image", idempotency_key="k").replayed
    assert disk.waits == [(True, 3)]


def test_a_batch_that_waited_itself_does_not_wait_again(q: quotactl.Ledger, disk: Disk) -> None:
    first, new = (quotactl.Request("ada", "image", 1, key) for key in ("first", "new"))
    old, taken = q.consume_many([first, new])
    assert isinstance(old, quotactl.Decision) and isinstance(taken, quotactl.Decision)
    assert (old.replayed, taken.replayed, taken.used) == (True, False, 3)
    assert not disk.waits


def test_a_folder_that_cannot_be_opened_is_let_be(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", refuse)
    with quotactl.connect(path):
        wal = Wal(str(path))
        wal.to_disk()
        wal.close()


@pytest.mark.usefixtures("crowd")
def test_who_has_no_descriptor_left_waits_in_turn(
    q: quotactl.Ledger, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(module, "Wal", refuse)
    # It has lined up once, so that the queue's files are open.
    q.consume(user="ada", resource="image")
    assert (synchronous(q), disk.waits) == (2, [])
    assert q.consume(user="ada", resource="image", idempotency_key="first").replayed


def swap(path: Path) -> None:
    """Put the new ledger in the place of the other, as a restore does."""
    path.rename(path.with_name("old.db"))
    for suffix in ("-wal", "-shm"):
        path.with_name(f"l.db{suffix}").rename(path.with_name(f"old.db{suffix}"))
    path.with_name("new.db").rename(path)


@pytest.mark.usefixtures("crowd")
def test_what_failed_in_a_ledger_that_is_gone_since_was_not_taken(
    path: Path, q: quotactl.Ledger, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(path.with_name("new.db"))
    q.consume(user="ada", resource="image")

    def fail(_: int) -> None:
        monkeypatch.setattr(module, "_to_disk", disk.wait)
        swap(path)
        raise EIO

    monkeypatch.setattr(module, "_to_disk", fail)
    with pytest.raises(quotactl.QuotaError, match="is unknown"):
        q.consume(user="ada", resource="image", idempotency_key="k")
    again = q.consume(user="ada", resource="image", idempotency_key="k")
    assert (again.replayed, again.used) == (False, 2)


@pytest.mark.usefixtures("crowd")
def test_in_another_ledger_under_the_name_it_waits_for_that(
    path: Path, q: quotactl.Ledger, disk: Disk
) -> None:
    make(path.with_name("new.db"))
    q.consume(user="ada", resource="image")
    swap(path)
    disk.waits.clear()
    for taken in (2, 3):
        assert q.consume(user="ada", resource="image").used == taken
    assert disk.waits[-1] == (True, 3)


def test_the_name_of_the_wal_is_on_the_disk_too(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[os.stat_result] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor)))
    link = path.parent / "folder" / "link.db"
    link.parent.mkdir()
    link.symlink_to(path)
    with quotactl.connect(path):
        Wal(str(link)).close()
    (folder,) = synced
    assert os.path.samestat(folder, path.parent.stat())


HOLDER = """
import os, sqlite3, sys
from quotactl.engines.sqlite.wal import Wal
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
db.execute("UPDATE ledger SET name = 'held'")
wal = Wal(sys.argv[1])
wal.to_disk()
wal.close()
print("closed", flush=True)
sys.stdin.readline()
db.execute("COMMIT")
"""


def test_to_open_and_close_the_wal_drops_no_lock(path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as it:
        assert it.stdin is not None and it.stdout is not None
        assert it.stdout.readline() == "closed\n"
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("PRAGMA journal_mode = DELETE")
        # The last to close would remove it.
        assert Path(f"{path}-wal").exists()
        it.stdin.write("\n")
        it.stdin.close()
        assert it.wait() == 0
    with closing(sqlite3.connect(path)) as after:
        assert after.execute("SELECT name FROM ledger").fetchone() == ("held",)
