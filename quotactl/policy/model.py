"""What a policy is made of, and one user's standing under it.

All values are immutable but `Account`, which is the working copy of one user's
counters during one transaction.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

from quotactl.errors import BadConfiguration, NotFound
from quotactl.frozen import frozen
from quotactl.policy.window import DAY, Calendar, Period, calendar_of

AMOUNT_MAX = 2**53 - 1
"""The largest amount or limit: the largest integer that every JSON reader keeps exactly."""

Reason = Literal["ok", "granted", "limit_reached", "throttled", "blocked", "not_in_tier"]
RuleKind = Literal["tier", "override", "grant", "throttle", "block", "enforcement", "resource"]
ThrottleKind = Literal["deny", "cap", "scale", "total"]
Mode = Literal["on", "shadow", "off"]


@frozen
class Rule:
    """The rule that decided: `kind` with the id and, where it has one, the name."""

    kind: RuleKind
    id: int | None
    name: str | None

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "id": self.id, "name": self.name}


@frozen
class Limit:
    """A ceiling per period; `amount_max` None is unlimited."""

    period: Period
    amount_max: int | None

    def __str__(self) -> str:
        if self.amount_max is None:
            return "unlimited" if self.period == DAY else f"unlimited/{self.period}"
        return f"{self.amount_max}/{self.period}"


@frozen
class Resource:
    """What is counted; `unit` is what one of it is called.

    `capacity` is the most that all users together may have of it.
    """

    id: int
    name: str
    unit: str | None
    capacity: Limit | None = None


@frozen
class Tier:
    """`limits` maps a resource's id to its limits, shortest period first."""

    id: int
    name: str
    protected: bool
    limits: Mapping[int, tuple[Limit, ...]]


@frozen
class Scope:
    """Which resources and tiers a switch is for, by id; None means all."""

    resource_ids: frozenset[int] | None = None
    tier_ids: frozenset[int] | None = None

    def covers(self, resource_id: int, tier_id: int | None) -> bool:
        return (self.resource_ids is None or resource_id in self.resource_ids) and (
            self.tier_ids is None or tier_id in self.tier_ids
        )

    def covers_resource(self, resource_id: int) -> bool:
        return self.resource_ids is None or resource_id in self.resource_ids

    def meets(self, other: Scope) -> bool:
        """Whether something is in both."""
        return all(
            mine is None or theirs is None or bool(mine & theirs)
            for mine, theirs in (
                (self.resource_ids, other.resource_ids),
                (self.tier_ids, other.tier_ids),
            )
        )


@frozen
class Step:
    """One step of a ramp, in force from `at_ms` until the next.

    `percent` is the part of the throttle's own number that holds; with `lifting` it
    is the part of the limit below that nobody has less than.
    """

    at_ms: int
    percent: int
    lifting: bool


@frozen
class Throttle:
    """A temporary lowering.

    `deny`, `cap` (amount_max per period for each user), `total` (the same for all
    users in scope together) or `scale` (percent, floor). `steps` are in order of
    time. A `drill` denies nothing: what it would have denied is counted apart.
    """

    id: int
    name: str | None
    kind: ThrottleKind
    scope: Scope
    amount_max: int | None
    period: Period | None
    percent: int | None
    floor: int | None
    freeze_grants: bool
    include_protected: bool
    starts_at_ms: int
    ends_at_ms: int | None
    created_at_ms: int = 0
    steps: tuple[Step, ...] = ()
    message: str | None = None
    drill: bool = False

    @property
    def rule(self) -> Rule:
        return Rule("throttle", self.id, self.name)

    def part_at(self, now_ms: int) -> int:
        """The percentage of its own number that is in force."""
        return _latest(self.steps, now_ms, lifting=False, default=100)

    def lifted_at(self, now_ms: int) -> int:
        """The percentage of the limit below it that it leaves to everybody."""
        return _latest(self.steps, now_ms, lifting=True, default=0)


@frozen
class Enforcement:
    """A switch that makes limits count without holding (`shadow`) or not at all (`off`)."""

    id: int
    mode: Mode
    scope: Scope
    starts_at_ms: int
    ends_at_ms: int | None


@frozen
class Override:
    """One user's own limit; `period` None replaces the limits of every period."""

    id: int
    period: Period | None
    amount_max: int | None
    expires_at_ms: int | None


@frozen
class Block:
    """Quota revoked; `resource_id` None is every resource."""

    id: int
    resource_id: int | None
    expires_at_ms: int | None


@frozen
class Grant:
    """A pool of units; burns by priority (lower first), then expiry, then age."""

    id: int
    priority: int
    expires_at_ms: int | None
    ended: bool = False

    @property
    def burn_order(self) -> tuple[int, float, int]:
        expires = float("inf") if self.expires_at_ms is None else self.expires_at_ms
        return (self.priority, expires, self.id)

    def usable_at(self, now_ms: int) -> bool:
        return not self.ended and (self.expires_at_ms is None or now_ms < self.expires_at_ms)


@frozen
class Policy:
    """Everything that is decided for all users at once, as it stood at one version."""

    version: int
    zone: str
    default_tier_id: int | None
    resources: Mapping[int, Resource]
    tiers: Mapping[int, Tier]
    throttles: tuple[Throttle, ...]
    enforcements: tuple[Enforcement, ...]

    @cached_property
    def resources_by_name(self) -> Mapping[str, Resource]:
        return {resource.name: resource for resource in self.resources.values()}

    @cached_property
    def tiers_by_name(self) -> Mapping[str, Tier]:
        return {tier.name: tier for tier in self.tiers.values()}

    @cached_property
    def resolved(self) -> dict[Any, Any]:
        """What `resolve` worked out for a whole tier, until a switch starts or ends."""
        return {}

    @cached_property
    def calendar(self) -> Calendar:
        """The calendar of the zone; BadConfiguration where this host does not know it."""
        try:
            return calendar_of(self.zone)
        except (KeyError, ValueError, OSError) as error:
            if getattr(error, "errno", None) in {errno.EMFILE, errno.ENFILE}:
                raise  # there, for all that can be told
            # It was there when the ledger was made: the host has lost its zone files.
            raise BadConfiguration(
                f"zone {self.zone!r} is not known here", hint="install the package tzdata"
            ) from None

    @property
    def default_tier(self) -> Tier | None:
        return None if self.default_tier_id is None else self.tiers.get(self.default_tier_id)

    def resource_named(self, name: object) -> Resource:
        """The live resource of that name; NotFound, with those that there are."""
        found = self.resources_by_name.get(name) if isinstance(name, str) else None
        if found is None:
            raise _none_such("resource", name, self.resources_by_name)
        return found

    def tier_named(self, name: object) -> Tier:
        """The live tier of that name; NotFound, with those that there are."""
        found = self.tiers_by_name.get(name) if isinstance(name, str) else None
        if found is None:
            raise _none_such("tier", name, self.tiers_by_name)
        return found


# (period length in minutes, window start) → tier id, 0 for none → units
Totals = dict[tuple[int, int], dict[int, int]]


class Account:
    """One user's standing for one resource.

    `used` maps (period length in minutes, window start) to units; it holds day
    windows and shorter ones, and what it lacks is 0; `granted` likewise the units
    that grants paid in a day. `balances` maps a grant's id to the units left in it.
    `totals` is what everybody took, by window and tier, grants' part included; accounts
    of one resource share it, and it holds the windows that some ceiling needs.
    """

    __slots__ = (
        "balances",
        "blocks",
        "granted",
        "grants",
        "known",
        "overrides",
        "protected",
        "resource",
        "tier",
        "totals",
        "used",
        "user",
        "user_id",
    )

    def __init__(
        self,
        user: str,
        user_id: int,
        known: bool,
        tier: Tier | None,
        protected: bool,
        resource: Resource,
        *,
        overrides: tuple[Override, ...] = (),
        blocks: tuple[Block, ...] = (),
        grants: tuple[Grant, ...] = (),
        balances: dict[int, int] | None = None,
        used: dict[tuple[int, int], int] | None = None,
    ) -> None:
        self.user = user
        self.user_id = user_id
        self.known = known
        self.tier = tier
        self.protected = protected
        self.resource = resource
        self.overrides = overrides
        self.blocks = blocks
        self.grants = grants
        self.balances = {} if balances is None else balances
        self.used = {} if used is None else used
        self.granted: dict[tuple[int, int], int] = {}
        self.totals: Totals = {}


def _latest(steps: tuple[Step, ...], now_ms: int, *, lifting: bool, default: int) -> int:
    percent = default
    for step in steps:
        if step.lifting is lifting and step.at_ms <= now_ms:
            percent = step.percent
    return percent


def _none_such(what: str, name: object, known: Mapping[str, object]) -> NotFound:
    return NotFound(f"no {what} {name!r}", hint=f"known: {', '.join(sorted(known)) or 'none yet'}")
