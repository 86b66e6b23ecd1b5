"""`quotactl user`: who is on which tier, blocked, protected."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

from quotactl.cli.declared import Argument, Noun, Option
from quotactl.cli.invocation import invocation
from quotactl.cli.options import (
    DryRun,
    For,
    Reason,
    Resource,
    Ticket,
    Until,
    User,
    parse_count,
)
from quotactl.cli.outcome import FirstOf, conclude, opened, rehearsed, worded

app = Noun()


@app.command("show")
def show_user(user: User) -> None:
    """Show one user: tier, limits with what is used and left now, and all set for them alone.

    Examples:
      quotactl user show ada
      quotactl user show ada --json
    """
    from quotactl.reports import listing

    this = invocation()
    with opened() as q:
        found = listing.user_detail(q.engine, user, q.now_ms())
        if this.output != "table":
            this.emit(found)
            return
        columns = ["user", "tier", "follows_default", "protected", "created_at"]
        this.emit(found, columns=columns)
        for title, rows, columns, words in (
            (
                "limits",
                found.limits,
                ["resource", "period", "limit", "used", "remaining", "reset_at", "rule"],
                {"limit": "unlimited", "remaining": "unlimited"},
            ),
            (
                "overrides",
                found.overrides,
                ["id", "resource", "period", "limit", "expires_at", "reason"],
                {"limit": "unlimited", "period": "every", "expires_at": "never"},
            ),
            (
                "blocks",
                found.blocks,
                ["id", "resource", "expires_at", "actor", "reason"],
                {"resource": "every", "expires_at": "never"},
            ),
            (
                "grants",
                found.grants,
                ["id", "resource", "amount", "remaining", "priority", "expires_at", "reason"],
                {"expires_at": "never"},
            ),
            ("reservations", found.reservations, ["id", "resource", "amount", "expires_at"], {}),
        ):
            if rows:
                this.write("\n")
                this.emit([worded(row, words) for row in rows], columns=columns, title=title)


@app.command("list")
def list_users(
    limit: Annotated[
        str | None,
        Option("--limit", metavar="N", help="At most so many; else 100 in a table."),
    ] = None,
    tier: Annotated[
        str | None, Option("--tier", metavar="TIER", help="Those on this tier alone.")
    ] = None,
) -> None:
    """List users, those met first first.

    Examples:
      quotactl user list
      quotactl user list --tier plus --limit 1000 --json
    """
    from quotactl.reports import listing

    this = invocation()
    count = parse_count(limit, 100)
    columns = ["user", "tier", "follows_default", "protected", "created_at"]
    with opened() as q, closing(listing.users(q.engine, tier=tier)) as everybody:
        first = FirstOf(everybody, count)
        if this.output == "table":
            found = list(first)
            this.emit(found, columns=columns, caption=_more(count) if first.more else None)
            return
        this.emit(iter(first), columns=columns)
        if first.more:
            this.say(_more(count))


def _more(count: int) -> str:
    return f"the first {count}; more with --limit"


@app.command("set-tier")
def set_tier(
    user: User,
    tier: Annotated[str | None, Argument(metavar="[TIER]", help="The tier's name.")] = None,
    follow_default: Annotated[
        bool, Option("--default", help="Let them follow the default tier instead.")
    ] = False,
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Put a user on a tier. What they used so far counts there.

    Examples:
      quotactl user set-tier ada plus
      quotactl user set-tier ada --default --reason 'subscription ended'
    """
    from quotactl.errors import InvalidInput

    if (tier is None) != follow_default:
        raise InvalidInput("name a tier, or --default", hint="quotactl user set-tier USER TIER")
    with opened() as q:
        conclude(q.admin.set_tier(user, tier, reason=reason, ticket=ticket))


@app.command("block")
def block(
    user: User,
    resource: Resource = None,
    duration: For = None,
    until: Until = None,
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Revoke a user's quota, for a time or until they are unblocked.

    Examples:
      quotactl user block mallory --reason 'stolen card'
      quotactl user block mallory --resource video --for 7d --reason abuse --ticket T-9
    """
    with opened() as q:
        conclude(
            q.admin.block(
                user,
                resource=resource,
                duration=duration,
                until=until,
                reason=reason,
                ticket=ticket,
            )
        )


@app.command("unblock")
def unblock(
    user: User, resource: Resource = None, reason: Reason = None, ticket: Ticket = None
) -> None:
    """Lift a user's blocks: the one on a resource, or all of them.

    Examples:
      quotactl user unblock mallory --reason 'it was their own card'
    """
    with opened() as q:
        conclude(q.admin.unblock(user, resource=resource, reason=reason, ticket=ticket))


@app.command("protect")
def protect(user: User, reason: Reason = None, ticket: Ticket = None) -> None:
    """Make throttles spare a user, unless they are told otherwise.

    Examples:
      quotactl user protect status-page --reason 'our own probe'
    """
    with opened() as q:
        conclude(q.admin.protect(user, reason=reason, ticket=ticket))


@app.command("unprotect")
def unprotect(user: User, reason: Reason = None, ticket: Ticket = None) -> None:
    """Let throttles reach a user again.

    Examples:
      quotactl user unprotect status-page
    """
    with opened() as q:
        conclude(q.admin.unprotect(user, reason=reason, ticket=ticket))


@app.command("import")
def import_users(
    file: Annotated[str, Argument(metavar="FILE.csv|-", help="A CSV with columns user and tier.")],
    dry_run: DryRun = False,
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Put many users on tiers, all or none, with one audit row that has the file's SHA-256.

    Other columns are not looked at.

    Examples:
      quotactl user import users.csv --reason 'the new contract'
      quotactl user import users.csv --dry-run
      generate-users | quotactl user import -
    """
    from quotactl.cli.user_import import UserFile
    from quotactl.reports import listing

    this = invocation()
    rows = UserFile.read(file)
    with opened() as q:
        rows.tiers = frozenset(tier.name for tier in listing.tiers(q.engine))
        admin = rehearsed(q) if dry_run else q.admin
        with rows.located():
            outcome = admin.import_users(rows, digest=rows.digest, reason=reason, ticket=ticket)
        if dry_run:
            this.say("dry run, nothing is changed:")
        conclude(outcome)
