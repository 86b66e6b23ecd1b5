"""Waiting for the disk after the turn instead of in it.

With `synchronous=FULL` SQLite waits for the disk within COMMIT, and with it everybody in line:
most of a turn is that wait. With NORMAL it only writes to the WAL. A writer among others
commits so, gives back the turn, and then waits for the disk by itself, before anybody is told
that the unit is taken. The waits of several go on at the same time, and one carries all that
was written before it began.

As durable as FULL: SQLite itself brings the WAL to the disk before a checkpoint copies from it,
and the ledger before the WAL is written from its begin again; and after a power cut it takes
of the WAL what is whole from the begin on, so that nothing stands there without what it was
decided by. What differs is that others can see a unit before it is on the disk: nobody is told
by a key that it was taken before this has waited too (`SqliteEngine._settle`). And where the
disk fails, what is seen can't be taken back: it is written again.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

# What SQLite calls there, too.
_to_disk = getattr(os, "fdatasync", os.fsync)
_AT_ONCE = 1024 * 1024


class Wal:
    """The WAL of a ledger that this process has open in SQLite.

    On it SQLite has no locks that would be gone when this descriptor is closed: those are on
    the ledger and its shm, which nothing but SQLite opens.
    """

    def __init__(self, file: str) -> None:
        """Open the WAL of a ledger by the ledger's name; OSError if it can't be."""
        real = os.path.realpath(file)
        # Its name has to be on the disk too. SQLite sees to that with the first commit that waits,
        # and like this: where the folder can't be opened, or has no such thing, it goes on.
        with suppress(OSError):
            folder = os.open(os.path.dirname(real), os.O_RDONLY | os.O_CLOEXEC)  # noqa: PTH120
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        self._descriptor = os.open(real + "-wal", os.O_RDWR | os.O_CLOEXEC)
        # Whether a wait has failed since it was last written again.
        self.holed = False

    def to_disk(self) -> None:
        """Return once all that was committed before the call is on the disk; else OSError, and
        from then on, until `write_again`."""
        if self.holed:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        try:
            _to_disk(self._descriptor)
        except OSError:
            self.holed = True
            raise

    def write_again(self) -> None:
        """Write all of it once more, as it is, and wait: where a wait failed, the system may
        take for written what is not, and say so of the next. While nobody else can write.

        What it reads is what the system still has of it in memory."""
        at = 0
        while content := os.pread(self._descriptor, _AT_ONCE, at):
            at += os.pwrite(self._descriptor, content, at)
        _to_disk(self._descriptor)
        self.holed = False

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)
