"""What was decided by what is known is counted in one statement. Append-only, like every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

AMOUNT_MAX = 2**53 - 1
# Sums stop here rather than leave SQLite's integers.
SUM_MAX = 2**62
AS_DECIDED = """
      FROM ledger
      WHERE policy_version = new.policy_version AND users_version = new.users_version
        AND checkpoint_entry_id = new.checkpoint_entry_id
        AND ifnull(closed_until_ms, 0) <= new.at_ms
"""

STATEMENTS = (
    # Who decides with others writing in between need not look at a user again while it stands.
    # New users don't move it: a consume by somebody new would write one page more.
    "ALTER TABLE ledger ADD COLUMN users_version INTEGER NOT NULL DEFAULT 0",
    """
    CREATE TRIGGER user_moves_version AFTER UPDATE OF id, name, tier_id, protected, has_own ON user
    WHEN (old.id, old.name, old.tier_id, old.protected, old.has_own)
      IS NOT (new.id, new.name, new.tier_id, new.protected, new.has_own)
    BEGIN UPDATE ledger SET users_version = users_version + 1; END
    """,
    # Nothing can be read from these two. A row that is put there is a request of routine, with
    # all that it was decided by: the day's count, the id that comes next, and the versions.
    """
    CREATE VIEW taking AS
    SELECT NULL AS entry_id, NULL AS at_ms, NULL AS resource_id, NULL AS day_ms,
           NULL AS user_id, NULL AS tier_id, NULL AS amount, NULL AS used, NULL AS key,
           NULL AS policy_version, NULL AS users_version, NULL AS checkpoint_entry_id
    WHERE false
    """,
    f"""
    CREATE TRIGGER taking_is_counted INSTEAD OF INSERT ON taking
    BEGIN
      INSERT INTO idempotency_key (key, entry_id, at_ms)
      SELECT new.key, new.entry_id, new.at_ms WHERE new.key IS NOT NULL;
      INSERT INTO counter (resource_id, period, starts_at_ms, user_id, used)
      SELECT new.resource_id, 1440, new.day_ms, new.user_id, new.amount {AS_DECIDED}
      ON CONFLICT DO UPDATE SET used = used + excluded.used WHERE used = new.used;
      SELECT RAISE(ABORT, 'taking: not as it was decided by') WHERE changes() = 0;
      INSERT INTO entry
        (id, at_ms, kind, user_id, resource_id, tier_id, amount, granted, day_ms, periods)
      VALUES (new.entry_id, new.at_ms, 1, new.user_id, new.resource_id, new.tier_id,
              new.amount, 0, new.day_ms, '');
    END
    """,
    """
    CREATE VIEW refusing AS
    SELECT NULL AS at_ms, NULL AS resource_id, NULL AS day_ms, NULL AS user_id, NULL AS amount,
           NULL AS used, NULL AS hour_ms, NULL AS demand_of, NULL AS tier_id, NULL AS reason,
           NULL AS rule_kind, NULL AS rule_id,
           NULL AS policy_version, NULL AS users_version, NULL AS checkpoint_entry_id
    WHERE false
    """,
    f"""
    CREATE TRIGGER refusing_is_counted INSTEAD OF INSERT ON refusing
    BEGIN
      INSERT INTO counter (resource_id, period, starts_at_ms, user_id, denied)
      SELECT new.resource_id, 1440, new.day_ms, new.user_id, new.amount {AS_DECIDED}
      ON CONFLICT DO UPDATE SET denied = min(denied + excluded.denied, {AMOUNT_MAX})
        WHERE used = new.used;
      SELECT RAISE(ABORT, 'refusing: not as it was decided by') WHERE changes() = 0;
      INSERT INTO demand_summed
        (hour_ms, resource_id, tier_id, reason, rule_kind, rule_id, requests, denied)
      VALUES (new.hour_ms, new.demand_of, new.tier_id, new.reason, new.rule_kind, new.rule_id,
              1, new.amount)
      ON CONFLICT DO UPDATE SET
        requests = requests + 1, denied = min(denied + excluded.denied, {SUM_MAX});
    END
    """,
)


def apply(db: Database) -> None:
    """Number changes of users from now on, and make the statements possible."""
    for statement in STATEMENTS:
        db.execute(statement)
    db.execute("PRAGMA user_version = 5")
