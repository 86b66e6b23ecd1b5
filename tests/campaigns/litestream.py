"""The README's recipe for Litestream, run against a ledger that is written to meanwhile.

    python tests/campaigns/litestream.py /usr/bin/litestream --seconds 15 --writers 4

Replicates to a folder; kills Litestream and the ledger in turn, as a lost machine would;
restores from the replica, lets `verify` look at it and compares it with what had been
acknowledged. What is lost may be at most what was acknowledged in the last seconds before
the kill, and what is there must be a prefix of history. Then puts the copy in the ledger's
place with `db restore`. Not part of the suite, which has no Litestream.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rig import Child, Line, Tell, listen, report, require, sql

import quotactl

RECIPE = """\
dbs:
  - path: {ledger}
    {replica}
"""
# What is acknowledged this long before the end must have been shipped: Litestream's own
# interval is a second, on a machine that is busy with the writers.
SHIPPED_AFTER_S = 4.0


def write(tell: Tell, path: str, number: int, seconds: float) -> None:
    """Consume and act for a while; each entry's id with the time at which it was told."""
    draw = random.Random(number)
    with quotactl.connect(path, timeout_s=60) as q:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            decision = q.consume(user=f"u{draw.randrange(200)}", resource="image")
            tell({"entry": decision.entry_id, "at": time.monotonic()})
            if draw.random() < 0.01:
                q.admin.set_limit(tier="free", resource="image", limit=f"{10**6}/day")
            time.sleep(0.002)


def run(litestream: str, seconds: float, writers: int, *, form: str) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="quotactl-litestream-") as name:
        folder = Path(name)
        ledger, replica, copy = folder / "prod.db", folder / "replica", folder / "copy.db"
        with quotactl.create(ledger) as q:
            q.admin.create_resource("image")
            q.admin.create_tier("free")
            q.admin.set_limit(tier="free", resource="image", limit="1M/day")
        places = {
            "replica": f"replica:\n      url: file://{replica}",
            "replicas": f"replicas:\n      - url: file://{replica}",
        }
        config = folder / "litestream.yml"
        config.write_text(RECIPE.format(ledger=ledger, replica=places[form]))
        with (folder / "log").open("w") as log:
            ship = subprocess.Popen(
                [litestream, "replicate", "-config", config], stdout=log, stderr=log
            )
            try:
                time.sleep(1)
                children = [Child(write, str(ledger), n, seconds) for n in range(writers)]
                told: list[Line] = [line for _, line in listen(children)]
            finally:
                ship.send_signal(signal.SIGKILL)
                ship.wait()
        ended = time.monotonic()
        acknowledged = {line["entry"] for line in told if "entry" in line}
        shipped = {
            line["entry"]
            for line in told
            if "entry" in line and line["at"] < ended - SHIPPED_AFTER_S
        }
        wal_mb = (
            (folder / "prod.db-wal").stat().st_size / 1e6
            if (folder / "prod.db-wal").exists()
            else 0.0
        )
        restored = subprocess.run(
            [litestream, "restore", "-config", config, "-o", copy, ledger],
            capture_output=True,
            text=True,
            check=False,
        )
        require(restored.returncode == 0, restored.stderr, (folder / "log").read_text()[-2000:])
        with quotactl.connect(copy) as q:
            found = q.verify()
        require(found.ok, found.differences)
        entries = {row[0] for row in sql(copy, "SELECT id FROM entry")}
        require(entries == set(range(1, len(entries) + 1)), "not a prefix of history")
        require(shipped <= entries, f"{len(shipped - entries)} that were shipped are gone")
        swapped = subprocess.run(
            [
                sys.executable,
                "-m",
                "quotactl",
                "--db",
                ledger,
                "db",
                "restore",
                copy,
                "--reason",
                "machine lost",
                "--yes",
                "-q",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        require(swapped.returncode == 0, swapped.stderr)
        with quotactl.connect(ledger) as q:
            require(q.verify().ok, "what was put in place does not verify")
            require(q.consume(user="u1", resource="image").allowed)
        return {
            "form": form,
            "acknowledged": len(acknowledged),
            "restored": len(entries),
            "lost_of_the_last_seconds": len(acknowledged - entries),
            "wal_mb": round(wal_mb, 1),
            "errors_in_its_log": (folder / "log").read_text().count("level=ERROR"),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("litestream")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--form", choices=["replica", "replicas"], default="replicas")
    asked = parser.parse_args()
    version = subprocess.run(
        [asked.litestream, "version"], capture_output=True, text=True, check=True
    )
    found = run(asked.litestream, asked.seconds, asked.writers, form=asked.form)
    report({"litestream": version.stdout.strip(), **found})


if __name__ == "__main__":
    main()
