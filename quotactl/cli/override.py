"""`quotactl override`: another limit for one user."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

from quotactl.cli.declared import Argument, Noun, Option
from quotactl.cli.options import All, For, OfUser, OptionalResource, Reason, Ticket, Until, User
from quotactl.cli.outcome import conclude, opened, show

app = Noun()


@app.command("set")
def set_override(
    user: User,
    limit: Annotated[str, Argument(metavar="RESOURCE=LIMIT", help="Such as image=50/day.")],
    duration: For = None,
    until: Until = None,
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Replace one user's limit for a resource, per period, for a time or for good.

    `image=50/day` replaces the daily limit alone, `image=unlimited` those of every period.

    Examples:
      quotactl override set ada image=50/day --for 7d --reason 'press week'
      quotactl override set ada image=unlimited --until 18:00 --reason demo --ticket T-7
    """
    from quotactl.policy.notation import parse_assignment

    resource, text = parse_assignment(limit, "limit")
    with opened() as q:
        conclude(
            q.admin.set_override(
                user=user,
                resource=resource,
                limit=text,
                duration=duration,
                until=until,
                reason=reason,
                ticket=ticket,
            )
        )


@app.command("clear")
def clear(
    user: User,
    resource: OptionalResource = None,
    period: Annotated[
        str | None, Option("--period", metavar="PERIOD", help="That of this period alone.")
    ] = None,
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Take a user's overrides off: the tier's limits hold again.

    Examples:
      quotactl override clear ada
      quotactl override clear ada image --period day
    """
    with opened() as q:
        conclude(
            q.admin.clear_override(
                user=user, resource=resource, period=period, reason=reason, ticket=ticket
            )
        )


@app.command("list")
def list_overrides(user: OfUser = None, everything: All = False) -> None:
    """List the overrides that are live.

    Examples:
      quotactl override list
      quotactl override list --user ada --all --json
    """
    from quotactl.reports import listing

    with (
        opened() as q,
        closing(listing.overrides(q.engine, q.now_ms(), user=user, everything=everything)) as found,
    ):
        show(
            found,
            ["id", "user", "resource", "period", "limit", "expires_at", "state", "reason"],
            words={"limit": "unlimited", "period": "every"},
        )
