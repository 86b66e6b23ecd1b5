"""`quotactl setting`: the ledger's own settings."""

from __future__ import annotations

from typing import Annotated

from quotactl.cli.declared import Argument, Noun
from quotactl.cli.options import Reason, Ticket
from quotactl.cli.outcome import conclude, opened, show

app = Noun()

Setting = Annotated[str, Argument(metavar="SETTING", help="As `setting list` shows it.")]


@app.command("list")
def list_settings() -> None:
    """List the settings, what they are and what they would be by default.

    Examples:
      quotactl setting list
    """
    from quotactl.reports import listing

    with opened() as q:
        show(listing.settings(q.engine), ["key", "value", "default", "help"])


@app.command("set")
def set_setting(
    key: Setting,
    value: Annotated[str, Argument(metavar="VALUE", help="Such as 60d or relaxed.")],
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Set a setting.

    Examples:
      quotactl setting set entry_retention 60d
      quotactl setting set durability relaxed --reason 'a dev machine'
    """
    with opened() as q:
        conclude(q.admin.set_setting(key, value, reason=reason, ticket=ticket))


@app.command("unset")
def unset(key: Setting, reason: Reason = None, ticket: Ticket = None) -> None:
    """Let a setting be its default again.

    Examples:
      quotactl setting unset durability
    """
    with opened() as q:
        conclude(q.admin.unset_setting(key, reason=reason, ticket=ticket))
