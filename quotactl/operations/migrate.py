"""Bringing a ledger's schema up to date, with a backup from before."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from quotactl.engines.opening import open_engine
from quotactl.engines.sqlite import upgrade
from quotactl.frozen import frozen


@frozen
class Migration:
    """The schema before and after; `backup` is a file's path, None if nothing was to be done."""

    before: int
    after: int
    backup: str | None

    def to_dict(self) -> dict[str, Any]:
        return {"before": self.before, "after": self.after, "backup": self.backup}


def migrate(db: str, now: datetime) -> Migration:
    """Apply the steps that a ledger lacks, in one transaction, others waiting meanwhile.

    Raises SchemaMismatch for a ledger of a newer version, Conflict if the backup's file
    exists already.
    """
    engine = open_engine(db, older_too=True)
    try:
        before, after, backup = upgrade.bring_up_to_date(engine, stamp=f"{now:%Y%m%dT%H%M%SZ}")
        return Migration(before, after, None if backup is None else str(backup))
    finally:
        engine.close()
