"""`quotactl limit`: the ceilings of a tier."""

from __future__ import annotations

from typing import Annotated

from quotactl.cli.declared import Argument, Noun
from quotactl.cli.options import Reason, ResourceName, Ticket, TierName
from quotactl.cli.outcome import conclude, opened, show
from quotactl.errors import InvalidInput

app = Noun()


@app.command("set")
def set_limits(
    tier: TierName,
    limits: Annotated[
        list[str], Argument(metavar="RESOURCE=LIMIT...", help="Such as image=3/day.")
    ],
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Set a tier's limits for one resource or several, all or none.

    A resource's limits are replaced as a whole. What was used so far counts. `0/day` is
    none, `unlimited` is no limit. Periods: minute, hour, day, week, month, 5m, 3h.

    Examples:
      quotactl limit set free image=3/day
      quotactl limit set plus image=50/day,5/minute video=1/day,10/month
      quotactl limit set pro image=unlimited
    """
    from quotactl.policy.notation import parse_assignment

    wanted: dict[str, str] = {}
    for text in limits:
        resource, limit = parse_assignment(text, "limit")
        if resource in wanted:
            raise InvalidInput(
                f"resource {resource!r} is named twice",
                hint=f"{resource}={wanted[resource]},{limit} sets both",
            )
        wanted[resource] = limit
    with opened() as q:
        conclude(q.admin.set_limits(tier=tier, limits=wanted, reason=reason, ticket=ticket))


@app.command("unset")
def unset(
    tier: TierName, resource: ResourceName, reason: Reason = None, ticket: Ticket = None
) -> None:
    """Take a resource off a tier: its users may then take none of it.

    Examples:
      quotactl limit unset free video
    """
    with opened() as q:
        conclude(q.admin.unset_limit(tier=tier, resource=resource, reason=reason, ticket=ticket))


@app.command("list")
def list_limits(
    tier: Annotated[
        str | None, Argument(metavar="[TIER]", help="The tier's name; else all.")
    ] = None,
) -> None:
    """List the limits, one per tier, resource and period.

    Examples:
      quotactl limit list
      quotactl limit list free --json
    """
    from quotactl.reports import listing

    with opened() as q:
        found = listing.limits(q.engine, tier=tier)
        show(found, ["tier", "resource", "period", "limit"], words={"limit": "unlimited"})
