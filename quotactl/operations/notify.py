"""Tell the host's commands what was switched: after its commit, and without any effect on it.

The commands are named in the host's configuration file and never in the ledger: who can
write the ledger must not run code as cron or root thereby. Nothing is run that stands in
a file which somebody else could have written.

    [[notify]]
    command = ["/usr/local/bin/post-to-chat", "--channel", "ops"]
    on = ["throttle", "enforcement.off"]     # left out: everything
    timeout = "10s"

Each gets the act's audit row on stdin, as a CloudEvent in JSON
(https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md).
An end that time brings is no act, and sends none.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quotactl.errors import BadConfiguration, InvalidInput, QuotaError
from quotactl.frozen import frozen
from quotactl.ledger.loaded import Row
from quotactl.ledger.values import rfc3339
from quotactl.operations import audit
from quotactl.operations.announced import ANNOUNCED, Announced
from quotactl.policy.notation import parse_duration, shown
from quotactl.policy.window import from_ms, to_ms

if TYPE_CHECKING:
    from datetime import datetime

    from quotactl.ledger.engine import Engine
    from quotactl.operations.hooks import Command, Run

HOST_CONFIG = Path("/etc/quotactl/config.toml")
TIMEOUT = "10s"
TIMEOUT_MAX_S = 300
"""The longest time-out, and how long all commands of one act may take together."""

_KEYS = ("command", "on", "timeout")
_ON = re.compile(rf"({'|'.join(ANNOUNCED)})(\.[a-z][a-z-]*)?\Z")


@frozen
class Event:
    """An act that was committed; `content` is the CloudEvent, one line of JSON."""

    id: str
    action: str
    subject: str | None
    content: bytes

    def __str__(self) -> str:
        return f"{self.action} {self.subject}" if self.subject else self.action


@frozen
class Failure:
    """An event that may not have arrived: what failed, how, and what it said of it."""

    event: Event
    what: str
    why: str
    said: str | None = None


def send(
    engine: Engine,
    clock: Callable[[], datetime],
    *,
    actor: str,
    announced: Sequence[Announced],
    warn: Callable[[str], None] | None = None,
) -> None:
    """Run the host's commands for acts, and return when they have ended.

    What fails is told to `warn`, one line each (else to `warnings.warn`), and written to
    the audit. Raises only what interrupts, a KeyboardInterrupt: the acts stand.
    """
    warn = warn or _warn
    try:
        path = config_path()
        events = [] if path is None else _committed(engine, announced)
        if path is None or not events:
            return
        try:
            commands = read_commands(path)
        except BadConfiguration as error:
            why = f"{error.message}; {error.hint}" if error.hint else error.message
            # A path need not be text, and the audit takes nothing else.
            where, why = (t.encode(errors="replace").decode() for t in (str(path), why))
            failures = [Failure(event, where, why) for event in events]
            lines = [f"no notification of {', '.join(map(str, events))}: {why}"]
            _report(engine, clock, actor, failures, lines, warn)
            return
        _run(engine, clock, actor, events, commands, warn)
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not look like the act's
        with suppress(Exception):
            warn(f"notification failed: {type(error).__name__}: {error}; the change stands")


# ---- the host's configuration file


def config_path() -> Path | None:
    """The file in force: `$QUOTACTL_CONFIG`, else the first that exists of two; or None.

    /etc/quotactl/config.toml, then $XDG_CONFIG_HOME/quotactl/config.toml (~/.config). The
    one that the variable names need not exist: reading it says so. /dev/null is none.
    """
    named = os.environ.get("QUOTACTL_CONFIG")
    if named:
        return None if named == os.devnull else Path(named)
    # The machine's own first: no user's file may take its place.
    with suppress(FileNotFoundError, NotADirectoryError):
        with suppress(PermissionError):  # there, for all that can be told: reading it says so
            HOST_CONFIG.stat()
        return HOST_CONFIG
    home = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config")
    with suppress(RuntimeError):  # a user without a home
        home = home.expanduser()
    mine = home / "quotactl" / "config.toml"
    # A relative one would be whatever lies in the folder where somebody stands.
    if not home.is_absolute():
        return None
    with suppress(OSError):
        mine.stat()
        return mine
    return None


def read_commands(path: Path) -> tuple[Command, ...]:
    """The commands that a configuration file names, in its order.

    Raises BadConfiguration for a file that is missing, not understood as a whole, or that
    others than root and the present user could have written.
    """
    import tomllib

    try:
        document = tomllib.loads(_read_safely(path).decode("utf-8"))
    except UnicodeDecodeError:
        raise BadConfiguration(f"{path} is not UTF-8 text") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadConfiguration(f"{path} is not TOML: {error}") from None
    for key in document:
        if key != "notify":
            raise BadConfiguration(f"{path}: {shown(key)} is not known", hint="[[notify]] is")
    tables = document.get("notify", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise BadConfiguration(f"{path}: notify is no list of tables", hint="write [[notify]]")
    return tuple(
        _command(table, f"{path}: notify {number}") for number, table in enumerate(tables, start=1)
    )


def _read_safely(path: Path) -> bytes:
    try:
        # Neither waiting for the other end of a pipe, nor checking one file and reading another.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BadConfiguration(f"{path} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise BadConfiguration(f"{path} can't be read: {error}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadConfiguration(f"{path} is not a file")
        if status.st_uid not in (0, os.geteuid()):
            raise BadConfiguration(
                f"{path} belongs to neither root nor who acts (it is uid {status.st_uid}'s)",
                hint="nothing in it was run",
            )
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise BadConfiguration(
                f"{path} can be written by others than its owner", hint=f"chmod go-w {path}"
            )
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def _command(table: dict[str, Any], where: str) -> Command:
    """One table of the file; `where` says which, for whoever has to mend it."""
    from quotactl.operations.hooks import Command

    for key in table:
        if key not in _KEYS:
            raise BadConfiguration(
                f"{where}: {shown(key)} is not known", hint=f"known are {', '.join(_KEYS)}"
            )
    words = _texts(table.get("command"))
    if not words:
        raise BadConfiguration(
            f"{where}: command is no list of words", hint='such as ["/usr/local/bin/post", "ops"]'
        )
    # Looked up in PATH, or where somebody stands, it could be anybody's program.
    if not words[0].startswith("/"):
        raise BadConfiguration(f"{where}: {shown(words[0])} is no absolute path")
    if any("\0" in word for word in words):
        raise BadConfiguration(f"{where}: a word of command has a NUL in it")
    on = _texts(table.get("on", list(ANNOUNCED)))
    for wanted in on:
        if not _ON.match(wanted):
            raise BadConfiguration(
                f"{where}: on {shown(wanted)} is not known",
                hint=f"{', '.join(ANNOUNCED)}, or single actions such as throttle.on",
            )
    if not on:
        raise BadConfiguration(f"{where}: on is no list of texts", hint="left out, it is all")
    timeout = table.get("timeout", TIMEOUT)
    try:
        timeout_s = parse_duration(timeout if isinstance(timeout, str) else repr(timeout)) / 1000
    except InvalidInput as error:
        raise BadConfiguration(f"{where}: timeout: {error.message}", hint="such as 10s") from None
    if timeout_s > TIMEOUT_MAX_S:
        raise BadConfiguration(f"{where}: timeout {timeout} is too long", hint="at most 5m")
    return Command(words, on, timeout_s)


def _texts(value: object) -> tuple[str, ...]:
    """A list of texts as a tuple; empty for anything else."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        return ()
    return tuple(value)


# ---- the events


def _committed(engine: Engine, announced: Sequence[Announced]) -> list[Event]:
    """The events of audit rows that are in the ledger.

    An act that was undone (a rehearsal) has left no row of this hash, though another
    process may have written one of this id since.
    """
    with engine.reading() as book:
        return [
            _event(book.head.name, row, book.why(row["id"]))
            for audit_id, row_hash in announced
            for row in book.rows("audit", {"id": audit_id})
            if row["hash"] == row_hash
        ]


def _event(ledger: str, row: Row, why: dict[str, str | None]) -> Event:
    from urllib.parse import quote

    # With the hash, as another ledger may have the same name: a copy, or one made anew.
    event_id = f"{row['id']}-{row['hash'][:16]}"
    subject = row["subject"]
    event = {
        "specversion": "1.0",
        "id": event_id,
        "source": f"quotactl/{quote(ledger, safe='')}",
        "type": f"quotactl.{row['action']}",
        # Left out, it is unset; it may not be an empty text.
        **({"subject": subject} if subject else {}),
        "time": rfc3339(from_ms(row["at_ms"])),
        "datacontenttype": "application/json",
        "data": {
            "ledger": ledger,
            "actor": row["actor"],
            "action": row["action"],
            "subject": subject,
            "before": None if row["before"] is None else json.loads(row["before"]),
            "after": None if row["after"] is None else json.loads(row["after"]),
            "reason": why["reason"],
            "ticket": why["ticket"],
            "audit_id": row["id"],
        },
    }
    return Event(event_id, row["action"], subject, f"{json.dumps(event)}\n".encode("ascii"))


# ---- running, and what went wrong


def _run(
    engine: Engine,
    clock: Callable[[], datetime],
    actor: str,
    events: Sequence[Event],
    commands: Sequence[Command],
    warn: Callable[[str], None],
) -> None:
    """Run the commands of one event at once, and events in their order."""
    from quotactl.operations.hooks import Run, run_all

    runs = [
        (
            event,
            [Run(command, event.content) for command in commands if command.wants(event.action)],
        )
        for event in events
    ]
    until = time.monotonic() + TIMEOUT_MAX_S
    hung: set[tuple[str, ...]] = set()
    try:
        for _, of_event in runs:
            for run in of_event:
                if run.command.words in hung:
                    run.why = "was not run: it had to be stopped a moment ago"
            run_all([run for run in of_event if run.command.words not in hung], until=until)
            hung.update(run.command.words for run in of_event if run.timed_out)
    finally:
        failures = [_failure(event, run) for event, of_event in runs for run in of_event if run.why]
        if failures:
            lines = [
                f"notification of {failure.event}: {failure.what} {failure.why}"
                f"{f' ({failure.said})' if failure.said else ''}; the change stands"
                for failure in failures
            ]
            _report(engine, clock, actor, failures, lines, warn)


def _failure(event: Event, run: Run) -> Failure:
    # The first word alone: others may be secrets.
    return Failure(event, run.command.words[0], run.why or "", run.said)


def _report(
    engine: Engine,
    clock: Callable[[], datetime],
    actor: str,
    failures: Sequence[Failure],
    lines: Sequence[str],
    warn: Callable[[str], None],
) -> None:
    """Write failures to the audit, in a transaction of their own, and say them."""
    try:
        with engine.writing() as book:
            for failure in failures:
                audit.record(
                    book,
                    now_ms=to_ms(clock()),
                    actor=actor,
                    action="notify.failed",
                    subject=failure.what,
                    after={"event": failure.event.id, "why": failure.why},
                    # Not in `after`: what a command says may have to be removed one day.
                    reason=failure.said,
                )
    except QuotaError as error:
        lines = [*lines, f"nor is that in the audit: {error.message}"]
    for line in lines:
        warn(line)


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=2)
