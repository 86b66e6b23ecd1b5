"""Which file a ledger's name means, and how this process may open it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Literal, NamedTuple

from quotactl.engines.sqlite.failures import unusable

# No file system's times are coarser where this runs: the kernel's tick is 1 to 10 ms.
TICK_NS = 20_000_000
Access = Literal["rw", "ro", "frozen"]


class State(NamedTuple):
    """What a checkpoint changes about a ledger's file."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    wal_size: int


def identity_of(file: str) -> tuple[int, int] | None:
    """What tells a file from another of its name; None where there is none.

    By its name: to open it would be to drop SQLite's locks when it is closed.
    """
    try:
        status = os.stat(file)  # noqa: PTH116 - a part of every decision; Path takes twice as long
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unusable(f"{file} can't be reached", error) from None
    return status.st_dev, status.st_ino


def access_of(path: Path) -> tuple[Access, State | None]:
    """How this process may open a ledger, and for "frozen" the file's state.

    Whoever reads a ledger in WAL mode needs its -shm, and makes it where there is none: in
    a folder that can't be written, that fails; and one made by a mere reader would be in
    the owner's way. So where this process may not write:

    - "frozen": with nothing in the WAL all of the ledger is in the file, which is read as
      it lies there, without locks (`immutable=1`). Only a checkpoint changes the file, and
      then its times: whoever has read looks at them again.
    - "ro": with a WAL, its owner's -shm must be there and readable.
    """
    real = os.path.realpath(path)
    folder = os.path.dirname(real)  # noqa: PTH120 - with realpath a fifth of the time of Path
    wal, shm = real + "-wal", real + "-shm"
    if _may_write(real) and (_may_write(folder) or (_may_write(wal) and _may_write(shm))):
        return "rw", None
    # Some time after its last change: another one within the clock's tick would not show.
    deadline = time.monotonic() + 1
    while True:
        state = state_of(path)
        if state is None or state.wal_size:
            return "ro", None
        age_ns = time.time_ns() - state.mtime_ns
        if not 0 <= age_ns < TICK_NS or time.monotonic() > deadline:
            return "frozen", state
        time.sleep(TICK_NS / 1e9)


def _may_write(name: str) -> bool:
    return os.access(name, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def state_of(path: Path) -> State | None:
    """What a checkpoint changes about a file; None where there is none."""
    real = os.path.realpath(path)
    try:
        # The file first: a checkpoint between the two then shows in the next look.
        file = os.stat(real)  # noqa: PTH116
    except OSError:
        return None
    try:
        wal_size = os.stat(real + "-wal").st_size  # noqa: PTH116
    except OSError:
        wal_size = 0
    return State(file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, wal_size)
