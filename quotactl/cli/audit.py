"""`quotactl audit`: who changed what, when and why."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

from quotactl.cli.declared import Argument, Noun, Option
from quotactl.cli.invocation import invocation
from quotactl.cli.options import EVERYTHING, OfUser, parse_count, parse_id
from quotactl.cli.outcome import opened, show

if TYPE_CHECKING:
    from quotactl.ledger.views import AuditView

app = Noun()


@app.command("list")
def list_acts(
    limit: Annotated[
        str | None,
        Option("--limit", metavar="N", help="The last so many; else 50 in a table."),
    ] = None,
    user: OfUser = None,
    action: Annotated[
        str | None, Option("--action", metavar="ACTION", help="Such as throttle.on.")
    ] = None,
) -> None:
    """List administrative acts, the newest last.

    Examples:
      quotactl audit list
      quotactl audit list --user ada --limit 10
      quotactl audit list --action throttle.on --json
    """
    from quotactl.reports import listing

    this = invocation()
    count = parse_count(limit, 50)
    columns = ["id", "at", "actor", "act", "reason"]
    with (
        opened() as q,
        closing(
            listing.audit_rows(
                q.engine,
                # All of them come as they stand; the last so many are looked for first.
                count=None if count == EVERYTHING else count,
                user=user,
                action=action,
            )
        ) as found,
    ):
        if this.output in {"json", "jsonl"}:
            this.emit(found)
            return
        rows = map(_line, found)
        if this.output != "table":
            this.emit(rows, columns=columns)
            return
        acts = list(rows)
    this.emit(acts, columns=columns)


def _line(act: AuditView) -> dict[str, Any]:
    """An act narrow enough for 80 columns; `audit show` and JSON have the rest."""
    return {
        "id": act.id,
        "at": act.at,
        "actor": act.actor,
        "act": " ".join(filter(None, (act.action, act.user, act.subject))),
        "reason": " ".join(filter(None, (act.reason, act.ticket and f"({act.ticket})"))),
    }


@app.command("show")
def show_act(
    act: Annotated[str, Argument(metavar="ID", help="As `audit list` shows it.")],
) -> None:
    """Show one act, with what was before and after.

    Examples:
      quotactl audit show 17
      quotactl audit show 17 --json
    """
    from quotactl.reports import listing

    audit_id = parse_id(act, "audit row")
    with opened() as q:
        invocation().emit(listing.audit_row(q.engine, audit_id))


@app.command("verify")
def verify(
    expect: Annotated[
        str | None,
        Option("--expect", metavar="HASH", help="A hash noted earlier: still in the chain?"),
    ] = None,
) -> int:
    """Check the chain of hashes: no row edited, removed or moved. Exits with 8 if it is broken.

    A chain that was written anew from some row on holds in itself; a hash that was kept
    elsewhere, as from the mail of `reset daily`, tells it.

    Examples:
      quotactl audit verify
      quotactl audit verify --expect 3f1c… && echo fine
    """
    from quotactl.reports import listing

    this = invocation()
    with opened() as q:
        chain = listing.audit_chain(q.engine, expected=expect)
    if this.output in {"json", "jsonl"}:
        this.emit(chain)
    elif not chain.ok or this.output != "table":
        show([{"difference": text} for text in chain.differences], ["difference"])
    this.say(
        f"the chain holds: {chain.rows} rows, hash {chain.hash}"
        if chain.ok
        else f"the chain is broken; differences: {len(chain.differences)}, rows: {chain.rows}"
    )
    return 0 if chain.ok else 8
