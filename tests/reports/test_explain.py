"""Explanations: the decision in one is the one that `check` gives, or gave at the time."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import quotactl
from quotactl.errors import InvalidInput, NotFound, QuotaError
from quotactl.ledger.values import Decision
from quotactl.policy.window import calendar_of, to_ms
from quotactl.reports.explain import Explanation, moment_asked

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

    def hold(self, amount: int = 1, *, ttl_s: float = 600) -> None:
        decision = self.q.reserve(user="ada", resource="image", amount=amount, ttl_s=ttl_s)
        assert decision.allowed, decision

    def grant(self, amount: int, **how: Any) -> int:
        made = self.admin.add_grant(
            user="ada", resource="image", amount=amount, reason="sorry", **how
        )
        grant_id: int = made.item["id"]
        return grant_id

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


def dump(folder: Path) -> str:
    """All that is in the ledger, to tell whether anything changed."""
    with closing(sqlite3.connect(folder / "ledger.db")) as connection:
        return "\n".join(connection.iterdump())


def mark_as_drill(world: World, throttle_id: int) -> None:
    """Turn a throttle into a drill behind the ledger's back: presets alone make one."""
    with world.q.engine.writing() as book:
        book.update("switch", {"id": throttle_id}, {"drill": 1})
        book.touch_policy()


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
    kinds: list[dict[str, Any]] = [
        {"cap": "1/day", "tiers": ["free"]},
        {"scale": 50, "floor": 1, "ramp": "25%,50%,100%", "every": "20m", "duration": "3h"},
        {"deny": True, "resources": ["image"], "name": "stop"},
        {"total": "4/day", "include_protected": True},
        {"cap": "2/hour", "freeze_grants": True, "at": w.now + timedelta(minutes=90)},
        {"total": "3/hour", "tiers": ["free", "plus"]},
    ]
    earlier = set(w.throttles)
    id_ = w.throttle(**{"duration": SPANS[b % 3], "replace": True, **kinds[a % 6]})
    if b > 3 and id_ not in earlier:
        mark_as_drill(w, id_)


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
    "limit": lambda w, _, a, b: w.admin.set_limit(
        tier=TIERS[b % 2], resource="image", limit=LIMITS[a % 5]
    ),
    "unlist": lambda w, _, a, b: w.admin.unset_limit(tier=TIERS[b % 3], resource="image"),
    "default": lambda w, _, a, b: w.admin.set_default_tier(TIERS[b % 3]),
    "new default": lambda w, _, a, b: w.admin.create_tier(f"t{a}{b}", default=True),
    "spare": lambda w, _, a, b: (w.admin.protect_tier if a else w.admin.unprotect_tier)(
        TIERS[b % 3]
    ),
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
    draw = random.Random(f"{theme} {number}")
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
    # And of times to come it says what will be, if nobody does anything.
    asked = [
        (user, at) for user in USERS for at in (world.now + timedelta(hours=h) for h in (1, 40))
    ]
    expected = [world.explain(user, at=at).decision for user, at in asked]
    for (user, at), decision in sorted(
        zip(asked, expected, strict=True), key=lambda one: one[0][1]
    ):
        world.now = at
        assert world.q.check(user=user, resource="image") == decision


def test_it_writes_nothing(world: World, tmp_path: Path) -> None:
    world.hold(ttl_s=60)
    world.later(hours=1)
    before = dump(tmp_path)
    world.explain("somebody new")
    world.explain(at=world.now - timedelta(minutes=59))
    assert dump(tmp_path) == before


@pytest.mark.parametrize("amount", [1, 2, 4])
def test_the_same_request_passes_at_the_moment_it_names_and_not_before(
    world: World, amount: int
) -> None:
    world.take(2)
    world.throttle(cap="1/day", resources=["image"], duration="2h")
    found = world.explain(amount=amount)
    assert found.decision is not None
    if amount == 4:
        assert found.passes_at is None
        return
    passes_at = found.passes_at
    assert passes_at is not None
    for late_ms, allowed in ((-1, False), (0, True)):
        then = world.explain(amount=amount, at=passes_at + timedelta(milliseconds=late_ms))
        assert then.decision is not None
        assert then.decision.allowed is allowed


def test_what_is_allowed_passes_at_once(world: World) -> None:
    assert world.explain().passes_at == world.now


# ---- the links


def whys(found: Explanation) -> dict[int, tuple[bool | None, str]]:
    return {link.id: (link.matched, link.why) for link in found.throttles}


def test_each_throttle_says_why_it_holds_or_not(world: World) -> None:
    world.admin.set_tier("bea", "pro")
    world.admin.protect("vip")
    on = world.throttle(cap="1/day", tiers=["free", "pro"], duration="2h", name="melt")
    plus = world.throttle(scale=50, tiers=["plus"], duration="2h")
    video = world.throttle(deny=True, resources=["video"], no_expiry=True)
    later = world.throttle(cap="2/hour", at=world.now + timedelta(hours=1), duration="1h")
    drill = world.throttle(total="1/day", include_protected=True, no_expiry=True)
    mark_as_drill(world, drill)
    lifted = world.throttle(cap="7/week")
    world.later(minutes=1)
    world.admin.throttle_off(lifted, reason="over")
    assert whys(world.explain()) == {
        on: (True, "in force until 2025-03-27 12:00:01 CET"),
        plus: (False, "not for tier free"),
        video: (False, "not for resource image"),
        later: (False, "starts 2025-03-27 11:00:01 CET"),
        drill: (True, "drill: only counted"),
        lifted: (False, "lifted 2025-03-27 10:01:01 CET"),
    }
    assert whys(world.explain("bea"))[on] == (False, "tier pro is protected")
    assert whys(world.explain("vip"))[on] == (False, "the user is protected")
    assert whys(world.explain(resource="video"))[video] == (True, "in force, with no end")
    world.later(hours=3)
    assert whys(world.explain())[on] == (False, "over since 2025-03-27 12:00:01 CET")
    # Of those that are over, the next day tells no more.
    world.later(days=1)
    assert {on, lifted}.isdisjoint(whys(world.explain()))


def test_a_throttle_tells_what_it_makes_of_each_limit_and_which_step_it_is_at(
    world: World,
) -> None:
    world.admin.set_tier("bob", "plus")
    scale = world.throttle(scale=50, ramp="10%,100%", every="30m", duration="2h", floor=1)
    total = world.throttle(total="40/day", duration="2h")
    world.later(minutes=31)
    links = {link.id: link for link in world.explain("bob").throttles}
    step = links[scale].step
    assert step is not None
    assert step.percent == 100
    effect = [(e.period, e.base, e.limit, e.shared) for e in links[scale].effect]
    assert effect == [("month", 12, 6, False), ("day", 9, 4, False), ("hour", 4, 2, False)]
    assert [(e.period, e.limit, e.shared) for e in links[total].effect] == [("day", 40, True)]
    then = world.explain("bob", at=world.now - timedelta(minutes=20))
    links = {link.id: link for link in then.throttles}
    assert [e.limit for e in links[scale].effect] == [1, 1, 1]


def test_the_rule_that_decided_is_marked_in_its_link(world: World) -> None:
    world.throttle(cap="2/day", duration="2h")
    lowest = world.throttle(cap="1/day", tiers=["free"], duration="2h")
    found = world.explain(amount=2)
    assert [link.id for link in found.throttles if link.decides] == [lowest]
    assert found.rule is not None
    assert found.rule.id == lowest
    world.admin.enforcement_set("off", duration="1h", reason="r")
    found = world.explain(amount=2)
    assert [link.decides for link in found.enforcement] == [True]
    assert not any(link.decides for link in found.throttles)


def test_limits_name_the_rule_they_come_from(world: World) -> None:
    world.admin.set_tier("ada", "plus")
    world.admin.set_override(user="ada", resource="image", limit="50/day", reason="beta")
    found = world.explain()
    assert [(link.period, link.limit, link.rule.kind) for link in found.limits] == [
        ("month", 12, "tier"),
        ("day", 50, "override"),
        ("hour", 4, "tier"),
    ]
    assert found.tier.limit == "12/month,9/day,4/hour"
    assert [(one.period, one.limit, one.reason) for one in found.overrides] == [("day", 50, "beta")]


def test_a_resource_that_is_not_listed_has_no_limits(world: World) -> None:
    found = world.explain(resource="video")
    assert (found.limits, found.tier.limit) == ((), None)
    assert found.decision is not None
    assert found.decision.reason == "not_in_tier"


@pytest.mark.parametrize(
    ("amount", "before", "said"),
    [
        (1, None, ["not needed", "not needed"]),
        (4, None, ["pays 1", "not needed"]),
        (6, None, ["pays 2", "pays 1"]),
        (9, None, ["too little for what is short", "too little for what is short"]),
        (9, "block", ["pays nothing for who is blocked", "pays nothing for who is blocked"]),
        (1, "freeze", ["frozen by throttle 1", "frozen by throttle 1"]),
        (4, "total", ["pays nothing that is over for everybody"] * 2),
        (4, "hour", ["buys quota, not speed"] * 2),
        (4, "later", ["expired 2025-03-27 11:00:01 CET", "pays 1"]),
    ],
)
def test_grants_say_what_they_do_for_the_request_in_burn_order(
    world: World, amount: int, before: str | None, said: list[str]
) -> None:
    world.grant(2, priority=1)
    world.grant(2, duration="1h")
    if before == "block":
        world.admin.block("ada", reason="r")
    elif before == "freeze":
        world.throttle(cap="2/day", freeze_grants=True, duration="2h")
    elif before == "total":
        world.throttle(total="2/day", duration="2h")
    elif before == "hour":
        world.throttle(cap="2/hour", duration="2h")
    elif before == "later":
        world.later(hours=1)
    found = world.explain(amount=amount)
    assert [link.why for link in found.grants] == said
    assert [link.id for link in found.grants] == [2, 1]
    assert found.decision is not None
    assert sum(link.pays or 0 for link in found.grants) == found.decision.granted


def test_windows_of_everybody_stand_beside_the_users_own(world: World) -> None:
    world.admin.apply_policy(
        POLICY.replace("[resource.image]", "[resource.image]\ncapacity='8/day'")
    )
    world.take(2)
    world.take(3, user="bob")
    world.later(seconds=1)
    before = world.now
    world.later(hours=1)
    world.take(1, user="eve")
    for at, used in ((None, 6), (before, 5)):
        found = world.explain(amount=1, at=at)
        assert [(w.used, w.limit, w.shared) for w in found.windows] == [
            (2, 3, False),
            (used, 8, True),
        ]
        assert found.capacity is not None
        assert (found.capacity.limit, found.capacity.matched) == (8, True)
    found = world.explain("zoe", amount=3)
    assert found.capacity is not None
    assert found.capacity.decides
    world.admin.protect("eve")
    found = world.explain("eve")
    assert found.capacity is not None
    assert (found.capacity.matched, found.capacity.why) == (False, "the user is protected")


# ---- what was


def test_a_hold_that_was_over_is_free_though_that_was_written_later(world: World) -> None:
    world.hold(3, ttl_s=60)
    world.later(seconds=59)
    held = world.now
    world.later(seconds=2)
    over = world.now
    world.later(hours=1)
    world.take()
    assert [world.explain(at=at).windows[0].used for at in (held, over, None)] == [3, 0, 1]


def test_what_was_given_back_later_was_used_then(world: World) -> None:
    grant = world.grant(2)
    entry = world.take(5)
    world.later(hours=1)
    then = world.now
    world.later(hours=1)
    world.q.refund(entry_id=entry, amount=4)
    found = world.explain(at=then)
    assert [(link.id, link.remaining) for link in found.grants] == [(grant, 0)]
    assert found.windows[0].used == 3
    found = world.explain()
    assert [(link.id, link.remaining) for link in found.grants] == [(grant, 2)]
    assert found.windows[0].used == 1


def test_a_throttle_that_was_extended_held_until_its_old_end_as_was_known_then(
    world: World,
) -> None:
    id_ = world.throttle(cap="1/day", duration="1h")
    world.later(minutes=30)
    then = world.now
    world.later(minutes=1)
    world.admin.throttle_extend(id_, duration="5h", reason="not over yet")
    assert whys(world.explain(at=then))[id_] == (True, "in force until 2025-03-27 11:00:01 CET")
    assert whys(world.explain())[id_] == (True, "in force until 2025-03-27 15:31:01 CET")


def test_a_ramp_is_told_as_it_was_before_it_was_lifted_in_steps(world: World) -> None:
    id_ = world.throttle(scale=100, ramp="10%,40%,100%", every="1h", duration="9h")
    world.later(minutes=61)
    then = world.now
    world.later(minutes=1)
    world.admin.throttle_off(id_, ramp="50%,100%", reason="calm")
    world.later(hours=3)
    (link,) = world.explain(at=then).throttles
    assert link.step is not None
    assert (link.step.percent, link.step.lifting) == (40, False)
    assert [e.limit for e in link.effect] == [1]
    # As it was known then, the last step would have come at noon in Rome.
    assert world.explain(at=then, amount=3).passes_at == START + timedelta(hours=2, seconds=1)


def test_nothing_is_told_of_before_there_was_a_ledger(world: World) -> None:
    with pytest.raises(InvalidInput, match="the ledger begins at 2025-03-27 10:00 CET"):
        world.explain(at="2025-03-27T08:00:00Z")


def test_a_resource_that_was_made_later_was_not_there(world: World) -> None:
    then = world.now
    world.later(hours=1)
    world.admin.create_resource("audio")
    assert world.explain(resource="audio").decision is not None
    with pytest.raises(NotFound, match="no resource 'audio'"):
        world.explain(resource="audio", at=then)


def test_one_who_came_later_was_a_new_user(world: World) -> None:
    then = world.now
    world.later(hours=1)
    world.admin.set_tier("zoe", "pro")
    found = world.explain("zoe", at=then)
    assert (found.new_user, found.tier.name) == (True, "free")
    found = world.explain("zoe")
    assert (found.new_user, found.tier.name) == (False, "pro")
    assert world.explain("nobody").new_user


def test_what_needs_entries_that_are_pruned_is_not_made_up(world: World) -> None:
    for key in ("entry_retention", "key_retention"):
        world.admin.set_setting(key, "2d")
    world.grant(4)
    world.take(2)
    world.later(hours=1)
    old = world.now
    world.later(days=45)
    world.take()
    recent = world.now
    world.later(days=2)
    world.take()
    world.q.close_days()
    found = world.explain(at=old)
    assert (found.pruned, found.decision, found.rule, found.passes_at) == (True, None, None, None)
    assert [window.used for window in found.windows] == [None]
    assert [(link.remaining, link.why) for link in found.grants] == [
        (None, "what was left is pruned")
    ]
    assert (found.kept_by, found.tier.name) == ("entry_retention 2d", "free")
    found = world.explain(at=recent)
    assert not found.pruned
    assert [(link.id, link.remaining) for link in found.grants] == [(1, 4)]
    assert found.windows[0].used == 1


def test_a_month_that_began_before_what_is_kept_is_pruned_and_a_day_is_not(world: World) -> None:
    for key in ("entry_retention", "key_retention"):
        world.admin.set_setting(key, "2d")
    world.admin.set_tier("bob", "plus")
    world.take(1, user="bob")
    world.later(days=4)
    world.take(1, user="bob")
    world.take(1)
    then = world.now + timedelta(hours=1)
    world.later(days=3)
    world.q.close_days()
    kept = world.q.explain(user="ada", resource="image", at=then)
    assert not kept.pruned
    assert kept.windows[0].used == 1
    # The checkpoint lies within March: a month's limit would need all of it.
    found = world.q.explain(user="bob", resource="image", at=then)
    assert [(w.period, w.used is None) for w in found.windows] == [
        ("month", True),
        ("day", False),
        ("hour", False),
    ]
    assert (found.pruned, found.decision) == (True, None)


# ---- what the audit does not hold


def imported(world: World) -> datetime:
    """Ada is on a tier by import, and another import follows; a moment between."""
    world.take()
    world.later(hours=1)
    world.admin.import_users([("ada", "plus")], digest="1" * 64)
    world.later(hours=1)
    between = world.now
    world.later(hours=1)
    world.admin.import_users([("ada", "pro")], digest="2" * 64)
    world.later(hours=1)
    return between


def test_a_tier_that_only_imports_tell_of_is_not_known(world: World) -> None:
    between = imported(world)
    world.throttle(cap="1/day", include_protected=True)
    found = world.explain(at=between)
    assert found.unknown == ("the tier of ada: the audit does not name whom it moved",)
    assert (found.decision, found.tier.name, found.limits) == (None, None, ())
    assert [(w.period, w.used, w.rule) for w in found.windows] == [("day", 1, None)]
    assert found.source == "history"
    assert world.explain().tier.name == "pro"
    # Before the first import they followed the default tier, as they always had.
    first = world.explain(at=between - timedelta(hours=1, minutes=30))
    assert (first.tier.name, first.tier.follows_default) == ("free", True)


def test_what_was_taken_between_two_imports_tells_the_tier(world: World) -> None:
    world.take()
    world.later(hours=1)
    world.admin.import_users([("ada", "plus")], digest="1" * 64)
    world.later(hours=1)
    world.take()
    world.later(hours=1)
    world.check("ada", "image", 1)
    world.later(hours=1)
    world.admin.import_users([("ada", "pro")], digest="2" * 64)
    world.later(hours=1)
    (found,) = world.recall()
    assert found.decision is not None
    assert (found.tier.name, found.tier.follows_default) == ("plus", None)


def test_throttles_that_depend_on_a_tier_that_is_not_known_say_so(world: World) -> None:
    free = world.throttle(cap="1/day", tiers=["free"], no_expiry=True)
    everybody = world.throttle(cap="1/hour", include_protected=True, no_expiry=True)
    between = imported(world)
    assert whys(world.explain(at=between)) == {
        free: (None, "depends on the tier, which is not known"),
        everybody: (True, "in force, with no end"),
    }


# ---- the rest


NOON = datetime(2025, 3, 27, 11, 0, tzinfo=UTC)  # in Rome


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("11:59", "2025-03-27T10:59:00Z"),
        ("12:00", "2025-03-27T11:00:00Z"),
        ("12:01", "2025-03-26T11:01:00Z"),
        ("today 18:00", "2025-03-27T17:00:00Z"),
        ("yesterday 9:30", "2025-03-26T08:30:00Z"),
        ("tomorrow 09:00", "2025-03-28T08:00:00Z"),
        ("2025-03-01 09:00", "2025-03-01T08:00:00Z"),
        ("2025-03-01T09:00:00+02:00", "2025-03-01T07:00:00Z"),
    ],
)
def test_a_bare_time_is_the_last_one_that_there_was(text: str, moment: str) -> None:
    found = moment_asked(text, to_ms(NOON), calendar_of("Europe/Rome"))
    assert found == to_ms(datetime.fromisoformat(moment))


@pytest.mark.parametrize(
    "at",
    ["18", "yesterday", "25:00", "2025-02-30 10:00", 5, datetime(2025, 3, 27, 12)],  # noqa: DTZ001
)
def test_what_is_no_moment_is_refused(world: World, at: Any) -> None:
    with pytest.raises(InvalidInput):
        world.explain(at=at)


def test_its_dictionary_is_json(world: World) -> None:
    import json

    world.grant(2)
    world.throttle(total="4/day", ramp="50%,100%")
    found = world.explain(at=world.now - timedelta(milliseconds=1))
    again = json.loads(json.dumps(world.explain().to_dict()))
    assert again["decision"] == world.q.check(user="ada", resource="image").to_dict()
    assert again["throttles"][0]["step"]["percent"] == 50
    assert list(again) == list(found.to_dict())


def test_now_costs_a_few_rows_found_by_index_however_much_there_is(world: World) -> None:
    world.admin.set_tier("ada", "plus")
    world.admin.set_override(user="ada", resource="image", limit="50/day", reason="r")
    world.admin.block("ada", resource="video", reason="r")
    world.grant(3)
    world.throttle(cap="1/day", tiers=["free"])
    world.hold()
    statements: list[str] = []
    world.explain()  # reads the policy
    connection = world.q.engine._connection  # type: ignore[attr-defined]
    connection.set_trace_callback(statements.append)
    world.explain()
    few = len(statements)
    for number in range(40):
        world.take(1, user=f"u{number}")
        world.admin.set_override(user=f"u{number}", resource="image", limit="5/day", reason="r")
    statements.clear()
    world.explain()
    connection.set_trace_callback(None)
    assert len(statements) == few
    for statement in statements:
        if statement.startswith("SELECT"):
            plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
            scans = [row[3] for row in plan if row[3].startswith("SCAN")]
            # The newest switches come by their key, and of the ledger there is one row.
            assert all("LIMIT" in statement or "FROM ledger" in statement for _ in scans), statement
