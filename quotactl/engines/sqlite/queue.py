"""Writers wait in turn: two lock files ahead of `BEGIN IMMEDIATE`.

SQLite's own busy handler lets whoever polls at the right moment in, so that
under load one writer can wait for seconds while others pass it many times. Here
a writer takes the first lock, waits with it for the second, hands the first
on, does its work and gives back the second: at most one process competes for
the ledger, and nobody who has just written gets in before it.

The kernel frees both locks of a process that dies. One that is stopped keeps
them, so every wait has a deadline. `flock` has none, so for the first lock a
thread waits in the kernel's own queue, and who asked waits for the thread. That
is while others have their turns. For the second only one process waits: it
tries, and between tries listens for the bell, a FIFO that whoever gives back the
turn rings. A bell that is not heard costs a millisecond or some.
"""

from __future__ import annotations

import fcntl
import os
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path

from quotactl.errors import LedgerBusy

_yield = getattr(os, "sched_yield", lambda: time.sleep(0))
_TRY = fcntl.LOCK_EX | fcntl.LOCK_NB
# How often who has met others rings on leaving, whether anybody is there or not.
RINGS = 16
PAUSE_MS_MAX = 4.0
# A turn that takes longer than this to come was waited for.
_AT_ONCE_S = 0.000_3


class Turnstile:
    """The queue of one ledger. Not for use by two threads at once."""

    def __init__(self, ledger: Path, *, create: bool = True) -> None:
        """Open the lock files; OSError if that can't be, or they are not there to be found."""
        self._ledger = ledger
        # Beside the file itself: by way of a link it is the same queue.
        self._real = real = os.path.realpath(ledger)
        self._queue = _open(real + "-queue", real, create=create)
        try:
            self._turn = _open(real + "-turn", real, create=create)
        except BaseException:
            os.close(self._queue)
            raise
        self._waiter: _Waiter | None = None
        self._bell: int | None = None
        self._contended = False
        # How often to ring yet: there are others, or were.
        self._rings = 0

    def enter(self, deadline: float) -> None:
        """Wait for the turn until `deadline` (`time.monotonic()`); else LedgerBusy."""
        # Whoever met others last time lines up without trying: a quick try would get in
        # before those who wait, and with it the fairness would be gone.
        if self.enter_at_once():
            return
        if self._waiter is None:
            self._bell = _bell(self._real)
            self._waiter = _Waiter(self._queue)
        # Also for the next time, if this one is given up: the thread stays in line,
        # on the very file that a quick try would lock.
        self._contended = True
        self._rings = RINGS
        # Who was woken by the last unlock must get to run, or whoever runs already is first
        # in line again: measured with 8 writers, one was passed 140 times.
        _yield()
        began = time.monotonic()
        came = False
        if self._waiter.wait(deadline - began):
            try:
                came = self._wait_for_turn(deadline)
            finally:
                fcntl.flock(self._queue, fcntl.LOCK_UN)
        if not came:
            raise LedgerBusy(
                f"{self._ledger.name} is busy: other writers held it all the time",
                hint="safe to try again",
            )
        self._contended = time.monotonic() - began > _AT_ONCE_S

    def enter_at_once(self) -> bool:
        """Take the turn if nobody else has it or waits for it."""
        if self._contended:
            return False
        flock = fcntl.flock
        try:
            flock(self._queue, _TRY)
        except BlockingIOError:
            return False
        try:
            flock(self._turn, _TRY)
        except BlockingIOError:
            return False
        finally:
            flock(self._queue, fcntl.LOCK_UN)
        return True

    def leave(self) -> None:
        """Give back the turn."""
        fcntl.flock(self._turn, fcntl.LOCK_UN)
        if self._rings:
            self._rings -= 1
            if self._bell is not None:
                # Full of rings that nobody listened for: who comes next will hear those.
                with suppress(BlockingIOError):
                    os.write(self._bell, b".")

    def close(self) -> None:
        """Close the lock files, and with them give back the turn."""
        in_line = self._waiter is not None and self._waiter.stop()
        if not in_line:
            # Else it closes this one when its turn has come.
            os.close(self._queue)
        os.close(self._turn)
        if self._bell is not None:
            os.close(self._bell)

    def _wait_for_turn(self, deadline: float) -> bool:
        """First in line, wait for the one whose turn it is."""
        import select

        listen = select.poll()
        if self._bell is not None:
            listen.register(self._bell, select.POLLIN)
        pause_ms = 1.0
        while True:
            if self._bell is not None:
                # Before the try, not after it: what rings from now on is for this one.
                with suppress(BlockingIOError):
                    os.read(self._bell, 4096)
            try:
                fcntl.flock(self._turn, _TRY)
            except BlockingIOError:
                left_ms = 1000 * (deadline - time.monotonic())
                if left_ms <= 0:
                    return False
                listen.poll(min(pause_ms, left_ms))
                pause_ms = min(2 * pause_ms, PAUSE_MS_MAX)
            else:
                return True


class _Waiter:
    """A thread that lines up on behalf of another, which can give up waiting."""

    def __init__(self, queue: int) -> None:
        self._queue = queue
        # Both locks are held but for a moment, and let go of by the other thread: plain locks,
        # as what `threading` makes of them takes as long as a whole turn.
        self._asked = threading.Lock()
        self._asked.acquire()
        self._got = threading.Lock()
        self._got.acquire()
        self._state = threading.Lock()
        self._in_line = False
        self._wanted = False
        self._stopped = False
        threading.Thread(target=self._run, name="quotactl-queue", daemon=True).start()

    def wait(self, timeout_s: float) -> bool:
        """Line up, or stay in line where an earlier wait was given up; True when first in it."""
        with self._state:
            self._wanted = True
            if not self._in_line:
                self._in_line = True
                self._asked.release()
        try:
            if self._got.acquire(timeout=max(timeout_s, 0)):
                return True
        except BaseException:
            # A signal's handler broke the wait off: nobody would hand the lock on.
            with self._state:
                self._wanted = False
                if self._got.acquire(blocking=False):
                    fcntl.flock(self._queue, fcntl.LOCK_UN)
            raise
        with self._state:
            # It may have come at the last moment.
            if self._got.acquire(blocking=False):
                return True
            self._wanted = False
            return False

    def stop(self) -> bool:
        """End the thread; True if it is in line and will close the file itself."""
        with self._state:
            self._stopped = True
            self._wanted = False
            if not self._in_line:
                self._asked.release()
            return self._in_line

    def _run(self) -> None:
        flock, queue = fcntl.flock, self._queue
        while True:
            self._asked.acquire()
            if self._is_stopped():
                return
            flock(queue, fcntl.LOCK_EX)
            with self._state:
                self._in_line = False
                if self._wanted:
                    self._got.release()
                else:
                    flock(queue, fcntl.LOCK_UN)
                if self._is_stopped():
                    os.close(queue)
                    return

    def _is_stopped(self) -> bool:
        return self._stopped


def _bell(real: str) -> int | None:
    """The FIFO beside a ledger; None where there can't be one."""
    name = real + "-bell"
    try:
        with suppress(FileExistsError):
            os.mkfifo(name, 0o600)
        bell = os.open(name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    if not stat.S_ISFIFO(os.fstat(bell).st_mode):
        os.close(bell)
        return None
    _share(bell, real)
    return bell


def _open(name: str, ledger: str, *, create: bool) -> int:
    how = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    lock_file = os.open(name, how | os.O_CREAT if create else how, 0o600)
    try:
        _share(lock_file, ledger)
    except BaseException:
        os.close(lock_file)
        raise
    return lock_file


def _share(beside: int, ledger: str) -> None:
    """Whoever may write the ledger must be able to queue: the group as the owner, and the
    owner where root came first."""
    with suppress(OSError):
        like, mine = os.stat(ledger), os.fstat(beside)  # noqa: PTH116
        if (mine.st_uid, mine.st_gid) != (like.st_uid, like.st_gid):
            os.fchown(beside, like.st_uid if os.geteuid() == 0 else -1, like.st_gid)
        mode = 0o600 | (like.st_mode & 0o060)
        if stat.S_IMODE(mine.st_mode) != mode:
            os.fchmod(beside, mode)
