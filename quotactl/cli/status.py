"""`quotactl status`: how things stand, on one screen."""

from __future__ import annotations

from quotactl.cli.invocation import Invocation, invocation
from quotactl.cli.outcome import opened


def status() -> None:
    """How things stand: today's units, what is in force, which days wait to be closed.

    Examples:
      quotactl status
      quotactl status --json | jq .today
    """
    from quotactl.reports.status import left
    from quotactl.reports.status import status as report

    this = invocation()
    with opened() as ledger:
        state = report(ledger.engine, ledger.now_ms())
    if this.output != "table":
        this.emit(state)
        return
    this.emit(
        {
            "ledger": state.name,
            "day": f"{state.day} ({state.zone})",
            "users": state.users,
            "tiers": f"{state.tiers}, unknown users on {state.default_tier or 'none'}",
            "enforcement": state.enforcement,
            "closed": f"to {state.last_closed}" if state.last_closed else "nothing yet",
            "waiting": f"{len(state.due)} days: quotactl reset daily" if state.due else "no day",
        },
        columns=["ledger", "day", "users", "tiers", "enforcement", "closed", "waiting"],
    )
    _gap(this)
    this.emit(
        state.today,
        columns=["resource", "requests", "used", "granted", "denied", "shadow_denied"],
        title="Today",
    )
    in_force = [
        {
            "id": view.id,
            "name": view.name,
            "what": view.kind if view.value is None else f"{view.kind} {view.value}",
            "tiers": "all" if view.tiers is None else ", ".join(view.tiers),
            "resources": "all" if view.resources is None else ", ".join(view.resources),
            "ends in": left(view, state.now),
            "by": view.actor,
            "reason": view.reason,
        }
        for view in (*state.throttles, *state.enforcement_switches)
    ]
    if in_force:
        _gap(this)
        this.emit(in_force, title="In force")


def _gap(this: Invocation) -> None:
    if not this.quiet:
        this.write("\n")
