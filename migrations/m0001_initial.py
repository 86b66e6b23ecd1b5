"""The first schema. Append-only: a step that has been released never changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

# Reads as `quo1`: tells a ledger from any other SQLite file.
APPLICATION_ID = 0x71756F31

STATEMENTS = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    # One row: who this ledger is and how far it has come.
    """
    CREATE TABLE ledger (
      id INTEGER PRIMARY KEY CHECK (id = 1),
      name TEXT NOT NULL,
      zone TEXT NOT NULL,
      created_at_ms INTEGER NOT NULL,
      -- The earlier of creation and the first entry: the first day to close.
      opened_at_ms INTEGER NOT NULL,
      -- The end of the last closed day; nothing is decided before it.
      closed_until_ms INTEGER,
      default_tier_id INTEGER REFERENCES tier(id),
      -- Moves with every change that is not one user's own.
      policy_version INTEGER NOT NULL DEFAULT 0,
      -- Entries up to this id may be gone; counters are compared from this time on.
      checkpoint_entry_id INTEGER NOT NULL DEFAULT 0,
      checkpoint_at_ms INTEGER NOT NULL DEFAULT 0
    ) STRICT
    """,
    "CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
    """
    CREATE TABLE resource (
      id INTEGER PRIMARY KEY AUTOINCREMENT,
      name TEXT NOT NULL,
      unit TEXT,
      created_at_ms INTEGER NOT NULL,
      retired_at_ms INTEGER
    ) STRICT
    """,
    "CREATE UNIQUE INDEX resource_live ON resource(name) WHERE retired_at_ms IS NULL",
    """
    CREATE TABLE tier (
      id INTEGER PRIMARY KEY AUTOINCREMENT,
      name TEXT NOT NULL,
      protected INTEGER NOT NULL DEFAULT 0 CHECK (protected IN (0, 1)),
      created_at_ms INTEGER NOT NULL,
      retired_at_ms INTEGER
    ) STRICT
    """,
    "CREATE UNIQUE INDEX tier_live ON tier(name) WHERE retired_at_ms IS NULL",
    """
    CREATE TABLE tier_limit (
      tier_id INTEGER NOT NULL REFERENCES tier(id),
      resource_id INTEGER NOT NULL REFERENCES resource(id),
      -- Nominal length in minutes: 1, 60, 1440 a day, 10080 a week, 43200 a month.
      period INTEGER NOT NULL CHECK (period > 0),
      amount_max INTEGER CHECK (amount_max BETWEEN 0 AND 9007199254740991),
      PRIMARY KEY (tier_id, resource_id, period)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE user (
      id INTEGER PRIMARY KEY,
      -- Null once the person is forgotten; the id stays in the books.
      name TEXT UNIQUE CHECK (length(name) BETWEEN 1 AND 256),
      -- Null follows the default tier.
      tier_id INTEGER REFERENCES tier(id),
      protected INTEGER NOT NULL DEFAULT 0 CHECK (protected IN (0, 1)),
      -- 1 once this user has had an override, block, grant or reservation: most
      -- users never do, and a decision then needs no look at those tables.
      has_own INTEGER NOT NULL DEFAULT 0 CHECK (has_own IN (0, 1)),
      created_at_ms INTEGER NOT NULL
    ) STRICT
    """,
    "CREATE INDEX user_tier ON user(tier_id) WHERE tier_id IS NOT NULL",
    # Free texts lie apart from the chain, which holds only their digests, so
    # that they can be removed and the chain still holds.
    """
    CREATE TABLE audit (
      id INTEGER PRIMARY KEY,
      at_ms INTEGER NOT NULL,
      actor TEXT NOT NULL,
      action TEXT NOT NULL,
      user_id INTEGER REFERENCES user(id),
      subject TEXT,
      before TEXT,
      after TEXT,
      reason_digest TEXT,
      ticket_digest TEXT,
      hash TEXT NOT NULL UNIQUE CHECK (length(hash) = 64)
    ) STRICT
    """,
    """
    CREATE TABLE audit_text (
      audit_id INTEGER NOT NULL REFERENCES audit(id),
      field TEXT NOT NULL CHECK (field IN ('reason', 'ticket')),
      salt TEXT NOT NULL,
      text TEXT NOT NULL,
      PRIMARY KEY (audit_id, field)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE override (
      id INTEGER PRIMARY KEY AUTOINCREMENT,
      user_id INTEGER NOT NULL REFERENCES user(id),
      resource_id INTEGER NOT NULL REFERENCES resource(id),
      -- Null replaces the limits of every period.
      period INTEGER CHECK (period > 0),
      amount_max INTEGER CHECK (amount_max BETWEEN 0 AND 9007199254740991),
      created_at_ms INTEGER NOT NULL,
      expires_at_ms INTEGER,
      ended_at_ms INTEGER,
      audit_id INTEGER REFERENCES audit(id)
    ) STRICT
    """,
    """
    CREATE UNIQUE INDEX override_live ON override(user_id, resource_id, coalesce(period, 0))
      WHERE ended_at_ms IS NULL
    """,
    """
    CREATE TABLE block (
      id INTEGER PRIMARY KEY AUTOINCREMENT,
      user_id INTEGER NOT NULL REFERENCES user(id),
      -- Null is every resource.
      resource_id INTEGER REFERENCES resource(id),
      created_at_ms INTEGER NOT NULL,
      expires_at_ms INTEGER,
      ended_at_ms INTEGER,
      audit_id INTEGER REFERENCES audit(id)
    ) STRICT
    """,
    """
    CREATE UNIQUE INDEX block_live ON block(user_id, coalesce(resource_id, 0))
      WHERE ended_at_ms IS NULL
    """,
    """
    CREATE TABLE grant_pool (
      id INTEGER PRIMARY KEY AUTOINCREMENT,
      user_id INTEGER NOT NULL REFERENCES user(id),
      resource_id INTEGER NOT NULL REFERENCES resource(id),
      amount INTEGER NOT NULL CHECK (amount BETWEEN 1 AND 9007199254740991),
      -- A sum of grant_movement; kept here so that a decision need not add up.
      balance INTEGER NOT NULL CHECK (balance BETWEEN 0 AND amount),
      priority INTEGER NOT NULL,
      created_at_ms INTEGER NOT NULL,
      expires_at_ms INTEGER,
      ended_at_ms INTEGER,
      audit_id INTEGER REFERENCES audit(id)
    ) STRICT
    """,
    "CREATE INDEX grant_live ON grant_pool(user_id, resource_id) WHERE ended_at_ms IS NULL",
    # Throttles and the enforcement switches share ids and the rules about ends.
    """
    CREATE TABLE switch (
      id INTEGER PRIMARY KEY AUTOINCREMENT,
      kind TEXT NOT NULL CHECK (kind IN ('deny', 'cap', 'scale', 'shadow', 'off')),
      name TEXT,
      amount_max INTEGER CHECK (amount_max BETWEEN 0 AND 9007199254740991),
      period INTEGER CHECK (period > 0),
      percent INTEGER CHECK (percent BETWEEN 0 AND 100),
      floor INTEGER CHECK (floor BETWEEN 0 AND 9007199254740991),
      freeze_grants INTEGER NOT NULL DEFAULT 0 CHECK (freeze_grants IN (0, 1)),
      include_protected INTEGER NOT NULL DEFAULT 0 CHECK (include_protected IN (0, 1)),
      all_resources INTEGER NOT NULL CHECK (all_resources IN (0, 1)),
      all_tiers INTEGER NOT NULL CHECK (all_tiers IN (0, 1)),
      created_at_ms INTEGER NOT NULL,
      starts_at_ms INTEGER NOT NULL,
      ends_at_ms INTEGER,
      -- Lifted by hand, or found over by a day's close.
      ended_at_ms INTEGER,
      lifted INTEGER NOT NULL DEFAULT 0 CHECK (lifted IN (0, 1)),
      audit_id INTEGER REFERENCES audit(id),
      CHECK ((kind = 'cap') = (amount_max IS NOT NULL AND period IS NOT NULL)),
      CHECK ((kind = 'scale') = (percent IS NOT NULL)),
      CHECK (floor IS NULL OR kind = 'scale'),
      CHECK (ends_at_ms IS NULL OR ends_at_ms > starts_at_ms)
    ) STRICT
    """,
    "CREATE INDEX switch_live ON switch(id) WHERE ended_at_ms IS NULL",
    """
    CREATE TABLE switch_resource (
      switch_id INTEGER NOT NULL REFERENCES switch(id),
      resource_id INTEGER NOT NULL REFERENCES resource(id),
      PRIMARY KEY (switch_id, resource_id)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE switch_tier (
      switch_id INTEGER NOT NULL REFERENCES switch(id),
      tier_id INTEGER NOT NULL REFERENCES tier(id),
      PRIMARY KEY (switch_id, tier_id)
    ) STRICT, WITHOUT ROWID
    """,
    # The book. Kinds are those of quotactl.ledger.entries.Kind.
    """
    CREATE TABLE entry (
      id INTEGER PRIMARY KEY,
      at_ms INTEGER NOT NULL,
      kind INTEGER NOT NULL CHECK (kind BETWEEN 1 AND 10),
      user_id INTEGER REFERENCES user(id),
      resource_id INTEGER REFERENCES resource(id),
      tier_id INTEGER REFERENCES tier(id),
      amount INTEGER NOT NULL CHECK (amount BETWEEN -9007199254740991 AND 9007199254740991),
      granted INTEGER NOT NULL CHECK (abs(granted) <= abs(amount)),
      -- The start of the day charged; null where none is.
      day_ms INTEGER,
      -- The shorter periods charged, in minutes: '1,180'.
      periods TEXT,
      -- The entry that this one corrects or settles.
      of_id INTEGER
    ) STRICT
    """,
    "CREATE INDEX entry_of ON entry(of_id) WHERE of_id IS NOT NULL",
    """
    CREATE TABLE grant_movement (
      entry_id INTEGER NOT NULL REFERENCES entry(id),
      grant_id INTEGER NOT NULL REFERENCES grant_pool(id),
      amount INTEGER NOT NULL CHECK (amount <> 0),
      PRIMARY KEY (entry_id, grant_id)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE idempotency_key (
      key TEXT PRIMARY KEY CHECK (length(key) BETWEEN 1 AND 256),
      entry_id INTEGER NOT NULL,
      at_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE reservation (
      id INTEGER PRIMARY KEY,
      user_id INTEGER NOT NULL REFERENCES user(id),
      resource_id INTEGER NOT NULL REFERENCES resource(id),
      expires_at_ms INTEGER NOT NULL,
      state TEXT NOT NULL DEFAULT 'pending'
        CHECK (state IN ('pending', 'posted', 'voided', 'expired'))
    ) STRICT
    """,
    """
    CREATE INDEX reservation_pending ON reservation(user_id, resource_id, expires_at_ms)
      WHERE state = 'pending'
    """,
    """
    CREATE TABLE counter (
      resource_id INTEGER NOT NULL,
      period INTEGER NOT NULL,
      starts_at_ms INTEGER NOT NULL,
      user_id INTEGER NOT NULL,
      used INTEGER NOT NULL DEFAULT 0 CHECK (used BETWEEN 0 AND 9007199254740991),
      granted INTEGER NOT NULL DEFAULT 0 CHECK (granted BETWEEN 0 AND 9007199254740991),
      denied INTEGER NOT NULL DEFAULT 0,
      shadow_denied INTEGER NOT NULL DEFAULT 0,
      -- The last entry that gave this window a fresh start: what was taken
      -- before it is not given back to it.
      reset_id INTEGER,
      PRIMARY KEY (resource_id, period, starts_at_ms, user_id)
    ) STRICT, WITHOUT ROWID
    """,
    # Hours are counted from the day's start in the ledger's zone. What is given
    # back is booked under reason 'correction', as negative units.
    """
    CREATE TABLE demand (
      hour_ms INTEGER NOT NULL,
      resource_id INTEGER NOT NULL,
      tier_id INTEGER NOT NULL,
      reason TEXT NOT NULL,
      rule_kind TEXT NOT NULL,
      rule_id INTEGER NOT NULL,
      requests INTEGER NOT NULL DEFAULT 0,
      used INTEGER NOT NULL DEFAULT 0,
      granted INTEGER NOT NULL DEFAULT 0,
      denied INTEGER NOT NULL DEFAULT 0,
      shadow_denied INTEGER NOT NULL DEFAULT 0,
      PRIMARY KEY (hour_ms, resource_id, tier_id, reason, rule_kind, rule_id)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE closed_day (
      starts_at_ms INTEGER PRIMARY KEY,
      ends_at_ms INTEGER NOT NULL CHECK (ends_at_ms > starts_at_ms),
      day TEXT NOT NULL UNIQUE,
      closed_at_ms INTEGER NOT NULL,
      users INTEGER NOT NULL,
      requests INTEGER NOT NULL,
      used INTEGER NOT NULL,
      granted INTEGER NOT NULL,
      denied INTEGER NOT NULL,
      shadow_denied INTEGER NOT NULL
    ) STRICT
    """,
    # The database's own half of the promises that the code makes.
    *(
        f"""
        CREATE TRIGGER {table}_is_immutable BEFORE UPDATE ON {table}
        BEGIN SELECT RAISE(ABORT, '{table}: rows are never changed'); END
        """
        for table in ("entry", "grant_movement", "audit", "closed_day")
    ),
    """
    CREATE TRIGGER entry_is_kept BEFORE DELETE ON entry
    WHEN old.id > (SELECT checkpoint_entry_id FROM ledger)
    BEGIN SELECT RAISE(ABORT, 'entry: only what lies below the checkpoint may go'); END
    """,
    """
    CREATE TRIGGER grant_movement_is_kept BEFORE DELETE ON grant_movement
    WHEN old.entry_id > (SELECT checkpoint_entry_id FROM ledger)
    BEGIN SELECT RAISE(ABORT, 'grant_movement: only what lies below the checkpoint may go'); END
    """,
    """
    CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'audit: rows are never removed'); END
    """,
    """
    CREATE TRIGGER user_is_kept BEFORE DELETE ON user
    BEGIN SELECT RAISE(ABORT, 'user: an id in the books is never removed'); END
    """,
    """
    CREATE TRIGGER ledger_is_kept BEFORE DELETE ON ledger
    BEGIN SELECT RAISE(ABORT, 'ledger: this row is never removed'); END
    """,
    """
    CREATE TRIGGER ledger_zone_is_fixed BEFORE UPDATE OF zone ON ledger
    WHEN old.zone <> new.zone AND (
      old.closed_until_ms IS NOT NULL OR old.checkpoint_entry_id > 0
      OR EXISTS (SELECT 1 FROM entry) OR EXISTS (SELECT 1 FROM counter)
    )
    BEGIN SELECT RAISE(ABORT, 'ledger: the zone cannot change after the first entry'); END
    """,
    *(
        f"""
        CREATE TRIGGER {table}_marks_user AFTER INSERT ON {table}
        BEGIN UPDATE user SET has_own = 1 WHERE id = new.user_id AND has_own = 0; END
        """
        for table in ("override", "block", "grant_pool", "reservation")
    ),
)


def apply(db: Database) -> None:
    """Make the tables, and the guards that pair with the code's own."""
    for statement in STATEMENTS:
        db.execute(statement)
    db.execute("PRAGMA user_version = 1")
