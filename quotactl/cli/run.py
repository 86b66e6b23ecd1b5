"""Run one command; whatever happens, end with one line and the right exit code.

A failure is turned into a QuotaError, and told in one way: one line on stderr, and over
JSON output also `{"error": …}` on stdout. Signals end with 128 plus their number,
as shells count: 130 interrupted, 143 terminated, 141 when the reader of stdout went
away (`| head`) - silent, but not 0, since a batch may have been cut short.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

from quotactl.cli.commands import COMMANDS, Entry
from quotactl.cli.invocation import Invocation, OutputLost, started, without_password
from quotactl.cli.plain import understood
from quotactl.errors import QuotaError
from quotactl.render import render
from quotactl.render.text import neutralise

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class _Terminated(BaseException):
    """SIGTERM arrived. No Exception, so that no command takes it for a failure of its own."""


# Within this of the first signal others are not heard: they would break off what it has set
# off, the rolling back and closing, and what is said of it.
_UNWINDING_S = 2.0
_AGAIN_S = 0.001


def run(argv: Sequence[str], table: Mapping[str, Entry] = COMMANDS) -> int:
    """Run the command that `argv` names and return its exit code; raises nothing."""
    with _somewhere_to_write(), _signals_raise() as signals:
        try:
            return _run(argv, table)
        except KeyboardInterrupt:
            return _tell("interrupted", 130)
        except _Terminated:
            return _tell("terminated", 143)
        finally:
            signals.over = True


def _run(argv: Sequence[str], table: Mapping[str, Entry]) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name may not fit the terminal's encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    with started(Invocation(argv)) as this:
        try:
            code = _call(table, this)
            sys.stdout.flush()  # here, where its failure still has an exit code
            return code
        except BrokenPipeError:
            _discard_stdout()
            return 141
        except OSError as error:
            _discard_stdout()
            return _tell(f"can't write the output: {error.strerror}", 1)


@contextmanager
def _somewhere_to_write() -> Iterator[None]:
    """Give a stream that the caller closed (`>&-`) somewhere to go: Python has None there."""
    with ExitStack() as opened:
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:
                nowhere = opened.enter_context(open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123
                setattr(sys, name, nowhere)
                opened.callback(setattr, sys, name, None)
        yield


def _call(table: Mapping[str, Entry], this: Invocation) -> int:
    try:
        result = _result(table, this)
    except (BrokenPipeError, OutputLost):
        raise
    except QuotaError as error:
        return _fail(error, this)
    except Exception as error:  # noqa: BLE001 - the last line of defence
        return _fail(_unexpected(error), this)
    assert result is None or type(result) is int, f"a command returned {result!r}"
    return result or 0


def _result(table: Mapping[str, Entry], this: Invocation) -> int | None:
    plain = understood(this.argv, table)
    if plain is None:
        from quotactl.cli import app

        return app.call(table, this.argv)
    for attribute, value in plain.everywhere.items():
        setattr(this, attribute, value)
    return plain.function(**plain.arguments)


def _fail(error: QuotaError, this: Invocation) -> int:
    if this.debug:
        import traceback

        sys.stderr.writelines(
            without_password(line) + "\n" for line in traceback.format_exc().splitlines()
        )
    error.message = without_password(error.message)
    error.hint = None if error.hint is None else without_password(error.hint)
    if this.format in {"json", "jsonl"} or (this.format is None and _asks_for_json(this.argv)):
        sys.stdout.write(render(error.to_dict(), "jsonl"))
        sys.stdout.flush()
    text = error.message
    if error.hint:
        text += f"{'' if text.endswith('?') else ';'} {error.hint}"
    return _tell(text, error.exit_code)


def _tell(text: str, code: int) -> int:
    with suppress(OSError):  # nobody to tell: the exit code still does
        sys.stderr.write(f"quotactl: {neutralise(text)}\n")
        sys.stderr.flush()
    return code


def _unexpected(error: Exception) -> QuotaError:
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    failure = QuotaError(f"unexpected: {text}", hint="--debug shows the traceback")
    if isinstance(error, OSError):
        # Anywhere, and mostly where a module is to be read.
        if error.errno in {errno.EMFILE, errno.ENFILE}:
            failure = QuotaError("too many open files", hint="raise the limit: ulimit -n")
        elif error.errno in {errno.ENOSPC, errno.EDQUOT}:
            failure = QuotaError(f"the disk is full: {error}", hint="make room")
    failure.__cause__ = error
    return failure


def _asks_for_json(argv: Sequence[str]) -> bool:
    """Tell whether a command line that could not be parsed asks for JSON.

    Parsing stopped at the error, perhaps before the option. A guess: it can take an
    option's value for an option, which costs no more than a line of JSON on stdout.
    """
    words = argv[: argv.index("--")] if "--" in argv else argv
    text = " ".join(words).replace("--output", "-o").replace("-o=", "-o").replace("-o ", "-o")
    return any(word in {"--json", "-ojson", "-ojsonl"} for word in text.split(" "))


class _Signals:
    """What came of SIGINT and SIGTERM."""

    def __init__(self) -> None:
        self.over = False
        self.unraisable = sys.unraisablehook
        self._number = 0
        self._heard_at = -_UNWINDING_S

    def hear(self, number: int, _frame: object) -> None:
        """Unwind the stack, so that transactions roll back and files are closed."""
        now = time.monotonic()
        if self.over or now - self._heard_at < _UNWINDING_S:
            return
        self._heard_at = now
        self._number = number
        self._raise()

    def hear_again(self, missed: sys.UnraisableHookArgs) -> None:
        """Raise once more, a moment later, what came where nothing can be raised.

        In a finalizer or a weak reference's callback, as Python's own imports have them, an
        exception is only complained of.
        """
        if missed.exc_type not in {KeyboardInterrupt, _Terminated}:
            self.unraisable(missed)
        elif not self.over:
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)

    def alarm(self, _number: int, _frame: object) -> None:
        if not self.over:
            self._raise()

    def _raise(self) -> NoReturn:
        if self._number == signal.SIGINT:
            raise KeyboardInterrupt
        raise _Terminated


@contextmanager
def _signals_raise() -> Iterator[_Signals]:
    signals = _Signals()
    before: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        # Whoever started this with one of them ignored (`nohup`, a script's `&`) meant it.
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            with suppress(ValueError):  # not the main thread: whoever has it decides
                before[number] = signal.signal(number, signals.hear)
    if before:
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, signals.alarm)
        sys.unraisablehook = signals.hear_again
    try:
        yield signals
    finally:
        if before:
            signal.setitimer(signal.ITIMER_REAL, 0)
            sys.unraisablehook = signals.unraisable
        for heard, handler in before.items():
            signal.signal(heard, handler)


def _discard_stdout() -> None:
    """Let the interpreter's own last flush succeed; it would complain and exit with 120."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
