"""From a path or URL to an engine."""

from __future__ import annotations

from pathlib import Path

from quotactl.engines.sqlite.door import TIMEOUT_S, SqliteEngine, create_file
from quotactl.errors import InvalidInput


def open_engine(
    db: str | Path, *, timeout_s: float = TIMEOUT_S, older_too: bool = False
) -> SqliteEngine:
    """Open a ledger that exists; it is never created by opening it."""
    return SqliteEngine(ledger_path(db), timeout_s=timeout_s, older_too=older_too)


def create_ledger_file(db: str | Path, *, name: str, zone: str, now_ms: int) -> None:
    """Make an empty ledger, with its schema; refuses an existing file."""
    create_file(ledger_path(db), name=name, zone=zone, now_ms=now_ms)


def ledger_path(db: str | Path) -> Path:
    """The file of a ledger named by a path or a `sqlite:` URL."""
    text = str(db)
    if not text or "\0" in text:
        raise InvalidInput("the ledger's path is empty or has a NUL in it")
    scheme, colon, rest = text.partition("://")
    if colon and scheme == "sqlite":
        return Path(rest)
    if colon:
        raise InvalidInput(f"{scheme}:// ledgers are not known", hint="give a file's path")
    return Path(db)
