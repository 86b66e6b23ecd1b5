"""Users: their tier, protection, blocks, overrides and grants."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from quotactl.errors import Conflict, InvalidInput, NotFound
from quotactl.ledger.entries import Changes, Entry, Kind
from quotactl.ledger.loaded import Row, tier_or_default
from quotactl.ledger.values import rfc3339
from quotactl.ledger.views import BlockView, GrantView, Outcome, OverrideView, UserView
from quotactl.operations.acts import Act, Acts
from quotactl.policy.model import Resource
from quotactl.policy.notation import (
    check_amount,
    check_id,
    could_be_an_id,
    instant_text,
    parse_limit,
    parse_period,
)
from quotactl.policy.window import from_ms, moment_of, period_of_length

if TYPE_CHECKING:
    from quotactl.ledger.engine import Reading

PRIORITY_MAX = 1_000_000


class People(Acts):
    """Acts on single users."""

    # ---- tier and protection

    def set_tier(
        self,
        user: str,
        tier: str | None,
        *,
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Outcome:
        """Put a user on a tier; None lets them follow the default tier. What they used stays."""
        with self._act(reason=reason, ticket=ticket) as act:
            target = None if tier is None else act.tier(tier)
            row, new = act.intern_user(user)
            before = _tier_name(act.book, row)
            target_id = None if target is None else target.id
            if row["tier_id"] == target_id and not (new and target is None):
                where = tier or "the default tier"
                return Outcome(False, f"{user} is on {where} already", user_item(act.book, row))
            act.book.update("user", {"id": row["id"]}, {"tier_id": target_id})
            row["tier_id"] = target_id
            act.record(
                "user.set-tier",
                user_id=row["id"],
                before={"tier": None if new else before},
                after={"tier": tier},
            )
            was = "new user" if new else f"was on {before}"
            message = f"{user} is on {tier or 'the default tier'} ({was})"
            return Outcome(True, message, user_item(act.book, row))

    def protect(
        self, user: str, *, reason: str | None = None, ticket: str | None = None
    ) -> Outcome:
        """Make throttles spare a user unless they are told otherwise."""
        return self._set_protected(user, protected=True, reason=reason, ticket=ticket)

    def unprotect(
        self, user: str, *, reason: str | None = None, ticket: str | None = None
    ) -> Outcome:
        """Let throttles reach a user again."""
        return self._set_protected(user, protected=False, reason=reason, ticket=ticket)

    def _set_protected(
        self, user: str, *, protected: bool, reason: str | None, ticket: str | None
    ) -> Outcome:
        state = "protected" if protected else "not protected"
        with self._act(reason=reason, ticket=ticket) as act:
            row, new = act.intern_user(user) if protected else (act.find_user(user), False)
            if bool(row["protected"]) == protected:
                return Outcome(False, f"{user} is {state} already", user_item(act.book, row))
            act.book.update("user", {"id": row["id"]}, {"protected": int(protected)})
            row["protected"] = int(protected)
            act.record(
                "user.protect" if protected else "user.unprotect",
                user_id=row["id"],
                before={"protected": not protected},
                after={"protected": protected},
            )
            return Outcome(True, f"{user} is {state}{_new(new)}", user_item(act.book, row))

    def import_users(
        self,
        pairs: Iterable[tuple[str, str]],
        *,
        digest: str,
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Outcome:
        """Put many users on tiers, all or none, with one audit row.

        `pairs` are (user, tier); `digest` is the SHA-256 of the file they came from.
        A user named twice, with two tiers, is refused.
        """
        wanted: dict[str, str] = {}
        for user, tier in pairs:
            check_id(user, "user")
            if wanted.setdefault(user, tier) != tier:
                raise InvalidInput(f"user {user!r} is named twice, with {wanted[user]} and {tier}")
        with self._act(reason=reason, ticket=ticket) as act:
            tier_ids = {name: act.tier(name).id for name in sorted(set(wanted.values()))}
            added, moved = act.book.put_users(
                ((user, tier_ids[tier]) for user, tier in wanted.items()), act.now_ms
            )
            item = {"users": len(wanted), "added": added, "moved": moved, "sha256": digest}
            count = f"{len(wanted)} user{'s' if len(wanted) != 1 else ''}"
            if not added and not moved:
                return Outcome(False, f"{count} on these tiers already", item)
            act.record("user.import", subject=f"sha256 {digest[:12]}", after=item)
            message = f"{count}: {added} new, {moved} moved"
            return Outcome(True, message, item)

    # ---- blocks

    def block(
        self,
        user: str,
        *,
        resource: str | None = None,
        duration: str | timedelta | None = None,
        until: str | datetime | None = None,
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Outcome:
        """Revoke a user's quota for a resource, or for all, for a time or for good."""
        with self._act(reason=reason, ticket=ticket, why_needed="a block") as act:
            what = None if resource is None else act.resource(resource)
            expires_at_ms = act.end(duration=duration, until=until)
            row, new = act.intern_user(user)
            scope = {"user_id": row["id"], "resource_id": None if what is None else what.id}
            present = _live(act, "block", scope)
            end = _end(act, expires_at_ms)
            if present is not None and present["expires_at_ms"] == expires_at_ms:
                view = block_view(act.book, present, act.now_ms)
                return Outcome(False, f"{user} is blocked already, {end}", view.to_dict())
            if present is not None:
                act.book.update("block", {"id": present["id"]}, {"ended_at_ms": act.now_ms})
            expires = _moment(expires_at_ms)
            audit_id = act.record(
                "user.block",
                user_id=row["id"],
                subject=resource,
                before=None if present is None else {"until": _moment(present["expires_at_ms"])},
                after={"until": expires},
            )
            block_id = act.book.insert(
                "block",
                {
                    **scope,
                    "created_at_ms": act.now_ms,
                    "expires_at_ms": expires_at_ms,
                    "audit_id": audit_id,
                },
            )
            made = act.book.rows("block", {"id": block_id})[0]
            where = resource or "every resource"
            message = f"{user} is blocked from {where} {end}{_new(new)}"
            return Outcome(True, message, block_view(act.book, made, act.now_ms).to_dict())

    def unblock(
        self,
        user: str,
        *,
        resource: str | None = None,
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Outcome:
        """Lift a user's blocks: the one on a resource, or all of them."""
        with self._act(reason=reason, ticket=ticket) as act:
            what = None if resource is None else act.resource(resource)
            row = act.find_user(user)
            where = {"user_id": row["id"], "ended_at_ms": None}
            found = [
                b
                for b in act.book.rows("block", where)
                if (what is None or b["resource_id"] == what.id) and _lives(b, act.now_ms)
            ]
            if not found:
                if what is not None and _live(
                    act, "block", {"user_id": row["id"], "resource_id": None}
                ):
                    raise Conflict(
                        f"{user} is blocked from every resource, not from {resource} alone",
                        hint=f"quotactl user unblock {user}",
                    )
                return Outcome(False, f"{user} is not blocked", user_item(act.book, row))
            for block in found:
                act.book.update("block", {"id": block["id"]}, {"ended_at_ms": act.now_ms})
            act.record(
                "user.unblock",
                user_id=row["id"],
                subject=resource,
                before={"blocks": [b["id"] for b in found]},
            )
            return Outcome(True, f"{user} is not blocked any more", user_item(act.book, row))

    # ---- overrides

    def set_override(
        self,
        *,
        user: str,
        resource: str,
        limit: str,
        duration: str | timedelta | None = None,
        until: str | datetime | None = None,
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Outcome:
        """Replace one user's limit for a resource, per period, for a time or for good.

        `50/day` replaces the daily limit alone; bare `unlimited` those of every period.
        """
        limits = parse_limit(limit)
        with self._act(reason=reason, ticket=ticket, why_needed="an override") as act:
            what = act.resource(resource)
            expires_at_ms = act.end(duration=duration, until=until)
            row, new = act.intern_user(user)
            scope = {"user_id": row["id"], "resource_id": what.id}
            made: list[Row] = []
            before: dict[str, Any] = {}
            wanted: list[tuple[int | None, int | None]] = [
                (None if limit.strip() == "unlimited" else one.period.length_min, one.amount_max)
                for one in limits
            ]
            for period, amount_max in wanted:
                present = _live(act, "override", {**scope, "period": period})
                same = present is not None and (
                    (present["amount_max"], present["expires_at_ms"]) == (amount_max, expires_at_ms)
                )
                if not same:
                    made.append({"period": period, "amount_max": amount_max})
                # One for every period and those for single ones exclude each other.
                for old in act.book.rows("override", {**scope, "ended_at_ms": None}):
                    replaced = old["period"] == period and not same
                    if replaced or (old["period"] is None) != (period is None):
                        if _lives(old, act.now_ms):
                            before[_override_limit(old)] = _moment(old["expires_at_ms"])
                        _end_override(act, old)
            end = _end(act, expires_at_ms)
            if not made:
                present = _live(act, "override", {**scope, "period": wanted[0][0]})
                assert present is not None
                view = override_view(act.book, present, act.now_ms)
                message = f"{user} has {resource} {limit} already, {end}"
                return Outcome(False, message, view.to_dict())
            audit_id = act.record(
                "override.set",
                user_id=row["id"],
                subject=resource,
                before=before or None,
                after={_override_limit(one): _moment(expires_at_ms) for one in made},
            )
            for one in made:
                one["id"] = act.book.insert(
                    "override",
                    {
                        **scope,
                        **one,
                        "created_at_ms": act.now_ms,
                        "expires_at_ms": expires_at_ms,
                        "audit_id": audit_id,
                    },
                )
            views = [
                override_view(act.book, act.book.rows("override", {"id": one["id"]})[0], act.now_ms)
                for one in made
            ]
            item = views[-1].to_dict()
            if len(views) > 1:
                item["overrides"] = [view.to_dict() for view in views]
            was = f"; was {', '.join(before)}" if before else ""
            message = f"{user} has {resource} {limit} {end}{was}{_new(new)}"
            return Outcome(True, message, item)

    def clear_override(
        self,
        *,
        user: str,
        resource: str | None = None,
        period: str | None = None,
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Outcome:
        """Take a user's overrides off: all, those of a resource, or that of a period."""
        length_min = None if period is None else parse_period(period).length_min
        with self._act(reason=reason, ticket=ticket) as act:
            what = None if resource is None else act.resource(resource)
            row = act.find_user(user)
            found = [
                o
                for o in act.book.rows("override", {"user_id": row["id"], "ended_at_ms": None})
                if (what is None or o["resource_id"] == what.id)
                and (period is None or o["period"] == length_min)
                and _lives(o, act.now_ms)
            ]
            if not found:
                return Outcome(False, f"{user} has no such override", user_item(act.book, row))
            for override in found:
                _end_override(act, override)
            before = {
                f"{act.book.policy.resources[o['resource_id']].name} {_override_limit(o)}": _moment(
                    o["expires_at_ms"]
                )
                for o in found
                if o["resource_id"] in act.book.policy.resources
            }
            act.record("override.clear", user_id=row["id"], subject=resource, before=before)
            return Outcome(True, f"{user}: {', '.join(before)} cleared", user_item(act.book, row))

    # ---- grants

    def add_grant(
        self,
        *,
        user: str,
        resource: str,
        amount: int,
        priority: int = 0,
        duration: str | timedelta | None = None,
        until: str | datetime | None = None,
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Outcome:
        """Give a user units beyond their limits. Lower priorities burn first."""
        check_amount(amount)
        check_priority(priority)
        with self._act(reason=reason, ticket=ticket, why_needed="a grant") as act:
            what = act.resource(resource)
            expires_at_ms = act.end(duration=duration, until=until)
            row, new = act.intern_user(user)
            audit_id = act.record(
                "grant.add",
                user_id=row["id"],
                subject=resource,
                after={"amount": amount, "priority": priority, "until": _moment(expires_at_ms)},
            )
            grant_id = act.book.insert(
                "grant_pool",
                {
                    "user_id": row["id"],
                    "resource_id": what.id,
                    "amount": amount,
                    "balance": 0,
                    "priority": priority,
                    "created_at_ms": act.now_ms,
                    "expires_at_ms": expires_at_ms,
                    "audit_id": audit_id,
                },
            )
            _move(act, Kind.GRANT, row, what.id, grant_id, amount)
            made = act.book.rows("grant_pool", {"id": grant_id})[0]
            end = _end(act, expires_at_ms)
            unit = _units(what, amount)
            message = f"grant {grant_id}: {user} may take {amount} {unit} more, {end}{_new(new)}"
            return Outcome(True, message, grant_view(act.book, made, act.now_ms).to_dict())

    def revoke_grant(
        self, grant_id: int, *, reason: str | None = None, ticket: str | None = None
    ) -> Outcome:
        """Take back what is left of a grant."""
        with self._act(reason=reason, ticket=ticket) as act:
            rows = []
            if could_be_an_id(grant_id):
                rows = act.book.rows("grant_pool", {"id": grant_id})
            if not rows:
                raise NotFound(f"no grant {grant_id}")
            grant = rows[0]
            view = grant_view(act.book, grant, act.now_ms)
            if view.state in ("revoked", "expired"):
                return Outcome(False, f"grant {grant_id} is {view.state} already", view.to_dict())
            left = grant["balance"]
            user = act.book.rows("user", {"id": grant["user_id"]})[0]
            act.book.update("grant_pool", {"id": grant_id}, {"ended_at_ms": act.now_ms})
            if left:
                _move(act, Kind.REVOKE, user, grant["resource_id"], grant_id, -left)
            act.record(
                "grant.revoke",
                user_id=user["id"],
                subject=f"grant {grant_id}",
                before={"remaining": left},
                after={"remaining": 0},
            )
            revoked = act.book.rows("grant_pool", {"id": grant_id})[0]
            view = grant_view(act.book, revoked, act.now_ms)
            message = f"grant {grant_id} of {view.user} revoked; {left} of {view.amount} were left"
            return Outcome(True, message, view.to_dict())


def check_priority(priority: object) -> None:
    """InvalidInput for what can't be a grant's priority."""
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise InvalidInput(f"priority {priority!r} is not a whole number")
    if abs(priority) > PRIORITY_MAX:
        raise InvalidInput(f"priority {priority} is out of range")


def _move(act: Act, kind: Kind, user: Row, resource_id: int, grant_id: int, amount: int) -> None:
    """Put units into a grant, or take them out, through an entry."""
    tier = tier_or_default(act.book.policy, user["tier_id"])
    entry = Entry(
        id=act.book.next_entry_id(),
        at_ms=act.now_ms,
        kind=kind,
        user_id=user["id"],
        resource_id=resource_id,
        tier_id=None if tier is None else tier.id,
        amount=amount,
        granted=amount,
        day_ms=None,
        periods=(),
        of_id=None,
    )
    changes = Changes()
    changes.entries.append(entry)
    changes.movements.append((entry.id, grant_id, amount))
    act.book.store(changes)


# ---- views


def user_item(book: Reading, row: Row) -> dict[str, Any]:
    """The JSON of a user."""
    return user_view(book, row).to_dict()


def user_view(book: Reading, row: Row) -> UserView:
    """A user as people see them."""
    return UserView(
        user=row["name"] if row["name"] is not None else f"#{row['id']}",
        tier=_tier_name(book, row),
        follows_default=row["tier_id"] is None,
        protected=bool(row["protected"]),
        created_at=from_ms(row["created_at_ms"]),
    )


def override_view(book: Reading, row: Row, now_ms: int) -> OverrideView:
    """An override as people see it."""
    period = row["period"]
    return OverrideView(
        id=row["id"],
        user=book.user_name(row["user_id"]),
        resource=book.resource_name(row["resource_id"]),
        period=None if period is None else period_of_length(period).name,
        limit=row["amount_max"],
        created_at=from_ms(row["created_at_ms"]),
        expires_at=moment_of(row["expires_at_ms"]),
        state=_state(row, now_ms, ended="cleared"),
        **_why(book, row),
    )


def block_view(book: Reading, row: Row, now_ms: int) -> BlockView:
    """A block as people see it."""
    resource_id = row["resource_id"]
    return BlockView(
        id=row["id"],
        user=book.user_name(row["user_id"]),
        resource=None if resource_id is None else book.resource_name(resource_id),
        created_at=from_ms(row["created_at_ms"]),
        expires_at=moment_of(row["expires_at_ms"]),
        state=_state(row, now_ms, ended="lifted"),
        **_why(book, row),
    )


def grant_view(book: Reading, row: Row, now_ms: int) -> GrantView:
    """A grant as people see it."""
    state = _state(row, now_ms, ended="revoked")
    if state == "live" and row["balance"] == 0:
        state = "used_up"
    return GrantView(
        id=row["id"],
        user=book.user_name(row["user_id"]),
        resource=book.resource_name(row["resource_id"]),
        amount=row["amount"],
        remaining=row["balance"],
        priority=row["priority"],
        created_at=from_ms(row["created_at_ms"]),
        expires_at=moment_of(row["expires_at_ms"]),
        state=state,
        **_why(book, row),
    )


def _state(row: Row, now_ms: int, *, ended: str) -> str:
    expires_at_ms, ended_at_ms = row["expires_at_ms"], row["ended_at_ms"]
    # A day's close marks what had expired with the moment of its expiry.
    if expires_at_ms is not None and (ended_at_ms or now_ms) >= expires_at_ms:
        return "expired"
    return "live" if ended_at_ms is None else ended


def _why(book: Reading, row: Row) -> dict[str, str | None]:
    return book.why(row["audit_id"])


def _lives(row: Row, now_ms: int) -> bool:
    return row["expires_at_ms"] is None or now_ms < row["expires_at_ms"]


def _live(act: Act, table: str, where: Row) -> Row | None:
    """The row that holds now. One that has run out is marked so, to make room."""
    for row in act.book.rows(table, {**where, "ended_at_ms": None}):
        if _lives(row, act.now_ms):
            return row
        act.book.update(table, {"id": row["id"]}, {"ended_at_ms": row["expires_at_ms"]})
    return None


def _end_override(act: Act, row: Row) -> None:
    act.book.update("override", {"id": row["id"]}, {"ended_at_ms": act.now_ms})


def _override_limit(row: Row) -> str:
    limit = "unlimited" if row["amount_max"] is None else str(row["amount_max"])
    return limit if row["period"] is None else f"{limit}/{period_of_length(row['period'])}"


def _tier_name(book: Reading, row: Row) -> str | None:
    tier = tier_or_default(book.policy, row["tier_id"])
    return None if tier is None else tier.name


def _units(resource: Resource, amount: int) -> str:
    unit = resource.unit or "unit"
    return unit if amount == 1 else f"{unit}s"


def _end(act: Act, expires_at_ms: int | None) -> str:
    """When something ends, in a sentence."""
    if expires_at_ms is None:
        return "for good"
    return f"until {instant_text(expires_at_ms, act.book.policy.calendar)}"


def _moment(at_ms: int | None) -> str | None:
    return rfc3339(moment_of(at_ms))


def _new(new: bool) -> str:
    return " (new user)" if new else ""
