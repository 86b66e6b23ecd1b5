"""`quotactl preset`: several throttles and an enforcement mode under one name."""

from __future__ import annotations

import sys
from time import sleep
from typing import TYPE_CHECKING, Annotated

from quotactl.cli import foresee
from quotactl.cli.declared import Argument, Noun, Option
from quotactl.cli.invocation import invocation
from quotactl.cli.levers import AllowImpact, Replace
from quotactl.cli.options import For, NoExpiry, Reason, Ticket, Until
from quotactl.cli.outcome import conclude, note_in_force, opened, person_is_watching, show, undo
from quotactl.errors import InvalidInput

if TYPE_CHECKING:
    from quotactl.api import Ledger
    from quotactl.reports.presets import DrillReport

app = Noun()

Name = Annotated[str, Argument(metavar="NAME", help="The preset's name in the policy file.")]

# Of what came on, the flat formats show the ids: `throttle show` has the rest.
_SWITCHED = ("preset", "on", "already_on", "changed")

# How long a wait sleeps at most: a drill may be ended from elsewhere.
TICK_S = 1.0


@app.command("list")
def list_presets() -> None:
    """List the presets: what each does, and whether it is on.

    They are written in the policy file, as [preset.NAME]. `partly` is one of which not
    all is on, or no longer as the file says.

    Examples:
      quotactl preset list
      quotactl preset list --json
    """
    from quotactl.reports import presets

    with opened() as q:
        found = presets.presets(q.engine, q.now_ms())
        if invocation().output in {"json", "jsonl"}:
            show(found, [])
            return
        rows = [
            {**view.to_dict(), "state": f"{view.state}{', drill' if view.drill else ''}"}
            for view in found
        ]
        show(rows, ["name", "state", "what"])


@app.command("show")
def show_preset(name: Name) -> None:
    """Show what a preset puts on, for how long, and what of it is on now.

    Examples:
      quotactl preset show gpu-melt
      quotactl preset show gpu-melt --json
    """
    from quotactl.reports import presets

    this = invocation()
    with opened() as q:
        found = presets.preset_detail(q.engine, name, q.now_ms())
        if this.output in {"json", "jsonl"}:
            this.emit(found)
            return
        rows = []
        for lever in found.levers:
            end = "never" if lever.switch_id is not None and lever.ends_at is None else None
            rows.append(
                {
                    "what": lever.what,
                    "for": lever.duration,
                    "on": lever.switch_id,
                    "ends_at": lever.ends_at or end,
                    "message": lever.message,
                }
            )
        messages = ["message"] if any(row["message"] for row in rows) else []
        this.emit(
            rows,
            columns=["what", "for", "on", "ends_at", *messages],
            title=f"{found.name}: {found.state}",
        )


@app.command("preview")
def preview(
    name: Name,
    duration: For = None,
    until: Until = None,
    no_expiry: NoExpiry = False,
    replace: Replace = False,
    allow_impact: Annotated[bool, Option("--allow-impact", hidden=True)] = False,  # noqa: ARG001 - preview takes what `on` takes
    reason: Reason = None,  # noqa: ARG001
    ticket: Ticket = None,  # noqa: ARG001
    day: foresee.Day = None,
    days: foresee.Days = None,
) -> None:
    """What a preset's throttles would do to the demand so far today; changes nothing.

    All of them together. It takes what `preset on` takes.

    Examples:
      quotactl preset preview gpu-melt
      quotactl preset preview gpu-melt --day yesterday
      quotactl preset preview gpu-melt --days 7 --json
    """
    from quotactl.operations.emergency import Timing
    from quotactl.operations.presets import preset_named
    from quotactl.policy.levers import mode_text

    with opened() as q:
        with q.engine.reading() as book:
            preset = preset_named(book, name)
        timing = Timing(None, duration, until, no_expiry)
        foresee.show(q, preset.throttles, timing, day=day, days=days, replace=replace)
        if preset.enforcement is not None:
            text = mode_text(preset.enforcement)
            invocation().say(f"This leaves out the preset's {text}, which would refuse nothing.")


@app.command("on")
def on(
    name: Name,
    duration: For = None,
    until: Until = None,
    no_expiry: NoExpiry = False,
    replace: Replace = False,
    allow_impact: AllowImpact = False,
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Put everything that a preset names on, in one transaction, or nothing of it.

    Each part ends by itself: when the preset says, else after an hour. --for, --until and
    --no-expiry are for all of them instead. What is on already is left as it is. It asks
    where `throttle on` asks.

    Examples:
      quotactl preset on gpu-melt --reason 'our GPUs are melting' --ticket INC-9
      quotactl preset on gpu-melt --for 6h --reason INC-9
    """
    from quotactl.cli.guard import guard

    with opened(notice=False) as q:
        outcome = q.admin.preset_on(
            name,
            duration=duration,
            until=until,
            no_expiry=no_expiry,
            replace=replace,
            reason=reason,
            ticket=ticket,
            approve=guard(q, allow_impact=allow_impact),
        )
        conclude(outcome, columns=_SWITCHED)
        if outcome.changed:
            invocation().say(f"undo: {undo('preset', 'off', name)}")
        if outcome.changed and outcome.item["enforcement"] is None:
            note_in_force(q, throttles=False)


@app.command("off")
def off(name: Name, reason: Reason = None, ticket: Ticket = None) -> None:
    """Lift all that came on with a preset: what was below holds again, exactly.

    A drill of it ends too. What was on before the preset stays.

    Examples:
      quotactl preset off gpu-melt --reason 'load is back to normal'
    """
    with opened() as q:
        conclude(q.admin.preset_off(name, reason=reason, ticket=ticket))


@app.command("drill")
def drill(
    name: Name,
    duration: For = None,
    report: Annotated[
        bool, Option("--report", help="What the newest drill of it would have denied.")
    ] = False,
    wait: Annotated[
        bool | None,
        Option("--wait/--no-wait", help="Until it is over; a terminal waits by itself."),
    ] = None,
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Try a preset's throttles for ten minutes, or --for so long, and deny nobody.

    Counts what they would have denied of what is asked for meanwhile, each request by
    itself: exact for caps per day and one unit at a time, elsewhere an estimate, since
    what would have been denied is used, and grants are not used up. The preset's
    enforcement mode is not tried. On a terminal it waits for the end and shows the
    report; Ctrl-C leaves the drill on.

    Examples:
      quotactl preset drill gpu-melt --for 10m --reason 'before the launch'
      quotactl preset drill gpu-melt --report
      quotactl preset off gpu-melt --reason 'seen enough'
    """
    if report and (duration is not None or reason is not None or ticket is not None):
        raise InvalidInput(
            "--report shows a drill and begins none", hint="leave --for, --reason and --ticket out"
        )
    this = invocation()
    with opened() as q:
        if report:
            if wait:
                _wait(q, name)
            _show_report(q, name)
            return
        outcome = q.admin.preset_drill(name, duration=duration, reason=reason, ticket=ticket)
        if person_is_watching() if wait is None else wait:
            this.say(outcome.message)
            _wait(q, name)
            _show_report(q, name)
            return
        conclude(outcome, columns=_SWITCHED)
        this.say(f"its report: {_report_command(name)}")


def _wait(q: Ledger, name: str) -> None:
    """Return when the newest drill of a preset is over."""
    from quotactl.policy.notation import duration_text
    from quotactl.policy.window import to_ms
    from quotactl.reports.presets import drill_report

    this = invocation()
    line = person_is_watching()
    try:
        while not (seen := drill_report(q.engine, name, q.now_ms())).over:
            left_ms = None if seen.ends_at is None else to_ms(seen.ends_at) - q.now_ms()
            if line:
                left = "no end" if left_ms is None else f"{duration_text(left_ms + 999)} left"
                # One line that is written over; the end of the old one may stick out.
                sys.stderr.write(f"\r{left}, {_would(seen)} so far\x1b[K")
                sys.stderr.flush()
            sleep(TICK_S if left_ms is None else max(0.001, min(TICK_S, left_ms / 1000)))
    except KeyboardInterrupt:
        if line:
            sys.stderr.write("\n")
        this.say(f"the drill goes on; its report: {_report_command(name)}")
        raise
    if line:
        sys.stderr.write("\r\x1b[K")


def _show_report(q: Ledger, name: str) -> None:
    from quotactl.policy.notation import instant_text
    from quotactl.policy.window import to_ms
    from quotactl.reports.presets import drill_report

    this = invocation()
    found = drill_report(q.engine, name, q.now_ms())
    if this.output in {"json", "jsonl"}:
        this.emit(found)
        return
    rows = [
        {
            "id": throttle.id,
            "what": throttle.what,
            "tier": tier.tier if tier else None,
            "requests": tier.requests if tier else 0,
            "units": tier.units if tier else 0,
        }
        for throttle in found.throttles
        for tier in throttle.tiers or (None,)
    ]
    show(rows, ["id", "what", "tier", "requests", "units"])
    with q.engine.reading() as book:
        calendar = book.policy.calendar
    since = instant_text(to_ms(found.starts_at), calendar)
    until = (
        "with no end"
        if found.ends_at is None
        else f"to {instant_text(to_ms(found.ends_at), calendar)}"
    )
    state = "is over" if found.over else "is still on"
    this.say(f"the drill of {name}, {since} {until}, {state}; it {_would(found)}")


def _would(found: DrillReport) -> str:
    deny = found.would_deny
    verb = "would have denied"
    requests = f"{deny.requests} request{'' if deny.requests == 1 else 's'}"
    return f"{verb} {requests}, {deny.units} unit{'' if deny.units == 1 else 's'}"


def _report_command(name: str) -> str:
    import shlex

    ledger = invocation().ledger
    where = ["--db", ledger] if ledger else []
    return shlex.join(["quotactl", *where, "preset", "drill", name, "--report"])
