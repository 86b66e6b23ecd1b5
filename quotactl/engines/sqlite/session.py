"""What a process keeps of a ledger from one transaction to the next, and the short statements
that count a request of routine by it."""

from __future__ import annotations

import sqlite3
from typing import Any, NoReturn

from quotactl.errors import LedgerCorrupt
from quotactl.ledger.loaded import Asked, Head, Known, UserRow
from quotactl.policy.model import AMOUNT_MAX, Policy

# Sums of demand stop here rather than leave SQLite's integers: somebody who
# asks for 2^53 units a thousand times must not break the counting of denials.
SUM_MAX = 2**62
# Entries that may wait for their demand to be summed up: reports look at so many.
LOT = 1000
# Users and counts that are kept known at a time: some megabytes.
KNOWN_MAX = 20_000

_HEAD_COLUMNS = """
SELECT ledger.name, zone, ledger.created_at_ms, opened_at_ms, closed_until_ms, default_tier_id,
       policy_version, checkpoint_entry_id, checkpoint_at_ms, summed_entry_id
"""
HEAD_LENGTH = len(Head._fields)
HEAD = f"{_HEAD_COLUMNS} FROM ledger"
# All that a request of one user needs, at once: each statement more costs half as much.
_GLANCE = f"""
{_HEAD_COLUMNS},
       (SELECT ifnull(max(id), 0) FROM entry),
       (SELECT entry_id FROM idempotency_key WHERE key = ?4),
       user.id, user.tier_id, user.protected, user.has_own, counter.used, counter.granted
FROM ledger
  LEFT JOIN user ON user.name = ?1
  LEFT JOIN counter ON counter.resource_id = ?2 AND counter.period = 1440
    AND counter.starts_at_ms = ?3 AND counter.user_id = user.id
"""
# The same for one request of routine: each column that is left out, and each sum of nothing,
# is time.
TAKE_KEY = """
INSERT INTO idempotency_key (key, entry_id, at_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING
"""
# The entry of a key, if it is this very request and nothing of it was paid by grants, given
# back or settled.
TAKEN_BEFORE = """
SELECT e.id FROM idempotency_key AS k JOIN entry AS e ON e.id = k.entry_id
WHERE k.key = ? AND e.kind = 1 AND e.user_id = ? AND e.resource_id = ? AND e.amount = ?
  AND e.granted = 0 AND NOT EXISTS (SELECT 1 FROM entry WHERE of_id = e.id)
"""
TAKE_COUNT = """
INSERT INTO counter (resource_id, period, starts_at_ms, user_id, used) VALUES (?, 1440, ?, ?, ?)
ON CONFLICT DO UPDATE SET used = used + excluded.used
"""
TAKE_ENTRY = """
INSERT INTO entry (id, at_ms, kind, user_id, resource_id, tier_id, amount, granted, day_ms, periods)
VALUES (?, ?, 1, ?, ?, ?, ?, 0, ?, '')
"""
_SUM_UP = f"""
INSERT INTO demand_summed
  (hour_ms, resource_id, tier_id, reason, rule_kind, rule_id, requests, used)
SELECT hour_ms, resource_id, tier_id, reason, rule_kind, rule_id, sum(requests), sum(used)
FROM demand_tail WHERE true GROUP BY hour_ms, resource_id, tier_id
ON CONFLICT DO UPDATE SET
  requests = requests + excluded.requests, used = min(used + excluded.used, {SUM_MAX})
"""
REFUSE_COUNT = f"""
INSERT INTO counter (resource_id, period, starts_at_ms, user_id, denied) VALUES (?, 1440, ?, ?, ?)
ON CONFLICT DO UPDATE SET denied = min(denied + excluded.denied, {AMOUNT_MAX})
"""
REFUSE_DEMAND = f"""
INSERT INTO demand_summed
  (hour_ms, resource_id, tier_id, reason, rule_kind, rule_id, requests, denied)
VALUES (?, ?, ?, ?, ?, ?, 1, ?)
ON CONFLICT DO UPDATE SET
  requests = requests + 1, denied = min(denied + excluded.denied, {SUM_MAX})
"""


class Session:
    """A connection, and what a process keeps of its ledger from one transaction to the next."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        # One for all short statements: to make one costs as much as a short statement.
        self.execute = connection.cursor().execute
        # These two stand until the policy's version moves.
        self.policy: Policy | None = None
        self.settings: dict[str, str] = {}
        # Of the setting `durability`, which every transaction asks for.
        self.wants_full = True
        self.known = Known()
        # Whether another connection had written when last looked: then one does so often.
        self.shared = False

    def version(self) -> int:
        """The version of what is seen, in a transaction that has begun or for a glance."""
        (version,) = self.execute("PRAGMA data_version").fetchone()
        return int(version)

    def refresh(self, version: int) -> Known:
        """What is known and still stands in this version."""
        known = self.known
        # Counts are of each day and resource: more than users, and of days that are over, too.
        known_rows = len(known.users) + len(known.counts)
        if version == known.version and known_rows <= KNOWN_MAX:
            self.shared = False
            return known
        self.shared = known.version not in (None, version)
        known = self.known = Known(version)
        return known

    def look_up(self, asked: Asked) -> Known | None:
        """What is known, once refreshed, with what one request asks for; None where the policy
        has moved."""
        known, policy = self.known, self.policy
        resource = None if policy is None else policy.resources_by_name.get(asked.resource)
        if policy is None or resource is None:
            return None
        day_ms = policy.calendar.day(asked.at_ms).starts_at_ms
        if not self._knows(known, asked.user, resource.id, day_ms):
            row = self.glance(asked.user, resource.id, day_ms, None)
            head = Head._make(row[:HEAD_LENGTH])
            if head.policy_version != policy.version:
                return None
            keep(known, head, asked.user, resource.id, day_ms, row)
            known.policy = policy
        return known

    def knows(self, asked: Asked) -> bool:
        """Whether a look-up would find nothing that is not known."""
        policy = self.policy
        resource = None if policy is None else policy.resources_by_name.get(asked.resource)
        if policy is None or resource is None:
            return False
        day_ms = policy.calendar.day(asked.at_ms).starts_at_ms
        return self._knows(self.known, asked.user, resource.id, day_ms)

    def _knows(self, known: Known, name: str, resource_id: int, day_ms: int) -> bool:
        if known.head is None or not known.next_entry_id or name not in known.users:
            return False
        user = known.users[name]
        return user is None or (resource_id, day_ms, user.id) in known.counts

    def glance(self, name: str, resource_id: int, day_ms: int, key: str | None) -> tuple[Any, ...]:
        """Look up at once all that one request needs."""
        row: tuple[Any, ...] | None
        row = self.execute(_GLANCE, (name, resource_id, day_ms, key)).fetchone()
        return row if row is not None else headless()

    def sum_up(self, head: Head) -> Head:
        """Add to hourly demand what only entries tell of it so far."""
        (newest,) = self.execute("SELECT ifnull(max(id), 0) FROM entry").fetchone()
        if newest <= head.summed_entry_id:
            return head
        self.execute(_SUM_UP)
        self.execute("UPDATE ledger SET summed_entry_id = ?", (newest,))
        return head._replace(summed_entry_id=newest)

    def roll_back(self) -> None:
        """Undo what the transaction wrote, and forget what it knew."""
        self.known = Known()
        self.connection.execute("ROLLBACK")


def keep(
    known: Known, head: Head, name: str, resource_id: int, day_ms: int, row: tuple[Any, ...]
) -> None:
    """Know what a glance has found."""
    newest, _, user_id, tier_id, protected, has_own, used, granted = row[HEAD_LENGTH:]
    known.see(head)
    known.next_entry_id = max(newest, head.checkpoint_entry_id) + 1
    if user_id is None:
        known.users[name] = None
        return
    known.users[name] = UserRow(user_id, tier_id, protected, has_own)
    known.counts[resource_id, day_ms, user_id] = None if used is None else (used, granted)


def headless() -> NoReturn:
    """Raise what is said where the ledger's one row about itself is missing."""
    raise LedgerCorrupt("the ledger has lost the row about itself")
