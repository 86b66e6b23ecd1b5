"""Preview against a naive count: every user, every day, one by one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import quotactl
from quotactl import Conflict
from quotactl.operations.emergency import Timing
from quotactl.policy.levers import lever
from quotactl.reports.capacity import Fit, find_caps
from quotactl.reports.preview import Outlook, preview

NOW = datetime(2025, 3, 27, 12, 0, tzinfo=UTC)
LIMITS = {"free": 5, "plus": 12, "pro": None}
NAMES = [f"u{n}" for n in range(12)]


class World:
    """Users on three tiers, pro protected, some protected one by one, some with an override."""

    def __init__(self, path: Path, *, zone: str = "UTC") -> None:
        self.now = NOW
        self.q = quotactl.create(path, zone=zone, clock=lambda: self.now, actor="tester")
        self.admin = self.q.admin
        self.admin.create_resource("image")
        for tier, limit in LIMITS.items():
            self.admin.create_tier(tier, protected=tier == "pro")
            text = "unlimited" if limit is None else f"{limit}/day"
            self.admin.set_limit(tier=tier, resource="image", limit=text)
        self.limit: dict[str, int | None] = {}
        self.tier: dict[str, str] = {}
        self.spared: set[str] = set()
        # (user, day) → [used, granted, denied], as the answers said.
        self.book: dict[tuple[str, int], list[int]] = {}

    def user(self, name: str, tier: str, *, protected: bool, override: int | None) -> None:
        if tier != "free":
            self.admin.set_tier(name, tier)
        if protected:
            self.admin.protect(name)
        if override is not None:
            self.admin.set_override(
                user=name, resource="image", limit=f"{override}/day", reason="x"
            )
        self.tier[name] = tier
        self.limit[name] = LIMITS[tier] if override is None else override
        if protected or tier == "pro":
            self.spared.add(name)

    def ask(self, name: str, amount: int, days_ago: int) -> None:
        self.now = NOW - timedelta(days=days_ago)
        decision = self.q.consume(user=name, resource="image", amount=amount)
        sums = self.book.setdefault((name, days_ago), [0, 0, 0])
        if decision.allowed:
            sums[0] += amount - decision.granted
            sums[1] += decision.granted
        else:
            sums[2] += amount
        self.now = NOW

    def look(self, *, days: int | None = None, **flags: Any) -> Outlook:
        return preview(self.q.engine, self.q.now_ms(), [lever(**flags)], days=days)


def naive(world: World, cap: int, tiers: set[str], days: int) -> dict[str, list[int]]:
    """users, cut off, asked, served by tier: counted one by one."""
    found: dict[str, list[int]] = {}
    for tier in tiers:
        sums = [0, 0, 0, 0]
        for name in [n for n, of in world.tier.items() if of == tier]:
            mine = {d: world.book[name, d] for d in range(days) if (name, d) in world.book}
            if not any(sum(parts) for parts in mine.values()):
                continue
            limit = world.limit[name]
            under = limit
            if name not in world.spared:
                under = cap if limit is None else min(limit, cap)
            sums[0] += 1
            lowered = under != limit
            sums[1] += lowered and any(parts[0] >= (under or 0) for parts in mine.values())
            sums[2] += sum(sum(parts) for parts in mine.values())
            sums[3] += sum(
                sum(parts) if under is None else min(sum(parts), under) for parts in mine.values()
            )
        found[tier] = sums
    return found


USERS = st.lists(
    st.tuples(
        st.sampled_from(["free", "plus", "pro"]),
        st.booleans(),
        st.one_of(st.none(), st.none(), st.integers(0, 15)),
    ),
    min_size=1,
    max_size=len(NAMES),
)
ASKS = st.lists(
    st.tuples(st.integers(0, len(NAMES) - 1), st.integers(1, 7), st.integers(0, 2)), max_size=40
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(users=USERS, asks=ASKS, cap=st.integers(0, 13), some=st.booleans(), days=st.integers(1, 3))
def test_preview_is_the_naive_count(
    tmp_path_factory: pytest.TempPathFactory,
    users: list[tuple[str, bool, int | None]],
    asks: list[tuple[int, int, int]],
    cap: int,
    some: bool,
    days: int,
) -> None:
    world = World(tmp_path_factory.mktemp("preview") / "l.db")
    with world.q:
        for name, (tier, protected, override) in zip(NAMES, users, strict=False):
            world.user(name, tier, protected=protected, override=override)
        for number, amount, days_ago in sorted(asks, key=lambda ask: -ask[2]):
            if number < len(users):
                world.ask(NAMES[number], amount, days_ago)
        tiers = {"free", "pro"} if some else set(LIMITS)
        flags: dict[str, Any] = {"tiers": sorted(tiers)} if some else {}
        outlook = world.look(days=days, cap=f"{cap}/day", resources=["image"], **flags)
        expected = naive(world, cap, tiers, days)
        found = {row.tier: [row.users, row.cut_off, row.asked, row.served] for row in outlook.tiers}
        assert found == expected
        assert all(row.refused == row.asked - row.served for row in outlook.tiers)
        total = outlook.total
        assert [total.users, total.cut_off, total.asked, total.served] == [
            sum(column) for column in zip(*expected.values(), strict=True)
        ]
        # A ceiling of another period that binds nobody makes it go user by user: the same.
        world.admin.set_limits(tier="free", limits={"image": "5/day,1000/month"})
        slow = world.look(days=days, cap=f"{cap}/day", resources=["image"], **flags)
        assert [(r.users, r.cut_off, r.asked, r.served) for r in slow.tiers] == [
            (r.users, r.cut_off, r.asked, r.served) for r in outlook.tiers
        ]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(users=USERS, asks=ASKS, capacity=st.integers(0, 60), least=st.integers(0, 2))
def test_a_solved_cap_fits_by_preview_and_one_more_does_not(
    tmp_path_factory: pytest.TempPathFactory,
    users: list[tuple[str, bool, int | None]],
    asks: list[tuple[int, int, int]],
    capacity: int,
    least: int,
) -> None:
    world = World(tmp_path_factory.mktemp("solve") / "l.db")
    with world.q:
        for name, (tier, protected, override) in zip(NAMES, users, strict=False):
            world.user(name, tier, protected=protected, override=override)
        for number, amount, _ in asks:
            if number < len(users):
                world.ask(NAMES[number], amount, 0)
        fit, levers = find_caps(
            world.q.engine,
            world.q.now_ms(),
            capacity=f"{capacity}/day",
            resource="image",
            least=[f"free={least}/day"],
        )
        if not fit.fits:
            assert fit.short_by == fit.served - capacity > 0
            return

        def served(*caps: Any) -> int:
            everybody = lever(scale=100, resources=["image"])
            return preview(world.q.engine, world.q.now_ms(), [*caps, everybody]).total.served

        assert served(*levers) == fit.served <= capacity
        assert (fit.command is None) == (not levers)
        if levers and all(fit.caps[t] == fit.caps["plus"] for t in levers[0].tiers):
            more = lever(
                cap=f"{(fit.caps['plus'] or 0) + 1}/day",
                resources=["image"],
                tiers=["free", "plus"],
            )
            if fit.caps["plus"] is not None and fit.caps["pro"] is None:
                assert served(more) > capacity


def solved(world: World, capacity: str, **how: Any) -> Fit:
    fit, _ = find_caps(world.q.engine, world.q.now_ms(), capacity=capacity, resource="image", **how)
    return fit


def test_users_with_more_than_their_tiers_limit_are_capped_too(tmp_path: Path) -> None:
    world = World(tmp_path / "l.db")
    with world.q:
        world.admin.set_override(user="vip", resource="image", limit="unlimited", reason="x")
        for name, amount in (("vip", 17), ("a", 4), ("b", 4)):
            world.ask(name, amount, 0)
        fit = solved(world, "20/day")
        assert (fit.served, fit.caps["free"]) == (20, 12)
        assert "--cap 12/day" in (fit.command or "")
        for cap, served in ((12, 20), (13, 21)):
            outlook = world.look(cap=f"{cap}/day", resources=["image"], tiers=["free", "plus"])
            assert outlook.total.served == served
        # None is needed where all are served.
        whole = solved(world, "25/day")
        assert (whole.served, whole.caps, whole.command) == (
            25, {"free": None, "plus": None, "pro": None}, None,
        )  # fmt: skip


def test_users_protected_one_by_one_in_a_protected_tier_are_capped_with_it(tmp_path: Path) -> None:
    world = World(tmp_path / "l.db")
    with world.q:
        for name in ("u0", "u1"):
            world.user(name, "pro", protected=name == "u0", override=None)
            world.ask(name, 10, 0)
        fit, levers = find_caps(
            world.q.engine, world.q.now_ms(), capacity="11/day", resource="image"
        )
        assert (fit.fits, fit.served, fit.caps["pro"]) == (True, 10, 5)
        under = preview(world.q.engine, world.q.now_ms(), levers)
        assert under.total.served == 10


def test_what_a_solved_cap_replaces_is_not_taken_for_given(tmp_path: Path) -> None:
    world = World(tmp_path / "l.db")
    with world.q:
        world.admin.set_limits(tier="free", limits={"image": "9/day"})
        for name in ("u0", "u1", "u2"):
            world.ask(name, 8, 0)
        world.admin.throttle_on(cap="1/day", resources=["image"], tiers=["free"], reason="x")
        assert solved(world, "12/day").served == 3
        fit, levers = find_caps(
            world.q.engine, world.q.now_ms(), capacity="12/day", resource="image", replace=True
        )
        # For other tiers too, so the one that is on is not what it would be in place of.
        assert (fit.served, fit.caps["free"], levers) == (3, None, [])
        world.admin.throttle_on(
            cap="1/day", resources=["image"], tiers=["free", "plus"], reason="x"
        )
        world.admin.throttle_off(1, reason="x")
        fit, levers = find_caps(
            world.q.engine, world.q.now_ms(), capacity="12/day", resource="image", replace=True
        )
        assert (fit.served, fit.caps["free"]) == (12, 4)
        world.admin.pull(levers, Timing(), replace=True, reason="x")
        assert world.q.check(user="u9", resource="image").limit == 4


def test_a_cap_a_week_is_under_what_each_day_allows(tmp_path: Path) -> None:
    world = World(tmp_path / "l.db")
    with world.q:
        for name in ("u0", "u1"):
            # Two days of NOW's week: 5 and 2 of them pass.
            world.ask(name, 9, 1)
            world.ask(name, 2, 0)
        assert solved(world, "13/week").caps["free"] == 6
        assert solved(world, "14/week").caps["free"] is None
        assert solved(world, "14/week").served == 14
        both = world.look(days=2, cap="6/week", resources=["image"], tiers=["free"])
        assert both.total.served == 12
        # The same, user by user.
        world.admin.set_limits(tier="free", limits={"image": "5/day,1000/month"})
        assert solved(world, "13/week").caps["free"] == 6
        assert solved(world, "14/week").served == 14
        # What a month has left counts on its days.
        world.admin.set_limits(tier="free", limits={"image": "5/day,6/month"})
        world.book.clear()
        today = solved(world, "100/day")
        assert (today.served, today.asked) == (
            world.look(resources=["image"], scale=100).total.served,
            4,
        )


def test_hours_in_force_refuse_before_a_solved_cap_does(tmp_path: Path) -> None:
    world = World(tmp_path / "l.db")
    with world.q:
        world.admin.set_limits(tier="free", limits={"image": "5/day,1/hour"})
        for name in ("u0", "u1"):
            for _ in range(5):
                world.ask(name, 1, 0)
        for capacity in ("4/day", "4/week", "4/hour", "2/hour"):
            fit = solved(world, capacity)
            assert (capacity, fit.served, fit.caps["free"]) == (capacity, 2, None)
            assert (fit.asked, fit.warnings) == (10, ())
        assert solved(world, "1/day").caps["free"] == 0


def test_solve_says_what_it_does_not_know_of_hours(tmp_path: Path) -> None:
    world = World(tmp_path / "l.db")
    with world.q:
        for name in ("u0", "u1"):
            for _ in range(7):
                world.ask(name, 1, 0)
        # Of 14, 10 were taken: in an hour that nobody counted.
        fit = solved(world, "7/hour")
        assert (fit.asked, fit.served, fit.caps["free"]) == (14, 6, 3)
        assert "what was refused in one is not known" in fit.warnings[0]


def test_pruned_hours_are_not_taken_for_hours_without_demand(tmp_path: Path) -> None:
    world = World(tmp_path / "l.db")
    with world.q:
        for name in ("u0", "u1"):
            world.ask(name, 4, 0)
        past = NOW.date().isoformat()
        world.now = NOW + timedelta(days=80)
        world.q.close_days()
        with pytest.raises(Conflict, match="per hour on these days is not known"):
            solved(world, "3/hour", day=past)
        assert solved(world, "6/day", day=past).caps["free"] == 3
        hour = [lever(cap="1/hour", resources=["image"])]
        outlook = preview(world.q.engine, world.q.now_ms(), hour, day=past)
        assert outlook.total.asked == 8
        assert any("in windows of one hour is pruned" in w for w in outlook.warnings)


def test_a_total_is_met_to_the_unit_and_protected_units_count(tmp_path: Path) -> None:
    world = World(tmp_path / "l.db")
    with world.q:
        world.user("u0", "free", protected=False, override=None)
        world.user("u1", "plus", protected=False, override=None)
        world.user("u2", "pro", protected=False, override=None)
        for name, amount in (("u0", 4), ("u1", 8), ("u2", 6)):
            world.ask(name, amount, 0)
        day = {r.tier: r for r in world.look(total="12/day", resources=["image"]).tiers}
        assert [day[t].served for t in LIMITS] == [2, 4, 6]
        assert [day[t].cut_off for t in LIMITS] == [1, 1, 0]
        hour = {r.tier: r for r in world.look(total="12/hour", resources=["image"]).tiers}
        assert [hour[t].served for t in LIMITS] == [2, 4, 6]
        roomy = world.look(total="18/day", resources=["image"])
        assert (roomy.total.served, roomy.total.refused) == (18, 0)
        week = world.look(total="12/week", resources=["image"], tiers=["free"])
        assert [(r.tier, r.served) for r in week.tiers] == [("free", 4)]


def test_what_a_throttle_is_in_place_of_is_said(tmp_path: Path) -> None:
    world = World(tmp_path / "l.db")
    with world.q:
        world.user("u0", "free", protected=False, override=None)
        world.ask("u0", 4, 0)
        world.admin.throttle_on(cap="3/day", resources=["image"], reason="x")
        other = world.look(cap="2/day", resources=["image"])
        assert "needs --replace" in other.warnings[0]
        going = [lever(cap="2/day", resources=["image"])]
        told = preview(world.q.engine, world.q.now_ms(), going, replace=True).warnings[0]
        assert told == "It would be in place of throttle 1."
        free = next(row for row in other.tiers if row.tier == "free")
        assert (free.limit, free.limit_under, free.served) == ("3/day", "2/day", 2)
        same = world.look(cap="3/day", resources=["image"])
        assert "already on" in same.warnings[0]


def test_warnings_say_what_on_call_would_trip_over(tmp_path: Path) -> None:
    world = World(tmp_path / "l.db")
    with world.q:
        world.user("u0", "free", protected=True, override=None)
        world.ask("u0", 1, 0)

        def told(**flags: Any) -> str:
            return "\n".join(world.look(resources=["image"], **flags).warnings)

        assert "10% of 5/day image rounds down to 0 for tier free; --floor 1" in told(scale=10)
        assert "rounds down" not in told(scale=10, floor=1)
        assert "Tier pro is protected: its 0 users are spared." in told(cap="1/day")
        assert "1 user of tier free is protected and spared." in told(cap="1/day")
        spared = told(scale=10, include_protected=True)
        assert "image is unlimited for tier pro: a part of that is unlimited too" in spared
        assert "protected" not in spared
        assert "Windows of one hour are new for tier free" in told(cap="1/hour")
        assert "This is the ramp's first step, 10%; each lasts 30m." in told(ramp="10%,100%")
        assert "repeated attempts" in told(deny=True)


def test_the_hour_of_the_peak_and_what_is_saved_an_hour(tmp_path: Path) -> None:
    world = World(tmp_path / "l.db")
    with world.q:
        for n in range(6):
            world.user(NAMES[n], "plus", protected=False, override=None)
            world.ask(NAMES[n], 12, 0)
        world.now = NOW - timedelta(hours=3)
        world.q.consume(user="u0", resource="image", amount=1)
        world.now = NOW
        outlook = world.look(cap="2/day", resources=["image"])
        assert outlook.peak_hour == NOW
        assert outlook.peak_asked == 72
        # 10 of 12 units of six users, over the twelve hours of the day so far.
        assert outlook.saved_per_hour == 5


def test_a_throttle_for_all_resources_has_a_row_for_each(tmp_path: Path) -> None:
    world = World(tmp_path / "l.db")
    with world.q:
        world.admin.create_resource("video")
        world.admin.set_limits(tier="free", limits={"image": "5/day", "video": "1/day"})
        world.user("u0", "free", protected=False, override=None)
        world.ask("u0", 4, 0)
        world.q.consume(user="u0", resource="video")
        rows = world.look(deny=True, tiers=["free"]).tiers
        assert [(r.tier, r.resource, r.asked, r.served) for r in rows] == [
            ("free", "image", 4, 0),
            ("free", "video", 1, 0),
        ]


def test_hours_that_were_counted_are_used_and_others_are_taken_from_entries(
    tmp_path: Path,
) -> None:
    world = World(tmp_path / "l.db")
    with world.q:
        world.user("u0", "plus", protected=False, override=None)
        for hours, amount in ((3, 4), (2, 4), (1, 1)):
            world.now = NOW - timedelta(hours=hours)
            world.q.consume(user="u0", resource="image", amount=amount)
        world.now = NOW
        plus = world.look(cap="2/hour", resources=["image"]).tiers[1]
        # The hours are new: whatever was taken in them, nobody is cut off at once.
        assert (plus.asked, plus.served, plus.cut_off) == (9, 5, 0)
        world.admin.throttle_on(cap="3/hour", resources=["image"], reason="x")
        world.q.consume(user="u0", resource="image", amount=2)
        world.q.consume(user="u0", resource="image", amount=2)
        # From now on the hour is counted, with what was refused in it.
        told = world.look(cap="1/hour", resources=["image"])
        counted = told.tiers[1]
        assert (counted.asked, counted.served, counted.cut_off) == (13, 4, 1)
        assert any("Some windows of one hour of image were not counted" in w for w in told.warnings)
        world.now = NOW + timedelta(hours=1)
        assert world.look(cap="1/hour", resources=["image"]).total.cut_off == 0


def test_hours_that_are_in_force_refuse_before_a_throttle_does(tmp_path: Path) -> None:
    world = World(tmp_path / "l.db")
    with world.q:
        world.admin.set_limits(tier="free", limits={"image": "5/day,2/hour"})
        for name in ("u0", "u1"):
            world.user(name, "free", protected=False, override=None)
            for _ in range(5):
                world.ask(name, 1, 0)
        for cap, served in (("2/hour", 4), ("1/hour", 2), ("3/day", 4), ("1/day", 2)):
            outlook = world.look(cap=cap, resources=["image"], tiers=["free"])
            assert (cap, outlook.total.asked, outlook.total.served) == (cap, 10, served)
            assert not any("not counted" in w or "are new for image" in w for w in outlook.warnings)
        # A limit that nobody counted until now: from what was taken.
        world.admin.set_limits(tier="free", limits={"image": "5/day,1/minute"})
        minutes = world.look(cap="9/day", resources=["image"], tiers=["free"])
        assert minutes.total.served == 8
        assert any("what was refused in one is not known" in w for w in minutes.warnings)


def test_what_was_given_back_is_no_demand_of_an_hour_that_was_not_counted(tmp_path: Path) -> None:
    world = World(tmp_path / "l.db")
    with world.q:
        world.user("u0", "free", protected=False, override=None)
        taken = world.q.consume(user="u0", resource="image", amount=4)
        world.q.refund(entry_id=taken.entry_id, amount=3)
        hour = world.look(cap="2/hour", resources=["image"], tiers=["free"])
        assert (hour.total.asked, hour.total.served) == (1, 1)
