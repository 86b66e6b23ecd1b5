"""Kill -9 at random moments under load: nothing acknowledged lost, nothing taken twice.

    python tests/campaigns/crash.py [--seed 1] [--rounds 500]

In each round one to six processes write; one is killed at a random moment, the others
must get on, and are killed in their turn. Then: open, `verify`, compare with what had been
acknowledged, try everything again with the same keys, and compare to the unit. Ledgers
alternate between `full` and `relaxed`, and between many and few checkpoints. Prints the
figures as JSON; exits 1 at the first promise that did not hold, with the round's seed.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import rig
from rig import Child, Failure, Line, Load, Tell, require

import quotactl

ROUNDS_PER_LEDGER = 10


def write(tell: Tell, path: Path, prefix: str, seed: str) -> None:
    """Write until killed; tell each write before it, and its answer after."""
    rng = random.Random(seed)
    load = Load(prefix, rng)
    q = quotactl.connect(path, timeout_s=rig.DEADLINE_S, notify=False)
    while True:
        if rng.random() < 0.02:
            # The last to close writes the WAL back: that can be cut off too.
            q.close()
            q = quotactl.connect(path, timeout_s=rig.DEADLINE_S, notify=False)
        op = load.next()
        tell({"trying": op})
        answer = rig.perform(q, op)
        load.learn(op, answer)
        tell({"answer": answer})


class Told:
    """What one process told until it was killed."""

    def __init__(self) -> None:
        self.done: list[tuple[Line, Line]] = []
        self.trying: Line | None = None

    def hear(self, line: Line) -> bool:
        """Take a line in; True for an acknowledgement."""
        if "trying" in line:
            self.trying = line["trying"]
            return False
        assert self.trying is not None
        self.done.append((self.trying, line["answer"]))
        self.trying = None
        return True


def under_load(path: Path, rng: random.Random, prefix: str) -> list[Told]:
    """Start processes and kill them; what each of them told."""
    children = [
        Child(write, path, f"{prefix}.{n}", f"{prefix}.{n}") for n in range(rng.randint(1, 6))
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


def check(tell: Tell, path: Path, rounds: list[tuple[Line, Line]], told: list[Told]) -> None:
    """Compare a ledger with what was told; tell how the writes that were cut off ended.

    `rounds` are the writes of earlier rounds and their answers.
    """
    acknowledged = [one for process in told for one in process.done]
    cut_off = [process.trying for process in told if process.trying is not None]
    with quotactl.connect(path, timeout_s=rig.DEADLINE_S, notify=False) as q:
        rig.require_sound(q)
        require_kept(path, acknowledged)
        before = set(rig.sql(path, "SELECT id FROM entry"))
        finished = []
        for op in cut_off:
            answer = rig.perform(q, op)
            require(same(rig.perform(q, op), answer), "taken twice:", op)
            finished.append((op, answer))
        after = set(rig.sql(path, "SELECT id FROM entry"))
        voided = {op["id"] for op, _ in acknowledged + finished + rounds if op["do"] == "void"}
        for op, answer in acknowledged:
            if op["do"] == "reserve" and voided.intersection(answer["entries"]):
                continue
            if answer["units"] == 0 and op["do"] == "consume":
                continue  # denials are not remembered
            require(same(rig.perform(q, op), answer), "answered otherwise:", op)
        require(set(rig.sql(path, "SELECT id FROM entry")) == after, "a retry took something")
        require_sums(path, rounds + acknowledged + finished)
        rig.require_sound(q)
    tell(
        {
            "finished": finished,
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


def require_sums(path: Path, writes: list[tuple[Line, Line]]) -> None:
    """Entries and counters both hold what the answers add up to, not a unit more."""
    expected = sum(answer["units"] for _, answer in writes)
    ((entries,),) = rig.sql(
        path, "SELECT ifnull(sum(amount), 0) FROM entry WHERE kind BETWEEN 1 AND 6"
    )
    ((counters,),) = rig.sql(
        path, "SELECT ifnull(sum(used + granted), 0) FROM counter WHERE period = 1440"
    )
    require(expected == entries == counters, "units:", expected, entries, counters)


def campaign(seed: int, rounds: int) -> dict[str, Any]:
    figures = {"rounds": 0, "kills": 0, "acknowledged": 0, "unacknowledged": 0}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        history: list[tuple[Line, Line]] = []
        path = Path(folder)
        for number in range(rounds):
            rng = random.Random(f"{seed}.{number}")
            if number % ROUNDS_PER_LEDGER == 0:
                path = Path(folder) / f"ledger{number}.db"
                durability = "relaxed" if number // ROUNDS_PER_LEDGER % 2 else "full"
                rig.ask(
                    lambda _, *how: rig.make_ledger(how[0], durability=how[1]), path, durability
                )
                history = []
            rig.checkpoint_every(rng.choice([4000, 100, 10]))
            try:
                told = under_load(path, rng, f"{seed}.{number}")
                (found,) = rig.ask(check, path, history, told)
            except Failure as failure:
                raise Failure(f"seed {seed}, round {number}: {failure}") from failure
            acknowledged = [one for process in told for one in process.done]
            history += acknowledged
            history += [(op, answer) for op, answer in found["finished"]]
            figures["rounds"] += 1
            figures["kills"] += len(told)
            figures["acknowledged"] += len(acknowledged)
            figures["unacknowledged"] += found["unacknowledged"]
    return {
        "campaign": "crash",
        "seed": seed,
        **figures,
        "seconds": round(time.monotonic() - began),
    }


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
