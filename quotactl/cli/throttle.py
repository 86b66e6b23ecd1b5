"""`quotactl throttle`: what on-call reaches for at 3 a.m."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from quotactl.cli.declared import Argument, Noun, Option
from quotactl.cli.guard import guard
from quotactl.cli.invocation import invocation
from quotactl.cli.levers import (
    AllowImpact,
    Cap,
    Deny,
    Every,
    Floor,
    FreezeGrants,
    IncludeProtected,
    Message,
    Name,
    Ramp,
    Replace,
    Scale,
    StartsAt,
    Total,
)
from quotactl.cli.options import (
    All,
    DryRun,
    For,
    NoExpiry,
    Reason,
    Resources,
    Ticket,
    Tiers,
    Until,
)
from quotactl.cli.outcome import conclude, opened, show, undo, worded

if TYPE_CHECKING:
    from quotactl.api import Ledger
    from quotactl.ledger.views import SwitchView

app = Noun()

Throttle = Annotated[str, Argument(metavar="ID|NAME", help="As `throttle list` shows it.")]

_WORDS = {"tiers": "all", "resources": "all", "ends_at": "never"}


@app.command("on")
def on(
    name: Name = None,
    resource: Resources = None,
    tier: Tiers = None,
    deny: Deny = False,
    cap: Cap = None,
    total: Total = None,
    scale: Scale = None,
    floor: Floor = None,
    at: StartsAt = None,
    duration: For = None,
    until: Until = None,
    no_expiry: NoExpiry = False,
    ramp: Ramp = None,
    every: Every = None,
    freeze_grants: FreezeGrants = False,
    include_protected: IncludeProtected = False,
    message: Message = None,
    replace: Replace = False,
    allow_impact: AllowImpact = False,
    dry_run: DryRun = False,
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Lower or stop what may be taken, from the next decision in every process on.

    One of --deny, --cap, --total and --scale. It changes nothing below it and ends by
    itself: after an hour, unless --for, --until or --no-expiry say otherwise. With --ramp
    it comes on in steps; alone, a ramp is of every limit. It asks where it is for every
    resource, and where it would cut off more of the active users than the setting
    impact_limit allows.

    Examples:
      quotactl throttle on --resource image --tier free --cap 1/day --for 6h --reason 'GPUs melt'
      quotactl throttle on --resource image --total 40k/hour --until 18:00 --reason INC-9
      quotactl throttle on --resource image --ramp 10%,25%,50%,100% --every 30m --reason INC-9
      quotactl throttle on --name stop --deny --for 30m --yes --reason 'wrong images go out'
    """
    from quotactl.operations.emergency import Timing
    from quotactl.policy.levers import lever

    this = invocation()
    wanted = lever(
        deny=deny,
        cap=cap,
        total=total,
        scale=scale,
        floor=floor,
        resources=resource or (),
        tiers=tier or (),
        name=name,
        ramp=ramp,
        every=every,
        freeze_grants=freeze_grants,
        include_protected=include_protected,
        message=message,
    )
    timing = Timing(at, duration, until, no_expiry)
    if dry_run:
        from quotactl.cli import foresee

        with opened(notice=False) as q:
            foresee.show(q, [wanted], timing, replace=replace)
        return
    with opened(throttles=False) as q:
        (outcome,) = q.admin.pull(
            [wanted],
            timing,
            replace=replace,
            reason=reason,
            ticket=ticket,
            approve=guard(q, allow_impact=allow_impact),
        )
        conclude(outcome)
        if outcome.changed:
            this.say(f"undo: {undo('throttle', 'off', str(outcome.item['id']))}")


app.elsewhere("preview", "quotactl.cli.foresee", "preview")
app.elsewhere("solve", "quotactl.cli.foresee", "solve")
app.elsewhere("report", "quotactl.cli.aftermath", "report")


@app.command("off")
def off(
    throttle: Throttle,
    ramp: Annotated[
        str | None,
        Option("--ramp", metavar="P%,…", help="In steps: 25%,50%,100% of the limits."),
    ] = None,
    every: Every = None,
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Lift a throttle: what was below it holds again, exactly.

    With --ramp it goes in steps: in each, nobody has less than that part of their limit.

    Examples:
      quotactl throttle off 42 --reason 'load is back to normal'
      quotactl throttle off gpu-melt --ramp 25%,50%,100% --every 30m --reason over
    """
    with opened() as q:
        conclude(
            q.admin.throttle_off(throttle, ramp=ramp, every=every, reason=reason, ticket=ticket)
        )


@app.command("hold")
def hold(
    throttle: Throttle,
    duration: For = None,
    until: Until = None,
    no_expiry: NoExpiry = False,
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Stay at the present step of a ramp, until `throttle resume` or the throttle's end.

    Examples:
      quotactl throttle hold 42 --reason 'error rate rises again'
      quotactl throttle hold gpu-melt --for 2h --reason INC-9
    """
    with opened(throttles=False) as q:
        conclude(
            q.admin.throttle_hold(
                throttle,
                duration=duration,
                until=until,
                no_expiry=no_expiry,
                reason=reason,
                ticket=ticket,
            )
        )


@app.command("resume")
def resume(throttle: Throttle, reason: Reason = None, ticket: Ticket = None) -> None:
    """Go on with a ramp that was held: what was ahead then is as far ahead now.

    Examples:
      quotactl throttle resume 42 --reason 'error rate is fine'
    """
    with opened(throttles=False) as q:
        conclude(q.admin.throttle_resume(throttle, reason=reason, ticket=ticket))


@app.command("extend")
def extend(
    throttle: Throttle,
    duration: For = None,
    until: Until = None,
    no_expiry: NoExpiry = False,
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Move the end of a throttle, later or earlier; --for counts from now, or from a start to come.

    Examples:
      quotactl throttle extend 42 --for 2h --reason 'not over yet'
      quotactl throttle extend gpu-melt --until 'tomorrow 09:00' --reason INC-9
    """
    with opened(throttles=False) as q:
        conclude(
            q.admin.throttle_extend(
                throttle,
                duration=duration,
                until=until,
                no_expiry=no_expiry,
                reason=reason,
                ticket=ticket,
            )
        )


@app.command("list")
def list_throttles(everything: All = False) -> None:
    """List the throttles that are on or scheduled.

    Examples:
      quotactl throttle list
      quotactl throttle list --all --json
    """
    from quotactl.operations.switches import describe
    from quotactl.reports import listing

    with opened() as q:
        found = listing.throttles(q.engine, q.now_ms(), everything=everything)
        this = invocation()
        if this.output in {"json", "jsonl"}:
            show(found, [])
            return
        # Fits into 80 columns, and reads as it is said.
        rows = [
            {**_local(worded(view, _WORDS), q), "what": describe(view), "state": view.state}
            for view in found
        ]
        # On a terminal only where it says more than that all of them are on.
        waiting = any(view.state == "scheduled" for view in found) or this.output != "table"
        state = ["state"] if everything or waiting else []
        start = ["starts_at"] if waiting else []
        show(rows, ["id", "name", "what", *state, *start, "ends_at", "reason"])


@app.command("show")
def show_throttle(throttle: Throttle) -> None:
    """Show one throttle, also one that is over.

    Examples:
      quotactl throttle show 42
      quotactl throttle show gpu-melt --json
    """
    from quotactl.reports import listing

    this = invocation()
    with opened() as q:
        found = listing.throttle_detail(q.engine, throttle, q.now_ms())
        facts = worded(found, _WORDS)
        if this.output != "table":
            this.emit(facts)
            return
        facts = _local(facts, q)
        del facts["steps"]
        this.emit({name: value for name, value in facts.items() if value not in (None, False)})
        if found.steps:
            this.write("\n")
            this.emit(_time_line(found, q), title="Steps")


def _local(facts: dict[str, Any], q: Ledger) -> dict[str, Any]:
    """The same; on a terminal with its moments as all that is said beside it has them."""
    if invocation().output != "table":
        return facts
    from quotactl.policy.notation import instant_text, parse_rfc3339

    with q.engine.reading() as book:
        calendar = book.policy.calendar
    return {
        name: instant_text(parse_rfc3339(value), calendar)
        if name.endswith("_at") and value not in (None, "never")
        else value
        for name, value in facts.items()
    }


def _time_line(view: SwitchView, q: Ledger) -> list[dict[str, str]]:
    """The steps of a ramp and the end, one under the other, with where it is now."""
    from quotactl.policy.notation import instant_text
    from quotactl.policy.window import to_ms

    with q.engine.reading() as book:
        calendar = book.policy.calendar
    rows = []
    now = q.clock()
    present = [step for step in view.steps if step.at <= now]
    for step in view.steps:
        is_now = view.state == "on" and bool(present) and step is present[-1]
        what = "of the limits" if step.lifting else "of its number"
        rows.append(
            {
                "from": instant_text(to_ms(step.at), calendar),
                "step": f"{step.percent}%",
                "": "#" * max(1, step.percent // 5),
                "part": what if not (is_now and view.held_at) else f"{what}, held",
                "now": "<- now" if is_now else "",
            }
        )
    if view.ends_at is not None:
        at = instant_text(to_ms(view.ends_at), calendar)
        rows.append({"from": at, "step": "end", "": "", "part": "", "now": ""})
    return rows
