"""`quotactl resource`: what is counted."""

from __future__ import annotations

from typing import Annotated

from quotactl.cli.declared import Noun, Option
from quotactl.cli.invocation import invocation
from quotactl.cli.options import All, Reason, ResourceName, Ticket
from quotactl.cli.outcome import conclude, opened, rehearsed, show

app = Noun()


@app.command("create")
def create(
    name: ResourceName,
    unit: Annotated[
        str | None, Option("--unit", metavar="UNIT", help="What one of it is called.")
    ] = None,
    capacity: Annotated[
        str | None,
        Option("--capacity", metavar="N/PERIOD", help="What all users may have: 2M/day."),
    ] = None,
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Make a resource that can be counted.

    A capacity is the most that all users together may have of it in a window, but for
    protected ones. A policy file changes it.

    Examples:
      quotactl resource create image
      quotactl resource create video --unit second --capacity 2M/day
    """
    with opened() as q:
        conclude(
            q.admin.create_resource(
                name, unit=unit, capacity=capacity, reason=reason, ticket=ticket
            )
        )


@app.command("list")
def list_resources(everything: All = False) -> None:
    """List the resources.

    Examples:
      quotactl resource list
      quotactl resource list --all --json
    """
    from quotactl.reports import listing

    with opened() as q:
        found = listing.resources(q.engine, everything=everything)
        show(found, ["name", "unit", "capacity", *(["retired_at"] if everything else [])])


@app.command("delete")
def delete(name: ResourceName, reason: Reason = None, ticket: Ticket = None) -> None:
    """Retire a resource: nothing more is decided for it, its history stays.

    Asks if tiers list it. One made again under the same name starts at 0.

    Examples:
      quotactl resource delete video
      quotactl resource delete video --yes --reason 'no more videos'
    """
    from quotactl.reports import listing

    with opened() as q:
        planned = rehearsed(q).delete_resource(name, reason=reason, ticket=ticket)
        if planned.changed and (tiers := listing.tiers_that_list(q.engine, name)):
            invocation().confirm(f"Delete resource {name}, limited on {', '.join(tiers)}?")
        conclude(q.admin.delete_resource(name, reason=reason, ticket=ticket))
