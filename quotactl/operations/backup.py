"""Backups of a ledger: made while others write, checked before they count, and put back.

A backup leaves no row in the audit: it changes nothing for anybody, and a row would make
the ledger differ from the copy that was just taken of it. A restore leaves one.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from quotactl.engines.opening import ledger_path, open_engine
from quotactl.engines.schema import SCHEMA_VERSION
from quotactl.engines.sqlite import backup as files
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

# Left behind by a run that was killed; a copy takes minutes at most.
STALE_S = 86_400


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
    folder, final = _target(path, to, now)
    temporary = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        files.back_up(path, temporary)
        found = _checked(temporary, to_ms(now))
        files.share_like(path, temporary)
        size = temporary.stat().st_size
        final = _published(temporary, final, folder=folder)
    except OSError as error:
        raise QuotaError(f"no backup at {final}: {error.strerror}") from None
    finally:
        files.remove(temporary)
    removed: list[str] = []
    if folder:
        _remove_stale(final.parent)
        if keep is not None:
            for old in backups_of(path, final.parent)[:-keep]:
                files.remove(old)
                removed.append(str(old))
    return Backup(str(final), size, found.entries, found.audit_hash, tuple(removed))


def backups_of(path: Path, folder: Path) -> list[Path]:
    """The backups of a ledger in a folder, the oldest first; of no other file there."""
    pattern = re.compile(rf"{re.escape(path.name)}-(\d{{8}}T\d{{6}}Z)(?:-(\d+))?\.backup")
    found = [
        (match[1], int(match[2] or 1), file)
        for file in folder.iterdir()
        if (match := pattern.fullmatch(file.name)) and file.is_file() and not file.is_symlink()
    ]
    return [file for _, _, file in sorted(found)]


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
    if not source.is_file():
        raise NotFound(f"no backup {backup}", hint=f"look in {backup_folder(path)}")
    if path.exists() and path.samefile(source):
        raise InvalidInput(f"{backup} is the ledger itself")
    new = path.resolve()
    new = new.with_name(f".{new.name}.{os.getpid()}.restoring")
    try:
        try:
            with _copy(source, older_too=True) as copy:
                schema = copy.schema()
            files.back_up(source, new, finished=True)
            with _copy(new, writable=True, older_too=True) as copy:
                if damage := copy.damage():
                    raise LedgerCorrupt(f"{backup} is damaged: {damage[0]}")
                if schema < SCHEMA_VERSION:
                    copy.bring_up_to_date()
            plan = Restore(path, source, new, schema, _checked(new, to_ms(now), shown=source))
        except LedgerCorrupt as error:
            # Of the backup that was named, not of our copy of it.
            told = error.message.replace(str(new), backup)
            raise LedgerCorrupt(told, hint="take another one") from None
        yield plan
    finally:
        files.remove(new)


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


def _target(path: Path, to: str | None, now: datetime) -> tuple[bool, Path]:
    """Whether it goes into a folder, and the file's path."""
    if to is not None and not (to.endswith("/") or Path(to).is_dir()):
        if not Path(to).absolute().parent.is_dir():
            raise NotFound(f"no folder {Path(to).parent} for a backup")
        if os.path.lexists(to):
            raise InvalidInput(f"{to} exists already", hint="name a new file, or a folder")
        return False, Path(to)
    folder = backup_folder(path) if to is None else Path(to)
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            files.share_folder_like(path, folder)
    except OSError as error:
        raise QuotaError(f"can't make {folder}: {error.strerror}") from None
    return True, _free_name(folder / f"{path.name}-{_stamp(now)}", ".backup")


def _published(temporary: Path, final: Path, *, folder: bool) -> Path:
    """Give a copy its name; in a folder the next one, where another run has just taken it."""
    while True:
        try:
            files.publish(temporary, final)
        except Conflict:
            if not folder:
                raise
            stem = re.sub(r"(Z)(-\d+)?\.backup$", r"\1", final.name)
            final = _free_name(final.with_name(stem), ".backup")
        else:
            return final


def _free_name(path: Path, suffix: str = "") -> Path:
    """The path, or with -2, -3 … where something has that name."""
    number, free = 1, path.with_name(path.name + suffix)
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}{suffix}")
    return free


def _checked(path: Path, now_ms: int, shown: Path | None = None) -> Verification:
    """What `verify` finds in a copy; LedgerCorrupt if there is any difference."""
    shown = shown or path
    with _copy(path) as copy:
        found = verify(copy, now_ms)
    if found.ok:
        return found
    first = found.differences[0]
    raise LedgerCorrupt(
        f"{shown} does not add up: {first.what} {first.where}: {first.found}"
        f" ({_count(len(found.differences), 'difference', 'differences')})",
        hint="quotactl db verify has them all" if shown == path else "take another backup",
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


def _remove_stale(folder: Path) -> None:
    """Remove what runs that were killed have left in a folder of backups."""
    for file in folder.glob(".*.part"):
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > STALE_S:
                files.remove(file)


def _stamp(now: datetime) -> str:
    return f"{now:%Y%m%dT%H%M%SZ}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
