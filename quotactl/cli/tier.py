"""`quotactl tier`: named sets of limits."""

from __future__ import annotations

from typing import Annotated

from quotactl.cli.declared import Noun, Option
from quotactl.cli.invocation import invocation
from quotactl.cli.options import All, Reason, Ticket, TierName
from quotactl.cli.outcome import conclude, opened, rehearsed, show

app = Noun()


@app.command("create")
def create(
    tier: TierName,
    protected: Annotated[bool, Option("--protected", help="Throttles spare it.")] = False,
    default: Annotated[bool, Option("--default", help="The tier of unknown users.")] = False,
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Make a tier. The first one becomes the default.

    Examples:
      quotactl tier create free
      quotactl tier create pro --protected
    """
    with opened() as q:
        conclude(
            q.admin.create_tier(
                tier, protected=protected, default=default, reason=reason, ticket=ticket
            )
        )


@app.command("list")
def list_tiers(everything: All = False) -> None:
    """List the tiers with their limits.

    Examples:
      quotactl tier list
      quotactl tier list --all --json
    """
    from quotactl.reports import listing

    with opened() as q:
        found = listing.tiers(q.engine, everything=everything)
        columns = ["name", "default", "protected", "limits"]
        show(found, [*columns, *(["retired_at"] if everything else [])])


@app.command("show")
def show_tier(tier: TierName) -> None:
    """Show one tier: its limits, and how many users were put on it.

    Examples:
      quotactl tier show free
      quotactl tier show free --json
    """
    from quotactl.reports import listing

    with opened() as q:
        invocation().emit(listing.tier_detail(q.engine, tier))


@app.command("delete")
def delete(
    tier: TierName,
    move_to: Annotated[
        str | None, Option("--move-to", metavar="TIER", help="Where its users go.")
    ] = None,
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Retire a tier; its history stays. Asks if users are on it.

    Examples:
      quotactl tier delete trial
      quotactl tier delete trial --move-to free --yes
    """
    from quotactl.reports import listing

    with opened() as q:
        planned = rehearsed(q).delete_tier(tier, move_to=move_to, reason=reason, ticket=ticket)
        if planned.changed and (users := listing.tier_detail(q.engine, tier).users):
            whom = f"{users} user{'s' if users > 1 else ''}"
            invocation().confirm(f"Delete tier {tier} and move its {whom} to {move_to}?")
        conclude(q.admin.delete_tier(tier, move_to=move_to, reason=reason, ticket=ticket))


@app.command("default")
def default(tier: TierName, reason: Reason = None, ticket: Ticket = None) -> None:
    """Name the tier of unknown users, and of those who were never put on one.

    Examples:
      quotactl tier default free
    """
    with opened() as q:
        conclude(q.admin.set_default_tier(tier, reason=reason, ticket=ticket))


@app.command("protect")
def protect(tier: TierName, reason: Reason = None, ticket: Ticket = None) -> None:
    """Make throttles spare a tier, unless they are told otherwise.

    Examples:
      quotactl tier protect pro
    """
    with opened() as q:
        conclude(q.admin.protect_tier(tier, reason=reason, ticket=ticket))


@app.command("unprotect")
def unprotect(tier: TierName, reason: Reason = None, ticket: Ticket = None) -> None:
    """Let throttles reach a tier again.

    Examples:
      quotactl tier unprotect pro
    """
    with opened() as q:
        conclude(q.admin.unprotect_tier(tier, reason=reason, ticket=ticket))
