"""`quotactl grant`: extra units for one user, or for all whom a throttle hit."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated, Any

from quotactl.cli.declared import Argument, Noun, Option
from quotactl.cli.invocation import invocation
from quotactl.cli.options import (
    All,
    DryRun,
    For,
    OfUser,
    Reason,
    Resource,
    Ticket,
    Until,
    parse_id,
)
from quotactl.cli.outcome import conclude, opened, rehearsed, show
from quotactl.errors import InvalidInput

app = Noun()


@app.command("add")
def add(
    user: Annotated[
        str | None, Argument(metavar="[USER]", help="The user's id; not with a throttle.")
    ] = None,
    amount: Annotated[
        str | None, Argument(metavar="[RESOURCE=AMOUNT]", help="Such as image=10.")
    ] = None,
    duration: For = None,
    until: Until = None,
    priority: Annotated[
        int, Option("--priority", metavar="N", help="Lower ones are used up first.")
    ] = 0,
    from_throttle: Annotated[
        str | None,
        Option(
            "--from-throttle", metavar="ID|NAME", help="Everybody whom this throttle hit; once."
        ),
    ] = None,
    each: Annotated[
        str | None, Option("--each", metavar="N", help="With it: how many each gets.")
    ] = None,
    limit_to: Annotated[
        str | None,
        Option("--limit-to", metavar="refused", help="With it: only those whom it cost something."),
    ] = None,
    resource: Annotated[
        str | None,
        Option("--resource", metavar="RESOURCE", help="With it: of this resource alone."),
    ] = None,
    dry_run: DryRun = False,
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Give a user units beyond their limits; used only when a limit is reached.

    With --from-throttle, to make good once it is over: to all in its scope who asked for
    something on its days, of what they asked for, or --limit-to refused only to those
    whom `throttle report` says that it cost something.

    Examples:
      quotactl grant add ada image=10 --for 7d --reason 'sorry for Monday'
      quotactl grant add ada image=2k --priority -1 --reason 'pack 17' --ticket S-17
      quotactl grant add --from-throttle gpu-melt --each 3 --limit-to refused --dry-run --reason x
    """
    if from_throttle is not None:
        from quotactl.cli.aftermath import make_good

        if user is not None:
            raise InvalidInput(
                "both a user and a throttle are given", hint="--from-throttle finds the users"
            )
        make_good(
            from_throttle,
            each=each,
            limit_to=limit_to,
            resource=resource,
            duration=duration,
            until=until,
            priority=priority,
            dry_run=dry_run,
            reason=reason,
            ticket=ticket,
        )
        return
    if each is not None or limit_to is not None or resource is not None:
        raise InvalidInput("--each, --limit-to and --resource go with --from-throttle")
    if user is None or amount is None:
        what = "USER" if user is None else "RESOURCE=AMOUNT"
        raise InvalidInput(f"missing argument '{what}'", hint="see quotactl grant add --help")
    _add_one(
        user,
        amount,
        dry_run=dry_run,
        priority=priority,
        duration=duration,
        until=until,
        reason=reason,
        ticket=ticket,
    )


def _add_one(user: str, amount: str, *, dry_run: bool, **terms: Any) -> None:
    from quotactl.policy.notation import parse_amount, parse_assignment

    resource, text = parse_assignment(amount, "grant", example="image=10")
    units = parse_amount(text)
    with opened() as q:
        if dry_run:
            invocation().say("dry run, nothing is changed:")
        admin = rehearsed(q) if dry_run else q.admin
        conclude(admin.add_grant(user=user, resource=resource, amount=units, **terms))


@app.command("revoke")
def revoke(
    grant: Annotated[str, Argument(metavar="ID", help="As `grant list` shows it.")],
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

    with (
        opened() as q,
        closing(
            listing.grants(
                q.engine, q.now_ms(), user=user, resource=resource, everything=everything
            )
        ) as found,
    ):
        show(
            found,
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
