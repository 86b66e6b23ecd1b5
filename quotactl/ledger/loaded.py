"""What an engine hands over of a ledger: rows, heads, accounts, and what it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from quotactl.frozen import frozen
from quotactl.ledger.entries import DemandKey
from quotactl.policy.model import Account, Policy, Tier
from quotactl.policy.window import Window

Row = dict[str, Any]


class Head(NamedTuple):
    """The ledger's one row about itself. Times in ms since the epoch, UTC.

    `summed_entry_id` is the entry up to which hourly demand is summed up.
    """

    name: str
    zone: str
    created_at_ms: int
    opened_at_ms: int
    closed_until_ms: int | None
    default_tier_id: int | None
    policy_version: int
    checkpoint_entry_id: int
    checkpoint_at_ms: int
    summed_entry_id: int


class CounterValue(NamedTuple):
    """One counter: units, and the entry that last reset it."""

    used: int
    granted: int
    reset_id: int | None


class Asked(NamedTuple):
    """The one request that a transaction is for, so that an engine can look up at once what
    it needs. Texts that can be stored, and nothing else checked."""

    user: str
    resource: str
    key: str | None
    at_ms: int


class Counting(NamedTuple):
    """How one request is to be counted in a day: as taken, as the rule of its tier alone let
    it; or with `refused`, the key of its demand, as denied."""

    user_id: int
    resource_id: int
    tier_id: int | None
    amount: int
    day_ms: int
    refused: DemandKey | None


class UserRow(NamedTuple):
    """A user as stored; `has_own` tells that something was ever set for them alone."""

    id: int
    tier_id: int | None
    protected: int
    has_own: int


class Known:
    """What was looked up: good for as long as nobody has written since.

    `version` is the engine's own word for that; None where it is not known, and then nothing
    here outlives the transaction.
    """

    __slots__ = ("counts", "head", "next_entry_id", "open_from_ms", "policy", "users", "version")

    def __init__(self, version: int | None = None) -> None:
        self.version = version
        self.head: Head | None = None
        # From when on requests are a matter of routine: not in days that are closed, nor from
        # before the ledger was opened.
        self.open_from_ms = 0
        self.policy: Policy | None = None
        # 0 where it was not looked up.
        self.next_entry_id = 0
        # None where there is none, as everywhere here.
        self.users: dict[str, UserRow | None] = {}
        # By (resource id, day's start, user id).
        self.counts: dict[tuple[int, int, int], tuple[int, int] | None] = {}

    def see(self, head: Head) -> None:
        """Know the ledger's row about itself."""
        self.head = head
        self.open_from_ms = max(head.opened_at_ms, head.closed_until_ms or head.opened_at_ms)


class StoredAccount(NamedTuple):
    """An account as loaded, and its holds that are pending (id to expiry)."""

    account: Account
    holds: dict[int, int]


@frozen
class SoughtLimits:
    """What the users of a tier (0: of none) may have of a resource, or one user of it.

    `user_id` 0 are all of the tier but those who have a row of their own. `most` maps the
    length of a period in minutes to units; without a day, that is unlimited.
    """

    resource_id: int
    tier_id: int
    user_id: int
    most: Mapping[int, int]


@frozen
class SoughtDay:
    """One day of one resource under a throttle.

    `on` is the part of it in which the throttle was in force; `week` and `month` are the
    starts of the days of the week and month that it lies in. `tiers` are those to look at,
    with the most that one user there can have lost: all that the throttle denied there.
    """

    resource_id: int
    window: Window
    on: Window
    week: tuple[int, ...]
    month: tuple[int, ...]
    tiers: Mapping[int, int]


@frozen
class Sought:
    """Whom a throttle cost something: what `Reading.affected` looks for.

    `units` says by what: `denied`, `shadow_denied` (of a drill, what it would have denied),
    or `asked`: everybody who asked, whatever it cost them.
    """

    days: Sequence[SoughtDay]
    limits: Sequence[SoughtLimits]
    default_tier_id: int
    units: Literal["denied", "shadow_denied", "asked"]
    include_protected: bool
    include_forgotten: bool = True


def tier_or_default(policy: Policy, tier_id: int | None) -> Tier | None:
    """The tier of a user: their own, or the default one where they have none."""
    if tier_id is None:
        return policy.default_tier
    return policy.tiers.get(tier_id)
