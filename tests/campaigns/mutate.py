"""Do the tests notice? Change one thing in the code at a time, and see whether any test fails.

    python tests/campaigns/mutate.py --seed 1 --count 300
    python tests/campaigns/mutate.py --files quotactl/policy/decide.py --count 1000
    python tests/campaigns/mutate.py --files quotactl/policy/solve.py --only 41:12  # it again

A run draws `--count` mutants per folder with `--seed` from all that there are in `--files`.
It ends with 0 if at least `--least` percent of each folder were killed, else with 8.

What is changed: comparisons, calculations, `and` and `or`, conditions, numbers, truths,
strings, `min` and `max`, `any` and `all`; what is returned becomes None; a call or a raise
that is a statement of its own is left out; `continue` and `break`, `+=` and `-=` change
places. What a `raise` says is left alone, and so are f-strings, docstrings and assertions.

One pass over the suite records which tests run which lines, and for how long (times are of
the processor, which other programs don't lengthen); it is kept in the temporary folder
under a digest of the tree. A mutant is run against the tests that run its line (or, where
that is run on import, what uses its names): first those that killed neighbours, then the
fastest, until one fails or their times add up to `--budget` seconds. So a survivor may have
a slow test that would notice: try it again with `--only` and a larger budget. The tests in
`APART` are left out: they try other processes, which don't have the mutant.

All is done in a copy of the checkout, in forked children of this process, which has
imported everything but quotactl; the mutant is put in its module's place on import.

A mutant that loops is killed: one test used ten times its usual time and ten seconds more.
One that runs out of time otherwise, waiting for something, is a survivor.

Of our own and not mutmut or cosmic-ray: both run one fixed set of tests for every mutant,
which here takes minutes where the right test says no in a second.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from itertools import chain
from pathlib import Path
from types import CodeType, ModuleType

import pytest
from hypothesis import Phase, settings

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("quotactl/policy", "quotactl/operations")
FILES = tuple(
    str(path.relative_to(ROOT)) for name in FOLDERS for path in sorted((ROOT / name).glob("*.py"))
)
APART = (
    "tests/campaigns", "tests/packaging", "tests/processes", "tests/cli/test_readme.py",
    "tests/cli/test_signals.py", "tests/cli/test_opening_rules.py",
)  # fmt: skip
# Measures seconds, and would see a busy machine as a mutant.
TIMED = "test_twenty_thousand_users_are_reported_and_made_good_quickly"
# What the tests need and we do not change is there before the first fork.
FOUND_READY = (
    "hypothesis.stateful", "hypothesis.strategies", "rich.console", "rich.table", "sqlite_utils",
    "typer.testing",
)  # fmt: skip
# So many are tried before all files of tests are read.
AT_FIRST = 40
MEMORY_MAX = 4 << 30

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


# ---- the mutants


@dataclass(frozen=True)
class Place:
    """The statement that something is part of: what must run for that to matter."""

    first: int
    last: int
    # Not empty where it runs on import: the names that it gives a meaning.
    names: frozenset[str] = frozenset()
    # A message: what it says is nobody's promise.
    said: bool = False


@dataclass(frozen=True)
class Mutant:
    """One file with one thing changed."""

    path: str
    line: int
    column: int
    before: str
    after: str
    source: str = field(repr=False)
    place: Place = field(repr=False)

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.before}  ->  {self.after}"


def mutants(path: str, source: str) -> Iterator[Mutant]:
    """Every mutant of a file, in the order of its lines."""
    starts = [0]
    for text in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(text.encode()))
    raw = source.encode()
    for node, place in _places(ast.parse(source), Place(0, 0)):
        for old, changed in chain(((node, new) for new in _changes(node, place)), _negated(node)):
            assert old.end_lineno is not None and old.end_col_offset is not None
            start = starts[old.lineno - 1] + old.col_offset
            end = starts[old.end_lineno - 1] + old.end_col_offset
            after = ast.unparse(changed)
            put = f"({after})" if isinstance(changed, ast.expr) else after
            yield Mutant(
                path,
                old.lineno,
                old.col_offset,
                " ".join(raw[start:end].decode().split()),
                after,
                (raw[:start] + put.encode() + raw[end:]).decode(),
                place,
            )


def _places(
    tree: ast.AST, place: Place, *, on_import: bool = True
) -> Iterator[tuple[ast.expr | ast.stmt, Place]]:
    """All statements and expressions that are run, each with its place."""
    for name, value in ast.iter_fields(tree):
        if name in _NOT_RUN:
            continue
        for child in value if isinstance(value, list) else [value]:
            # Asserts pair with what is checked elsewhere; places in f-strings are not
            # where they seem to be before Python 3.12.
            if not isinstance(child, ast.AST) or isinstance(child, ast.Assert | ast.JoinedStr):
                continue
            if _is_talk(child):
                continue
            inside = on_import
            there = place
            match child:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    # Its header runs on import, but shows when the function is called.
                    there = Place(child.body[0].lineno, child.end_lineno or child.lineno)
                    inside = False
                case ast.stmt() | ast.ExceptHandler() | ast.match_case():
                    there = _place(child, on_import=on_import)
                case _:
                    pass
            if isinstance(child, ast.expr | ast.stmt):
                yield child, there
            yield from _places(child, there, on_import=inside)


def _is_talk(node: ast.AST) -> bool:
    """Docstrings, imports for type checkers, and types as values."""
    match node:
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Subscript(value=ast.Name(id="Literal")):
            return True
        case _:
            return False


def _place(node: ast.stmt | ast.ExceptHandler | ast.match_case, *, on_import: bool) -> Place:
    """The lines of a statement, or of the head of one that has others inside."""
    if isinstance(node, ast.match_case):
        first = last = node.pattern.lineno
    else:
        first, last = node.lineno, node.end_lineno or node.lineno
    inner = getattr(node, "body", None) or getattr(node, "cases", None)
    if inner:
        below = inner[0].pattern if isinstance(inner[0], ast.match_case) else inner[0]
        last = max(first, below.lineno - 1)
    names: frozenset[str] = frozenset()
    if on_import:
        named = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and _is_stored(n)}
        names = frozenset(named or {getattr(node, "name", "")})
    return Place(first, last, names, isinstance(node, ast.Raise))


def _is_stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _changes(node: ast.expr | ast.stmt, place: Place) -> Iterator[ast.expr | ast.stmt]:
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
        case ast.Constant(value=str() as text) if not place.said:
            yield ast.Constant(f"XX{text}XX")
        case ast.Call(func=ast.Name(id=name)) if name in _CALLED:
            changed.func = ast.Name(_CALLED[name], ast.Load())
            yield changed
        case ast.Expr(value=ast.Call()) | ast.Raise():
            yield ast.Pass()
        case ast.Return(value=value) if value is not None and not _is_none(value):
            yield ast.Return(ast.Constant(None))
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()
        case ast.AugAssign(op=ast.Add()):
            changed.op = ast.Sub()
            yield changed
        case ast.AugAssign(op=ast.Sub()):
            changed.op = ast.Add()
            yield changed
        case _:
            pass


def _negated(node: ast.expr | ast.stmt) -> Iterator[tuple[ast.expr, ast.expr]]:
    """The conditions in a node, each turned round; those calculated are changed by themselves."""
    match node:
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            conditions = [test]
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            conditions = [test for part in node.generators for test in part.ifs]
        case _:
            conditions = []
    for test in conditions:
        if not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp):
            yield test, ast.UnaryOp(ast.Not(), test)


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


# ---- which tests run what


@dataclass(frozen=True)
class Seen:
    """One pass over the suite: the seconds of each test, and the tests of each line."""

    seconds: dict[str, float]
    lines: dict[str, dict[int, frozenset[str]]]
    failed: frozenset[str]

    def tests(self, mutant: Mutant, users: dict[str, set[tuple[str, int]]]) -> set[str]:
        """All tests that could notice."""
        place = mutant.place
        own = self.lines.get(mutant.path, {})
        if not place.names:
            return self._of(own.get(n) for n in range(place.first, place.last + 1))
        used = self._of(
            self.lines.get(path, {}).get(line)
            for name in place.names
            for path, line in users.get(name, ())
        )
        return used or self._of(own.values())

    def _of(self, found: Iterable[frozenset[str] | None]) -> set[str]:
        return set().union(*(tests for tests in found if tests)) - self.failed


def users_of_names() -> dict[str, set[tuple[str, int]]]:
    """For each name, the lines inside of functions where it is used."""
    users: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for path in FILES:
        for outer in ast.walk(ast.parse((ROOT / path).read_text())):
            if not isinstance(outer, ast.FunctionDef):
                continue
            for node in ast.walk(outer):
                match node:
                    case ast.Name(id=name) | ast.Attribute(attr=name):
                        users[name].add((path, node.lineno))
                    case ast.Call(keywords=keywords):
                        for keyword in keywords:
                            users[str(keyword.arg)].add((path, node.lineno))
                    case _:
                        pass
    return users


class Watch:
    """As a plugin of pytest: records the lines and seconds of each test."""

    def __init__(self, folder: Path) -> None:
        # Only here: those who merely run the tests need not have it.
        from coverage import Coverage

        sources = [str(folder / name / "*") for name in FOLDERS]
        self._coverage = Coverage(data_file=None, include=sources, config_file=False)
        self._folder = folder
        self._seconds: dict[str, float] = {}
        self._failed: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        self._coverage.start()
        try:
            return (yield)
        finally:
            self._coverage.stop()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        # What an earlier test had remembered would hide that this one needs it.
        for name in [name for name in sys.modules if name.startswith("quotactl.")]:
            for thing in vars(sys.modules[name]).values():
                if hasattr(thing, "cache_clear"):
                    thing.cache_clear()
        self._coverage.switch_context(item.nodeid)
        began = time.process_time()
        try:
            return (yield)
        finally:
            self._seconds[item.nodeid] = time.process_time() - began
            self._coverage.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.add(report.nodeid)

    def write(self, to: Path) -> None:
        data = self._coverage.get_data()
        lines = {
            str(Path(name).relative_to(self._folder)): {
                line: [context for context in contexts if context]
                for line, contexts in data.contexts_by_lineno(name).items()
            }
            for name in data.measured_files()
        }
        found = {"seconds": self._seconds, "lines": lines, "failed": sorted(self._failed)}
        to.write_text(json.dumps(found))


def read_seen(source: Path) -> Seen:
    found = json.loads(source.read_text())
    lines = {
        path: {int(line): frozenset(tests) for line, tests in lines.items()}
        for path, lines in found["lines"].items()
    }
    return Seen(found["seconds"], lines, frozenset(found["failed"]))


# ---- trying one


class Instead(MetaPathFinder):
    """Imports one module from a changed source."""

    def __init__(self, folder: Path, mutant: Mutant) -> None:
        self._name = mutant.path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        self._file = folder / mutant.path
        self._source = mutant.source

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self._name:
            return None
        source = self._source

        class Loader(SourceFileLoader):
            # Past the compiled file, which is that of the true one.
            def get_code(self, fullname: str) -> CodeType:
                return compile(source, self.path, "exec", dont_inherit=True)

        return spec_from_file_location(name, self._file, loader=Loader(name, str(self._file)))


class Chosen:
    """As a plugin of pytest: runs these tests only, in this order, and notes each begun."""

    def __init__(self, tests: Sequence[str], seconds: dict[str, float], log: int) -> None:
        self._order = {test: n for n, test in enumerate(tests)}
        self._seconds = seconds
        self._log = log

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if item.nodeid in self._order]
        items[:] = sorted(chosen, key=lambda item: self._order[item.nodeid])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        os.write(self._log, f"{item.nodeid}\n".encode())
        # Of the processor: waiting for a busy machine is no loop. Ends the process.
        signal.setitimer(signal.ITIMER_PROF, 10 + 10 * self._seconds[item.nodeid])
        return (yield)


@dataclass
class Trial:
    """A child at work on one mutant, or on none."""

    mutant: Mutant | None
    # What is tried now, and what if that lets it pass.
    tests: list[str]
    rest: list[str]
    until: float
    log: int


def last_line(log: int) -> str:
    """The test that was begun last, or what went wrong."""
    text = os.pread(log, 1 << 24, 0).decode()
    return text.splitlines()[-1] if text else "reading the tests"


class Bench:
    """A copy of the checkout, and the children that try mutants in it."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="quotactl-mutate-")).resolve()
        ignored = shutil.ignore_patterns("__pycache__")
        for name in ("quotactl", "migrations", "tests"):
            shutil.copytree(ROOT / name, self._folder / name, ignore=ignored)
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, self._folder / name)
        self._trials: dict[int, Trial] = {}

    def seen(self) -> Seen:
        """What the tests run: of an earlier pass over the same tree, or of a new one."""
        digest = hashlib.sha256(sys.version.encode())
        for path in sorted(self._folder.rglob("*")):
            if path.is_file() and not path.is_relative_to(self._folder / "tests/campaigns"):
                digest.update(f"{path.relative_to(self._folder)}\0".encode() + path.read_bytes())
        kept = Path(tempfile.gettempdir()) / f"quotactl-seen-{os.getuid()}"
        kept.mkdir(mode=0o700, exist_ok=True)
        target = kept / f"{digest.hexdigest()[:32]}.json"
        if not target.exists():
            say("one pass over the suite, to see which tests run what")
            log = os.memfd_create("log")
            os.waitpid(self._fork(lambda: self._watch(target), log), 0)
            if not target.exists():
                raise RuntimeError(f"the pass failed: {last_line(log)}")
        return read_seen(target)

    def _watch(self, target: Path) -> int:
        watch = Watch(self._folder)
        code = self._pytest([*(f"--ignore={name}" for name in APART), "tests"], watch)
        unfinished = target.with_suffix(f".{os.getpid()}")
        watch.write(unfinished)
        unfinished.rename(target)
        return code

    def start(self, mutant: Mutant | None, tests: list[str], rest: list[str], seen: Seen) -> None:
        log = os.memfd_create("log")
        until = time.monotonic() + 60 + 10 * sum(seen.seconds[test] for test in tests)

        def run() -> int:
            if mutant is not None:
                sys.meta_path.insert(0, Instead(self._folder, mutant))
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))
            files = sorted({test.partition("::")[0] for test in tests})
            return self._pytest(["-x", *files], Chosen(tests, seen.seconds, log))

        self._trials[self._fork(run, log)] = Trial(mutant, tests, rest, until, log)

    def ended(self) -> tuple[Trial, str | None]:
        """A trial that has ended, and what noticed; None if nothing did."""
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            late = [p for p, trial in self._trials.items() if time.monotonic() > trial.until]
            if pid or late:
                break
            time.sleep(0.01)
        if not pid:
            self._end(pid := late[0])
            os.waitpid(pid, 0)
        trial = self._trials.pop(pid)
        self._end(pid)
        begun = last_line(trial.log)
        os.close(trial.log)
        if late and pid == late[0]:
            return trial, f"TIME-OUT in {begun}"
        if os.WIFSIGNALED(status):
            how = "loops" if os.WTERMSIG(status) == signal.SIGPROF else f"signal {status & 127}"
            return trial, f"{begun} ({how})"
        code = os.waitstatus_to_exitcode(status)
        if code in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED):
            return trial, begun
        if code != pytest.ExitCode.OK:
            raise RuntimeError(f"pytest itself failed with {code}: {trial.mutant}: {begun}")
        return trial, None

    def _fork(self, run: Callable[[], int], log: int) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 70
        try:
            os.setpgid(0, 0)
            nowhere = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(nowhere, standard)
            own = self._folder / f"tmp{os.getpid()}"
            own.mkdir()
            os.environ |= {"TMPDIR": str(own), "PYTHONPATH": str(self._folder)}
            tempfile.tempdir = None
            os.chdir(self._folder)
            sys.path.insert(0, str(self._folder))
            code = run()
        except BaseException:  # noqa: BLE001 - the parent has to be told
            os.write(log, traceback.format_exc().encode())
        finally:
            os._exit(code)

    def _pytest(self, arguments: list[str], plugin: object) -> int:
        quiet = ["-q", "--no-header", "--tb=no", "-p", "no:cacheprovider"]
        # Hypothesis is here before pytest could rewrite its assertions.
        quiet += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        temporary = f"--basetemp={self._folder}/tmp{os.getpid()}/tests"
        return int(pytest.main([*quiet, temporary, *arguments], plugins=[plugin]))

    def _end(self, pid: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        shutil.rmtree(self._folder / f"tmp{pid}", ignore_errors=True)

    @property
    def busy(self) -> int:
        return len(self._trials)

    def close(self) -> None:
        for pid in self._trials:
            self._end(pid)
        shutil.rmtree(self._folder, ignore_errors=True)


def without_shrinking() -> None:
    """That a test fails is enough here; for what smallest example is no matter."""
    load = settings.load_profile

    def load_unshrunk(name: str) -> None:
        load(name)
        settings.register_profile("unshrunk", phases=(Phase.explicit, Phase.generate))
        load("unshrunk")

    # Hypothesis refuses a plain assignment.
    type.__setattr__(settings, "load_profile", staticmethod(load_unshrunk))


class Campaign:
    """Tries mutants, and remembers which tests are good at noticing."""

    def __init__(self, bench: Bench, seen: Seen, budget_s: float) -> None:
        self._bench = bench
        self._seen = seen
        self._budget_s = budget_s
        self._users = users_of_names()
        # The tests that killed mutants of a file, and how many.
        self.killers: dict[str, Counter[str]] = defaultdict(Counter)

    def order(self, mutant: Mutant) -> list[str]:
        """The tests to try: those that killed neighbours, then the fastest."""
        good = self.killers[mutant.path]
        able = self._seen.tests(mutant, self._users)
        able = {test for test in able if TIMED not in test}
        left_s = self._budget_s
        chosen: list[str] = []
        for test in sorted(able, key=lambda t: (-good[t], self._seen.seconds[t], t)):
            left_s -= self._seen.seconds[test]
            if left_s < 0 and chosen:
                break
            chosen.append(test)
        return chosen

    def judge(self, drawn: Sequence[Mutant], jobs: int) -> Iterator[tuple[Mutant, str | None]]:
        """Each mutant with what noticed it, as they come."""
        waiting = deque(drawn)
        while waiting or self._bench.busy:
            while waiting and self._bench.busy < jobs:
                mutant = waiting.popleft()
                tests = self.order(mutant)
                if not tests:
                    yield mutant, None
                    continue
                self._bench.start(mutant, tests[:AT_FIRST], tests[AT_FIRST:], self._seen)
            if not self._bench.busy:
                continue
            trial, by = self._bench.ended()
            assert trial.mutant is not None
            if by is None and trial.rest:
                self._bench.start(trial.mutant, trial.rest, [], self._seen)
                continue
            if by in self._seen.seconds:
                self.killers[trial.mutant.path][by] += 1
            yield trial.mutant, by

    def untrue(self) -> str | None:
        """A killer that fails without any mutant too; None if there is none."""
        killers = sorted(set().union(*self.killers.values()))
        if not killers:
            return None
        self._bench.start(None, killers, [], self._seen)
        return self._bench.ended()[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--files", nargs="+", default=list(FILES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=300, help="mutants of each folder")
    parser.add_argument("--only", metavar="LINE:COLUMN", help="those that are there, all of them")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--budget", type=float, default=30, help="seconds of tests for a mutant")
    parser.add_argument("--minutes", type=float, default=600, help="start none after so long")
    parser.add_argument("--least", type=float, default=90, help="percent that have to be killed")
    given = parser.parse_args()

    found = [m for path in given.files for m in mutants(path, (ROOT / path).read_text())]
    drawn = []
    for folder in sorted({mutant.folder for mutant in found}):
        inside = [m for m in found if m.folder == folder]
        drawn += random.Random(given.seed).sample(inside, min(given.count, len(inside)))
    if given.only:
        drawn = [m for m in found if f"{m.line}:{m.column}" == given.only]
    say(f"{len(drawn)} of {len(found)} mutants, seed {given.seed}")

    for name in FOUND_READY:
        importlib.import_module(name)
    without_shrinking()
    until = time.monotonic() + given.minutes * 60
    tried: Counter[str] = Counter()
    killed: Counter[str] = Counter()
    survivors: list[str] = []
    bench = Bench()
    try:
        seen = bench.seen()
        for test in seen.failed:
            say(f"fails without any mutant, and is left out: {test}")
        campaign = Campaign(bench, seen, given.budget)
        for mutant, by in campaign.judge(drawn, given.jobs):
            tried[mutant.path] += 1
            if by is not None and not by.startswith("TIME-OUT"):
                killed[mutant.path] += 1
                say(f"killed   {mutant}   by {by}")
            else:
                why = by or ("" if campaign.order(mutant) else "no test runs it")
                survivors.append(f"{mutant}   {why}".rstrip())
                say(f"SURVIVED {survivors[-1]}")
            if time.monotonic() > until:
                break
        if (untrue := campaign.untrue()) is not None:
            say(f"a test that killed fails without any mutant: {untrue}")
            return 2
    finally:
        bench.close()
    say("survivors:")
    for survivor in sorted(survivors):
        say(f"  {survivor}")
    enough = True
    for name in [*sorted(tried), *FOLDERS]:
        paths = [path for path in tried if path == name or path.startswith(f"{name}/")]
        if not paths:
            continue
        of, count = sum(tried[p] for p in paths), sum(killed[p] for p in paths)
        say(f"{name}: {count} of {of} killed, {100 * count / of:.1f} %")
        enough = enough and (name not in FOLDERS or 100 * count >= given.least * of)
    return 0 if enough else 8


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
