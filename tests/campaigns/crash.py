"""Kill -9 at random moments under load: nothing acknowledged lost, nothing taken twice.

    python tests/campaigns/crash.py [--seed 1] [--rounds 500]

In each round one to six processes write; one is killed at a random moment, the others
must get on, and are killed in their turn. Then: open, `verify`, compare with what had been
acknowledged, try everything again with the same keys, and compare to the unit. Among the
writes are throttles, moves, limits, grants, backups and closes; from round to round eight days
pass, so that closes have days to close and entries, keys and counters to prune. Ledgers
alternate between `full` and `relaxed`, and between many and few checkpoints. Prints the
figures as JSON; exits 1 at the first promise that did not hold, with the round's seed.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import acts
import rig
from rig import Child, Clock, Failure, Line, Load, Tell, require

import quotactl

ROUNDS_PER_LEDGER = 10
FIRST = datetime(2025, 3, 27, 12, 0, tzinfo=UTC)
BETWEEN = timedelta(days=8)
DAY_MS = 86_400_000


def clock_of(number: int) -> Clock:
    """The clock of a round: it goes on like the machine's, from noon of the round's day."""
    start, began = FIRST + number % ROUNDS_PER_LEDGER * BETWEEN, time.monotonic()
    return lambda: start + timedelta(seconds=time.monotonic() - began)


def day_of(number: int) -> int:
    """The day to which all units of a round are charged, in ms since the epoch."""
    at_ms = int((FIRST + number % ROUNDS_PER_LEDGER * BETWEEN).timestamp() * 1000)
    return at_ms - at_ms % DAY_MS


def write(tell: Tell, path: Path, number: int, seed: str, clock: Clock) -> None:
    """Write until killed; tell each write before it, and its answer after."""
    rng = random.Random(seed)
    load, chores = Load(seed, rng), acts.Acts(seed, number, rng)
    q = quotactl.connect(path, timeout_s=rig.DEADLINE_S, clock=clock, notify=False)
    while True:
        if rng.random() < 0.02:
            # The last to close writes the WAL back: that can be cut off too.
            q.close()
            q = quotactl.connect(path, timeout_s=rig.DEADLINE_S, clock=clock, notify=False)
        if rng.random() < 0.2:
            op = chores.next()
            tell({"trying": op, "act": True})
            answer = acts.perform(q, path, op)
            chores.learn(op, answer)
        else:
            op = load.next()
            tell({"trying": op})
            answer = rig.perform(q, op)
            load.learn(op, answer)
        tell({"answer": answer})


class Told:
    """What one process told until it was killed: its writes, and its acts."""

    def __init__(self) -> None:
        self.done: list[tuple[Line, Line]] = []
        self.acts: list[tuple[Line, Line]] = []
        self.trying: Line | None = None
        self.is_act = False

    def hear(self, line: Line) -> bool:
        """Take a line in; True for an acknowledgement."""
        if "trying" in line:
            self.trying, self.is_act = line["trying"], "act" in line
            return False
        assert self.trying is not None
        (self.acts if self.is_act else self.done).append((self.trying, line["answer"]))
        self.trying = None
        return True


def under_load(path: Path, rng: random.Random, prefix: str, clock: Clock) -> list[Told]:
    """Start processes and kill them; what each of them told."""
    children = [
        Child(write, path, n, f"{prefix}.{n}", clock) for n in range(rng.randint(1, acts.PROCESSES))
    ]
    told = {child: Told() for child in children}
    try:
        # Now and then while they open the ledger, mostly when they are well under way.
        moment = time.monotonic() + rng.choice([0.02, 0.1, 0.3, 1.0]) * rng.random()
        for child, line in rig.listen(children, moment):
            told[child].hear(line)
        first, *others = rng.sample(children, len(children))
        first.kill()
        waiting = set(others)
        for child, line in rig.listen(others, time.monotonic() + rig.DEADLINE_S) if others else ():
            if told[child].hear(line):
                waiting.discard(child)
            if not waiting:
                break
        require(not waiting, "a killed process was in the way of", len(waiting), "others")
        for child in others:
            child.kill()
        for child, line in rig.listen(children):
            told[child].hear(line)
    finally:
        for child in children:
            child.kill()
            child.reap()
    return list(told.values())


def check(
    tell: Tell,
    path: Path,
    rounds: list[tuple[int, Line, Line]],
    told: list[Told],
    number: int,
    clock: Clock,
) -> None:
    """Compare a ledger with what was told; tell how the writes that were cut off ended.

    `rounds` are the writes of earlier rounds, with the round and their answers.
    """
    acknowledged = [one for process in told for one in process.done]
    cut_off = [p.trying for p in told if p.trying is not None and not p.is_act]
    with quotactl.connect(path, timeout_s=rig.DEADLINE_S, clock=clock, notify=False) as q:
        rig.require_sound(q)
        require_kept(path, acknowledged)
        before = set(rig.sql(path, "SELECT id FROM entry"))
        for process in told:
            if process.is_act and process.trying is not None:
                acts.finish(q, path, process.trying)
                process.acts.append((process.trying, {}))
        all_acts = [process.acts for process in told]
        acts.require_kept(path, all_acts, clock())
        backups = acts.require_backups(q, path, all_acts)
        finished = []
        for op in cut_off:
            answer = rig.perform(q, op)
            require(same(rig.perform(q, op), answer), "taken twice:", op)
            finished.append((op, answer))
        after = set(rig.sql(path, "SELECT id FROM entry"))
        voided = {op["id"] for op, _ in acknowledged + finished if op["do"] == "void"}
        for op, answer in acknowledged:
            if op["do"] == "reserve" and voided.intersection(answer["entries"]):
                continue
            if answer["units"] == 0 and op["do"] == "consume":
                continue  # denials are not remembered
            require(same(rig.perform(q, op), answer), "answered otherwise:", op)
        require(set(rig.sql(path, "SELECT id FROM entry")) == after, "a retry took something")
        if number % 3 == 2:
            # However the load fared: from round to round there is something to prune.
            q.close_days()
        now = [(number, op, answer) for op, answer in acknowledged + finished]
        require_sums(path, rounds + now, int(clock().timestamp() * 1000))
        rig.require_sound(q)
    tell(
        {
            "finished": finished,
            "backups": backups,
            "unacknowledged": sum(
                1
                for op, answer in finished
                if op["do"] not in ("post", "void")
                and answer["entries"]
                and all((entry,) in before for entry in answer["entries"])
            ),
        }
    )


def same(retried: Line, answer: Line) -> bool:
    """A post or void that is tried again is already so, and makes no entry."""
    return bool(
        retried["units"] == answer["units"]
        and (retried["entries"] == answer["entries"] or not retried["entries"])
    )


def require_kept(path: Path, acknowledged: list[tuple[Line, Line]]) -> None:
    """Every entry, key, state and override that was acknowledged is there, in full."""
    entries = dict(rig.sql(path, "SELECT id, amount FROM entry"))
    keys = dict(rig.sql(path, "SELECT key, entry_id FROM idempotency_key"))
    states = dict(rig.sql(path, "SELECT id, state FROM reservation"))
    overrides = {
        name
        for (name,) in rig.sql(
            path, "SELECT name FROM override JOIN user ON user.id = override.user_id"
        )
    }
    for op, answer in acknowledged:
        found = [entries.get(entry) for entry in answer["entries"]]
        require(None not in found and sum(filter(None, found)) == answer["units"], "lost:", op)
        match op["do"]:
            case "post" | "void" as what:
                require(states[op["id"]] == {"post": "posted", "void": "voided"}[what], op)
            case "override":
                require(op["user"] in overrides, "lost:", op)
            case "batch":
                names = [f"{op['key']}.{n}" for n in range(len(op["amounts"]))]
                require([keys.get(name) for name in names] == answer["entries"], "lost:", op)
            case _ if answer["entries"]:
                require([keys.get(op["key"])] == answer["entries"], "lost key:", op)


def require_sums(path: Path, writes: list[tuple[int, Line, Line]], now_ms: int) -> None:
    """Entries and counters of each day both hold what the answers add up to, not a unit more.

    As far as they are not pruned: entries from the checkpoint's day on are there, and
    counters for 62 days.
    """
    states = dict(rig.sql(path, "SELECT id, state FROM reservation"))
    settled = {op["id"] for _, op, _ in writes if op["do"] in ("post", "void")}
    expected: dict[int, int] = {}
    for number, op, answer in writes:
        units = answer["units"]
        if op["do"] == "reserve" and units:
            (held,) = answer["entries"]
            if held not in settled and states.get(held, "expired") == "expired":
                units = 0
        expected[day_of(number)] = expected.get(day_of(number), 0) + units
    entries = dict(
        rig.sql(
            path,
            "SELECT day_ms, sum(amount) FROM entry WHERE kind BETWEEN 1 AND 6 GROUP BY day_ms",
        )
    )
    counters = dict(
        rig.sql(
            path,
            "SELECT starts_at_ms, sum(used + granted) FROM counter WHERE period = 1440 GROUP BY 1",
        )
    )
    ((checkpoint_ms,),) = rig.sql(path, "SELECT checkpoint_at_ms FROM ledger")
    for day_ms, units in expected.items():
        if day_ms >= checkpoint_ms:
            require(entries.get(day_ms, 0) == units, "entries:", day_ms, units, entries)
        if day_ms >= min(checkpoint_ms, now_ms - 62 * DAY_MS):
            require(counters.get(day_ms, 0) == units, "counters:", day_ms, units, counters)


def pruned(tell: Tell, path: Path) -> None:
    """Tell how far a ledger came: days closed, and the entry below which there are none."""
    ((days, checkpoint),) = rig.sql(
        path, "SELECT (SELECT count(*) FROM closed_day), checkpoint_entry_id FROM ledger"
    )
    tell({"closed_days": days, "pruned": checkpoint})


def campaign(seed: int, rounds: int) -> dict[str, Any]:
    figures = Counter[str]()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        history: list[tuple[int, Line, Line]] = []
        path = Path(folder)
        for number in range(rounds):
            rng = random.Random(f"{seed}.{number}")
            clock = clock_of(number)
            if number % ROUNDS_PER_LEDGER == 0:
                path = Path(folder) / f"ledger{number}.db"
                durability = "relaxed" if number // ROUNDS_PER_LEDGER % 2 else "full"
                rig.ask(make, path, durability, clock)
                history = []
            rig.checkpoint_every(rng.choice([4000, 100, 10]))
            try:
                told = under_load(path, rng, f"{seed}.{number}", clock)
                (found,) = rig.ask(check, path, history, told, number, clock)
            except Failure as failure:
                raise Failure(f"seed {seed}, round {number}: {failure}") from failure
            acknowledged = [one for process in told for one in process.done]
            history += [(number, op, answer) for op, answer in acknowledged + found["finished"]]
            figures["rounds"] += 1
            figures["kills"] += len(told)
            figures["acknowledged"] += len(acknowledged)
            figures["acts"] += sum(len(process.acts) for process in told)
            figures["killed_in_an_act"] += sum(
                process.is_act and process.trying is not None for process in told
            )
            figures["backups"] += found["backups"]
            figures["unacknowledged"] += found["unacknowledged"]
            if number % ROUNDS_PER_LEDGER == ROUNDS_PER_LEDGER - 1 or number == rounds - 1:
                figures.update(rig.ask(pruned, path)[0])
    return {
        "campaign": "crash",
        "seed": seed,
        **figures,
        "seconds": round(time.monotonic() - began),
    }


def make(_: Tell, path: Path, durability: str, clock: Clock) -> None:
    rig.make_ledger(path, durability=durability, clock=clock, prepare=acts.prepare)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=500)
    asked = parser.parse_args()
    try:
        rig.report(campaign(asked.seed, asked.rounds))
    except Failure as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main()
