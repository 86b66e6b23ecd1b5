"""Do the tests notice? Change one operator or number at a time, and see whether any test fails.

    python tests/campaigns/mutate.py --seed 1 --count 200 --jobs 2
    python tests/campaigns/mutate.py --files quotactl/policy/decide.py --count 1000
    python tests/campaigns/mutate.py --files quotactl/policy/solve.py --only 41:12  # it again

A run draws `--count` mutants with `--seed` from all that there are in `--files`, and
tries each in a copy of the checkout: the tree itself is never touched. A mutant is run
against the tests of its own layer, and, if those let it pass, against those of the
layer above (`SUITES`). It ends with 0 if at least `--least` percent were killed.

Of our own and not mutmut or cosmic-ray: both run one fixed set of tests for every mutant,
which here takes minutes where the right file says no in two seconds.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parents[2]

FILES = tuple(
    f"quotactl/policy/{name}.py"
    for name in ("decide", "resolve", "burndown", "solve", "foresight", "window")
)

_PROMISES = "tests/ledger/test_promises_"
# What is tried, one after the other, until a test fails. By folder of the mutant.
SUITES: dict[str, tuple[tuple[str, ...], ...]] = {
    "quotactl/policy": (
        # Windows have their own tests, which are tried first for their own file, and cost most.
        (
            "tests/policy",
            "--ignore=tests/policy/test_time.py",
            "--ignore=tests/policy/test_window.py",
        ),
        tuple(
            f"{_PROMISES}{name}.py"
            for name in ("deciding", "throttles", "ramps", "totals", "counting", "taking")
        ),
        ("tests/reports", "tests/policy/test_time.py"),
    ),
    "quotactl/operations": (
        ("tests/ledger",),
        ("tests/reports", "tests/replay"),
        ("tests/cli", "--ignore=tests/cli/test_hostile.py"),
    ),
}

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_CALCULATED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
}
_CALLED = {"min": "max", "max": "min", "any": "all", "all": "any"}
# What these say is for readers and type checkers.
_NOT_RUN = {"annotation", "returns", "decorator_list"}


# That a test fails is enough here; for what smallest example is no matter.
UNSHRUNK = """\
from hypothesis import Phase, settings

load = settings.load_profile


def load_unshrunk(name):
    load(name)
    settings.register_profile("unshrunk", phases=(Phase.explicit, Phase.generate))
    load("unshrunk")


# Hypothesis refuses a plain assignment.
type.__setattr__(settings, "load_profile", staticmethod(load_unshrunk))
"""


@dataclass(frozen=True)
class Mutant:
    """One file with one expression changed."""

    path: str
    line: int
    column: int
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.before}  ->  {self.after}"


def mutants(path: str, source: str) -> Iterator[Mutant]:
    """Every mutant of a file, in the order of its lines."""
    lines = source.splitlines(keepends=True)
    for node in _expressions(ast.parse(source)):
        for changed in _changes(node):
            assert node.end_lineno is not None and node.end_col_offset is not None
            start = _offset(lines, node.lineno, node.col_offset)
            end = _offset(lines, node.end_lineno, node.end_col_offset)
            raw = source.encode()
            after = ast.unparse(changed)
            mutated = raw[:start] + f"({after})".encode() + raw[end:]
            yield Mutant(
                path,
                node.lineno,
                node.col_offset,
                " ".join(raw[start:end].decode().split()),
                after,
                mutated.decode(),
            )


def _offset(lines: Sequence[str], line: int, column: int) -> int:
    return sum(len(text.encode()) for text in lines[: line - 1]) + column


def _expressions(tree: ast.AST) -> Iterator[ast.expr]:
    for name, value in ast.iter_fields(tree):
        if name in _NOT_RUN:
            continue
        for child in value if isinstance(value, list) else [value]:
            # Asserts pair with what is checked elsewhere; places in f-strings are not
            # where they seem to be before Python 3.12.
            if not isinstance(child, ast.AST) or isinstance(child, ast.Assert | ast.JoinedStr):
                continue
            if isinstance(child, ast.expr):
                yield child
            yield from _expressions(child)


def _changes(node: ast.expr) -> Iterator[ast.expr]:
    changed = copy.deepcopy(node)
    match changed:
        case ast.Compare(ops=ops):
            for at, operator in enumerate(ops):
                ops[at] = _COMPARED[type(operator)]()
                yield changed
                ops[at] = operator
        case ast.BinOp(op=operation) if type(operation) in _CALCULATED:
            changed.op = _CALCULATED[type(operation)]()
            yield changed
        case ast.BoolOp(op=ast.And()):
            changed.op = ast.Or()
            yield changed
        case ast.BoolOp():
            changed.op = ast.And()
            yield changed
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=bool() as truth):
            yield ast.Constant(not truth)
        case ast.Constant(value=int() as number):
            yield ast.Constant(number + 1)
        case ast.Call(func=ast.Name(id=name)) if name in _CALLED:
            changed.func = ast.Name(_CALLED[name], ast.Load())
            yield changed
        case ast.IfExp(test=test):
            changed.test = ast.UnaryOp(ast.Not(), test)
            yield changed
        case _:
            pass


class Bench:
    """A copy of the checkout in which one mutant at a time is tried."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._folder = Path(tempfile.mkdtemp(prefix="quotactl-mutate-"))
        for name in ("quotactl", "migrations", "tests"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, self._folder / name, ignore=ignored)
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, self._folder / name)
        (self._folder / "unshrunk.py").write_text(UNSHRUNK)

    def killed_by(self, mutant: Mutant | None) -> str | None:
        """What noticed the mutant; None if nothing did. Without one, what fails anyway."""
        target = None if mutant is None else self._folder / mutant.path
        kept = None if target is None else target.read_text()
        path = "quotactl/policy/" if mutant is None else mutant.path
        try:
            if target is not None and mutant is not None:
                target.write_text(mutant.source)
            own = f"tests/policy/test_{Path(path).stem}.py"
            nearest = [(own,)] if (self._folder / own).exists() else []
            for suite in (*nearest, *SUITES[path.rpartition("/")[0]]):
                if (seen := self._run(suite)) is not None:
                    return seen
            return None
        finally:
            if target is not None and kept is not None:
                target.write_text(kept)

    def _run(self, suite: Sequence[str]) -> str | None:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=no",
                   "-p", "no:cacheprovider", "-p", "unshrunk", *suite]  # fmt: skip
        # Without compiled files: two mutants of one second and one size look the same.
        environment = os.environ | {"PYTHONPATH": str(self._folder), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            ran = subprocess.run(
                command,
                cwd=self._folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=self._timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "time-out"
        if ran.returncode == 0:
            return None
        if ran.returncode > 2:
            raise RuntimeError(f"pytest itself failed: {ran.stderr[-2000:]}")
        failed = [line for line in ran.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return failed[0] if failed else f"exit {ran.returncode}"

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--files", nargs="+", default=list(FILES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--only", metavar="LINE:COLUMN", help="those that are there, all of them")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=180, help="seconds for a suite")
    parser.add_argument("--minutes", type=float, default=600, help="start none after so long")
    parser.add_argument("--least", type=float, default=90, help="percent that have to be killed")
    parser.add_argument("--trust", action="store_true", help="that the tests pass without mutants")
    given = parser.parse_args()

    found = [m for path in given.files for m in mutants(path, (ROOT / path).read_text())]
    drawn = random.Random(given.seed).sample(found, min(given.count, len(found)))
    if given.only:
        drawn = [m for m in found if f"{m.line}:{m.column}" == given.only]
    say(f"{len(drawn)} of {len(found)} mutants, seed {given.seed}")

    benches: SimpleQueue[Bench] = SimpleQueue()
    made = [Bench(given.timeout) for _ in range(given.jobs)]
    for bench in made:
        benches.put(bench)
    until = time.monotonic() + given.minutes * 60
    killed: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    survivors: list[Mutant] = []

    def attempt(mutant: Mutant) -> None:
        if time.monotonic() > until:
            return
        bench = benches.get()
        try:
            by = bench.killed_by(mutant)
        finally:
            benches.put(bench)
        tried[mutant.path] += 1
        if by is None or by == "time-out":
            # A suite that ran out of time says something on an idle machine only.
            survivors.append(mutant)
            say(f"{'SURVIVED' if by is None else 'TIME-OUT'} {mutant}")
        else:
            killed[mutant.path] += 1
            say(f"killed   {mutant}   by {by.removeprefix('FAILED ')[:90]}")

    try:
        if not given.trust and (broken := made[0].killed_by(None)) is not None:
            say(f"the tests fail without any mutant: {broken}")
            return 2
        with ThreadPoolExecutor(given.jobs) as pool:
            list(pool.map(attempt, drawn))
    finally:
        for bench in made:
            bench.close()
    for path in sorted(tried):
        say(f"{path}: {killed[path]} of {tried[path]} killed")
    percent = 100 * killed.total() / max(1, tried.total())
    say(f"killed {killed.total()} of {tried.total()}: {percent:.1f} %; survivors:")
    for mutant in sorted(survivors, key=lambda m: (m.path, m.line)):
        say(f"  {mutant}")
    return 0 if percent >= given.least else 8


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
