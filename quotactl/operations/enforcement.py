"""Enforcement: whether limits hold, are only watched, or not looked at."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from quotactl.errors import InvalidInput
from quotactl.ledger.loaded import Row
from quotactl.ledger.views import Outcome
from quotactl.operations.acts import Act, Acts
from quotactl.operations.switches import (
    ENFORCEMENT_KINDS,
    end_switch,
    ending,
    facts,
    live,
    move_end,
    switch_end,
    switch_on,
    switch_view,
    whom,
)
from quotactl.policy.levers import scope_of
from quotactl.policy.model import Scope


class EnforcementActs(Acts):
    """Acts on enforcement."""

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
            scope = scope_of(act.book.policy, resources, tiers)
            if mode == "on":
                return _hold_again(act, scope, everything=not resources and not tiers)
            ends_at_ms = switch_end(
                act.book, act.now_ms, duration=duration, until=until, no_expiry=no_expiry
            )
            # The same again leaves the end where it is, unless one is named.
            named = duration is not None or until is not None or no_expiry
            return weaken(act, mode, scope, ends_at_ms, end_is_named=named)


def weaken(
    act: Act,
    mode: str,
    scope: Scope,
    ends_at_ms: int | None,
    *,
    end_is_named: bool,
    preset: str | None = None,
) -> Outcome:
    """Put shadow or off on for a scope, in place of whatever else is on for exactly that."""
    present = [s for s in live(act, ENFORCEMENT_KINDS) if act.book.scope_of(s) == scope]
    same = next((s for s in present if s["kind"] == mode), None)
    if same is not None:
        return _same_again(act, same, ends_at_ms if end_is_named else same["ends_at_ms"])
    for switch in present:
        end_switch(act, switch)
    values: Row = {"kind": mode, "freeze_grants": 0, "include_protected": 0, "preset": preset}
    switch = switch_on(
        act,
        f"enforcement.{mode}",
        values,
        scope,
        starts_at_ms=act.now_ms,
        ends_at_ms=ends_at_ms,
        replaced=present,
    )
    view = switch_view(act.book, switch, act.now_ms)
    was = f", no more {present[0]['kind']}" if present else ""
    message = f"enforcement is {mode} for {whom(view)}, {ending(act, ends_at_ms)}{was}"
    return Outcome(True, message, view.to_dict())


def _hold_again(act: Act, scope: Scope, *, everything: bool) -> Outcome:
    found = [s for s in live(act, ENFORCEMENT_KINDS) if everything or act.book.scope_of(s) == scope]
    item = {"mode": "on", "lifted": [s["id"] for s in found]}
    if not found:
        return Outcome(False, "enforcement is on already", item)
    for switch in found:
        end_switch(act, switch)
    act.record("enforcement.on", before={"switches": [facts(act.book, s) for s in found]})
    return Outcome(True, "enforcement is on", item)


def _same_again(act: Act, switch: Row, ends_at_ms: int | None) -> Outcome:
    """Move the end of an enforcement switch, or say that it lies there already."""
    mode = switch["kind"]
    if ends_at_ms == switch["ends_at_ms"]:
        view = switch_view(act.book, switch, act.now_ms)
        message = f"enforcement is {mode} already, {ending(act, ends_at_ms)}; to move it: --for"
        return Outcome(False, message, view.to_dict())
    view = move_end(act, "enforcement", switch, ends_at_ms)
    message = f"enforcement is {mode} for {whom(view)}, now {ending(act, ends_at_ms)}"
    return Outcome(True, message, view.to_dict())
