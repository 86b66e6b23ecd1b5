"""Real processes doing everything at once, against an account of what each was told.

    python tests/campaigns/concurrency.py [--seed 1] [--rounds 1000] [--processes 1,2,8,16]

`--rounds` are the operations of each process: consume (some with a key that all share),
batches, refund, reserve, post, void, throttles on and off, tier changes, and closes of days
that go by meanwhile. At the end the entries are exactly those that somebody was told of, the
counters are the sums of what was told, denials included; no entry, in the order of their
ids, went over a limit that was in force then; `verify` is clean; and nobody was told that the
ledger is busy. What was in force when is known by entries that the one who changed it makes
just before and just after. Prints a line of JSON for each number of processes; exits 1 at the
first promise that did not hold.
"""

from __future__ import annotations

import argparse
import mmap
import random
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import rig
from rig import Child, Failure, Line, Tell, require

import quotactl

START = datetime(2025, 3, 27, 12, 0, tzinfo=UTC)
HOUR_MS = 3_600_000
RESOURCES = [f"r{n}" for n in range(3)]
USERS = [f"u{n}" for n in range(12)]
DAYS_MAX = 200
# By tier: per day, per three hours.
LIMITS = {"free": (14, 9), "plus": (40, 22), "none": (0, 0)}
FOREVER = 1 << 60


def make_ledger(path: Path) -> None:
    with quotactl.create(path, zone="UTC", clock=lambda: START, notify=False) as q:
        # Days go by in thousands of operations; nothing of the account is to be pruned.
        q.admin.set_setting("entry_retention", "3650d")
        for resource in (*RESOURCES, "beat"):
            q.admin.create_resource(resource)
        for tier, (day, hours) in LIMITS.items():
            q.admin.create_tier(tier)
            for resource in RESOURCES:
                q.admin.set_limit(tier=tier, resource=resource, limit=f"{day}/day,{hours}/3h")
            q.admin.set_limit(tier=tier, resource="beat", limit="unlimited")
        for user in USERS:
            q.admin.set_tier(user, "free")
        for user in USERS[:3]:
            q.admin.add_grant(user=user, resource="r0", amount=60, reason="goodwill")


class Member:
    """One process: does things at random and tells what it was told."""

    def __init__(
        self, tell: Tell, path: Path, seed: str, number: int, count: int, days: mmap.mmap
    ) -> None:
        self.tell, self.number, self.count, self.days = tell, number, count, days
        self.rng = random.Random(f"{seed}.{number}")
        self.now = START
        self.q = quotactl.connect(
            path, clock=lambda: self.now, timeout_s=rig.DEADLINE_S, notify=False
        )
        self.left: dict[int, int] = {}
        self.held: list[tuple[int, int]] = []
        self.throttle: int | None = None

    def run(self, rounds: int) -> None:
        rng = self.rng
        acts = [self.consume] * 10 + [self.batch, self.refund, self.refund]
        acts += [self.reserve, self.reserve, self.settle, self.settle, self.move]
        if self.number < len(RESOURCES):
            # Of each resource one process holds the throttle, so that what it knows is so.
            acts.append(self.flip)
        for _ in range(rounds):
            act = rng.choice(acts)
            day = timedelta(days=self.days[0])
            self.now = START + day + timedelta(seconds=rng.randint(1, 6 * 3600))
            if act in (self.move, self.flip):
                # Before whatever is decided on that day: what comes on is on for all of it.
                self.now = START + day
            if self.number == 0 and rng.random() < min(0.05, DAYS_MAX / 2 / rounds):
                act = self.close
            try:
                act()
            except quotactl.ClockBehind:
                # Somebody closed the day since: a gateway would ask again.
                self.tell({"behind": 1})
        self.q.close()

    def took(self, decision: quotactl.Decision) -> None:
        self.tell(
            {
                "user": decision.user,
                "resource": decision.resource,
                "amount": decision.amount,
                "entry": decision.entry_id,
                "replayed": decision.replayed,
            }
        )

    def consume(self) -> None:
        rng = self.rng
        user, resource, amount = rng.choice(USERS), rng.choice(RESOURCES), rng.randint(1, 5)
        key = None
        if rng.random() < 0.3:
            # Few keys for all, so that several processes come with the same.
            number = rng.randrange(3 * self.count + 40 * self.days[0])
            user, resource, amount, key = USERS[number % 12], RESOURCES[number % 3], 2, f"k{number}"
        try:
            decision = self.q.consume(
                user=user, resource=resource, amount=amount, idempotency_key=key
            )
        except quotactl.Conflict:
            require(key is not None, "a conflict without a key")
            self.tell({"given_back": 1})
            return
        self.took(decision)
        if decision.allowed and key is None and decision.entry_id is not None:
            self.left[decision.entry_id] = amount

    def batch(self) -> None:
        requests = [
            quotactl.Request(self.rng.choice(USERS), self.rng.choice(RESOURCES), 1)
            for _ in range(self.rng.randint(2, 12))
        ]
        for decision in self.q.consume_many(requests):
            if isinstance(decision, quotactl.ClockBehind):
                self.tell({"behind": 1})
                continue
            require(isinstance(decision, quotactl.Decision), decision)
            assert isinstance(decision, quotactl.Decision)
            self.took(decision)

    def refund(self) -> None:
        if self.left:
            entry = self.rng.choice(list(self.left))
            amount = self.rng.randint(1, self.left[entry])
            refunded = self.q.refund(entry_id=entry, amount=amount)
            require(refunded.amount == amount, "refund", entry)
            self.tell({"of": entry, "entry": refunded.entry_id, "back": amount})
            self.left[entry] -= amount
            if not self.left[entry]:
                del self.left[entry]

    def reserve(self) -> None:
        decision = self.q.reserve(
            user=self.rng.choice(USERS),
            resource=self.rng.choice(RESOURCES),
            amount=self.rng.randint(1, 5),
            ttl_s=self.rng.choice([60, 40_000]),
        )
        self.took(decision)
        if decision.reservation_id is not None:
            self.held.append((decision.reservation_id, decision.amount))

    def settle(self) -> None:
        if not self.held:
            return
        held, amount = self.held[self.rng.randrange(len(self.held))]
        try:
            if self.rng.random() < 0.5:
                settled = self.q.void(held)
            else:
                settled = self.q.post(held, amount=self.rng.randint(1, amount))
        except quotactl.Conflict:
            # Timed out, as its entry says: who freed it did not tell.
            settled = None
        self.held.remove((held, amount))
        if settled is not None and settled.entry_id is not None:
            self.tell({"of": held, "entry": settled.entry_id, "back": settled.freed})

    def beat(self) -> int:
        """An entry of one's own that no limit concerns: a mark in the order of all."""
        decision = self.q.consume(user=f"beat{self.number}", resource="beat")
        self.took(decision)
        assert decision.entry_id is not None
        return decision.entry_id

    def flip(self) -> None:
        resource = RESOURCES[self.number]
        before = self.beat()
        if self.throttle is None:
            cap = self.rng.choice([0, 3, 8])
            how = {"cap": f"{cap}/day"} if cap else {"deny": True}
            on = self.q.admin.throttle_on(
                **how, resources=[resource], no_expiry=True, reason="melting"
            )
            self.throttle = on.item["id"]
            at_ms = int(self.now.timestamp() * 1000)
            what = {"on": self.throttle, "cap": cap, "resource": resource, "at_ms": at_ms}
        else:
            self.q.admin.throttle_off(self.throttle, reason="cool again")
            what = {"off": self.throttle}
            self.throttle = None
        self.tell({**what, "between": [before, self.beat_whenever()]})

    def move(self) -> None:
        """Put a user of one's own on another tier."""
        own = USERS[self.number :: self.count]
        if not own:
            return
        user, tier = self.rng.choice(own), self.rng.choice(list(LIMITS))
        before = self.beat()
        self.q.admin.set_tier(user, tier)
        self.tell({"moved": user, "tier": tier, "between": [before, self.beat_whenever()]})

    def beat_whenever(self) -> int:
        """Like `beat`, on a later day if this one was closed meanwhile."""
        while True:
            try:
                return self.beat()
            except quotactl.ClockBehind:
                self.tell({"behind": 1})
                self.now = START + timedelta(days=self.days[0])

    def close(self) -> None:
        if self.days[0] < DAYS_MAX:
            self.days[0] += 1
            self.now = START + timedelta(days=self.days[0])
            self.tell({"closed": len(self.q.close_days().closed)})


def work(
    tell: Tell, path: Path, seed: str, number: int, count: int, days: mmap.mmap, rounds: int
) -> None:
    Member(tell, path, seed, number, count, days).run(rounds)


# ---- the account


@dataclass(slots=True)
class Spell:
    """What was in force: surely after `since` and before `until`, maybe from `since_maybe`
    and up to `until_maybe`, all of them entries' ids."""

    value: Any
    since_maybe: int
    since: int
    until: int = FOREVER
    until_maybe: int = FOREVER
    at_ms: int = 0


class Account:
    """What all processes were told."""

    def __init__(self) -> None:
        self.taken: dict[int, Line] = {}
        self.back: dict[int, Line] = {}
        self.denied: dict[tuple[str, str], int] = defaultdict(int)
        self.tiers = {user: [Spell("free", 0, 0)] for user in USERS}
        self.throttles: dict[int, Spell] = {}
        self.resource_of: dict[int, str] = {}
        self.counts: dict[str, int] = defaultdict(int)

    def hear(self, line: Line) -> None:
        if "on" in line:
            low, high = line["between"]
            self.throttles[line["on"]] = Spell(line["cap"], low, high, at_ms=line["at_ms"])
            self.resource_of[line["on"]] = line["resource"]
            self.counts["flips"] += 1
        elif "off" in line:
            spell = self.throttles[line["off"]]
            spell.until, spell.until_maybe = line["between"]
            self.counts["flips"] += 1
        elif "moved" in line:
            spells = self.tiers[line["moved"]]
            low, high = line["between"]
            spells[-1].until, spells[-1].until_maybe = low, high
            spells.append(Spell(line["tier"], low, high))
            self.counts["moves"] += 1
        elif "of" in line:
            require(line["entry"] not in self.back, "told twice:", line)
            self.back[line["entry"]] = line
            self.counts["corrections"] += 1
        elif "user" in line:
            self._take(line)
        else:
            for what, count in line.items():
                self.counts[what] += count

    def _take(self, line: Line) -> None:
        if line["entry"] is None:
            self.denied[line["user"], line["resource"]] += line["amount"]
            self.counts["denied"] += 1
        elif line["replayed"]:
            self.counts["replayed"] += 1
        else:
            require(line["entry"] not in self.taken, "told twice:", line)
            self.taken[line["entry"]] = line
            self.counts["allowed"] += 1

    def most(self, entry_id: int, at_ms: int, user: str, resource: str) -> tuple[int, int]:
        """The highest limits, per day and per three hours, that can have been in force."""
        tiers = [
            LIMITS[spell.value]
            for spell in self.tiers[user]
            if spell.since_maybe < entry_id < spell.until_maybe
        ]
        day, hours = (max(limits) for limits in zip(*tiers, strict=True))
        for throttle_id, spell in self.throttles.items():
            on = spell.since < entry_id < spell.until and at_ms >= spell.at_ms
            if on and self.resource_of[throttle_id] == resource:
                day = min(day, spell.value)
        return day, hours


def check(tell: Tell, path: Path, account: Account) -> None:
    """The ledger against the account."""
    # The clock of the day that was closed last, or after: nothing else depends on it.
    now = START + timedelta(days=DAYS_MAX)
    with quotactl.connect(path, clock=lambda: now, notify=False) as q:
        rig.require_sound(q)
        rows = rig.sql(
            path,
            "SELECT e.id, e.at_ms, e.kind, u.name, r.name, e.amount, e.granted, e.day_ms, e.of_id "
            "FROM entry AS e JOIN user AS u ON u.id = e.user_id "
            "JOIN resource AS r ON r.id = e.resource_id WHERE e.kind < 8 ORDER BY e.id",
        )
        require_told(rows, account)
        require_counters(path, rows, account)
        require_limits(rows, account)
    tell({"entries": len(rows)})


def require_told(rows: list[tuple[Any, ...]], account: Account) -> None:
    """Each entry was told to somebody once, as it is, and each that was told is there."""
    missing = account.taken.keys() | account.back.keys()
    timed_out = set()
    for id_, _, kind, user, resource, amount, _, _, of_id in rows:
        if kind == 5:
            require(of_id not in timed_out, "timed out twice:", of_id)
            timed_out.add(of_id)
        elif kind in (1, 2):
            told = account.taken.get(id_)
            require(told is not None, "nobody was told of entry", id_)
            assert told is not None
            wanted = (told["user"], told["resource"], told["amount"])
            require(wanted == (user, resource, amount), "another entry than told:", told)
        else:
            told = account.back.get(id_)
            require(told is not None, "nobody was told of correction", id_)
            assert told is not None
            require((told["of"], -told["back"]) == (of_id, amount), "another than told:", told)
        missing.discard(id_)
    require(not missing, "lost entries:", sorted(missing)[:5])


def require_counters(path: Path, rows: list[tuple[Any, ...]], account: Account) -> None:
    """Counters are the sums of the entries, which are as told, and of the denials told."""
    expected: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        expected[row[3], row[4]] += row[5]
    found, denied = {}, {}
    for user, resource, units, refused in rig.sql(
        path,
        "SELECT u.name, r.name, sum(used + granted), sum(denied) FROM counter "
        "JOIN user AS u ON u.id = user_id JOIN resource AS r ON r.id = resource_id "
        "WHERE period = 1440 GROUP BY 1, 2",
    ):
        found[user, resource] = units
        if refused:
            denied[user, resource] = refused
    require({k: v for k, v in expected.items() if v} == {k: v for k, v in found.items() if v},
            "counters are not the sums of what was told")  # fmt: skip
    require(denied == account.denied, "denials are not what was told")


def require_limits(rows: list[tuple[Any, ...]], account: Account) -> None:
    """Entry for entry, what was taken never went over what was in force."""
    used: dict[tuple[str, str, str, int], int] = defaultdict(int)
    came_at = {row[0]: row[1] for row in rows}
    for id_, at_ms, kind, user, resource, amount, granted, day_ms, of_id in rows:
        if resource == "beat":
            continue
        taken_at = at_ms if of_id is None else came_at[of_id]
        day = (user, resource, "day", day_ms)
        hours = (user, resource, "3h", taken_at // (3 * HOUR_MS))
        used[day] += amount - granted
        used[hours] += amount
        if kind not in (1, 2):
            continue
        most_day, most_hours = account.most(id_, at_ms, user, resource)
        over = amount > granted and used[day] > most_day
        require(not over, "entry", id_, "over the day:", used[day], "of", most_day)
        require(used[hours] <= most_hours, "entry", id_, "over", used[hours], "of", most_hours)


def campaign(seed: int, rounds: int, count: int) -> dict[str, Any]:
    began = time.monotonic()
    account = Account()
    with tempfile.TemporaryDirectory() as folder, mmap.mmap(-1, 1) as days:
        path = Path(folder) / "ledger.db"
        rig.ask(lambda _, where: make_ledger(where), path)
        # Checkpoints too are to come in the midst of it.
        rig.checkpoint_every(500)
        children = [
            Child(work, path, f"{seed}.{count}", number, count, days, rounds)
            for number in range(count)
        ]
        try:
            for _, line in rig.listen(children):
                account.hear(line)
        finally:
            for child in children:
                child.kill()
                child.reap()
        (found,) = rig.ask(check, path, account)
    return {
        "campaign": "concurrency", "seed": seed, "processes": count, "operations": count * rounds,
        **found, **dict(sorted(account.counts.items())),
        "seconds": round(time.monotonic() - began),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--processes", default="1,2,8,16")
    asked = parser.parse_args()
    try:
        for count in asked.processes.split(","):
            rig.report(campaign(asked.seed, asked.rounds, int(count)))
    except Failure as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main()
