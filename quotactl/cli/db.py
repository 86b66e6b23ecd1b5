"""`quotactl db`: the ledger's file."""

from __future__ import annotations

from typing import Annotated

from quotactl.cli.declared import Argument, Noun, Option
from quotactl.cli.invocation import invocation
from quotactl.cli.options import Reason, Ticket
from quotactl.cli.outcome import conclude, opened, show

app = Noun()


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
    from quotactl.ledger.views import Outcome
    from quotactl.operations.acts import system_clock
    from quotactl.operations.migrate import migrate

    done = migrate(invocation().db, system_clock())
    if done.backup is None:
        message = f"schema {done.after} is up to date already"
    else:
        message = f"schema {done.before} is now {done.after}; the backup is {done.backup}"
    conclude(Outcome(done.backup is not None, message, done.to_dict()))


@app.command("backup")
def backup(
    to: Annotated[
        str | None,
        Argument(metavar="[FILE|FOLDER]", help="Where to; else LEDGER.backups/."),
    ] = None,
    keep: Annotated[
        str | None,
        Option("--keep", metavar="N", help="Keep the newest N in the folder, remove others."),
    ] = None,
) -> None:
    """Copy the ledger while others write, check the copy, and give it its name only then.

    A copy made by cp is torn while somebody writes; this one is all that was committed at
    one moment. In a folder its name has the time in it; nothing is ever overwritten. How
    many are kept is `backup_keep`, a setting, unless --keep says it. Older ones go last,
    and only if all went well.

    Examples:
      quotactl db backup
      quotactl db backup /mnt/backups --keep 14 -q     # in cron
      quotactl db backup before-the-move.db
    """
    from pathlib import Path

    from quotactl.errors import InvalidInput
    from quotactl.operations.acts import system_clock
    from quotactl.operations.backup import back_up
    from quotactl.policy.notation import parse_amount

    this = invocation()
    count = None if keep is None else parse_amount(keep, "keep")
    if keep is not None and to is not None and not (to.endswith("/") or Path(to).is_dir()):
        raise InvalidInput("--keep goes with a folder", hint=f"{to} is none")
    with opened(notice=False) as q:
        made = back_up(q.engine, this.db, system_clock(), to=to, keep=count)
    if this.format is not None:
        this.emit(made)
    went = f"; older ones removed: {len(made.removed)}" if made.removed else ""
    this.say(
        f"backup {made.path}: {made.bytes} bytes, {made.entries} entries, checked; "
        f"audit hash {made.audit_hash}{went}"
    )


@app.command("restore")
def restore(
    backup: Annotated[str, Argument(metavar="BACKUP", help="A file of `db backup`.")],
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Put a backup in the ledger's place. Asks first, and says what is lost.

    The backup is copied beside the ledger and checked; an older schema is brought up to
    date. Then, while writers wait, the files are swapped: the old ledger is kept beside
    the new one, and processes that have it open go over to the new one with their next
    decision. Keys of requests since the backup are forgotten: a retry of one is counted anew.

    Examples:
      quotactl db restore prod.db.backups/prod.db-20250327T020000Z.backup --reason 'disk failed'
      quotactl db restore last-week.db --yes
    """
    from quotactl.operations.acts import system_clock
    from quotactl.operations.backup import restore, restoring

    this = invocation()
    with restoring(this.db, backup, system_clock()) as plan:
        last = f", the last thing in it at {plan.taken_at}" if plan.taken_at else ""
        this.confirm(f"Restore {this.db} from {backup}{last}: {plan.loss()}. Go ahead?")
        conclude(restore(plan, system_clock, actor=this.actor, reason=reason, ticket=ticket))
