"""From an older schema to the present one, and the backup that is made on the way."""

from __future__ import annotations

from pathlib import Path

from quotactl.engines import schema
from quotactl.engines.sqlite.backup import back_up
from quotactl.engines.sqlite.door import SqliteEngine, schema_version
from quotactl.engines.sqlite.failures import unusable
from quotactl.engines.sqlite.whole import publish, workspace
from quotactl.errors import SchemaMismatch


def bring_up_to_date(engine: SqliteEngine, *, stamp: str) -> tuple[int, int, Path | None]:
    """Apply the missing steps; returns the schema before and after, and the backup's path."""
    path, wanted = engine.path, schema.SCHEMA_VERSION
    with engine.migrating() as connection:
        before = schema_version(connection, path)
        if before == wanted:
            return before, before, None
        # Within the turn, so that nothing is committed between the backup and the steps.
        backup = path.with_name(f"{path.name}.backup-schema{before}-{stamp}")
        try:
            with workspace(path) as room:
                back_up(path, room / "copy", shown=backup)
                publish(room / "copy", backup)
        except OSError as error:
            raise unusable(f"can't create {backup}", error) from None
        schema.apply_migrations(connection)
        after = schema_version(connection, path)
        if after != wanted:
            raise SchemaMismatch(f"{path} has schema {after} after all steps, not {wanted}")
        return before, after, backup
