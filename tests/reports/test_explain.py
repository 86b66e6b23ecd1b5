"""Explanations: the decision in one is the one that `check` gives, or gave at the time."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import quotactl
from quotactl.api import Ledger
from quotactl.errors import InvalidInput, NotFound, QuotaError
from quotactl.ledger.values import Decision
from quotactl.reports.explain import Explanation, moment_asked
from quotactl.policy.window import calendar_of, to_ms

# A Thursday, two days before Rome's clocks go forward.
START = datetime(2025, 3, 27, 9, 0, tzinfo=UTC)
USERS = ("ada", "bob", "eve")


class World:
    """A ledger with a clock that is set by hand; it remembers what was checked when."""

    def __init__(self, folder: Path) -> None:
        self.now = START
        self.q = quotactl.create(
            folder / "ledger.db", zone="Europe/Rome", clock=lambda: self.now, actor="ops",
            notify=False,
        )  # fmt: skip
        self.admin = self.q.admin
        self.checked: list[tuple[datetime, str, str, int, Decision]] = []
        self.entries: list[int] = []
        self.holds: list[int] = []
        self.grants: list[int] = []
        self.throttles: list[int] = []
        self.admin.apply_policy(POLICY)
        self.later(seconds=1)

    def later(self, **span: float) -> None:
        self.now += timedelta(**span)

    def explain(
        self, user: str = "ada", resource: str = "image", amount: int = 1, at: Any = None
    ) -> Explanation:
        return self.q.explain(user=user, resource=resource, amount=amount, at=at)

    def throttle(self, **how: Any) -> int:
        how.setdefault("reason", "melting")
        throttle_id: int = self.admin.throttle_on(**how).item["id"]
        self.throttles.append(throttle_id)
        return throttle_id

    def take(self, amount: int = 1, user: str = "ada") -> int:
        decision = self.q.consume(user=user, resource="image", amount=amount)
        assert decision.entry_id is not None, decision
        return decision.entry_id

    def check(self, user: str, resource: str, amount: int) -> None:
        """Check, compare with an explanation of now, and remember."""
        with suppress(NotFound):  # the resource may be gone
            decision = self.q.check(user=user, resource=resource, amount=amount)
            assert self.explain(user, resource, amount).decision == decision
            self.checked.append((self.now, user, resource, amount, decision))

    def recall(self) -> list[Explanation]:
        """Explain all that was checked, and compare with what was answered then."""
        found = []
        for at, user, resource, amount, decision in self.checked:
            explanation = self.explain(user, resource, amount, at)
            if explanation.decision is None:
                assert explanation.pruned or explanation.unknown
            else:
                assert explanation.decision == decision, (at, explanation)
            found.append(explanation)
        return found


POLICY = """\
zone = "Europe/Rome"
default_tier = "free"
[resource.image]
[resource.video]
[tier.free.limits]
image = "3/day"
[tier.plus.limits]
image = "9/day,4/hour,12/month"
video = "2/week"
[tier.pro]
protected = true
[tier.pro.limits]
image = "unlimited"
"""
OTHER_POLICY = """\
default_tier = "plus"
[resource.image]
capacity = "6/day"
[resource.video]
[tier.free.limits]
image = "2/day"
video = "1/day"
[tier.plus]
protected = true
[tier.plus.limits]
image = "6/day"
[tier.pro.limits]
image = "20/week"
[tier."x.y".limits]
image = "5/day"
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    with world.q:
        yield world


# ---- the law

Act = Callable[[World, str, int, int], object]
LIMITS = ("3/day", "0/day", "unlimited", "5/week,2/hour", "4/day,6/month")
SPANS = ("20m", "2h", "26h", "3d")
TIERS = ("free", "plus", "pro")


def consume(w: World, user: str, a: int, b: int) -> None:
    decision = w.q.consume(user=user, resource="video" if b == 3 else "image", amount=1 + a)
    if decision.entry_id is not None:
        w.entries.append(decision.entry_id)


def reserve(w: World, user: str, a: int, b: int) -> None:
    ttl_s = (0.4, 600, 7200, 200_000)[b % 4]
    decision = w.q.reserve(user=user, resource="image", amount=1 + a, ttl_s=ttl_s)
    if decision.reservation_id is not None:
        w.holds.append(decision.reservation_id)


def add_grant(w: World, user: str, a: int, b: int) -> None:
    span = None if b > 2 else SPANS[b]
    made = w.admin.add_grant(
        user=user, resource="image", amount=1 + a, duration=span, priority=b % 2, reason="r"
    )
    w.grants.append(made.item["id"])


def throttle(w: World, user: str, a: int, b: int) -> None:
    how: dict[str, Any] = [
        {"cap": "1/day", "tiers": ["free"]},
        {"scale": 50, "floor": 1, "ramp": "25%,50%,100%", "every": "20m", "duration": "3h"},
        {"deny": True, "resources": ["image"], "name": "stop"},
        {"total": "4/day", "include_protected": True},
        {"cap": "2/hour", "freeze_grants": True, "at": w.now + timedelta(minutes=90)},
        {"total": "3/hour", "tiers": ["free", "plus"]},
    ][a % 6]
    w.throttle(**{"duration": SPANS[b % 3], "replace": True, **how})


ACTS: dict[str, Act] = {
    "consume": consume,
    "consume again": consume,
    "consume once more": consume,
    "reserve": reserve,
    "post": lambda w, _, a, b: w.q.post(w.holds[-1 - b % len(w.holds)], amount=1 if a else None),
    "void": lambda w, _, a, b: w.q.void(w.holds[-1 - b % len(w.holds)]),
    "refund": lambda w, _, a, b: w.q.refund(
        entry_id=w.entries[-1 - b % len(w.entries)], amount=1 if a else None
    ),
    "grant": add_grant,
    "revoke": lambda w, _, a, b: w.admin.revoke_grant(w.grants[-1 - b % len(w.grants)]),
    "reset": lambda w, user, a, b: w.admin.reset_user(user, reason="r"),
    "override": lambda w, user, a, b: w.admin.set_override(
        user=user, resource=("image", "video")[b == 3], limit=LIMITS[a % 5], reason="r",
        duration=SPANS[b % 3] if b else None,
    ),
    "clear": lambda w, user, a, b: w.admin.clear_override(user=user),
    "block": lambda w, user, a, b: w.admin.block(
        user, resource="image" if a else None, duration=SPANS[b % 2], reason="r"
    ),
    "unblock": lambda w, user, a, b: w.admin.unblock(user),
    "set tier": lambda w, user, a, b: w.admin.set_tier(user, (*TIERS, None)[b % 4]),
    "protect": lambda w, user, a, b: (w.admin.protect if a else w.admin.unprotect)(user),
    "limit": lambda w, _, a, b: w.admin.set_limit(tier=TIERS[b % 2], resource="image", limit=LIMITS[a % 5]),
    "unlist": lambda w, _, a, b: w.admin.unset_limit(tier=TIERS[b % 3], resource="image"),
    "default": lambda w, _, a, b: w.admin.set_default_tier(TIERS[b % 3]),
    "new default": lambda w, _, a, b: w.admin.create_tier(f"t{a}{b}", default=True),
    "spare": lambda w, _, a, b: (w.admin.protect_tier if a else w.admin.unprotect_tier)(TIERS[b % 3]),
    "delete tier": lambda w, _, a, b: w.admin.delete_tier(TIERS[b % 3], move_to=TIERS[a % 3]),
    "create tier": lambda w, _, a, b: w.admin.create_tier(TIERS[b % 3], protected=bool(a)),
    "delete resource": lambda w, _, a, b: w.admin.delete_resource("video"),
    "create resource": lambda w, _, a, b: w.admin.create_resource("video"),
    "import": lambda w, user, a, b: w.admin.import_users(
        [(user, TIERS[b % 3]), (USERS[a % 3], TIERS[b % 3])], digest="0" * 64
    ),
    "apply": lambda w, _, a, b: w.admin.apply_policy(OTHER_POLICY if a % 2 else POLICY),
    "throttle": throttle,
    "another throttle": throttle,
    "lift": lambda w, _, a, b: w.admin.throttle_off(
        w.throttles[-1 - b % len(w.throttles)], reason="r", ramp="50%,100%" if a > 2 else None
    ),
    "extend": lambda w, _, a, b: w.admin.throttle_extend(
        w.throttles[-1 - b % len(w.throttles)], duration=SPANS[a % 4], reason="r"
    ),
    "hold": lambda w, _, a, b: w.admin.throttle_hold(
        w.throttles[-1 - b % len(w.throttles)], duration=SPANS[a % 4], reason="r"
    ),
    "resume": lambda w, _, a, b: w.admin.throttle_resume(
        w.throttles[-1 - b % len(w.throttles)], reason="r"
    ),
    "enforcement": lambda w, _, a, b: w.admin.enforcement_set(
        ("on", "shadow", "off")[b % 3], tiers=["free"] if a % 2 else (), duration="2h", reason="r"
    ),
    "close": lambda w, _, a, b: w.q.close_days(),
}  # fmt: skip

# What meets often, so that much of it meets in one example.
THEMES: dict[str, tuple[str, ...]] = {
    "taking": (
        "consume", "reserve", "post", "void", "refund", "grant", "revoke", "reset", "override",
        "clear", "block", "close",
    ),
    "switches": (
        "consume", "throttle", "another throttle", "lift", "extend", "hold", "resume",
        "enforcement", "protect", "spare", "grant", "close",
    ),
    "policy": (
        "consume", "set tier", "limit", "unlist", "default", "new default", "spare", "delete tier",
        "create tier", "delete resource", "create resource", "import", "apply",
    ),
    "all": tuple(sorted(ACTS)),
}  # fmt: skip
LONG = int(os.environ.get("QUOTACTL_LONG", "0"))
EXAMPLES = 200 * LONG or 12
LATER_S = (0.001, 0.001, 0.5, 60, 60, 600, 1300, 3600, 4 * 3600, 30 * 3600)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("number", range(EXAMPLES))
def test_an_explanation_of_the_past_decides_as_was_decided_then(
    theme: str, number: int, world: World
) -> None:
    # Not hypothesis: it draws few long lists, and what breaks history takes many acts.
    draw = random.Random(f"{theme} {number}")  # noqa: S311
    acts = [
        (
            draw.choice(("consume", *THEMES[theme])),
            draw.choice(("ada", "ada", *USERS)),
            draw.randrange(6),
            draw.randrange(6),
            draw.choice(LATER_S),
        )
        for _ in range(40)
    ]
    for name, user, a, b, later_s in acts:
        with suppress(QuotaError, ZeroDivisionError):
            ACTS[name](world, user, a, b)
        world.check(user, "image", 1 + b)
        world.check(USERS[a % 3], "video" if b == 3 else "image", 1)
        world.later(seconds=later_s)
    # Imports name nobody in the audit, nor does what moves the users of a tier.
    named = not {"import", "delete tier"}.intersection(name for name, *_ in acts)
    for explanation in world.recall():
        assert explanation.decision is not None or not named
