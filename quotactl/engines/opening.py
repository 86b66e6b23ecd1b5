"""From a path or URL to an engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from quotactl.engines.sqlite.door import TIMEOUT_S, SqliteEngine
from quotactl.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from quotactl.ledger.engine import Writing


def open_engine(
    db: str | Path, *, timeout_s: float = TIMEOUT_S, older_too: bool = False
) -> SqliteEngine:
    """Open a ledger that exists; it is never created by opening it."""
    return SqliteEngine(ledger_path(db), timeout_s=timeout_s, older_too=older_too)


@contextmanager
def making_ledger(
    db: str | Path, *, name: str, zone: str, now_ms: int, group: str | None = None
) -> Iterator[Writing]:
    """Make a ledger, with its schema, whose first rows the block writes; refuses an existing file.

    It has its name when the block has ended, and not before. `group` is the name or number
    of the one that may read and write it like its owner.
    """
    from quotactl.engines.sqlite.making import making

    group_id = None if group is None else _group_id(group)
    with making(ledger_path(db), name=name, zone=zone, now_ms=now_ms, group_id=group_id) as book:
        yield book


def _group_id(group: str) -> int:
    import grp

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        if group.isascii() and group.isdigit() and int(group) < 2**32 - 1:
            return int(group)
        raise NotFound(f"no group {group!r} on this machine", hint="see: getent group") from None


def ledger_path(db: str | Path) -> Path:
    """The file of a ledger named by a path or a `sqlite:` URL."""
    text = str(db)
    if not text or "\0" in text:
        raise InvalidInput("the ledger's path is empty or has a NUL in it")
    scheme, colon, rest = text.partition("://")
    if colon and scheme == "sqlite":
        # Never repeated in full: somebody has put a password where none belongs.
        if "@" in rest.partition("/")[0] or "?" in rest:
            raise InvalidInput(
                "a sqlite:// URL has neither user nor parameters", hint="such as sqlite:///q.db"
            )
        return Path(rest)
    if colon:
        raise InvalidInput(f"{scheme}:// ledgers are not known", hint="give a file's path")
    return Path(db)
