"""`quotactl demo`: see it all at work on a small ledger."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

from quotactl.cli.declared import Argument
from quotactl.cli.invocation import Invocation, invocation

if TYPE_CHECKING:
    from quotactl.demo import Demo


def demo(
    path: Annotated[
        str | None, Argument(help="Where to make the ledger; else a new folder in /tmp.")
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
    made = run(Path(path).absolute())
    if this.output in ("json", "jsonl"):
        this.emit(made)
        return
    _show(this, made)


def _show(this: Invocation, made: Demo) -> None:
    """Tell what happened, by the very commands that show it again."""

    def tell(text: str) -> None:
        if not this.quiet:
            this.write(f"\n{text}\n")

    def show(command: str) -> None:
        if this.quiet:
            return
        this.write(f"$ {_program()} --db {shlex.quote(made.path)} {command}\n")
        sys.stdout.flush()
        _run(this, ["--db", made.path, *shlex.split(command)])

    day = made.day
    tell(
        f"{made.requests} requests on {day}. At 14:00 on-call put free users on 1 a day,\n"
        "for six hours. Hour by hour, free users:"
    )
    show(f"report usage --by hour --tier free --day {day}")
    tell("The day by tier. Pro is protected, and was not touched:")
    show(f"report usage --by tier --day {day}")
    tell("Who was refused most, repeated attempts counted:")
    show(f"report top --by denied --limit 5 --day {day}")
    tell("The switch that was thrown, and that ended by itself:")
    show("throttle list --all")
    tell("Every counter is a sum of entries, and adds up:")
    show("db verify")
    tell("Ask it yourself:")
    for command in ("consume free-000 image", "user show free-001", "audit list", "--help"):
        if not this.quiet:
            this.write(f"$ {_program()} --db {shlex.quote(made.path)} {command}\n")
    tell(f"The ledger is {made.path}")


def _run(this: Invocation, words: list[str]) -> None:
    """Run another command as if it had been typed, in the format that was asked for."""
    from quotactl.cli.run import run

    options = [] if this.format is None else ["-o", this.format]
    run([*options, *words])


def _program() -> str:
    """How this program was called: `quotactl`, or its path where that would not be found."""
    import shutil

    typed = sys.argv[0]
    if not typed.endswith("/quotactl") or shutil.which("quotactl") == typed:
        return "quotactl"
    return shlex.quote(typed)
