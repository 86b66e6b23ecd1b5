"""Do the tests notice? Change one thing in the code at a time, and see whether any test fails.

    python tests/campaigns/mutate.py --seed 1 --count 300
    python tests/campaigns/mutate.py --files quotactl/policy/decide.py --count 1000
    python tests/campaigns/mutate.py --only quotactl/policy/solve.py:41:12 --budget 300  # again

A run draws `--count` mutants per folder with `--seed` from all that there are in `--files`.
It ends with 0 if at least `--least` percent of each folder were killed, else with 8.

What is changed: comparisons, calculations, `and` and `or`, conditions, numbers, truths,
strings, `min` and `max`, `any` and `all`; what is returned becomes None; a call or a raise
that is a statement of its own is left out; `continue` and `break`, `+=` and `-=` change
places. What a `raise` says is left alone, and so are f-strings, docstrings and assertions.

One pass over the suite records which tests run which lines, and for how long (times are of
the processor, which other programs don't lengthen); it is kept in the temporary folder, and
made again for the files of tests that changed, for all if anything else did. A mutant is run
against the tests that run its line (or, where that is run on import, what uses its names):
first those that killed in the same function, then those that share with it what few do, lines
around it and words, and are fast; until one fails or their times add up to `--budget` seconds. So a
survivor may have a slow test that would notice: try it again with `--only` and a larger
budget. The tests in `APART` are left out: they try other processes, which don't have the
mutant.

All is done in a copy of the checkout by one session of pytest that has read all tests; each
mutant has a forked child of it to itself. There the changed function gets its new code; what
is run on import has its modules and tests read anew.

A mutant that loops is killed: one test used ten times its usual time and ten seconds more.
One that runs out of time otherwise, waiting for something, is a survivor.

Of our own and not mutmut or cosmic-ray: both run one fixed set of tests for every mutant,
which here takes minutes where the right test says no in a second.
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import hashlib
import inspect
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from itertools import chain, zip_longest
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

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
# The lines before and after that tell what a test is about.
AROUND = 12
# What is captured stays in a child's memory, and apart from that of the others.
OPTIONS = ("-q", "--no-header", "--tb=no", "--capture=sys", "-p", "no:cacheprovider",
           "-W", "ignore::pytest.PytestAssertRewriteWarning")  # fmt: skip
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
    # The function that all of it is inside of, as Python names it; and its first line.
    function: str = ""
    function_line: int = 0
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

    @property
    def words(self) -> set[str]:
        """The words of its statement."""
        lines = self.source.splitlines()[self.place.first - 1 : self.place.last]
        return words_of(" ".join([self.before, *lines]))

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.before}  ->  {self.after}"


def words_of(text: str) -> set[str]:
    return set(re.findall("[a-z]{4,}", text.lower()))


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
    tree: ast.AST, place: Place, *, scope: str = ""
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
            inside, there = scope, place
            match child:
                case ast.FunctionDef() if not place.function:
                    # Its header runs on import, but shows when the function is called.
                    last = child.end_lineno or child.lineno
                    yield from _places(child.args, Place(child.body[0].lineno, last))
                    first = min((d.lineno for d in child.decorator_list), default=child.lineno)
                    there = Place(child.lineno, last, frozenset(), f"{scope}{child.name}", first)
                    body = ast.Module(child.body, [])
                    yield from _places(body, there)
                    continue
                case ast.ClassDef():
                    inside = f"{scope}{child.name}."
                    there = _place(child, place)
                case ast.stmt() | ast.ExceptHandler() | ast.match_case():
                    there = _place(child, place)
                case _:
                    pass
            if isinstance(child, ast.expr | ast.stmt):
                yield child, there
            yield from _places(child, there, scope=inside)


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


def _place(node: ast.stmt | ast.ExceptHandler | ast.match_case, outer: Place) -> Place:
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
    if not outer.function:
        named = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and _is_stored(n)}
        names = frozenset(named or {getattr(node, "name", "")})
    said = isinstance(node, ast.Raise)
    return Place(first, last, names, outer.function, outer.function_line, said)


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
    """One pass over the suite: the seconds of each test, and the tests of each line.

    Tests of a line are the bits of a number, in the order of `seconds`.
    """

    seconds: dict[str, float]
    lines: dict[str, dict[int, int]]
    failed: frozenset[str]

    def tests(self, mutant: Mutant, users: dict[str, set[tuple[str, int]]]) -> set[str]:
        """All tests that could notice."""
        place = mutant.place
        own = self.lines.get(mutant.path, {})
        if not place.names:
            return self._of(own.get(n, 0) for n in range(place.first, place.last + 1))
        used = self._of(
            self.lines.get(path, {}).get(line, 0)
            for name in place.names
            for path, line in users.get(name, ())
        )
        return used or self._of(own.values())

    def worth(
        self,
        mutant: Mutant,
        users: dict[str, set[tuple[str, int]]],
        words: dict[str, set[str]],
    ) -> dict[str, float]:
        """How much of what few have each test runs around a mutant or says with it, per second."""
        place = mutant.place
        at = {(mutant.path, line) for line in range(place.first, place.last + 1)}
        if place.names:
            at = {user for name in place.names for user in users.get(name, ())}
        around = {(path, line + n) for path, line in at for n in range(-AROUND, AROUND + 1)}
        groups = [
            self._of([self.lines[path].get(line, 0)])
            for path, line in sorted(around)
            if path in self.lines
        ]
        groups += [words[word] for word in mutant.words if word in words]
        worth: dict[str, float] = defaultdict(float)
        for tests in groups:
            for test in tests:
                worth[test] += 1 / len(tests)
        return {test: worth[test] / (0.1 + self.seconds[test]) for test in worth}

    def _of(self, lines: Iterable[int]) -> set[str]:
        able = 0
        for tests in lines:
            able |= tests
        return {test for n, test in enumerate(self.seconds) if able >> n & 1} - self.failed


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


def watch(items: Sequence[pytest.Item], folder: Path, target: Path) -> None:
    """Run the tests of one file, and write down which run what."""
    # Only here: those who merely run the tests need not have it.
    from coverage import Coverage

    sources = [str(folder / name / "*") for name in FOLDERS]
    coverage = Coverage(data_file=None, include=sources, config_file=False)
    seconds: dict[str, float] = {}
    failed: list[str] = []
    coverage.start()
    for item, following in zip_longest(items, items[1:]):
        # What an earlier test had remembered would hide that this one needs it.
        forget()
        coverage.switch_context(item.nodeid)
        began, before = time.process_time(), item.session.testsfailed
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        seconds[item.nodeid] = time.process_time() - began
        if item.session.testsfailed > before:
            failed.append(item.nodeid)
    coverage.stop()
    numbers = {test: n for n, test in enumerate(seconds)}
    data = coverage.get_data()
    lines = {
        str(Path(name).relative_to(folder)): {
            line: sorted({numbers[test] for test in contexts if test})
            for line, contexts in data.contexts_by_lineno(name).items()
        }
        for name in data.measured_files()
    }
    unfinished = target.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps({"seconds": seconds, "lines": lines, "failed": failed}))
    unfinished.rename(target)


def read_seen(sources: Iterable[Path]) -> Seen:
    """All that `watch` wrote."""
    seconds: dict[str, float] = {}
    lines: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    failed: set[str] = set()
    for source in sources:
        found = json.loads(source.read_text())
        for path, tests in found["lines"].items():
            for line, numbers in tests.items():
                lines[path][int(line)] |= sum(1 << len(seconds) + n for n in numbers)
        seconds |= found["seconds"]
        failed.update(found["failed"])
    return Seen(seconds, lines, frozenset(failed))


def forget() -> None:
    """Clear what functions of ours remember."""
    for name in [name for name in sys.modules if name.startswith("quotactl.")]:
        for thing in vars(sys.modules[name]).values():
            if hasattr(thing, "cache_clear"):
                thing.cache_clear()


# ---- trying one


def run(items: Sequence[pytest.Item], seconds: dict[str, float], log: int) -> int:
    """Run tests until one fails, noting each as it begins."""
    for item, following in zip_longest(items, items[1:]):
        os.write(log, f"{item.nodeid}\n".encode())
        # Of the processor: waiting for a busy machine is no loop. Ends the process.
        signal.setitimer(signal.ITIMER_PROF, 10 + 10 * seconds[item.nodeid])
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if item.session.testsfailed:
            return pytest.ExitCode.TESTS_FAILED
    return pytest.ExitCode.OK


def put_in(mutant: Mutant, functions: dict[tuple[str, str, int], list[FunctionType]]) -> bool:
    """Give a function its changed code; False where that can't be done."""
    place = mutant.place
    found = functions.get((mutant.path, place.function, place.function_line), [])
    codes = [compile(mutant.source, mutant.path, "exec", dont_inherit=True)]
    for code in codes:
        codes += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
        if (code.co_qualname, code.co_firstlineno) == (place.function, place.function_line):
            for function in found:
                if function.__code__.co_freevars != code.co_freevars:
                    return False
                function.__code__ = code
            forget()
            return bool(found)
    return False


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


class Anew:
    """As a plugin of pytest: runs what is chosen of tests that were read anew."""

    def __init__(self, tests: Sequence[str], seconds: dict[str, float], log: int) -> None:
        self._tests = tests
        self._seconds = seconds
        self._log = log

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        run([items[test] for test in self._tests if test in items], self._seconds, self._log)
        return True


@dataclass
class Trial:
    """A child at work on one mutant, or on none."""

    mutant: Mutant | None
    until: float
    log: int


def last_line(log: int) -> str:
    """The test that was begun last, or what went wrong."""
    text = os.pread(log, 1 << 24, 0).decode()
    return text.splitlines()[-1] if text else "reading the tests"


class Bench:
    """The session that has read all tests, and its children that try mutants."""

    def __init__(self, folder: Path, items: Sequence[pytest.Item]) -> None:
        self._folder = folder
        self._items = {item.nodeid: item for item in items}
        self._trials: dict[int, Trial] = {}
        self._functions: dict[tuple[str, str, int], list[FunctionType]] = defaultdict(list)
        for thing in gc.get_objects():
            if isinstance(thing, FunctionType):
                code = thing.__code__
                path = code.co_filename.removeprefix(f"{folder}/")
                self._functions[path, code.co_qualname, code.co_firstlineno].append(thing)
        # The tests that say a word.
        self.words: dict[str, set[str]] = defaultdict(set)
        for item in items:
            function = getattr(item, "function", None)
            said = inspect.getsource(function) if inspect.isfunction(function) else ""
            for word in words_of(item.nodeid + said):
                self.words[word].add(item.nodeid)
        # Shared with the children for good.
        gc.freeze()
        self.seen = self._see()

    def _see(self) -> Seen:
        """What the tests run: as far as neither code nor test changed, of an earlier pass."""
        digest = hashlib.sha256(sys.version.encode())
        campaigns = self._folder / "tests/campaigns"
        for path in sorted(self._folder.rglob("*.py")):
            if not (path.name.startswith("test_") or path.is_relative_to(campaigns)):
                digest.update(f"{path.relative_to(self._folder)}\0".encode() + path.read_bytes())
        kept = Path(tempfile.gettempdir()) / f"quotactl-seen-{os.getuid()}"
        kept.mkdir(mode=0o700, exist_ok=True)
        files: dict[Path, list[pytest.Item]] = defaultdict(list)
        for item in self._items.values():
            files[item.path].append(item)
        targets = []
        for path, items in files.items():
            own = digest.copy()
            own.update(f"{path.relative_to(self._folder)}\0".encode() + path.read_bytes())
            targets.append(kept / f"{own.hexdigest()[:32]}.json")
            if not targets[-1].exists():
                say(f"which tests of {path.relative_to(self._folder)} run what")
                self._watch(items, targets[-1])
        return read_seen(targets)

    def _watch(self, items: Sequence[pytest.Item], target: Path) -> None:
        log = os.memfd_create("log")

        def work() -> int:
            watch(items, self._folder, target)
            return 0

        pid = self._fork(work, log)
        os.waitpid(pid, 0)
        self._end(pid)
        if not target.exists():
            raise RuntimeError(f"the pass failed: {last_line(log)}")
        os.close(log)

    def start(self, mutant: Mutant | None, tests: Sequence[str]) -> None:
        """Try a mutant against these tests, in this order."""
        log = os.memfd_create("log")
        seconds = self.seen.seconds

        def attempt() -> int:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))
            if mutant is None or put_in(mutant, self._functions):
                return run([self._items[test] for test in tests], seconds, log)
            for name, module in list(sys.modules.items()):
                if str(getattr(module, "__file__", "")).startswith(str(self._folder)):
                    del sys.modules[name]
            sys.meta_path.insert(0, Instead(self._folder, mutant))
            files = sorted({test.partition("::")[0] for test in tests})
            return int(pytest.main([*OPTIONS, *files], plugins=[Anew(tests, seconds, log)]))

        until = time.monotonic() + 60 + 20 * sum(seconds[test] for test in tests)
        self._trials[self._fork(attempt, log)] = Trial(mutant, until, log)

    def ended(self) -> tuple[Mutant | None, str | None]:
        """A mutant whose trial has ended, and what noticed; None if nothing did."""
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            late = [p for p, trial in self._trials.items() if time.monotonic() > trial.until]
            if pid or late:
                break
            time.sleep(0.005)
        if not pid:
            self._end(late[0])
            os.waitpid(late[0], 0)
        trial = self._trials.pop(pid or late[0])
        begun = last_line(trial.log)
        os.close(trial.log)
        if not pid:
            return trial.mutant, f"TIME-OUT in {begun}"
        self._end(pid)
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            how = "loops" if number == signal.SIGPROF else f"signal {number}"
            return trial.mutant, f"{begun} ({how})"
        code = os.waitstatus_to_exitcode(status)
        if code in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED):
            return trial.mutant, begun
        if code != pytest.ExitCode.OK:
            raise RuntimeError(f"pytest itself failed with {code}: {trial.mutant}: {begun}")
        return trial.mutant, None

    def _fork(self, work: Callable[[], int], log: int) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 70
        try:
            os.setpgid(0, 0)
            os.dup2(os.open(os.devnull, os.O_RDWR), 2)
            own = self._folder / f"tmp{os.getpid()}"
            own.mkdir()
            os.environ |= {"TMPDIR": str(own), "PYTEST_DEBUG_TEMPROOT": str(own)}
            tempfile.tempdir = None
            code = work()
        except BaseException:  # noqa: BLE001 - the parent has to be told
            os.write(log, traceback.format_exc().encode())
        finally:
            os._exit(code)

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


# ---- the campaign


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
    """As a plugin of pytest: instead of the tests, mutants are tried with them."""

    def __init__(self, given: argparse.Namespace, folder: Path, drawn: Sequence[Mutant]) -> None:
        self._given = given
        self._folder = folder
        self._drawn = drawn
        self._users = users_of_names()
        # The tests that killed mutants of a function, and how many.
        self._killers: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self.code = 70

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._bench = Bench(self._folder, session.items)
        try:
            self.code = self._run()
        finally:
            self._bench.close()
        return True

    def _run(self) -> int:
        for test in sorted(self._bench.seen.failed):
            say(f"fails without any mutant, and is left out: {test}")
        until = time.monotonic() + self._given.minutes * 60
        judged: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
        survivors: list[str] = []
        for mutant, by in self._judge(until):
            killed = by is not None and not by.startswith("TIME-OUT")
            judged[killed][mutant.path] += 1
            if killed:
                say(f"killed   {mutant}   by {by}")
            else:
                why = by or ("" if self._tests(mutant) else "no test runs it")
                survivors.append(f"{mutant}   {why}".rstrip())
                say(f"SURVIVED {survivors[-1]}")
        if (untrue := self._untrue()) is not None:
            say(f"a test that killed fails without any mutant: {untrue}")
            return 2
        say("survivors:")
        for survivor in sorted(survivors):
            say(f"  {survivor}")
        return self._sum_up(judged[True], judged[False])

    def _judge(self, until: float) -> Iterator[tuple[Mutant, str | None]]:
        """Each mutant with what noticed it, as they come."""
        waiting = deque(self._drawn)
        while waiting or self._bench.busy:
            if time.monotonic() > until:
                waiting.clear()
            if waiting and self._bench.busy < self._given.jobs:
                mutant = waiting.popleft()
                if tests := self._tests(mutant):
                    self._bench.start(mutant, tests)
                else:
                    yield mutant, None
            elif self._bench.busy:
                tried, by = self._bench.ended()
                assert tried is not None
                if by in self._bench.seen.seconds:
                    self._killers[tried.path, tried.place.function][by] += 1
                yield tried, by

    def _tests(self, mutant: Mutant) -> list[str]:
        """The tests to try, the likeliest first, as far as there is time for them."""
        good = self._killers[mutant.path, mutant.place.function]
        seconds, worth = (
            self._bench.seen.seconds,
            self._bench.seen.worth(mutant, self._users, self._bench.words),
        )
        able = {t for t in self._bench.seen.tests(mutant, self._users) if TIMED not in t}
        able = {t for t in able if self._given.tests in t}
        left_s = self._given.budget
        chosen: list[str] = []
        for test in sorted(able, key=lambda t: (-good[t], -worth.get(t, 0), t)):
            left_s -= seconds[test]
            if left_s < 0 and chosen:
                break
            chosen.append(test)
        return chosen

    def _untrue(self) -> str | None:
        """A killer that fails without any mutant too; None if there is none."""
        killers = sorted(set().union(*self._killers.values()))
        if not killers:
            return None
        path = self._drawn[0].path
        unchanged = Mutant(path, 0, 0, "", "", (self._folder / path).read_text(), Place(0, 0))
        # In both ways: with the tests as they were read, and read anew.
        for mutant in (None, unchanged):
            self._bench.start(mutant, killers)
            if (by := self._bench.ended()[1]) is not None:
                return by
        return None

    def _sum_up(self, killed: Counter[str], alive: Counter[str]) -> int:
        tried = killed + alive
        enough = True
        for name in [*sorted(tried), *FOLDERS]:
            paths = [path for path in tried if path == name or path.startswith(f"{name}/")]
            if not paths:
                continue
            of, count = sum(tried[p] for p in paths), sum(killed[p] for p in paths)
            say(f"{name}: {count} of {of} killed, {100 * count / of:.1f} %")
            enough = enough and (name not in FOLDERS or 100 * count >= self._given.least * of)
        return 0 if enough else 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--files", nargs="+", default=list(FILES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=300, help="mutants of each folder")
    parser.add_argument("--only", nargs="+", metavar="FILE:LINE:COLUMN", help="all that are there")
    parser.add_argument("--tests", default="", metavar="PART", help="only those named so")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--budget", type=float, default=30, help="seconds of tests for a mutant")
    parser.add_argument("--minutes", type=float, default=600, help="start none after so long")
    parser.add_argument("--least", type=float, default=90, help="percent that have to be killed")
    given = parser.parse_args()

    found = [m for path in given.files for m in mutants(path, (ROOT / path).read_text())]
    chance = random.Random(given.seed)
    drawn = []
    for folder in sorted({mutant.folder for mutant in found}):
        inside = [m for m in found if m.folder == folder]
        drawn += chance.sample(inside, min(given.count, len(inside)))
    chance.shuffle(drawn)
    if given.only:
        drawn = [m for m in found if f"{m.path}:{m.line}:{m.column}" in given.only]
    say(f"{len(drawn)} of {len(found)} mutants, seed {given.seed}")

    checkout = Path(tempfile.mkdtemp(prefix="quotactl-mutate-")).resolve()
    try:
        for name in ("quotactl", "migrations", "tests"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, checkout / name, ignore=ignored)
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, checkout / name)
        # Before the checkout itself, here and in processes that tests start.
        os.environ["PYTHONPATH"] = str(checkout)
        sys.path.insert(0, str(checkout))
        os.chdir(checkout)
        without_shrinking()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        campaign = Campaign(given, checkout, drawn)
        apart = [f"--ignore={name}" for name in APART]
        pytest.main([*OPTIONS, *apart, "tests"], plugins=[campaign])
        return campaign.code
    finally:
        os.chdir(ROOT)
        shutil.rmtree(checkout, ignore_errors=True)


# Pytest and the tests talk to another.
_OUT = os.fdopen(os.dup(1), "w")


def say(text: str) -> None:
    _OUT.write(f"{text}\n")
    _OUT.flush()


if __name__ == "__main__":
    sys.exit(main())
