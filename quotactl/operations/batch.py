"""The unit of work: several operations on one view of the ledger, net effect stored once.

    load what is touched → decide each in order, in memory → Changes

A batch keeps what it loaded and what it changed, so that the second request of
a user in it sees the first. Splitting a batch anywhere changes no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from quotactl.errors import ClockBehind, Conflict, InvalidInput, NotFound
from quotactl.ledger.engine import Reading, Writing
from quotactl.ledger.entries import CORRECTION, Changes, Entry, Kind, Reservation
from quotactl.ledger.values import Decision, Refund, Request, Settlement
from quotactl.policy.burndown import Burn, give_back
from quotactl.policy.decide import Level, Verdict, decide, levels_of, looks_back, tightest
from quotactl.policy.model import AMOUNT_MAX, Account, Resource, Rule
from quotactl.policy.notation import check_amount, check_id, could_be_an_id, instant_text
from quotactl.policy.resolve import Standing, resolve
from quotactl.policy.window import MINUTE_MS, from_ms


@dataclass(slots=True)
class Taken:
    """What one entry took and has not given back yet.

    `outstanding` is what grants paid, in burn order.
    """

    entry: Entry
    left: int
    outstanding: list[Burn]


class Batch:
    """Operations on one transaction. Nothing is written until `store()`."""

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
        self._taken: dict[int, Taken] = {}
        self._reservations: dict[int, Reservation] = {}
        self._next_entry_id = 0
        self._next_user_id = 0

    def store(self, book: Writing) -> None:
        """Hand the net effect to the engine."""
        book.store(self.changes)

    # ---- deciding

    def check(self, request: Request, now_ms: int) -> Decision:
        """What `consume` would answer; takes nothing and is not counted as demand."""
        resource = self._admit(request)
        account, _ = self._account(request.user, resource, now_ms)
        verdict = decide(self.policy, account, request.amount, now_ms)
        return self._decision(request, account, verdict, counted=False)

    def consume(self, request: Request, now_ms: int) -> Decision:
        """Decide one request and count it, as used or as denied."""
        resource = self._admit(request)
        replayed = self._replayed(request, resource, now_ms, Kind.CONSUME)
        if replayed is not None:
            return replayed
        account, verdict = self._decide(request, resource, now_ms)
        entry_id = self._count(request, account, verdict, now_ms, Kind.CONSUME)
        return self._decision(request, account, verdict, entry_id=entry_id)

    def reserve(self, request: Request, now_ms: int, *, ttl_ms: int) -> Decision:
        """Hold units until they are posted or voided, or `ttl_ms` have passed."""
        resource = self._admit(request)
        replayed = self._replayed(request, resource, now_ms, Kind.HOLD)
        if replayed is not None:
            return replayed
        account, verdict = self._decide(request, resource, now_ms)
        entry_id = self._count(request, account, verdict, now_ms, Kind.HOLD)
        if entry_id is not None:
            hold = Reservation(entry_id, account.user_id, resource.id, now_ms + ttl_ms, "pending")
            self.changes.reservations.append(hold)
            self._reservations[entry_id] = hold
            self._accounts[request.user, resource.id][1][entry_id] = hold.expires_at_ms
        return self._decision(request, account, verdict, entry_id=entry_id, reservation_id=entry_id)

    def levels(self, user: str, resource: Resource, now_ms: int) -> tuple[Standing, list[Level]]:
        """A user's standing for a resource, and every window in force with what is used in it."""
        account, _ = self._account(user, resource, now_ms)
        standing = resolve(self.policy, account, now_ms)
        return standing, levels_of(standing, account, self.policy.calendar, now_ms)

    # ---- correcting

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

        All windows in force at `now_ms` start again at 0; of a week or month, all
        its days so far. Returns the units taken off the longest window.
        """
        self._refuse_closed(now_ms)
        account, _ = self._account(user, resource, now_ms)
        standing = resolve(self.policy, account, now_ms)
        calendar = self.policy.calendar
        days = {calendar.day(now_ms).starts_at_ms}
        for ceiling in standing.ceilings:
            if ceiling.period.length_min > 1440:
                span = calendar.window(ceiling.period, now_ms)
                days.update(s for s in calendar.day_starts(span) if s <= now_ms)
        freed = 0
        for day_ms in sorted(days):
            counter = self.book.counter(account.user_id, resource.id, 1440, day_ms)
            pending = self.changes.counters.get((resource.id, 1440, day_ms, account.user_id))
            used = (counter.used if counter else 0) + (pending[0] if pending else 0)
            granted = (counter.granted if counter else 0) + (pending[1] if pending else 0)
            if counter is None and pending is None:
                continue
            entry = self._correct(
                account, now_ms, -(used + granted), -granted, day_ms=day_ms, periods=()
            )
            key = (resource.id, 1440, day_ms, account.user_id)
            self._add_counter(key, -used, -granted)
            self.changes.resets[key] = entry.id
            tier_id = 0 if account.tier is None else account.tier.id
            booked_ms = now_ms if day_ms == calendar.day(now_ms).starts_at_ms else day_ms
            self._book_correction(booked_ms, resource.id, tier_id, used, granted)
            account.used[1440, day_ms] = account.granted[1440, day_ms] = 0
            freed += used
        for length_min in standing.periods:
            start = _start(now_ms, length_min)
            used = account.used.get((length_min, start), 0)
            if not used:
                continue
            entry = self._correct(account, now_ms, -used, 0, day_ms=None, periods=(length_min,))
            key = (resource.id, length_min, start, account.user_id)
            self._add_counter(key, -used, 0)
            self.changes.resets[key] = entry.id
            account.used[length_min, start] = 0
        return freed

    # ---- accounts

    def _admit(self, request: Request) -> Resource:
        if not isinstance(request, Request):
            raise InvalidInput(f"{type(request).__name__} is not a Request")
        check_id(request.user, "user")
        check_amount(request.amount)
        if request.idempotency_key is not None:
            check_id(request.idempotency_key, "key")
        return self.resource(request.resource)

    def resource(self, name: object) -> Resource:
        """The live resource of that name, or NotFound."""
        found = self.policy.resources_by_name.get(name) if isinstance(name, str) else None
        if found is None:
            known = ", ".join(sorted(self.policy.resources_by_name)) or "none yet"
            raise NotFound(f"no resource {name!r}", hint=f"known: {known}")
        return found

    def _account(
        self, user: str, resource: Resource, now_ms: int
    ) -> tuple[Account, dict[int, int]]:
        """The account with every window that could matter at `now_ms` loaded, and
        its holds; those that have timed out are freed first."""
        key = (user, resource.id)
        found = self._accounts.get(key)
        if found is None:
            stored = self.book.load_account(user, resource)
            account = stored.account
            if not account.known and user in self._user_ids:
                # Met in this batch already, with another resource.
                account.user_id, account.known = self._user_ids[user], True
            found = self._accounts[key] = (account, stored.holds)
            if account.known:
                self._accounts_by_id[account.user_id, resource.id] = found
        account, holds = found
        self._load_windows(account, now_ms)
        if holds:
            for hold_id in [h for h, expires_at_ms in holds.items() if expires_at_ms <= now_ms]:
                self.expire(hold_id, now_ms)
        return found

    def _load_windows(self, account: Account, now_ms: int) -> None:
        policy = self.policy
        calendar = policy.calendar
        used = account.used
        standing = resolve(policy, account, now_ms)
        day_ms = calendar.day(now_ms).starts_at_ms
        wanted = [(1440, day_ms), *((p, _start(now_ms, p)) for p in standing.periods)]
        if periods := looks_back(policy, account):
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

    # ---- deciding, in detail

    def _decide(self, request: Request, resource: Resource, now_ms: int) -> tuple[Account, Verdict]:
        self._refuse_closed(now_ms)
        account, _ = self._account(request.user, resource, now_ms)
        verdict = decide(self.policy, account, request.amount, now_ms)
        if verdict.allowed and request.amount > self._room(account, verdict, now_ms):
            raise InvalidInput(
                f"{request.amount} more units of {resource.name} would take the count past 2^53 - 1"
            )
        return account, verdict

    def _room(self, account: Account, verdict: Verdict, now_ms: int) -> int:
        """How many units the counters that an entry is charged to can still count."""
        day = (1440, verdict.day_ms)
        fullest = max(account.used.get(day, 0) - verdict.granted, 0)
        if verdict.granted:
            fullest = max(fullest, account.granted.get(day, 0))
        for length_min in verdict.periods:
            fullest = max(fullest, account.used.get((length_min, _start(now_ms, length_min)), 0))
        return AMOUNT_MAX - fullest

    def _count(
        self, request: Request, account: Account, verdict: Verdict, now_ms: int, kind: Kind
    ) -> int | None:
        """Book a decision: an entry if it took something, demand in any case."""
        self._intern(account, now_ms)
        amount, granted = request.amount, verdict.granted
        resource_id = account.resource.id
        tier_id = 0 if account.tier is None else account.tier.id
        entry_id = None
        windows = [(1440, verdict.day_ms), *((p, _start(now_ms, p)) for p in verdict.periods)]
        if verdict.allowed:
            entry_id = self._add_entry(
                Entry(
                    self._new_entry_id(),
                    now_ms,
                    kind,
                    account.user_id,
                    resource_id,
                    tier_id or None,
                    amount,
                    granted,
                    verdict.day_ms,
                    verdict.periods,
                    None,
                )
            )
            for grant_id, units in verdict.burns:
                self.changes.movements.append((entry_id, grant_id, -units))
                account.balances[grant_id] -= units
            if verdict.burns:
                self._burns[entry_id] = verdict.burns
            if request.idempotency_key is not None:
                self._remember(request.idempotency_key, entry_id, now_ms)
            shadow = amount if verdict.would_be is not None else 0
            for window in windows:
                charged = amount - granted if window[0] == 1440 else amount
                part = granted if window[0] == 1440 else 0
                account.used[window] = account.used.get(window, 0) + charged
                if part:
                    account.granted[window] = account.granted.get(window, 0) + part
                self._add_counter((resource_id, *window, account.user_id), charged, part, 0, shadow)
            values = [1, amount - granted, granted, 0, shadow]
        else:
            for window in windows:
                self._add_counter((resource_id, *window, account.user_id), 0, 0, amount)
            values = [1, 0, 0, amount, 0]
        rule = verdict.rule
        # Rules of single users would make as many rows as users.
        rule_id = rule.id if rule.kind in ("tier", "throttle", "enforcement") else None
        hour_ms = self.policy.calendar.hour_of(now_ms)
        self._add_demand(
            (hour_ms, resource_id, tier_id, verdict.reason, rule.kind, rule_id or 0), values
        )
        return entry_id

    def _decision(
        self,
        request: Request,
        account: Account,
        verdict: Verdict,
        *,
        counted: bool = True,
        entry_id: int | None = None,
        reservation_id: int | None = None,
    ) -> Decision:
        used = verdict.used
        period = verdict.period
        if counted and verdict.allowed and period is not None:
            used += request.amount if period.shorter_than_day else request.amount - verdict.granted
        limit = verdict.limit
        retry_ms = verdict.retry_after_ms
        tier = account.tier
        return Decision(
            allowed=verdict.allowed,
            reason=verdict.reason,
            user=request.user,
            resource=request.resource,
            amount=request.amount,
            tier=None if tier is None else tier.name,
            period=None if period is None else period.name,
            limit=limit,
            used=used,
            remaining=None if limit is None else max(0, limit - used),
            granted=verdict.granted,
            reset_at=None if verdict.reset_at_ms is None else from_ms(verdict.reset_at_ms),
            retry_after_s=None if retry_ms is None else -(-retry_ms // 1000),
            rule=verdict.rule,
            entry_id=entry_id,
            reservation_id=reservation_id,
            would_be=verdict.would_be,
        )

    def _replayed(
        self, request: Request, resource: Resource, now_ms: int, kind: Kind
    ) -> Decision | None:
        """The first answer to a key that was seen before; figures are of now."""
        key = request.idempotency_key
        if key is None:
            return None
        entry_id = self._entry_of_key(key)
        if entry_id is None:
            return None
        taken = self._taken_by(entry_id)
        entry = taken.entry
        account, _ = self._account(request.user, resource, now_ms)
        if (entry.kind, entry.user_id, entry.resource_id, entry.amount) != (
            kind,
            account.user_id if account.known else None,
            resource.id,
            request.amount,
        ):
            raise Conflict(
                f"key {key!r} was used for another request",
                hint="a retry repeats user, resource and amount; a new request takes a new key",
            )
        if taken.left == 0:
            raise Conflict(
                f"key {key!r} was given back in full since",
                hint="a new request takes a new key",
            )
        standing = resolve(self.policy, account, now_ms)
        ceiling, window, used = tightest(levels_of(standing, account, self.policy.calendar, now_ms))
        limit = ceiling.amount_max
        rule = ceiling.rule
        if entry.granted:
            rule = Rule("grant", self._outstanding_grants(entry.id)[0], None)
        return Decision(
            allowed=True,
            reason="granted" if entry.granted else "ok",
            user=request.user,
            resource=request.resource,
            amount=entry.amount,
            tier=None if account.tier is None else account.tier.name,
            period=ceiling.period.name,
            limit=limit,
            used=used,
            remaining=None if limit is None else max(0, limit - used),
            granted=entry.granted,
            reset_at=from_ms(window.reset_at_ms),
            retry_after_s=None,
            rule=rule,
            entry_id=entry.id,
            reservation_id=entry.id if kind is Kind.HOLD else None,
            replayed=True,
        )

    def _refuse_closed(self, now_ms: int) -> None:
        closed_until_ms = self.book.head.closed_until_ms
        if closed_until_ms is not None and now_ms < closed_until_ms:
            calendar = self.policy.calendar
            raise ClockBehind(
                f"this clock says {instant_text(now_ms, calendar)}, in a day that is closed",
                hint="set the clock; safe to try again",
            )

    # ---- correcting, in detail

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
        windows = [(length, _start(entry.at_ms, length)) for length in entry.periods]
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
            if account is not None and (length_min, start) in account.used:
                account.used[length_min, start] -= units
                if length_min == 1440 and to_grants:
                    account.granted[length_min, start] -= to_grants
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

    # ---- what is in the books and in this batch

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
        self, at_ms: int, resource_id: int, tier_id: int, used: int, granted: int
    ) -> None:
        hour_ms = self.policy.calendar.hour_of(at_ms)
        self._add_demand(
            (hour_ms, resource_id, tier_id, CORRECTION, "tier", tier_id),
            [0, -used, -granted, 0, 0],
        )


def _start(at_ms: int, length_min: int) -> int:
    return at_ms - at_ms % (length_min * MINUTE_MS)
