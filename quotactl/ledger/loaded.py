"""What an engine hands over of a ledger: rows, heads, accounts, and what it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from quotactl.frozen import frozen
from quotactl.ledger.entries import DemandKey
from quotactl.policy.model import Account, Policy, Tier
from quotactl.policy.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable

    # By what is known, and what is wanted.
    Plan = Callable[["Known", str, str, int, str | None, int], "Counting | None"]

# The fields of a request, and when it is, in ms.
Wanted = tuple[str, str, int, str | None, int]
Row = dict[str, Any]
ALL_IDS = range(2**63 - 1)
# These two are made for each request: a named tuple takes five times as long.
#
# How a request is to be counted: where; (used, granted) by which that was decided; and the key
# of its demand if it is refused. Where the count is not known it is None, and the request may be
# taken if `Tally.most` leaves room for it.
Counting = tuple["Tally", tuple[int, int] | None, "DemandKey | None"]
# What came of it: where; the id of its entry, or None where it was refused; what the day has
# now; and whether the entry is that of an earlier request with the same key.
Counted = tuple["Tally", int | None, tuple[int, int], bool]


class Head(NamedTuple):
    """The ledger's one row about itself. Times in ms since the epoch, UTC.

    `summed_entry_id` is the entry up to which hourly demand is summed up; `users_version`
    moves with every change to a user who was there before.
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
    users_version: int


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


class Tally:
    """One user's count of a resource in a day: where it is, and how far it may go.

    `place` is (resource id, day's start, user id); `rule` is what tells, for whoever made this.
    """

    __slots__ = ("most", "place", "rule", "tier_id")

    def __init__(
        self, place: tuple[int, int, int], tier_id: int | None, most: int, rule: Any
    ) -> None:
        self.place = place
        self.tier_id = tier_id
        self.most = most
        self.rule = rule


class UserRow(NamedTuple):
    """A user as stored; `has_own` tells that something was ever set for them alone."""

    id: int
    tier_id: int | None
    protected: int
    has_own: int


class Known:
    """What was looked up: good for as long as nobody has written since.

    `version` is the engine's own word for that; None where it is not known, and then nothing
    here outlives the transaction. Of `before`, what was known until others wrote, users stand
    while the ledger's row about itself tells that neither they nor the policy were changed.
    """

    __slots__ = (
        "_before", "counts", "guard", "head", "next_entry_id", "open_from_ms", "policy",
        "strangers", "tallies", "users", "version",
    )  # fmt: skip

    def __init__(self, version: int | None = None, before: Known | None = None) -> None:
        self.version = version
        if before is not None and before.head is None:
            before = before._before
        self._before: Known | None = before
        self.head: Head | None = None
        # From when on requests are a matter of routine: not in days that are closed, nor from
        # before the ledger was opened.
        self.open_from_ms = 0
        self.policy: Policy | None = None
        # What the ledger's row must still say for users and policy to stand.
        self.guard: tuple[int, int, int] = (-1, -1, -1)
        # 0 where it was not looked up.
        self.next_entry_id = 0
        self.users: dict[str, UserRow] = {}
        # Names that nobody had.
        self.strangers: set[str] = set()
        # By (resource id, day's start, user id); None where there is none.
        self.counts: dict[tuple[int, int, int], tuple[int, int] | None] = {}
        # By (user, resource): what follows from the user and the policy.
        self.tallies: dict[tuple[str, str], Tally] = {}

    def see(self, head: Head, policy: Policy) -> None:
        """Know the ledger's row about itself, and its policy, before anything else."""
        before, self._before = self._before, None
        if (
            before is not None
            and before.policy is policy
            and before.head is not None
            and before.head.users_version == head.users_version
        ):
            self.users, self.tallies = before.users, before.tallies
        elif self.policy is not policy:
            self.tallies = {}
        self.policy = policy
        self.head = head
        self.guard = (head.policy_version, head.users_version, head.checkpoint_entry_id)
        self.open_from_ms = max(head.opened_at_ms, head.closed_until_ms or head.opened_at_ms)

    def meet(self, name: str, found: Sequence[Any] | None, resource_id: int, day_ms: int) -> None:
        """Know somebody, by the row with id, tier id, protected and has_own, and what the day
        has of a resource, both None where there is none; nobody where there is no row."""
        if found is None:
            self.strangers.add(name)
            return
        user_id, tier_id, protected, has_own, used, granted = found
        self.users[name] = UserRow(user_id, tier_id, protected, has_own)
        self.counts[resource_id, day_ms, user_id] = None if used is None else (used, granted)

    def rows(self) -> int:
        """How much is known, which somebody has to bound."""
        return len(self.users) + len(self.strangers) + len(self.counts) + len(self.tallies)


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
