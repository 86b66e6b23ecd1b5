"""How a ledger comes to be: under another name, so that a crash leaves none or a whole one."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from quotactl.engines.schema import apply_migrations
from quotactl.engines.sqlite.backup import mend
from quotactl.engines.sqlite.book import Book
from quotactl.engines.sqlite.door import PAGE_SIZE
from quotactl.engines.sqlite.failures import translated, unusable
from quotactl.engines.sqlite.session import Session
from quotactl.engines.sqlite.whole import publish, remove_left_over, workspace
from quotactl.errors import Conflict, NotFound

_NEVER_OVERWRITTEN = "a ledger is never overwritten: name another file"


@contextmanager
def making(
    path: Path, *, name: str, zone: str, now_ms: int, group_id: int | None = None
) -> Iterator[Book]:
    """Make a ledger; the block writes its first rows, and when it ends the file has its name.

    Its owner alone may read and write it, and the group if one is given; SQLite's files
    and the queue's follow it. Refuses an existing file, and raises Conflict also where
    another process was faster.
    """
    mend(path)
    # Where a try was killed with its work done, there is a folder left all the same.
    remove_left_over(path)
    if os.path.lexists(path):
        raise Conflict(f"{path} exists already", hint=_NEVER_OVERWRITTEN)
    with ExitStack() as stack:
        try:
            new = stack.enter_context(workspace(path)) / "ledger"
            _make_empty(new)
        except FileNotFoundError:
            raise NotFound(f"no folder {path.parent} to create a ledger in") from None
        except OSError as error:
            raise unusable(f"can't create {path}", error) from None
        _give(new, group_id, path)
        with translated(new, shown=path):
            connection = sqlite3.connect(new, isolation_level=None)
            try:
                connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
                # Nobody has it until it is finished: what fails is thrown away.
                connection.execute("PRAGMA journal_mode = OFF")
                connection.execute("PRAGMA synchronous = OFF")
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute("BEGIN IMMEDIATE")
                apply_migrations(connection)
                connection.execute(
                    "INSERT INTO ledger (id, name, zone, created_at_ms, opened_at_ms) "
                    "VALUES (1, ?, ?, ?, ?)",
                    (name, zone, now_ms, now_ms),
                )
                yield Book(Session(connection))
                connection.execute("COMMIT")
                connection.execute("PRAGMA journal_mode = WAL")
            finally:
                connection.close()
        try:
            publish(new, path, hint=_NEVER_OVERWRITTEN)
        except OSError as error:
            raise unusable(f"can't create {path}", error) from None


def _make_empty(new: Path) -> None:
    os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _give(new: Path, group_id: int | None, path: Path) -> None:
    if group_id is None:
        return
    try:
        os.chown(new, -1, group_id)
        new.chmod(0o660)
    except OSError as error:
        raise unusable(f"can't give {path} to group {group_id}", error) from None
