"""What fails in a ledger's file, in our words: one line and a hint each."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quotactl.errors import InvalidInput, LedgerBusy, LedgerCorrupt, NotFound, QuotaError

# SQLite's -shm is made of so much at once, and tells of no room for it as of a disk that failed.
ROOM_NEEDED = 32 * 1024
# A program's fault, or that of what it read.
_FAULTS = (
    ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError,
)  # fmt: skip
# A text that is no UTF-8 has no code; a CHECK that failed, a sum out of range.
_EXPLAINED = frozenset(
    {0, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH}
    # Of numbers that are given out one by one, too.
    | {sqlite3.SQLITE_FULL}
)
_MAKE_ROOM = "nothing was changed; make room"


@contextmanager
def translated(
    file: Path, *, shown: Path | None = None, look: Callable[[], str | None] | None = None
) -> Iterator[None]:
    """SQLite's errors as ours, one line each: see `told`."""
    try:
        yield
    except Exception as error:
        known = told(error, file, shown or file, look)
        if known is None:
            raise
        raise known from error


def told(
    error: BaseException, file: Path, path: Path, look: Callable[[], str | None] | None = None
) -> QuotaError | None:
    """What a failure is about the file, or about the path that it is to become, in our words.

    None for what is none of the ledger's. `look` says what is odd in the ledger, if anything:
    a failure of any kind is then one of the ledger, not of the program.
    """
    if isinstance(error, QuotaError):
        return None
    if isinstance(error, sqlite3.Error):
        known = _translate(error, file, path)
        if type(known) is QuotaError and code_of(error) in _EXPLAINED:
            return _explained(look, path) or known
        return known
    if isinstance(error, UnicodeEncodeError):
        # An argument that was not UTF-8: no text that is stored anywhere has this in it.
        return InvalidInput(
            f"{error.object[error.start : error.end]!a} is half a character, and in no name",
            hint="give it as UTF-8",
        )
    if isinstance(error, UnicodeDecodeError):
        # A damaged schema, quoted in SQLite's own message.
        return LedgerCorrupt(f"{path} is damaged: {error}", hint="restore a backup")
    return _explained(look, path) if isinstance(error, _FAULTS) else None


def _explained(look: Callable[[], str | None] | None, path: Path) -> LedgerCorrupt | None:
    odd = None if look is None else look()
    if odd is None:
        return None
    return LedgerCorrupt(
        f"{path} is damaged: {odd}", hint="quotactl db verify tells more; restore a backup"
    )


def _translate(error: sqlite3.Error, file: Path, path: Path) -> QuotaError:
    code = code_of(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LedgerBusy(f"{path} is busy", hint="safe to try again")
    if code == sqlite3.SQLITE_NOTADB:
        return LedgerCorrupt(f"{path} is not a SQLite file", hint="make one: quotactl init PATH")
    if code == sqlite3.SQLITE_CORRUPT or _tells_of_damage(code, str(error)):
        return LedgerCorrupt(f"{path} is damaged: {error}", hint="restore a backup")
    if code == sqlite3.SQLITE_READONLY:
        return QuotaError(
            f"{path} can't be written: it is read-only here",
            hint="the file and its folder need write permission",
        )
    if code == sqlite3.SQLITE_FULL:
        return QuotaError(f"{path}: the disk is full", hint=_MAKE_ROOM)
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR):
        # SQLite does not tell which call failed why.
        if not file.exists():
            return gone(path)
        reason = _too_few_descriptors()
        if reason is not None:
            return unusable(f"{path} can't be opened", reason)
    if code == sqlite3.SQLITE_CANTOPEN:
        return QuotaError(f"{path} can't be opened", hint="check the permissions of its folder")
    if code == sqlite3.SQLITE_IOERR:
        with suppress(OSError):
            space = os.statvfs(file.parent)
            if space.f_bavail * space.f_frsize < ROOM_NEEDED:
                return QuotaError(f"{path}: the disk is full", hint=_MAKE_ROOM)
        return QuotaError(
            f"{path}: the disk failed ({error}); nothing was changed",
            hint="try again when it is mended",
        )
    return QuotaError(f"{path}: {error}")


def _tells_of_damage(code: int, message: str) -> bool:
    # A header or a schema with changed bytes in it has no code of its own, and as many
    # messages as there are statements that it makes senseless. A sum too large has it too.
    if code == sqlite3.SQLITE_ERROR:
        return "integer overflow" not in message
    # Python's own, for text that is none.
    return message.startswith("Could not decode to UTF-8")


def code_of(error: sqlite3.Error) -> int:
    """SQLite's primary code of an error; 0 where it has none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _too_few_descriptors() -> OSError | None:
    """Why the files that a ledger needs can't be opened; those of a failed try are closed."""
    opened = []
    try:
        # Itself, WAL, shm, the two of the queue, and another one.
        for _ in range(6):
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))  # noqa: PERF401
    except OSError as reason:
        return reason
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return None


def maybe_kept(path: Path, error: Exception) -> QuotaError:
    """What is said where the disk failed with a change that may be found there all the same."""
    return QuotaError(
        f"{path}: the disk failed ({error}); whether the last change was kept is unknown",
        hint="try again with the same key",
    )


def gone(path: Path) -> NotFound:
    """What is said where the ledger has vanished."""
    return NotFound(f"the ledger {path} is gone", hint="restore it: quotactl db restore BACKUP")


def unusable(what: str, error: OSError) -> QuotaError:
    """A file that the system doesn't give, and why, in one line."""
    hint = None
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = "check the permissions of the file and its folder"
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        hint = "raise the limit: ulimit -n"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = _MAKE_ROOM
    return QuotaError(f"{what}: {error.strerror}", hint=hint)


def written_meanwhile(path: Path) -> LedgerBusy:
    """What is said of a read without locks under which the file was changed."""
    return LedgerBusy(
        f"{path} was written while it was read without locks, for want of write permission here",
        hint="safe to try again",
    )
