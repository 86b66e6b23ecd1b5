"""Opening a ledger file, and the two ways in: `reading()` and `writing()`."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from quotactl.engines.schema import APPLICATION_ID, SCHEMA_VERSION
from quotactl.engines.sqlite import at_once
from quotactl.engines.sqlite.book import Book
from quotactl.engines.sqlite.failures import (
    code_of,
    gone,
    maybe_kept,
    told,
    translated,
    unusable,
    written_meanwhile,
)
from quotactl.engines.sqlite.files import Access, State, access_of, identity_of, state_of
from quotactl.engines.sqlite.queue import Turnstile
from quotactl.engines.sqlite.session import Session
from quotactl.errors import (
    InvalidInput,
    LedgerBusy,
    LedgerCorrupt,
    NotFound,
    QuotaError,
    SchemaMismatch,
)
from quotactl.ledger.loaded import Known

if TYPE_CHECKING:
    from types import TracebackType

    from quotactl.engines.sqlite.checks import Look
    from quotactl.engines.sqlite.wal import Wal
    from quotactl.ledger.loaded import Asked

Begun = TypeVar("Begun")

TIMEOUT_S = 5.0
CLOSING_TIMEOUT_S = 0.25
# Few and large checkpoints: measured to cut the slowest one in a thousand
# commits from 19 ms to 1 ms.
WAL_PAGES = 4000
PAGE_SIZE = 2048
# At most: what leads to the rows of ten million users is some 10 MB.
CACHE_KIB = 16 * 1024
# Who counts much looks up what the ledger's name means so often only: it would be a tenth of
# each request, and whoever moves the ledger away is no more exact than that. `db restore` moves
# the policy's version in the old file: who counts by that finds it moved, and looks.
LOOK_S = 0.1
LOOKS_FIRST = 64
# The first with STRICT tables.
OLDEST_SQLITE = (3, 37, 0)
_MODES: dict[Access, str] = {"rw": "?mode=rw", "ro": "?mode=ro", "frozen": "?mode=ro&immutable=1"}


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
        self._odd: Look | None = None
        self._synced_full = True
        # Who was denied what lately: most of them ask again at once.
        self._denied: set[tuple[str, ...]] = set()
        self._looks = 0
        self._older_too = older_too
        self._access: Access = "rw"
        self._frozen: State | None = None
        # A relative path means another file once the process has changed its folder.
        self._at = path.absolute()
        self._file = os.fspath(self._at)
        connection, self._identity = self._open()
        self._session = Session(connection)

    def _open(self) -> tuple[sqlite3.Connection, tuple[int, int] | None]:
        while True:
            identity = identity_of(self._file)
            try:
                connection = self._open_once()
            except QuotaError:
                if identity_of(self._file) == identity:
                    raise
                continue
            if identity_of(self._file) == identity:
                return connection, identity
            # A restore swapped files meanwhile: what was opened may be half of each.
            connection.close()

    def _open_once(self) -> sqlite3.Connection:
        access, frozen = access_of(self._at)
        connection = _connect(self._at, self._timeout_s, access, shown=self.path)
        try:
            check_schema(connection, self.path, older_too=self._older_too)
        except BaseException:
            connection.close()
            raise
        self._access, self._frozen = access, frozen
        return connection

    def reading(self) -> AbstractContextManager[Book]:
        """One consistent view; writes nothing."""
        return _Reading(self, None)

    def glancing(self, asked: Asked) -> AbstractContextManager[Book]:
        """A view of the one statement that looks up what was asked: consistent for that only."""
        return _Reading(self, asked)

    def writing(
        self, asked: Asked | None = None, *, durable: bool = True
    ) -> AbstractContextManager[Book]:
        """The one door for writes: queued, then begun as an immediate transaction.

        What was stored is committed when the block ends, and rolled back when
        it raises. Raises LedgerBusy when the turn does not come in time.
        """
        return _Writing(self, asked, durable)

    # Requests of routine, decided by what is known.
    stands = at_once.stands
    count = at_once.count
    expects_denial = at_once.expects_denial
    learn = at_once.learn

    # ---- in detail

    def migrating(self) -> AbstractContextManager[sqlite3.Connection]:
        """Like `writing()`, for a ledger whose schema is not the present one."""
        return _Migrating(self)

    def close(self) -> None:
        if self._pid != os.getpid():
            return
        # Not for ever: whoever holds it may be this very thread, broken off by a signal.
        alone = self._lock.acquire(timeout=self._timeout_s)
        try:
            # The last one to close writes the WAL back, which must not race
            # another process's commit; whoever can't have the turn leaves it be.
            queue = self._queue
            if self._access == "rw":
                with suppress(OSError, LedgerBusy):
                    # Without lock files nobody writes here, and who only read makes none.
                    queue = queue or Turnstile(self._at, create=False)
                    queue.enter(time.monotonic() + CLOSING_TIMEOUT_S)
            self._session.close()
            if queue is not None:
                # Closing the lock files gives back the turn with them.
                queue.close()
            self._queue = None
        finally:
            if alone:
                self._lock.release()

    def _is_same(self) -> bool:
        """Whether the ledger's name still means the file that is open, or did a moment ago: in
        turn, so that no restore is under way."""
        session, now = self._session, time.monotonic()
        if now < session.same_until:
            return True
        if identity_of(self._file) != self._identity:
            return False
        self._looks += 1
        if self._looks > LOOKS_FIRST:
            session.same_until = now + LOOK_S
        return True

    # ---- the steps of a transaction, which the classes below take

    @property
    def _connection(self) -> sqlite3.Connection:
        return self._session.connection

    def _claim(self) -> None:
        """Have this engine to oneself, of the threads of this process."""
        if self._pid != os.getpid():
            raise InvalidInput(
                "this connection was opened by another process",
                hint="after a fork, connect() again: SQLite connections don't survive one",
            )
        if not (self._lock.acquire(False) or self._lock.acquire(timeout=self._timeout_s)):
            raise LedgerBusy("another thread held this connection all the time")

    def _tell(self, error: BaseException) -> None:
        """Raise what failed in our words, if it is a failure of the ledger's."""
        known = told(error, self._at, self.path, self._look)
        if known is not None:
            raise known from error

    def _look(self) -> str | None:
        if self._odd is None:
            from quotactl.engines.sqlite.checks import Look

            self._odd = Look()
        return self._odd(self._connection)

    def _enter(self) -> None:
        """Get the turn, and in it see to it that the file is still the ledger."""
        queue = self._queue
        if queue is None or not queue.enter_at_once():
            self._line_up()
        # In turn, as a restore swaps files in its own: none comes in between.
        elif identity_of(self._file) != self._identity:
            queue.leave()
            self._line_up()

    def _line_up(self) -> None:
        deadline = time.monotonic() + self._timeout_s
        while True:
            if self._queue is None:
                self._queue = self._turnstile()
            self._queue.enter(deadline)
            if identity_of(self._file) == self._identity:
                return
            # Under a link that leads elsewhere now, the queue is another one too.
            queue, self._queue = self._queue, None
            queue.close()
            self._go_over()

    def _turnstile(self) -> Turnstile:
        try:
            return Turnstile(self._at)
        except FileNotFoundError:
            raise gone(self.path) from None
        except OSError as error:
            raise unusable(
                f"{self.path} can't be written: its queue, {error.filename}", error
            ) from error

    def _ask_again(self) -> None:
        """Refuse to write to what may only be read, unless that has changed meanwhile."""
        if access_of(self._at)[0] == "rw":
            self._go_over()
        if self._access != "rw":
            raise QuotaError(
                f"{self.path} can't be written: it is read-only here",
                hint="the file and its folder need write permission",
            )

    @contextmanager
    def _unwritten(self) -> Iterator[None]:
        """Reading without any lock: see to it that nobody wrote into the file meanwhile.

        Raises LedgerBusy where somebody did, whatever was read.
        """
        before = state_of(self._at)
        if before != self._frozen:
            self._go_over()
            before = self._frozen
            if before is None:
                yield
                return
        try:
            yield
        except Exception as error:
            if state_of(self._at) == before:
                raise
            raise written_meanwhile(self.path) from error
        if state_of(self._at) != before:
            raise written_meanwhile(self.path)

    def _end(self, book: Book) -> None:
        """Commit what was stored, if anything was."""
        execute = self._session.execute
        if not book.dirty:
            if not book.relaxed:
                # Nothing was written, so that what is known still holds.
                execute("ROLLBACK")
                return
            if self._synced_full:
                # Only demand: not worth waiting for the disk. Nothing was written
                # yet, and additions commute, so they can go into a transaction of
                # their own that commits without fsync.
                execute("ROLLBACK")
                self._sync(full=False)
                execute("BEGIN IMMEDIATE")
            book.store_relaxed()
        self._commit()

    def _commit(self) -> None:
        try:
            self._session.execute("COMMIT")
        except sqlite3.Error as error:
            known = self._of_commit(error)
            if known is error:
                raise
            raise known from error

    def _of_commit(self, error: BaseException) -> BaseException:
        """What failed, where COMMIT was what did."""
        if not isinstance(error, sqlite3.Error) or code_of(error) != sqlite3.SQLITE_IOERR:
            return error
        return maybe_kept(self.path, error)

    def _go_over(self) -> None:
        """Open the file that has taken the ledger's name, as `db restore` puts one there.

        What is written to the one that was renamed or removed would be lost in silence.
        """
        if not _is_there(self._at, self._timeout_s):
            raise gone(self.path)
        connection, identity = self._open()
        # SQLite sees that the file has moved, and lets the new one's WAL be.
        self._session.close()
        self._session, self._identity = Session(connection), identity
        self._synced_full = True

    # ---- waiting for the disk, where COMMIT does not

    def _wal(self) -> Wal | None:
        """The WAL of the file that is open; None if another took its name, OSError if it
        can't be opened."""
        session = self._session
        if session.wal is None:
            from quotactl.engines.sqlite.wal import Wal

            wal = Wal(self._file)
            try:
                # Afterwards: `db restore` takes away the ledger's name before its WAL's.
                if identity_of(self._file) == self._identity:
                    session.wal = wal
            finally:
                if session.wal is None:
                    wal.close()
        return session.wal

    def _settle(self) -> None:
        """Have on the disk what was committed so far, in case somebody still waits for it:
        before another is told by a key that a unit was taken."""
        session = self._session
        version = session.version()
        if version == session.settled and not session.unsettled:
            return
        if session.wal is not None:
            self._to_disk(session.wal)
        else:
            self._commit_nothing()
        if session is self._session:
            session.settled = version

    def _commit_nothing(self) -> None:
        """Commit, and so have on the disk all that was committed before, without a descriptor of
        the WAL, which only those have who meet others."""
        session = self._session
        self._enter()
        try:
            # Unless another file has the name by now: what is in the old one is over.
            if session is self._session:
                self._sync(full=True)
                try:
                    session.execute("BEGIN IMMEDIATE")
                    # What it is already, which a newer quotactl may have raised meanwhile; but a
                    # page is written, or COMMIT would not wait.
                    (version,) = session.execute("PRAGMA user_version").fetchone()
                    session.execute(f"PRAGMA user_version = {int(version)}")
                    self._commit()
                finally:
                    if session.connection.in_transaction:
                        session.execute("ROLLBACK")
                session.unsettled = False
        finally:
            if self._queue is not None:
                self._queue.leave()

    def _to_disk(self, wal: Wal) -> None:
        try:
            wal.to_disk()
        except OSError as error:
            try:
                self._mend(wal)
            except (OSError, QuotaError, sqlite3.Error):
                raise maybe_kept(self.path, error) from error
        self._session.unsettled = False

    def _mend(self, wal: Wal) -> None:
        """Have the WAL on the disk all the same: what is committed after a part that is missing
        would be lost with it."""
        session = self._session
        self._enter()
        try:
            if session is not self._session:
                # Another file has the name by now, without what was to be kept.
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            try:
                session.execute("BEGIN IMMEDIATE")
                wal.write_again()
            finally:
                if session.connection.in_transaction:
                    session.execute("ROLLBACK")
        finally:
            if self._queue is not None:
                self._queue.leave()

    def _sync(self, *, full: bool) -> None:
        if full != self._synced_full:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")
            self._synced_full = full


class _Transaction(AbstractContextManager[Begun]):
    """One transaction. A class whose steps are written out, as it is a part of every decision:
    a generator costs more, and so does each call."""

    __slots__ = ("_begun", "_engine")

    def __init__(self, engine: SqliteEngine) -> None:
        self._engine = engine

    def __enter__(self) -> Begun:
        engine = self._engine
        engine._claim()
        try:
            self._begun = begun = self._begin(engine)
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return begun

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        engine = self._engine
        try:
            try:
                if error is not None:
                    # Some failures roll back by themselves.
                    engine._session.known = Known()
                else:
                    self._end(engine)
            except BaseException:
                engine._session.known = Known()
                raise
            finally:
                try:
                    session = engine._session
                    if session.connection.in_transaction:
                        session.roll_back()
                finally:
                    self._leave(engine, error)
        except Exception as failure:
            engine._tell(failure)
            raise
        else:
            if error is not None:
                engine._tell(error)
        finally:
            engine._lock.release()

    def _begin(self, engine: SqliteEngine) -> Begun:
        raise NotImplementedError

    def _end(self, engine: SqliteEngine) -> None:
        """Once the block has ended well."""

    def _leave(self, engine: SqliteEngine, error: BaseException | None) -> None:
        """However it has ended, and also where it did not begin well."""


class _Reading(_Transaction[Book]):
    """One consistent view, or a glance: that of a single statement."""

    __slots__ = ("_asked", "_guard")

    def __init__(self, engine: SqliteEngine, asked: Asked | None) -> None:
        self._engine = engine
        self._asked = asked
        self._guard: AbstractContextManager[None] | None = None

    def _begin(self, engine: SqliteEngine) -> Book:
        if identity_of(engine._file) != engine._identity:
            engine._go_over()
        if engine._access == "frozen":
            guard = engine._unwritten()
            guard.__enter__()
            self._guard = guard
        session = engine._session
        if session.connection.in_transaction:
            # A signal broke off the end of the one before.
            session.roll_back()
        if self._asked is None:
            session.execute("BEGIN")
        return Book(session, self._asked)

    def _leave(self, engine: SqliteEngine, error: BaseException | None) -> None:  # noqa: ARG002
        if self._guard is not None:
            trace = None if error is None else error.__traceback__
            self._guard.__exit__(None if error is None else type(error), error, trace)


class _Writing(_Transaction[Book]):
    """One that has its turn in the queue, and is as durable as the ledger's setting says."""

    __slots__ = ("_asked", "_durable")

    def __init__(self, engine: SqliteEngine, asked: Asked | None, durable: bool) -> None:
        self._engine = engine
        self._asked = asked
        self._durable = durable

    def _begin(self, engine: SqliteEngine) -> Book:
        if engine._access != "rw":
            engine._ask_again()
        engine._enter()
        while True:
            session = engine._session
            if session.connection.in_transaction:
                # A signal broke off the end of the one before.
                session.roll_back()
            full = self._durable and session.wants_full
            if full != engine._synced_full:
                engine._sync(full=full)
            session.execute("BEGIN IMMEDIATE")
            if session.wal is not None and session.wal.holed:
                try:
                    session.wal.write_again()
                except OSError as error:
                    raise unusable(f"{engine.path}-wal can't be written", error) from error
            if self._durable and not full:
                session.unsettled = True
            book = Book(session, self._asked)
            if full == (self._durable and session.wants_full):
                return book
            # The setting was changed since this process last looked.
            session.roll_back()

    def _end(self, engine: SqliteEngine) -> None:
        engine._end(self._begun)

    def _leave(self, engine: SqliteEngine, error: BaseException | None) -> None:
        # Also where a signal broke it off before it was known that the turn had come.
        if engine._queue is not None:
            engine._queue.leave()
        if error is None and engine._session.wants_full:
            book = self._begun
            # COMMIT has waited for all that was committed before, too.
            if book.recalled and not (book.dirty and engine._synced_full):
                engine._settle()


class _Migrating(_Transaction[sqlite3.Connection]):
    """The bare connection, in its turn."""

    __slots__ = ()

    def _begin(self, engine: SqliteEngine) -> sqlite3.Connection:
        if engine._access != "rw":
            engine._ask_again()
        engine._enter()
        session = engine._session
        if session.connection.in_transaction:
            session.roll_back()
        session.execute("BEGIN IMMEDIATE")
        session.known = Known()
        return session.connection

    def _end(self, engine: SqliteEngine) -> None:
        engine._session.execute("COMMIT")

    def _leave(self, engine: SqliteEngine, error: BaseException | None) -> None:  # noqa: ARG002
        if engine._queue is not None:
            engine._queue.leave()


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


def _is_there(path: Path, timeout_s: float) -> bool:
    """Whether there is a ledger; one that a killed restore took away is put back first."""
    if identity_of(os.fspath(path)) is None:
        from quotactl.engines.sqlite.backup import mend

        mend(path, timeout_s)
    return identity_of(os.fspath(path)) is not None


def _connect(path: Path, timeout_s: float, access: Access, *, shown: Path) -> sqlite3.Connection:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise QuotaError(f"this Python has SQLite {sqlite3.sqlite_version}, older than {oldest}")
    if not _is_there(path, timeout_s):
        raise NotFound(f"no ledger at {shown}", hint=f"make one: quotactl init {shown}")
    if path.is_dir():
        raise LedgerCorrupt(f"{shown} is a folder, not a ledger", hint="name the file in it")
    if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        raise QuotaError(
            f"{shown} can't be read: {os.strerror(errno.EACCES)}", hint="ask its owner"
        )
    uri = path.resolve().as_uri() + _MODES[access]
    with translated(path, shown=shown):
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
            connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        except BaseException:
            connection.close()
            raise
    return connection
