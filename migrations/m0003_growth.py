"""What large ledgers need to be quick. Append-only, like every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

STATEMENTS = tuple(
    # Who had most in a day, of those who had much: to look at everybody takes a second for
    # ten million. Few rows have so much, so that few requests pay for the index.
    f"""
    CREATE INDEX counter_most_{column} ON counter(starts_at_ms, resource_id, {column} DESC, user_id)
      WHERE period = 1440 AND {column} >= 64
    """
    for column in ("used", "denied")
)


def apply(db: Database) -> None:
    """Add the indexes; nothing that is counted changes."""
    for statement in STATEMENTS:
        db.execute(statement)
    db.execute("PRAGMA user_version = 3")
