"""Point 7: recorded traffic through a policy, against the rate of batches of a thousand.

The trace is a CSV of requests (`--trace`, or QUOTACTL_TRACE); without one this is skipped.
What is measured is the whole command, and for scale its work inside a process. The yardstick
is the product's own batches of point 2, with keys and durability full, taken in turn with it.
"""

from __future__ import annotations

import csv
import os
import statistics
from collections.abc import Iterator
from pathlib import Path

from bench import Figure, Options, Subject, in_turn, run_process, script, steps, thousands
from deciding import BATCH, Product, product_batch

import quotactl
from quotactl.operations import replay as replaying
from quotactl.operations.trace import Columns, read_trace
from quotactl.policy.window import calendar_of

POINT = "7 replay"
BATCHES = 20
POLICY = """
zone = "UTC"
default_tier = "free"
[resource.image]
[tier.free.limits]
image = "3/day"
"""


def measure(options: Options) -> Iterator[Figure]:
    trace, command = options.trace, script("quotactl")
    if trace is None or not trace.is_file() or command is None:
        note = "skipped: no trace is named; --trace CSV, or QUOTACTL_TRACE"
        yield Figure(POINT, "replay of a trace", None, bound=0.4, at_most=False, note=note)
        return
    with trace.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = sum(1 for _ in csv.reader(file)) - 1
    policy = options.folder / "policy.toml"
    policy.write_text(POLICY)
    product = Product(options.folder / "replay-batches.db", "full")
    batch = product_batch(product, keyed=True)
    line: list[str | Path] = [command, "replay", trace, "--policy", policy]
    line += ["--amount", "images", "--failed", "failed"]

    def whole() -> list[float]:
        ran = run_process(line, env=os.environ)
        assert ran.code == 0, ran.output.decode(errors="replace")
        return [ran.wall_s]

    taken = in_turn(
        {
            "command": whole,
            "work": work(trace, options.folder),
            "batches": lambda: [seconds for _ in range(BATCHES) for seconds in batch()],
        },
        runs=options.runs,
    )
    product.q.close()
    base = [BATCHES * BATCH / sum(run) for run in taken["batches"].walls]
    for what, subject, bound in (
        ("the command", "command", 0.4),
        ("its work in a process", "work", None),
    ):
        rates = [rows / sum(run) for run in taken[subject].walls]
        ratio = tuple(a / b for a, b in zip(rates, base, strict=True))
        yield Figure(
            POINT,
            f"replay of {rows} rows, {what}, to batches of {BATCH}",
            statistics.median(ratio),
            bound=bound,
            at_most=False,
            beside=f"{thousands(statistics.median(rates))} to {thousands(statistics.median(base))}",
            values=ratio,
        )


def work(trace: Path, folder: Path) -> Subject:
    """The replay by itself, on a ledger that is there, as the command makes it."""
    columns = Columns("at", "user", "images", "status", frozenset({"failed"}), "image", None)
    number = iter(range(10**6))

    def once() -> list[float]:
        path = folder / f"replay-{next(number)}.db"
        with (
            trace.open(newline="", encoding="utf-8", errors="surrogateescape") as file,
            quotactl.create(path, zone="UTC", notify=False) as q,
        ):
            q.admin.set_setting("durability", "relaxed")
            q.admin.apply_policy(POLICY, reason="measured")
            rows = read_trace(file, columns, calendar_of("UTC"))
            return steps(lambda: replaying.replay(q.engine, rows), 1)

    return once
