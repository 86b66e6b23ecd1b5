"""Parameters that several commands share, each defined once.

They are types: `def block(user: User, reason: Reason = None)`. What a value means is
decided further down; here it is text, so that what is wrong is said in one place.
"""

from __future__ import annotations

from typing import Annotated

from quotactl.cli.declared import Argument, Option
from quotactl.errors import InvalidInput

User = Annotated[str, Argument(metavar="USER", help="The user's id.")]
ResourceName = Annotated[str, Argument(metavar="RESOURCE", help="What is counted.")]
OptionalResource = Annotated[
    str | None, Argument(metavar="[RESOURCE]", help="What is counted; else all of it.")
]
TierName = Annotated[str, Argument(metavar="TIER", help="The tier's name.")]
Amount = Annotated[str | None, Argument(metavar="[AMOUNT]", help="How many units: 3, 40k; else 1.")]

Reason = Annotated[str | None, Option("--reason", metavar="TEXT", help="Why; it is kept.")]
Ticket = Annotated[str | None, Option("--ticket", metavar="ID", help="The case it belongs to.")]
For = Annotated[
    str | None, Option("--for", metavar="DURATION", help="How long: 30m, 2h, 1h30m, 7d.")
]
Until = Annotated[
    str | None,
    Option(
        "--until",
        metavar="TIME",
        help="When it ends: 18:00, 'tomorrow 09:00', 2025-03-28T09:00:00Z.",
    ),
]
NoExpiry = Annotated[bool, Option("--no-expiry", help="It ends when it is lifted.")]
Resource = Annotated[
    str | None, Option("--resource", metavar="RESOURCE", help="For this resource alone.")
]
Resources = Annotated[
    list[str] | None,
    Option("--resource", metavar="RESOURCE", help="A resource; repeatable; else all."),
]
Tiers = Annotated[
    list[str] | None, Option("--tier", metavar="TIER", help="A tier; repeatable; else all.")
]
OfUser = Annotated[str | None, Option("--user", metavar="USER", help="Those of this user alone.")]
All = Annotated[bool, Option("--all", help="What is over too, not only what is live.")]
Key = Annotated[
    str | None,
    Option("--key", metavar="KEY", help="Your name for this request: a retry is free."),
]
DryRun = Annotated[bool, Option("--dry-run", help="Say what would change, change nothing.")]

ID_MAX = 2**63 - 1


def parse_id(text: str, what: str) -> int:
    """An id of ours, a whole number from 1 on."""
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text[:20]) <= ID_MAX:
        raise InvalidInput(f"{what} {text[:40]!r} is no id", hint="a whole number, such as 42")
    return int(text)


# More than any list has; still a number for SQLite.
EVERYTHING = 2**53


def parse_count(text: str | None, on_a_screen: int) -> int:
    """How many to show. Unless told, a table has as many as a person reads, and a
    program gets everything."""
    from quotactl.cli.invocation import invocation
    from quotactl.policy.notation import parse_amount

    if text is not None:
        return parse_amount(text, "limit")
    return on_a_screen if invocation().output == "table" else EVERYTHING
