"""What must hold whatever the number of processes. All of them are real, every wait has an end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import quotactl

HERE = Path(__file__).parent
# Far beyond what any of these takes: it only turns a hang into a failure.
DEADLINE_S = 60
START = datetime(2025, 3, 27, 9, 0, tzinfo=UTC)
AT = "2025-03-27T09:00:00+00:00"


class Process:
    """A `worker.py`, and the two pipes to lead it by."""

    def __init__(self) -> None:
        source = str(Path(quotactl.__file__).resolve().parent.parent)
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": source},
        )
        self.pid = self._process.pid
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._buffer = b""

    def tell(self, do: str, **arguments: Any) -> None:
        """Set something off and do not wait for it."""
        self._stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self._stdin.flush()

    def line(self) -> dict[str, Any] | None:
        """The next line, or None at the end of the pipe."""
        deadline = time.monotonic() + DEADLINE_S
        while b"\n" not in self._buffer:
            if not self._selector.select(max(0, deadline - time.monotonic())):
                raise TimeoutError(f"process {self.pid} did not answer within {DEADLINE_S} s")
            more = os.read(self._stdout.fileno(), 65536)
            if not more:
                return None
            self._buffer += more
        first, self._buffer = self._buffer.split(b"\n", 1)
        found: dict[str, Any] = json.loads(first)
        return found

    def answer(self) -> Any:
        """What it answered; an error of quotactl's as its JSON."""
        line = self.line()
        assert line is not None, f"process {self.pid} ended"
        return line.get("answer", line)

    def ask(self, do: str, **arguments: Any) -> Any:
        self.tell(do, **arguments)
        return self.answer()

    def go_on(self) -> None:
        """The line that `hold_the_turn` waits for."""
        self._stdin.write(b"\n")
        self._stdin.flush()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait_until_stopped(self) -> None:
        """Return once the kernel says that SIGSTOP has taken hold."""
        pid, status = os.waitpid(self.pid, os.WUNTRACED)
        assert pid == self.pid
        assert os.WIFSTOPPED(status)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(DEADLINE_S)

    def end(self) -> None:
        """Let it go, gently if it still listens."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGCONT)
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()
        self._selector.close()
        self._stdout.close()


Start = Callable[..., list[Process]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with one tier, 200 a day, made in March 2025."""
    path = tmp_path / "ledger.db"
    with quotactl.create(path, name="prod", clock=lambda: START) as q:
        q.admin.create_resource("image")
        q.admin.create_tier("free")
        q.admin.set_limit(tier="free", resource="image", limit="200/day")
    return path


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    """Starts processes that have the ledger open: `start(8)`."""
    running: list[Process] = []

    def start(count: int, *, opened: bool = True, **how: Any) -> list[Process]:
        new = [Process() for _ in range(count)]
        running.extend(new)
        for process in new:
            assert process.answer() == "ready"
        if opened:
            for process in new:
                process.tell("connect", **{"path": str(path), "at": AT, **how})
            assert [process.answer() for process in new] == [None] * count
        return new

    yield start
    for process in running:
        process.end()


def sql(path: Path, statement: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def at_once(processes: list[Process], do: str, **arguments: Any) -> list[Any]:
    """Set all off before waiting for any."""
    for process in processes:
        process.tell(do, **arguments)
    return [process.answer() for process in processes]


def assert_sound(path: Path) -> None:
    with quotactl.connect(path, clock=lambda: START) as q:
        assert q.verify().differences == ()


# ---- never over-admitted


def test_eight_processes_against_one_limit_admit_exactly_the_limit(
    start: Start, path: Path
) -> None:
    admitted = at_once(start(8), "consume_until_denied")
    assert sum(admitted) == 200
    assert sql(path, "SELECT used, denied FROM counter") == [(200, 8)]
    assert sql(path, "SELECT count(*), sum(amount) FROM entry") == [(200, 200)]
    assert_sound(path)


def test_eight_processes_in_batches_admit_exactly_the_limit(start: Start, path: Path) -> None:
    admitted = at_once(start(8), "consume_batches_until_denied", size=7)
    assert sum(admitted) == 200
    assert sql(path, "SELECT used FROM counter") == [(200,)]
    assert_sound(path)


def test_eight_processes_spend_a_grant_exactly_once(start: Start, path: Path) -> None:
    with quotactl.connect(path, clock=lambda: START) as q:
        q.admin.add_grant(user="ada", resource="image", amount=31, reason="goodwill")
    admitted = at_once(start(8), "consume_until_denied")
    assert sum(admitted) == 231
    assert sql(path, "SELECT used, granted FROM counter") == [(200, 31)]
    assert sql(path, "SELECT balance FROM grant_pool") == [(0,)]
    assert_sound(path)


def test_eight_processes_with_holds_never_exceed_the_limit(start: Start, path: Path) -> None:
    kept = at_once(start(8), "hold_and_settle", rounds=40)
    ((used,),) = sql(path, "SELECT used FROM counter")
    assert used == sum(kept)
    assert 195 <= used <= 200
    assert_sound(path)


def test_new_users_met_by_eight_processes_at_once_are_interned_once(
    start: Start, path: Path
) -> None:
    processes = start(8)
    for n in range(10):
        answers = at_once(processes, "consume", user=f"new{n}")
        assert all(answer["allowed"] for answer in answers)
    assert sql(path, "SELECT count(*) FROM user") == [(10,)]
    assert sql(path, "SELECT DISTINCT used FROM counter") == [(8,)]
    assert_sound(path)


# ---- exactly once


@pytest.mark.parametrize("count", [2, 8])
def test_a_duplicate_key_from_processes_at_once_is_charged_once(
    start: Start, path: Path, count: int
) -> None:
    keys = [f"k{n}" for n in range(25)]
    answers = at_once(start(count), "consume_keys", keys=keys)
    for of_one_key in zip(*answers, strict=True):
        assert len({entry_id for entry_id, _ in of_one_key}) == 1
        assert [replayed for _, replayed in of_one_key].count(False) == 1
    assert sql(path, "SELECT used FROM counter") == [(len(keys),)]
    assert sql(path, "SELECT count(*) FROM entry") == [(len(keys),)]
    assert_sound(path)


def test_a_killed_writer_loses_nothing_acknowledged_and_a_retry_is_charged_once(
    start: Start, path: Path
) -> None:
    with quotactl.connect(path, clock=lambda: START) as q:
        q.admin.set_limit(tier="free", resource="image", limit="unlimited")
    acknowledged = []
    for round_ in range(4):
        (writer,) = start(1)
        writer.tell("acknowledge_forever", prefix=f"{round_}-")
        for _ in range(10 + round_):
            line = writer.line()
            assert line is not None
            acknowledged.append(line["key"])
        writer.kill()
        while (line := writer.line()) is not None:
            acknowledged.append(line["key"])
    kept = {key for (key,) in sql(path, "SELECT key FROM idempotency_key")}
    assert kept >= set(acknowledged)
    # At most the one commit of each round whose acknowledgement was cut off.
    assert len(kept) <= len(acknowledged) + 4
    (other,) = start(1)
    assert all(replayed for _, replayed in other.ask("consume_keys", keys=acknowledged))
    assert sql(path, "SELECT used FROM counter") == [(len(kept),)]
    assert_sound(path)


# ---- the daily job


def test_two_closes_at_once_equal_one(start: Start, path: Path) -> None:
    with quotactl.connect(path, clock=lambda: START) as q:
        for n in range(30):
            assert q.reserve(user=f"u{n}", resource="image", ttl_s=60).allowed
    first, second = at_once(start(2, at="2025-04-26T12:00:00+00:00"), "close_days")
    days = [day["day"] for closing in (first, second) for day in closing["closed"]]
    assert len(days) == len(set(days)) == 30
    assert first["expired_reservations"] + second["expired_reservations"] == 30
    assert sql(path, "SELECT count(*) FROM closed_day") == [(30,)]
    assert sql(path, "SELECT count(*) FROM audit WHERE action = 'day.close'") == [(30,)]
    assert sql(path, "SELECT count(*) FROM entry WHERE kind = 5") == [(30,)]
    assert_sound(path)


def test_a_close_during_consumption_stops_and_loses_nothing(start: Start, path: Path) -> None:
    with quotactl.connect(path, clock=lambda: START) as q:
        for n in range(300):
            q.consume(user=f"u{n}", resource="image", idempotency_key=f"k{n}")
        q.consume_many([quotactl.Request(f"v{n}", "image") for n in range(5000)])
    late = "2025-06-20T12:00:00+00:00"
    consumers = start(3, at=late)
    (closer,) = start(1, at=late)
    for n, consumer in enumerate(consumers):
        consumer.tell("consume_many", count=60, user=f"c{n}")
    closing = closer.ask("close_days")
    assert [consumer.answer() for consumer in consumers] == [60, 60, 60]
    assert len(closing["closed"]) == 85
    assert (closing["pruned_entries"], closing["pruned_keys"]) == (5300, 300)
    assert sql(path, "SELECT count(*), sum(amount) FROM entry") == [(180, 180)]
    assert sql(path, "SELECT sum(used) FROM counter") == [(5480,)]
    assert_sound(path)


# ---- throttles


def test_a_throttle_is_obeyed_by_the_next_decision_of_a_running_process(
    start: Start, path: Path
) -> None:
    gateway, on_call = start(2)
    assert gateway.ask("consume")["allowed"]
    before = gateway.ask("check")
    throttle_id = on_call.ask("throttle_on")
    denied = gateway.ask("consume")
    assert (denied["reason"], denied["rule"]["id"]) == ("throttled", throttle_id)
    on_call.ask("throttle_off", throttle_id=throttle_id)
    assert gateway.ask("check") == before
    assert gateway.ask("consume")["allowed"]


# ---- a total of everybody


def users_of(count: int) -> list[list[str]]:
    """Of each process four users of its own and four that it shares with all."""
    shared = [f"s{n}" for n in range(4)]
    return [[f"p{process}-{n}" for n in range(4)] + shared for process in range(count)]


def sums(path: Path) -> set[int]:
    """What everybody took, as it is kept three times over."""
    return {
        units
        for table in ("total", "counter", "demand")
        for (units,) in sql(
            path,
            f"SELECT sum(used) FROM {table}{' WHERE period = 1440' * (table == 'counter')}",
        )
    }


@pytest.mark.parametrize("period", ["minute", "day"])
def test_eight_processes_with_many_users_meet_a_total_to_the_unit(
    start: Start, path: Path, period: str
) -> None:
    processes = start(8)
    processes[0].ask("total_on", total=f"150/{period}")
    for process, users in zip(processes, users_of(8), strict=True):
        process.tell("consume_in_turn", users=users)
    admitted = [process.answer() for process in processes]
    assert sum(admitted) == 150
    assert sums(path) == {150}
    assert_sound(path)


@pytest.mark.parametrize("period", ["minute", "hour"])
def test_a_total_that_comes_on_meanwhile_counts_what_came_before_to_the_unit(
    start: Start, path: Path, period: str
) -> None:
    processes = start(8)
    (on_call,) = start(1)
    for process, users in zip(processes, users_of(8), strict=True):
        process.tell("consume_in_turn", users=users, tell_after=5)
    assert [process.answer() for process in processes] == ["going"] * 8
    # All are under way; the queue gives on-call its turn long before the total is reached.
    throttle_id = on_call.ask("total_on", total=f"500/{period}")
    assert sum(process.answer() for process in processes) == 500
    assert sums(path) == {500}
    denied = on_call.ask("consume", user="new")
    assert (denied["rule"]["id"], denied["used"], denied["remaining"]) == (throttle_id, 500, 0)
    assert_sound(path)


def test_refunds_and_protected_users_at_once_leave_a_total_exact(start: Start, path: Path) -> None:
    with quotactl.connect(path, clock=lambda: START) as q:
        q.admin.protect("pia")
    processes = start(8)
    processes[0].ask("total_on", total="40/hour")
    *consumers, protected = processes
    protected.tell("consume_many", count=15, user="pia")
    for process, users in zip(consumers, users_of(7), strict=True):
        process.tell("take_and_give_back", users=users, rounds=12)
    assert protected.answer() == 15, "she passes whatever the others took"
    kept, denied = zip(*(process.answer() for process in consumers), strict=True)
    assert any(denied), "there was not enough demand to meet the total"
    before = sum(kept) + 15
    assert sums(path) == {before}
    admitted = at_once(consumers, "consume_in_turn", users=["ada", "bob"])
    assert sum(admitted) == max(0, 40 - before)
    assert sums(path) == {max(40, before)}
    # Entries are numbered in the order in which they came.
    taken = 0
    for kind, user, amount in sql(
        path,
        "SELECT kind, name, amount FROM entry JOIN user ON user.id = user_id ORDER BY entry.id",
    ):
        taken += amount
        assert kind == 6 or user == "pia" or taken <= 40
    assert_sound(path)


# ---- the queue


def test_a_writer_killed_in_its_turn_frees_it(start: Start, path: Path) -> None:
    killed, other = start(2, timeout_s=DEADLINE_S)
    assert killed.ask("hold_the_turn") == "holding"
    other.tell("consume")
    killed.kill()
    assert other.answer()["allowed"]
    assert sql(path, "SELECT count(*) FROM setting") == [(0,)], "what it wrote is not there"
    assert_sound(path)


def test_a_writer_killed_while_it_waits_frees_the_queue(start: Start, path: Path) -> None:
    holder, waiting, other = start(3, timeout_s=DEADLINE_S)
    assert holder.ask("hold_the_turn") == "holding"
    waiting.tell("consume")
    wait_until_locked(path.with_name(path.name + "-queue"))
    other.tell("consume")
    waiting.kill()
    holder.go_on()
    assert holder.answer() is None
    assert other.answer()["allowed"]
    assert_sound(path)


def test_a_stopped_writer_makes_others_busy_and_work_goes_on_after_it(
    start: Start, path: Path
) -> None:
    (stopped,) = start(1)
    (other,) = start(1, timeout_s=0.5)
    assert stopped.ask("hold_the_turn") == "holding"
    stopped.signal(signal.SIGSTOP)
    stopped.wait_until_stopped()
    for do in ("consume", "throttle_on", "close_days"):
        busy = other.ask(do)
        assert (busy["error"]["code"], busy["exit_code"]) == ("ledger_busy", 75), do
    assert other.ask("check")["allowed"], "who only reads does not queue"
    stopped.signal(signal.SIGCONT)
    stopped.go_on()
    assert stopped.answer() is None
    assert other.ask("consume")["allowed"]
    assert stopped.ask("consume")["allowed"]
    assert_sound(path)


# The command line with a short time-out, or this would take as long as the real one.
IMPATIENT = """
import sys
import quotactl
from quotactl.cli import main
quotactl.connect.__kwdefaults__["timeout_s"] = 0.3
sys.exit(main(sys.argv[1:]))
"""


def test_a_command_exits_75_behind_a_stopped_writer_and_works_when_that_is_killed(
    start: Start, path: Path
) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        source = str(Path(quotactl.__file__).resolve().parent.parent)
        return subprocess.run(
            [sys.executable, "-c", IMPATIENT, *words],
            env={**os.environ, "PYTHONPATH": source, "QUOTACTL_DB": str(path)},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    (stopped,) = start(1)
    assert stopped.ask("hold_the_turn") == "holding"
    stopped.signal(signal.SIGSTOP)
    stopped.wait_until_stopped()
    busy = run("consume", "ada", "image", "2")
    assert (busy.returncode, busy.stdout) == (75, "")
    assert busy.stderr == (
        "quotactl: ledger.db is busy: other writers held it all the time; safe to try again\n"
    )
    stopped.kill()
    assert run("consume", "ada", "image", "2").returncode == 0
    assert sql(path, "SELECT sum(used) FROM counter") == [(2,)]


def test_a_writer_stopped_while_it_waits_makes_others_busy_too(start: Start, path: Path) -> None:
    holder, waiting = start(2)
    (other,) = start(1, timeout_s=0.5)
    assert holder.ask("hold_the_turn") == "holding"
    waiting.tell("consume")
    wait_until_locked(path.with_name(path.name + "-queue"))
    waiting.signal(signal.SIGSTOP)
    waiting.wait_until_stopped()
    holder.go_on()
    assert holder.answer() is None
    busy = other.ask("consume")
    assert (busy["error"]["code"], busy["exit_code"]) == ("ledger_busy", 75)
    waiting.signal(signal.SIGCONT)
    assert waiting.answer()["allowed"]
    assert other.ask("consume")["allowed"]
    assert_sound(path)


def test_a_stopped_writer_does_not_hang_others_that_close(start: Start, path: Path) -> None:
    (stopped,) = start(1)
    (other,) = start(1, timeout_s=0.5)
    assert other.ask("consume")["allowed"]
    assert stopped.ask("hold_the_turn") == "holding"
    stopped.signal(signal.SIGSTOP)
    stopped.wait_until_stopped()
    other.tell("connect", path=str(path))
    assert other.answer() is None
    other.end()
    assert other._process.returncode == 0
    stopped.signal(signal.SIGCONT)
    stopped.go_on()
    assert stopped.answer() is None


def test_a_writer_that_gave_up_is_not_in_anybodys_way(start: Start, path: Path) -> None:
    (holder,) = start(1)
    impatient = start(3, timeout_s=0.1)
    (other,) = start(1, timeout_s=DEADLINE_S)
    assert holder.ask("hold_the_turn") == "holding"
    for answer in at_once(impatient, "consume"):
        assert answer["error"]["code"] == "ledger_busy"
    holder.go_on()
    assert holder.answer() is None
    for process in (other, holder, *impatient, other):
        assert process.ask("consume")["allowed"]
    assert_sound(path)


def test_a_wait_that_a_signal_broke_off_does_not_take_the_turn(start: Start, path: Path) -> None:
    (holder,) = start(1)
    broken, other = start(2, timeout_s=10)
    assert holder.ask("hold_the_turn") == "holding"
    assert broken.ask("consume_until_alarm", after_s=0.2) == "interrupted"
    holder.go_on()
    assert holder.answer() is None
    for process in (other, holder, broken, other, broken, holder):
        answer = process.ask("consume")
        assert answer.get("allowed"), answer
    assert sql(path, "SELECT used FROM counter") == [(6,)]
    assert_sound(path)


def test_closing_gives_every_file_back(start: Start, path: Path) -> None:
    (holder,) = start(1)
    (other,) = start(1, timeout_s=0.1)
    other.ask("close")
    before = other.ask("open_files")
    for _ in range(3):
        other.ask("connect", path=str(path), timeout_s=0.1, at=AT)
        assert other.ask("consume")["allowed"]
        other.ask("close")
    assert other.ask("open_files") == before
    other.ask("connect", path=str(path), timeout_s=0.1, at=AT)
    assert holder.ask("hold_the_turn") == "holding"
    assert other.ask("consume")["error"]["code"] == "ledger_busy"
    other.ask("close")
    holder.go_on()
    assert holder.answer() is None
    # A wait that was given up may still be on its way out of the line.
    deadline = time.monotonic() + DEADLINE_S
    while other.ask("open_files") != before:
        assert time.monotonic() < deadline
    assert holder.ask("consume")["allowed"]


def wait_until_locked(lock_file: Path) -> None:
    """Poll, since a lock says nothing to those who do not want it."""
    deadline = time.monotonic() + DEADLINE_S
    with lock_file.open("rb") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            fcntl.flock(file, fcntl.LOCK_UN)
            assert time.monotonic() < deadline, f"nobody locked {lock_file.name}"
            time.sleep(0.005)


# ---- forks, threads, creation


def test_a_connection_is_refused_after_a_fork_and_its_owner_goes_on(
    start: Start, path: Path
) -> None:
    parent, other = start(2)
    assert parent.ask("consume")["allowed"]
    seen, exit_code = parent.ask("fork_and_use")
    assert seen == ["invalid_input"] * 3
    assert exit_code == 0
    assert parent.ask("consume")["used"] == 2
    assert other.ask("consume")["used"] == 3
    assert parent.ask("check")["used"] == 3
    assert_sound(path)


def test_eight_threads_on_one_connection_admit_exactly_the_limit(path: Path) -> None:
    q = quotactl.connect(path, clock=lambda: START, timeout_s=DEADLINE_S)
    gate = threading.Barrier(8)
    admitted: list[int] = []
    errors: list[BaseException] = []

    def run() -> None:
        taken = 0
        try:
            gate.wait(DEADLINE_S)
            while q.consume(user="ada", resource="image").allowed:
                q.check(user="ada", resource="image")
                taken += 1
        except BaseException as error:  # noqa: BLE001 - told in the main thread
            errors.append(error)
        admitted.append(taken)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert not any(thread.is_alive() for thread in threads)
    assert errors == []
    assert sum(admitted) == 200
    q.close()
    assert_sound(path)


def test_of_several_creations_of_one_path_exactly_one_wins(start: Start, tmp_path: Path) -> None:
    processes = start(6, opened=False)
    for n in range(5):
        path = tmp_path / f"new{n}.db"
        answers = at_once(processes, "create", path=str(path))
        assert answers.count(None) == 1
        codes = {answer["error"]["code"] for answer in answers if answer is not None}
        assert codes == {"conflict"}
        assert sql(path, "SELECT count(*) FROM audit WHERE action = 'init'") == [(1,)]
        assert_sound(path)
