"""What every storage engine fulfils.

An engine loads and stores; it never chooses. All reads of one decision happen
in one transaction, and every write goes through one door, `writing()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from quotactl.ledger.entries import Changes, Entry, Reservation
from quotactl.ledger.loaded import (
    ALL_IDS,
    Asked,
    Counted,
    CounterValue,
    Counting,
    Head,
    Row,
    Sought,
    StoredAccount,
    UserRow,
)
from quotactl.policy.model import (
    Enforcement,
    Policy,
    Resource,
    Scope,
    Step,
    Throttle,
)

if TYPE_CHECKING:
    from quotactl.ledger.loaded import Plan


class Reading(Protocol):
    """One consistent view of the ledger."""

    @property
    def head(self) -> Head: ...

    @property
    def policy(self) -> Policy: ...

    def look_ahead(
        self, users: Sequence[str], keys: Sequence[str], resource_id: int, day_ms: int
    ) -> None:
        """Look up at once what these users have in a day, and whether the keys are known.

        Changes no answer: what follows asks for it one by one, and is only quicker.
        """
        ...

    def user_row(self, name: str) -> UserRow | None:
        """A user, or None for one that nobody has heard of."""
        ...

    def count_of(self, user_id: int, resource_id: int, day_ms: int) -> tuple[int, int] | None:
        """(used, granted) of a day; None where nothing was counted."""
        ...

    def load_account(self, user: str, resource: Resource) -> StoredAccount:
        """One user's standing for a resource, without counters.

        A user nobody has heard of has `known` false and the id 0.
        """
        ...

    def load_counts(
        self, user_id: int, resource_id: int, windows: Sequence[tuple[int, int]]
    ) -> dict[tuple[int, int], tuple[int, int]]:
        """(used, granted) by (period length in minutes, window start), where there are any."""
        ...

    def days_counted(self, resource_id: int, from_ms: int) -> list[int]:
        """The starts that day counters of a resource bear, from a moment on, in order."""
        ...

    def load_total(
        self, resource_id: int, length_min: int, starts_at_ms: int
    ) -> dict[int, int] | None:
        """What everybody took in a window, by tier id (0 for none); None if it is not kept."""
        ...

    def demand_by_tier(
        self, resource_id: int, starts_at_ms: int, reset_at_ms: int
    ) -> dict[int, int]:
        """Units taken and not given back between two hours' starts, by tier id."""
        ...

    def taken_by_tier(
        self,
        resource_id: int,
        starts_at_ms: int,
        reset_at_ms: int,
        *,
        as_of_ms: int | None = None,
    ) -> dict[int, int]:
        """The same between any two moments, from entries: slower, and those written by a
        clock that was more than ten minutes off may be missed.

        With `as_of_ms` what was given back later still counts.
        """
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

    def each_row(self, table: str, where: Mapping[str, Any] | None = None) -> Iterator[Row]:
        """The same by id, one by one: of tables that grow with the users."""
        ...

    @property
    def settings(self) -> Mapping[str, str]:
        """The settings that were set, by key."""
        ...

    # ---- names and reasons

    def resource_name(self, resource_id: int) -> str:
        """The name of a resource, retired or not."""
        ...

    def tier_name(self, tier_id: int) -> str:
        """The name of a tier, retired or not."""
        ...

    def scope_of(self, switch: Row) -> Scope:
        """The scope of a row of `switch`."""
        ...

    def switch_of(self, row: Row) -> Throttle | Enforcement:
        """A row of `switch` as what it stands for."""
        ...

    def steps_of(self, switch: Row, *, held_too: bool = False) -> tuple[Step, ...]:
        """The steps of a row of `switch`, in order of time; those held back only if asked for."""
        ...

    def why(self, audit_id: int | None) -> dict[str, str | None]:
        """Actor, reason and ticket of an act; a text that was removed is None."""
        ...

    def count_users(self, tier_id: int) -> int:
        """Users that were put on a tier."""
        ...

    def has_history(self) -> bool:
        """Whether anything was ever counted or closed."""
        ...

    def count_all_users(self) -> int:
        """Users there ever were."""
        ...

    def each_user(self, tier_id: int | None, *, follows_default: bool) -> Iterator[Row]:
        """Users by id, one by one, those on one tier only if it is given.

        With `follows_default` also those that were never put on a tier.
        """
        ...

    # ---- audit

    def last_audit(self) -> tuple[int, str] | None:
        """The id and hash of the newest audit row."""
        ...

    def audit_rows(
        self, *, where: Mapping[str, Any] | None = None, newest: int | None = None
    ) -> Iterator[Row]:
        """Audit rows, oldest first; `newest` gives the last so many of those that match."""
        ...

    # ---- usage

    def usage_of_users(
        self,
        starts: Sequence[int],
        resource_ids: Sequence[int],
        *,
        user_id: int | None,
        by_day: bool,
        order: str,
        limit: int | None,
    ) -> Iterator[Row]:
        """Sums of day counters per user and resource, or per day, the largest first.

        `starts` are the days' starts; `order` is one of the counter's columns.
        """
        ...

    def usage_of_demand(
        self,
        starts_at_ms: int,
        reset_at_ms: int,
        resource_ids: Sequence[int],
        group: str,
        tier_id: int | None,
    ) -> list[Row]:
        """Sums of hourly demand by `group`, a column, and resource."""
        ...

    def sample_demand(
        self, resource_id: int, day_ms: int, runs: int, length: int
    ) -> list[tuple[int | None, int, int, int, float]]:
        """(tier id, protected, used, asked, weight) of at most `runs` times `length` users
        with demand on a day; the weight is how many users each stands for."""
        ...

    # ---- foresight

    def outlook_of_users(
        self,
        resource_id: int,
        starts: Sequence[int],
        ceilings: Iterable[tuple[int | None, int, int, int]],
        now_ms: int,
    ) -> list[tuple[int | None, int, int, int, int, int, int]]:
        """What the demand of these days would have been served under two ceilings a day.

        `ceilings` are (tier id, protected, most before, most after); users with an override
        of their own are left out. Gives (tier id, protected, users, cut off, asked, served
        before, served after).
        """
        ...

    def histogram_of_users(
        self,
        resource_id: int,
        starts: Sequence[int],
        ceilings: Iterable[tuple[int | None, int, int, int]],
        now_ms: int,
    ) -> list[tuple[int | None, int, int, int, int]]:
        """What users would take on these days in all.

        `ceilings` are (tier id, protected, most a day, most in all); users with an override
        of their own are left out. Gives (tier id, protected, units, users, units asked for).
        """
        ...

    def demand_of_users(
        self,
        resource_id: int,
        period: int,
        span: tuple[int, int],
        *,
        groups: Iterable[tuple[int | None, int]],
        overridden: bool,
        now_ms: int,
    ) -> Iterator[tuple[int, int | None, int, int, int, int]]:
        """(user id, tier id, protected, window start, used, asked) by user, one by one.

        Of users with an override of their own, or of those without one in `groups`, which
        are (tier id, protected).
        """
        ...

    def taken_of_users(
        self, resource_id: int, length_min: int, span: tuple[int, int]
    ) -> Iterator[tuple[int, int, int]]:
        """(user id, window start, units taken and not given back) by user, from entries: for
        windows of a length that was not counted."""
        ...

    def overrides_of_resource(
        self, resource_id: int, now_ms: int
    ) -> list[tuple[int, int, int | None, int | None, int | None]]:
        """(user id, override id, period, most, expiry) of all that hold."""
        ...

    def hourly_demand(
        self, resource_id: int, span: tuple[int, int]
    ) -> list[tuple[int, int, int, int]]:
        """(hour start, tier id or 0, units asked for, units taken)."""
        ...

    # ---- aftermath

    def denied_by(
        self, throttle_id: int, starts_at_ms: int, reset_at_ms: int, *, drill: bool
    ) -> list[tuple[int, int, int, int, int]]:
        """(hour start, resource id, tier id, requests, units) that a throttle denied between
        two hours' starts, or as a drill would have denied."""
        ...

    def pruned_days(self, starts: Sequence[int]) -> list[int]:
        """Those of these days that had counters when they were closed, and have none now."""
        ...

    def overrides_between(
        self, resource_ids: Sequence[int], starts: Sequence[int], from_ms: int, until_ms: int
    ) -> list[Row]:
        """Overrides that held at any time between two moments, with `tier_id` and `protected`
        of their users, but only of users with a counter on one of these days."""
        ...

    def affected(self, sought: Sought) -> AbstractContextManager[None]:
        """Work out whom a throttle cost something; inside the block the next four answer.

        Per day and user min(demand, limit) - min(used, limit), where demand is used and
        denied, for every window of a limit of theirs: of several windows the least.
        """
        ...

    def affected_by(self, *columns: str) -> list[tuple[int, ...]]:
        """(these columns, users, units), of `resource_id`, `tier_id` and `starts_at_ms`."""
        ...

    def count_affected(self) -> int:
        """Users, each once."""
        ...

    def most_affected(self, count: int) -> list[Row]:
        """Users and resources with the highest cost first; those met first before others."""
        ...

    # ---- what was

    def newest_switches(self, count: int) -> list[Row]:
        """The last so many rows of `switch`, newest first, whatever became of them."""
        ...

    def entries_of(
        self, user_id: int, resource_id: int, from_ms: int, until_ms: int
    ) -> Iterator[tuple[Entry, int]]:
        """One user's entries for a resource from one moment to another, both included, each
        with the time at which its units were taken: its own, or that of what it corrects.

        No index leads to a user's entries: it looks at those of everybody, in the range
        of ids that times within ten minutes of these have.
        """
        ...

    def resets_of(self, resource_id: int, from_ms: int, until_ms: int) -> Iterator[Entry]:
        """The entries between two moments that gave somebody fresh windows; as `entries_of`."""
        ...

    def tiers_charged(self, user_id: int, from_ms: int, until_ms: int) -> set[int | None]:
        """The tiers that a user was on whenever they took something between two moments,
        both excluded; as `entries_of`."""
        ...

    def balances_at(self, grant_ids: Sequence[int], at_ms: int) -> dict[int, int]:
        """What was left in grants at a moment after the checkpoint's; looks at every
        movement that is kept."""
        ...

    def timed_out_at(
        self, resource_id: int, at_ms: int, *, user_id: int | None = None
    ) -> dict[int, int]:
        """Holds, of one user or of all, that were over at a moment and not settled by then
        (id to expiry); looks at every reservation that is kept."""
        ...

    # ---- closing and verifying

    def day_totals(self, starts_at_ms: int, reset_at_ms: int) -> dict[str, int]:
        """All demand of one day."""
        ...

    def next_user_id(self) -> int:
        """The id that nobody has had yet, after all others."""
        ...

    def users_counted(self, starts_at_ms: int, reset_at_ms: int, ids: range = ALL_IDS) -> int:
        """Users with any demand in one day, of those with these ids; looks at each of their
        counters."""
        ...

    def old_keys(self, after: str, before_ms: int, count: int) -> tuple[str, int, bool]:
        """Look at `count` keys from one on, in their order: the last of them, how many are from
        before a moment, and whether there may be more."""
        ...

    def timed_out(self, now_ms: int, count: int) -> list[int]:
        """Reservations that are pending and over, at most `count`."""
        ...

    def timed_out_of(self, resource_id: int, now_ms: int, count: int) -> list[int]:
        """The same of one resource, in no order."""
        ...

    def last_entry_before(self, cutoff_ms: int) -> int:
        """The id up to which every entry lies before a moment with all its windows,
        and none is a pending hold."""
        ...

    def movement_sums(self, after_id: int, last_id: int) -> list[tuple[int, int]]:
        """(grant id, sum of its movements) over entries after one id up to another."""
        ...

    def counter_groups(self) -> list[tuple[int, int]]:
        """(resource id, period in minutes) of all counters."""
        ...

    def counter_span(self) -> tuple[int | None, int | None]:
        """The starts of the first and last day that have a counter."""
        ...

    def findings(self, spans: list[tuple[int, int]]) -> Iterator[tuple[str, Row, Any, Any]]:
        """(what, where, expected, found) of all that does not add up.

        `spans`, in order, are those to compare demand for.
        """
        ...

    def table_counts(self) -> dict[str, int]:
        """Rows of the large tables: entry, counter, audit."""
        ...


class Writing(Reading, Protocol):
    """The same view, while no other process may write."""

    def next_entry_id(self) -> int: ...

    def store(self, changes: Changes) -> None:
        """Add the net effect of this transaction to the ledger."""
        ...

    def insert(self, table: str, values: Mapping[str, Any]) -> int:
        """Insert one row; returns its id."""
        ...

    def update(self, table: str, where: Mapping[str, Any], values: Mapping[str, Any]) -> int:
        """Change rows; returns how many."""
        ...

    def delete(self, table: str, where: Mapping[str, Any]) -> int: ...

    def touch_policy(self) -> None:
        """Make every process re-read the policy before its next decision."""
        ...

    def reread_policy(self) -> Policy:
        """The policy with this transaction's own changes in it."""
        ...

    def put_users(self, pairs: Iterable[tuple[str, int]], now_ms: int) -> tuple[int, int]:
        """Put users on tiers by (name, tier id); returns how many were new and how many moved."""
        ...

    def add_grants(
        self,
        *,
        amount: int,
        priority: int,
        now_ms: int,
        expires_at_ms: int | None,
        audit_id: int,
    ) -> int:
        """Give each user in the block of `affected` a grant of each resource there, with its
        entry; returns how many."""
        ...

    def mark_expired(self, table: str, end: str, until_ms: int) -> int:
        """Mark rows whose end lies at a moment or before as ended then; returns how many."""
        ...

    # Each removes at most `count` rows and returns where to go on, how many went
    # and whether there may be more.

    def prune_entries(self, after_id: int, last_id: int, count: int) -> tuple[int, int, bool]: ...

    def prune_keys(self, after: str, last: str, before_ms: int) -> int:
        """Remove those after one key up to another that are from before a moment; how many."""
        ...

    def prune_counters(
        self, resource_id: int, period: int, before_ms: int, count: int
    ) -> tuple[None, int, bool]: ...

    def prune_totals(self, kept: Iterable[tuple[int, int]], before_ms: int) -> None:
        """Forget what everybody took, but for these (resource id, period) from a moment on."""
        ...

    def prune_demand(self, before_ms: int) -> int:
        """Remove hourly demand from before a moment; returns how many rows."""
        ...


class Engine(Protocol):
    """A ledger that is open."""

    def reading(self) -> AbstractContextManager[Reading]: ...

    def glancing(self, asked: Asked) -> AbstractContextManager[Reading]:
        """A view in which only what one request asks was looked up consistently: its user,
        their count of the day and the ledger's head."""
        ...

    def writing(
        self, asked: Asked | None = None, *, durable: bool = True
    ) -> AbstractContextManager[Writing]:
        """The one door for writes. What is not `durable` may be undone by a power cut: demand."""
        ...

    def stands(
        self, user: str, resource: str, amount: int, now_ms: int, plan: Plan, /
    ) -> Counting | None:
        """What `plan` makes of what this process knows without looking, if that is how things
        are: nobody has written since."""
        ...

    def count(
        self,
        user: str,
        resource: str,
        amount: int,
        key: str | None,
        now_ms: int,
        plan: Plan,
        /,
    ) -> Counted | None:
        """Count one request, which `plan` decides by what is known, in a transaction of its own.

        None, and nothing is counted, where `plan` says None, the day has no room for it, or
        the key has another entry: what was taken before counts only if it was the same request,
        all of it paid by the limit and kept. `plan` is called again where it turns out that
        others have written, or more is known, and its last word counts.
        """
        ...

    def expects_denial(self, asked: Asked) -> bool:
        """Whether this user was denied this resource lately: a guess, and nothing rests on it."""
        ...

    def learn(self, asked: Asked, *, denied: bool) -> None:
        """Remember for that guess how a request was decided."""
        ...

    def close(self) -> None: ...
