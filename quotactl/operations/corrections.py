"""Giving back: refunds, holds that end, and fresh windows. Each is a new entry."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from quotactl.errors import Conflict, InvalidInput, NotFound
from quotactl.ledger.entries import RESET, Entry, Kind, Reservation
from quotactl.ledger.values import Refund, Settlement
from quotactl.operations.workspace import Workspace, start_of
from quotactl.policy.burndown import Burn, give_back
from quotactl.policy.model import Account, Resource
from quotactl.policy.notation import check_amount, check_id, instant_text
from quotactl.policy.resolve import resolve

if TYPE_CHECKING:
    from quotactl.ledger.engine import Reading

HOLDS_MAX = 500
"""How many holds that timed out one transaction frees for the sums of everybody. The next
frees more: until then less is allowed than could be, rather than all wait for one."""


class Taken:
    """What one entry took and has not given back yet.

    `outstanding` is what grants paid, in burn order.
    """

    __slots__ = ("entry", "left", "outstanding")

    def __init__(self, entry: Entry, left: int, outstanding: list[Burn]) -> None:
        self.entry = entry
        self.left = left
        self.outstanding = outstanding


class Corrections(Workspace):
    """What gives units back, in one transaction with whatever else a batch does."""

    def __init__(self, book: Reading) -> None:
        super().__init__(book)
        self._taken: dict[int, Taken] = {}
        # The resources whose holds that timed out are free, as far as all of them go.
        self._freed: set[int] = set()

    def refund(
        self,
        now_ms: int,
        *,
        idempotency_key: str | None = None,
        entry_id: int | None = None,
        amount: int | None = None,
        refund_key: str | None = None,
    ) -> Refund:
        """Give back units of one consumption to where they came from.

        `amount` None is all that is left. Raises Conflict for more than is left.
        """
        if (idempotency_key is None) == (entry_id is None):
            raise InvalidInput("a refund names either a key or an entry")
        if amount is not None:
            check_amount(amount)
        if refund_key is not None:
            check_id(refund_key, "key")
        if idempotency_key is not None:
            check_id(idempotency_key, "key")
            entry_id = self._entry_of_key(idempotency_key)
        if refund_key is not None and (done := self._entry_of_key(refund_key)) is not None:
            # Before anything else: what it gave back may be pruned by now.
            return self._replayed_refund(done, entry_id, amount, refund_key)
        if entry_id is None:
            raise NotFound(f"nothing was consumed under key {idempotency_key!r}")
        taken = self._what_was_taken(entry_id, now_ms)
        if amount is None:
            amount = taken.left
        if amount > taken.left:
            raise Conflict(
                f"entry {taken.entry.id} has {taken.left} units left to refund, not {amount}"
            )
        correction = None
        if amount:
            correction = self._give_back(taken, amount, Kind.REFUND, now_ms)
            if refund_key is not None:
                self._remember(refund_key, correction.id, now_ms)
        return self._refund(taken.entry, correction)

    def post(self, reservation_id: int, now_ms: int, *, amount: int | None = None) -> Settlement:
        """Keep what was held, or `amount` of it, and free the rest."""
        if amount is not None:
            check_amount(amount)
        self.expire(reservation_id, now_ms)
        hold = self._reservation(reservation_id)
        taken = self._taken_by(reservation_id)
        held = taken.entry.amount
        if hold.state == "posted":
            posted = held + self._settling(reservation_id).amount
            if amount not in (None, posted):
                raise Conflict(f"reservation {reservation_id} is posted already, for {posted}")
            return self._settlement(hold, taken.entry, None, posted, already=True)
        self._require_pending(hold)
        if amount is None:
            amount = held
        if amount > held:
            raise Conflict(f"reservation {reservation_id} holds {held} units, not {amount}")
        settled = self._settle(hold, taken, held - amount, Kind.POST, "posted", now_ms)
        return self._settlement(hold, taken.entry, settled, amount)

    def void(self, reservation_id: int, now_ms: int) -> Settlement:
        """Free what was held."""
        self.expire(reservation_id, now_ms)
        hold = self._reservation(reservation_id)
        taken = self._taken_by(reservation_id)
        if hold.state == "posted":
            raise Conflict(
                f"reservation {reservation_id} is posted", hint="give it back with a refund"
            )
        if hold.state != "pending":
            return self._settlement(hold, taken.entry, None, 0, already=True)
        settled = self._settle(hold, taken, taken.left, Kind.VOID, "voided", now_ms)
        return self._settlement(hold, taken.entry, settled, 0)

    def expire(self, reservation_id: int, now_ms: int) -> None:
        """Free a hold that has timed out."""
        hold = self._reservation(reservation_id)
        if hold.state == "pending" and hold.expires_at_ms <= now_ms:
            taken = self._taken_by(reservation_id)
            self._settle(hold, taken, taken.left, Kind.EXPIRE, "expired", now_ms)

    def reset(self, user: str, resource: Resource, now_ms: int) -> int:
        """Give one user fresh windows through correcting entries.

        All windows of the user in force at `now_ms` start again at 0; of a week or month,
        all its days so far. Returns the units taken off the days, or where that is nothing
        off the shorter window that had most; 0 if nothing was counted in any.
        """
        self._refuse_closed(now_ms)
        account, _ = self._account(user, resource, now_ms)
        standing = resolve(self.policy, account, now_ms)
        calendar = self.policy.calendar
        days = {calendar.day(now_ms).starts_at_ms}
        for ceiling in standing.ceilings:
            if ceiling.period.length_min > 1440 and not ceiling.shared:
                span = calendar.window(ceiling.period, now_ms)
                days.update(s for s in calendar.day_starts(span) if s <= now_ms)
        wide = any(c.period.length_min > 1440 and not c.shared for c in standing.ceilings)
        strays = self._strays(resource, now_ms, wide=wide)
        freed = paid = 0
        shorter = []
        for day_ms in sorted({*days, *(s for s in strays if self._charged(s) in days)}):
            counter = self.book.counter(account.user_id, resource.id, 1440, day_ms)
            pending = self.changes.counters.get((resource.id, 1440, day_ms, account.user_id))
            used = (counter.used if counter else 0) + (pending[0] if pending else 0)
            granted = (counter.granted if counter else 0) + (pending[1] if pending else 0)
            if not (used or granted):
                continue
            entry = self._correct(
                account, now_ms, -(used + granted), -granted, day_ms=day_ms, periods=()
            )
            key = (resource.id, 1440, day_ms, account.user_id)
            self._add_counter(key, -used, -granted)
            self.changes.resets[key] = entry.id
            tier_id = 0 if account.tier is None else account.tier.id
            booked_ms = now_ms if day_ms == calendar.day(now_ms).starts_at_ms else day_ms
            self._book_correction(booked_ms, resource.id, tier_id, used, granted, reason=RESET)
            place = (1440, self._charged(day_ms))
            account.used[place] = account.granted[place] = 0
            freed += used
            paid += granted
        for length_min in standing.periods:
            start = start_of(now_ms, length_min)
            used = account.used.get((length_min, start), 0)
            if not used:
                continue
            entry = self._correct(account, now_ms, -used, 0, day_ms=None, periods=(length_min,))
            key = (resource.id, length_min, start, account.user_id)
            self._add_counter(key, -used, 0)
            self.changes.resets[key] = entry.id
            account.used[length_min, start] = 0
            shorter.append(used)
        return freed or max(shorter, default=0) or paid

    # ---- in detail

    def _account(
        self, user: str, resource: Resource, now_ms: int
    ) -> tuple[Account, dict[int, int]]:
        """The account with every window that could matter at `now_ms` loaded, and
        its holds; those that have timed out are freed first."""
        found = self._loaded(user, resource)
        account, holds = found
        self._load_windows(account, now_ms)
        self._load_totals(account, now_ms)
        if resource.id in self._totals and resource.id not in self._freed:
            # They are in the sums of everybody, whoever held them.
            self._freed.add(resource.id)
            for hold_id in self.book.timed_out_of(resource.id, now_ms, HOLDS_MAX):
                self.expire(hold_id, now_ms)
        if holds:
            for hold_id in [h for h, expires_at_ms in holds.items() if expires_at_ms <= now_ms]:
                self.expire(hold_id, now_ms)
        return found

    def _what_was_taken(self, entry_id: int, now_ms: int) -> Taken:
        """The consumption that an id stands for: its own, or that of a post's reservation."""
        entry = self._entry(entry_id)
        if entry.kind is Kind.POST and entry.of_id is not None:
            entry = self._entry(entry.of_id)
        if entry.kind is Kind.HOLD:
            self.expire(entry.id, now_ms)
            if self._reservation(entry.id).state == "pending":
                raise Conflict(
                    f"reservation {entry.id} is still pending", hint="void it, or post it first"
                )
        elif entry.kind is not Kind.CONSUME:
            raise Conflict(f"entry {entry_id} is a {entry.kind.name.lower()}, nothing to refund")
        return self._taken_by(entry.id)

    def _taken_by(self, entry_id: int) -> Taken:
        taken = self._taken.get(entry_id)
        if taken is None:
            entry = self._entry(entry_id)
            corrections = self.book.corrections(entry_id)
            taken = Taken(
                entry,
                entry.amount + sum(e.amount for e in corrections),
                self._outstanding(entry, corrections),
            )
            self._taken[entry_id] = taken
        return taken

    def _outstanding(self, entry: Entry, corrections: Sequence[Entry]) -> list[Burn]:
        if not entry.granted:
            return []
        if entry.id in self._burns:
            return list(self._burns[entry.id])
        paid: dict[int, int] = {}
        for grant_id, units in self.book.movements([entry.id, *(e.id for e in corrections)]):
            paid[grant_id] = paid.get(grant_id, 0) - units
        return [(g, paid[g]) for g in self.book.burn_order(paid)]

    def _outstanding_grants(self, entry_id: int) -> list[int]:
        return [grant_id for grant_id, _ in self._taken_by(entry_id).outstanding]

    def _give_back(self, taken: Taken, amount: int, kind: Kind, now_ms: int) -> Entry:
        """Write the entry that gives `amount` units of another back, maybe 0.

        Grants get theirs first, in reverse burn order; the rest goes to the
        windows in which it was taken, but not to one that was reset since.
        """
        self._refuse_closed(now_ms)
        entry = taken.entry
        assert entry.user_id is not None and entry.resource_id is not None
        burns, _ = give_back(taken.outstanding, amount)
        to_grants = sum(units for _, units in burns)
        back = dict(burns)
        taken.outstanding = [(g, units - back.get(g, 0)) for g, units in taken.outstanding]
        taken.left -= amount

        loaded = self._accounts_by_id.get((entry.user_id, entry.resource_id))
        account = None if loaded is None else loaded[0]
        charged: list[int] = []
        day_ms = None
        windows = [(length, start_of(entry.at_ms, length)) for length in entry.periods]
        if entry.day_ms is not None:
            windows.append((1440, entry.day_ms))
        for length_min, start in windows if amount else []:
            key = (entry.resource_id, length_min, start, entry.user_id)
            if not self._still_counts(key, entry.id):
                continue
            if length_min == 1440:
                day_ms = start
                units = amount - to_grants
                self._add_counter(key, -units, -to_grants)
                tier_id = entry.tier_id or 0
                self._book_correction(entry.at_ms, entry.resource_id, tier_id, units, to_grants)
            else:
                charged.append(length_min)
                units = amount
                self._add_counter(key, -units, 0)
            if account is None:
                continue
            place = (length_min, start)
            if length_min == 1440 and place not in account.used:
                place = (1440, self._charged(start))
            if place in account.used:
                account.used[place] -= units
                if length_min == 1440 and to_grants:
                    account.granted[place] -= to_grants
        correction = Entry(
            self._new_entry_id(),
            now_ms,
            kind,
            entry.user_id,
            entry.resource_id,
            entry.tier_id,
            -amount,
            -to_grants,
            day_ms,
            tuple(charged),
            entry.id,
        )
        self._add_entry(correction)
        for grant_id, units in burns:
            self.changes.movements.append((correction.id, grant_id, units))
            if account is not None and grant_id in account.balances:
                account.balances[grant_id] += units
        return correction

    def _still_counts(self, key: tuple[int, int, int, int], entry_id: int) -> bool:
        """Whether a window still counts what an entry took in it: it has not been
        pruned, nor reset since."""
        reset_id = self.changes.resets.get(key)
        if reset_id is None:
            resource_id, length_min, start, user_id = key
            counter = self.book.counter(user_id, resource_id, length_min, start)
            if counter is None:
                return key in self.changes.counters
            reset_id = counter.reset_id
        return reset_id is None or reset_id < entry_id

    def _settle(
        self, hold: Reservation, taken: Taken, freed: int, kind: Kind, state: str, now_ms: int
    ) -> Entry:
        settled = self._give_back(taken, freed, kind, now_ms)
        hold.state = state
        self._reservations[hold.id] = hold
        self.changes.settled.append((hold.id, state))
        loaded = self._accounts_by_id.get((hold.user_id, hold.resource_id))
        if loaded is not None:
            loaded[1].pop(hold.id, None)
        return settled

    def _require_pending(self, hold: Reservation) -> None:
        if hold.state == "pending":
            return
        if hold.state == "voided":
            raise Conflict(f"reservation {hold.id} was voided")
        ended = instant_text(hold.expires_at_ms, self.policy.calendar)
        raise Conflict(
            f"reservation {hold.id} timed out at {ended}", hint="consume anew, with a new key"
        )

    def _settling(self, reservation_id: int) -> Entry:
        corrections = [*self.book.corrections(reservation_id), *self.changes.entries]
        return next(e for e in corrections if e.of_id == reservation_id and e.kind is Kind.POST)

    def _settlement(
        self,
        hold: Reservation,
        entry: Entry,
        settled: Entry | None,
        posted: int,
        *,
        already: bool = False,
    ) -> Settlement:
        return Settlement(
            reservation_id=hold.id,
            entry_id=None if settled is None else settled.id,
            state=hold.state,
            user=self._user_name(hold.user_id),
            resource=self._resource_name(hold.resource_id),
            posted=posted,
            freed=entry.amount - posted,
            already=already,
        )

    def _replayed_refund(
        self, done: int, entry_id: int | None, amount: int | None, refund_key: str
    ) -> Refund:
        correction = self._entry(done)
        if (
            correction.kind is not Kind.REFUND
            or (entry_id is not None and correction.of_id not in self._same(entry_id))
            or amount not in (None, -correction.amount)
        ):
            raise Conflict(
                f"key {refund_key!r} was used for another request",
                hint="a retry repeats the entry and the amount; a new refund takes a new key",
            )
        return self._refund(correction, correction, replayed=True)

    def _same(self, entry_id: int) -> set[int]:
        """The entries that an id may stand for: itself, and the reservation that it posted."""
        with suppress(NotFound):
            entry = self._entry(entry_id)
            if entry.kind is Kind.POST and entry.of_id is not None:
                return {entry_id, entry.of_id}
        return {entry_id}

    def _refund(self, entry: Entry, correction: Entry | None, *, replayed: bool = False) -> Refund:
        assert entry.user_id is not None and entry.resource_id is not None
        of_id = entry.id if correction is None or correction.of_id is None else correction.of_id
        return Refund(
            entry_id=None if correction is None else correction.id,
            of_entry_id=of_id,
            user=self._user_name(entry.user_id),
            resource=self._resource_name(entry.resource_id),
            amount=0 if correction is None else -correction.amount,
            granted=0 if correction is None else -correction.granted,
            replayed=replayed,
        )

    def _correct(
        self,
        account: Account,
        now_ms: int,
        amount: int,
        granted: int,
        *,
        day_ms: int | None,
        periods: tuple[int, ...],
    ) -> Entry:
        tier_id = None if account.tier is None else account.tier.id
        entry = Entry(
            self._new_entry_id(),
            now_ms,
            Kind.RESET,
            account.user_id,
            account.resource.id,
            tier_id,
            amount,
            granted,
            day_ms,
            periods,
            None,
        )
        self._add_entry(entry)
        return entry
