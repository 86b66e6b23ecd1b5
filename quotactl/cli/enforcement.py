"""`quotactl enforcement`: whether limits hold, are only watched, or not looked at."""

from __future__ import annotations

from quotactl.cli.declared import Noun
from quotactl.cli.invocation import invocation
from quotactl.cli.options import For, NoExpiry, Reason, Resources, Ticket, Tiers, Until
from quotactl.cli.outcome import conclude, opened, show, undo

app = Noun()


@app.command("on")
def on(
    resource: Resources = None, tier: Tiers = None, reason: Reason = None, ticket: Ticket = None
) -> None:
    """Let limits hold again: for exactly this scope, or everywhere where none is named.

    Examples:
      quotactl enforcement on --reason 'trial is over'
      quotactl enforcement on --tier free --reason 'trial is over'
    """
    with opened() as q:
        conclude(
            q.admin.enforcement_set(
                "on", resources=resource or (), tiers=tier or (), reason=reason, ticket=ticket
            )
        )


@app.command("shadow")
def shadow(
    resource: Resources = None,
    tier: Tiers = None,
    duration: For = None,
    until: Until = None,
    no_expiry: NoExpiry = False,
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Decide and count, but refuse nothing; what would have been refused is counted apart.

    Blocks still hold. Ends after an hour, unless told otherwise.

    Examples:
      quotactl enforcement shadow --tier free --for 7d --reason 'try the new limits'
    """
    _weaken("shadow", resource, tier, duration, until, no_expiry, reason, ticket)


@app.command("off")
def off(
    resource: Resources = None,
    tier: Tiers = None,
    duration: For = None,
    until: Until = None,
    no_expiry: NoExpiry = False,
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Let everything pass but blocked users; what is taken still counts.

    Ends after an hour, unless told otherwise.

    Examples:
      quotactl enforcement off --resource image --for 30m --reason 'limits are wrong'
    """
    _weaken("off", resource, tier, duration, until, no_expiry, reason, ticket)


@app.command("show")
def show_switches() -> None:
    """Show where enforcement is not on; an empty list is everything in order.

    Examples:
      quotactl enforcement show
      quotactl enforcement show --json
    """
    from quotactl.reports import listing

    with opened(notice=False) as q:
        found = listing.enforcements(q.engine, q.now_ms())
        if not found:
            invocation().say("enforcement is on")
        show(
            found,
            ["id", "kind", "tiers", "resources", "starts_at", "ends_at", "reason"],
            words={"tiers": "all", "resources": "all", "ends_at": "never"},
        )


def _weaken(
    mode: str,
    resources: list[str] | None,
    tiers: list[str] | None,
    duration: str | None,
    until: str | None,
    no_expiry: bool,
    reason: str | None,
    ticket: str | None,
) -> None:
    with opened(notice=False) as q:
        outcome = q.admin.enforcement_set(
            mode,
            resources=resources or (),
            tiers=tiers or (),
            duration=duration,
            until=until,
            no_expiry=no_expiry,
            reason=reason,
            ticket=ticket,
        )
        conclude(outcome)
        if outcome.changed:
            invocation().say(f"undo: {_undo(resources, tiers)}")


def _undo(resources: list[str] | None, tiers: list[str] | None) -> str:
    words = ["enforcement", "on"]
    for option, names in (("--resource", resources), ("--tier", tiers)):
        for name in names or ():
            words += [option, name]
    return undo(*words)
