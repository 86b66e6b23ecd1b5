"""`quotactl replay`: what a policy would have done to recorded traffic."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from quotactl.cli.declared import Argument, Option
from quotactl.cli.invocation import Invocation, invocation
from quotactl.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from quotactl.operations.replay import Replay

# Less than this is played before a bar is drawn.
BAR_FROM_BYTES = 200_000


def replay(
    trace: Annotated[str, Argument(metavar="TRACE.csv", help="The recorded traffic.")],
    policy: Annotated[
        str | None, Option("--policy", "-f", metavar="FILE", help="The policy to try.")
    ] = None,
    at: Annotated[str, Option("--at", metavar="COLUMN", help="When it was asked.")] = "at",
    user: Annotated[str, Option("--user", metavar="COLUMN", help="Who asked.")] = "user",
    amount: Annotated[
        str | None,
        Option("--amount", metavar="COLUMN", help="How much; else `amount`, else 1 a row."),
    ] = None,
    status: Annotated[
        str | None, Option("--status", metavar="COLUMN", help="What became of it.")
    ] = None,
    failed: Annotated[
        list[str] | None,
        Option("--failed", metavar="VALUE", help="A status that is given back; repeatable."),
    ] = None,
    resource: Annotated[
        str | None, Option("--resource", metavar="NAME", help="What was asked for.")
    ] = None,
    resource_column: Annotated[
        str | None, Option("--resource-column", metavar="COLUMN", help="Or where it says so.")
    ] = None,
    keep: Annotated[
        str | None, Option("--keep", metavar="PATH", help="Keep the ledger for reports.")
    ] = None,
) -> None:
    """Play recorded traffic through a policy, and report what it would have done.

    Each row is decided at its own time by the real operations on a ledger of
    its own. What was allowed to a row that failed is given back at once. Rows
    that can't be read are skipped, counted and listed.

    Examples:
      quotactl replay march.csv --policy free3.toml
      quotactl replay march.csv -f free3.toml --amount images --status status --failed failed
      quotactl replay march.csv -f free3.toml --keep march.db
      quotactl --db march.db report top --day 2025-03-27
    """
    this = invocation()
    if policy is None:
        raise InvalidInput("no policy is named", hint="--policy FILE")
    if resource is not None and resource_column is not None:
        raise InvalidInput("both --resource and --resource-column are given", hint="give one")
    if failed and status is None:
        status = "status"
    if status is not None and not failed:
        raise InvalidInput("--status without --failed changes nothing", hint="--failed VALUE")

    from quotactl.cli.files import read_text
    from quotactl.operations.apply import read_policy_file
    from quotactl.operations.trace import Columns

    text = read_text(policy, "policy file")
    plan = read_policy_file(text)
    if resource is None and resource_column is None:
        if len(plan.resources) != 1:
            raise InvalidInput(
                "the policy has several resources" if plan.resources else "the policy has none",
                hint="--resource NAME or --resource-column COLUMN",
            )
        resource = next(iter(plan.resources))
    if resource is not None and resource not in plan.resources:
        raise NotFound(
            f"no resource {resource!r} in {policy}", hint=f"it has {', '.join(plan.resources)}"
        )
    columns = Columns(at, user, amount, status, frozenset(failed or ()), resource, resource_column)
    result = _replay(this, Path(trace), text, plan.zone or "UTC", columns, keep)
    _show(this, result)


def _replay(
    this: Invocation, trace: Path, policy: str, zone: str, columns: object, keep: str | None
) -> Replay:
    import tempfile

    import quotactl
    from quotactl.cli.files import open_text
    from quotactl.operations.acts import system_clock
    from quotactl.operations.replay import first_time, replay
    from quotactl.operations.trace import Columns, read_trace
    from quotactl.policy.window import calendar_of, from_ms

    assert isinstance(columns, Columns)
    with (
        open_text(str(trace), "trace", errors="surrogateescape") as file,
        tempfile.TemporaryDirectory(prefix="quotactl-replay-") as scratch,
    ):
        rows = read_trace(file, columns, calendar_of(zone))
        started_ms, read = first_time(rows)
        begin = system_clock() if started_ms is None else from_ms(started_ms)
        path = Path(scratch) / "replay.db" if keep is None else Path(keep)
        with (
            quotactl.create(
                path,
                name=f"replay of {trace.name}"[:256],
                zone=zone,
                clock=lambda: begin,
                actor=this.actor,
            ) as ledger,
            _whole_or_not_at_all(path),
        ):
            if keep is None:
                # Nobody needs a scratch ledger after a power cut.
                ledger.admin.set_setting("durability", "relaxed")
            ledger.admin.apply_policy(policy, reason="replay")
            with _progress(this, file, trace) as progress:
                return replay(ledger.engine, chain(read, rows), ledger=keep, progress=progress)


@contextmanager
def _whole_or_not_at_all(path: Path) -> Iterator[None]:
    """Remove a ledger that was broken off half-way, so that the same command works again."""
    try:
        yield
    except BaseException:
        for suffix in ("", "-wal", "-shm", "-queue", "-turn"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        raise


@contextmanager
def _progress(
    this: Invocation, file: object, trace: Path
) -> Iterator[Callable[[int], None] | None]:
    """A bar on stderr, where a person sits before it: by bytes, as rows are not counted yet."""
    too_short = not trace.is_file() or trace.stat().st_size < BAR_FROM_BYTES
    if this.quiet or not sys.stderr.isatty() or too_short:
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("replaying"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("replay", total=trace.stat().st_size)
        buffer = getattr(file, "buffer", None)

        def advance(_rows: int) -> None:
            if buffer is not None:
                bar.update(task, completed=buffer.tell())

        yield advance


def _show(this: Invocation, result: Replay) -> None:
    if this.output in ("json", "jsonl"):
        this.emit(result)
        return
    days = [
        {
            "day": day,
            "requests": tally.requests,
            "allowed": tally.allowed,
            "denied": tally.denied,
            "asked": tally.units.asked,
            "served": tally.units.allowed,
            "refused": tally.units.denied,
            "refunded": tally.units.refunded,
        }
        for day, tally in result.by_day.items()
    ]
    columns = ["day", "requests", "allowed", "denied", "asked", "served", "refused", "refunded"]
    this.emit(days, columns=columns, title="Requests, and units asked, served, refused, refunded")
    total = result.total
    this.say(
        f"{total.requests} requests: {total.allowed} allowed, {total.denied} denied, "
        f"{result.skipped} skipped"
    )
    units = total.units
    this.say(
        f"{units.asked} units asked: {units.allowed} allowed ({units.refunded} of them refunded), "
        f"{units.denied} denied"
    )
    this.say("by reason: " + ", ".join(f"{r} {n}" for r, n in result.by_reason.items()))
    for row in result.skipped_rows:
        this.say(f"skipped line {row.line}: {row.why}")
    if result.skipped > len(result.skipped_rows):
        this.say(f"… and {result.skipped - len(result.skipped_rows)} more")
    if result.ledger is not None:
        this.say(f"the ledger is kept: quotactl --db {result.ledger} report usage --by day")
