"""Ctrl-C and SIGTERM at any moment: the right exit code, no traceback, nothing half done.

A few moments in the suite; QUOTACTL_SIGNALS=500 tries as many for each command, and
QUOTACTL_SEED another row of them.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import quotactl

COUNT = int(os.environ.get("QUOTACTL_SIGNALS", "2"))
SEED = int(os.environ.get("QUOTACTL_SEED", "1"))
DEADLINE_S = 60
LINES = 4000
SOURCE = str(Path(quotactl.__file__).resolve().parent.parent)
# What the console script does; the line tells that from here on it is quotactl's to answer.
PROGRAM = """
import os, signal, sys
from quotactl.cli import main
# As main() does first.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
os.write(2, b"started\\n")
sys.exit(main())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of ten days ago with users in it, and files to feed the commands with."""
    folder = tmp_path_factory.mktemp("signals")
    past = datetime.now(UTC) - timedelta(days=10)
    with quotactl.create(folder / "prod.db", name="prod", clock=lambda: past) as q:
        q.admin.create_resource("image")
        q.admin.create_tier("free")
        q.admin.set_limit(tier="free", resource="image", limit="unlimited")
        q.consume_many([quotactl.Request(f"u{n}", "image") for n in range(300)])
    requests = [{"user": f"u{n % 50}", "resource": "image"} for n in range(LINES)]
    (folder / "requests.jsonl").write_text("".join(json.dumps(r) + "\n" for r in requests))
    (folder / "users.csv").write_text("user,tier\n" + "".join(f"i{n},free\n" for n in range(3000)))
    (folder / "trace.csv").write_text(
        "at,user,resource,amount\n"
        + "".join(f"2025-03-27T09:{n // 60 % 60:02}:00Z,u{n},image,1\n" for n in range(3000))
    )
    (folder / "policy.toml").write_text(
        'zone = "UTC"\ndefault_tier = "free"\n[resource.image]\n'
        + "".join(f'[tier.t{n}.limits]\nimage = "{n + 1}/day"\n' for n in range(40))
        + '[tier.free.limits]\nimage = "unlimited"\n'
    )
    return folder


def start(folder: Path, words: str) -> subprocess.Popen[bytes]:
    process: subprocess.Popen[bytes] = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words.split()],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": SOURCE,
            "QUOTACTL_DB": "prod.db",
            "QUOTACTL_CONFIG": "/dev/null",
        },
        stdin=subprocess.DEVNULL,
        bufsize=0,  # or communicate() would not have what readline() read too much
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == b"started\n"
    return process


COMMANDS: dict[str, Callable[[int], str]] = {
    "consume": lambda n: f"consume ada image --key k{n} --json",
    "batch": lambda n: "consume --batch requests.jsonl",
    "throttle": lambda n: (
        f"throttle on --cap {n + 1}/day --reason drill --yes --name d{n} --replace --json"
    ),
    "daily": lambda n: "reset daily --json",
    "replay": lambda n: "replay trace.csv --policy policy.toml --resource-column resource --json",
    "apply": lambda n: "policy apply -f policy.toml --yes --json",
    "import": lambda n: "user import users.csv --reason drill --json",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_signal_at_any_moment_ends_a_command_with_nothing_half_done(
    folder: Path, name: str
) -> None:
    moments = random.Random(f"{SEED} {name}")
    for n in range(COUNT):
        number = moments.choice([signal.SIGINT, signal.SIGTERM])
        process = start(folder, COMMANDS[name](n))
        with suppress(subprocess.TimeoutExpired):
            process.wait(moments.choice([0.02, 0.1, 0.2, 0.3, 0.4]) * moments.random() * 2)
        process.send_signal(number)
        if moments.random() < 0.5:
            # An impatient one.
            process.send_signal(moments.choice([signal.SIGINT, signal.SIGTERM]))
        out, err = process.communicate(timeout=DEADLINE_S)
        told = (process.returncode, number, out[-300:], err)
        assert b"Traceback" not in err and b"Exception ignored" not in err, told
        # Killed by it: while modules are still imported. A shell says 130 or 143 to both.
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        assert code in {0, 130, 143}, told
        if name == "batch":
            assert not out or out.endswith(b"\n"), told
            for line in out.splitlines():
                json.loads(line)
        # Nobody is in the way of the next: its turn comes at once.
        with quotactl.connect(folder / "prod.db", timeout_s=0.5) as q:
            q.consume(user="after", resource="image")
    with quotactl.connect(folder / "prod.db") as q:
        assert q.verify().differences == ()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_batch_broken_off_has_written_whole_lines_of_what_it_took(
    folder: Path, number: signal.Signals
) -> None:
    process = start(folder, "consume --batch requests.jsonl")
    assert process.stdout is not None
    # Nobody reads on: it stands before a full pipe, in the middle of its answers.
    first = process.stdout.readline()
    time.sleep(0.1)
    process.send_signal(number)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 128 + number
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert err.decode() == f"quotactl: {word}\n"
    answers = [json.loads(line) for line in [first, *out.splitlines()]]
    assert 0 < len(answers) < LINES
    assert out.endswith(b"\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_waits_for_its_turn_can_be_interrupted(
    folder: Path, number: signal.Signals
) -> None:
    with quotactl.connect(folder / "prod.db") as q:
        with q.engine.writing():
            process = start(folder, f"consume waits{number} image")
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            process.send_signal(number)
            _, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 128 + number
        assert b"Traceback" not in err
        assert q.check(user=f"waits{number}", resource="image").used == 0
        assert q.consume(user=f"waits{number}", resource="image").used == 1


def test_a_command_started_with_signals_ignored_goes_on_ignoring_them(folder: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = start(folder, "consume --batch requests.jsonl")
    finally:
        signal.signal(signal.SIGINT, before)
    for _ in range(5):
        process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert len(out.splitlines()) == LINES
