"""Writers wait in turn: two lock files ahead of `BEGIN IMMEDIATE`.

SQLite's own busy handler lets whoever polls at the right moment in, so that
under load one writer can wait for seconds while others pass it many times. Here
a writer takes the first lock, waits with it for the second, hands the first
on, does its work and gives back the second: at most one process competes for
the ledger, and nobody who has just written gets in before it.

The kernel frees both locks of a process that dies. One that is stopped keeps
them, so every wait has a deadline. `flock` has none, and polling wastes both
time and fairness: a thread waits in the kernel's own queue, and who asked
waits for the thread. What can be done by the thread, it does itself as soon as
the turn has come (`run`): to wake another one first would be a part of each turn.
"""

from __future__ import annotations

import fcntl
import os
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, cast

from quotactl.errors import LedgerBusy

Answer = TypeVar("Answer")
_yield = getattr(os, "sched_yield", lambda: time.sleep(0))
_TRY = fcntl.LOCK_EX | fcntl.LOCK_NB
# A turn that takes longer than this to come was waited for.
_AT_ONCE_S = 0.000_3


class Turnstile:
    """The queue of one ledger. Not for use by two threads at once."""

    def __init__(self, ledger: Path, *, create: bool = True) -> None:
        """Open the lock files; OSError if that can't be, or they are not there to be found."""
        self._ledger = ledger
        # Beside the file itself: by way of a link it is the same queue.
        real = os.path.realpath(ledger)
        self._queue = _open(real + "-queue", real, create=create)
        try:
            self._turn = _open(real + "-turn", real, create=create)
        except BaseException:
            os.close(self._queue)
            raise
        self._waiter: _Waiter | None = None
        self._contended = False

    def enter(self, deadline: float) -> None:
        """Wait for the turn until `deadline` (`time.monotonic()`); else LedgerBusy."""
        # Whoever met others last time lines up without trying: a quick try would get in
        # before those who wait, and with it the fairness would be gone.
        if not self.enter_at_once():
            self._line_up(None, deadline)

    def run(self, job: Callable[[], Answer], deadline: float) -> Answer:
        """What comes of a job that another thread does in the turn, and gives the turn back.

        It is not begun after `deadline`: LedgerBusy.
        """
        waiter = self._line_up(job, deadline)
        failure, answer = waiter.failure, waiter.answer
        waiter.failure = waiter.answer = None
        if failure is not None:
            raise failure
        return cast("Answer", answer)

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
        """Give back the turn, if it has come."""
        # A thread that is still in line may have got it just now, for whoever asks next.
        if self._waiter is None or not self._waiter.in_line:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the lock files, and with them give back the turn."""
        if self._waiter is not None and self._waiter.stop():
            # It closes the files when its turn has come, or is over.
            return
        os.close(self._queue)
        os.close(self._turn)

    def _line_up(self, job: Callable[[], object] | None, deadline: float) -> _Waiter:
        waiter = self._waiter
        if waiter is None:
            waiter = self._waiter = _Waiter(self._queue, self._turn)
        # Also for the next time, if this one is given up: the thread stays in line,
        # on the very files that a quick try would lock.
        self._contended = True
        # Who was woken by the last unlock must get to run, or whoever runs already is first
        # in line again: measured with 8 writers, one was passed 140 times.
        _yield()
        began = time.monotonic()
        waited_s = waiter.wait(job, deadline - began)
        if waited_s is None:
            raise LedgerBusy(
                f"{self._ledger.name} is busy: other writers held it all the time",
                hint="safe to try again",
            )
        self._contended = waited_s > _AT_ONCE_S
        return waiter


class _Waiter:
    """A thread that lines up on behalf of another, which can give up waiting."""

    def __init__(self, queue: int, turn: int) -> None:
        self._queue = queue
        self._turn = turn
        # Both are let go of by the other thread: plain locks, as what `threading` makes of
        # them takes a good part of a turn.
        self._asked = threading.Lock()
        self._asked.acquire()
        self._got = threading.Lock()
        self._got.acquire()
        # Guards the rest.
        self._state = threading.Lock()
        self._job: Callable[[], object] | None = None
        self.answer: object = None
        self.failure: BaseException | None = None
        self.in_line = False
        self._wanted = False
        self._running = False
        self._stopped = False
        self._came_at = 0.0
        threading.Thread(target=self._run, name="quotactl-queue", daemon=True).start()

    def wait(self, job: Callable[[], object] | None, timeout_s: float) -> float | None:
        """Line up, or stay in line where an earlier wait was given up.

        Returns the seconds until the turn came: without a job it is the caller's now, with one
        that is done and the turn given back. None where it did not come in time.
        """
        began = time.monotonic()
        try:
            with self._state:
                self._job = job
                self._wanted = True
                if not self.in_line:
                    self.in_line = True
                    self._asked.release()
            got = self._got.acquire(timeout=max(timeout_s, 0))
        except BaseException:
            # A signal's handler broke the wait off: nobody would give back the turn, and what
            # comes of the job would be taken for what comes of the next.
            if self._give_up() and job is None:
                fcntl.flock(self._turn, fcntl.LOCK_UN)
            raise
        # It may have come at the last moment.
        if got or self._give_up():
            return self._came_at - began
        return None

    def stop(self) -> bool:
        """End the thread; True if it is in line or at work, and will close the files itself."""
        with self._state:
            self._stopped = True
            self._wanted = False
            busy = self.in_line or self._running
            if not busy:
                self._asked.release()
            return busy

    def _give_up(self) -> bool:
        """Want the turn no more; True if it has come all the same, and the job is done."""
        with self._state:
            self._wanted = False
            running = self._running
        while running:
            # Not to be broken off: the job has others' things in its hands, but not for long.
            with suppress(BaseException):
                return self._got.acquire()
        return self._got.acquire(blocking=False)

    def _run(self) -> None:
        flock, turn = fcntl.flock, self._turn
        while True:
            self._asked.acquire()
            if self._is_stopped():
                return
            flock(self._queue, fcntl.LOCK_EX)
            flock(turn, fcntl.LOCK_EX)
            flock(self._queue, fcntl.LOCK_UN)
            self._came_at = time.monotonic()
            with self._state:
                self.in_line = False
                job = self._job if self._wanted else None
                self._running = job is not None
                if job is None:
                    if self._wanted:
                        self._got.release()
                    else:
                        flock(turn, fcntl.LOCK_UN)
                # While nobody else can: whoever stops it later closes the files.
                ends = job is None and self._is_stopped()
            if job is not None:
                failure: BaseException | None = None
                try:
                    self.answer = job()
                except BaseException as broken:  # noqa: BLE001 - raised where it was asked for
                    failure = broken
                flock(turn, fcntl.LOCK_UN)
                with self._state:
                    self.failure = failure
                    self._running = False
                    self._got.release()
                    ends = self._is_stopped()
            if ends:
                os.close(self._queue)
                os.close(turn)
                return

    def _is_stopped(self) -> bool:
        return self._stopped


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
