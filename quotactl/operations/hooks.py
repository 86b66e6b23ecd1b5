"""Run commands of the host's: without a shell, for a bounded time, several at once.

Each has its own session, so that what it starts can be stopped with it and a key
pressed in the terminal reaches none of them. It runs in `/`: a word that is a relative
path means the same wherever somebody stood.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from quotactl.frozen import frozen

TICK_S = 0.02
"""How late the end of a command may be noticed: nothing tells of it where what it left
behind keeps its stderr open."""

KILLED_S = 1.0
"""How long a killed command is waited for: one that hangs in the kernel may not die."""

STDERR_KEPT = 8192
SAID_MAX = 200


@frozen
class Command:
    """`words` are the program's absolute path and its arguments.

    `on` names what it wants to hear of: families of actions such as `throttle`, or
    single ones such as `throttle.on`.
    """

    words: tuple[str, ...]
    on: tuple[str, ...]
    timeout_s: float

    def wants(self, action: str) -> bool:
        return action in self.on or action.partition(".")[0] in self.on


@dataclass
class Run:
    """One command that is to get one text on stdin, and what became of it.

    `why` says how it failed, None that it did not; until then it reads as it would if
    everything stopped here. `said` is the last line of its stderr, made harmless.
    """

    command: Command
    stdin: bytes
    why: str | None = "was interrupted"
    said: str | None = None
    timed_out: bool = False


def run_all(runs: Sequence[Run], *, until: float) -> None:
    """Run commands at once, each for its time-out or until a moment of `time.monotonic()`.

    Returns when all have ended or been stopped; what they started in the background and
    left is not waited for. Raises only what interrupts, and stops them all then.
    """
    under_way: list[_Running] = []
    with selectors.DefaultSelector() as selector:
        try:
            for run in runs:
                limit_s = min(run.command.timeout_s, until - time.monotonic())
                if limit_s <= 0:
                    run.why = "was not run: the others took all the time there is"
                    continue
                try:
                    with _signals_held_back():
                        under_way.append(_Running(run, limit_s, selector))
                except (OSError, subprocess.SubprocessError) as error:
                    run.why = f"can't be started: {getattr(error, 'strerror', None) or error}"
            while under_way:
                for key, _ in selector.select(TICK_S):
                    key.data()
                under_way = [running for running in under_way if not running.ended()]
        finally:
            for running in under_way:
                running.stop()


class _Running:
    """A command that was started."""

    def __init__(self, run: Run, limit_s: float, selector: selectors.BaseSelector) -> None:
        self._run = run
        self._limit_s = limit_s
        self._selector = selector
        self._unsent = run.stdin
        self._stderr = b""
        self._process = subprocess.Popen(  # noqa: S603 - words of a file that was checked
            run.command.words,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            # One that switches something by itself would be told of that, and so on forever.
            env={**os.environ, "QUOTACTL_CONFIG": os.devnull},
            start_new_session=True,
        )
        self._until = time.monotonic() + limit_s
        # Not communicate(): it keeps all that is said, and waits for whoever has the pipes
        # (python/cpython#76116), also for what was left in the background on purpose.
        assert self._process.stdin is not None and self._process.stderr is not None
        self._to, self._from = self._process.stdin, self._process.stderr
        os.set_blocking(self._to.fileno(), False)
        os.set_blocking(self._from.fileno(), False)
        selector.register(self._to, selectors.EVENT_WRITE, self._write)
        selector.register(self._from, selectors.EVENT_READ, self._read)

    def ended(self) -> bool:
        """Whether it has ended, stopping it when its time is over."""
        status = self._process.poll()
        if status is None and time.monotonic() < self._until:
            return False
        self._run.timed_out = status is None
        if status is None:
            self._run.why = f"was stopped after {self._limit_s:.3g} s"
        elif status < 0:
            self._run.why = f"was killed by signal {-status}"
        else:
            self._run.why = f"ended with status {status}" if status else None
        self.stop()
        if self._run.why is not None:
            self._run.said = _last_line(self._stderr)
        return True

    def stop(self) -> None:
        """Let go of it, and kill it with all that it started if it still runs."""
        if self._process.poll() is None:
            # Not waited for yet, so its number can't be another's already. What it may not
            # signal (a program of another user's) goes on.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(KILLED_S)
        if not self._from.closed:
            self._read()
        for stream in (self._to, self._from):
            self._close(stream)

    def _write(self) -> None:
        try:
            self._unsent = self._unsent[os.write(self._to.fileno(), self._unsent) :]
        except BlockingIOError:
            return
        except OSError:  # it does not want it: what that means, its status tells
            self._unsent = b""
        if not self._unsent:
            self._close(self._to)

    def _read(self) -> None:
        try:
            part = os.read(self._from.fileno(), 65536)
        except BlockingIOError:
            return
        if not part:
            self._close(self._from)
        self._stderr = (self._stderr + part)[-STDERR_KEPT:]

    def _close(self, stream: object) -> None:
        assert stream is self._to or stream is self._from
        if stream.closed:
            return
        self._selector.unregister(stream)
        stream.close()


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Let what would raise (SIGINT, SIGTERM) do so at the end of the block.

    Between a program's start and Popen's return nobody has its number: a raise there would
    leave it running. Not by a mask, which the program would inherit.
    """
    came: list[int] = []
    handlers: dict[int, Callable[..., object]] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                # What is ignored stays ignored, for the program too.
                if callable(handler):
                    handlers[number] = handler
                    signal.signal(number, lambda number, _frame: came.append(number))
        yield
    finally:
        for held, handler in handlers.items():
            signal.signal(held, handler)
        for arrived in came:
            signal.raise_signal(arrived)


def _last_line(stderr: bytes) -> str | None:
    """The last line with something in it, as printable text: of a traceback, what it was."""
    text = stderr.decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    return "".join(c if c.isprintable() else "?" for c in lines[-1][:SAID_MAX])
