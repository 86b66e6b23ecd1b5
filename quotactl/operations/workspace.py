"""What one transaction has loaded and what it changes: the ground a batch stands on.

A workspace keeps both, so that the second request of a user in it sees the
first, and hands the net effect to the engine at its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quotactl.errors import ClockBehind, NotFound
from quotactl.ledger.entries import CORRECTION, Changes, Entry, Reservation
from quotactl.policy.burndown import Burn
from quotactl.policy.decide import looks_back
from quotactl.policy.model import Account, Resource, Totals
from quotactl.policy.notation import could_be_an_id, instant_text
from quotactl.policy.resolve import resolve, totalled, totalled_since
from quotactl.policy.window import (
    DAY_LENGTH_MIN,
    DAY_LONGEST_MS,
    MINUTE_MS,
    MONTH,
    WEEK,
    Period,
    Window,
)

if TYPE_CHECKING:
    from quotactl.ledger.engine import Reading, Writing

CLOCKS_APART_MS = 10 * MINUTE_MS
"""By how much the clocks of two processes may differ, where their moments are compared."""


class Workspace:
    """Accounts, entries and changes of one transaction. Nothing is written until `store()`."""

    def __init__(self, book: Reading) -> None:
        self.book = book
        self.policy = book.policy
        self.changes = Changes()
        self._accounts: dict[tuple[str, int], tuple[Account, dict[int, int]]] = {}
        self._accounts_by_id: dict[tuple[int, int], tuple[Account, dict[int, int]]] = {}
        self._user_ids: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._keys: dict[str, int] = {}
        self._entries: dict[int, Entry] = {}
        self._burns: dict[int, tuple[Burn, ...]] = {}
        self._reservations: dict[int, Reservation] = {}
        self._totals: dict[int, Totals] = {}
        self._next_entry_id = 0
        self._next_user_id = 0

    def store(self, book: Writing) -> None:
        """Hand the net effect to the engine."""
        book.store(self.changes)

    # ---- accounts

    def resource(self, name: object) -> Resource:
        """The live resource of that name, or NotFound."""
        return self.policy.resource_named(name)

    def _loaded(self, user: str, resource: Resource) -> tuple[Account, dict[int, int]]:
        """One user's account for a resource, and their pending holds (id to expiry)."""
        key = (user, resource.id)
        found = self._accounts.get(key)
        if found is None:
            stored = self.book.load_account(user, resource)
            account = stored.account
            if account.balances:
                # A time-out in this batch may have given back to them already.
                for _, grant_id, units in self.changes.movements:
                    if grant_id in account.balances:
                        account.balances[grant_id] += units
            if not account.known and user in self._user_ids:
                # Met in this batch already, with another resource.
                account.user_id, account.known = self._user_ids[user], True
            found = self._accounts[key] = (account, stored.holds)
            if account.known:
                self._accounts_by_id[account.user_id, resource.id] = found
        return found

    def _load_windows(self, account: Account, now_ms: int) -> None:
        policy = self.policy
        calendar = policy.calendar
        used = account.used
        standing = resolve(policy, account, now_ms)
        day_ms = calendar.day(now_ms).starts_at_ms
        wanted = [(1440, day_ms), *((p, start_of(now_ms, p)) for p in standing.periods)]
        periods = looks_back(policy, account)
        strays = self._strays(account.resource, now_ms, wide=bool(periods))
        if periods:
            starts = {
                start
                for period in periods
                for start in calendar.day_starts(calendar.window(period, now_ms))
            }
            wanted += [(1440, start) for start in starts if start != day_ms]
        missing = [window for window in wanted if window not in used]
        if not missing:
            return
        loaded = {}
        if account.known:
            loaded = self.book.load_counts(account.user_id, account.resource.id, missing)
        for window in missing:
            units, granted = loaded.get(window, (0, 0))
            pending = self.changes.counters.get((account.resource.id, *window, account.user_id))
            if pending is not None:
                units, granted = units + pending[0], granted + pending[1]
            used[window] = units
            if granted:
                account.granted[window] = granted
        if strays:
            self._add_strays(account, strays, missing)

    def _strays(self, resource: Resource, now_ms: int, *, wide: bool) -> tuple[int, ...]:
        """The starts of day counters that lie elsewhere than the days of this process, since
        the zone had or has other rules: of about today or, if `wide`, of the week and month
        so far.

        There are none but after such a change, and they are looked for once a day: whoever
        counts first in a day while others have it begin elsewhere moves the policy's
        version, and everybody looks again.
        """
        policy = self.policy
        calendar = policy.calendar
        day_ms = calendar.day(now_ms).starts_at_ms
        key = ("strays", resource.id, wide)
        found: tuple[int, tuple[int, ...]] | None = policy.resolved.get(key)
        if found is not None and found[0] == day_ms:
            return found[1]
        from_ms = day_ms
        if wide:
            from_ms = min(calendar.window(p, now_ms).starts_at_ms for p in (WEEK, MONTH))
        counted = self.book.days_counted(resource.id, from_ms - DAY_LONGEST_MS)
        strays = tuple(s for s in counted if not calendar.begins_a_day(s))
        if day_ms in counted:
            policy.resolved[key] = (day_ms, strays)
        elif strays:
            self.changes.days_moved = True
        return strays

    def _add_strays(
        self, account: Account, strays: tuple[int, ...], days: list[tuple[int, int]]
    ) -> None:
        """Count in these days what is charged to them under another start."""
        resource_id, user_id = account.resource.id, account.user_id
        places = {(1440, s): (1440, self._charged(s)) for s in strays}
        windows = [window for window, place in places.items() if place in days]
        loaded = {}
        if account.known and windows:
            loaded = self.book.load_counts(user_id, resource_id, windows)
        for window in windows:
            units, granted = loaded.get(window, (0, 0))
            pending = self.changes.counters.get((resource_id, *window, user_id))
            if pending is not None:
                units, granted = units + pending[0], granted + pending[1]
            place = places[window]
            account.used[place] += units
            account.granted[place] = account.granted.get(place, 0) + granted

    def _strayed(self, day_ms: int, strays: tuple[int, ...]) -> bool:
        return any(abs(stray - day_ms) < DAY_LONGEST_MS for stray in strays)

    def _charged(self, day_ms: int) -> int:
        return self.policy.calendar.day_charged(day_ms).starts_at_ms

    def _load_totals(self, account: Account, now_ms: int) -> None:
        """What everybody took, in the windows that some ceiling over all needs.

        A window that nobody has summed up is summed up here, and kept with what this
        transaction stores.
        """
        resource = account.resource
        periods = totalled(self.policy, resource)
        if not periods:
            return
        totals = account.totals = self._totals.setdefault(resource.id, {})
        calendar = self.policy.calendar
        longest = periods[-1].length_min
        strays: tuple[int, ...] = ()
        if longest >= DAY_LENGTH_MIN:
            strays = self._strays(resource, now_ms, wide=longest > DAY_LENGTH_MIN)
        for period in periods:
            window = calendar.window(period, now_ms)
            for length_min, part in self._parts(period, window):
                if (length_min, part.starts_at_ms) in totals:
                    continue
                key = (resource.id, length_min, part.starts_at_ms)
                # Of a day that others begin elsewhere nobody keeps the sum up to date.
                strayed = length_min == DAY_LENGTH_MIN and self._strayed(part.starts_at_ms, strays)
                stored = self.book.load_total(*key)
                if stored is None:
                    stored = self._sum_up(resource, length_min, part)
                    # Days to come are empty but for a clock that ran ahead, and not kept.
                    if part.starts_at_ms <= now_ms and not strayed:
                        self.changes.seeds[key] = dict(stored)
                for tier_id, units in self.changes.totals.get(key, {}).items():
                    stored[tier_id] = stored.get(tier_id, 0) + units
                totals[length_min, part.starts_at_ms] = stored

    def _parts(self, period: Period, window: Window) -> list[tuple[int, Window]]:
        """The windows that are kept: a week or month is the sum of its days."""
        if period.length_min <= DAY_LENGTH_MIN:
            return [(period.length_min, window)]
        calendar = self.policy.calendar
        return [(DAY_LENGTH_MIN, calendar.day(start)) for start in calendar.day_starts(window)]

    def _sum_up(self, resource: Resource, length_min: int, window: Window) -> dict[int, int]:
        calendar = self.policy.calendar
        start, end = window
        if calendar.hour_of(start) == start and calendar.hour_of(end) == end:
            # Whole hours of the zone's days, which is how demand is kept.
            return self.book.demand_by_tier(resource.id, start, end)
        since_ms = totalled_since(self.policy, resource, length_min)
        if since_ms is not None and since_ms + CLOCKS_APART_MS <= start:
            # It has been counted since before this window began, by any clock.
            return {}
        return self.book.taken_by_tier(resource.id, start, end)

    def _count_total(self, at_ms: int, resource: Resource, tier_id: int, units: int) -> None:
        """Add what was taken, or with a minus given back, to the sums of everybody."""
        periods = totalled(self.policy, resource)
        if not periods:
            return
        calendar = self.policy.calendar
        totals = self._totals.get(resource.id, {})
        for length_min in {min(p.length_min, DAY_LENGTH_MIN) for p in periods}:
            if length_min == DAY_LENGTH_MIN:
                start = calendar.day(at_ms).starts_at_ms
                if self._strayed(start, self._strays(resource, at_ms, wide=False)):
                    self.changes.unsummed.add((resource.id, start))
            else:
                start = start_of(at_ms, length_min)
            added = self.changes.totals.setdefault((resource.id, length_min, start), {})
            added[tier_id] = added.get(tier_id, 0) + units
            by_tier = totals.get((length_min, start))
            if by_tier is not None:
                by_tier[tier_id] = by_tier.get(tier_id, 0) + units

    def _intern(self, account: Account, now_ms: int) -> None:
        """Give a user nobody has heard of an id."""
        if account.known:
            return
        known = self._user_ids.get(account.user)
        if known is None:
            if not self._next_user_id:
                self._next_user_id = self._writing().next_user_id()
            known = self._next_user_id
            self._next_user_id += 1
            self._user_ids[account.user] = known
            self._names[known] = account.user
            self.changes.users.append((known, account.user, now_ms))
        account.user_id, account.known = known, True
        resource_id = account.resource.id
        self._accounts_by_id[known, resource_id] = self._accounts[account.user, resource_id]

    def _writing(self) -> Writing:
        return self.book  # type: ignore[return-value]

    # ---- what is in the books and in this batch

    def _refuse_closed(self, now_ms: int) -> None:
        closed_until_ms = self.book.head.closed_until_ms
        if closed_until_ms is not None and now_ms < closed_until_ms:
            calendar = self.policy.calendar
            raise ClockBehind(
                f"this clock says {instant_text(now_ms, calendar)}, in a day that is closed",
                hint="set the clock; safe to try again",
            )

    def _entry(self, entry_id: int) -> Entry:
        entry = None
        if could_be_an_id(entry_id):
            entry = self._entries.get(entry_id) or self.book.entry(entry_id)
        if entry is None:
            raise NotFound(f"no entry {entry_id}")
        return entry

    def _entry_of_key(self, key: str) -> int | None:
        entry_id = self._keys.get(key)
        return self.book.entry_of_key(key) if entry_id is None else entry_id

    def _remember(self, key: str, entry_id: int, now_ms: int) -> None:
        self._keys[key] = entry_id
        self.changes.keys.append((key, entry_id, now_ms))

    def _reservation(self, reservation_id: int) -> Reservation:
        hold = None
        if could_be_an_id(reservation_id):
            hold = self._reservations.get(reservation_id) or self.book.reservation(reservation_id)
        if hold is None:
            raise NotFound(f"no reservation {reservation_id}")
        return hold

    def _user_name(self, user_id: int) -> str:
        return self._names.get(user_id) or self.book.user_name(user_id)

    def _resource_name(self, resource_id: int) -> str:
        found = self.policy.resources.get(resource_id)
        if found is not None:
            return found.name
        return str(self.book.rows("resource", {"id": resource_id})[0]["name"])

    # ---- changes

    def _new_entry_id(self) -> int:
        if not self._next_entry_id:
            self._next_entry_id = self._writing().next_entry_id()
        entry_id = self._next_entry_id
        self._next_entry_id += 1
        return entry_id

    def _add_entry(self, entry: Entry) -> int:
        self.changes.entries.append(entry)
        self._entries[entry.id] = entry
        first = self.changes.first_at_ms
        if entry.at_ms < self.book.head.opened_at_ms and (first is None or entry.at_ms < first):
            self.changes.first_at_ms = entry.at_ms
        return entry.id

    def _add_counter(
        self,
        key: tuple[int, int, int, int],
        used: int,
        granted: int,
        denied: int = 0,
        shadow_denied: int = 0,
    ) -> None:
        values = self.changes.counters.get(key)
        if values is None:
            self.changes.counters[key] = [used, granted, denied, shadow_denied]
        else:
            values[0] += used
            values[1] += granted
            values[2] += denied
            values[3] += shadow_denied

    def _add_demand(self, key: tuple[int, int, int, str, str, int], values: list[int]) -> None:
        present = self.changes.demand.get(key)
        if present is None:
            self.changes.demand[key] = values
        else:
            for position, value in enumerate(values):
                present[position] += value

    def _book_correction(
        self,
        at_ms: int,
        resource_id: int,
        tier_id: int,
        used: int,
        granted: int,
        *,
        reason: str = CORRECTION,
    ) -> None:
        hour_ms = self.policy.calendar.hour_of(at_ms)
        self._add_demand(
            (hour_ms, resource_id, tier_id, reason, "tier", tier_id),
            [0, -used, -granted, 0, 0],
        )
        resource = self.policy.resources.get(resource_id)
        if reason == CORRECTION and resource is not None:
            self._count_total(at_ms, resource, tier_id, -used - granted)


def start_of(at_ms: int, length_min: int) -> int:
    """The start of the window, shorter than a day, that contains a moment."""
    return at_ms - at_ms % (length_min * MINUTE_MS)
