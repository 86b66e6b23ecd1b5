"""Do the tests notice? Change one thing in the code at a time, and see whether any test fails.

    python tests/campaigns/mutate.py --seed 1 --count 300
    python tests/campaigns/mutate.py --files quotactl/policy/decide.py --count 1000
    python tests/campaigns/mutate.py --only quotactl/policy/solve.py:41:12 --budget 300  # again

A run draws `--count` mutants per folder with `--seed` from all that there are in `--files`.
It ends with 0 if at least `--least` percent of each folder were killed, else with 8.
`mutants` beside this says what is changed.

One pass over the suite records which tests run which lines, and for how long (times are of
the processor, which other programs don't lengthen); it is kept in the temporary folder, and
made again for the files of tests that changed, for all if anything else did. A mutant is run
against the tests that run its line (or, where that is run on import, what uses its names):
first those that killed in the same function, then those that take no time, then in turn the
likeliest (that share lines around it, and words, that few have) and the most unlike those
before, in what they run; until one fails or their times add up to `--budget` seconds. So a
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
import gc
import hashlib
import heapq
import inspect
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
import warnings
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from itertools import chain, zip_longest
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import pytest
from hypothesis import Phase, settings
from mutants import Mutant, Place, mutants, words_of

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
# Whatever takes no longer is tried before anything that does.
AT_ONCE_S = 0.02
# The lines before and after that tell what a test is about.
AROUND = 12
# What is captured stays in a child's memory, and apart from that of the others.
OPTIONS = ("-q", "--numprocesses=0", "--no-header", "--tb=no", "--capture=sys",
           "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")  # fmt: skip
MEMORY_MAX = 4 << 30


# ---- which tests run what


@dataclass(frozen=True)
class Seen:
    """One pass over the suite: the seconds of each test, the tests of each line, and the
    lines of each test.

    The tests of a line are the bits of a number, in the order of `seconds`; likewise the
    lines of a test.
    """

    seconds: dict[str, float]
    lines: dict[str, dict[int, int]]
    runs: dict[str, int]
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

    def unlike(self, tests: Iterable[str]) -> Iterator[str]:
        """Tests in such an order that those that come first run as much as they can that
        none before them ran, for their time; when all is run, once more with the rest."""
        rest = list(tests)
        while rest:
            ran, left = 0, []
            heap = [(-self._gain(test, ran), test) for test in rest]
            heapq.heapify(heap)
            while heap:
                _, test = heapq.heappop(heap)
                # What it was worth a while ago; by now others have run some of it.
                gain = self._gain(test, ran)
                if heap and -gain > heap[0][0]:
                    heapq.heappush(heap, (-gain, test))
                elif gain:
                    ran |= self.runs[test]
                    yield test
                else:
                    left.append(test)
            if len(left) == len(rest):
                yield from sorted(left)
                return
            rest = left

    def _gain(self, test: str, ran: int) -> float:
        return (self.runs[test] & ~ran).bit_count() / (0.05 + self.seconds[test])

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
    with warnings.catch_warnings(action="ignore"):  # of tests that run none of it
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
    bits: dict[tuple[str, int], int] = {}
    runs: dict[str, int] = {}
    failed: set[str] = set()
    for source in sources:
        found = json.loads(source.read_text())
        tests = list(found["seconds"])
        runs |= dict.fromkeys(tests, 0)
        for path, of_file in found["lines"].items():
            for text, numbers in of_file.items():
                line = int(text)
                bit = bits.setdefault((path, line), 1 << len(bits))
                for number in numbers:
                    lines[path][line] |= 1 << len(seconds) + number
                    runs[tests[number]] |= bit
        seconds |= found["seconds"]
        failed.update(found["failed"])
    return Seen(seconds, lines, runs, frozenset(failed))


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


Functions = dict[tuple[str, str], list[FunctionType]]
"""By path and name; a property's several functions have one name."""


def put_in(mutant: Mutant, functions: Functions) -> bool:
    """Give a function its changed code; False where that can't be done."""
    name, line = mutant.place.function, mutant.place.function_line
    codes = [compile(mutant.source, mutant.path, "exec", dont_inherit=True)]
    done = False
    for code in codes:
        codes += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
        is_it = (code.co_qualname, code.co_firstlineno) == (name, line)
        # Those that it returned on import have its old code, too.
        if not (is_it or code.co_qualname.startswith(f"{name}.<locals>.")):
            continue
        for function in functions.get((mutant.path, code.co_qualname), ()):
            if is_it and function.__code__.co_firstlineno != line:
                continue
            if function.__code__.co_freevars != code.co_freevars:
                return False
            function.__code__ = code
            done = done or is_it
    forget()
    return done


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
        self._functions: Functions = defaultdict(list)
        for thing in gc.get_objects():
            if isinstance(thing, FunctionType):
                code = thing.__code__
                path = code.co_filename.removeprefix(f"{folder}/")
                self._functions[path, code.co_qualname].append(thing)
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
        # The last two: the tests can't even be read.
        if code in (
            pytest.ExitCode.TESTS_FAILED,
            pytest.ExitCode.INTERRUPTED,
            pytest.ExitCode.USAGE_ERROR,
        ):
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
        try:
            self._bench = Bench(self._folder, session.items)
            try:
                self.code = self._run()
            finally:
                self._bench.close()
        except Exception:  # noqa: BLE001 - pytest would tell it to nobody
            say(traceback.format_exc())
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
        seen, good = self._bench.seen, self._killers[mutant.path, mutant.place.function]
        able = {t for t in seen.tests(mutant, self._users) if TIMED not in t}
        able = {t for t in able if self._given.tests in t}
        worth = seen.worth(mutant, self._users, self._bench.words)
        near = sorted(able, key=lambda t: (-worth.get(t, 0), t))
        at_once = [t for t in near if seen.seconds[t] <= AT_ONCE_S]
        in_turn = chain.from_iterable(zip(near, seen.unlike(able), strict=True))
        left_s = self._given.budget
        chosen: dict[str, None] = {}
        for test in chain(
            sorted(able & good.keys(), key=lambda t: (-good[t], t)), at_once, in_turn
        ):
            if test not in chosen:
                left_s -= seen.seconds[test]
                if left_s < 0 and chosen:
                    break
                chosen[test] = None
        return list(chosen)

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
