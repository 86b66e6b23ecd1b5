"""`quotactl report`: usage by user, tier, resource, day and hour; who took most; a throttle."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

from quotactl.cli.declared import Noun, Option
from quotactl.cli.invocation import invocation
from quotactl.cli.options import parse_count
from quotactl.cli.outcome import opened

if TYPE_CHECKING:
    from quotactl.reports.usage import Span

app = Noun(help="What was used, granted and denied.")

USERS_SHOWN = 100

Day = Annotated[
    str | None,
    Option("--day", metavar="DAY", help="One day: 2025-03-27, today or yesterday."),
]
Days = Annotated[str | None, Option("--days", metavar="N", help="The last N days, today included.")]
From = Annotated[str | None, Option("--from", metavar="DAY", help="From this day on.")]
To = Annotated[str | None, Option("--to", metavar="DAY", help="To this day, included.")]
Resource = Annotated[
    str | None, Option("--resource", metavar="RESOURCE", help="Only this resource.")
]


@app.command("usage")
def usage(
    by: Annotated[
        str | None,
        Option("--by", metavar="GROUP", help="user, tier, resource, day or hour; else tier."),
    ] = None,
    day: Day = None,
    days: Days = None,
    first: From = None,
    last: To = None,
    resource: Resource = None,
    tier: Annotated[str | None, Option("--tier", metavar="TIER", help="Only this tier.")] = None,
    user: Annotated[str | None, Option("--user", metavar="USER", help="Only this user.")] = None,
    limit: Annotated[
        str | None,
        Option("--limit", metavar="N", help="By user: only the N largest; else 100 in a table."),
    ] = None,
) -> None:
    """Units used, granted and denied, today unless days are given.

    Used is what counts against limits: after refunds and resets. Denied is what
    was asked for and refused, repeated attempts included. By tier, a user's
    units stay with the tier that they were on at the time.

    Examples:
      quotactl report usage
      quotactl report usage --by user --day yesterday --limit 20
      quotactl report usage --by hour --tier free --day 2025-03-27
      quotactl report usage --by day --user ada --days 30 --json
    """
    from quotactl.reports.usage import columns_of, usage_flowing

    this = invocation()
    by = by or ("tier" if user is None else "user")
    most = parse_count(limit, USERS_SHOWN) if by == "user" else None
    with opened() as ledger:
        span, rows = usage_flowing(
            ledger.engine,
            ledger.now_ms(),
            by=by,
            day=day,
            days=_days(days),
            first=first,
            last=last,
            resource=resource,
            tier=tier,
            user=user,
            limit=most,
        )
        with closing(rows):
            if this.output != "table":
                this.emit(rows, columns=columns_of(by))
                return
            found = list(rows)
    caption = None
    if most is not None and len(found) == most:
        caption = f"the {most} largest; --limit N shows more"
    title = f"Usage by {by}, {_named(span)}"
    this.emit(found, columns=columns_of(by), title=title, caption=caption)


@app.command("top")
def top(
    by: Annotated[
        str, Option("--by", metavar="UNITS", help="used, granted, denied or shadow_denied.")
    ] = "used",
    day: Day = None,
    days: Days = None,
    first: From = None,
    last: To = None,
    resource: Resource = None,
    limit: Annotated[
        str | None, Option("--limit", metavar="N", help="How many users; else 10.")
    ] = None,
) -> None:
    """The users with the most units, today unless days are given.

    Examples:
      quotactl report top
      quotactl report top --by denied --day yesterday --limit 100
      quotactl report top --resource image --days 7 --json
    """
    from quotactl.reports.usage import columns_of, top_flowing

    this = invocation()
    with opened() as ledger:
        span, rows = top_flowing(
            ledger.engine,
            ledger.now_ms(),
            by=by,
            day=day,
            days=_days(days),
            first=first,
            last=last,
            resource=resource,
            limit=10 if limit is None else parse_count(limit, 10),
        )
        with closing(rows):
            if this.output != "table":
                this.emit(rows, columns=columns_of("user"))
                return
            found = list(rows)
    this.emit(found, columns=columns_of("user"), title=f"Most {by}, {_named(span)}")


app.elsewhere("throttle", "quotactl.cli.aftermath", "report")


def _days(text: str | None) -> int | None:
    from quotactl.policy.notation import parse_amount

    return None if text is None else parse_amount(text, "days")


def _named(span: Span) -> str:
    return str(span.first) if span.first == span.last else f"{span.first} to {span.last}"
