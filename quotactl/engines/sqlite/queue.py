"""Writers wait in turn: two lock files ahead of `BEGIN IMMEDIATE`.

SQLite's own busy handler lets whoever polls at the right moment in, so that
under load one writer can wait for seconds while others pass it many times. Here
a writer takes the first lock, waits with it for the second, hands the first
on, does its work and gives back the second: at most one process competes for
the ledger, and nobody who has just written gets in before it.

The kernel frees both locks of a process that dies. One that is stopped keeps
them, so every wait has a deadline.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from quotactl.errors import LedgerBusy

_NAP_FIRST_S = 0.000_05
_NAP_LONGEST_S = 0.002


class Turnstile:
    """The queue of one ledger. Not for use by two threads at once."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger
        self._queue = _open(ledger.with_name(ledger.name + "-queue"))
        self._turn = _open(ledger.with_name(ledger.name + "-turn"))

    def enter(self, deadline: float) -> None:
        """Wait for the turn until `deadline` (`time.monotonic()`); else LedgerBusy."""
        self._lock(self._queue, deadline)
        try:
            self._lock(self._turn, deadline)
        finally:
            fcntl.flock(self._queue, fcntl.LOCK_UN)

    def leave(self) -> None:
        fcntl.flock(self._turn, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._queue)
        os.close(self._turn)

    def _lock(self, lock_file: int, deadline: float) -> None:
        nap_s = _NAP_FIRST_S
        while True:
            try:
                fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise LedgerBusy(
                        f"{self._ledger.name} is busy: other writers held it all the time",
                        hint="safe to try again",
                    ) from None
            time.sleep(nap_s)
            nap_s = min(nap_s * 1.5, _NAP_LONGEST_S)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
