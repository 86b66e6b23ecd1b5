"""One process at a ledger, led line by line: a JSON command in, a JSON answer out.

Whatever must happen at once is set off by the parent through these pipes, so
that no test needs to sleep and hope.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import quotactl


class Worker:
    """Holds one connection; each method is a command."""

    def __init__(self) -> None:
        self.q: quotactl.Ledger
        self.now: datetime | None = None

    def connect(self, path: str, timeout_s: float = 30, at: str | None = None) -> None:
        """Open a ledger; `at` stops this process's clock."""
        clock = None
        if at is not None:
            now = datetime.fromisoformat(at)

            def clock() -> datetime:
                return now

        self.q = quotactl.connect(
            path, clock=clock, actor=f"pid {os.getpid()}", timeout_s=timeout_s
        )

    def create(self, path: str) -> None:
        quotactl.create(path, name="prod").close()

    def consume(self, user: str = "ada", amount: int = 1, key: str | None = None) -> dict[str, Any]:
        return self.q.consume(
            user=user, resource="image", amount=amount, idempotency_key=key
        ).to_dict()

    def check(self, user: str = "ada", amount: int = 1) -> dict[str, Any]:
        return self.q.check(user=user, resource="image", amount=amount).to_dict()

    def consume_until_denied(self, user: str = "ada", amount: int = 1) -> int:
        """Units admitted before the first denial."""
        admitted = 0
        while self.q.consume(user=user, resource="image", amount=amount).allowed:
            admitted += amount
        return admitted

    def consume_batches_until_denied(self, size: int) -> int:
        """The same, in batches."""
        admitted = 0
        while True:
            answers = self.q.consume_many([quotactl.Request("ada", "image")] * size)
            taken = sum(isinstance(a, quotactl.Decision) and a.allowed for a in answers)
            admitted += taken
            if taken < size:
                return admitted

    def consume_in_turn(self, users: list[str], tell_after: int | None = None) -> int:
        """Units admitted, one by one for each of these users in turn, before the first
        denial. After so many it says that it is `going` and goes on."""
        admitted = 0
        while self.q.consume(user=users[admitted % len(users)], resource="image").allowed:
            admitted += 1
            if admitted == tell_after:
                answer({"answer": "going"})
        return admitted

    def take_and_give_back(self, users: list[str], rounds: int) -> list[int]:
        """Take two for each user in turn, and give none, one or both of them back: units
        kept, and requests denied."""
        kept = denied = 0
        for turn in range(rounds):
            user = users[turn % len(users)]
            taken = self.q.consume(user=user, resource="image", amount=2)
            denied += not taken.allowed
            if not taken.allowed:
                continue
            kept += 2
            if turn % 3:
                kept -= self.q.refund(entry_id=taken.entry_id, amount=turn % 3).amount
        return [kept, denied]

    def hold_and_settle(self, rounds: int) -> int:
        """Reserve, then post, void and keep in turn; units posted or still held."""
        kept = 0
        for turn in range(rounds):
            held = self.q.reserve(user="ada", resource="image", amount=2, ttl_s=600)
            if held.reservation_id is None:
                continue
            if turn % 3 == 0:
                kept += self.q.post(held.reservation_id, amount=1).posted
            elif turn % 3 == 1:
                self.q.void(held.reservation_id)
            else:
                kept += held.amount
        return kept

    def consume_keys(self, keys: list[str]) -> list[tuple[int | None, bool]]:
        """(entry id, replayed) of each key."""
        answers = [
            self.q.consume(user="ada", resource="image", idempotency_key=key) for key in keys
        ]
        return [(answer.entry_id, answer.replayed) for answer in answers]

    def consume_many(self, count: int, user: str) -> int:
        return sum(self.q.consume(user=user, resource="image").allowed for _ in range(count))

    def acknowledge_forever(self, prefix: str) -> None:
        """Consume key after key, and tell each key once it is committed."""
        number = 0
        while True:
            key = f"{prefix}{number}"
            assert self.q.consume(user="ada", resource="image", idempotency_key=key).allowed
            answer({"key": key})
            number += 1

    def close_days(self) -> dict[str, Any]:
        return self.q.close_days().to_dict()

    def throttle_on(self) -> int:
        throttle_id: int = self.q.admin.throttle_on(deny=True, reason="melting").item["id"]
        return throttle_id

    def total_on(self, total: str) -> int:
        made = self.q.admin.throttle_on(total=total, reason="melting")
        throttle_id: int = made.item["id"]
        return throttle_id

    def throttle_off(self, throttle_id: int) -> None:
        self.q.admin.throttle_off(throttle_id, reason="cool again")

    def hold_the_turn(self) -> None:
        """Begin a write, say so, and end it with the next line (whatever it says)."""
        with self.q.engine.writing() as book:
            book.insert("setting", {"key": "durability", "value": "relaxed"})
            answer({"answer": "holding"})
            sys.stdin.readline()

    def consume_until_alarm(self, after_s: float) -> str:
        """Wait for the turn until a signal handler raises, as a server's own time-out does."""

        def alarm(number: int, frame: object) -> None:
            raise TimeoutError

        signal.signal(signal.SIGALRM, alarm)
        signal.setitimer(signal.ITIMER_REAL, after_s)
        try:
            self.consume()
        except TimeoutError:
            return "interrupted"
        return "served"

    def open_files(self) -> int:
        return len(list(Path("/dev/fd").iterdir()))

    def close(self) -> None:
        self.q.close()

    def fork_and_use(self) -> list[Any]:
        """What a forked child meets on this connection, and what it leaves behind."""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            seen = []
            for call in (self.consume, self.check, self.q.verify):
                try:
                    call()
                    seen.append("served")
                except quotactl.QuotaError as error:
                    seen.append(error.code)
            self.q.close()
            os.write(write, json.dumps(seen).encode())
            # Not os._exit: the interpreter's end, with all its finalizers, is part of it.
            sys.exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            seen = json.loads(pipe.read() or b"[]")
        _, status = os.waitpid(pid, 0)
        return [seen, os.waitstatus_to_exitcode(status)]


def answer(value: dict[str, Any]) -> None:
    """One line to the parent."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve commands until the parent closes the pipe."""
    worker = Worker()
    answer({"answer": "ready"})
    for line in iter(sys.stdin.readline, ""):
        command = json.loads(line)
        try:
            result = getattr(worker, command.pop("do"))(**command)
        except quotactl.QuotaError as error:
            answer({**error.to_dict(), "exit_code": error.exit_code})
        else:
            answer({"answer": result})


if __name__ == "__main__":
    main()
