"""`quotactl db`: the ledger's file."""

from __future__ import annotations

import typer

from quotactl.cli.invocation import invocation
from quotactl.cli.outcome import opened, show

app = typer.Typer()


@app.command("verify")
def verify() -> int:
    """Rebuild counters and grant balances from entries, check the audit's chain, and compare.

    Changes nothing. Exits with 8 if there are differences.

    Examples:
      quotactl db verify
      quotactl db verify --json
    """
    this = invocation()
    with opened() as q:
        found = q.verify()
    if this.output in {"json", "jsonl"}:
        this.emit(found)
    elif not found.ok or this.output != "table":
        show(found.differences, ["what", "where", "expected", "found"])
    counts = f"{found.entries} entries, {found.counters} counters, {found.audit_rows} audit rows"
    many = "" if len(found.differences) == 1 else "s"
    result = "no differences" if found.ok else f"{len(found.differences)} difference{many}"
    this.say(f"{result} in {counts}; audit hash {found.audit_hash}")
    return 0 if found.ok else 8


@app.command("migrate")
def migrate() -> None:
    """Bring a ledger of an older version up to date; a backup is made beside it first.

    Examples:
      quotactl db migrate
    """
    from quotactl.cli.outcome import conclude
    from quotactl.ledger.views import Outcome
    from quotactl.operations.acts import system_clock
    from quotactl.operations.migrate import migrate

    done = migrate(invocation().db, system_clock())
    if done.backup is None:
        message = f"schema {done.after} is up to date already"
    else:
        message = f"schema {done.before} is now {done.after}; the backup is {done.backup}"
    conclude(Outcome(done.backup is not None, message, done.to_dict()))
