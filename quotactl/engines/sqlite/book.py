"""One transaction on a SQLite ledger: what a decision loads and what it stores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from quotactl.engines.sqlite.queries import Queries
from quotactl.engines.sqlite.recorded import marks
from quotactl.engines.sqlite.session import (
    HEAD,
    HEAD_LENGTH,
    LOT,
    SUM_MAX,
    Session,
    headless,
    next_id,
)
from quotactl.ledger.entries import Changes, Entry, Kind, Reservation
from quotactl.ledger.loaded import (
    Asked,
    CounterValue,
    Head,
    Known,
    Row,
    StoredAccount,
    UserRow,
    tier_or_default,
)
from quotactl.policy.model import (
    AMOUNT_MAX,
    Account,
    Block,
    Enforcement,
    Grant,
    Limit,
    Override,
    Policy,
    Resource,
    Scope,
    Step,
    Throttle,
    Tier,
)
from quotactl.policy.settings import value_of
from quotactl.policy.window import DAY_LENGTH_MIN, DAY_LONGEST_MS, Period, period_of_length

_ENTRY = """
SELECT id, at_ms, kind, user_id, resource_id, tier_id, amount, granted, day_ms, periods, of_id
FROM entry
"""
# The same for many; CROSS JOIN, so that it goes by their names whatever SQLite estimates.
_GLANCE_USERS = """
SELECT user.name, user.id, user.tier_id, user.protected, user.has_own,
       counter.used, counter.granted
FROM json_each(?1) AS asked CROSS JOIN user ON user.name = asked.value
  LEFT JOIN counter ON counter.resource_id = ?2 AND counter.period = 1440
    AND counter.starts_at_ms = ?3 AND counter.user_id = user.id
"""
_GLANCE_KEYS = """
SELECT k.key, k.entry_id FROM json_each(?1) AS asked
  CROSS JOIN idempotency_key AS k ON k.key = asked.value
"""
_ADD_ENTRY = """
INSERT INTO entry (id, at_ms, kind, user_id, resource_id, tier_id, amount, granted, day_ms,
                   periods, of_id)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_ADD_COUNTER = f"""
INSERT INTO counter (resource_id, period, starts_at_ms, user_id,
                     used, granted, denied, shadow_denied)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
  used = used + excluded.used,
  granted = granted + excluded.granted,
  denied = min(denied + excluded.denied, {AMOUNT_MAX}),
  shadow_denied = min(shadow_denied + excluded.shadow_denied, {AMOUNT_MAX})
"""
# What is given back can't be inserted, only taken from what is there; the row
# is gone where its window was pruned.
_TAKE_COUNTER = f"""
UPDATE counter SET
  used = used + ?, granted = granted + ?,
  denied = min(denied + ?, {AMOUNT_MAX}), shadow_denied = min(shadow_denied + ?, {AMOUNT_MAX})
WHERE resource_id = ? AND period = ? AND starts_at_ms = ? AND user_id = ?
"""
_ADD_DEMAND = f"""
INSERT INTO demand_summed (hour_ms, resource_id, tier_id, reason, rule_kind, rule_id,
                    requests, used, granted, denied, shadow_denied)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
  requests = requests + excluded.requests,
  used = min(used + excluded.used, {SUM_MAX}),
  granted = min(granted + excluded.granted, {SUM_MAX}),
  denied = min(denied + excluded.denied, {SUM_MAX}),
  shadow_denied = min(shadow_denied + excluded.shadow_denied, {SUM_MAX})
"""


class Book(Queries):
    """The view of one transaction. Fulfils `quotactl.ledger.engine.Writing`."""

    def __init__(self, session: Session, asked: Asked | None = None) -> None:
        super().__init__(session.connection)
        self._session = session
        self._relaxed: Changes | None = None
        self._keys: dict[str, int | None] = {}
        # Whether somebody may be told by a key of what was committed before.
        self.recalled = False
        known, policy = session.refresh(session.version()), session.policy
        place = None if asked is None else session.place(asked.resource, asked.at_ms)
        row = None
        if asked is None or place is None:
            head = known.head or self._read_head()
        elif session.knows(asked.user, *place[1:]):
            assert known.head is not None
            head = known.head
        else:
            row = session.glance(asked.user, *place[1:], asked.key)
            head = Head._make(row[:HEAD_LENGTH])
        if policy is None or policy.version != head.policy_version:
            if not self._connection.in_transaction:
                # A glance is one statement; of a policy that is read by several they all
                # have to see the same.
                self._connection.execute("BEGIN")
                head = self._read_head()
                session.known = Known()
            policy = self._read_policy(head)
        elif row is not None and asked is not None and place is not None:
            # By a policy that still stands, the right resource and day were looked at.
            session.keep(head, policy, asked.user, *place[1:], row)
            if asked.key is not None:
                self._keys[asked.key] = row[HEAD_LENGTH + 1]
        session.see(head, policy)
        self.head: Head = head
        self.policy: Policy = policy

    def _read_head(self) -> Head:
        row = self._connection.execute(HEAD).fetchone()
        return headless() if row is None else Head._make(row)

    @property
    def dirty(self) -> bool:
        """Whether something was written that must survive a power cut."""
        return self._dirty

    @dirty.setter
    def dirty(self, dirty: bool) -> None:
        self._dirty = dirty
        self._forget()

    def _forget(self) -> None:
        """What was looked up may be another by now."""
        self._session.known = Known()
        self._keys = {}

    @property
    def relaxed(self) -> bool:
        """Whether there is demand to be stored without waiting for the disk."""
        return self._relaxed is not None

    # ---- what a decision loads

    def look_ahead(
        self, users: Sequence[str], keys: Sequence[str], resource_id: int, day_ms: int
    ) -> None:
        known = self._session.known
        # Here, so that a gateway's single consume need not load it.
        from json import dumps

        for name, user_id, tier_id, protected, has_own, used, granted in self._connection.execute(
            _GLANCE_USERS, (dumps(users), resource_id, day_ms)
        ):
            known.users[name] = UserRow(user_id, tier_id, protected, has_own)
            found = None if used is None else (used, granted)
            known.counts[resource_id, day_ms, user_id] = found
        known.strangers.update(name for name in users if name not in known.users)
        if keys:
            self._keys.update(dict.fromkeys(keys))
            self._keys.update(self._connection.execute(_GLANCE_KEYS, (dumps(keys),)).fetchall())

    def user_row(self, name: str) -> UserRow | None:
        known = self._session.known
        user = known.users.get(name)
        if user is None and name not in known.strangers:
            row = self._connection.execute(
                "SELECT id, tier_id, protected, has_own FROM user WHERE name = ?", (name,)
            ).fetchone()
            if row is None:
                known.strangers.add(name)
            else:
                user = known.users[name] = UserRow(*row)
        return user

    def count_of(self, user_id: int, resource_id: int, day_ms: int) -> tuple[int, int] | None:
        counts = self._session.known.counts
        place = (resource_id, day_ms, user_id)
        if place not in counts:
            counts[place] = self._connection.execute(
                "SELECT used, granted FROM counter WHERE resource_id = ? AND period = 1440 "
                "AND starts_at_ms = ? AND user_id = ?",
                place,
            ).fetchone()
        return counts[place]

    def load_account(self, user: str, resource: Resource) -> StoredAccount:
        policy = self.policy
        row = self.user_row(user)
        if row is None:
            stranger = Account(user, 0, False, policy.default_tier, False, resource)
            return StoredAccount(stranger, {})
        user_id, tier_id, protected, has_own = row
        tier = tier_or_default(policy, tier_id)
        account = Account(user, user_id, True, tier, bool(protected), resource)
        if not has_own:
            return StoredAccount(account, {})
        both = (user_id, resource.id)
        account.overrides = tuple(
            Override(id_, None if period is None else period_of_length(period), maximum, expires)
            for id_, period, maximum, expires in self._connection.execute(
                "SELECT id, period, amount_max, expires_at_ms FROM override "
                "WHERE user_id = ? AND resource_id = ? AND ended_at_ms IS NULL",
                both,
            )
        )
        account.blocks = tuple(
            Block(*row)
            for row in self._connection.execute(
                "SELECT id, resource_id, expires_at_ms FROM block WHERE user_id = ? "
                "AND (resource_id IS NULL OR resource_id = ?) AND ended_at_ms IS NULL",
                both,
            )
        )
        grants = []
        for id_, priority, expires, balance in self._connection.execute(
            "SELECT id, priority, expires_at_ms, balance FROM grant_pool "
            "WHERE user_id = ? AND resource_id = ? AND ended_at_ms IS NULL",
            both,
        ):
            grants.append(Grant(id_, priority, expires))
            account.balances[id_] = balance
        account.grants = tuple(grants)
        holds = dict(
            self._connection.execute(
                "SELECT id, expires_at_ms FROM reservation "
                "WHERE user_id = ? AND resource_id = ? AND state = 'pending'",
                both,
            ).fetchall()
        )
        return StoredAccount(account, holds)

    def load_counts(
        self, user_id: int, resource_id: int, windows: Sequence[tuple[int, int]]
    ) -> dict[tuple[int, int], tuple[int, int]]:
        counts = {}
        days = [start for length_min, start in windows if length_min == DAY_LENGTH_MIN]
        if len(days) > 1:
            # The days of a week or month at once: one by one they cost half as much again.
            for start, *values in self._connection.execute(
                "SELECT starts_at_ms, used, granted FROM counter WHERE resource_id = ? "
                f"AND period = 1440 AND starts_at_ms IN ({marks(days)}) AND user_id = ?",
                (resource_id, *days, user_id),
            ):
                counts[DAY_LENGTH_MIN, start] = (values[0], values[1])
            windows = [window for window in windows if window[0] != DAY_LENGTH_MIN]
        for window in windows:
            if window[0] == DAY_LENGTH_MIN:
                count = self.count_of(user_id, resource_id, window[1])
                if count is not None:
                    counts[window] = count
                continue
            row = self._connection.execute(
                "SELECT used, granted FROM counter WHERE resource_id = ? AND period = ? "
                "AND starts_at_ms = ? AND user_id = ?",
                (resource_id, *window, user_id),
            ).fetchone()
            if row is not None:
                counts[window] = row
        return counts

    def load_total(
        self, resource_id: int, length_min: int, starts_at_ms: int
    ) -> dict[int, int] | None:
        rows = self._connection.execute(
            "SELECT tier_id, used FROM total WHERE resource_id = ? AND period = ? "
            "AND starts_at_ms = ?",
            (resource_id, length_min, starts_at_ms),
        ).fetchall()
        return dict(rows) if rows else None

    def counter(
        self, user_id: int, resource_id: int, length_min: int, starts_at_ms: int
    ) -> CounterValue | None:
        row = self._connection.execute(
            "SELECT used, granted, reset_id FROM counter WHERE resource_id = ? AND period = ? "
            "AND starts_at_ms = ? AND user_id = ?",
            (resource_id, length_min, starts_at_ms, user_id),
        ).fetchone()
        return None if row is None else CounterValue(*row)

    def entry(self, entry_id: int) -> Entry | None:
        row = self._connection.execute(_ENTRY + "WHERE id = ?", (entry_id,)).fetchone()
        return None if row is None else _entry(row)

    def corrections(self, entry_id: int) -> list[Entry]:
        found = self._connection.execute(_ENTRY + "WHERE of_id = ? ORDER BY id", (entry_id,))
        return [_entry(row) for row in found]

    def entries_of(
        self, user_id: int, resource_id: int, from_ms: int, until_ms: int
    ) -> Iterator[tuple[Entry, int]]:
        first_id, end_id = self._ids_between(from_ms, until_ms)
        for row in self._connection.execute(
            "SELECT e.id, e.at_ms, e.kind, e.user_id, e.resource_id, e.tier_id, e.amount, "
            "e.granted, e.day_ms, e.periods, e.of_id, ifnull(o.at_ms, e.at_ms) "
            "FROM entry AS e LEFT JOIN entry AS o ON o.id = e.of_id "
            "WHERE e.id >= ? AND e.id < ? AND e.user_id = ? AND e.resource_id = ? "
            "AND e.at_ms BETWEEN ? AND ? ORDER BY e.id",
            (first_id, end_id, user_id, resource_id, from_ms, until_ms),
        ):
            yield _entry(row[:-1]), row[-1]

    def resets_of(self, resource_id: int, from_ms: int, until_ms: int) -> Iterator[Entry]:
        first_id, end_id = self._ids_between(from_ms, until_ms)
        for row in self._connection.execute(
            _ENTRY + "WHERE id >= ? AND id < ? AND kind = 7 AND resource_id = ? "
            "AND at_ms BETWEEN ? AND ? ORDER BY id",
            (first_id, end_id, resource_id, from_ms, until_ms),
        ):
            yield _entry(row)

    def movements(self, entry_ids: Sequence[int]) -> list[tuple[int, int]]:
        moved: list[tuple[int, int]] = []
        for entry_id in entry_ids:
            moved += self._connection.execute(
                "SELECT grant_id, amount FROM grant_movement WHERE entry_id = ?", (entry_id,)
            ).fetchall()
        return moved

    def burn_order(self, grant_ids: Iterable[int]) -> list[int]:
        grants = []
        for grant_id in grant_ids:
            row = self._connection.execute(
                "SELECT id, priority, expires_at_ms FROM grant_pool WHERE id = ?", (grant_id,)
            ).fetchone()
            grants.append(Grant(*row))
        return [grant.id for grant in sorted(grants, key=lambda g: g.burn_order)]

    def entry_of_key(self, key: str) -> int | None:
        if key in self._keys:
            entry_id = self._keys[key]
        else:
            row = self._connection.execute(
                "SELECT entry_id FROM idempotency_key WHERE key = ?", (key,)
            ).fetchone()
            entry_id = None if row is None else int(row[0])
        self.recalled = self.recalled or entry_id is not None
        return entry_id

    def reservation(self, reservation_id: int) -> Reservation | None:
        row = self._connection.execute(
            "SELECT id, user_id, resource_id, expires_at_ms, state FROM reservation WHERE id = ?",
            (reservation_id,),
        ).fetchone()
        return None if row is None else Reservation(*row)

    def user_name(self, user_id: int) -> str:
        row = self._connection.execute("SELECT name FROM user WHERE id = ?", (user_id,)).fetchone()
        return f"#{user_id}" if row is None or row[0] is None else str(row[0])

    @property
    def settings(self) -> Mapping[str, str]:
        return self._session.settings

    # ---- what a decision stores

    def next_entry_id(self) -> int:
        known = self._session.known
        if not known.next_entry_id:
            (newest,) = self._connection.execute("SELECT ifnull(max(id), 0) FROM entry").fetchone()
            known.next_entry_id = next_id(newest, self.head)
        return known.next_entry_id

    def store(self, changes: Changes) -> None:
        if changes.empty:
            return
        if changes.durable or self.dirty:
            self._dirty = True
            self._store(changes)
        else:
            self._relaxed = changes

    def sum_up(self) -> None:
        self.head = self._session.sum_up(self.head)
        if self._session.known.head is not None:
            self._session.known.head = self.head

    def store_relaxed(self) -> None:
        """Write the demand that was put off."""
        assert self._relaxed is not None
        self._store(self._relaxed)

    def _forget_changed(self, changes: Changes) -> None:
        """Of what is known only what these change is another by now."""
        known = self._session.known
        if changes.reservations or changes.days_moved or changes.first_at_ms is not None:
            # They change users, or what is known of the ledger.
            self._forget()
            return
        for (resource_id, period, starts_at_ms, user_id), values in changes.counters.items():
            place = (resource_id, starts_at_ms, user_id)
            if period == DAY_LENGTH_MIN and place in known.counts:
                used, granted = known.counts[place] or (0, 0)
                known.counts[place] = (used + values[0], granted + values[1])
                if values[0] < 0 or values[1] < 0:
                    # Taken from what is there, if it is.
                    del known.counts[place]
        for _, name, _ in changes.users:
            known.strangers.discard(name)
        if changes.entries:
            known.next_entry_id = changes.entries[-1].id + 1
        self._keys = {}

    def _store(self, changes: Changes) -> None:
        self._forget_changed(changes)
        connection = self._connection
        if changes.users:
            connection.executemany(
                "INSERT INTO user (id, name, created_at_ms) VALUES (?, ?, ?)", changes.users
            )
        if changes.entries:
            connection.executemany(_ADD_ENTRY, map(_entry_row, changes.entries))
            if changes.entries[-1].id - self.head.summed_entry_id >= LOT:
                self.sum_up()
        added = []
        for key, values in changes.counters.items():
            if values[0] < 0 or values[1] < 0:
                connection.execute(_TAKE_COUNTER, (*values, *key))
            else:
                added.append((*key, *values))
        connection.executemany(_ADD_COUNTER, added)
        connection.executemany(_ADD_DEMAND, [(*k, *v) for k, v in changes.demand.items()])
        for (resource_id, length_min, start, user_id), entry_id in changes.resets.items():
            connection.execute(
                "UPDATE counter SET reset_id = ? WHERE resource_id = ? AND period = ? "
                "AND starts_at_ms = ? AND user_id = ?",
                (entry_id, resource_id, length_min, start, user_id),
            )
        if changes.keys:
            connection.executemany(
                "INSERT INTO idempotency_key (key, entry_id, at_ms) VALUES (?, ?, ?)", changes.keys
            )
        if changes.movements:
            connection.executemany(
                "INSERT INTO grant_movement (entry_id, grant_id, amount) VALUES (?, ?, ?)",
                changes.movements,
            )
            connection.executemany(
                "UPDATE grant_pool SET balance = balance + ? WHERE id = ?",
                [(amount, grant_id) for _, grant_id, amount in changes.movements],
            )
        if changes.reservations:
            connection.executemany(
                "INSERT INTO reservation (id, user_id, resource_id, expires_at_ms, state) "
                "VALUES (?, ?, ?, ?, ?)",
                [
                    (r.id, r.user_id, r.resource_id, r.expires_at_ms, r.state)
                    for r in changes.reservations
                ],
            )
        if changes.settled:
            connection.executemany(
                "UPDATE reservation SET state = ? WHERE id = ?",
                [(state, id_) for id_, state in changes.settled],
            )
        if changes.seeds or changes.totals:
            self._store_totals(changes)
        for resource_id, day_ms in changes.unsummed:
            connection.execute(
                "DELETE FROM total WHERE resource_id = ? AND period = 1440 "
                "AND abs(starts_at_ms - ?) < ?",
                (resource_id, day_ms, DAY_LONGEST_MS),
            )
        if changes.days_moved:
            self.touch_policy()
        if changes.first_at_ms is not None:
            connection.execute(
                "UPDATE ledger SET opened_at_ms = min(opened_at_ms, ?)", (changes.first_at_ms,)
            )

    def _store_totals(self, changes: Changes) -> None:
        self._connection.executemany(
            "INSERT INTO total (resource_id, period, starts_at_ms, tier_id, used) "
            "VALUES (?, ?, ?, ?, ?)",
            [
                (*key, tier_id, units)
                for key, by_tier in changes.seeds.items()
                # Tier 0 always: its row tells that this window has been summed up.
                for tier_id, units in {0: 0, **by_tier}.items()
            ],
        )
        added = [
            (*key, tier_id, units)
            for key, by_tier in changes.totals.items()
            for tier_id, units in by_tier.items()
        ]
        self._connection.executemany(
            "INSERT INTO total (resource_id, period, starts_at_ms, tier_id, used) "
            "VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET used = used + excluded.used",
            [row for row in added if row[4] > 0],
        )
        # A window that nobody summed up has no row, and learns of this when it is. One that
        # was summed up without an entry of a clock far ahead must not stop its refund.
        self._connection.executemany(
            "UPDATE total SET used = max(used + ?, 0) "
            "WHERE resource_id = ? AND period = ? AND starts_at_ms = ? AND tier_id = ?",
            [(row[4], *row[:4]) for row in added if row[4] < 0],
        )

    # ---- rows that people administer

    def insert(self, table: str, values: Mapping[str, Any]) -> int:
        self.dirty = True
        columns = ", ".join(values)
        marks = ", ".join("?" * len(values))
        cursor = self._connection.execute(
            f"INSERT INTO {table} ({columns}) VALUES ({marks})", tuple(values.values())
        )
        return cursor.lastrowid or 0

    def update(self, table: str, where: Mapping[str, Any], values: Mapping[str, Any]) -> int:
        self.dirty = True
        assignments = ", ".join(f"{column} = ?" for column in values)
        condition, parameters = _condition(where)
        cursor = self._connection.execute(
            f"UPDATE {table} SET {assignments}{condition}", (*values.values(), *parameters)
        )
        return cursor.rowcount

    def delete(self, table: str, where: Mapping[str, Any]) -> int:
        self.dirty = True
        condition, parameters = _condition(where)
        return self._connection.execute(f"DELETE FROM {table}{condition}", parameters).rowcount

    def rows(
        self, table: str, where: Mapping[str, Any] | None = None, *, order: str = "id"
    ) -> list[Row]:
        condition, parameters = _condition(where or {})
        return self._dicts(f"SELECT * FROM {table}{condition} ORDER BY {order}", parameters)

    def each_row(self, table: str, where: Mapping[str, Any] | None = None) -> Iterator[Row]:
        condition, parameters = _condition(where or {})
        return self._each(f"SELECT * FROM {table}{condition} ORDER BY id", parameters)

    def add_grants(
        self,
        *,
        amount: int,
        priority: int,
        now_ms: int,
        expires_at_ms: int | None,
        audit_id: int,
    ) -> int:
        from quotactl.engines.sqlite.affected import add_grants

        self.dirty = True
        return add_grants(
            self._connection,
            amount=amount,
            priority=priority,
            now_ms=now_ms,
            expires_at_ms=expires_at_ms,
            audit_id=audit_id,
            first_entry_id=self.next_entry_id(),
        )

    def touch_policy(self) -> None:
        self.dirty = True
        self._connection.execute("UPDATE ledger SET policy_version = policy_version + 1")

    def reread_policy(self) -> Policy:
        self.head = self._read_head()
        # Not into the cache: this transaction may yet be rolled back.
        self.policy = self._build_policy(self.head)
        return self.policy

    def _read_policy(self, head: Head) -> Policy:
        policy = self._build_policy(head)
        session = self._session
        session.settings = dict(
            self._connection.execute("SELECT key, value FROM setting").fetchall()
        )
        session.wants_full = value_of(session.settings, "durability") == "full"
        session.policy = policy
        # A restore moves it in the old file, before that has its name taken.
        session.same_until = 0.0
        return policy

    def _build_policy(self, head: Head) -> Policy:
        connection = self._connection
        resources = {
            id_: Resource(
                id_, name, unit, None if period is None else Limit(period_of_length(period), most)
            )
            for id_, name, unit, most, period in connection.execute(
                "SELECT id, name, unit, capacity_max, capacity_period FROM resource "
                "WHERE retired_at_ms IS NULL ORDER BY id"
            )
        }
        limits: dict[int, dict[int, list[Limit]]] = {}
        for tier_id, resource_id, period, maximum in connection.execute(
            "SELECT tier_id, resource_id, period, amount_max FROM tier_limit "
            "ORDER BY tier_id, resource_id, period"
        ):
            limit = Limit(period_of_length(period), maximum)
            limits.setdefault(tier_id, {}).setdefault(resource_id, []).append(limit)
        tiers = {
            id_: Tier(
                id_, name, bool(protected), {r: tuple(ls) for r, ls in limits.get(id_, {}).items()}
            )
            for id_, name, protected in connection.execute(
                "SELECT id, name, protected FROM tier WHERE retired_at_ms IS NULL ORDER BY id"
            )
        }
        throttles = []
        enforcements = []
        for row in self.rows("switch", {"ended_at_ms": None}):
            switch = self.switch_of(row)
            if isinstance(switch, Enforcement):
                enforcements.append(switch)
            else:
                throttles.append(switch)
        return Policy(
            version=head.policy_version,
            zone=head.zone,
            default_tier_id=head.default_tier_id,
            resources=resources,
            tiers=tiers,
            throttles=tuple(throttles),
            enforcements=tuple(enforcements),
        )

    def switch_of(self, row: Row) -> Throttle | Enforcement:
        """A row of `switch` as what it stands for."""
        scope = self.scope_of(row)
        if row["kind"] in ("shadow", "off"):
            return Enforcement(
                row["id"], row["kind"], scope, row["starts_at_ms"], row["ends_at_ms"]
            )
        return Throttle(
            id=row["id"],
            name=row["name"],
            kind="total" if row["total"] else row["kind"],
            scope=scope,
            amount_max=row["amount_max"],
            period=_period(row["period"]),
            percent=row["percent"],
            floor=row["floor"],
            freeze_grants=bool(row["freeze_grants"]),
            include_protected=bool(row["include_protected"]),
            starts_at_ms=row["starts_at_ms"],
            ends_at_ms=row["ends_at_ms"],
            created_at_ms=row["created_at_ms"],
            steps=self.steps_of(row),
            message=row["message"],
            drill=bool(row["drill"]),
        )

    def steps_of(self, switch: Row, *, held_too: bool = False) -> tuple[Step, ...]:
        """The steps of a row of `switch`, in order of time; those held back only if asked for."""
        held_at_ms = None if held_too else switch["held_at_ms"]
        return tuple(
            Step(at_ms, percent, bool(lifting))
            for at_ms, percent, lifting in self._connection.execute(
                "SELECT at_ms, percent, lifting FROM switch_step WHERE switch_id = ? "
                "ORDER BY at_ms, lifting",
                (switch["id"],),
            )
            if held_at_ms is None or at_ms <= held_at_ms
        )

    def scope_of(self, switch: Row) -> Scope:
        """The scope of a row of `switch`."""
        resource_ids = tier_ids = None
        if not switch["all_resources"]:
            resource_ids = frozenset(
                r["resource_id"]
                for r in self.rows(
                    "switch_resource", {"switch_id": switch["id"]}, order="resource_id"
                )
            )
        if not switch["all_tiers"]:
            tier_ids = frozenset(
                r["tier_id"]
                for r in self.rows("switch_tier", {"switch_id": switch["id"]}, order="tier_id")
            )
        return Scope(resource_ids, tier_ids)


def _period(length_min: int | None) -> Period | None:
    return None if length_min is None else period_of_length(length_min)


def _condition(where: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]]:
    if not where:
        return "", ()
    parts = [f"{c} IS NULL" if v is None else f"{c} = ?" for c, v in where.items()]
    return " WHERE " + " AND ".join(parts), tuple(v for v in where.values() if v is not None)


def _entry(row: Sequence[Any]) -> Entry:
    id_, at_ms, kind, user_id, resource_id, tier_id, amount, granted, day_ms, periods, of_id = row
    lengths = tuple(int(part) for part in periods.split(",")) if periods else ()
    return Entry(
        id_,
        at_ms,
        Kind(kind),
        user_id,
        resource_id,
        tier_id,
        amount,
        granted,
        day_ms,
        lengths,
        of_id,
    )


def _entry_row(entry: Entry) -> tuple[Any, ...]:
    if not entry.periods:
        return (*entry[:9], None, entry.of_id)
    return (*entry[:9], ",".join(map(str, entry.periods)), entry.of_id)
