"""How fast it is, beside scripts that do the least that could serve.

    python tests/benchmarks/run.py [NAME …] [--json FILE] [--runs 5] [--quick]
                                   [--folder DIR] [--users 10000000] [--entries 50000000]
                                   [--trace CSV]

Runs all benchmarks, or those named, and prints one table. Every figure is the median of
ratios that were each taken in one run, in turn with a yardstick, which stands in the same
file. None is a test: no number here fails anything, and the exit code says only whether
everything ran. `--quick` is a minute with small ledgers, to see that it all works.

The names: startup, deciding, processes, peers, growth, size, replay; and parts of growth, which
takes an hour or more with ten million users: growth.relaxed, growth.full, growth.levers,
growth.reports, growth.commands, growth.foresight, growth.memory, growth.night.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from bench import Figure, Options, console, progress, table_of

NAMES = ("startup", "deciding", "processes", "peers", "growth", "size", "replay")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--runs", type=int, default=5, help="how often each is measured")
    parser.add_argument("--quick", action="store_true", help="small sizes, about a minute")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="where large ledgers are made, and kept"
    )
    parser.add_argument("--users", type=int, default=10_000_000, help="of the largest ledger")
    parser.add_argument("--entries", type=int, default=50_000_000, help="of the largest ledger")
    parser.add_argument(
        "--trace",
        type=Path,
        metavar="CSV",
        default=os.environ.get("QUOTACTL_TRACE"),
        help="recorded requests for replay; else QUOTACTL_TRACE",
    )
    asked = parser.parse_args()
    if unknown := {name.partition(".")[0] for name in asked.names} - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    # As an ordinary user has it: compiled, and without anybody's own configuration.
    os.environ["QUOTACTL_CONFIG"] = os.devnull
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "QUOTACTL_DB"):
        os.environ.pop(name, None)
    started = facts()
    figures: list[Figure] = []
    broken: list[str] = []
    with somewhere(asked.folder) as folder:
        options = Options(
            runs=asked.runs,
            quick=asked.quick,
            folder=folder,
            kept=asked.folder or folder,
            users=2000 if asked.quick else asked.users,
            entries=10_000 if asked.quick else asked.entries,
            trace=None if asked.trace is None else Path(asked.trace),
            texts=[],
        )
        for name in asked.names or NAMES:
            progress(f"== {name}")
            try:
                module, _, part = name.partition(".")
                for figure in import_module(module).measure(options._replace(part=part)):
                    figures.append(figure)
                    progress(f"{figure.what}: {figure.said} {figure.beside} {figure.note}".rstrip())
            except Exception as error:  # noqa: BLE001 - hours of the others are not to be lost
                traceback.print_exc()
                broken.append(name)
                figures.append(Figure(name, "the rest", None, note=f"broke: {error!r}"))
    found = {**started, "load_after": os.getloadavg()[0]}
    # Wide enough for a file or a pipe to hold whole lines.
    out = console(width=None if sys.stdout.isatty() else 160)
    out.print(table_of(figures, title_of(found)))
    for text in options.texts:
        out.print(text)
    if asked.json is not None:
        found["figures"] = [figure.to_dict() for figure in figures]
        found["texts"] = options.texts
        asked.json.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if broken else 0


def facts() -> dict[str, Any]:
    """What else a reader of the figures must know."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "machine": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "load_before": os.getloadavg()[0],
    }


def title_of(found: dict[str, Any]) -> str:
    return (
        f"{found['at']}  Python {found['python']}, SQLite {found['sqlite']}, "
        f"{found['machine']}, {found['processors']} processors, "
        f"load {found['load_before']:.1f} before, {found['load_after']:.1f} after"
    )


@contextmanager
def somewhere(folder: Path | None) -> Iterator[Path]:
    """The folder that was named, in which large ledgers stay, or one for this run alone."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="quotactl-bench-", dir=folder) as temporary:
        yield Path(temporary)


if __name__ == "__main__":
    sys.exit(main())
