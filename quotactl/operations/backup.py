"""Backups of a ledger: made while others write, checked before they count, and put back.

A backup leaves no row in the audit: it changes nothing for anybody, and a row would make
the ledger differ from the copy that was just taken of it. A restore leaves one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from quotactl.engines.opening import ledger_path, open_engine
from quotactl.engines.schema import SCHEMA_VERSION
from quotactl.engines.sqlite import backup as files
from quotactl.engines.sqlite.failures import unusable
from quotactl.engines.sqlite.whole import publish, workspace
from quotactl.errors import Conflict, InvalidInput, LedgerCorrupt, NotFound, QuotaError
from quotactl.frozen import frozen
from quotactl.ledger.values import View, rfc3339
from quotactl.ledger.views import Outcome
from quotactl.operations.acts import Act, Clock, actor_named, check_why
from quotactl.operations.verify import Verification, verify
from quotactl.policy.settings import value_of
from quotactl.policy.window import from_ms, to_ms

if TYPE_CHECKING:
    import sqlite3

    from quotactl.engines.sqlite.book import Book
    from quotactl.ledger.engine import Engine


@frozen
class Backup(View):
    """A backup that was made and checked. `removed` are the paths of older ones that went."""

    path: str
    bytes: int
    entries: int
    audit_hash: str
    removed: tuple[str, ...]


@frozen
class Loss:
    """What a restore takes back: entries and acts since the backup.

    None where it can't be told: the present ledger is damaged, or not the one that the
    backup was made of, as `why` says.
    """

    entries: int | None
    acts: int | None
    why: str | None = None

    def __str__(self) -> str:
        if self.why is not None:
            return self.why
        if not self.entries and not self.acts:
            return "nothing has changed since"
        return (
            f"what happened since is lost: {_count(self.entries or 0, 'entry', 'entries')}, "
            f"{_count(self.acts or 0, 'act', 'acts')}"
        )


class Restore:
    """A backup that was copied beside the ledger, brought up to date and checked."""

    def __init__(
        self, path: Path, backup: Path, new: Path, schema: int, content: Verification
    ) -> None:
        self.path = path
        self.backup = backup
        self.schema = schema
        self.content = content
        self._new = new
        with _copy(new) as copy, copy.reading() as book:
            self.taken_at = _newest(book)
            self._name = book.head.name
            self._last_entry = book.next_entry_id() - 1
            self._last_act = book.last_audit()

    def loss(self) -> Loss:
        """What there is in the ledger now and not in the backup."""
        if not self.path.exists():
            return Loss(None, None, f"there is no ledger at {self.path} now")
        try:
            engine = open_engine(self.path, older_too=True)
            try:
                with engine.reading() as book:
                    return self._compared(book)
            finally:
                engine.close()
        except QuotaError as error:
            return self._unknown(error)

    def put_in_place(
        self, clock: Clock, *, actor: str, reason: str | None, ticket: str | None
    ) -> Outcome:
        """Write the act into the copy, and swap it in. The old ledger stays beside it."""
        with files.swapping(self.path) as present:
            now_ms = to_ms(clock())
            aside = self.path.resolve()
            aside = _free_name(
                aside.with_name(f"{aside.name}.before-restore-{_stamp(from_ms(now_ms))}")
            )
            # Once more, in turn: these are the figures that go into the audit.
            loss = self._loss_now(present)
            with _copy(self._new, writable=True) as copy, copy.writing() as book:
                Act(book, now_ms, actor, reason, ticket).record(
                    "db.restore",
                    subject=self.backup.name[:256],
                    before={"entries_lost": loss.entries, "acts_lost": loss.acts},
                    after={"audit_hash": self.content.audit_hash, "entries": self.content.entries},
                )
            files.share_like(self.path, self._new)
            files.take_owner_of(self.path, self._new)
            files.swap(self._new, self.path, aside)
            kept = present is not None or aside.exists()
        return Outcome(
            True,
            f"{self.path} is restored from {self.backup}; {loss}"
            + (f"; the old one is {aside}" if kept else ""),
            {
                "path": str(self.path),
                "backup": str(self.backup),
                "before": str(aside) if kept else None,
                "schema_before": self.schema,
                "schema": SCHEMA_VERSION,
                "entries": self.content.entries,
                "entries_lost": loss.entries,
                "acts_lost": loss.acts,
                "audit_hash": self.content.audit_hash,
            },
        )

    def _loss_now(self, present: sqlite3.Connection | None) -> Loss:
        if present is None:
            # None there, or it can't be read: said as before.
            return self.loss()
        try:
            with files.book_of(present, self.path) as book:
                return self._compared(book)
        except QuotaError as error:
            return self._unknown(error)

    def _unknown(self, error: QuotaError) -> Loss:
        return Loss(None, None, f"the present ledger can't be read ({error.message})")

    def _compared(self, book: Book) -> Loss:
        last = self._last_act
        if book.head.name != self._name:
            return Loss(None, None, f"the ledger is {book.head.name}, the backup of {self._name}")
        if last is not None and not book.rows("audit", {"id": last[0], "hash": last[1]}):
            return Loss(None, None, "the ledger is not the one that this is a backup of")
        newest = book.last_audit()
        return Loss(
            max(0, book.next_entry_id() - 1 - self._last_entry),
            (0 if newest is None else newest[0]) - (0 if last is None else last[0]),
        )


def back_up(
    engine: Engine, db: str | Path, now: datetime, *, to: str | None = None, keep: int | None = None
) -> Backup:
    """Make a backup in a folder under a name with its time, or in a file that `to` names.

    A folder keeps the newest `keep`, else as many as the setting `backup_keep` says. Raises
    Conflict for a file that exists, LedgerCorrupt where the copy does not add up: older
    backups then stay.
    """
    path = ledger_path(db)
    with engine.reading() as book:
        kept = value_of(book.settings, "backup_keep")
    if keep is None and kept != "all":
        keep = int(kept)
    folder, final = _target(path, to)
    try:
        # Of one name for all backups in a folder: each clears away what was left of others.
        with workspace(folder / path.name if final is None else final) as room:
            copy = room / "copy"
            files.back_up(path, copy, shown=final or folder)
            found = _checked(copy, to_ms(now), path, "quotactl db verify has them all")
            files.share_like(path, copy)
            size = copy.stat().st_size
            if final is not None:
                publish(copy, final)
                return Backup(str(final), size, found.entries, found.audit_hash, ())
            final = _publish_in(folder, path, now, copy)
    except OSError as error:
        raise QuotaError(f"no backup at {final or folder}: {error.strerror}") from None
    removed: list[str] = []
    if keep is not None:
        for old in backups_of(path, folder)[:-keep]:
            files.remove(old)
            removed.append(str(old))
    return Backup(str(final), size, found.entries, found.audit_hash, tuple(removed))


def _publish_in(folder: Path, path: Path, now: datetime, copy: Path) -> Path:
    """Give a backup the next name of its second, after those that others took meanwhile."""
    stamp = _stamp(now)
    # Beyond the last: a lower one that has become free would be taken for the oldest.
    orders = [_order(path, file.name) for file in backups_of(path, folder)]
    number = max((number for taken_at, number in orders if taken_at == stamp), default=0) + 1
    while True:
        more = f"-{number}" if number > 1 else ""
        final = folder / f"{path.name}-{stamp}{more}.backup"
        if not os.path.lexists(final):
            with suppress(Conflict):
                publish(copy, final)
                return final
        number += 1


def backups_of(path: Path, folder: Path) -> list[Path]:
    """The backups of a ledger in a folder, the oldest first; of no other file there."""
    found = [
        file
        for file in folder.iterdir()
        if _order(path, file.name)[1] and file.is_file() and not file.is_symlink()
    ]
    return sorted(found, key=lambda file: _order(path, file.name))


def _order(path: Path, name: str) -> tuple[str, int]:
    """The second of a ledger's backup and its number in it, from 1 on; 0 of another file."""
    pattern = rf"{re.escape(path.name)}-(\d{{8}}T\d{{6}}Z)(?:-(\d+))?\.backup"
    match = re.fullmatch(pattern, name)
    return ("", 0) if match is None else (match[1], int(match[2] or 1))


def backup_folder(path: Path) -> Path:
    """Where backups of a ledger go unless told."""
    return path.with_name(f"{path.name}.backups")


@contextmanager
def restoring(db: str | Path, backup: str, now: datetime) -> Iterator[Restore]:
    """Copy a backup beside the ledger and check it; the copy is gone after the block, if it
    was not put in place.

    Raises NotFound for no such file, SchemaMismatch for one of a newer version,
    LedgerCorrupt for one that is damaged or does not add up.
    """
    path, source = ledger_path(db), Path(backup)
    files.mend(path)
    if not source.is_file():
        raise NotFound(f"no backup {backup}", hint=f"look in {backup_folder(path)}")
    if path.exists() and path.samefile(source):
        raise InvalidInput(f"{backup} is the ledger itself")
    with _copy(source, older_too=True) as copy:
        schema = copy.schema()
    real = path.resolve()
    with ExitStack() as stack:
        try:
            new = stack.enter_context(workspace(real)) / "copy"
        except OSError as error:
            raise unusable(f"can't copy {backup} beside {path}", error) from None
        files.back_up(source, new, finished=True, shown=path)
        try:
            with _copy(new, writable=True, older_too=True) as copy:
                if damage := copy.damage():
                    raise LedgerCorrupt(f"{backup} is damaged: {damage[0]}")
                if schema < SCHEMA_VERSION:
                    copy.bring_up_to_date()
            content = _checked(new, to_ms(now), source, "take another one")
        except LedgerCorrupt as error:
            # Of the backup that was named, not of our copy of it.
            told = error.message.replace(str(new), backup)
            raise LedgerCorrupt(told, hint="take another one") from None
        yield Restore(path, source, new, schema, content)


def restore(
    plan: Restore,
    clock: Clock,
    *,
    actor: str | None = None,
    reason: str | None = None,
    ticket: str | None = None,
) -> Outcome:
    """Put a restored copy in the ledger's place, with its row in the audit."""
    check_why(reason, ticket, None)
    return plan.put_in_place(clock, actor=actor_named(actor), reason=reason, ticket=ticket)


# ---- steps


def _target(path: Path, to: str | None) -> tuple[Path, Path | None]:
    """The folder it goes to, and the file's path where it is not one of many there."""
    if to is not None and "://" in to:
        raise InvalidInput("a backup goes to a file or a folder, not to a URL")
    if to is not None and not (to.endswith("/") or Path(to).is_dir()):
        if not Path(to).absolute().parent.is_dir():
            raise NotFound(f"no folder {Path(to).parent} for a backup")
        if os.path.lexists(to):
            raise InvalidInput(f"{to} exists already", hint="name a new file, or a folder")
        return Path(to).parent, Path(to)
    folder = backup_folder(path) if to is None else Path(to)
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            files.share_folder_like(path, folder)
    except OSError as error:
        raise QuotaError(f"can't make {folder}: {error.strerror}") from None
    return folder, None


def _free_name(path: Path) -> Path:
    """The path, or with -2, -3 … where something has that name."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def _checked(copy_of: Path, now_ms: int, shown: Path, hint: str) -> Verification:
    """What `verify` finds in a copy; LedgerCorrupt if there is any difference."""
    with _copy(copy_of) as copy:
        found = verify(copy, now_ms)
    if found.ok:
        return found
    first = found.differences[0]
    raise LedgerCorrupt(
        f"{shown} does not add up: {first.what} {first.where}: {first.found}"
        f" ({_count(len(found.differences), 'difference', 'differences')})",
        hint=hint,
    )


@contextmanager
def _copy(path: Path, *, writable: bool = False, older_too: bool = False) -> Iterator[files.Copy]:
    copy = files.Copy(path, writable=writable, older_too=older_too)
    try:
        yield copy
    finally:
        copy.close()


def _newest(book: Book) -> str | None:
    """When the last act or entry in a copy was, as text."""
    moments = [row["at_ms"] for row in book.audit_rows(newest=1)]
    last = book.entry(book.next_entry_id() - 1)
    if last is not None:
        moments.append(last.at_ms)
    return rfc3339(from_ms(max(moments))) if moments else None


def _stamp(now: datetime) -> str:
    return f"{now:%Y%m%dT%H%M%SZ}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
