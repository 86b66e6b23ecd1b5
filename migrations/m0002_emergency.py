"""Ceilings over everybody, ramps, messages and presets. Append-only, like every step."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from sqlite_utils import Database

HOUR_MS = 3_600_000

STATEMENTS = (
    # A cap with `total` is on the sum of all users in scope, not on each.
    """
    ALTER TABLE switch ADD COLUMN total INTEGER NOT NULL DEFAULT 0
      CHECK (total = 0 OR (total = 1 AND kind = 'cap'))
    """,
    # Told to end users when this throttle denies them.
    "ALTER TABLE switch ADD COLUMN message TEXT",
    # The preset that it came from.
    "ALTER TABLE switch ADD COLUMN preset TEXT",
    # A drill denies nothing: what it would have denied is counted apart.
    "ALTER TABLE switch ADD COLUMN drill INTEGER NOT NULL DEFAULT 0 CHECK (drill IN (0, 1))",
    # Steps after this moment do not come.
    "ALTER TABLE switch ADD COLUMN held_at_ms INTEGER",
    # What was foreseen when it came on, as JSON.
    "ALTER TABLE switch ADD COLUMN promise TEXT",
    # The act that made good for it: there is one at most.
    "ALTER TABLE switch ADD COLUMN made_good_id INTEGER REFERENCES audit(id)",
    "CREATE INDEX switch_name ON switch(name) WHERE name IS NOT NULL",
    # Steps come into force by time alone. Before lifting, `percent` is the part of
    # the throttle's own number that holds; with `lifting`, the part of the limit below
    # it that nobody has less than.
    """
    CREATE TABLE switch_step (
      switch_id INTEGER NOT NULL REFERENCES switch(id),
      at_ms INTEGER NOT NULL,
      lifting INTEGER NOT NULL CHECK (lifting IN (0, 1)),
      percent INTEGER NOT NULL CHECK (percent BETWEEN 0 AND 100),
      PRIMARY KEY (switch_id, at_ms, lifting)
    ) STRICT, WITHOUT ROWID
    """,
    # The most that all users together may have of a resource.
    """
    ALTER TABLE resource ADD COLUMN capacity_max INTEGER
      CHECK (capacity_max BETWEEN 0 AND 9007199254740991)
    """,
    """
    ALTER TABLE resource ADD COLUMN capacity_period INTEGER
      CHECK ((capacity_period IS NULL) = (capacity_max IS NULL))
    """,
    # What all users of a tier took in a window, grants' part included: a cache of
    # entries, kept only while some ceiling over everybody needs it. The row of tier 0,
    # those on no tier, is there for every window that is counted at all.
    """
    CREATE TABLE total (
      resource_id INTEGER NOT NULL,
      period INTEGER NOT NULL,
      starts_at_ms INTEGER NOT NULL,
      tier_id INTEGER NOT NULL,
      used INTEGER NOT NULL CHECK (used >= 0),
      PRIMARY KEY (resource_id, period, starts_at_ms, tier_id)
    ) STRICT, WITHOUT ROWID
    """,
    # Holds of everybody that are over are freed before a total is read.
    """
    CREATE INDEX reservation_due ON reservation(resource_id, expires_at_ms)
      WHERE state = 'pending'
    """,
    # As in the policy file, as JSON: several throttles and an enforcement under one name.
    """
    CREATE TABLE preset (
      name TEXT PRIMARY KEY,
      definition TEXT NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
)

# A user's reset gives back no capacity: its demand is kept apart from what refunds
# give back. Until now both were booked as 'correction'.
_RESETS = """
SELECT at_ms, day_ms, resource_id, ifnull(tier_id, 0), amount - granted, granted
FROM entry WHERE kind = 7 AND day_ms IS NOT NULL
"""
_MOVE_FROM = """
UPDATE demand SET used = used - :used, granted = granted - :granted
WHERE hour_ms = :hour AND resource_id = :resource AND tier_id = :tier AND reason = 'correction'
"""
_MOVE_TO = """
INSERT INTO demand (hour_ms, resource_id, tier_id, reason, rule_kind, rule_id, used, granted)
VALUES (:hour, :resource, :tier, 'reset', 'tier', :tier, :used, :granted)
ON CONFLICT DO UPDATE SET used = used + excluded.used, granted = granted + excluded.granted
"""


def apply(db: Database) -> None:
    """Add what emergency controls need; nothing that is counted changes."""
    for statement in STATEMENTS:
        db.execute(statement)
    ((zone,),) = db.execute("SELECT zone FROM ledger").fetchall() or [("UTC",)]
    for at_ms, day_ms, resource_id, tier_id, used, granted in db.execute(_RESETS).fetchall():
        facts = {
            "hour": _booked_ms(ZoneInfo(zone), at_ms, day_ms),
            "resource": resource_id,
            "tier": tier_id,
            "used": used,
            "granted": granted,
        }
        if db.execute(_MOVE_FROM, facts).rowcount:  # else it is pruned
            db.execute(_MOVE_TO, facts)
    db.execute("PRAGMA user_version = 2")


def _booked_ms(zone: ZoneInfo, at_ms: int, day_ms: int) -> int:
    """The hour under which a reset's demand was booked: that of the reset for its own day,
    for each day before it, of a week or month, the day's first."""
    reset_on, day = (datetime.fromtimestamp(ms // 1000, zone).date() for ms in (at_ms, day_ms))
    return at_ms - (at_ms - day_ms) % HOUR_MS if reset_on == day else day_ms
