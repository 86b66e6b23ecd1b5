"""Immutable facts, and what one transaction adds to the ledger.

An entry is never changed; a correction is a new entry. Counters and grant
balances are sums of entries:

- a day counter's `used` is the sum of `amount - granted` over entries with that `day_ms`;
- its `granted` is the sum of `granted` over the same entries;
- a shorter counter's `used` is the sum of `amount` over entries whose `periods`
  name it, in the window of the time at which the units were taken;
- a grant's balance is the sum of its movements.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """What an entry records; stored as its number."""

    CONSUME = 1
    HOLD = 2
    POST = 3
    VOID = 4
    EXPIRE = 5
    REFUND = 6
    RESET = 7
    GRANT = 8
    REVOKE = 9
    CARRY = 10


class Entry(NamedTuple):
    """One fact. `amount` and `granted` are signed: what a correction gives back is negative.

    `day_ms` is the start of the day charged, None where none is; `periods` are
    the shorter periods charged, as lengths in minutes. `of_id` is the entry
    that this one corrects or settles.
    """

    id: int
    at_ms: int
    kind: Kind
    user_id: int | None
    resource_id: int | None
    tier_id: int | None
    amount: int
    granted: int
    day_ms: int | None
    periods: tuple[int, ...]
    of_id: int | None


class Reservation:
    """A hold, by the id of its entry, until `expires_at_ms`. Its state moves on."""

    __slots__ = ("expires_at_ms", "id", "resource_id", "state", "user_id")

    def __init__(
        self,
        id: int,  # noqa: A002 - the column's name
        user_id: int,
        resource_id: int,
        expires_at_ms: int,
        state: str,
    ) -> None:
        self.id = id
        self.user_id = user_id
        self.resource_id = resource_id
        self.expires_at_ms = expires_at_ms
        self.state = state


# (resource id, period length in minutes, window start, user id)
CounterKey = tuple[int, int, int, int]
# (hour start, resource id, tier id or 0, reason, rule kind, rule id or 0)
DemandKey = tuple[int, int, int, str, str, int]

# (resource id, period length in minutes, window start)
TotalKey = tuple[int, int, int]

CORRECTION = "correction"
"""The `reason` under which demand books what was given back: negative units."""

RESET = "reset"
"""The same for what a user's reset took off: that gives nobody's capacity back."""


class Changes:
    """The net effect of one transaction, to be stored at once.

    `counters` adds [used, granted, denied, shadow_denied]; `resets` names the
    entry since which a window is fresh; `demand` adds [requests, used, granted,
    denied, shadow_denied]; `movements` are (entry id, grant id, signed units). `seeds`
    are the sums of everybody, by tier, of windows that were not summed up until now, and
    `totals` adds units to such sums, by tier. `days_moved` tells that this is the first
    to be counted in a day that others, with other rules of the zone, begin elsewhere;
    `unsummed` names such days, by (resource id, start), whose sums of everybody are dropped.
    """

    def __init__(self) -> None:
        self.users: list[tuple[int, str, int]] = []
        self.entries: list[Entry] = []
        self.counters: dict[CounterKey, list[int]] = {}
        self.resets: dict[CounterKey, int] = {}
        self.demand: dict[DemandKey, list[int]] = {}
        self.movements: list[tuple[int, int, int]] = []
        self.keys: list[tuple[str, int, int]] = []
        self.reservations: list[Reservation] = []
        self.settled: list[tuple[int, str]] = []
        self.seeds: dict[TotalKey, dict[int, int]] = {}
        self.totals: dict[TotalKey, dict[int, int]] = {}
        self.first_at_ms: int | None = None
        self.days_moved = False
        self.unsummed: set[tuple[int, int]] = set()

    @property
    def durable(self) -> bool:
        """Whether anything but demand is in it: only that must survive a power cut."""
        return bool(self.entries)

    @property
    def empty(self) -> bool:
        return not (self.entries or self.counters or self.demand)
