"""`quotactl grant`: extra units for one user."""

from __future__ import annotations

from typing import Annotated

import typer

from quotactl.cli.options import (
    All,
    For,
    OfUser,
    Reason,
    Resource,
    Ticket,
    Until,
    User,
    parse_id,
)
from quotactl.cli.outcome import conclude, opened, show

app = typer.Typer()


@app.command("add")
def add(
    user: User,
    amount: Annotated[str, typer.Argument(metavar="RESOURCE=AMOUNT", help="Such as image=10.")],
    duration: For = None,
    until: Until = None,
    priority: Annotated[
        int, typer.Option("--priority", metavar="N", help="Lower ones are used up first.")
    ] = 0,
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Give a user units beyond their limits; used only when a limit is reached.

    Examples:
      quotactl grant add ada image=10 --for 7d --reason 'sorry for Monday'
      quotactl grant add ada image=2k --priority -1 --reason 'pack 17' --ticket S-17
    """
    from quotactl.policy.notation import parse_amount, parse_assignment

    resource, text = parse_assignment(amount, "grant", example="image=10")
    units = parse_amount(text)
    with opened() as q:
        conclude(
            q.admin.add_grant(
                user=user,
                resource=resource,
                amount=units,
                priority=priority,
                duration=duration,
                until=until,
                reason=reason,
                ticket=ticket,
            )
        )


@app.command("revoke")
def revoke(
    grant: Annotated[str, typer.Argument(metavar="ID", help="As `grant list` shows it.")],
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Take back what is left of a grant.

    Examples:
      quotactl grant revoke 7 --reason 'wrong user'
    """
    grant_id = parse_id(grant, "grant")
    with opened() as q:
        conclude(q.admin.revoke_grant(grant_id, reason=reason, ticket=ticket))


@app.command("list")
def list_grants(user: OfUser = None, resource: Resource = None, everything: All = False) -> None:
    """List the grants that are live.

    Examples:
      quotactl grant list
      quotactl grant list --user ada --resource image --all
    """
    from quotactl.reports import listing

    with opened() as q:
        show(
            listing.grants(
                q.engine, q.now_ms(), user=user, resource=resource, everything=everything
            ),
            [
                "id",
                "user",
                "resource",
                "amount",
                "remaining",
                "priority",
                "expires_at",
                "state",
                "reason",
            ],
        )
