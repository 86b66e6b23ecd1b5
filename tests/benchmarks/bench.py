"""What the benchmarks share: subjects measured in turn, figures as ratios, one table.

Absolute times mean little on a machine that others use too. So what is compared is measured
in the same run and in turn (A B A B …), a ratio is taken of each round by itself, and the
figure is their median: what slowed down a whole round slowed down both.
"""

from __future__ import annotations

import os
import pty
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

# Far beyond what any command here takes: it only turns a hang into a failure.
DEADLINE_S = 1800.0


class Options(NamedTuple):
    """How much is to be measured. `folder` is for this run alone, in `kept` large ledgers
    stay for the next one; `users` and `entries` are their sizes. What a benchmark has to say
    beside its figures it adds to `texts`."""

    runs: int
    quick: bool
    folder: Path
    kept: Path
    users: int
    entries: int
    trace: Path | None
    texts: list[str]
    # Of a benchmark that has parts, the one that is wanted; all of them if empty.
    part: str = ""

    def few(self, quick: int, full: int) -> int:
        """One of two counts."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Figure:
    """One line of the table. `value` is None where nothing could be measured: `note` says why.

    `bound` is the promise, `at_most` its direction; None where the figure is for scale only.
    `beside` has the absolute values that the ratio is of, as text; `values` those of each run.
    """

    point: str
    what: str
    value: float | None
    unit: str = "x"
    bound: float | None = None
    at_most: bool = True
    beside: str = ""
    note: str = ""
    values: tuple[float, ...] = field(default=(), repr=False)
    # Another promise that will do as well, as text, and whether it was kept.
    instead: str = ""
    instead_met: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the promise was kept in this run; None where there is none to keep."""
        if self.value is None or self.bound is None:
            return None
        if self.instead_met:
            return True
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    @property
    def said(self) -> str:
        """The value with its unit."""
        if self.value is None:
            return "-"
        number = f"{self.value:.0f}" if self.value >= 100 else f"{self.value:.3g}"
        return f"{number} {self.unit}"

    @property
    def target(self) -> str:
        if self.bound is None:
            return ""
        text = f"{'≤' if self.at_most else '≥'} {self.bound:g} {self.unit}"
        return f"{text} or {self.instead}" if self.instead else text

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "target": self.target or None, "met": self.met}


# ---- measuring in turn

Subject = Callable[[], Sequence[float]]
"""Does a share of its work and returns how long each of its steps took, in seconds."""


@dataclass
class Taken:
    """What one subject took: in each run the time of each step, and the processor's time."""

    walls: list[list[float]] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def per_second(self, each: int = 1) -> float:
        """Steps a second, the median of the runs; a step may stand for `each` things."""
        return statistics.median(each * len(run) / sum(run) for run in self.walls)

    def median(self, of: Callable[[Sequence[float]], float]) -> float:
        """The median of the runs."""
        return statistics.median(map(of, self.walls))


def in_turn(
    subjects: Mapping[str, Subject], *, runs: int, slices: int = 1, warm: int = 1
) -> dict[str, Taken]:
    """What each subject took; a run is `slices` times all of them in turn."""
    for _ in range(warm):
        for subject in subjects.values():
            subject()
    taken = {name: Taken() for name in subjects}
    for _ in range(runs):
        for one in taken.values():
            one.walls.append([])
            one.cpu.append(0.0)
        for _ in range(slices):
            for name, subject in subjects.items():
                began = time.process_time()
                taken[name].walls[-1].extend(subject())
                taken[name].cpu[-1] += time.process_time() - began
    return taken


def steps(step: Callable[[], object], count: int) -> list[float]:
    """Run one step so many times; the time of each."""
    clock = time.perf_counter
    times = []
    for _ in range(count):
        began = clock()
        step()
        times.append(clock() - began)
    return times


def ratios(
    above: Taken, below: Taken, of: Callable[[Sequence[float]], float] = sum
) -> tuple[float, ...]:
    """Of each run one ratio; for that of their sums both must have taken as many steps."""
    return tuple(of(a) / of(b) for a, b in zip(above.walls, below.walls, strict=True))


def by_processor(above: Taken, below: Taken) -> str:
    """The same of the time that the process computed: of use where others use the machine."""
    ratio = statistics.median(a / b for a, b in zip(above.cpu, below.cpu, strict=True))
    return f"by processor time {ratio:.2f} x"


def share(times: Sequence[float], part: float) -> float:
    """The time that so large a part of the steps did not exceed."""
    return sorted(times)[min(int(len(times) * part), len(times) - 1)]


def p99(times: Sequence[float]) -> float:
    return share(times, 0.99)


def thousands(rate: float) -> str:
    return f"{rate / 1000:.1f} k/s"


def milliseconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


# ---- processes


@dataclass(frozen=True)
class Ran:
    """One process from its start to its end. `cpu_s` is what it and its children computed."""

    wall_s: float
    cpu_s: float
    code: int
    output: bytes


def run_process(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    terminal: bool = False,
) -> Ran:
    """Run a command with its output in a pipe, or on a terminal."""
    read, write = pty.openpty() if terminal else os.pipe()
    began = time.perf_counter()
    with subprocess.Popen(
        [os.fspath(word) for word in command],
        stdin=write if terminal else subprocess.DEVNULL,
        stdout=write,
        stderr=write,
        env=dict(os.environ if env is None else env),
    ) as process:
        os.close(write)
        output = bytearray()
        try:
            while more := os.read(read, 1 << 16):
                output += more
        except OSError:
            # How a terminal says that nobody has it open any more.
            if not terminal:
                raise
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    os.close(read)
    cpu_s = usage.ru_utime + usage.ru_stime
    return Ran(wall_s, cpu_s, process.returncode, bytes(output))


# The peak of a process counts from before its exec on, when it still was its parent: so a
# parent that is nothing but an interpreter stands between. What is printed goes nowhere.
_PEAK = """
import os, resource, signal, sys
told, memory, seconds, *command = sys.argv[1:]
nowhere = os.open(os.devnull, os.O_RDWR)
resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
pid = os.posix_spawn(command[0], command, os.environ, file_actions=[
    (os.POSIX_SPAWN_DUP2, nowhere, 0), (os.POSIX_SPAWN_DUP2, nowhere, 1)])
signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
signal.alarm(int(seconds))
_, status = os.waitpid(pid, 0)
with open(told, "w") as file:
    file.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status) % 256)
"""
MEMORY_MAX = 1024**3
"""No command may have more, lest it takes the machine with it."""


def peak_mb(
    command: Sequence[str | Path], folder: Path, *, env: Mapping[str, str], seconds: int = 900
) -> tuple[float, Ran]:
    """The most memory that a command had at once, in MB, and how it went."""
    told = folder / "peak"
    # Without site-packages it is smaller than anything that is measured.
    limits: list[str | Path] = [told, str(MEMORY_MAX), str(seconds)]
    ran = run_process([sys.executable, "-I", "-S", "-c", _PEAK, *limits, *command], env=env)
    peak = int(told.read_text()) / 1024
    told.unlink()
    return peak, ran


def script(name: str) -> Path | None:
    """A console script of this virtual environment, as its users run it."""
    path = Path(sys.executable).parent / name
    return path if path.is_file() else None


# ---- telling


def progress(text: str) -> None:
    """What goes on, for whoever waits; not part of the result."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def table_of(figures: Sequence[Figure], title: str) -> Table:
    table = Table(title=title, title_justify="left", pad_edge=False, expand=False)
    table.add_column("point")
    table.add_column("what")
    table.add_column("figure", justify="right")
    table.add_column("target", justify="right")
    table.add_column("met")
    table.add_column("beside", overflow="fold")
    table.add_column("note", overflow="fold")
    before = None
    for figure in figures:
        if before not in (None, figure.point):
            table.add_section()
        table.add_row(
            "" if figure.point == before else figure.point,
            figure.what,
            figure.said,
            figure.target,
            {True: "yes", False: "NO", None: ""}[figure.met],
            figure.beside,
            figure.note,
        )
        before = figure.point
    return table


def console(*, width: int | None = None) -> Console:
    # Markup is for people who write tables, not for what stands in them.
    return Console(markup=False, highlight=False, width=width)
