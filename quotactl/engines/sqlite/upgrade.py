"""From an older schema to the present one, and the backup that is made on the way."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from quotactl.engines import schema
from quotactl.engines.sqlite.door import SqliteEngine, schema_version
from quotactl.errors import Conflict, QuotaError, SchemaMismatch


def bring_up_to_date(engine: SqliteEngine, *, stamp: str) -> tuple[int, int, Path | None]:
    """Apply the missing steps; returns the schema before and after, and the backup's path."""
    path, wanted = engine.path, schema.SCHEMA_VERSION
    with engine.migrating() as connection:
        before = schema_version(connection, path)
        if before == wanted:
            return before, before, None
        # Within the turn, so that nothing is committed between the backup and the steps.
        backup = path.with_name(f"{path.name}.backup-schema{before}-{stamp}")
        back_up(path, backup)
        schema.apply_migrations(connection)
        after = schema_version(connection, path)
        if after != wanted:
            raise SchemaMismatch(f"{path} has schema {after} after all steps, not {wanted}")
        return before, after, backup


def back_up(path: Path, to: Path) -> None:
    """Copy a ledger's committed state into a new file, readable by its owner alone.

    Through SQLite and in one step: a copy of the file is torn while others write, and
    small steps start anew with each of their commits.
    """
    try:
        os.close(os.open(to, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        raise Conflict(f"{to} exists already", hint="move it away") from None
    except OSError as error:
        raise QuotaError(f"can't create {to}: {error.strerror}") from None
    try:
        source = sqlite3.connect(path.resolve().as_uri() + "?mode=ro", uri=True)
        try:
            target = sqlite3.connect(to)
            try:
                source.backup(target, pages=-1)
            finally:
                target.close()
        finally:
            source.close()
    except BaseException:
        to.unlink(missing_ok=True)
        raise
