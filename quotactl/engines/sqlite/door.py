"""Opening a ledger file, and the two ways in: `reading()` and `writing()`."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quotactl.engines.schema import APPLICATION_ID, SCHEMA_VERSION, apply_migrations
from quotactl.engines.sqlite.book import Book, PolicyCache
from quotactl.engines.sqlite.queue import Turnstile
from quotactl.errors import (
    Conflict,
    InvalidInput,
    LedgerBusy,
    LedgerCorrupt,
    NotFound,
    QuotaError,
    SchemaMismatch,
)
from quotactl.policy.settings import value_of

TIMEOUT_S = 5.0
CLOSING_TIMEOUT_S = 0.25
# Few and large checkpoints: measured to cut the slowest one in a thousand
# commits from 19 ms to 1 ms.
WAL_PAGES = 4000
PAGE_SIZE = 2048
# The first with STRICT tables.
OLDEST_SQLITE = (3, 37, 0)


class SqliteEngine:
    """A ledger in one SQLite file.

    One connection, shared by the threads of one process, which take turns; a
    child process must open its own.
    """

    def __init__(
        self, path: Path, *, timeout_s: float = TIMEOUT_S, older_too: bool = False
    ) -> None:
        self.path = path
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._queue: Turnstile | None = None
        self._cache = PolicyCache()
        self._synced_full = True
        self._connection = _connect(path, timeout_s)
        try:
            check_schema(self._connection, path, older_too=older_too)
        except BaseException:
            self._connection.close()
            raise

    @contextmanager
    def reading(self) -> Iterator[Book]:
        """One consistent view; writes nothing."""
        with self._alone(), translated(self.path):
            connection = self._connection
            connection.execute("BEGIN")
            try:
                yield Book(connection, self._cache)
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[Book]:
        """The one door for writes: queued, then begun as an immediate transaction.

        What was stored is committed when the block ends, and rolled back when
        it raises. Raises LedgerBusy when the turn does not come in time.
        """
        with self._alone(), translated(self.path):
            connection = self._connection
            if self._queue is None:
                self._queue = Turnstile(self.path)
            self._queue.enter(time.monotonic() + self._timeout_s)
            try:
                book = self._begin()
                try:
                    yield book
                    self._end(book)
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
            finally:
                self._queue.leave()

    @contextmanager
    def migrating(self) -> Iterator[sqlite3.Connection]:
        """Like `writing()`, for a ledger whose schema is not the present one."""
        with self._alone(), translated(self.path):
            if self._queue is None:
                self._queue = Turnstile(self.path)
            self._queue.enter(time.monotonic() + self._timeout_s)
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                finally:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
            finally:
                self._queue.leave()

    def close(self) -> None:
        if self._pid != os.getpid():
            return
        with self._lock:
            # The last one to close writes the WAL back, which must not race
            # another process's commit; whoever can't have the turn leaves it be.
            queue = self._queue
            with suppress(OSError, LedgerBusy):
                queue = queue or Turnstile(self.path)
                queue.enter(time.monotonic() + CLOSING_TIMEOUT_S)
            self._connection.close()
            if queue is not None:
                # Closing the lock files gives back the turn with them.
                queue.close()
            self._queue = None

    def _end(self, book: Book) -> None:
        connection = self._connection
        if not book.dirty:
            if not book.relaxed:
                return
            # Only demand: not worth waiting for the disk. Nothing was written
            # yet, and additions commute, so they can go into a transaction of
            # their own that commits without fsync.
            connection.execute("ROLLBACK")
            self._sync(full=False)
            connection.execute("BEGIN IMMEDIATE")
            book.store_relaxed()
        connection.execute("COMMIT")

    def _begin(self) -> Book:
        """Begin a transaction that will be as durable as the ledger's setting says."""
        connection = self._connection
        while True:
            self._sync(full=self._wants_full())
            connection.execute("BEGIN IMMEDIATE")
            book = Book(connection, self._cache)
            if self._synced_full == self._wants_full():
                return book
            # The setting was changed since this process last looked.
            connection.execute("ROLLBACK")

    def _wants_full(self) -> bool:
        return value_of(self._cache.settings, "durability") == "full"

    def _sync(self, *, full: bool) -> None:
        if full != self._synced_full:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")
            self._synced_full = full

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._pid != os.getpid():
            raise InvalidInput(
                "this connection was opened by another process",
                hint="after a fork, connect() again: SQLite connections don't survive one",
            )
        if not self._lock.acquire(timeout=self._timeout_s):
            raise LedgerBusy("another thread held this connection all the time")
        try:
            yield
        finally:
            self._lock.release()


def create_file(path: Path, *, name: str, zone: str, now_ms: int) -> None:
    """Make an empty ledger file, readable by its owner alone; refuses an existing one."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        raise Conflict(
            f"{path} exists already", hint="a ledger is never overwritten: name another file"
        ) from None
    except FileNotFoundError:
        raise NotFound(f"no folder {path.parent} to create a ledger in") from None
    except OSError as error:
        raise QuotaError(f"can't create {path}: {error.strerror}") from None
    try:
        with translated(path):
            connection = _connect(path, TIMEOUT_S)
            try:
                connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("BEGIN IMMEDIATE")
                apply_migrations(connection)
                connection.execute(
                    "INSERT INTO ledger (id, name, zone, created_at_ms, opened_at_ms) "
                    "VALUES (1, ?, ?, ?, ?)",
                    (name, zone, now_ms, now_ms),
                )
                connection.execute("COMMIT")
            finally:
                connection.close()
    except BaseException:
        # Half a ledger would be refused by the next init.
        path.unlink(missing_ok=True)
        raise


def schema_version(connection: sqlite3.Connection, path: Path) -> int:
    """The schema's version of a ledger; LedgerCorrupt where the file is none."""
    with translated(path):
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        steps = 0
        if application_id == APPLICATION_ID and version <= SCHEMA_VERSION:
            # A step that did not raise the version all the same makes the ledger newer.
            (steps,) = connection.execute(
                "SELECT count(*) FROM _sqlite_migrations WHERE migration_set = 'quotactl'"
            ).fetchone()
    if application_id != APPLICATION_ID:
        raise LedgerCorrupt(f"{path} is not a quotactl ledger", hint="make one: quotactl init PATH")
    return max(int(version), steps)


def check_schema(connection: sqlite3.Connection, path: Path, *, older_too: bool = False) -> None:
    """Raises SchemaMismatch unless the ledger is of this version, or may be older."""
    version = schema_version(connection, path)
    if version > SCHEMA_VERSION:
        raise SchemaMismatch(
            f"{path} has schema {version}, this quotactl knows {SCHEMA_VERSION}",
            hint="use the newer quotactl that made it",
        )
    if version < SCHEMA_VERSION and not older_too:
        raise SchemaMismatch(
            f"{path} has schema {version}, this quotactl needs {SCHEMA_VERSION}",
            hint="bring it up to date: quotactl db migrate",
        )


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's errors as ours, one line each."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translate(error, path) from error


def _translate(error: sqlite3.Error, path: Path) -> QuotaError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LedgerBusy(f"{path} is busy", hint="safe to try again")
    if code == sqlite3.SQLITE_NOTADB:
        return LedgerCorrupt(f"{path} is not a SQLite file", hint="make one: quotactl init PATH")
    if code == sqlite3.SQLITE_CORRUPT:
        return LedgerCorrupt(f"{path} is damaged: {error}", hint="restore a backup")
    if code == sqlite3.SQLITE_READONLY:
        return QuotaError(f"{path} can't be written: it is read-only here")
    if code == sqlite3.SQLITE_FULL:
        return QuotaError(f"{path}: the disk is full", hint="nothing was changed; make room")
    if code == sqlite3.SQLITE_CANTOPEN:
        return QuotaError(f"{path} can't be opened", hint="check the permissions of its folder")
    if code == sqlite3.SQLITE_IOERR:
        return QuotaError(
            f"{path}: the disk failed ({error}); whether the last change was kept is unknown",
            hint="try again with the same key",
        )
    return QuotaError(f"{path}: {error}")


def _connect(path: Path, timeout_s: float) -> sqlite3.Connection:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise QuotaError(f"this Python has SQLite {sqlite3.sqlite_version}, older than {oldest}")
    if not path.exists():
        raise NotFound(f"no ledger at {path}", hint=f"make one: quotactl init {path}")
    if path.is_dir():
        raise LedgerCorrupt(f"{path} is a folder, not a ledger", hint="name the file in it")
    uri = path.resolve().as_uri() + "?mode=rw"
    with translated(path):
        connection = sqlite3.connect(
            uri,
            uri=True,
            timeout=timeout_s,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        except BaseException:
            connection.close()
            raise
    return connection
