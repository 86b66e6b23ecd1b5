"""A whole incident, from preview to make-good, as it is seen on a terminal.

The transcripts in `golden/` are what was really shown, at 80 and at 120 columns. After a
change that is meant, write them anew, and read what changed:

    QUOTACTL_GOLDEN=write pytest tests/cli/test_incident.py
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parent / "golden"

ON = (
    "throttle on --name gpu-melt --resource image --tier free --cap 1/day --for 3h "
    "--message 'We are busy. Try again tomorrow.' --reason 'GPUs are melting' --ticket INC-1"
)
GOOD = "grant add --from-throttle gpu-melt --each 1 --limit-to refused --reason 'sorry'"

# (minutes later, command lines; what begins with # is said to the reader)
INCIDENT: tuple[tuple[int, tuple[str, ...]], ...] = (
    (0, (
        "# Demand explodes. What would one a day do to the free tier? Which number fits?",
        "throttle preview --resource image --tier free --cap 1/day",
        "throttle solve --capacity 9/day --resource image --min free=1/day",
        "# It hits most of those who are there: it asks, and nobody is there to answer.",
        ON,
        f"{ON} --yes",
    )),
    (5, (
        "consume ada image",
        "consume eve image",
        "consume eve image 2",
        "consume vip image 5",
        "explain ada image",
        "# And all together, too.",
        "throttle on --name gpus --resource image --total 30/hour --for 2h --reason 'GPUs melt'",
        "status",
    )),
    (55, (
        "consume bob image",
        "# It helps. Back in steps.",
        "throttle off gpus --reason 'load is falling'",
        "throttle off gpu-melt --ramp 34%,67%,100% --every 20m --reason 'load is falling'",
    )),
    (20, (
        "throttle show gpu-melt",
        "throttle hold gpu-melt --for 1h --reason 'errors rise'",
    )),
    (10, (
        "throttle resume gpu-melt --reason 'errors are gone'",
    )),
    (60, (
        "status",
        "throttle report gpu-melt",
        "# Those who were refused get something.",
        f"{GOOD} --dry-run",
        GOOD,
        GOOD,
        "grant list",
        "audit list --limit 12",
        "db verify",
    )),
)  # fmt: skip


def prepare(cli: Any) -> None:
    cli.ok("user set-tier vip pro")
    for user, amount in (("ada", 2), ("bob", 1), ("cyd", 3), ("dan", 1), ("vip", 4)):
        cli.ok(f"consume {user} image {amount}")
    cli("consume cyd image 2")


@pytest.mark.parametrize("columns", [80, 120])
def test_an_incident_reads_as_it_was_shown(
    cli: Any, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    prepare(cli)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    # On a terminal both come in the order in which they are written.
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    lines = []
    for minutes, commands in INCIDENT:
        cli.later(minutes=minutes)
        lines += [f"## {cli.now:%H:%M}Z", ""]
        for command in commands:
            if command.startswith("#"):
                lines += [command, ""]
                continue
            ran = cli("--as ops", *shlex.split(command))
            shown = [line.rstrip() for line in ran.out.splitlines()]
            code = [f"exit {ran.code}"] if ran.code else []
            lines += [f"$ quotactl {command}", *shown, *code, ""]
    path = GOLDEN / f"incident-{columns}.txt"
    # Reasons are salted, so that the chain's hash is another one each time.
    text = re.sub(r"\b[0-9a-f]{64}\b", "<hash>", "\n".join(lines))
    if os.environ.get("QUOTACTL_GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
    # Talk wraps by itself; what is drawn must fit.
    drawn = [line for line in lines if "─" in line]
    assert max(map(len, drawn)) <= columns
