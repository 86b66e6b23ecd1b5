"""`quotactl demo`: see it all at work on a small ledger."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from quotactl.cli.invocation import Invocation, invocation

if TYPE_CHECKING:
    from quotactl.api import Ledger
    from quotactl.demo import Demo


def demo(
    path: Annotated[
        str | None, typer.Argument(help="Where to make the ledger; else a new folder in /tmp.")
    ] = None,
) -> None:
    """Make a small ledger, let a busy day run through it, and show what happened.

    27 March 2025, in little: free users have 3 images a day, plus users 50 a day
    and 5 a minute, pro users are unlimited and protected. At 14:00 the GPUs melt,
    and on-call caps free users at 1 a day for six hours. Seeded: the same day
    every time.

    Examples:
      quotactl demo
      quotactl demo /tmp/try.db
    """
    import tempfile
    from pathlib import Path

    from quotactl.demo import run

    this = invocation()
    if path is None:
        path = str(Path(tempfile.mkdtemp(prefix="quotactl-demo-")) / "demo.db")
    made = run(Path(path))
    if this.output in ("json", "jsonl"):
        this.emit(made)
        return
    _show(this, made)


def _show(this: Invocation, made: Demo) -> None:
    import quotactl
    from quotactl.reports.usage import columns_of, top, usage

    with quotactl.connect(made.path) as ledger:
        say = _Narrator(this, made)
        say.head(f"{made.requests} requests on {made.day}, before and after the flip at 14:00.")
        _, rows = usage(ledger.engine, ledger.now_ms(), by="hour", day=made.day, tier="free")
        say.table(
            "What it did to free users, hour by hour",
            [
                {
                    "hour": row.key[11:16],
                    "requests": row.requests,
                    "used": row.used,
                    "granted": row.granted,
                    "denied": row.denied,
                    "throttle": "cap 1/day" if "14" <= row.key[11:13] < "20" else "",
                }
                for row in rows
            ],
            f"report usage --by hour --tier free --day {made.day}",
        )
        _, rows = usage(ledger.engine, ledger.now_ms(), by="tier", day=made.day)
        say.table("The day by tier", rows, f"report usage --by tier --day {made.day}")
        _, rows = top(ledger.engine, ledger.now_ms(), by="denied", day=made.day, limit=5)
        say.table(
            "Who was denied most",
            rows,
            f"report top --by denied --limit 5 --day {made.day}",
            columns_of("user"),
        )
        say.table("The switch that was thrown", _switches(ledger), "throttle list --all")
        verified = ledger.verify()
    state = "every counter adds up" if verified.ok else "DIFFERENCES FOUND"
    say.head(f"{verified.entries} entries, {verified.counters} counters: {state}.")
    say.command("db verify")
    say.head("Ask it yourself:")
    say.command("consume free-000 image")
    say.command("user show free-001")
    say.command("audit list")
    say.head(f"The ledger is {made.path}")


class _Narrator:
    """Tables on stdout, each with the command that shows it again."""

    def __init__(self, this: Invocation, made: Demo) -> None:
        self._this = this
        self._db = shlex.quote(made.path)

    def head(self, text: str) -> None:
        if not self._this.quiet:
            self._this.write(f"\n{text}\n")

    def table(
        self, title: str, rows: object, command: str, columns: list[str] | None = None
    ) -> None:
        if not self._this.quiet:
            self._this.write("\n")
        self._this.emit(rows, columns=columns, title=title)  # type: ignore[arg-type]
        self.command(command)

    def command(self, command: str) -> None:
        if not self._this.quiet:
            self._this.write(f"  quotactl --db {self._db} {command}\n")


def _switches(ledger: Ledger) -> list[dict[str, object]]:
    from quotactl.operations.emergency import describe, switch_view

    with ledger.engine.reading() as book:
        views = [switch_view(book, row, ledger.now_ms()) for row in book.rows("switch")]
    return [
        {
            "id": view.id,
            "name": view.name,
            "what": describe(view),
            "starts_at": view.starts_at,
            "ends_at": view.ends_at,
            "reason": view.reason,
        }
        for view in views
    ]
