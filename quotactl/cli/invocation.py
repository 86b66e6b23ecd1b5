"""One run of the command line: its global options, and its ways to speak.

A command function gets it by `invocation()`; nothing is passed through signatures::

    def list_tiers() -> None:
        this = invocation()
        with quotactl.connect(this.db) as q:
            this.emit(q.admin.tiers(), columns=["tier", "protected"])

stdout is data (`emit`), stderr is talk (`say`, `confirm`).
"""

from __future__ import annotations

import os
import select
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from quotactl.errors import InvalidInput, NeedsConfirmation
from quotactl.render import pieces, render
from quotactl.render.text import neutralise

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from quotactl.render import Output, Record, Value

# So many characters of a list are held in memory; a longer one goes through a file.
HELD_MAX = 4_000_000

_current: ContextVar[Invocation] = ContextVar("quotactl_invocation")


class OutputLost(OSError):
    """Stdout takes no more, for another reason than a reader that went away: a full disk."""


class Invocation:
    """The global options as given, and what follows from them.

    The attributes set here are what the options say, None or False where not given;
    the parser fills them in from left to right, so the last one given wins.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self.argv = tuple(argv)
        self.ledger: str | None = None
        self.format: Output | None = None
        self.quiet = False
        self.yes = False
        self.act_as: str | None = None
        self.debug = False

    @property
    def db(self) -> str:
        """The ledger's path or URL: `--db`, else QUOTACTL_DB. InvalidInput if neither."""
        db = self.ledger or os.environ.get("QUOTACTL_DB")
        if not db:
            raise InvalidInput("no ledger named", hint="give --db PATH or set QUOTACTL_DB")
        return db

    @property
    def output(self) -> Output:
        """The format asked for; else a table for a terminal and tsv for a pipe."""
        return self.format or ("table" if sys.stdout.isatty() else "tsv")

    @property
    def actor(self) -> str:
        """Who acts: `--as`, else the person behind sudo, else the OS user."""
        if self.act_as is not None:
            return self.act_as
        from quotactl.operations.acts import system_actor

        return system_actor()

    def emit(
        self,
        value: Value | Iterator[Record],
        *,
        columns: Sequence[str] | None = None,
        title: str | None = None,
        caption: str | None = None,
    ) -> None:
        """Write data to stdout in the chosen format (see `quotactl.render`).

        A list that comes row by row is not kept in memory, but in a table: it is read to
        its end, into a file if it is long, before the first line is written, so that the
        transaction that it is read in does not wait for a slow reader.

        With `-q` nothing is written, unless a format was asked for by name: a script
        that says `-q --json` wants the JSON and no talk.
        """
        if self.quiet and self.format is None:
            return
        if isinstance(value, Iterator):
            if self.output != "table":
                self._pass_on(pieces(value, self.output, columns or ()))
                return
            value = list(value)
        self.write(render(value, self.output, columns=columns, title=title, caption=caption))

    def _pass_on(self, texts: Iterator[str]) -> None:
        held: list[str] = []
        size = 0
        spool: TextIO | None = None
        with ExitStack() as opened:
            for text in texts:
                held.append(text)
                size += len(text)
                if size < HELD_MAX:
                    continue
                if spool is None:
                    from tempfile import TemporaryFile

                    spool = opened.enter_context(
                        TemporaryFile("w+", encoding="utf-8", newline="\n")
                    )
                spool.writelines(held)
                held.clear()
                size = 0
            if spool is not None:
                spool.writelines(held)
                held.clear()
                spool.seek(0)
                while lines := spool.readlines(HELD_MAX):
                    self.write_lines("".join(lines))
        self.write_lines("".join(held))

    def write(self, text: str) -> None:
        """Write text to stdout as it stands: rendered data, or a script to be installed."""
        try:
            sys.stdout.write(text)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputLost(*error.args) from error

    def write_lines(self, text: str) -> None:
        """Write whole lines to stdout, now, and none of them by half whatever signal comes.

        Somebody may be waiting for them; and a pipe takes up to PIPE_BUF bytes as a whole.
        """
        try:
            number = sys.stdout.fileno()
        except (OSError, ValueError):  # no file: a test's, or a notebook's
            self.write(text)
            sys.stdout.flush()
            return
        sys.stdout.flush()
        data = text.encode(sys.stdout.encoding, sys.stdout.errors or "strict")
        start = 0
        try:
            while start < len(data):
                end = data.rfind(b"\n", start, start + select.PIPE_BUF) + 1
                end = end or data.find(b"\n", start) + 1 or len(data)
                piece = data[start:end]
                while piece:
                    piece = piece[os.write(number, piece) :]
                start = end
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputLost(*error.args) from error

    def say(self, text: str) -> None:
        """Talk to the person on stderr, one line or several; silent with `-q`."""
        if not self.quiet:
            sys.stderr.writelines(f"{neutralise(line)}\n" for line in text.split("\n"))

    def warn(self, text: str) -> None:
        """Tell on stderr what went wrong though the command went through, in one line.

        Also with `-q`, which is for success: cron's mail is how anybody would learn of it.
        """
        sys.stderr.write(f"warning: {neutralise(text)}\n")

    def confirm(self, question: str, *, command: str | None = None) -> None:
        """Return if the person agrees, else raise NeedsConfirmation. The default is No.

        `--yes` agrees beforehand. Without a terminal nobody is asked, so that a cron
        job never hangs; the hint is then the command that goes through: `command`, or
        this very command line with `--yes`.
        """
        if self.yes:
            return
        # The question goes to stderr: redirected, the person would sit before silence.
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise NeedsConfirmation(
                f"needs confirmation: {question}",
                hint=f"to go ahead: {command or self.command_with('--yes')}",
            )
        sys.stderr.write(f"{neutralise(question)} [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            raise NeedsConfirmation("not confirmed, nothing changed")

    def command_with(self, option: str) -> str:
        """This very command line, with one more option."""
        words = [without_password(word) for word in self.argv]
        # Behind `--` an option would be read as an argument.
        at = words.index("--") if "--" in words else len(words)
        return shlex.join(["quotactl", *words[:at], option, *words[at:]])


def without_password(text: str) -> str:
    """The same text, with what stands before the @ of a URL and after its ? blotted out."""
    head, separator, rest = text.partition("://")
    if not separator:
        return text
    url, blank, rest = rest.partition(" ")
    # A password may hold any sign but a blank; more than needed is hidden rather than less.
    if "@" in url:
        url = "***@" + url.rpartition("@")[2]
    if "?" in url:
        url = url.partition("?")[0] + "?***"
    return f"{head}://{url}{blank}{without_password(rest)}"


def invocation() -> Invocation:
    """Return the run that is under way; LookupError outside of one."""
    return _current.get()


@contextmanager
def started(this: Invocation) -> Iterator[Invocation]:
    """Make `this` the run under way for the length of the block."""
    token = _current.set(this)
    try:
        yield this
    finally:
        _current.reset(token)
