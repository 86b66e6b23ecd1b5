"""All steps of the schema, oldest first, as one set of sqlite-utils migrations.

`quotactl db migrate` applies it under the ledger's own lock; `sqlite-utils
migrate LEDGER migrations/` finds the same set by its name.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sqlite_utils import Migrations

# This file is loaded by its path, not as part of a package.
sys.path.insert(0, str(Path(__file__).parent))
try:
    import m0001_initial
    import m0002_emergency
    import m0003_growth
    import m0004_tail
    import m0005_taking
finally:
    sys.path.pop(0)

if TYPE_CHECKING:
    from sqlite_utils import Database

quotactl = Migrations("quotactl")


@quotactl()
def m0001_initial_schema(db: Database) -> None:
    """Step 1: the first schema."""
    m0001_initial.apply(db)


@quotactl()
def m0002_emergency_controls(db: Database) -> None:
    """Step 2: ceilings over everybody, ramps, messages and presets."""
    m0002_emergency.apply(db)


@quotactl()
def m0003_large_ledgers(db: Database) -> None:
    """Step 3: who had most in a day."""
    m0003_growth.apply(db)


@quotactl()
def m0004_demand_in_lots(db: Database) -> None:
    """Step 4: hourly demand is summed up in lots."""
    m0004_tail.apply(db)


@quotactl()
def m0005_taken_at_once(db: Database) -> None:
    """Step 5: one statement takes what was decided by what is known."""
    m0005_taking.apply(db)
