"""Files that appear under their name whole, or not at all.

What is to become a ledger or a backup is made in a folder of its own beside the name that it
will have, and gets that name when it is finished and on the disk. A process that is killed
on the way leaves the folder behind, in nobody's way; the next one clears it away.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quotactl.errors import Conflict

# SQLite's own files beside a ledger.
BESIDE = ("-wal", "-shm")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def workspace(beside: Path) -> Iterator[Path]:
    """A folder of our own beside a file, gone after the block with all that is in it.

    Raises OSError. Folders that killed processes left for the same name go first.
    """
    remove_left_over(beside)
    folder, lock = _made(beside)
    try:
        yield folder
    finally:
        # While it is locked: another process would take it for left over.
        _remove(folder, lock)
        os.close(lock)


def publish(temporary: Path, final: Path, *, hint: str = "name another file") -> None:
    """Give a finished file its name, on the disk for good; Conflict if there is one already."""
    for suffix in (*BESIDE, "-journal"):
        # SQLite would take it for a part of this file.
        if os.path.lexists(f"{final}{suffix}"):
            raise Conflict(
                f"{final}{suffix} is there already, of another ledger", hint="move it away"
            )
    sync(temporary)
    try:
        # Unlike a rename, a link never replaces what is there.
        os.link(temporary, final)
    except FileExistsError:
        raise _exists(final, hint) from None
    except OSError:
        _rename(temporary, final, hint)
    temporary.unlink(missing_ok=True)
    sync(final.parent)


def remove_left_over(beside: Path) -> None:
    """Remove the folders that nobody locks any more, as far as that is ours to do."""
    pattern = re.compile(rf"\.{re.escape(beside.name)}\.[0-9a-f]{{8}}\.unfinished")
    with suppress(OSError):
        for folder in beside.parent.iterdir():
            if not pattern.fullmatch(folder.name):
                continue
            with suppress(OSError):
                lock = os.open(folder, _FOLDER)
                try:
                    if _locked(lock):
                        _remove(folder, lock)
                finally:
                    os.close(lock)


def has_wal(path: Path) -> bool:
    """Whether there is anything in a ledger's WAL."""
    real = path.resolve()
    try:
        return real.with_name(real.name + "-wal").stat().st_size > 0
    except FileNotFoundError:
        return False


def sync(path: Path) -> None:
    """Have a file of ours that SQLite has let go of, or a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename(temporary: Path, final: Path, hint: str) -> None:
    """Publish where the file system has no links: one at a time, as a rename replaces."""
    lock = os.open(final.parent, _FOLDER)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.lexists(final):
            raise _exists(final, hint)
        temporary.rename(final)
    finally:
        os.close(lock)


def _exists(final: Path, hint: str) -> Conflict:
    return Conflict(f"{final} exists already", hint=hint)


def _made(beside: Path) -> tuple[Path, int]:
    """A new folder and the descriptor that holds its lock."""
    while True:
        # Not by process id: in a container the next process has the same one.
        folder = beside.with_name(f".{beside.name}.{os.urandom(4).hex()}.unfinished")
        folder.mkdir(mode=0o700)
        try:
            lock = os.open(folder, _FOLDER)
        except FileNotFoundError:
            continue  # taken for left over before it was locked
        except OSError:
            folder.rmdir()
            raise
        if _locked(lock) and folder.exists():
            return folder, lock
        os.close(lock)


def _remove(folder: Path, descriptor: int) -> None:
    # By the descriptor: another folder may have been put under the name, to have us empty it.
    with suppress(OSError):
        for name in os.listdir(descriptor):
            os.unlink(name, dir_fd=descriptor)
        folder.rmdir()


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
