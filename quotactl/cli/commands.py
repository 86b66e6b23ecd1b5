"""The table of commands, and the options that every one of them understands."""

from __future__ import annotations

from quotactl.cli.declared import Option
from quotactl.frozen import frozen
from quotactl.render import OUTPUTS


@frozen
class Entry:
    """Where a command is found: an app or a function, by module and attribute."""

    section: str
    module: str
    attribute: str
    help: str


_START, _POLICY, _PEOPLE = "Start", "Policy", "Users"
_EMERGENCY, _QUOTA, _BOOK = "Emergency", "Quota", "The book"

COMMANDS: dict[str, Entry] = {
    name: Entry(section, f"quotactl.cli.{module}", attribute, text)
    for name, section, module, attribute, text in [
        ("init", _START, "init", "init", "Make a new ledger."),
        ("demo", _START, "demo", "demo", "See it all at work on a small ledger."),
        ("status", _START, "status", "status", "How things stand, on one screen."),
        ("doctor", _START, "doctor", "doctor", "Is all well with the ledger and its file?"),
        ("resource", _POLICY, "resource", "app", "What is counted: image, video."),
        ("tier", _POLICY, "tier", "app", "Named sets of limits."),
        ("limit", _POLICY, "limit", "app", "Ceilings for a resource per period."),
        ("setting", _POLICY, "setting", "app", "Durability, retention and the like."),
        ("policy", _POLICY, "policy", "app", "The whole policy as a file."),
        ("replay", _POLICY, "replay", "replay", "What a policy would have done to a trace."),
        ("user", _PEOPLE, "user", "app", "Tiers, blocks and protection of users."),
        ("override", _PEOPLE, "override", "app", "Another limit for one user, for a time."),
        ("grant", _PEOPLE, "grant", "app", "Extra units for one user."),
        ("throttle", _EMERGENCY, "throttle", "app", "Lower or stop what tiers may take, now."),
        ("preset", _EMERGENCY, "preset", "app", "Several throttles under one name."),
        ("enforcement", _EMERGENCY, "enforcement", "app", "Enforce, only watch, or let all pass."),
        ("check", _QUOTA, "consume", "check", "Ask, and take nothing."),
        ("consume", _QUOTA, "consume", "consume", "Ask and take."),
        ("explain", _QUOTA, "explain", "explain", "Why a request passes or not, and when."),
        ("refund", _QUOTA, "consume", "refund", "Give back what was taken."),
        ("reserve", _QUOTA, "hold", "reserve", "Hold units until posted or voided."),
        ("post", _QUOTA, "hold", "post", "Take what was held."),
        ("void", _QUOTA, "hold", "void", "Free what was held."),
        ("reset", _BOOK, "reset", "app", "Close days; give one user a fresh window."),
        ("report", _BOOK, "report", "app", "Usage by user, tier, resource and day."),
        ("audit", _BOOK, "audit", "app", "Who changed what, when and why."),
        ("db", _BOOK, "db", "app", "Back up, restore, migrate and verify the ledger."),
    ]
}


@frozen
class Everywhere:
    """An option of every command: what it sets of the invocation, to its value or to `to`."""

    option: Option
    attribute: str
    to: object = None


EVERYWHERE = (
    Everywhere(Option("--db", metavar="PATH|URL", help="The ledger; else QUOTACTL_DB."), "ledger"),
    Everywhere(
        Option(
            "-o",
            "--output",
            metavar="FORMAT",
            help=f"{', '.join(OUTPUTS)}; else table on a terminal, tsv in a pipe.",
        ),
        "format",
    ),
    Everywhere(Option("--json", help="The same as -o json."), "format", "json"),
    Everywhere(Option("-q", "--quiet", help="Silent on success."), "quiet", True),
    Everywhere(Option("-y", "--yes", help="Don't ask."), "yes", True),
    Everywhere(Option("--as", metavar="ACTOR", help="Who acts; else the OS user."), "act_as"),
    Everywhere(Option("--debug", help="Show a traceback when something fails."), "debug", True),
)
