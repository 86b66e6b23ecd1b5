"""A process that has a ledger open never opens it, its WAL or its shm with anything else.

Closing such a descriptor would drop SQLite's locks on it (POSIX locks belong to the
process). Python tells of every file that it opens; SQLite's own opening is not among them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import quotactl
from quotactl.cli.commands import COMMANDS

SOURCE = str(Path(quotactl.__file__).resolve().parent.parent)
SCHEMA_1 = Path(__file__).parent.parent / "packaging" / "schema1.db"
PROGRAM = """
import json, os, sys

broken, seen = [], 0
line = ""

def is_open(path):
    for number in os.listdir("/proc/self/fd"):
        try:
            if os.path.samefile(f"/proc/self/fd/{number}", path):
                return True
        except OSError:
            pass
    return False

def hook(event, arguments):
    global seen
    if event != "open" or not isinstance(arguments[0], (str, bytes, os.PathLike)):
        return
    path = os.fsdecode(arguments[0])
    if path.startswith(("/dev/", "/proc/")) or path.endswith((".py", ".pyc")):
        return
    seen += 1
    if ".db" in path and not path.endswith(("-queue", "-turn")) and is_open(path):
        broken.append([line, path])

sys.addaudithook(hook)
from quotactl.cli import main

codes = []
for line in json.loads(sys.argv[1]):
    try:
        codes.append([line, main(line.split())])
    except SystemExit as end:
        codes.append([line, end.code])
if "probe" in sys.argv:
    import quotactl
    q = quotactl.connect("prod.db")
    q.check(user="ada", resource="image")
    line = "probe"
    open("prod.db", "rb").close()
    os.close(os.open("prod.db-shm", os.O_RDONLY))
sys.stderr.write("\\n" + json.dumps([codes, broken, seen]))
"""
LINES = [
    "init other.db",
    "resource create image",
    "tier create free",
    "limit set free image=9/day",
    "policy export",
    "policy apply -f policy.toml --yes",
    "user import users.csv --reason r",
    "check ada image",
    "consume ada image --key k",
    "consume ada image --key k",
    "consume --batch requests.jsonl",
    "refund --key k",
    "explain ada image",
    "throttle on --deny --reason r --yes --name stop",
    "throttle list",
    "throttle off stop --reason r",
    "status",
    "report usage",
    "reset daily",
    "reset status",
    "reset install --cron",
    "audit list",
    "audit verify",
    "replay trace.csv --policy policy.toml --resource-column resource --keep kept.db",
    "db verify",
    "db migrate",
    "db migrate --db old.db",
    "db backup copy.db",
    "db verify --db copy.db",
    "db restore copy.db --yes --reason r",
]


def run(folder: Path, lines: list[str], *more: str) -> Any:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(lines), *more],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": SOURCE,
            "QUOTACTL_DB": "prod.db",
            "QUOTACTL_CONFIG": "/dev/null",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(ran.stderr.splitlines()[-1])


def test_no_command_opens_the_ledger_with_anything_but_sqlite(tmp_path: Path) -> None:
    shutil.copyfile(SCHEMA_1, tmp_path / "old.db")
    (tmp_path / "users.csv").write_text("user,tier\nada,free\n")
    (tmp_path / "requests.jsonl").write_text('{"user": "ada", "resource": "image"}\n')
    (tmp_path / "trace.csv").write_text("at,user,resource\n2025-03-27T09:00:00Z,ada,image\n")
    (tmp_path / "policy.toml").write_text(
        'zone = "UTC"\ndefault_tier = "free"\n[resource.image]\n'
        '[tier.free.limits]\nimage = "9/day"\n'
    )
    lines = ["init prod.db", *LINES]
    if "doctor" in COMMANDS:
        lines.append("doctor")
    # Somebody else has it open, too: its WAL and shm are there all the time.
    codes, broken, seen = run(tmp_path, lines[:1])
    assert codes == [[lines[0], 0]]
    with quotactl.connect(tmp_path / "prod.db") as q:
        with q.engine.reading():
            codes, broken, seen = run(tmp_path, lines[1:-3])
        # A restore waits for those who read.
        last = run(tmp_path, lines[-3:])
    assert [told for told in codes if told[1] != 0] == []
    assert [told for told in last[0] if told[1] not in {0, 8}] == []
    assert broken + last[1] == []
    assert seen > 10


def test_the_watch_over_it_would_see_it(tmp_path: Path) -> None:
    lines = ["init prod.db", "resource create image", "tier create free"]
    _, broken, _ = run(tmp_path, [*lines, "limit set free image=9/day"], "probe")
    assert broken == [["probe", "prod.db"], ["probe", "prod.db-shm"]]
