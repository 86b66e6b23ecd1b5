"""The ledger as it stood at a moment that is past: what a decision made then has read.

It is the present ledger with undone what came later: an act by what its audit row says
of before, an override, block, grant or switch by its own times, a counter by summing
entries up to then. What the audit does not hold is named in `unknown`, and what entries
would be needed for that are pruned is not made up.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from quotactl.errors import InvalidInput
from quotactl.frozen import changed
from quotactl.ledger.entries import Entry, Reservation
from quotactl.ledger.loaded import CounterValue, Row, StoredAccount
from quotactl.policy.model import (
    Account,
    Block,
    Enforcement,
    Grant,
    Limit,
    Override,
    Policy,
    Resource,
    Step,
    Throttle,
    Tier,
)
from quotactl.policy.notation import instant_text, parse_limit, parse_rfc3339
from quotactl.policy.window import DAY_MS, MINUTE_MS, period_of_length

if TYPE_CHECKING:
    from quotactl.ledger.engine import Reading

# What an act changed: ("limit", tier, resource), ("protected", tier), ("default",),
# ("zone",), ("capacity", resource), ("user protected", user's id), ("ends_at", switch's id),
# ("steps", switch's id).
Key = tuple[str | int, ...]

# The families of acts that change what is decided for everybody.
_POLICY = ("tier", "limit", "resource", "capacity", "policy")
_SWITCHES = ("throttle", "enforcement")
# Nothing that was done since changed it.
_UNCHANGED = object()
# It was changed, and an act before that tells how it was.
_EARLIER = object()
# How far from the moment entries are looked at to learn a tier from them.
_NEAR_MS = 2 * DAY_MS


@dataclass(slots=True)
class _Sums:
    """What one user's entries from `from_ms` up to the moment add up to, by window."""

    from_ms: int
    used: dict[tuple[int, int], int]
    granted: dict[tuple[int, int], int]


class Then:
    """A `Reading` of the past, for one user; see `as_reading`.

    What was done in the very millisecond counts as done. It costs a look at the audit
    from then on and, where something was used, at everybody's entries in the longest of
    the windows that matter. `unknown` says what the audit does not tell. Raises
    InvalidInput for a moment before there was a ledger.
    """

    def __init__(self, book: Reading, at_ms: int, user: str) -> None:
        head = book.head
        if at_ms < head.created_at_ms:
            begins = instant_text(head.created_at_ms, book.policy.calendar)
            raise InvalidInput(
                f"the ledger begins at {begins}", hint="before that nothing was decided"
            )
        self._book = book
        self._at_ms = at_ms
        self.unknown: list[str] = []
        # The earliest value that an act since then found, by what it changed.
        self._before: dict[Key, Any] = {}
        self._default_moved_ms: list[int] = []
        for row in book.audit_rows(where={"at_ms > ?": at_ms}):
            self._undo(row)
        self.policy = self._policy()
        self.head = head._replace(
            zone=self.policy.zone,
            default_tier_id=self.policy.default_tier_id,
            # A decision made then was not made in a day that was closed.
            closed_until_ms=None,
        )
        rows = book.rows("user", {"name": user})
        self._user = rows[0] if rows and rows[0]["created_at_ms"] <= at_ms else None
        self._tier = self.policy.default_tier
        # None where that is not known.
        self.follows_default: bool | None = True
        self._protected = False
        if self._user is not None:
            self._tier = self._users_tier(self._user)
            key = ("user protected", self._user["id"])
            self._protected = bool(self._before.get(key, self._user["protected"]))
        self._sums: dict[tuple[int, int], _Sums] = {}
        # Holds that were over and settled later, if at all: id to expiry.
        self._timed_out: dict[int, int] = {}
        # By resource: since when, and the newest reset by user and window.
        self._resets: dict[int, tuple[int, dict[tuple[int | None, int, int], int]]] = {}

    def as_reading(self) -> Reading:
        """It fulfils what a decision asks of it, and passes on what never changes."""
        return cast("Reading", self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._book, name)

    def user_row(self, name: str) -> None:  # noqa: ARG002
        """Nobody is a matter of routine: of each user it is asked what there was then."""
        return

    def is_pruned(self, from_ms: int) -> bool:
        """Whether entries from a moment on may be gone."""
        return from_ms < self.head.checkpoint_at_ms

    # ---- what the audit says of before

    def _undo(self, row: Row) -> None:
        action, subject = row["action"], row["subject"]
        family = action.partition(".")[0]
        if family == "user":
            if action in {"user.protect", "user.unprotect"}:
                found = json.loads(row["before"])["protected"]
                self._before.setdefault(("user protected", row["user_id"]), found)
            return
        if family not in (*_POLICY, *_SWITCHES):
            return
        before = json.loads(row["before"] or "{}")
        if family in _SWITCHES:
            self._undo_switch(subject, before)
            return
        after = json.loads(row["after"] or "{}")
        changed = _found(action, subject, before, after)
        if changed is None:
            self.unknown.append(f"what {action} changed (audit row {row['id']})")
            return
        for key, value in changed:
            self._before.setdefault(key, value)
            if key == ("default",):
                self._default_moved_ms.append(row["at_ms"])

    def _undo_switch(self, subject: str | None, before: Mapping[str, Any]) -> None:
        id_ = (subject or "").rpartition(" ")[2]
        if not id_.isdecimal():
            return
        if "ends_at" in before:
            self._before.setdefault(("ends_at", int(id_)), before["ends_at"])
        # All facts of it are there where its ramp may have moved.
        if "kind" in before:
            self._before.setdefault(("steps", int(id_)), _EARLIER)

    # ---- the policy

    def _policy(self) -> Policy:
        book, before = self._book, self._before
        present = book.policy
        resources = {}
        for row in self._existing("resource"):
            id_, name = row["id"], row["name"]
            resources[id_] = Resource(id_, name, row["unit"], self._capacity(row))
        tiers = {}
        for row in self._existing("tier"):
            id_, name = row["id"], row["name"]
            now = present.tiers[id_].limits if id_ in present.tiers else {}
            limits = {}
            for resource in resources.values():
                text = before.get(("limit", name, resource.name), _UNCHANGED)
                limit = now.get(resource.id, ()) if text is _UNCHANGED else _limits(text)
                if limit:
                    limits[resource.id] = limit
            protected = before.get(("protected", name))
            if protected is None:
                protected = row["protected"]
            tiers[id_] = Tier(id_, name, bool(protected), limits)
        switches = [self._switch_of(row) for row in self.rows("switch", {"ended_at_ms": None})]
        return Policy(
            version=present.version,
            zone=before.get(("zone",), present.zone),
            default_tier_id=self._default_tier_id(tiers),
            resources=resources,
            tiers=tiers,
            throttles=tuple(s for s in switches if isinstance(s, Throttle)),
            enforcements=tuple(s for s in switches if isinstance(s, Enforcement)),
        )

    def _existing(self, table: str) -> Iterable[Row]:
        return (
            row
            for row in self._book.rows(table)
            if row["created_at_ms"] <= self._at_ms
            and (row["retired_at_ms"] is None or row["retired_at_ms"] > self._at_ms)
        )

    def _capacity(self, row: Row) -> Limit | None:
        text = self._before.get(("capacity", row["name"]), _UNCHANGED)
        if text is not _UNCHANGED:
            return None if text is None else parse_limit(text)[0]
        length_min = row["capacity_period"]
        if length_min is None:
            return None
        return Limit(period_of_length(length_min), row["capacity_max"])

    def _default_tier_id(self, tiers: Mapping[int, Tier]) -> int | None:
        name = self._before.get(("default",), _UNCHANGED)
        if name is _UNCHANGED:
            return self._book.head.default_tier_id
        if name is _EARLIER:
            name, _ = self._default_set()
        return next((tier.id for tier in tiers.values() if tier.name == name), None)

    def _default_set(self) -> tuple[str | None, int]:
        """The default tier that was named last before the moment, and when."""
        last: tuple[int, str | None, int] = (0, None, 0)
        for action in ("tier.create", "tier.default", "policy.apply"):
            for row in self._book.audit_rows(
                where={"action = ?": action, "at_ms <= ?": self._at_ms}
            ):
                name = _default_in(action, row["subject"], json.loads(row["after"] or "{}"))
                if name is not None:
                    last = max(last, (row["id"], name, row["at_ms"]), key=lambda one: one[0])
        return last[1:]

    def _switch_of(self, row: Row) -> Throttle | Enforcement:
        switch = self._book.switch_of(row)
        if isinstance(switch, Throttle) and ("steps", row["id"]) in self._before:
            switch = changed(switch, steps=self._steps_then(row["id"]))
        return switch

    def _steps_then(self, throttle_id: int) -> tuple[Step, ...]:
        """The ramp that the last act before the moment left, without what was held back."""
        steps: list[dict[str, Any]] = []
        where = {"subject = ?": f"throttle {throttle_id}", "at_ms <= ?": self._at_ms}
        for row in self._book.audit_rows(where=where):
            after = json.loads(row["after"] or "{}")
            # All facts: no word of steps is that there were none.
            if "kind" in after:
                steps = after.get("steps", [])
        return tuple(Step(parse_rfc3339(s["at"]), s["percent"], bool(s["lifting"])) for s in steps)

    # ---- the user

    def _users_tier(self, user: Row) -> Tier | None:
        """The tier that a user was on.

        An import's row has no names in it, so what tells is another act, before or
        after, with no import between, or an entry, which bears the tier it was made on.
        """
        at_ms = self._at_ms
        events = self._tier_events(user)
        past = [event for event in events if event["at_ms"] <= at_ms]
        later = [event for event in events if event["at_ms"] > at_ms]
        known, name = _forward(user, past)
        if known:
            self.follows_default = name is None
            return self._tier_called(name)
        present = None if user["tier_id"] is None else self._book.tier_name(user["tier_id"])
        known, name, until_ms = _backward(present, later)
        # An act's row says on which tier a user was, not whether they followed the
        # default: that is the same unless the default moved between.
        moved = [ms for ms in self._default_moved_ms if until_ms is not None and ms <= until_ms]
        self.follows_default = None
        if known and not (moved and name is not None):
            if until_ms is None:
                self.follows_default = name is None
            return self._tier_called(name)
        from_ms = max([at_ms - _NEAR_MS, self._default_set()[1], *(e["at_ms"] for e in past)])
        end_ms = min([at_ms + _NEAR_MS, *self._default_moved_ms[:1], *(e["at_ms"] for e in later)])
        charged = self._book.tiers_charged(user["id"], from_ms, end_ms)
        if len(charged) == 1:
            (tier_id,) = charged
            return None if tier_id is None else self.policy.tiers.get(tier_id)
        self.unknown.append(f"the tier of {user['name']}: the audit does not name whom it moved")
        return None

    def _tier_called(self, name: str | None) -> Tier | None:
        return self.policy.default_tier if name is None else self.policy.tiers_by_name.get(name)

    def _tier_events(self, user: Row) -> list[Row]:
        """The acts that moved a user to another tier, or may have, in order."""
        events = []
        for action, where in (
            ("user.set-tier", {"user_id = ?": user["id"]}),
            ("user.import", {}),
            ("tier.delete", {}),
        ):
            for row in self._book.audit_rows(where={"action = ?": action, **where}):
                event = {
                    **row,
                    "before": json.loads(row["before"] or "{}"),
                    "after": json.loads(row["after"] or "{}"),
                }
                if action != "tier.delete" or event["after"]:
                    events.append(event)
        return sorted(events, key=lambda event: int(event["id"]))

    # ---- what a decision loads

    def load_account(self, user: str, resource: Resource) -> StoredAccount:
        row = self._user
        if row is None:
            stranger = Account(user, 0, False, self.policy.default_tier, False, resource)
            return StoredAccount(stranger, {})
        account = Account(user, row["id"], True, self._tier, self._protected, resource)
        if not row["has_own"]:
            return StoredAccount(account, {})
        live = {"user_id": row["id"], "ended_at_ms": None}
        both = {**live, "resource_id": resource.id}
        account.overrides = tuple(
            Override(
                o["id"],
                None if o["period"] is None else period_of_length(o["period"]),
                o["amount_max"],
                o["expires_at_ms"],
            )
            for o in self.rows("override", both)
        )
        account.blocks = tuple(
            Block(b["id"], b["resource_id"], b["expires_at_ms"])
            for b in self.rows("block", live)
            if b["resource_id"] in {None, resource.id}
        )
        grants = self.rows("grant_pool", both)
        account.grants = tuple(Grant(g["id"], g["priority"], g["expires_at_ms"]) for g in grants)
        account.balances = {g["id"]: g["balance"] for g in grants}
        holds = self._book.timed_out_at(resource.id, self._at_ms, user_id=row["id"])
        self._timed_out.update(holds)
        return StoredAccount(account, holds)

    def load_counts(
        self, user_id: int, resource_id: int, windows: Sequence[tuple[int, int]]
    ) -> dict[tuple[int, int], tuple[int, int]]:
        sums = self._summed(user_id, resource_id, min(start for _, start in windows))
        return {w: (sums.used[w], sums.granted.get(w, 0)) for w in windows if w in sums.used}

    def counter(
        self, user_id: int, resource_id: int, length_min: int, starts_at_ms: int
    ) -> CounterValue | None:
        """Of a counter all that is asked here: which entry gave it a fresh start, so that
        a hold from before is not given back to it."""
        if self.is_pruned(starts_at_ms):
            return None
        since_ms, resets = self._resets.get(resource_id, (self._at_ms + 1, {}))
        if starts_at_ms < since_ms:
            resets = {}
            for entry in self._book.resets_of(resource_id, starts_at_ms, self._at_ms):
                windows = [(1440, entry.day_ms)] if entry.day_ms is not None else []
                windows += [(p, entry.at_ms - entry.at_ms % (p * MINUTE_MS)) for p in entry.periods]
                resets.update(((entry.user_id, *window), entry.id) for window in windows)
            self._resets[resource_id] = (starts_at_ms, resets)
        return CounterValue(0, 0, resets.get((user_id, length_min, starts_at_ms)))

    def timed_out_of(self, resource_id: int, now_ms: int, count: int) -> list[int]:
        found = self._book.timed_out_at(resource_id, now_ms)
        self._timed_out.update(found)
        return list(found)[:count]

    def load_total(
        self, resource_id: int, length_min: int, starts_at_ms: int
    ) -> dict[int, int] | None:
        if length_min < 1440:
            reset_at_ms = starts_at_ms + length_min * MINUTE_MS
        else:
            reset_at_ms = self.policy.calendar.day(starts_at_ms).reset_at_ms
        return self._book.taken_by_tier(
            resource_id,
            starts_at_ms,
            min(reset_at_ms, self._at_ms + 1),
            as_of_ms=self._at_ms,
        )

    def corrections(self, entry_id: int) -> list[Entry]:
        return [e for e in self._book.corrections(entry_id) if e.at_ms <= self._at_ms]

    def reservation(self, reservation_id: int) -> Reservation | None:
        hold = self._book.reservation(reservation_id)
        if hold is not None and reservation_id in self._timed_out:
            hold.state = "pending"
        return hold

    def rows(
        self, table: str, where: Mapping[str, Any] | None = None, *, order: str = "id"
    ) -> list[Row]:
        if table not in {"override", "block", "grant_pool", "switch"}:
            return self._book.rows(table, where, order=order)
        others = {k: v for k, v in (where or {}).items() if k != "ended_at_ms"}
        found = self._as_they_were(table, self._book.rows(table, others, order=order))
        only_live = where is not None and "ended_at_ms" in where
        return [row for row in found if not only_live or row["ended_at_ms"] is None]

    def newest_switches(self, count: int) -> list[Row]:  # noqa: ARG002
        # Newer ones did not exist; how many of the newest are needed nobody knows.
        return self.rows("switch")[::-1]

    def _as_they_were(self, table: str, rows: Sequence[Row]) -> list[Row]:
        found = [dict(row) for row in rows if row["created_at_ms"] <= self._at_ms]
        balances = {}
        if table == "grant_pool" and found:
            balances = self._book.balances_at([row["id"] for row in found], self._at_ms)
        for row in found:
            if row["ended_at_ms"] is not None and row["ended_at_ms"] > self._at_ms:
                row["ended_at_ms"] = None
                row["lifted"] = 0
            if table == "grant_pool":
                row["balance"] = balances.get(row["id"], 0)
            key = ("ends_at", row["id"])
            if table == "switch" and key in self._before:
                ends_at = self._before[key]
                row["ends_at_ms"] = None if ends_at is None else parse_rfc3339(ends_at)
        return found

    def _summed(self, user_id: int, resource_id: int, from_ms: int) -> _Sums:
        sums = self._sums.get((user_id, resource_id))
        if sums is not None and sums.from_ms <= from_ms:
            return sums
        sums = self._sums[user_id, resource_id] = _Sums(from_ms, {}, {})
        entries = self._book.entries_of(user_id, resource_id, from_ms, self._at_ms)
        for entry, taken_at_ms in entries:
            charged = []
            if entry.day_ms is not None:
                day = (1440, entry.day_ms)
                charged.append((day, entry.amount - entry.granted))
                sums.granted[day] = sums.granted.get(day, 0) + entry.granted
            for length_min in entry.periods:
                start = taken_at_ms - taken_at_ms % (length_min * MINUTE_MS)
                charged.append(((length_min, start), entry.amount))
            for window, units in charged:
                sums.used[window] = sums.used.get(window, 0) + units
        return sums


def _found(
    action: str, subject: Any, before: Mapping[str, Any], after: Mapping[str, Any]
) -> list[tuple[Key, Any]] | None:
    """What an act found before it changed it; None for one that is not understood."""
    if action in {"limit.set", "limit.unset"}:
        return [(("limit", subject, resource), text) for resource, text in before.items()]
    if action in {"tier.protect", "tier.unprotect"}:
        return [(("protected", subject), before["protected"])]
    if action == "tier.default":
        return [(("default",), before["default"])]
    if action == "tier.create":
        return [(("default",), _EARLIER)] if after.get("default") else []
    if action == "tier.delete":
        limits = before["limits"].items()
        return [
            (("protected", subject), before["protected"]),
            *((("limit", subject, resource), text) for resource, text in limits),
        ]
    if action == "policy.apply":
        return [
            (key, value)
            for change in after["changes"]
            for key, value in _in_file(change["what"], change["before"])
        ]
    if action == "resource.create":
        return []
    if action == "resource.delete":
        limits = before["limits"].items()
        return [
            # Its row keeps that; what comes later is another resource's of that name.
            (("capacity", subject), _UNCHANGED),
            *((("limit", tier, subject), text) for tier, text in limits),
        ]
    if "capacity" in before:
        return [(("capacity", subject), before["capacity"])]
    return None


def _in_file(what: str, before: str | None) -> list[tuple[Key, Any]]:
    """The same of one change that a policy file made; `what` is a key as TOML writes it."""
    match _path(what):
        case ["zone"]:
            return [(("zone",), before)]
        case ["default_tier"]:
            return [(("default",), before)]
        case ["tier", name]:
            return [(("protected", name), None if before is None else before == "protected")]
        case ["tier", name, "limits", resource]:
            return [(("limit", name, resource), before)]
        case ["resource", name, "capacity"]:
            return [(("capacity", name), before)]
    return []


def _default_in(action: str, subject: Any, after: Mapping[str, Any]) -> str | None:
    """The tier that an act made the default, if it did."""
    if action == "tier.create":
        return str(subject) if after.get("default") else None
    if action == "tier.default":
        return str(after["default"])
    return next((c["after"] for c in after.get("changes", ()) if c["what"] == "default_tier"), None)


def _path(what: str) -> list[str]:
    """`tier."a.b".limits.image` as its parts."""
    import tomllib

    try:
        table: Any = tomllib.loads(f"{what} = 0")
    except tomllib.TOMLDecodeError:
        return []
    parts = []
    while isinstance(table, dict):
        ((part, table),) = table.items()
        parts.append(part)
    return parts


def _limits(text: str | None) -> tuple[Limit, ...]:
    return () if text is None else parse_limit(text)


def _forward(user: Row, past: Sequence[Row]) -> tuple[bool, str | None]:
    """Whether a user's tier is known from what was done up to a moment, and which: None
    follows the default."""
    known, name = True, None
    for event in past:
        after = event["after"]
        if event["action"] == "user.set-tier":
            known, name = True, after["tier"]
        elif event["action"] == "user.import":
            made = after["added"] > 0 and event["at_ms"] == user["created_at_ms"]
            moved = after["moved"] > 0 and event["at_ms"] >= user["created_at_ms"]
            known = known and not (made or moved)
        elif known and name == event["subject"]:
            name = after["move_to"]
    return known, name


def _backward(present: str | None, later: Sequence[Row]) -> tuple[bool, str | None, int | None]:
    """The same from what stands now and was done since; last, the time of the act that
    says so, None for what stands now."""
    known, name, until_ms = True, present, None
    for event in reversed(later):
        if event["action"] == "user.set-tier":
            known, name, until_ms = True, event["before"]["tier"], event["at_ms"]
        elif event["action"] == "user.import":
            known = known and event["after"]["moved"] == 0
        elif name == event["after"]["move_to"]:
            # On this tier already, or moved here from the one that was deleted.
            known = False
    return known, name, until_ms
