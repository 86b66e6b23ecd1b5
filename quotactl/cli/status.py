"""`quotactl status`: how things stand, on one screen."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

from quotactl.cli.declared import Option
from quotactl.cli.invocation import Invocation, invocation
from quotactl.cli.outcome import opened
from quotactl.errors import InvalidInput

if TYPE_CHECKING:
    from datetime import datetime

    from quotactl.api import Ledger
    from quotactl.reports.status import Status

# To the top left, and everything away.
CLEAR = "\x1b[H\x1b[2J"


def status(
    watch: Annotated[
        bool, Option("--watch", help="Again and again, until Ctrl-C; on a terminal.")
    ] = False,
    every: Annotated[
        str | None, Option("--every", metavar="DURATION", help="With --watch: else 2s.")
    ] = None,
) -> None:
    """How things stand: today's units, what is in force and what it does, which days wait.

    Denied counts repeated attempts. Foreseen is what was estimated when a throttle came on.

    Examples:
      quotactl status
      quotactl status --watch
      quotactl status --json | jq '.throttles[].effect'
    """
    this = invocation()
    if not watch:
        if every is not None:
            raise InvalidInput("how often goes with --watch")
        with opened() as ledger:
            _show(this, ledger)
        return
    from quotactl.policy.notation import parse_duration

    seconds = parse_duration(every or "2s") / 1000
    if this.output != "table" or not sys.stdout.isatty():
        raise InvalidInput("--watch needs a terminal", hint="without it, run it as often as needed")
    with opened(notice=False) as ledger:
        while True:
            this.write(CLEAR)
            _show(this, ledger)
            sys.stdout.flush()
            pause(seconds)


def pause(seconds: float) -> None:
    """Wait, until Ctrl-C."""
    time.sleep(seconds)


def _show(this: Invocation, ledger: Ledger) -> None:
    from quotactl.operations.switches import ENFORCEMENT_KINDS
    from quotactl.reports.status import left
    from quotactl.reports.status import status as report

    state = report(ledger.engine, ledger.now_ms())
    if this.output != "table":
        this.emit(state)
        return
    facts = {
        "ledger": state.name,
        "day": f"{state.day} ({state.zone})",
        "users": state.users,
        "tiers": f"{state.tiers}, unknown users on {state.default_tier or 'none'}",
        "enforcement": state.enforcement,
        "closed": f"to {state.last_closed}" if state.last_closed else "nothing yet",
        "waiting": f"{len(state.due)} days: quotactl reset daily" if state.due else "no day",
    }
    if state.ended:
        facts["ended"] = ", ".join(
            f"{'enforcement' if one.kind in ENFORCEMENT_KINDS else 'throttle'} "
            f"{one.id}{f' ({one.name})' if one.name else ''} at {_since(one.ended_at, state)}"
            for one in state.ended
        )
    this.emit(facts, columns=list(facts))
    _gap(this)
    this.emit(
        state.today,
        columns=["resource", "requests", "used", "granted", "denied", "shadow_denied"],
        title="Today",
    )
    views = [*(now.view for now in state.throttles), *state.enforcement_switches]
    if views:
        from quotactl.operations.switches import describe

        _gap(this)
        this.emit(
            [
                {
                    "id": view.id,
                    "name": view.name,
                    "what": describe(view),
                    "since": _since(view.starts_at, state),
                    "ends in": left(view, state.now),
                    "by": view.actor,
                    "reason": view.reason,
                }
                for view in views
            ],
            title="In force",
        )
    if state.throttles:
        _gap(this)
        this.emit(
            [
                {
                    "id": now.view.id,
                    "requests": now.effect.requests,
                    "units": now.effect.units,
                    "units/h": now.effect.units_per_hour,
                    "foreseen/h": now.effect.promised_per_hour,
                }
                for now in state.throttles
            ],
            title="Denied by it so far",
        )


def _since(at: datetime, state: Status) -> str:
    """When a switch began, in the ledger's zone; with the day where it is another one."""
    from zoneinfo import ZoneInfo

    zone = ZoneInfo(state.zone)
    local = at.astimezone(zone)
    today = local.date() == state.now.astimezone(zone).date()
    return f"{local:%H:%M}" if today else f"{local:%m-%d %H:%M}"


def _gap(this: Invocation) -> None:
    if not this.quiet:
        this.write("\n")
