"""Throttles and enforcement: what on-call switches, and what ends by itself.

A switch is one row, whatever the number of users. It edits nothing below it:
when it ends or is lifted, what was there is there again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from quotactl.errors import Conflict, InvalidInput, NotFound
from quotactl.ledger.engine import Reading, Row
from quotactl.ledger.values import rfc3339
from quotactl.ledger.views import Outcome, SwitchView
from quotactl.operations.acts import Act, Acts
from quotactl.policy.model import AMOUNT_MAX, Scope
from quotactl.policy.notation import check_name, instant_text, parse_limit
from quotactl.policy.window import from_ms, moment_of, period_of_length

DEFAULT_DURATION = "1h"
THROTTLE_KINDS = ("deny", "cap", "scale")
ENFORCEMENT_KINDS = ("shadow", "off")

# Two throttles with these in common differ at most in name, reason and end.
_SAME = ("kind", "amount_max", "period", "percent", "floor", "freeze_grants", "include_protected")


class Emergency(Acts):
    """Acts on throttles and on enforcement."""

    def throttle_on(
        self,
        *,
        deny: bool = False,
        cap: str | None = None,
        scale: int | None = None,
        floor: int | None = None,
        resources: Sequence[str] = (),
        tiers: Sequence[str] = (),
        name: str | None = None,
        duration: str | timedelta | None = None,
        until: str | datetime | None = None,
        no_expiry: bool = False,
        freeze_grants: bool = False,
        include_protected: bool = False,
        replace: bool = False,
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Outcome:
        """Lower or stop what may be taken, from the next decision in every process on.

        One of `deny`, `cap` (`3/day`) and `scale` (percent, with an optional
        `floor`). No resources means all, no tiers means all. Ends after an hour
        unless `duration`, `until` or `no_expiry` say otherwise.
        """
        values = _throttle_values(deny=deny, cap=cap, scale=scale, floor=floor)
        values["freeze_grants"] = int(freeze_grants or deny)
        values["include_protected"] = int(include_protected)
        if name is not None:
            check_name(name, "throttle")
            if name.isdecimal():
                raise InvalidInput(f"throttle {name!r} would be taken for an id")
        with self._act(reason=reason, ticket=ticket, why_needed="a throttle") as act:
            ends_at_ms = _switch_end(act, duration=duration, until=until, no_expiry=no_expiry)
            scope = _scope(act, resources, tiers)
            replaced = self._make_room(act, values, scope, name, replace=replace)
            if isinstance(replaced, Outcome):
                return replaced
            switch = _switch_on(act, "throttle.on", values, scope, name, ends_at_ms, replaced)
            view = switch_view(act.book, switch, act.now_ms)
            ending = _ending(act, ends_at_ms)
            was = f", in place of {', '.join(str(r['id']) for r in replaced)}" if replaced else ""
            message = f"throttle {_title(switch)} is on: {describe(view)}, {ending}{was}"
            return Outcome(True, message, view.to_dict())

    def throttle_off(
        self,
        throttle: int | str,
        *,
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Outcome:
        """Lift a throttle by id or name; what was below it holds again."""
        with self._act(reason=reason, ticket=ticket, why_needed="lifting a throttle") as act:
            switch = find_switch(act.book, throttle, THROTTLE_KINDS, act.now_ms)
            view = switch_view(act.book, switch, act.now_ms)
            if view.state in ("over", "lifted"):
                return Outcome(
                    False, f"throttle {_title(switch)} is {view.state} already", view.to_dict()
                )
            _switch_off(act, "throttle.off", switch)
            lifted = act.book.rows("switch", {"id": switch["id"]})[0]
            view = switch_view(act.book, lifted, act.now_ms)
            return Outcome(True, f"throttle {_title(switch)} is off", view.to_dict())

    def throttle_extend(
        self,
        throttle: int | str,
        *,
        duration: str | timedelta | None = None,
        until: str | datetime | None = None,
        no_expiry: bool = False,
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Outcome:
        """Move the end of a throttle that is on; `duration` counts from now."""
        if duration is None and until is None and not no_expiry:
            raise InvalidInput("no new end is given", hint="--for 2h, --until 18:00 or --no-expiry")
        with self._act(reason=reason, ticket=ticket, why_needed="moving a throttle's end") as act:
            switch = find_switch(act.book, throttle, THROTTLE_KINDS, act.now_ms)
            view = switch_view(act.book, switch, act.now_ms)
            if view.state in ("over", "lifted"):
                raise Conflict(
                    f"throttle {_title(switch)} is {view.state}", hint="quotactl throttle on …"
                )
            ends_at_ms = _switch_end(act, duration=duration, until=until, no_expiry=no_expiry)
            if ends_at_ms is not None and ends_at_ms <= switch["starts_at_ms"]:
                raise InvalidInput("the end lies before the start")
            ending = _ending(act, ends_at_ms)
            if ends_at_ms == switch["ends_at_ms"]:
                message = f"throttle {_title(switch)} is on {ending} already"
                return Outcome(False, message, view.to_dict())
            view = _move_end(act, "throttle", switch, ends_at_ms)
            return Outcome(True, f"throttle {_title(switch)} is on {ending}", view.to_dict())

    def enforcement_set(
        self,
        mode: str,
        *,
        resources: Sequence[str] = (),
        tiers: Sequence[str] = (),
        duration: str | timedelta | None = None,
        until: str | datetime | None = None,
        no_expiry: bool = False,
        reason: str | None = None,
        ticket: str | None = None,
    ) -> Outcome:
        """Make limits only be watched (`shadow`), not looked at (`off`), or hold again (`on`).

        `on` lifts the switches of exactly that scope, or all where none is given.
        """
        if mode not in ("on", *ENFORCEMENT_KINDS):
            raise InvalidInput(f"enforcement {mode!r} is not known", hint="on, shadow or off")
        with self._act(reason=reason, ticket=ticket, why_needed="changing enforcement") as act:
            if mode == "on":
                return self._enforce(act, resources, tiers)
            ends_at_ms = _switch_end(act, duration=duration, until=until, no_expiry=no_expiry)
            scope = _scope(act, resources, tiers)
            present = [s for s in _live(act, ENFORCEMENT_KINDS) if act.book.scope_of(s) == scope]
            same = next((s for s in present if s["kind"] == mode), None)
            if same is not None:
                # The same again leaves the end where it is, unless one is named.
                if duration is None and until is None and not no_expiry:
                    ends_at_ms = same["ends_at_ms"]
                return _same_again(act, same, ends_at_ms)
            for switch in present:
                _end_switch(act, switch)
            values: Row = {"kind": mode, "freeze_grants": 0, "include_protected": 0}
            switch = _switch_on(
                act, f"enforcement.{mode}", values, scope, None, ends_at_ms, present
            )
            view = switch_view(act.book, switch, act.now_ms)
            ending = _ending(act, ends_at_ms)
            was = f", no more {present[0]['kind']}" if present else ""
            message = f"enforcement is {mode} for {_whom(view)}, {ending}{was}"
            return Outcome(True, message, view.to_dict())

    def _enforce(self, act: Act, resources: Sequence[str], tiers: Sequence[str]) -> Outcome:
        scope = _scope(act, resources, tiers)
        everything = not resources and not tiers
        found = [
            s for s in _live(act, ENFORCEMENT_KINDS) if everything or act.book.scope_of(s) == scope
        ]
        item = {"mode": "on", "lifted": [s["id"] for s in found]}
        if not found:
            return Outcome(False, "enforcement is on already", item)
        for switch in found:
            _end_switch(act, switch)
        act.record("enforcement.on", before={"switches": [_facts(act.book, s) for s in found]})
        return Outcome(True, "enforcement is on", item)

    def _make_room(
        self, act: Act, values: Row, scope: Scope, name: str | None, *, replace: bool
    ) -> list[Row] | Outcome:
        """End what the new throttle replaces, or say that it is on already.

        Raises Conflict where something in force has the same targets, kind and
        period, or the same name, and replacing it was not asked for.
        """
        in_the_way = []
        for switch in _live(act, THROTTLE_KINDS):
            same_targets = act.book.scope_of(switch) == scope
            if same_targets and all(switch[field] == values.get(field) for field in _SAME):
                view = switch_view(act.book, switch, act.now_ms)
                ending = _ending(act, switch["ends_at_ms"])
                return Outcome(
                    False,
                    f"throttle {_title(switch)} is already on {ending}; "
                    f"to move it: quotactl throttle extend {switch['id']}",
                    view.to_dict(),
                )
            alike = same_targets and all(
                switch[field] == values.get(field) for field in ("kind", "period")
            )
            if alike or (name is not None and switch["name"] == name):
                in_the_way.append(switch)
        if in_the_way and not replace:
            switch = in_the_way[0]
            view = switch_view(act.book, switch, act.now_ms)
            raise Conflict(
                f"throttle {_title(switch)} is on for the same: {describe(view)}",
                hint="add --replace to put the new one in its place",
            )
        for switch in in_the_way:
            _end_switch(act, switch)
        return in_the_way


def find_switch(book: Reading, which: int | str, kinds: Sequence[str], now_ms: int) -> Row:
    """A switch by id, or by name: the one that is on, else the newest. NotFound if none."""
    text = str(which)
    if text.isascii() and text.isdecimal() and len(text) < 18:
        found = [s for s in book.rows("switch", {"id": int(text)}) if s["kind"] in kinds]
    else:
        found = [s for s in book.rows("switch", {"name": text}) if s["kind"] in kinds]
        found.sort(key=lambda s: (not _over(s, now_ms), s["id"]))
    if not found:
        raise NotFound(f"no throttle {which!r}", hint="quotactl throttle list --all")
    return found[-1]


def switch_view(book: Reading, row: Row, now_ms: int) -> SwitchView:
    """A switch as people see it."""
    scope = book.scope_of(row)
    period = None if row["period"] is None else period_of_length(row["period"]).name
    value = None
    if row["kind"] == "cap":
        value = f"{row['amount_max']}/{period}"
    elif row["kind"] == "scale":
        value = f"{row['percent']}%"
    if row["lifted"]:
        state = "lifted"
    elif _over(row, now_ms):
        state = "over"
    else:
        state = "on" if row["starts_at_ms"] <= now_ms else "scheduled"
    return SwitchView(
        id=row["id"],
        name=row["name"],
        kind=row["kind"],
        value=value,
        period=period,
        floor=row["floor"],
        resources=_names(scope.resource_ids, book.resource_name),
        tiers=_names(scope.tier_ids, book.tier_name),
        freeze_grants=bool(row["freeze_grants"]),
        include_protected=bool(row["include_protected"]),
        starts_at=from_ms(row["starts_at_ms"]),
        ends_at=moment_of(row["ends_at_ms"]),
        state=state,
        created_at=from_ms(row["created_at_ms"]),
        lifted_at=from_ms(row["ended_at_ms"]) if row["lifted"] else None,
        **book.why(row["audit_id"]),
    )


def describe(view: SwitchView) -> str:
    """What a switch does, in a few words: `cap 3/day for tier free, resource image`."""
    what = view.kind if view.value is None else f"{view.kind} {view.value}"
    if view.floor is not None:
        what += f" but at least {view.floor}"
    extras = []
    if view.freeze_grants and view.kind != "deny":
        extras.append("grants frozen")
    if view.include_protected:
        extras.append("protected ones too")
    extra = f" ({', '.join(extras)})" if extras else ""
    return f"{what} for {_whom(view)}{extra}"


def _whom(view: SwitchView) -> str:
    tiers = "all tiers" if view.tiers is None else f"tier {', '.join(view.tiers)}"
    resources = "all resources" if view.resources is None else f"{', '.join(view.resources)}"
    return f"{tiers}, {resources}"


def _throttle_values(*, deny: bool, cap: str | None, scale: int | None, floor: int | None) -> Row:
    if [deny, cap is not None, scale is not None].count(True) != 1:
        raise InvalidInput("a throttle is one of deny, cap and scale", hint="such as --cap 3/day")
    if floor is not None and scale is None:
        raise InvalidInput("a floor goes with a scale alone")
    if cap is not None:
        limits = parse_limit(cap)
        if len(limits) != 1 or limits[0].amount_max is None:
            raise InvalidInput(f"cap {cap!r} is not one ceiling", hint="such as 3/day")
        period = limits[0].period.length_min
        return {"kind": "cap", "amount_max": limits[0].amount_max, "period": period}
    if scale is not None:
        _check_whole("scale", scale, 100)
        if floor is not None:
            _check_whole("floor", floor, AMOUNT_MAX)
        return {"kind": "scale", "percent": scale, "floor": floor}
    return {"kind": "deny"}


def _check_whole(what: str, value: object, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InvalidInput(f"{what} {value!r} is out of range", hint=f"0 to {most}")


def _switch_end(
    act: Act,
    *,
    duration: str | timedelta | None,
    until: str | datetime | None,
    no_expiry: bool,
) -> int | None:
    if no_expiry and (duration is not None or until is not None):
        raise InvalidInput("both an end and none are given", hint="give one of them")
    if no_expiry:
        return None
    return act.end(duration=duration, until=until, default=DEFAULT_DURATION)


def _scope(act: Act, resources: Sequence[str], tiers: Sequence[str]) -> Scope:
    return Scope(
        frozenset(act.resource(name).id for name in resources) if resources else None,
        frozenset(act.tier(name).id for name in tiers) if tiers else None,
    )


def _switch_on(
    act: Act,
    action: str,
    values: Row,
    scope: Scope,
    name: str | None,
    ends_at_ms: int | None,
    replaced: Sequence[Row],
) -> Row:
    book = act.book
    switch: Row = {
        **values,
        "name": name,
        "all_resources": int(scope.resource_ids is None),
        "all_tiers": int(scope.tier_ids is None),
        "created_at_ms": act.now_ms,
        "starts_at_ms": act.now_ms,
        "ends_at_ms": ends_at_ms,
    }
    switch["id"] = book.insert("switch", switch)
    for resource_id in sorted(scope.resource_ids or ()):
        book.insert("switch_resource", {"switch_id": switch["id"], "resource_id": resource_id})
    for tier_id in sorted(scope.tier_ids or ()):
        book.insert("switch_tier", {"switch_id": switch["id"], "tier_id": tier_id})
    made = book.rows("switch", {"id": switch["id"]})[0]
    audit_id = act.record(
        action,
        subject=f"{'throttle' if values['kind'] in THROTTLE_KINDS else 'enforcement'} {made['id']}",
        before={"switches": [_facts(book, s) for s in replaced]} if replaced else None,
        after=_facts(book, made),
    )
    book.update("switch", {"id": made["id"]}, {"audit_id": audit_id})
    book.touch_policy()
    return book.rows("switch", {"id": made["id"]})[0]


def _switch_off(act: Act, action: str, switch: Row) -> None:
    _end_switch(act, switch)
    act.record(action, subject=f"throttle {switch['id']}", before=_facts(act.book, switch))


def _same_again(act: Act, switch: Row, ends_at_ms: int | None) -> Outcome:
    """Move the end of an enforcement switch, or say that it lies there already."""
    mode = switch["kind"]
    if ends_at_ms == switch["ends_at_ms"]:
        view = switch_view(act.book, switch, act.now_ms)
        message = f"enforcement is {mode} already, {_ending(act, ends_at_ms)}; to move it: --for"
        return Outcome(False, message, view.to_dict())
    view = _move_end(act, "enforcement", switch, ends_at_ms)
    message = f"enforcement is {mode} for {_whom(view)}, now {_ending(act, ends_at_ms)}"
    return Outcome(True, message, view.to_dict())


def _move_end(act: Act, what: str, switch: Row, ends_at_ms: int | None) -> SwitchView:
    act.book.update("switch", {"id": switch["id"]}, {"ends_at_ms": ends_at_ms})
    act.book.touch_policy()
    act.record(
        f"{what}.extend",
        subject=f"{what} {switch['id']}",
        before={"ends_at": _moment(switch["ends_at_ms"])},
        after={"ends_at": _moment(ends_at_ms)},
    )
    moved = act.book.rows("switch", {"id": switch["id"]})[0]
    return switch_view(act.book, moved, act.now_ms)


def _ending(act: Act, ends_at_ms: int | None) -> str:
    if ends_at_ms is None:
        return "with no end"
    return f"until {instant_text(ends_at_ms, act.book.policy.calendar)}"


def _end_switch(act: Act, switch: Row) -> None:
    act.book.update("switch", {"id": switch["id"]}, {"ended_at_ms": act.now_ms, "lifted": 1})
    act.book.touch_policy()


def _facts(book: Reading, switch: Row) -> dict[str, Any]:
    view = switch_view(book, switch, switch["starts_at_ms"]).to_dict()
    kept = ("id", "name", "kind", "value", "floor", "resources", "tiers")
    facts = {field: view[field] for field in kept}
    facts["freeze_grants"] = view["freeze_grants"]
    facts["include_protected"] = view["include_protected"]
    facts["ends_at"] = view["ends_at"]
    return facts


def _live(act: Act, kinds: Sequence[str]) -> list[Row]:
    rows = act.book.rows("switch", {"ended_at_ms": None})
    return [s for s in rows if s["kind"] in kinds and not _over(s, act.now_ms)]


def _over(switch: Row, now_ms: int) -> bool:
    if switch["ended_at_ms"] is not None:
        return True
    return switch["ends_at_ms"] is not None and now_ms >= switch["ends_at_ms"]


def _names(ids: frozenset[int] | None, name_of: Any) -> tuple[str, ...] | None:
    return None if ids is None else tuple(name_of(id_) for id_ in sorted(ids))


def _title(switch: Row) -> str:
    return f"{switch['id']} ({switch['name']})" if switch["name"] else str(switch["id"])


def _moment(at_ms: int | None) -> str | None:
    return rfc3339(moment_of(at_ms))
