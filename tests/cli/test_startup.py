"""What a short run imports: its time is the time of that, and this needs no clock.

A module that one of these lists lacks and a command imports makes that command slower for
everybody: either it is worth it, and goes into the list, or it is imported where it is used.
"""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

# What Python and sqlite3 themselves bring differs from version to version; of the rest of
# the standard library these are the ones that cost, in times of `import sqlite3`.
DEAR = {
    "typer", "rich", "sqlite_utils", "pydantic", "click", "tomllib", "csv", "asyncio", "tempfile",
    "dataclasses", "inspect", "uuid", "secrets", "logging", "subprocess", "argparse", "difflib",
    "traceback", "decimal", "hashlib", "shutil",
}  # fmt: skip


def names(text: str) -> set[str]:
    return set(text.split())


FRAME = names(
    """
    _version cli cli.commands cli.declared cli.invocation cli.plain cli.run errors frozen render
    render.text
    """
)
LEDGER = names(
    """
    api cli.outcome engines engines.opening engines.schema engines.sqlite engines.sqlite.at_once
    engines.sqlite.book engines.sqlite.door engines.sqlite.failures engines.sqlite.files
    engines.sqlite.queries engines.sqlite.queue engines.sqlite.recorded engines.sqlite.session
    ledger ledger.entries ledger.loaded ledger.values operations operations.acts
    operations.announced operations.batch operations.consume operations.corrections
    operations.reserve operations.routine operations.workspace policy policy.burndown
    policy.decide policy.model policy.notation policy.resolve policy.settings policy.window
    render.delimited render.structured
    """
)
ACTS = names(
    """
    ledger.views operations.admin operations.administer operations.aftermath operations.apply
    operations.audit operations.emergency operations.enforcement operations.impact
    operations.make_good operations.notify operations.people operations.presets operations.reset
    operations.switches policy.foresight policy.levers policy.plan
    """
)
THROTTLE = names(
    """
    cli.guard cli.levers cli.options cli.throttle
    """
)
GATEWAY = FRAME | LEDGER | {"cli.consume", "cli.options"}
LISTS = names(
    """
    ledger.views operations.administer operations.audit operations.people operations.switches
    policy.levers reports reports.listing
    """
)

ON = "throttle on --name a --resource image --cap 9/day --reason x --yes"
COMMANDS: dict[str, tuple[set[str], set[str]]] = {
    "consume ada image": (GATEWAY, {"sqlite3"}),
    "check ada image": (GATEWAY, {"sqlite3"}),
    ON: (
        FRAME | LEDGER | ACTS | THROTTLE, {"sqlite3", "hashlib"},
    ),
    "throttle off a --reason x": (
        FRAME | LEDGER | ACTS | THROTTLE | LISTS, {"sqlite3", "hashlib"},
    ),
    "status": (
        FRAME | LEDGER | LISTS | {"cli.status", "operations.close", "reports.status",
                                  "render.table"},
        {"sqlite3", "rich"},
    ),
    "report usage": (
        FRAME | LEDGER | LISTS | {"cli.report", "cli.options", "operations.days",
                                  "reports.usage", "render.table"},
        {"sqlite3", "rich"},
    ),
    "--version": ({"_version", "cli", "errors"}, set()),
}  # fmt: skip

PROGRAM = """
import sys, os
from quotactl.cli import main
code = main(sys.argv[2:])
sys.stdout.flush()
os.write(int(sys.argv[1]), " ".join(sys.modules).encode())
sys.exit(code)
"""


def modules_after(*words: str, terminal: bool = False, **environment: str) -> set[str]:
    ours, theirs = os.pipe()
    stdin, stdout = pty.openpty() if terminal else (subprocess.DEVNULL, subprocess.DEVNULL)
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(theirs), *words],
            stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, text=True,
            pass_fds=[theirs], env=os.environ | environment, check=False, timeout=60,
        )  # fmt: skip
    finally:
        os.close(theirs)
        if terminal:
            os.close(stdin)
            os.close(stdout)
    assert done.returncode == 0, done.stderr
    with os.fdopen(ours) as told:
        return set(told.read().split())


def ours_of(modules: set[str]) -> set[str]:
    return {name.removeprefix("quotactl.") for name in modules if name.startswith("quotactl.")}


@pytest.mark.parametrize("line", COMMANDS)
@pytest.mark.usefixtures("cli")
def test_a_command_imports_what_it_uses_and_no_more(line: str) -> None:
    if line != ON:
        # By the clock of the processes, or it would be over for them.
        modules_after(*ON.split())
    own, others = COMMANDS[line]
    loaded = modules_after(*line.split(), terminal="rich" in others)
    assert ours_of(loaded) <= own
    dear = DEAR - others - (_brought_by_rich() if "rich" in others else set())
    assert (loaded & dear) == set()
    assert others <= loaded


def _brought_by_rich() -> set[str]:
    return {"rich", "dataclasses", "inspect", "logging", "decimal", "traceback", "subprocess"}


def test_completion_imports_neither_typer_nor_the_ledger_for_a_verb() -> None:
    asked = {"_QUOTACTL_COMPLETE": "complete_bash", "COMP_WORDS": "quotactl throttle o"}
    program = (
        "import os, sys; from quotactl.cli.completing import answer; "
        "answer(os.environ); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True,
        env=os.environ | asked | {"COMP_CWORD": "2"},
    )  # fmt: skip
    loaded = set(done.stdout.split())
    assert ours_of(loaded) <= FRAME | THROTTLE | {"cli.outcome", "cli.completing"}
    assert (loaded & DEAR) == set()
    assert "sqlite3" not in loaded
