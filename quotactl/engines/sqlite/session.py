"""What a process keeps of a ledger from one transaction to the next, and the short statements
that count a request of routine by it."""

from __future__ import annotations

import sqlite3
from functools import partial
from struct import calcsize, pack_into, unpack
from typing import TYPE_CHECKING, Any, NoReturn

from quotactl.errors import LedgerCorrupt
from quotactl.ledger.loaded import Head, Known
from quotactl.policy.model import Policy

if TYPE_CHECKING:
    from quotactl.engines.sqlite.wal import Wal
    from quotactl.ledger.loaded import Counted, Counting, Plan, Tally, Wanted

# Sums of demand stop here rather than leave SQLite's integers: somebody who
# asks for 2^53 units a thousand times must not break the counting of denials.
SUM_MAX = 2**62
# Entries that may wait for their demand to be summed up: reports look at so many.
LOT = 1000
# What is kept known at a time, three for each user who asks: some megabytes.
KNOWN_MAX = 30_000

_HEAD_COLUMNS = """
SELECT ledger.name, zone, ledger.created_at_ms, opened_at_ms, closed_until_ms, default_tier_id,
       policy_version, checkpoint_entry_id, checkpoint_at_ms, summed_entry_id, users_version
"""
HEAD_LENGTH = len(Head._fields)
HEAD = f"{_HEAD_COLUMNS} FROM ledger"
# All that a request needs of which the user is known.
_HEAD_AND_NEWEST = f"{_HEAD_COLUMNS}, (SELECT ifnull(max(id), 0) FROM entry) FROM ledger"
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
# The same of somebody, where the ledger's row about itself is known.
_MEET = """
SELECT user.id, user.tier_id, user.protected, user.has_own, counter.used, counter.granted
FROM user LEFT JOIN counter ON counter.resource_id = ?2 AND counter.period = 1440
  AND counter.starts_at_ms = ?3 AND counter.user_id = user.id
WHERE user.name = ?1
"""
# All that a request takes, and the transaction around it: a statement more costs as much as a
# tenth of this. IntegrityError, and nothing of it, unless all is as it was decided by.
_TAKE = f"INSERT INTO taking VALUES ({', '.join('?' * 12)})"
# The same where only the limit is known, and not what the day has: of this connection alone,
# as it tells what it has found by `quotactl_took`. What RETURNING would tell takes longer.
_TAKE_NEXT = f"INSERT INTO temp.taking_next VALUES ({', '.join('?' * 12)})"
# What that tells: the entry's id, and what the day has.
_TOOK = "3q"
_NEXT_ID = "max(ifnull((SELECT max(id) FROM entry), 0), new.checkpoint_entry_id) + 1"
_MAKE_TAKE_NEXT = (
    """
    CREATE TEMP VIEW IF NOT EXISTS taking_next AS
    SELECT NULL AS at_ms, NULL AS resource_id, NULL AS day_ms, NULL AS user_id, NULL AS tier_id,
           NULL AS amount, NULL AS most, NULL AS lot, NULL AS key,
           NULL AS policy_version, NULL AS users_version, NULL AS checkpoint_entry_id
    WHERE false
    """,
    f"""
    CREATE TEMP TRIGGER IF NOT EXISTS taking_next_is_counted INSTEAD OF INSERT ON taking_next
    BEGIN
      INSERT INTO idempotency_key (key, entry_id, at_ms)
      SELECT new.key, {_NEXT_ID}, new.at_ms WHERE new.key IS NOT NULL;
      INSERT INTO counter (resource_id, period, starts_at_ms, user_id, used)
      SELECT new.resource_id, 1440, new.day_ms, new.user_id, new.amount FROM ledger
      WHERE policy_version = new.policy_version AND users_version = new.users_version
        AND checkpoint_entry_id = new.checkpoint_entry_id
        AND ifnull(closed_until_ms, 0) <= new.at_ms
        AND {_NEXT_ID} - summed_entry_id < new.lot
      ON CONFLICT DO UPDATE SET used = used + excluded.used
        WHERE used + excluded.used <= new.most;
      SELECT RAISE(ABORT, 'taking: no room, or not as it was decided by') WHERE changes() = 0;
      INSERT INTO entry
        (id, at_ms, kind, user_id, resource_id, tier_id, amount, granted, day_ms, periods)
      VALUES ({_NEXT_ID}, new.at_ms, 1, new.user_id, new.resource_id, new.tier_id,
              new.amount, 0, new.day_ms, '');
      SELECT quotactl_took((SELECT max(id) FROM entry), used, granted) FROM counter
      WHERE resource_id = new.resource_id AND period = 1440 AND starts_at_ms = new.day_ms
        AND user_id = new.user_id;
    END
    """,
)
_REFUSE = f"INSERT INTO refusing VALUES ({', '.join('?' * 15)})"
# The entry of a key, if it is this very request and nothing of it was paid by grants, given
# back or settled, and what the day has now; if all else is as it was decided by.
_TAKEN_BEFORE = """
SELECT e.id, ifnull(c.used, 0), ifnull(c.granted, 0)
FROM ledger JOIN idempotency_key AS k ON k.key = ?4 JOIN entry AS e ON e.id = k.entry_id
  LEFT JOIN counter AS c ON c.resource_id = ?1 AND c.period = 1440 AND c.starts_at_ms = ?2
    AND c.user_id = ?3
WHERE e.kind = 1 AND e.user_id = ?3 AND e.resource_id = ?1 AND e.amount = ?5 AND e.granted = 0
  AND NOT EXISTS (SELECT 1 FROM entry WHERE of_id = e.id)
  AND policy_version = ?6 AND users_version = ?7
"""
_SUM_UP = f"""
INSERT INTO demand_summed
  (hour_ms, resource_id, tier_id, reason, rule_kind, rule_id, requests, used)
SELECT hour_ms, resource_id, tier_id, reason, rule_kind, rule_id, sum(requests), sum(used)
FROM demand_tail WHERE true GROUP BY hour_ms, resource_id, tier_id
ON CONFLICT DO UPDATE SET
  requests = requests + excluded.requests, used = min(used + excluded.used, {SUM_MAX})
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
        self.ready = False
        self._took = bytearray(calcsize(_TOOK))
        # Until when the ledger's name is taken to mean this file without a look.
        self.same_until = 0.0
        # Whether another connection had written when last looked: then one does so often.
        self.shared = False
        # Where this connection's commits leave it to their writer to wait for the disk.
        self.wal: Wal | None = None
        # The version up to which all commits of others are known to be on the disk, and whether
        # something of this connection's own may not be.
        self.settled: int | None = None
        self.unsettled = False

    def close(self) -> None:
        """Close the connection, and what else is open of the ledger."""
        wal, self.wal = self.wal, None
        if wal is not None:
            wal.close()
        self.connection.close()

    def version(self) -> int:
        """The version of what is seen, in a transaction that has begun or for a glance."""
        (version,) = self.execute("PRAGMA data_version").fetchone()
        return int(version)

    def refresh(self, version: int) -> Known:
        """What is known and still stands in this version."""
        known = self.known
        if version == known.version:
            self.shared = False
            return known
        if known.version is not None:
            self.shared = True
        known = self.known = Known(version, known)
        return known

    def see(self, head: Head, policy: Policy) -> Known:
        """What is known, with the ledger's row as it is now.

        That may be later than the rest, by a statement: users stand only if it tells so.
        """
        known = self.known
        # Another in its place, as another thread may be planning by it.
        if known.rows() > KNOWN_MAX:
            known = self.known = Known()
        elif known.head is not None and known.head.users_version != head.users_version:
            known = self.known = Known(None, known)
        known.see(head, policy)
        return known

    def place(self, resource_name: str, now_ms: int) -> tuple[Policy, int, int] | None:
        """The policy that is kept, and by it the resource's id and the day's start."""
        policy = self.policy
        resource = None if policy is None else policy.resources_by_name.get(resource_name)
        if policy is None or resource is None:
            return None
        return policy, resource.id, policy.calendar.day(now_ms).starts_at_ms

    def knows(self, name: str, resource_id: int, day_ms: int) -> bool:
        """Whether a look-up would find nothing that is not known."""
        known = self.known
        if known.head is None or not known.next_entry_id:
            return False
        user = known.users.get(name)
        if user is None:
            return name in known.strangers
        return (resource_id, day_ms, user.id) in known.counts

    def look_up(self, name: str, resource_name: str, now_ms: int) -> Known | None:
        """What is known, with all that a request of somebody needs; None where the policy that
        is kept has moved, or knows no such resource."""
        place = self.place(resource_name, now_ms)
        if place is None:
            return None
        policy, resource_id, day_ms = place
        known = self.known
        if known.policy is policy and known.next_entry_id and known.rows() <= KNOWN_MAX:
            # Whoever counts makes sure that the ledger's row is still as it was.
            found = self.execute(_MEET, (name, resource_id, day_ms)).fetchone()
            known.meet(name, found, resource_id, day_ms)
            return known
        row = self.glance(name, resource_id, day_ms)
        head = Head._make(row[:HEAD_LENGTH])
        if head.policy_version != policy.version:
            return None
        return self.keep(head, policy, name, resource_id, day_ms, row)

    def glance(
        self, name: str, resource_id: int, day_ms: int, key: str | None = None
    ) -> tuple[Any, ...]:
        """Look up at once all that one request needs."""
        row: tuple[Any, ...] | None
        row = self.execute(_GLANCE, (name, resource_id, day_ms, key)).fetchone()
        return row if row is not None else headless()

    def keep(
        self,
        head: Head,
        policy: Policy,
        name: str,
        resource_id: int,
        day_ms: int,
        row: tuple[Any, ...],
    ) -> Known:
        """Know what a glance has found."""
        newest, _, *found = row[HEAD_LENGTH:]
        known = self.see(head, policy)
        known.next_entry_id = next_id(newest, head)
        known.meet(name, None if found[0] is None else found, resource_id, day_ms)
        return known

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

    # ---- one request of routine

    def take(
        self, known: Known, ahead: Counting, amount: int, key: str | None, now_ms: int
    ) -> Counted | None:
        """Count what was planned as taken, in a transaction of its own if none has begun.

        None, and nothing of it, where anything is not as it was known.
        """
        tally, count, _ = ahead
        entry_id, head = known.next_entry_id, known.head
        try:
            if count is None or not entry_id:
                self.execute(*self.to_take_next(known, ahead, amount, key, now_ms))
                return self.took_next(ahead)
            if head is None or entry_id - head.summed_entry_id >= LOT:
                # Not without demand being summed up.
                return None
            used, granted = count
            self.execute(
                _TAKE,
                (
                    entry_id, now_ms, *tally.place, tally.tier_id, amount, used, key,
                    *known.guard,
                ),
            )  # fmt: skip
        except sqlite3.IntegrityError:
            # Others have written, or the key is known.
            return None if key is None else self.before(known, tally, amount, key)
        count = (used + amount, granted)
        # Another thread may have put another in place of `known`.
        known = self.known
        known.counts[tally.place] = count
        known.next_entry_id = entry_id + 1
        return tally, entry_id, count, False

    def to_take_next(
        self, known: Known, ahead: Counting, amount: int, key: str | None, now_ms: int
    ) -> tuple[str, tuple[object, ...]]:
        """The statement that takes what was planned whatever the day has by now, if there is
        room; once `get_ready` was called."""
        tally = ahead[0]
        return _TAKE_NEXT, (
            now_ms, *tally.place, tally.tier_id, amount, tally.most, LOT, key, *known.guard,
        )  # fmt: skip

    def took_next(self, ahead: Counting) -> Counted:
        """What that statement has counted."""
        tally = ahead[0]
        entry_id, used, granted = unpack(_TOOK, self._took)
        known = self.known
        if known.rows() > KNOWN_MAX:
            known = self.known = Known()
        known.counts[tally.place] = (used, granted)
        known.next_entry_id = entry_id + 1
        return tally, entry_id, (used, granted), False

    def get_ready(self) -> None:
        """Make what `take` needs, once: outside of a transaction, which may be rolled back."""
        # None of ours: a signal's handler that raises in there would be taken for damage.
        took = partial(pack_into, _TOOK, self._took, 0)
        self.connection.create_function("quotactl_took", 3, took)
        for statement in _MAKE_TAKE_NEXT:
            self.connection.execute(statement)
        self.ready = True

    def refuse(self, known: Known, ahead: Counting, amount: int, now_ms: int) -> Counted | None:
        """The same for what was planned as refused."""
        tally, count, refused = ahead
        assert count is not None and refused is not None
        by = (now_ms, *tally.place, amount, count[0], *refused, *known.guard)
        try:
            self.execute(_REFUSE, by)
        except sqlite3.IntegrityError:
            return None
        return tally, None, count, False

    def count_anew(self, wanted: Wanted, plan: Plan, refusing: bool) -> Counted | None:
        """Look up what is not known, plan, and count, in a transaction that has begun.

        None, and it is to be rolled back, where `plan` makes nothing of it, or does not refuse
        although `refusing`, or the reverse.
        """
        user, resource, amount, key, now_ms = wanted
        known: Known | None = self.refresh(self.version())
        ahead = None
        if not refusing and (known := self._seen()) is not None:
            ahead = plan(known, *wanted)
        if ahead is None and (known := self.look_up(user, resource, now_ms)) is not None:
            ahead = plan(known, *wanted)
        if known is None or ahead is None or (ahead[2] is not None) != refusing:
            return None
        if refusing:
            return self.refuse(known, ahead, amount, now_ms)
        head = known.head
        if head is not None and known.next_entry_id - head.summed_entry_id >= LOT:
            known.head = self.sum_up(head)
        counted = self.take(known, ahead, amount, key, now_ms)
        if counted is None or counted[3]:
            # It will be rolled back.
            known.head = head
        return counted

    def _seen(self) -> Known | None:
        """What is known, with the ledger's row; None where the policy has moved."""
        known, policy = self.known, self.policy
        if policy is None:
            return None
        if known.head is None or not known.next_entry_id:
            row = self.execute(_HEAD_AND_NEWEST).fetchone() or headless()
            head = Head._make(row[:HEAD_LENGTH])
            if head.policy_version != policy.version:
                return None
            known = self.see(head, policy)
            known.next_entry_id = next_id(row[HEAD_LENGTH], head)
        return known

    def before(self, known: Known, tally: Tally, amount: int, key: str) -> Counted | None:
        """What the same request under its key came to, if it did."""
        by = (*tally.place, key, amount, *known.guard[:2])
        row = self.execute(_TAKEN_BEFORE, by).fetchone()
        return None if row is None else (tally, row[0], (row[1], row[2]), True)


def may_be_met(known: Known, user: object, resource: object, *, shared: bool) -> bool:
    """Whether a look-up may find what makes a request of somebody, of whom `known` does not
    tell enough, one of routine."""
    if not (isinstance(user, str) and user.isprintable()) or user in known.users:
        return False
    return isinstance(resource, str) and (shared or user not in known.strangers)


def next_id(newest: int, head: Head) -> int:
    """The id of the next entry: pruning may have emptied the table, and none comes back."""
    return max(newest, head.checkpoint_entry_id) + 1


def headless() -> NoReturn:
    """Raise what is said where the ledger's one row about itself is missing."""
    raise LedgerCorrupt("the ledger has lost the row about itself")
