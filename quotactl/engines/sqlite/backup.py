"""Copies of a ledger: how one is made while others write, looked at, and put in its place.

Nothing here opens a ledger with anything but SQLite: closing another descriptor of it
drops the locks of the whole process.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from quotactl.engines.schema import apply_migrations
from quotactl.engines.sqlite.book import Book
from quotactl.engines.sqlite.checks import Look
from quotactl.engines.sqlite.door import check_schema, schema_version
from quotactl.engines.sqlite.failures import translated, written_meanwhile
from quotactl.engines.sqlite.files import access_of, state_of
from quotactl.engines.sqlite.queue import Turnstile
from quotactl.engines.sqlite.session import Session
from quotactl.engines.sqlite.whole import BESIDE, has_wal, sync
from quotactl.errors import LedgerBusy, NotFound, QuotaError

if TYPE_CHECKING:
    from quotactl.ledger.loaded import Asked

BUSY_TIMEOUT_S = 5.0


class Copy:
    """A ledger file that no other process has open: a copy. An Engine like the ledger's own.

    Writes go without the queue, which would leave its lock files beside every copy.
    Read-only unless told; nothing is then made beside the file.
    """

    def __init__(self, path: Path, *, writable: bool = False, older_too: bool = False) -> None:
        self.path = path
        self._connection = _open(path, "rw" if writable else _finished(path))
        try:
            with translated(path):
                check_schema(self._connection, path, older_too=older_too)
        except BaseException:
            self._connection.close()
            raise

    @contextmanager
    def reading(self) -> Iterator[Book]:
        """One consistent view; writes nothing."""
        with self._transaction("BEGIN"):
            yield Book(Session(self._connection))

    def glancing(self, asked: Asked) -> AbstractContextManager[Book]:  # noqa: ARG002
        """As good as a whole view: nobody writes."""
        return self.reading()

    def stands(self, *_: object) -> None:
        """Nothing: it is looked up."""

    def count(self, *_: object) -> None:
        """Nobody asks a copy often."""

    def expects_denial(self, asked: Asked) -> bool:  # noqa: ARG002
        return False

    def learn(self, asked: Asked, *, denied: bool) -> None:
        """Nobody asks a copy."""

    @contextmanager
    def writing(
        self,
        asked: Asked | None = None,  # noqa: ARG002
        *,
        durable: bool = True,  # noqa: ARG002
    ) -> Iterator[Book]:
        """One transaction, committed when the block ends."""
        with self._transaction("BEGIN IMMEDIATE"):
            yield Book(Session(self._connection))
            self._connection.execute("COMMIT")

    def schema(self) -> int:
        """The version of its schema."""
        return schema_version(self._connection, self.path)

    def damage(self) -> list[str]:
        """What SQLite finds wrong with the file, as lines; none if nothing."""
        with translated(self.path):
            lines = [line for (line,) in self._connection.execute("PRAGMA integrity_check(20)")]
        return [] if lines == ["ok"] else lines

    def bring_up_to_date(self) -> None:
        """Apply the steps of the schema that it lacks."""
        with self._transaction("BEGIN IMMEDIATE"):
            apply_migrations(self._connection)
            self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        with translated(self.path, look=lambda: Look()(self._connection)):
            self._connection.execute(begin)
            try:
                yield
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")


def back_up(path: Path, to: Path, *, shown: Path, finished: bool = False) -> None:
    """Copy a ledger's committed state into a new file, readable by its owner alone.

    Through SQLite and in one step: a copy of the file is torn while others write, and
    small steps start anew with each of their commits. Writers go on meanwhile. `finished`
    says that there are none: it is a backup itself. `shown` is what the copy is to become.
    """
    mend(path)
    try:
        os.close(os.open(to, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise QuotaError(f"can't create {shown}: {error.strerror}") from None
    # Where it may not be written, without locks, as every reader then does it.
    access, frozen = ("ro", None) if finished else access_of(path)
    mode = "ro&immutable=1" if access == "frozen" else "ro"
    # What is read can be damaged, what is written can find the disk full.
    with translated(path):
        source = _open(path, _finished(path) if finished else mode)
        try:
            target = sqlite3.connect(to, isolation_level=None)
            try:
                source.backup(target, pages=-1)
            finally:
                target.close()
        finally:
            # Opened for reading alone, it can't be the one to write the WAL back.
            source.close()
    if frozen is not None and state_of(path) != frozen:
        raise written_meanwhile(path)


def share_like(path: Path, copy: Path) -> None:
    """Let the group have of a copy what it has of the ledger; others have nothing."""
    try:
        like = path.stat()
    except FileNotFoundError:
        return
    mode = like.st_mode & (stat.S_IRGRP | stat.S_IWGRP)
    if mode:
        try:
            os.chown(copy, -1, like.st_gid)
        except OSError:
            return  # not of that group: then nobody but the owner
        copy.chmod(0o600 | mode)


def share_folder_like(path: Path, folder: Path) -> None:
    """Let the group use a folder of copies as it may use the ledger; others have nothing."""
    share_like(path, folder)
    mode = folder.stat().st_mode
    if mode & stat.S_IRGRP:
        # To get at what is in it; what a group makes there is to stay the group's.
        folder.chmod(stat.S_IMODE(mode) | stat.S_IXUSR | stat.S_IXGRP | stat.S_ISGID)


def shut_to_group(path: Path) -> tuple[str, str] | None:
    """Where a group may write a ledger but not its folder: what is wrong, and what mends it."""
    like, folder = path.stat(), path.resolve().parent
    there = folder.stat()
    if not like.st_mode & stat.S_IWGRP:
        return None
    for mask, mine in (
        (stat.S_IWOTH | stat.S_IXOTH, True),
        (stat.S_IWGRP | stat.S_IXGRP, there.st_gid == like.st_gid),
    ):
        if mine and there.st_mode & mask == mask:
            return None
    return (
        f"{folder} can't be written by group {like.st_gid}: SQLite needs to, beside the ledger",
        f"chgrp {like.st_gid} {folder} && chmod g+rwxs {folder}",
    )


def take_owner_of(path: Path, copy: Path) -> None:
    """Let a copy belong to the ledger's owner, as one that root restores otherwise would not."""
    with suppress(OSError):
        like = path.stat()
        if like.st_uid != os.geteuid():
            os.chown(copy, like.st_uid, like.st_gid)


def remove(copy: Path) -> None:
    """Remove a copy, with what SQLite may have left beside it."""
    for name in (copy.name, *(copy.name + suffix for suffix in (*BESIDE, "-journal"))):
        copy.with_name(name).unlink(missing_ok=True)


@contextmanager
def swapping(path: Path) -> Iterator[sqlite3.Connection | None]:
    """The writers' turn, for putting another file in a ledger's place.

    All that was committed is in the file itself, and nobody can write until the block
    ends. Gives a connection for reading, None where there is no ledger or it can't be
    read. Raises LedgerBusy where the turn or the end of long reads does not come in time.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    queue = Turnstile(path)
    try:
        queue.enter(deadline)
        _put_back(path.resolve())
        connection = None
        try:
            connection = _emptied_wal(path, deadline)
            # Open until the swap is done: nobody else can be the last to close the old file,
            # who would remove the WAL by its name.
            yield connection
        finally:
            if connection is not None:
                connection.close()
    finally:
        queue.close()


@contextmanager
def book_of(connection: sqlite3.Connection, path: Path) -> Iterator[Book]:
    """A ledger as the connection of `swapping()` sees it."""
    with translated(path):
        yield Book(Session(connection))


def swap(new: Path, path: Path, aside: Path) -> None:
    """Put `new` in the place of a ledger, which is kept as `aside`; within `swapping()`.

    First away, then in. Whoever has the old one open then sees first that it is gone: as
    long as the name led to it, they would go on with a WAL and shm that newcomers no longer
    find; and a new one under the name would be read with the old one's WAL. In between no
    ledger has the name, so a note beside it says where the old one is: `mend()` puts that
    back if this process is killed.
    """
    real = path.resolve()
    if has_wal(new):
        raise QuotaError(f"{new} is not written back: its WAL is not empty")
    with suppress(OSError):  # a file system without links: then nobody can put it back
        _note(real).symlink_to(aside.name)
    sync(real.parent)
    for suffix in ("", *BESIDE):
        with suppress(FileNotFoundError):
            real.with_name(real.name + suffix).rename(aside.with_name(aside.name + suffix))
    new.rename(real)
    sync(real.parent)
    _finish(real, aside)


def mend(path: Path, timeout_s: float = BUSY_TIMEOUT_S) -> None:
    """Put back the ledger that a killed restore took away; nothing where there was none.

    Waits for one that is under way. Raises LedgerBusy where the turn does not come in time.
    """
    real = path.resolve()
    if not os.path.lexists(_note(real)):
        return
    # What this process may not do, the next that may does.
    with suppress(OSError):
        queue = Turnstile(path)
        try:
            queue.enter(time.monotonic() + timeout_s)
            _put_back(real)
        finally:
            queue.close()


def _put_back(real: Path) -> None:
    """Undo a swap that was broken off before the new ledger had the name; in the turn."""
    try:
        aside = real.with_name(_note(real).readlink().name)
    except OSError:
        return
    if not os.path.lexists(real) and aside.name.startswith(f"{real.name}."):
        # The ledger last: nobody may open it without its WAL.
        for suffix in (*BESIDE, ""):
            with suppress(FileNotFoundError):
                aside.with_name(aside.name + suffix).rename(real.with_name(real.name + suffix))
    _finish(real, aside)


def _finish(real: Path, aside: Path) -> None:
    # Whoever reads the old file still has these open; its WAL is empty, unless it is damaged.
    if not has_wal(aside):
        aside.with_name(aside.name + "-wal").unlink(missing_ok=True)
    aside.with_name(aside.name + "-shm").unlink(missing_ok=True)
    _note(real).unlink(missing_ok=True)
    sync(real.parent)


def _note(real: Path) -> Path:
    return real.with_name(real.name + "-swap")


def _emptied_wal(path: Path, deadline: float) -> sqlite3.Connection | None:
    """A connection in a transaction that keeps writers out, with nothing in the WAL."""
    if not path.exists():
        return None
    connection = _open(path, "rw")
    try:
        # Who has this file open and counts by what is known of it finds that this stands no
        # more, and looks up which file has the name. Where it can't be written, they can't either.
        with suppress(sqlite3.OperationalError):
            connection.execute("UPDATE ledger SET policy_version = policy_version + 1")
        while True:
            (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not busy:
                connection.execute("BEGIN IMMEDIATE")
                if not has_wal(path):
                    return connection
                # Somebody who does not queue was faster.
                connection.execute("ROLLBACK")
            if time.monotonic() > deadline:
                raise LedgerBusy(f"{path} is being read all the time", hint="safe to try again")
    except sqlite3.DatabaseError as error:
        connection.close()
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
            raise LedgerBusy(f"{path} is busy", hint="safe to try again") from None
        # Damaged: its WAL goes aside with it.
        return None
    except BaseException:
        connection.close()
        raise


def _finished(path: Path) -> str:
    # Immutable: a finished copy needs no lock, and SQLite then makes no WAL and shm beside
    # it. Where there is a WAL, the file without it is not all of the ledger.
    return "ro" if has_wal(path) else "ro&immutable=1"


def _open(path: Path, mode: str) -> sqlite3.Connection:
    if not path.exists():
        raise NotFound(f"no file {path}")
    with translated(path):
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
        )
        try:
            connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()
            raise
    return connection
