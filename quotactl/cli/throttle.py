"""`quotactl throttle`: what on-call reaches for at 3 a.m."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from quotactl.cli.invocation import invocation
from quotactl.cli.options import All, For, NoExpiry, Reason, Resources, Ticket, Tiers, Until
from quotactl.cli.outcome import conclude, opened, rehearsed, show, worded

if TYPE_CHECKING:
    from quotactl.ledger.views import Outcome
    from quotactl.operations.admin import Admin

app = typer.Typer()

Throttle = Annotated[str, typer.Argument(metavar="ID|NAME", help="As `throttle list` shows it.")]

_WORDS = {"tiers": "all", "resources": "all", "ends_at": "never"}


@app.command("on")
def on(
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="A name to lift it by.")
    ] = None,
    resource: Resources = None,
    tier: Tiers = None,
    deny: Annotated[bool, typer.Option("--deny", help="Nothing at all, grants included.")] = False,
    cap: Annotated[
        str | None, typer.Option("--cap", metavar="N/PERIOD", help="At most so many: 3/day.")
    ] = None,
    scale: Annotated[
        str | None, typer.Option("--scale", metavar="P%", help="A part of every limit: 25%.")
    ] = None,
    floor: Annotated[
        str | None, typer.Option("--floor", metavar="N", help="With --scale: not below this.")
    ] = None,
    duration: For = None,
    until: Until = None,
    no_expiry: NoExpiry = False,
    freeze_grants: Annotated[
        bool, typer.Option("--freeze-grants", help="Grants don't pay meanwhile.")
    ] = False,
    include_protected: Annotated[
        bool, typer.Option("--include-protected", help="Spare nobody.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="In place of one for the same with another value.")
    ] = False,
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Lower or stop what may be taken, from the next decision in every process on.

    One of --deny, --cap and --scale. It changes nothing below it and ends by itself:
    after an hour, unless --for, --until or --no-expiry say otherwise. Without --resource
    it is for all of them, and asks.

    Examples:
      quotactl throttle on --resource image --tier free --cap 1/day --for 6h --reason 'GPUs melt'
      quotactl throttle on --resource image --scale 25% --floor 1 --until 18:00 --reason INC-9
      quotactl throttle on --name stop --deny --for 30m --yes --reason 'wrong images go out'
    """
    from quotactl.policy.notation import parse_number, parse_percent

    this = invocation()
    percent = None if scale is None else parse_percent(scale)
    lowest = None if floor is None else parse_number(floor, "floor")

    with opened(notice=False) as q:

        def act(admin: Admin) -> Outcome:
            return admin.throttle_on(
                deny=deny,
                cap=cap,
                scale=percent,
                floor=lowest,
                resources=resource or (),
                tiers=tier or (),
                name=name,
                duration=duration,
                until=until,
                no_expiry=no_expiry,
                freeze_grants=freeze_grants,
                include_protected=include_protected,
                replace=replace,
                reason=reason,
                ticket=ticket,
            )

        if not resource and not this.yes:
            planned = act(rehearsed(q))
            if planned.changed:
                # What follows the id, which is not given out yet.
                what = planned.message.partition(": ")[2]
                this.confirm(f"Throttle every resource: {what}?")
        outcome = act(q.admin)
        conclude(outcome)
        if outcome.changed:
            this.say(f"undo: {_undo(outcome.item['id'])}")


@app.command("off")
def off(throttle: Throttle, reason: Reason = None, ticket: Ticket = None) -> None:
    """Lift a throttle: what was below it holds again, exactly.

    Examples:
      quotactl throttle off 42 --reason 'load is back to normal'
      quotactl throttle off gpu-melt --reason over
    """
    with opened() as q:
        conclude(q.admin.throttle_off(throttle, reason=reason, ticket=ticket))


@app.command("extend")
def extend(
    throttle: Throttle,
    duration: For = None,
    until: Until = None,
    no_expiry: NoExpiry = False,
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Move the end of a throttle, later or earlier; --for counts from now.

    Examples:
      quotactl throttle extend 42 --for 2h --reason 'not over yet'
      quotactl throttle extend gpu-melt --until 'tomorrow 09:00' --reason INC-9
    """
    with opened(notice=False) as q:
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
    from quotactl.operations.emergency import describe
    from quotactl.reports import listing

    with opened() as q:
        found = listing.throttles(q.engine, q.now_ms(), everything=everything)
        state = ["state"] if everything else []
        if invocation().output in {"json", "jsonl"}:
            show(found, [])
            return
        # Fits into 80 columns, and reads as it is said.
        rows = [{**worded(view, _WORDS), "what": describe(view)} for view in found]
        show(rows, ["id", "name", "what", "ends_at", *state, "reason"])


@app.command("show")
def show_throttle(throttle: Throttle) -> None:
    """Show one throttle, also one that is over.

    Examples:
      quotactl throttle show 42
      quotactl throttle show gpu-melt --json
    """
    from quotactl.reports import listing

    with opened() as q:
        found = listing.throttle_detail(q.engine, throttle, q.now_ms())
        invocation().emit(worded(found, _WORDS))


def _undo(throttle_id: int) -> str:
    """The command line that lifts a throttle, for the ledger that was named."""
    import shlex

    ledger = invocation().ledger
    where = ["--db", ledger] if ledger else []
    words = ["quotactl", *where, "throttle", "off", str(throttle_id), "--reason", "over"]
    return shlex.join(words)
