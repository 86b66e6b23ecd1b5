"""The ledger against a naive model: whatever is done to both, both must answer alike.

A short pass runs with the suite, the same examples every time. The long run draws
new ones and takes minutes; it prints how many steps it took:

    QUOTACTL_LONG=1 pytest -s tests/ledger/test_model_machine.py

`QUOTACTL_LONG=5` takes five times as many examples.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, event, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import quotactl
from quotactl.ledger.values import Decision
from quotactl.ledger.views import Outcome
from quotactl.operations.emergency import Emergency, Timing, put_on
from quotactl.operations.switches import switch_view
from quotactl.policy.levers import lever
from quotactl.policy.resolve import totals_kept
from quotactl.policy.window import moment_of

sys.path.insert(0, str(Path(__file__).parent))
from model import THROTTLES, Answer, Model, Period, Refused, Step, Switch, Taking, Tier

T = TypeVar("T")
U = TypeVar("U")

NAMES: dict[Period, str] = {
    1: "minute", 5: "5m", 60: "hour", 180: "3h", "day": "day", "week": "week", "month": "month",
}  # fmt: skip
PERIODS = {name: period for period, name in NAMES.items()}
LENGTHS_MIN = (1, 5, 60, 180, 1440, 10080, 43200)
USERS = ("ada", "bob", "eve")
RESOURCES = ("image", "video")
TIERS = ("free", "plus", "pro")
# Each just before something odd: an hour that is missing, that comes twice, a new year.
STARTS = {
    "Europe/Rome": (
        datetime(2025, 3, 29, 20, tzinfo=UTC),
        datetime(2025, 10, 25, 18, tzinfo=UTC),
        datetime(2025, 12, 31, 21, tzinfo=UTC),
    ),
    "America/Havana": (
        datetime(2025, 3, 9, 3, tzinfo=UTC),
        datetime(2025, 11, 2, 2, tzinfo=UTC),
        datetime(2025, 11, 30, 23, tzinfo=UTC),
    ),
    "Asia/Kolkata": (
        datetime(2024, 2, 28, 17, tzinfo=UTC),
        datetime(2025, 12, 28, 16, tzinfo=UTC),
    ),
    # Its clocks change by half an hour.
    "Australia/Lord_Howe": (
        datetime(2025, 4, 5, 9, tzinfo=UTC),
        datetime(2025, 10, 4, 9, tzinfo=UTC),
    ),
}

# Most of what happens happens to one account, so that much meets there.
users = st.sampled_from(("ada", "ada", "ada", *USERS))
resources = st.sampled_from(("image", "image", *RESOURCES))
tiers = st.sampled_from(TIERS)
amounts = st.integers(1, 5)
ceilings = st.one_of(st.integers(0, 8), st.integers(2, 8), st.none())
limits = st.one_of(
    st.dictionaries(
        st.sampled_from(("day", "day", 1, "week", "month", 60, 5, 180)),
        ceilings,
        min_size=1,
        max_size=3,
    ),
    st.fixed_dictionaries({"day": st.integers(1, 5), 1: st.integers(2, 5)}),
    st.fixed_dictionaries({"week": st.integers(2, 6), "month": st.integers(4, 9)}),
)
lengths = st.sampled_from(("45s", "3m", "40m", "2h", "1h30m", "26h", "3d"))
ends = st.one_of(st.none(), lengths)
# Blocks and enforcement hide everything else, so they mostly pass soon.
soon = st.sampled_from((*("45s", "3m", "40m") * 4, "2h", "26h", "3d", None))
keys = st.one_of(st.none(), st.sampled_from(("k1", "k2", "r1")))
scopes_r = st.sampled_from(((), (), ("image",), ("video",), ("image", "video")))
scopes_t = st.sampled_from(((), (), ("free",), ("plus",), ("free", "pro")))
which = st.integers(0, 10**6)

percents = st.sampled_from((0, 10, 25, 50, 70, 100))
ramps = st.one_of(st.none(), st.none(), st.lists(percents, min_size=1, max_size=4))
everies = st.sampled_from(("45s", "3m", "3m", "40m", "40m", "2h"))
delays = st.one_of(st.none(), st.none(), st.sampled_from(("45s", "40m", "2h", "26h")))

LENGTHS = {"45s": 45, "3m": 180, "40m": 2400, "2h": 7200, "1h30m": 5400, "26h": 93600, "3d": 259200}


class Machine(RuleBasedStateMachine):
    """Drives a ledger, through two connections in turn, and the model."""

    steps: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.connections: list[quotactl.Ledger] = []
        self.turn = 0
        self.now = 0
        self.last = ("ada", "image")
        self.ends: list[int] = []
        self.last_denied: tuple[str, str, int, int] | None = None
        self.denied = 0

    @initialize(
        zone=st.sampled_from(sorted(STARTS)),
        which=which,
        later_s=st.integers(0, 8 * 3600),
        ms=st.sampled_from((0, 0, 1, 999)),
        plus=limits,
        unlisted=st.booleans(),
    )
    def found(
        self,
        zone: str,
        which: int,
        later_s: int,
        ms: int,
        plus: dict[Period, int | None],
        unlisted: bool,
    ) -> None:
        start = STARTS[zone][which % len(STARTS[zone])]
        self.now = int(start.timestamp()) * 1000 + later_s * 1000 + ms
        path = self.path = Path(self.folder.name) / "ledger.db"
        ledger = quotactl.create(path, name="model", zone=zone, clock=self.clock)
        ledger.admin.set_setting("durability", "relaxed")
        # The model forgets nothing, so the ledger must not either, however far the clock jumps.
        ledger.admin.set_setting("key_retention", "3650d")
        ledger.admin.set_setting("entry_retention", "3650d")
        self.connections = [ledger, quotactl.connect(path, clock=self.clock)]
        self.model = Model(zone)
        for resource in RESOURCES:
            ledger.admin.create_resource(resource)
            self.model.resources.append(resource)
        for number, tier in enumerate(TIERS, start=1):
            ledger.admin.create_tier(tier, protected=tier == "pro")
            self.model.tiers[tier] = Tier(number, tier == "pro")
        self.model.default = "free"
        self.put_limits("free", "image", {"day": 3})
        self.put_limits("plus", "image", plus)
        self.put_limits("pro", "image", {"day": None})
        if not unlisted:
            self.put_limits("free", "video", {1: 2, "week": 8})

    # ---- the two sides

    def clock(self) -> datetime:
        return datetime.fromtimestamp(self.now // 1000, UTC) + timedelta(
            milliseconds=self.now % 1000
        )

    @property
    def ledger(self) -> quotactl.Ledger:
        self.turn += 1
        return self.connections[self.turn % 2]

    def both(self, real: Callable[[], T], modelled: Callable[[], U]) -> tuple[T, U] | None:
        """Both results, or None after the same error on both sides."""
        code = None
        try:
            expected = modelled()
        except Refused as refused:
            code = refused.code
        if code is None:
            return real(), expected
        with pytest.raises(quotactl.QuotaError) as error:
            real()
        assert error.value.code == code
        return None

    def same(self, found: Decision, expected: Answer) -> None:
        figures = answer_of(found)
        if not found.replayed:
            figures = Answer(**{**vars(figures), "entry_id": None, "reservation_id": None})
        wrong = {
            name: (value, getattr(expected, name))
            for name, value in vars(figures).items()
            if value != getattr(expected, name)
        }
        note(f"{self.clock().isoformat()} {found}")
        assert not wrong, f"(ledger, model): {wrong}\nledger: {found}\nmodel: {expected}"
        event(f"reason {found.reason} {'would_be' if found.would_be else ''}")
        self.steps[found.reason] += 1
        self.tally(found)
        if not found.allowed:
            request = (found.user, found.resource, found.amount)
            if found.retry_after_s is not None:
                self.last_denied = (*request, self.now + found.retry_after_s * 1000)

    def tally(self, found: Decision) -> None:
        """Count what totals, ramps and drills had a part in."""
        if found.rule.kind == "resource":
            self.steps["by capacity" if not found.allowed else "shows capacity"] += 1
        if found.rule.kind == "throttle":
            (throttle,) = (s for s in self.model.switches if s.id == found.rule.id)
            self.steps[("shows " if found.allowed else "by ") + throttle.kind] += 1
            if throttle.percentage(self.now, lifting=True):
                self.steps["in steps off"] += 1
            elif throttle.steps and throttle.held is not None:
                self.steps["held"] += 1
            elif throttle.percentage(self.now, lifting=False) < 100:
                self.steps["in steps on"] += 1
        if found.would_be is not None:
            self.steps["would be " + ("drilled" if found.rule.kind != "enforcement" else "")] += 1

    def taken(self, found: Decision, taking: Taking | None) -> None:
        assert found.allowed == (taking is not None) == (found.entry_id is not None)
        if taking is not None and not found.replayed:
            assert found.entry_id is not None
            assert all(found.entry_id > other.id for other in self.model.takings)
            taking.id = found.entry_id
        if taking is None:
            self.denied += found.amount

    def look(self, user: str, resource: str, amount: int) -> Decision | None:
        self.last = (user, resource)
        pair = self.both(
            lambda: self.ledger.check(user=user, resource=resource, amount=amount),
            lambda: self.model.check(user, resource, amount, self.now),
        )
        if pair is None:
            return None
        self.same(*pair)
        return pair[0]

    # ---- asking and taking

    @rule(user=users, resource=resources, amount=amounts, key=keys)
    def consume(self, user: str, resource: str, amount: int, key: str | None) -> None:
        checked = self.look(user, resource, amount)
        pair = self.both(
            lambda: self.ledger.consume(
                user=user, resource=resource, amount=amount, idempotency_key=key
            ),
            lambda: self.model.take(user, resource, amount, self.now, key),
        )
        if pair is None:
            return
        found, (expected, taking) = pair
        self.same(found, expected)
        self.taken(found, taking)
        if not found.replayed and checked is not None:
            agreed = ("allowed", "reason", "granted", "tier", "retry_after_s", "would_be")
            assert all(getattr(found, name) == getattr(checked, name) for name in agreed)

    @rule(user=users, amount=amounts)
    def consume_image(self, user: str, amount: int) -> None:
        self.consume(user, "image", amount, None)

    @rule(amount=amounts, times=st.integers(1, 3))
    def consume_on(self, amount: int, times: int) -> None:
        for _ in range(times):
            self.consume(*self.last, amount, None)

    @rule(
        batch=st.lists(
            st.tuples(users, st.sampled_from((*RESOURCES, "image", "nothing")), amounts, keys),
            min_size=1,
            max_size=6,
        )
    )
    def consume_many(self, batch: list[tuple[str, str, int, str | None]]) -> None:
        answers = self.ledger.consume_many([quotactl.Request(*request) for request in batch])
        for (user, resource, amount, key), found in zip(batch, answers, strict=True):
            code = None
            try:
                expected, taking = self.model.take(user, resource, amount, self.now, key)
            except Refused as refused:
                code = refused.code
            if code is not None:
                assert isinstance(found, quotactl.QuotaError), f"ledger: {found!r}, model: {code}"
                assert found.code == code
                continue
            assert not isinstance(found, quotactl.QuotaError), f"ledger: {found!r}"
            # Of a batch the figures are those after each item, as if it had come alone.
            self.same(found, expected)
            self.taken(found, taking)

    @rule(user=users, resource=resources, amount=st.integers(1, 20))
    def check(self, user: str, resource: str, amount: int) -> None:
        self.look(user, resource, amount)

    @rule(
        user=users,
        resource=resources,
        amount=amounts,
        ttl_s=st.sampled_from((0.5, 20, 120, 3600, 100_000)),
        key=keys,
    )
    def reserve(self, user: str, resource: str, amount: int, ttl_s: float, key: str | None) -> None:
        self.look(user, resource, amount)
        pair = self.both(
            lambda: self.ledger.reserve(
                user=user, resource=resource, amount=amount, ttl_s=ttl_s, idempotency_key=key
            ),
            lambda: self.model.take(
                user, resource, amount, self.now, key, ttl_ms=int(ttl_s * 1000)
            ),
        )
        if pair is None:
            return
        found, (expected, taking) = pair
        self.same(found, expected)
        self.taken(found, taking)
        assert found.reservation_id == found.entry_id
        if taking is not None and taking.held_until is not None:
            self.ends.append(taking.held_until)

    @precondition(lambda self: any(t.held_until is not None for t in self.model.takings))
    @rule(which=which, keep=st.one_of(st.none(), amounts), post=st.booleans())
    def settle(self, which: int, keep: int | None, post: bool) -> None:
        holds = [t for t in self.model.takings if t.held_until is not None]
        hold = holds[-1 - which % len(holds)]
        self.last = (hold.user, hold.resource)
        pair = self.both(
            lambda: self.ledger.post(hold.id, keep) if post else self.ledger.void(hold.id),
            lambda: self.model.settle(
                hold, self.now, keep if post else None, "posted" if post else "voided"
            ),
        )
        if pair is not None:
            found = pair[0]
            assert (found.state, found.posted, found.freed, found.already) == pair[1]

    @precondition(lambda self: self.model.takings)
    @rule(
        which=which,
        amount=st.one_of(st.none(), amounts),
        by_key=st.booleans(),
        refund_key=st.one_of(st.none(), st.none(), st.sampled_from(("r1", "r2", "k1"))),
    )
    def refund(self, which: int, amount: int | None, by_key: bool, refund_key: str | None) -> None:
        taking = self.model.takings[-1 - which % len(self.model.takings)]
        self.last = (taking.user, taking.resource)
        named = (
            {"idempotency_key": taking.key} if by_key and taking.key else {"entry_id": taking.id}
        )
        pair = self.both(
            lambda: self.ledger.refund(**named, amount=amount, refund_key=refund_key),
            lambda: self.model.refund(taking, amount, self.now, refund_key),
        )
        if pair is not None:
            found = pair[0]
            assert (found.amount, found.granted, found.replayed) == pair[1]

    # ---- time

    @rule(
        seconds=st.one_of(
            st.integers(1, 90),
            st.integers(60, 4000),
            st.integers(3000, 30_000),
            st.integers(30_000, 300_000),
        )
    )
    def wait(self, seconds: int) -> None:
        self.now += seconds * 1000

    @rule(ms=st.integers(1, 2000))
    def wait_a_little(self, ms: int) -> None:
        self.now += ms

    @precondition(lambda self: self.last_denied is not None)
    @rule(early=st.booleans())
    def wait_as_told(self, early: bool) -> None:
        """To the moment at which a denied request should pass, or just before it."""
        assert self.last_denied is not None
        user, resource, amount, at = self.last_denied
        self.last_denied = None
        if early:
            at -= 1001
        self.now = max(self.now, at)
        self.look(user, resource, amount)

    @precondition(lambda self: any(end > self.now for end in self.ends))
    @rule(which=which, early=st.sampled_from((False, False, True)))
    def wait_for_an_end(self, which: int, early: bool) -> None:
        """To the very moment at which something was, at some time, meant to end."""
        ahead = sorted(end for end in self.ends if end > self.now)
        self.now = ahead[which % min(3, len(ahead))] - (1 if early else 0)

    @rule()
    def close_days(self) -> None:
        self.ledger.close_days()

    # ---- administering

    def until(self, duration: str | None, start: int | None = None) -> int | None:
        if duration is None:
            return None
        self.ends.append((self.now if start is None else start) + LENGTHS[duration] * 1000)
        return self.ends[-1]

    def put_limits(self, tier: str, resource: str, wanted: dict[Period, int | None]) -> None:
        self.ledger.admin.set_limit(tier=tier, resource=resource, limit=limit_text(wanted))
        self.model.tiers[tier].limits[resource] = dict(wanted)

    @rule(tier=tiers, resource=resources, wanted=limits)
    def set_limit(self, tier: str, resource: str, wanted: dict[Period, int | None]) -> None:
        self.put_limits(tier, resource, wanted)

    @rule(tier=tiers, resource=st.sampled_from(("video", "video", "image")))
    def unset_limit(self, tier: str, resource: str) -> None:
        self.ledger.admin.unset_limit(tier=tier, resource=resource)
        self.model.tiers[tier].limits.pop(resource, None)

    @rule(user=users, tier=st.one_of(st.none(), tiers, tiers))
    def set_tier(self, user: str, tier: str | None) -> None:
        self.ledger.admin.set_tier(user, tier)
        self.model.know(user).tier = tier

    @rule(tier=tiers)
    def set_default_tier(self, tier: str) -> None:
        self.ledger.admin.set_default_tier(tier)
        self.model.default = tier

    @rule(tier=tiers, protected=st.booleans())
    def protect_tier(self, tier: str, protected: bool) -> None:
        admin = self.ledger.admin
        (admin.protect_tier if protected else admin.unprotect_tier)(tier)
        self.model.tiers[tier].protected = protected

    @rule(user=users, protected=st.booleans())
    def protect(self, user: str, protected: bool) -> None:
        admin = self.ledger.admin
        found = self.model.know if protected else self.model.known
        pair = self.both(
            lambda: (admin.protect if protected else admin.unprotect)(user),
            lambda: found(user),
        )
        if pair is not None:
            pair[1].protected = protected

    @rule(user=users, resource=resources, wanted=limits, bare=st.booleans(), duration=ends)
    def set_override(
        self,
        user: str,
        resource: str,
        wanted: dict[Period, int | None],
        bare: bool,
        duration: str | None,
    ) -> None:
        self.last = (user, resource)
        plain: dict[Period | None, int | None] = {None: None} if bare else dict(wanted.items())
        self.ledger.admin.set_override(
            user=user,
            resource=resource,
            limit="unlimited" if bare else limit_text(wanted),
            duration=duration,
            reason="test",
        )
        # Ids follow the periods' lengths.
        ordered = sorted(plain.items(), key=lambda pair: list(NAMES).index(pair[0] or "day"))
        self.model.set_override(user, resource, dict(ordered), self.until(duration), self.now)

    @rule(user=users, resource=st.one_of(st.none(), resources))
    def clear_override(self, user: str, resource: str | None) -> None:
        self.both(
            lambda: self.ledger.admin.clear_override(user=user, resource=resource),
            lambda: self.model.clear_override(user, resource),
        )

    @rule(user=users, resource=st.one_of(st.none(), resources), duration=soon)
    def block(self, user: str, resource: str | None, duration: str | None) -> None:
        self.last = (user, resource or "image")
        self.ledger.admin.block(user, resource=resource, duration=duration, reason="test")
        self.model.block(user, resource, self.until(duration), self.now)

    @rule(user=users, resource=st.one_of(st.none(), resources))
    def unblock(self, user: str, resource: str | None) -> None:
        self.both(
            lambda: self.ledger.admin.unblock(user, resource=resource),
            lambda: self.model.unblock(user, resource, self.now),
        )

    @rule(
        user=users,
        resource=resources,
        amount=st.integers(1, 9),
        priority=st.integers(-1, 1),
        duration=ends,
    )
    def add_grant(
        self, user: str, resource: str, amount: int, priority: int, duration: str | None
    ) -> None:
        self.last = (user, resource)
        made = self.ledger.admin.add_grant(
            user=user,
            resource=resource,
            amount=amount,
            priority=priority,
            duration=duration,
            reason="test",
        )
        grant = self.model.grant(user, resource, amount, priority, self.until(duration))
        assert made.item["id"] == grant.id

    @precondition(lambda self: self.model.grants)
    @rule(which=which)
    def revoke_grant(self, which: int) -> None:
        grant = self.model.grants[which % len(self.model.grants)]
        self.ledger.admin.revoke_grant(grant.id)
        grant.gone = True

    @rule(user=users, resource=st.one_of(st.none(), resources))
    def reset_user(self, user: str, resource: str | None) -> None:
        named = RESOURCES if resource is None else (resource,)
        self.both(
            lambda: self.ledger.admin.reset_user(user, resource=resource, reason="test"),
            lambda: self.model.reset_user(user, named, self.now),
        )

    @rule(amount=amounts, back=amounts)
    def refund_into_a_fresh_window(self, amount: int, back: int) -> None:
        user, resource = self.last
        self.consume(user, resource, amount, None)
        self.reset_user(user, resource)
        self.consume(user, resource, 1, None)
        takings = [t for t in self.model.takings if (t.user, t.resource) == self.last]
        if len(takings) > 1:
            nth = self.model.takings[::-1].index(takings[-2])
            self.refund(nth, min(back, amount), False, None)

    # ---- emergencies

    @rule(
        kind=st.one_of(
            st.just(("deny", None, None)),
            st.tuples(st.just("cap"), st.integers(0, 8), st.sampled_from((*NAMES, "day", "day"))),
            st.tuples(st.just("scale"), percents, st.one_of(st.none(), st.integers(0, 4))),
            st.tuples(st.just("total"), st.integers(0, 14), st.sampled_from((*NAMES, 60, "day"))),
            st.tuples(st.just("total"), st.integers(4, 20), st.sampled_from((*NAMES, 60, "day"))),
            st.just(("ramp", None, None)),
        ),
        resources=scopes_r,
        tiers=scopes_t,
        at=delays,
        duration=st.one_of(st.just("default"), ends),
        ramp=ramps,
        every=everies,
        freezes=st.sampled_from((False, False, True)),
        reaches_protected=st.sampled_from((False, False, True)),
        replace=st.sampled_from((True, True, False)),
        name=st.sampled_from((None, None, None, "melt")),
        message=st.sampled_from((None, None, "We are melting.", "Come back later.")),
        drill=st.sampled_from((False, False, False, True)),
    )
    def throttle_on(
        self,
        kind: tuple[str, Any, Any],
        resources: tuple[str, ...],
        tiers: tuple[str, ...],
        at: str | None,
        duration: str | None,
        ramp: list[int] | None,
        every: str,
        freezes: bool,
        reaches_protected: bool,
        replace: bool,
        name: str | None,
        message: str | None,
        drill: bool,
    ) -> None:
        verb, value, extra = kind
        if verb == "deny":
            ramp = None
        elif verb == "ramp" and ramp is None:
            ramp = [10, 50, 100]
        starts = self.until(at) or self.now
        steps = [
            Step(starts + n * LENGTHS[every] * 1000, percent)
            for n, percent in enumerate(ramp or ())
        ]
        self.ends += [step.at for step in steps]
        if duration == "default":
            # As long as the ramp takes, its last step too; else an hour.
            lasts_ms = len(steps) * LENGTHS[every] * 1000 if steps else 3_600_000
            self.ends.append(starts + lasts_ms)
            until: int | None = self.ends[-1]
        else:
            until = self.until(duration, starts)
        wanted = Switch(
            id=0,
            kind="scale" if verb == "ramp" else verb,
            resources=frozenset(resources) or None,
            tiers=frozenset(tiers) or None,
            starts=starts,
            ends=until,
            freezes=freezes or verb == "deny",
            reaches_protected=reaches_protected,
            name=name,
            steps=steps,
            drill=drill,
            message=message,
        )
        how: dict[str, Any] = {}
        if verb == "deny":
            how = {"deny": True}
        elif verb in ("cap", "total"):
            how = {verb: f"{value}/{NAMES[extra]}"}
            wanted.most, wanted.period = value, extra
        elif verb == "scale":
            how = {"scale": value, "floor": extra}
            wanted.percent, wanted.floor = value, extra
        else:
            wanted.percent = 100
        how |= {
            "resources": resources,
            "tiers": tiers,
            "name": name,
            "ramp": ramp,
            "every": every if ramp else None,
            "freeze_grants": freezes,
            "include_protected": reaches_protected,
            "message": message,
        }
        timing = Timing(
            at=None if at is None else moment_of(starts),
            duration=None if duration == "default" else duration,
            no_expiry=duration is None,
        )
        pair = self.both(
            lambda: self.put_on(how, timing, replace=replace, drill=drill),
            lambda: self.model.throttle_on(wanted, self.now, replace=replace),
        )
        if pair is not None:
            found, made = pair
            assert found.changed == (made is not None)
            assert made is None or (found.item["id"], found.item["ends_at"]) == (
                made.id,
                rfc3339(made.ends),
            )

    def put_on(self, how: dict[str, Any], timing: Timing, *, replace: bool, drill: bool) -> Outcome:
        """What `throttle on` does, and for a drill the same without its denials."""
        if not drill:
            return self.ledger.admin.throttle_on(
                **how, **vars(timing), replace=replace, reason="test"
            )
        emergency = Emergency(self.ledger.engine, self.clock, "test", notify=False)
        with emergency._act(reason="test") as act:
            put = put_on(act, lever(**how), timing, replace=replace, drill=True)
            if isinstance(put, Outcome):
                return put
            return Outcome(True, "", switch_view(act.book, put[0], act.now_ms).to_dict())

    @rule(
        most=st.integers(0, 14),
        period=st.sampled_from((*NAMES, 60, "day", "day")),
        tiers=scopes_t,
        duration=st.one_of(st.none(), lengths),
        message=st.sampled_from((None, "We are melting.")),
        users=st.lists(st.sampled_from(USERS), max_size=4),
    )
    def total_on(
        self,
        most: int,
        period: Period,
        tiers: tuple[str, ...],
        duration: str | None,
        message: str | None,
        users: list[str],
    ) -> None:
        """A plain one, in place of what is in its way, for what was last asked for, and a rush."""
        resource = self.last[1]
        self.throttle_on(
            ("total", most, period), (resource,), tiers, None, duration, None, "3m",
            freezes=False, reaches_protected=False, replace=True, name=None, message=message,
            drill=False,
        )  # fmt: skip
        for user in users:
            self.consume(user, resource, 2, None)

    @rule(users=st.lists(st.sampled_from(USERS), min_size=2, max_size=6), amount=st.integers(1, 3))
    def all_take(self, users: list[str], amount: int) -> None:
        """Several users of one resource, which is what totals are about."""
        for user in users:
            self.consume(user, self.last[1], amount, None)

    def throttles(self, *, live: bool = False) -> list[Switch]:
        found = [s for s in self.model.switches if s.kind in THROTTLES]
        return [s for s in found if not s.over(self.now)] if live else found

    def one_of(self, found: list[Switch], which: int) -> Switch:
        return found[-1 - which % len(found)]

    def changed(self, pair: tuple[Outcome, bool] | None, throttle: Switch) -> None:
        """Compare the outcome of an act on a throttle, and where its end is now."""
        if pair is None:
            return
        assert pair[0].changed == pair[1]
        self.steps["acts on throttles"] += pair[1]
        if not throttle.gone:
            assert pair[0].item["ends_at"] == rfc3339(throttle.ends)
        self.ends += [step.at for step in throttle.coming()]
        self.ends += [] if throttle.ends is None else [throttle.ends]

    @precondition(lambda self: self.throttles())
    @rule(which=which)
    def throttle_off(self, which: int) -> None:
        throttle = self.one_of(self.throttles(), which)
        self.ledger.admin.throttle_off(throttle.id, reason="test")
        throttle.gone = True

    @precondition(lambda self: self.throttles(live=True))
    @rule(
        which=which,
        parts=st.one_of(
            st.sampled_from(([25, 50, 100], [50, 100], [10, 70], [0, 60])),
            st.lists(percents, min_size=1, max_size=3, unique=True).map(sorted),
            st.lists(percents, min_size=1, max_size=3),
        ),
        every=everies,
    )
    def throttle_off_in_steps(self, which: int, parts: list[int], every: str) -> None:
        live = self.throttles(live=True)
        # Mostly one of those for which it makes sense.
        able = [s for s in live if s.kind != "total" and s.starts <= self.now]
        throttle = self.one_of(able if able and which % 4 else live, which)
        pair = self.both(
            lambda: self.ledger.admin.throttle_off(
                throttle.id, ramp=parts, every=every, reason="test"
            ),
            lambda: self.model.lift_in_steps(throttle, parts, LENGTHS[every] * 1000, self.now),
        )
        self.changed(pair, throttle)

    @rule(
        kind=st.sampled_from((("deny", None, None), ("cap", 2, "day"), ("scale", 20, None))),
        tiers=scopes_t,
        parts=st.sampled_from(([25, 50, 100], [50, 100], [0, 30, 70])),
        every=everies,
        seconds=st.sampled_from((0, 44, 45, 180, 2400)),
        amount=amounts,
    )
    def go_off_in_steps(
        self,
        kind: tuple[str, Any, Any],
        tiers: tuple[str, ...],
        parts: list[int],
        every: str,
        seconds: int,
        amount: int,
    ) -> None:
        """Put one on for what was last asked for, and begin to lift it."""
        resource = self.last[1]
        self.throttle_on(
            kind, (resource,), tiers, None, "3d", None, every, freezes=False,
            reaches_protected=False, replace=True, name=None, message=None, drill=False,
        )  # fmt: skip
        self.throttle_off_in_steps(0, parts, every)
        self.wait(seconds)
        self.consume(*self.last, amount, None)

    @precondition(lambda self: any(s.steps for s in self.throttles(live=True)))
    @rule(which=which, duration=st.one_of(st.just("same"), st.just("same"), ends))
    def throttle_hold(self, which: int, duration: str | None) -> None:
        ramped = [s for s in self.throttles(live=True) if s.steps]
        throttle = self.one_of(ramped, which)
        told = duration != "same"
        pair = self.both(
            lambda: self.ledger.admin.throttle_hold(
                throttle.id,
                duration=duration if told else None,
                no_expiry=duration is None,
                reason="test",
            ),
            lambda: self.model.hold_ramp(
                throttle, self.now, self.until(duration) if told else "same"
            ),
        )
        self.changed(pair, throttle)

    @precondition(lambda self: self.throttles(live=True))
    @rule(which=which, held=st.sampled_from((True, True, False)))
    def throttle_resume(self, which: int, held: bool) -> None:
        live = self.throttles(live=True)
        throttle = self.one_of([s for s in live if not held or s.held is not None] or live, which)
        pair = self.both(
            lambda: self.ledger.admin.throttle_resume(throttle.id, reason="test"),
            lambda: self.model.resume_ramp(throttle, self.now),
        )
        if pair is not None and pair[0].changed:
            # Where the end goes is said nowhere, but that every step comes and that an end
            # after the last of them stays.
            told = pair[0].item["ends_at"]
            end = None if told is None else milliseconds(datetime.fromisoformat(told))
            last = throttle.steps[-1]
            if last.lifting:
                assert end == last.at
            elif throttle.ends is None or throttle.ends > last.at:
                assert end == throttle.ends
            else:
                assert end is not None and end > last.at
            throttle.ends = end
        self.changed(pair, throttle)

    @precondition(lambda self: self.throttles())
    @rule(which=which, duration=ends)
    def throttle_extend(self, which: int, duration: str | None) -> None:
        throttle = self.one_of(self.throttles(live=True) or self.throttles(), which)
        before = throttle.ends

        def modelled() -> bool:
            lasts_ms = None if duration is None else LENGTHS[duration] * 1000
            self.model.extend(throttle, self.now, lasts_ms)
            return throttle.ends != before

        pair = self.both(
            lambda: self.ledger.admin.throttle_extend(
                throttle.id, duration=duration, no_expiry=duration is None, reason="test"
            ),
            modelled,
        )
        self.changed(pair, throttle)

    @rule(
        resource=resources,
        capacity=st.one_of(
            st.none(), st.tuples(st.sampled_from((*NAMES, "day", "day")), st.integers(0, 25))
        ),
    )
    def set_capacity(self, resource: str, capacity: tuple[Period, int] | None) -> None:
        """As a policy file does it."""
        period, most = capacity or (None, None)
        length = None if period is None else LENGTHS_MIN[list(NAMES).index(period)]
        with self.ledger.engine.writing() as book:
            facts = {"capacity_max": most, "capacity_period": length}
            book.update("resource", {"name": resource}, facts)
            book.touch_policy()
            book.prune_totals(totals_kept(book.reread_policy()), 0)
        self.model.capacities.pop(resource, None)
        if capacity is not None:
            self.model.capacities[resource] = capacity

    @rule(
        mode=st.sampled_from(("shadow", "shadow", "off")),
        resources=scopes_r,
        tiers=scopes_t,
        duration=soon,
    )
    def enforcement_set(
        self, mode: str, resources: tuple[str, ...], tiers: tuple[str, ...], duration: str | None
    ) -> None:
        made = self.ledger.admin.enforcement_set(
            mode,
            resources=resources,
            tiers=tiers,
            duration=duration,
            no_expiry=duration is None,
            reason="test",
        )
        wanted = Switch(
            id=0,
            kind=mode,
            resources=frozenset(resources) or None,
            tiers=frozenset(tiers) or None,
            starts=self.now,
            ends=self.until(duration),
        )
        switch = self.model.enforce(wanted, self.now)
        assert made.changed == (switch is not None)
        assert switch is None or made.item["id"] == switch.id

    @rule(resources=scopes_r, tiers=scopes_t)
    def enforcement_on(self, resources: tuple[str, ...], tiers: tuple[str, ...]) -> None:
        self.ledger.admin.enforcement_set("on", resources=resources, tiers=tiers, reason="test")
        self.model.enforce_again(frozenset(resources) or None, frozenset(tiers) or None)

    @rule()
    def enforcement_on_again(self) -> None:
        self.enforcement_on((), ())

    # ---- after each step, and at the end

    @invariant()
    def agree(self) -> None:
        if self.connections:
            self.steps["steps"] += 1
            self.look(*self.last, 1)

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None and self.connections:
                for user in USERS:
                    for resource in RESOURCES:
                        self.look(user, resource, 1)
                        self.look(user, resource, 3)
                verification = self.ledger.verify()
                assert verification.ok, verification.differences
                shadowed = sum(t.amount for t in self.model.takings if t.would_be is not None)
                assert self.counted() == (self.denied, shadowed)
        finally:
            for connection in self.connections:
                connection.close()
            self.folder.cleanup()

    def counted(self) -> tuple[int, int]:
        """Units denied, and those that were only not denied in shadow or by a drill."""
        with closing(sqlite3.connect(self.path)) as connection:
            denied, shadow_denied = connection.execute(
                "SELECT ifnull(sum(denied), 0), ifnull(sum(shadow_denied), 0) FROM counter "
                "WHERE period = 1440"
            ).fetchone()
        return denied, shadow_denied


def answer_of(found: Decision) -> Answer:
    """The decision in the model's terms."""
    at = found.reset_at
    return Answer(
        allowed=found.allowed,
        reason=found.reason,
        amount=found.amount,
        tier=found.tier,
        granted=found.granted,
        would_be=found.would_be,
        period=None if found.period is None else PERIODS[found.period],
        limit=found.limit,
        used=found.used,
        remaining=found.remaining,
        reset_at=None if at is None else round(at.timestamp() * 1000),
        retry_after_s=found.retry_after_s,
        rule=(found.rule.kind, found.rule.id),
        entry_id=found.entry_id,
        reservation_id=found.reservation_id,
        replayed=found.replayed,
        message=found.message,
    )


def milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def rfc3339(at: int | None) -> str | None:
    """As an outcome writes a moment."""
    if at is None:
        return None
    text = datetime.fromtimestamp(at // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{at % 1000:03}Z" if at % 1000 else f"{text}Z"


def limit_text(limits: dict[Period, int | None]) -> str:
    return ",".join(
        f"{'unlimited' if most is None else most}/{NAMES[period]}"
        for period, most in limits.items()
    )


def test_the_ledger_answers_as_the_model_does() -> None:
    rounds = int(os.environ.get("QUOTACTL_LONG", "0"))
    profile = settings(
        max_examples=400 * rounds or 60,
        stateful_step_count=60 if rounds else 40,
        derandomize=not rounds,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
    )
    Machine.steps.clear()
    run_state_machine_as_test(Machine, settings=profile)
    if rounds:
        sys.stdout.write(f"{dict(Machine.steps)}\n")


# ---- what the machine found, or meets too rarely; each with the least that shows it


@pytest.fixture
def clock() -> list[datetime]:
    return [datetime(2025, 12, 30, 12, tzinfo=UTC)]


@pytest.fixture
def ledger(tmp_path: Path, clock: list[datetime]) -> Iterator[quotactl.Ledger]:
    with quotactl.create(tmp_path / "l.db", zone="Europe/Rome", clock=lambda: clock[0]) as ledger:
        ledger.admin.create_resource("image")
        ledger.admin.create_tier("free")
        ledger.admin.set_limit(tier="free", resource="image", limit="3/week,9/month")
        yield ledger


def test_a_reset_gives_a_fresh_week_also_where_the_month_began_in_it(
    ledger: quotactl.Ledger, clock: list[datetime]
) -> None:
    assert ledger.consume(user="ada", resource="image", amount=3).allowed
    clock[0] = datetime(2026, 1, 1, 12, tzinfo=UTC)
    ledger.admin.reset_user("ada", reason="test")
    assert ledger.check(user="ada", resource="image", amount=3).allowed


def test_the_moment_to_retry_knows_the_whole_week_also_where_the_month_began_in_it(
    ledger: quotactl.Ledger, clock: list[datetime]
) -> None:
    assert ledger.consume(user="ada", resource="image", amount=3).allowed
    clock[0] = datetime(2026, 1, 1, 12, tzinfo=UTC)
    ledger.admin.set_override(
        user="ada", resource="image", limit="unlimited", duration="1h", reason="test"
    )
    ledger.admin.throttle_on(cap="0/day", duration="2h", reason="test")
    after_s = ledger.check(user="ada", resource="image").retry_after_s
    assert after_s is not None
    clock[0] += timedelta(seconds=after_s)
    assert ledger.check(user="ada", resource="image").allowed


def test_nothing_is_left_to_refund_of_a_hold_that_has_timed_out(
    ledger: quotactl.Ledger, clock: list[datetime]
) -> None:
    hold = ledger.reserve(user="ada", resource="image", ttl_s=1)
    clock[0] += timedelta(seconds=2)
    assert ledger.refund(entry_id=hold.entry_id).amount == 0


def test_a_hold_that_has_timed_out_is_expired_before_anything_has_looked(
    ledger: quotactl.Ledger, clock: list[datetime]
) -> None:
    hold = ledger.reserve(user="ada", resource="image", ttl_s=1)
    assert hold.reservation_id is not None
    clock[0] += timedelta(seconds=2)
    settlement = ledger.void(hold.reservation_id)
    assert (settlement.state, settlement.already) == ("expired", True)


def test_a_hold_ends_at_its_very_moment_not_before(
    ledger: quotactl.Ledger, clock: list[datetime]
) -> None:
    assert ledger.reserve(user="ada", resource="image", amount=3, ttl_s=1).allowed
    clock[0] += timedelta(milliseconds=999)
    assert ledger.check(user="ada", resource="image").remaining == 0
    clock[0] += timedelta(milliseconds=1)
    assert ledger.check(user="ada", resource="image").remaining == 3


def test_a_reset_gives_a_fresh_window_also_where_nothing_was_taken_in_it_today(
    ledger: quotactl.Ledger, clock: list[datetime]
) -> None:
    ledger.admin.set_limit(tier="free", resource="image", limit="9/day,2/3h")
    clock[0] = datetime(2025, 12, 30, 22, 30, tzinfo=UTC)  # before midnight in Rome
    assert ledger.consume(user="ada", resource="image", amount=2).allowed
    clock[0] = datetime(2025, 12, 30, 23, 30, tzinfo=UTC)
    assert ledger.check(user="ada", resource="image").period == "3h"
    reset = ledger.admin.reset_user("ada", reason="test")
    assert (reset.changed, reset.item["freed"]) == (True, {"image": 2})
    assert ledger.consume(user="ada", resource="image", amount=2).allowed
    assert ledger.verify().ok


def test_a_reset_gives_a_fresh_window_also_where_grants_paid_for_all_of_it(
    ledger: quotactl.Ledger, clock: list[datetime]
) -> None:
    ledger.admin.set_limit(tier="free", resource="image", limit="0/day,2/hour")
    ledger.admin.add_grant(user="ada", resource="image", amount=9, reason="test")
    assert ledger.consume(user="ada", resource="image", amount=2).granted == 2
    assert not ledger.check(user="ada", resource="image").allowed
    assert ledger.admin.reset_user("ada", reason="test").changed
    assert ledger.consume(user="ada", resource="image", amount=2).granted == 2
    assert ledger.verify().ok


def test_a_throttle_that_was_extended_still_holds_for_another_connection(
    ledger: quotactl.Ledger, clock: list[datetime], tmp_path: Path
) -> None:
    with quotactl.connect(tmp_path / "l.db", clock=lambda: clock[0]) as other:
        ledger.admin.throttle_on(deny=True, name="melt", duration="1h", reason="test")
        assert other.check(user="ada", resource="image").reason == "throttled"
        ledger.admin.throttle_extend("melt", duration="2h", reason="test")
        clock[0] += timedelta(hours=1, minutes=30)
        for connection in (ledger, other):
            assert connection.check(user="ada", resource="image").reason == "throttled"
