"""The writers' queue by itself: who waits, who is let in, and who did not come in time."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from quotactl.engines.sqlite.queue import Turnstile
from quotactl.errors import LedgerBusy

LONG_S = 30.0
SHORT_S = 0.02


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "prod.db"
    path.touch()
    return path


@pytest.fixture
def both(ledger: Path) -> Iterator[tuple[Turnstile, Turnstile]]:
    """Two that are in each other's way as two processes are: locks belong to open files."""
    with closing(Turnstile(ledger)) as one, closing(Turnstile(ledger)) as other:
        yield one, other


def soon(seconds: float = LONG_S) -> float:
    return time.monotonic() + seconds


def is_free(ledger: Path) -> bool:
    with closing(Turnstile(ledger)) as another:
        return another.enter_at_once()


def test_a_job_is_done_in_its_turn_which_is_given_back(
    ledger: Path, both: tuple[Turnstile, Turnstile]
) -> None:
    one, other = both
    seen: list[object] = []

    def job() -> None:
        seen.append((is_free(ledger), threading.current_thread().name))

    one.enter(soon())
    waiting = threading.Thread(target=other.run, args=(job, soon()))
    waiting.start()
    # It lines up, and nobody gets in before it any more.
    while is_free_but_for_those_in_line(ledger):
        pass
    assert seen == []
    one.leave()
    waiting.join(LONG_S)
    assert seen == [(False, "quotactl-queue")]
    assert is_free(ledger)


def is_free_but_for_those_in_line(ledger: Path) -> bool:
    """Whether the first lock can be had: then nobody waits."""
    with ledger.with_name(ledger.name + "-queue").open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(file, fcntl.LOCK_UN)
    return True


def test_a_job_whose_turn_does_not_come_in_time_is_not_done_later(
    ledger: Path, both: tuple[Turnstile, Turnstile]
) -> None:
    one, other = both
    done: list[int] = []
    one.enter(soon())
    with pytest.raises(LedgerBusy, match="other writers held it all the time"):
        other.run(lambda: done.append(1), soon(SHORT_S))
    # Its thread is still in line, and to leave what it never had takes nothing from others.
    other.leave()
    assert not is_free(ledger)
    one.leave()
    one.enter(soon())
    assert done == []
    one.leave()
    # Where it still stands in line it may take over for the next that asks.
    other.run(lambda: done.append(2), soon())
    other.enter(soon())
    assert (done, is_free(ledger)) == ([2], False)
    other.leave()
    assert is_free(ledger)


def test_a_job_that_fails_gives_back_the_turn(
    ledger: Path, both: tuple[Turnstile, Turnstile]
) -> None:
    one, _ = both

    def job() -> None:
        raise ValueError("told")

    with pytest.raises(ValueError, match="told"):
        one.run(job, soon())
    assert is_free(ledger)


def test_what_is_under_way_at_the_deadline_is_done(
    ledger: Path, both: tuple[Turnstile, Turnstile]
) -> None:
    one, _ = both
    ended: list[str] = []

    def job() -> None:
        deadline = soon(2 * SHORT_S)
        while time.monotonic() < deadline:
            pass
        ended.append("job")

    one.run(job, soon(SHORT_S))
    assert ended == ["job"]
    assert is_free(ledger)


def test_who_closes_while_a_job_is_done_leaves_its_files_to_it(
    ledger: Path, both: tuple[Turnstile, Turnstile]
) -> None:
    _, other = both
    one = Turnstile(ledger)
    under_way, go_on = threading.Event(), threading.Event()
    seen: list[bool] = []

    def job() -> None:
        under_way.set()
        go_on.wait(LONG_S)
        seen.append(is_free(ledger))

    asking = threading.Thread(target=one.run, args=(job, soon()))
    asking.start()
    assert under_way.wait(LONG_S)
    one.close()
    go_on.set()
    asking.join(LONG_S)
    assert seen == [False]
    other.enter(soon())


def test_to_leave_after_giving_up_does_not_unlock_what_the_thread_has_just_got(
    both: tuple[Turnstile, Turnstile],
) -> None:
    one, other = both
    one.enter(soon())
    with pytest.raises(LedgerBusy):
        other.enter(soon(SHORT_S))
    waiter = other._waiter
    assert waiter is not None
    with waiter._state:
        one.leave()
        # The thread gets the turn, and can't say so yet.
        while one.enter_at_once():
            one.leave()
        other.leave()
        assert not one.enter_at_once()
    # It was not wanted any more.
    one.enter(soon())
    one.leave()


def test_a_thread_in_line_closes_the_files_of_who_has_gone(
    ledger: Path, both: tuple[Turnstile, Turnstile]
) -> None:
    one, _ = both
    gone = Turnstile(ledger)
    one.enter(soon())
    with pytest.raises(LedgerBusy):
        gone.enter(soon(SHORT_S))
    before = set(threading.enumerate())
    gone.close()
    one.leave()
    assert gone._waiter is not None
    for thread in before - {threading.current_thread()}:
        if thread.name == "quotactl-queue":
            thread.join(5)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(gone._turn)


def test_who_was_broken_off_while_lining_up_is_not_told_of_that_job_the_next_time(
    ledger: Path, both: tuple[Turnstile, Turnstile]
) -> None:
    one, other = both
    assert other.run(lambda: "before", soon()) == "before"
    waiter = other._waiter
    assert waiter is not None
    asked = waiter._asked

    class BrokenOff:
        """Lets the thread go, and then a signal's handler raises."""

        def release(self) -> None:
            asked.release()
            raise KeyboardInterrupt

    one.enter(soon())
    waiter._asked = BrokenOff()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        other.run(lambda: "broken off", soon())
    waiter._asked = asked
    one.leave()
    while waiter.in_line or waiter._running:
        pass
    for job in ("next", "and next"):
        assert other.run(lambda job=job: job, soon()) == job  # type: ignore[misc]
    assert is_free(ledger)
