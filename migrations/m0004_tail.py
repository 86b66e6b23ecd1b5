"""Hourly demand without a page to write for each request. Append-only, like every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

STATEMENTS = (
    # What a request of routine adds to demand follows from its entry. It is summed up in
    # lots: until then its entry stands for it.
    "ALTER TABLE demand RENAME TO demand_summed",
    "ALTER TABLE ledger ADD COLUMN summed_entry_id INTEGER NOT NULL DEFAULT 0",
    "UPDATE ledger SET summed_entry_id = (SELECT ifnull(max(id), 0) FROM entry)",
    # An entry of which demand is still to be told by itself has '' for its periods: there are
    # none, and no other rule than the tier's own let it pass.
    """
    CREATE VIEW demand_tail AS
    SELECT at_ms - (at_ms - day_ms) % 3600000 AS hour_ms, resource_id,
           ifnull(tier_id, 0) AS tier_id, 'ok' AS reason, 'tier' AS rule_kind,
           ifnull(tier_id, 0) AS rule_id,
           1 AS requests, amount AS used, 0 AS granted, 0 AS denied, 0 AS shadow_denied
    FROM entry WHERE id > (SELECT summed_entry_id FROM ledger) AND periods = ''
    """,
    """
    CREATE VIEW demand AS
    SELECT hour_ms, resource_id, tier_id, reason, rule_kind, rule_id,
           requests, used, granted, denied, shadow_denied
    FROM demand_summed
    UNION ALL
    SELECT hour_ms, resource_id, tier_id, reason, rule_kind, rule_id,
           requests, used, granted, denied, shadow_denied
    FROM demand_tail
    """,
)


def apply(db: Database) -> None:
    """Make the sums and the entries that are not in them one view; nothing counted changes."""
    for statement in STATEMENTS:
        db.execute(statement)
    db.execute("PRAGMA user_version = 4")
