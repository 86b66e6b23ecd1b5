"""`quotactl reset`: close days, and give one user a fresh window."""

from __future__ import annotations

from typing import Annotated

from quotactl.cli.declared import Noun, Option
from quotactl.cli.invocation import invocation
from quotactl.cli.options import OptionalResource, Reason, Ticket, User
from quotactl.cli.outcome import conclude, opened, show
from quotactl.errors import InvalidInput

app = Noun()


@app.command("daily")
def daily() -> None:
    """Close every day that is over: what cron runs.

    Frees reservations that timed out, marks what expired, prunes by retention. Windows
    begin by themselves, so a run that was missed denies nobody; the next one catches up.
    Twice is the same as once.

    Examples:
      quotactl reset daily
      quotactl reset daily -q      # in cron: silent when fine
    """
    this = invocation()
    with opened(notice=False) as q:
        done = q.close_days()
    if this.output in {"json", "jsonl"}:
        this.emit(done)
    elif done.closed or this.format is not None:
        columns = ["day", "users", "requests", "used", "granted", "denied", "shadow_denied"]
        show(done.closed, columns)
    for line in done.ended:
        this.say(line)
    days = f"{len(done.closed)} day{'s' if len(done.closed) != 1 else ''} closed"
    freed = f", timed-out reservations freed: {done.expired_reservations}"
    this.say(
        f"{days if done.closed else 'no day to close'}"
        f"{freed if done.expired_reservations else ''}; audit hash {done.audit_hash}"
    )


@app.command("status")
def status() -> None:
    """Show how far days are closed, and which are due.

    Examples:
      quotactl reset status
      quotactl reset status --json
    """
    from quotactl.operations.close import close_status

    with opened() as q:
        invocation().emit(close_status(q.engine, q.now_ms()))


@app.command("user")
def user(
    user: User,
    resource: OptionalResource = None,
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Let a user's open windows start again at 0, through a correcting entry.

    Examples:
      quotactl reset user ada image --reason 'failed jobs were counted'
      quotactl reset user ada --reason 'a bug of ours' --ticket T-4
    """
    with opened() as q:
        conclude(q.admin.reset_user(user, resource=resource, reason=reason, ticket=ticket))


@app.command("install")
def install(
    cron: Annotated[bool, Option("--cron", help="A line for a crontab.")] = False,
    systemd: Annotated[bool, Option("--systemd", help="A service and its timer.")] = False,
) -> None:
    """Print the schedule for `reset daily`, with absolute paths; it installs nothing itself.

    Examples:
      (crontab -l; quotactl reset install --cron) | crontab -
      quotactl reset install --systemd
    """
    from pathlib import Path

    from quotactl.cli import schedule
    from quotactl.engines.opening import ledger_path

    if cron == systemd:
        raise InvalidInput("one kind of schedule is needed", hint="--cron or --systemd")
    this = invocation()
    with opened(notice=False) as q, q.engine.reading() as book:
        name = book.head.name
    ledger = Path(ledger_path(this.db)).absolute()
    this.write(schedule.cron(ledger, name) if cron else schedule.systemd(ledger, name))
