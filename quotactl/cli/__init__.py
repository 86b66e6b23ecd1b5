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
    if argv is not None:
        return _run(arguments)
    import os

    if "_QUOTACTL_COMPLETE" in os.environ:
        return _complete()
    import signal

    # Imports take long enough to be interrupted: quietly then, as by SIGTERM. Who ignores
    # the signal goes on doing so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    code = _run(arguments)
    # Done, and said: what comes now must not make a failure of it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    return code


def _complete() -> int:
    import os

    try:
        from quotactl.cli.completing import answer

        return answer(os.environ)
    except Exception:  # noqa: BLE001 - a traceback amid what somebody types helps nobody
        return 1


def _run(arguments: list[str]) -> int:
    try:
        from quotactl.cli.run import run
    except (OSError, ImportError):
        # Without a descriptor left a module can't be read, or even be found.
        import os

        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            sys.stderr.write(f"quotactl: {error.strerror}; raise the limit: ulimit -n\n")
            return 1
        raise
    return run(arguments)
