"""The command line: parse, call one operation or report, render.

Reading order: `app` (the table of commands and how a command is built), `invocation`
(what a command function is given), `run` (failures, signals, exit codes), then one
module per noun. How to write a noun module stands in `app`.
"""

from __future__ import annotations

import sys


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code; the console script ends with it."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments == ["--version"]:  # before Typer is imported: four fifths of a short run
        from quotactl._version import __version__

        sys.stdout.write(f"quotactl {__version__}\n")
        return 0
    try:
        from quotactl.cli.run import run
    except KeyboardInterrupt:  # imports take long enough to be interrupted
        return 130
    return run(arguments)
