"""What every storage engine fulfils.

An engine loads and stores; it never chooses. All reads of one decision happen
in one transaction, and every write goes through one door, `writing()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from quotactl.ledger.entries import Changes, Entry, Reservation
from quotactl.policy.model import Account, Policy, Resource, Tier

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Head:
    """The ledger's one row about itself. Times in ms since the epoch, UTC."""

    name: str
    zone: str
    created_at_ms: int
    opened_at_ms: int
    closed_until_ms: int | None
    default_tier_id: int | None
    policy_version: int
    checkpoint_entry_id: int
    checkpoint_at_ms: int


@dataclass(frozen=True, slots=True)
class CounterValue:
    used: int
    granted: int
    reset_id: int | None


@dataclass(slots=True)
class StoredAccount:
    """An account as loaded, and its holds that are pending (id to expiry)."""

    account: Account
    holds: dict[int, int]


class Reading(Protocol):
    """One consistent view of the ledger."""

    head: Head
    policy: Policy

    def load_account(self, user: str, resource: Resource) -> StoredAccount:
        """One user's standing for a resource, without counters.

        A user nobody has heard of has `known` false and the id 0.
        """
        ...

    def load_used(
        self, user_id: int, resource_id: int, windows: Iterable[tuple[int, int]]
    ) -> dict[tuple[int, int], int]:
        """Units used by (period length in minutes, window start); absent windows are absent."""
        ...

    def counter(
        self, user_id: int, resource_id: int, length_min: int, starts_at_ms: int
    ) -> CounterValue | None: ...

    def entry(self, entry_id: int) -> Entry | None: ...

    def corrections(self, entry_id: int) -> list[Entry]:
        """The entries that correct or settle another, oldest first."""
        ...

    def movements(self, entry_ids: Sequence[int]) -> list[tuple[int, int]]:
        """(grant id, signed units) of these entries."""
        ...

    def burn_order(self, grant_ids: Iterable[int]) -> list[int]: ...

    def entry_of_key(self, key: str) -> int | None: ...

    def reservation(self, reservation_id: int) -> Reservation | None: ...

    def user_name(self, user_id: int) -> str: ...

    def rows(
        self, table: str, where: Mapping[str, Any] | None = None, *, order: str = "id"
    ) -> list[Row]:
        """Whole rows of one table whose columns equal the given values (None: is null)."""
        ...

    def setting(self, key: str) -> str:
        """The setting in force."""
        ...


class Writing(Reading, Protocol):
    """The same view, while no other process may write."""

    def next_entry_id(self) -> int: ...

    def next_user_id(self) -> int: ...

    def store(self, changes: Changes) -> None:
        """Add the net effect of this transaction to the ledger."""
        ...

    def insert(self, table: str, values: Mapping[str, Any]) -> int:
        """Insert one row; returns its id."""
        ...

    def update(
        self, table: str, where: Mapping[str, Any], values: Mapping[str, Any]
    ) -> int:
        """Change rows; returns how many."""
        ...

    def delete(self, table: str, where: Mapping[str, Any]) -> int: ...

    def touch_policy(self) -> None:
        """Make every process re-read the policy before its next decision."""
        ...

    def reread_policy(self) -> Policy:
        """The policy with this transaction's own changes in it."""
        ...


class Engine(Protocol):
    """A ledger that is open."""

    def reading(self) -> AbstractContextManager[Reading]: ...

    def writing(self) -> AbstractContextManager[Writing]: ...

    def close(self) -> None: ...


def tier_or_default(policy: Policy, tier_id: int | None) -> Tier | None:
    """The tier of a user: their own, or the default one where they have none."""
    if tier_id is None:
        return policy.default_tier
    return policy.tiers.get(tier_id)
