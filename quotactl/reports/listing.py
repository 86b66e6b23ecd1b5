"""What there is: tiers, limits, users and what was set for them, switches, audit rows.

Each function takes an open engine and gives the frozen values that are printed.
Lists hold what is live, not what expired or was lifted, revoked or retired; `everything`
gives that too. Those that grow with the users come one by one, from a transaction that
ends with the last of them, or when the list is closed: until then it keeps others from the
engine.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from quotactl.errors import NotFound
from quotactl.frozen import frozen
from quotactl.ledger.loaded import Row
from quotactl.ledger.values import View
from quotactl.ledger.views import (
    AuditView,
    BlockView,
    GrantView,
    LimitView,
    OverrideView,
    ResourceView,
    SettingView,
    SwitchView,
    TierView,
    UserView,
)
from quotactl.operations import audit
from quotactl.operations.administer import resource_view, setting_views, tier_view
from quotactl.operations.batch import Batch
from quotactl.operations.people import block_view, grant_view, override_view, user_view
from quotactl.operations.switches import (
    ENFORCEMENT_KINDS,
    THROTTLE_KINDS,
    describe,
    find_switch,
    switch_view,
)
from quotactl.policy.model import Enforcement, Rule, Throttle
from quotactl.policy.notation import check_id, instant_text
from quotactl.policy.window import from_ms, moment_of

if TYPE_CHECKING:
    from quotactl.ledger.engine import Engine, Reading

# ---- the catalogue


def resources(engine: Engine, *, everything: bool = False) -> list[ResourceView]:
    """Resources, in the order in which they were made."""
    with engine.reading() as book:
        return [
            resource_view(row)
            for row in book.rows("resource", None if everything else {"retired_at_ms": None})
        ]


def tiers(engine: Engine, *, everything: bool = False) -> list[TierView]:
    """Tiers, in the order in which they were made."""
    with engine.reading() as book:
        return [
            _tier(book, row)
            for row in book.rows("tier", None if everything else {"retired_at_ms": None})
        ]


@frozen
class TierDetail(View):
    """A tier; `users` are those that were put on it, not those that follow the default."""

    name: str
    default: bool
    protected: bool
    users: int
    limits: dict[str, str]


def tier_detail(engine: Engine, name: str) -> TierDetail:
    """One tier; NotFound if there is none of that name."""
    with engine.reading() as book:
        tier = book.policy.tier_named(name)
        view = tier_view(book.policy, tier)
        users = book.count_users(tier.id)
        return TierDetail(view.name, view.default, view.protected, users, view.limits)


def tiers_that_list(engine: Engine, name: str) -> list[str]:
    """The tiers that list a resource."""
    with engine.reading() as book:
        resource = book.policy.resources_by_name.get(name)
        if resource is None:
            return []
        return [tier.name for tier in book.policy.tiers.values() if resource.id in tier.limits]


def limits(engine: Engine, *, tier: str | None = None) -> list[LimitView]:
    """The ceilings of one tier, or of all, the longest period first."""
    with engine.reading() as book:
        policy = book.policy
        chosen = list(policy.tiers.values()) if tier is None else [policy.tier_named(tier)]
        return [
            LimitView(one.name, policy.resources[id_].name, limit.period.name, limit.amount_max)
            for one in chosen
            for id_, several in one.limits.items()
            if id_ in policy.resources
            for limit in sorted(several, key=lambda limit: -limit.period.length_min)
        ]


def settings(engine: Engine) -> list[SettingView]:
    """All settings, with the value in force."""
    with engine.reading() as book:
        return setting_views(book)


# ---- users


def users(engine: Engine, *, tier: str | None = None) -> Generator[UserView, None, None]:
    """Users one by one, those met first first. Those who follow the default tier are on it."""
    with engine.reading() as book:
        tier_id = None if tier is None else book.policy.tier_named(tier).id
        follows = tier_id is not None and tier_id == book.policy.default_tier_id
        for row in book.each_user(tier_id, follows_default=follows):
            yield user_view(book, row)


@frozen
class Standing(View):
    """One window of a user now; `limit` and `remaining` None are unlimited."""

    resource: str
    period: str
    limit: int | None
    used: int
    remaining: int | None
    reset_at: datetime
    rule: Rule


@frozen
class ReservationView(View):
    """Units that are held, until `expires_at` at the latest."""

    id: int
    resource: str
    amount: int
    expires_at: datetime


@frozen
class UserDetail(View):
    """All that decides for one user now."""

    user: str
    tier: str | None
    follows_default: bool
    protected: bool
    created_at: datetime
    limits: tuple[Standing, ...]
    overrides: tuple[OverrideView, ...]
    blocks: tuple[BlockView, ...]
    grants: tuple[GrantView, ...]
    reservations: tuple[ReservationView, ...]


def user_detail(engine: Engine, user: str, now_ms: int) -> UserDetail:
    """One user's standing for every resource that they may take or have taken.

    NotFound for one that nobody has heard of.
    """
    with engine.reading() as book:
        row = _user_named(book, user)
        view = user_view(book, row)
        return UserDetail(
            view.user,
            view.tier,
            view.follows_default,
            view.protected,
            view.created_at,
            tuple(_standings(book, user, now_ms)),
            tuple(_overrides(book, row["id"], now_ms)),
            tuple(_blocks(book, row["id"], now_ms)),
            tuple(_grants(book, {"user_id": row["id"]}, now_ms)),
            tuple(_reservations(book, row["id"], now_ms)),
        )


def overrides(
    engine: Engine, now_ms: int, *, user: str | None = None, everything: bool = False
) -> Generator[OverrideView, None, None]:
    """Overrides one by one, oldest first."""
    with engine.reading() as book:
        user_id = None if user is None else _user_named(book, user)["id"]
        yield from _overrides(book, user_id, now_ms, everything=everything)


def grants(
    engine: Engine,
    now_ms: int,
    *,
    user: str | None = None,
    resource: str | None = None,
    everything: bool = False,
) -> Generator[GrantView, None, None]:
    """Grants one by one, oldest first.

    A live one may be used up, since a refund can fill it again.
    """
    with engine.reading() as book:
        where: Row = {}
        if user is not None:
            where["user_id"] = _user_named(book, user)["id"]
        if resource is not None:
            where["resource_id"] = book.policy.resource_named(resource).id
        yield from _grants(book, where, now_ms, everything=everything)


# ---- switches


def throttles(engine: Engine, now_ms: int, *, everything: bool = False) -> list[SwitchView]:
    """Throttles that are on or scheduled, oldest first."""
    return _switches(engine, THROTTLE_KINDS, now_ms, everything=everything)


def enforcements(engine: Engine, now_ms: int, *, everything: bool = False) -> list[SwitchView]:
    """Switches that keep limits from holding; none means that enforcement is on."""
    return _switches(engine, ENFORCEMENT_KINDS, now_ms, everything=everything)


def throttle_detail(engine: Engine, which: str, now_ms: int) -> SwitchView:
    """One throttle by id or name, also one that is over; NotFound if there is none."""
    with engine.reading() as book:
        return switch_view(book, find_switch(book, which, THROTTLE_KINDS, now_ms), now_ms)


def in_force(engine: Engine, now_ms: int, *, throttles: bool = True) -> str | None:
    """One line about what is out of the ordinary now: throttles on, enforcement not.

    `throttles` False leaves those out, where the command itself has told of one.
    """
    with engine.reading() as book:
        switches: list[Throttle | Enforcement] = [
            *(book.policy.throttles if throttles else ()),
            *book.policy.enforcements,
        ]
        # A drill denies nothing, so nothing is out of the ordinary with one.
        ids = sorted(
            switch.id
            for switch in switches
            if not (isinstance(switch, Throttle) and switch.drill)
            and switch.starts_at_ms <= now_ms
            and (switch.ends_at_ms is None or now_ms < switch.ends_at_ms)
        )
        if not ids:
            return None
        (row,) = book.rows("switch", {"id": ids[0]})
        view = switch_view(book, row, now_ms)
        end = instant_text(row["ends_at_ms"], book.policy.calendar)
        text = f"enforcement is {describe(view)}"
        if row["kind"] in THROTTLE_KINDS:
            name = f" ({view.name})" if view.name else ""
            text = f"throttle {view.id}{name} is on: {describe(view)}"
        text += ", with no end" if view.ends_at is None else f", until {end}"
        more = f"; and {len(ids) - 1} more: quotactl status" if len(ids) > 1 else ""
        return f"note: {text}{more}"


# ---- audit


def audit_rows(
    engine: Engine, *, count: int | None, user: str | None = None, action: str | None = None
) -> Generator[AuditView, None, None]:
    """The last so many acts that match, one by one, newest last."""
    with engine.reading() as book:
        where: Row = {}
        if user is not None:
            where["user_id = ?"] = _user_named(book, user)["id"]
        if action is not None:
            where["action = ?"] = action
        for row in book.audit_rows(where=where, newest=count):
            yield _audit(book, row)


def audit_row(engine: Engine, audit_id: int) -> AuditView:
    """One act by its id; NotFound if there is none."""
    with engine.reading() as book:
        rows = book.rows("audit", {"id": audit_id})
        if not rows:
            raise NotFound(f"no audit row {audit_id}", hint="quotactl audit list")
        return _audit(book, rows[0])


@frozen
class Chain(View):
    """The audit's chain: `hash` is the newest, `differences` are where it does not hold."""

    ok: bool
    rows: int
    hash: str
    differences: tuple[str, ...]


def audit_chain(engine: Engine, *, expected: str | None = None) -> Chain:
    """Whether the chain holds, and has `expected`, a hash noted earlier, in it."""
    with engine.reading() as book:
        broken = list(audit.broken_links(book))
        if expected is not None and not book.rows("audit", {"hash": expected.strip().lower()}):
            broken.append(f"audit: no row has the expected hash {expected.strip()}")
        last = book.last_audit()
        newest = audit.GENESIS if last is None else last[1]
        return Chain(not broken, book.table_counts()["audit"], newest, tuple(broken))


# ---- steps


def _tier(book: Reading, row: Row) -> TierView:
    tier = book.policy.tiers.get(row["id"])
    if tier is not None:
        return tier_view(book.policy, tier)
    return TierView(row["name"], False, bool(row["protected"]), {}, moment_of(row["retired_at_ms"]))


def _user_named(book: Reading, name: str) -> Row:
    check_id(name, "user")
    rows = book.rows("user", {"name": name})
    if not rows:
        raise NotFound(f"no user {name!r}", hint="nothing was ever set or consumed for them")
    return rows[0]


def _standings(book: Reading, user: str, now_ms: int) -> list[Standing]:
    batch = Batch(book)
    found = []
    for resource in book.policy.resources.values():
        standing, levels = batch.levels(user, resource, now_ms)
        if not standing.listed and not any(used for _, _, used in levels):
            continue
        for ceiling, window, used in reversed(levels):
            limit = ceiling.amount_max
            found.append(
                Standing(
                    resource.name,
                    ceiling.period.name,
                    limit,
                    used,
                    None if limit is None else max(0, limit - used),
                    from_ms(window.reset_at_ms),
                    ceiling.rule,
                )
            )
    return found


def _rows(book: Reading, table: str, where: Row, *, everything: bool) -> Iterator[Row]:
    return book.each_row(table, where if everything else {**where, "ended_at_ms": None})


def _overrides(
    book: Reading, user_id: int | None, now_ms: int, *, everything: bool = False
) -> Iterator[OverrideView]:
    where = {} if user_id is None else {"user_id": user_id}
    for row in _rows(book, "override", where, everything=everything):
        view = override_view(book, row, now_ms)
        if everything or view.state == "live":
            yield view


def _blocks(book: Reading, user_id: int, now_ms: int) -> list[BlockView]:
    rows = _rows(book, "block", {"user_id": user_id}, everything=False)
    return [view for row in rows if (view := block_view(book, row, now_ms)).state == "live"]


def _grants(
    book: Reading, where: Row, now_ms: int, *, everything: bool = False
) -> Iterator[GrantView]:
    for row in _rows(book, "grant_pool", where, everything=everything):
        view = grant_view(book, row, now_ms)
        if everything or view.state in {"live", "used_up"}:
            yield view


def _reservations(book: Reading, user_id: int, now_ms: int) -> list[ReservationView]:
    found = []
    for row in book.rows("reservation", {"user_id": user_id, "state": "pending"}):
        entry = book.entry(row["id"])
        if entry is not None and now_ms < row["expires_at_ms"]:
            name = book.resource_name(row["resource_id"])
            found.append(
                ReservationView(row["id"], name, entry.amount, from_ms(row["expires_at_ms"]))
            )
    return found


def _switches(
    engine: Engine, kinds: Sequence[str], now_ms: int, *, everything: bool
) -> list[SwitchView]:
    with engine.reading() as book:
        views = [
            switch_view(book, row, now_ms)
            for row in _rows(book, "switch", {}, everything=everything)
            if row["kind"] in kinds
        ]
        return [view for view in views if everything or view.state in {"on", "scheduled"}]


def _audit(book: Reading, row: Row) -> AuditView:
    why = book.why(row["id"])
    return AuditView(
        id=row["id"],
        at=from_ms(row["at_ms"]),
        actor=row["actor"],
        action=row["action"],
        user=None if row["user_id"] is None else book.user_name(row["user_id"]),
        subject=row["subject"],
        before=None if row["before"] is None else json.loads(row["before"]),
        after=None if row["after"] is None else json.loads(row["after"]),
        reason=why["reason"],
        ticket=why["ticket"],
        hash=row["hash"],
    )
