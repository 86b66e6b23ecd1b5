"""Throttles that come on or go off in steps, by time alone: ramps, and starts to come.

On: each step is a part of the throttle's own number, or, alone, of every limit. Off: in each
step nobody has less than that part of the limit below. No job is needed, in any process.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from quotactl import Conflict, InvalidInput
from quotactl.engines.sqlite.session import Session

# Of a session: nothing here waits for the disk.
NEVER = property(lambda _: False, lambda *_: None)

if TYPE_CHECKING:
    from conftest import World


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about power cuts: don't wait for the disk."""
    monkeypatch.setattr(Session, "wants_full", NEVER, raising=False)


@pytest.fixture(autouse=True)
def hundred(quick: None, world: World) -> None:
    """A limit whose parts are percentages. It is Thursday, nine o'clock."""
    world.limit("100/day")


def limits_at(world: World, *times: str, user: str = "ada") -> list[int | None]:
    """The limit that is shown at these times of the day."""
    limits = []
    for time in times:
        world.at(f"2025-03-27T{time}Z")
        limits.append(world.check(user=user).limit)
    return limits


def off(world: World, throttle: int, ramp: str, every: str = "30m") -> str:
    """Lift in steps; when it is over."""
    outcome = world.admin.throttle_off(throttle, ramp=ramp, every=every, reason="cool again")
    assert outcome.changed
    ends_at: str = outcome.item["ends_at"]
    return ends_at


# ---- on in steps


@pytest.mark.parametrize(
    ("how", "limits"),
    [
        ({"cap": "60/day"}, [6, 30, 60, 100]),
        ({"cap": "7/day"}, [0, 3, 7, 100]),  # rounded down
        ({}, [10, 50, 100, 100]),
        ({"scale": 50}, [5, 25, 50, 100]),
        ({"scale": 50, "floor": 8}, [8, 25, 50, 100]),
        ({"cap": "600/day"}, [60, 100, 100, 100]),
    ],
)
def test_each_step_is_a_part_of_the_throttles_own_number(
    world: World, how: dict[str, Any], limits: list[int]
) -> None:
    made = world.admin.throttle_on(ramp="10%,50%,100%", every="20m", reason="hot", **how)
    # It lasts as long as its steps, the last one too.
    assert made.item["ends_at"] == "2025-03-27T10:00:00Z"
    assert limits_at(world, "09:00:00", "09:20:00", "09:40:00", "10:00:00") == limits
    before = ["09:19:59.999", "09:39:59.999", "09:59:59.999"]
    assert limits_at(world, *before) == limits[:3]


def test_a_ramp_alone_is_of_every_limit(world: World) -> None:
    world.limit("100/day,10/hour,5/minute")
    world.throttle(ramp="20%,100%", every="1h")
    assert world.check().period == "minute"
    assert world.check().limit == 1
    world.take(1)
    world.later(minutes=1)
    world.take(1)
    world.later(minutes=1)
    denied = world.consume()
    assert (denied.reason, denied.period, denied.limit) == ("throttled", "hour", 2)
    world.later(minutes=58)
    assert world.check(5).allowed


def test_a_ramp_leaves_unlimited_as_a_scale_does(world: World) -> None:
    world.limit("unlimited")
    world.throttle(ramp="10%,100%", every="1h")
    assert world.consume(1000).limit is None


def test_a_total_comes_on_in_steps_and_counts_over_them(world: World) -> None:
    throttle_id = world.throttle(total="20/day", ramp="10%,50%,100%", every="30m")
    world.take(2)
    denied = world.consume(user="bob")
    assert (denied.reason, denied.rule.id, denied.limit, denied.used) == (
        "throttled",
        throttle_id,
        2,
        2,
    )
    world.later(minutes=30)
    world.take(8, user="bob")
    assert world.consume().limit == 10
    world.later(minutes=30)
    assert world.check(11).limit == 20
    world.take(10)
    assert not world.consume(user="bob").allowed


def test_a_ramp_may_go_down_too(world: World) -> None:
    world.throttle(ramp="50%,20%,0%", every="30m", duration="2h")
    times = ("09:00:00", "09:30:00", "10:00:00", "10:59:59.999", "11:00:00")
    assert limits_at(world, *times) == [50, 20, 0, 0, 100]


def test_a_step_comes_by_time_alone_in_every_process(world: World) -> None:
    other = world.reopened()
    world.throttle(cap="10/day", ramp="10%,100%", every="30m")
    assert other.check(user="ada", resource="image").limit == 1
    (version,) = world.sql("SELECT policy_version FROM ledger")
    world.later(minutes=29, seconds=59.999)
    for ledger in (world.q, other):
        assert ledger.check(user="ada", resource="image").limit == 1
    world.later(milliseconds=1)
    for ledger in (other, world.q):
        assert ledger.consume(user="ada", resource="image", amount=5).allowed
    world.later(minutes=30)
    for ledger in (other, world.q):
        assert ledger.check(user="ada", resource="image").limit == 100
    assert world.sql("SELECT policy_version FROM ledger") == [version]


def test_steps_are_shown(world: World) -> None:
    made = world.admin.throttle_on(ramp="10%,100%", every="30m", reason="hot", name="melt")
    assert made.item["step"] == 10
    assert made.item["steps"] == [
        {"at": "2025-03-27T09:00:00Z", "percent": 10, "lifting": False},
        {"at": "2025-03-27T09:30:00Z", "percent": 100, "lifting": False},
    ]
    assert "in steps 10%, 100%" in made.message


def test_steps_last_half_an_hour_unless_told_otherwise(world: World) -> None:
    made = world.admin.throttle_on(ramp=[10, 100], reason="hot")
    assert made.item["ends_at"] == "2025-03-27T10:00:00Z"
    assert limits_at(world, "09:29:59", "09:30:00") == [10, 100]


def test_after_the_last_step_it_stays_there_until_its_end(world: World) -> None:
    world.throttle(cap="10/day", ramp="50%,100%", every="30m", duration="3h")
    times = ("09:00:00", "09:30:00", "11:59:59.999", "12:00:00")
    assert limits_at(world, *times) == [5, 10, 10, 100]


@pytest.mark.parametrize(
    "how",
    [
        {"ramp": "10%,100%", "every": "30m", "duration": "20m"},
        {"ramp": "10%,100%", "every": "30m", "duration": "30m"},
        {"ramp": "10%,100%", "every": "30m", "until": "09:30"},
        {"ramp": ""},
        {"ramp": []},
        {"ramp": "10"},
        {"ramp": "10%,"},
        {"ramp": "101%"},
        {"ramp": [10, -1]},
        {"ramp": [1.5]},
        {"ramp": "10%", "every": "0m"},
        {"ramp": "10%", "every": "20"},
        {"ramp": [50] * 101},
        {"scale": 50, "every": "30m"},
        {"deny": True, "ramp": "10%,100%"},
    ],
)
def test_a_ramp_that_is_none_or_would_not_end_is_refused(world: World, how: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        world.admin.throttle_on(reason="hot", **how)
    assert world.count("switch") == world.count("switch_step") == 0


def test_the_same_ramp_again_is_already_on_and_another_needs_replace(world: World) -> None:
    first = world.throttle(cap="10/day", ramp="10%,100%", every="30m")
    assert not world.admin.throttle_on(
        cap="10/day", ramp="10%,100%", every="30m", reason="again"
    ).changed
    for other in ({"ramp": "20%,100%", "every": "30m"}, {"ramp": "10%,100%", "every": "20m"}, {}):
        with pytest.raises(Conflict):
            world.admin.throttle_on(cap="10/day", reason="r", **other)  # type: ignore[arg-type]
    second = world.throttle(cap="10/day", ramp="20%,100%", every="30m", replace=True)
    assert world.sql("SELECT id FROM switch WHERE ended_at_ms IS NULL") == [(second,)]
    assert second != first
    assert world.check().limit == 2


def test_several_ramps_stack_by_the_lowest_at_each_moment(world: World) -> None:
    world.throttle(ramp="10%,100%", every="1h")
    world.throttle(cap="60/day", ramp="100%,50%", every="1h")
    assert limits_at(world, "09:59:59", "10:00:00", "11:00:00") == [10, 30, 100]


# ---- when it passes again


def test_the_moment_to_retry_is_the_step_that_lets_it_pass(world: World) -> None:
    world.throttle(cap="60/day", ramp="10%,50%,100%", every="20m")
    told = {n: world.check(n).retry_after_s for n in (6, 7, 30, 31, 60, 61, 100, 101)}
    assert told == {6: None, 7: 1200, 30: 1200, 31: 2400, 60: 2400, 61: 3600, 100: 3600, 101: None}
    assert world.check(6).allowed
    for amount in (30, 60, 61):
        world.at("2025-03-27T09:00:00Z")
        world.later(seconds=told[amount] or 0, milliseconds=-1)
        assert not world.check(amount).allowed
        world.later(milliseconds=1)
        assert world.check(amount).allowed


def test_the_moment_to_retry_is_a_reset_where_that_comes_before_the_step(world: World) -> None:
    world.limit("100/day,10/hour")
    world.at("2025-03-27T09:45:00Z")
    world.throttle(ramp="50%,100%", every="30m")
    world.take(5)
    assert world.consume().retry_after_s == 15 * 60
    # Six are more than half, and the step is at a quarter past.
    assert world.consume(6).retry_after_s == 30 * 60


def test_the_moment_to_retry_passes_over_a_step_that_is_lower(world: World) -> None:
    world.throttle(cap="100/day", ramp="50%,10%,80%", every="30m")
    world.take(20)
    assert world.consume(40).retry_after_s == 3600
    world.later(minutes=35)
    # It was allowed before the step that lies behind.
    assert world.consume(10).retry_after_s == 25 * 60


def test_the_moment_to_retry_under_a_total_is_its_step_too(world: World) -> None:
    world.throttle(total="20/day", ramp="10%,50%,100%", every="30m")
    world.take(2, user="bob")
    assert world.consume().retry_after_s == 1800
    assert world.consume(9).retry_after_s == 3600
    assert world.consume(19).retry_after_s == 5400


def test_the_moment_to_retry_while_it_goes_off_is_a_step_of_that(world: World) -> None:
    throttle_id = world.throttle(deny=True, duration="5h")
    off(world, throttle_id, "25%,50%,100%", "20m")
    world.take(25)
    assert world.consume().retry_after_s == 1200
    assert world.consume(26).retry_after_s == 2400


def test_a_held_step_is_no_moment_to_retry(world: World) -> None:
    throttle_id = world.throttle(cap="60/day", ramp="10%,100%", every="20m", duration="3h")
    assert world.check(7).retry_after_s == 1200
    world.admin.throttle_hold(throttle_id, reason="wait")
    assert world.check(7).retry_after_s == 3 * 3600


# ---- hold and resume


def test_hold_stays_at_the_present_step_and_resume_goes_on_from_there(world: World) -> None:
    throttle_id = world.throttle(ramp="10%,50%,100%", every="20m", duration="5h")
    world.at("2025-03-27T09:25:00Z")
    held = world.admin.throttle_hold(throttle_id, reason="errors")
    assert "held at 50%" in held.message
    assert held.item["held_at"] == "2025-03-27T09:25:00Z"
    assert held.item["ends_at"] == "2025-03-27T14:00:00Z"
    assert limits_at(world, "09:39:59", "09:40:00", "11:10:00") == [50, 50, 50]
    resumed = world.admin.throttle_resume(throttle_id, reason="fine")
    # Fifteen minutes were ahead of the next step, and are so again.
    assert (resumed.item["held_at"], resumed.item["ends_at"]) == (None, "2025-03-27T14:00:00Z")
    assert limits_at(world, "11:24:59.999", "11:25:00", "14:00:00") == [50, 100, 100]


def test_a_held_ramp_ends_at_its_end(world: World) -> None:
    throttle_id = world.throttle(cap="50/day", ramp="10%,50%,100%", every="20m")
    world.admin.throttle_hold(throttle_id, reason="errors")
    assert limits_at(world, "09:59:59.999", "10:00:00") == [5, 100]
    with pytest.raises(Conflict):
        world.admin.throttle_resume(throttle_id, reason="fine")


@pytest.mark.parametrize("late", ["5m", "20m", "1h30m"])
def test_a_ramp_that_goes_on_late_still_reaches_its_last_step(world: World, late: str) -> None:
    throttle_id = world.throttle(cap="50/day", ramp="10%,50%,100%", every="20m")
    world.later(minutes=10)
    world.admin.throttle_hold(throttle_id, duration="3h", reason="errors")
    spans = {"5m": 5, "20m": 20, "1h30m": 90}
    world.later(minutes=spans[late])
    world.admin.throttle_extend(throttle_id, until="2025-03-27T11:00:00Z", reason="r")
    resumed = world.admin.throttle_resume(throttle_id, reason="fine")
    world.later(minutes=10)
    assert world.check().limit == 25
    world.later(minutes=20)
    assert world.check().limit == 50
    ends_at = datetime.fromisoformat(resumed.item["ends_at"])
    assert ends_at > world.now
    world.now = ends_at
    assert world.check().limit == 100


@pytest.mark.parametrize(
    ("hold", "minutes", "ends_at"),
    [
        ({}, 10, "2025-03-27T11:00:00Z"),  # its last step has some time left
        ({}, 40, "2025-03-27T11:40:00Z"),  # as long as it was held
        ({"duration": "10m"}, 5, "2025-03-27T11:05:00Z"),  # its last step has its time
    ],
)
def test_the_end_of_a_ramp_that_goes_on_late_lies_behind_its_last_step(
    world: World, hold: dict[str, Any], minutes: int, ends_at: str
) -> None:
    throttle_id = world.throttle(cap="50/day", ramp="10%,25%,50%,100%", every="30m")
    world.admin.throttle_hold(throttle_id, reason="errors", **hold)
    world.later(minutes=minutes)
    assert world.admin.throttle_resume(throttle_id, reason="fine").item["ends_at"] == ends_at


@pytest.mark.parametrize(
    ("how", "ends_at"),
    [
        ({}, "2025-03-27T14:00:00Z"),
        ({"duration": "2h"}, "2025-03-27T11:00:00Z"),
        ({"until": "10:30"}, "2025-03-27T10:30:00Z"),
        ({"no_expiry": True}, None),
    ],
)
def test_hold_moves_the_end_only_where_told(
    world: World, how: dict[str, Any], ends_at: str | None
) -> None:
    throttle_id = world.throttle(ramp="10%,100%", every="20m", duration="5h")
    held = world.admin.throttle_hold(throttle_id, reason="errors", **how)
    assert held.item["ends_at"] == ends_at


def test_hold_and_resume_twice_are_already_so(world: World) -> None:
    throttle_id = world.throttle(ramp="10%,50%,100%", every="20m")
    assert not world.admin.throttle_resume(throttle_id, reason="r").changed
    assert world.admin.throttle_hold(throttle_id, reason="r").changed
    world.later(minutes=5)
    assert not world.admin.throttle_hold(throttle_id, reason="r").changed
    assert world.admin.throttle_resume(throttle_id, reason="r").changed
    assert not world.admin.throttle_resume(throttle_id, reason="r").changed
    assert limits_at(world, "09:24:59.999", "09:25:00", "09:45:00") == [10, 50, 100]


def test_hold_after_hold_adds_up(world: World) -> None:
    throttle_id = world.throttle(ramp="10%,50%,100%", every="20m", duration="5h")
    for minutes in (5, 7):
        world.later(minutes=5)
        world.admin.throttle_hold(throttle_id, reason="r")
        world.later(minutes=minutes)
        world.admin.throttle_resume(throttle_id, reason="r")
    times = ("09:31:59.999", "09:32:00", "09:51:59.999", "09:52:00")
    assert limits_at(world, *times) == [10, 50, 50, 100]


def test_the_last_step_can_not_be_held_further(world: World) -> None:
    throttle_id = world.throttle(cap="50/day", ramp="10%,100%", every="20m")
    world.later(minutes=20)
    held = world.admin.throttle_hold(throttle_id, reason="r")
    assert not held.changed
    assert "last step" in held.message


def test_what_has_no_ramp_can_not_be_held(world: World) -> None:
    throttle_id = world.throttle(cap="5/day")
    with pytest.raises(Conflict):
        world.admin.throttle_hold(throttle_id, reason="r")


def test_a_ramp_that_has_not_begun_can_not_be_held(world: World) -> None:
    """Without its first step it would begin with all of its number."""
    throttle_id = world.throttle(total="50/day", ramp="10%,100%", every="20m", at="10:00")
    with pytest.raises(Conflict):
        world.admin.throttle_hold(throttle_id, reason="r")
    world.at("2025-03-27T10:00:00Z")
    assert world.check(50).limit == 5


@pytest.mark.parametrize("act", ["throttle_hold", "throttle_resume"])
def test_what_is_over_can_neither_be_held_nor_resumed(world: World, act: str) -> None:
    throttle_id = world.throttle(ramp="10%,100%", every="20m")
    world.later(hours=1)
    with pytest.raises(Conflict):
        getattr(world.admin, act)(throttle_id, reason="r")


# ---- off in steps


@pytest.mark.parametrize(
    ("how", "limits"),
    [
        ({"deny": True}, [25, 50, 100]),
        ({"cap": "3/day"}, [25, 50, 100]),
        ({"cap": "40/day"}, [40, 50, 100]),
        ({"cap": "70/day"}, [70, 70, 100]),
        ({"scale": 10}, [25, 50, 100]),
        ({"ramp": "10%,90%", "every": "5m", "duration": "5h"}, [25, 50, 100]),
    ],
)
def test_in_each_step_nobody_has_less_than_that_part_of_the_limit_below(
    world: World, how: dict[str, Any], limits: list[int]
) -> None:
    throttle_id = world.throttle(**{"duration": "5h", **how})
    assert off(world, throttle_id, "25%,50%,100%") == "2025-03-27T10:00:00Z"
    times = ("09:29:59.999", "09:30:00", "10:00:00")
    assert limits_at(world, "09:00:00", *times) == [limits[0], *limits]


@pytest.mark.parametrize("limit", ["100/day", "7/day", "30/hour", "100/day,10/minute", "unlimited"])
@pytest.mark.parametrize(
    "how",
    [
        {"deny": True},
        {"cap": "13/day"},
        {"cap": "4/hour"},
        {"scale": 33, "floor": 2},
        {"ramp": "10%,60%,30%", "every": "20m"},
        {"cap": "60/day", "ramp": "100%,20%", "every": "20m"},
    ],
)
def test_off_in_steps_is_never_lower_than_before_and_never_falls(
    world: World, limit: str, how: dict[str, Any]
) -> None:
    world.limit(limit)
    throttle_id = world.throttle(**how, duration="12h")
    world.later(minutes=25)

    def room() -> list[bool]:
        return [world.check(amount).allowed for amount in (1, 2, 3, 5, 8, 13, 21, 34, 55, 100)]

    seen = [room()]
    ends_at = datetime.fromisoformat(off(world, throttle_id, "0%,30%,60%,80%", "10m"))
    while world.now < ends_at + timedelta(minutes=10):
        seen.append(room())
        world.later(minutes=5)
    assert ends_at == world.now - timedelta(minutes=10)
    for earlier, later in pairwise(seen):
        assert all(after >= before for before, after in zip(earlier, later, strict=True))
    world.admin.throttle_off(throttle_id, reason="r")
    assert seen[-1] == room()


def test_while_a_held_ramp_goes_off_a_step_that_was_held_back_does_not_come(world: World) -> None:
    throttle_id = world.throttle(cap="60/day", ramp="100%,10%", every="20m", duration="5h")
    world.admin.throttle_hold(throttle_id, reason="enough")
    world.later(minutes=30)
    assert world.check().limit == 60
    off(world, throttle_id, "20%,100%")
    assert limits_at(world, "09:30:00", "09:59:59", "10:00:00") == [60, 60, 100]


def test_below_unlimited_it_holds_until_it_is_over(world: World) -> None:
    world.limit("unlimited")
    throttle_id = world.throttle(cap="40/day", duration="5h")
    off(world, throttle_id, "25%,50%,100%")
    times = ("09:00:00", "09:30:00", "09:59:59.999", "10:00:00")
    assert limits_at(world, *times) == [40, 40, 40, None]


def test_overrides_and_tiers_have_each_their_own_part(world: World) -> None:
    world.limit("40/day", tier="plus")
    world.admin.set_tier("bob", "plus")
    world.admin.set_override(user="eve", resource="image", limit="9/day", reason="r")
    throttle_id = world.throttle(deny=True)
    off(world, throttle_id, "50%,100%")
    assert [world.check(user=user).limit for user in ("ada", "bob", "eve")] == [50, 20, 4]


def test_grants_that_were_frozen_are_so_until_it_is_over(world: World) -> None:
    world.grant(9)
    throttle_id = world.throttle(deny=True)
    off(world, throttle_id, "50%,100%")
    world.take(50)
    assert world.consume().reason == "throttled"
    world.later(minutes=30)
    world.take(50)
    assert world.consume().reason == "granted"


@pytest.mark.parametrize(
    ("ramp", "limits", "ends_at"),
    [
        ("25%,100%", [25, 100], "2025-03-27T09:30:00Z"),
        # What does not reach the whole limit is over a step later.
        ("25%,50%", [25, 50, 100], "2025-03-27T10:00:00Z"),
        ("50%", [50, 100], "2025-03-27T09:30:00Z"),
        ("0%,100%", [0, 100], "2025-03-27T09:30:00Z"),
    ],
)
def test_off_in_steps_ends_with_the_whole_limit(
    world: World, ramp: str, limits: list[int], ends_at: str
) -> None:
    throttle_id = world.throttle(deny=True, duration="5h")
    assert off(world, throttle_id, ramp) == ends_at
    times = ("09:00:00", "09:30:00", "10:00:00")[: len(limits)]
    assert limits_at(world, *times) == limits


def test_off_in_steps_may_last_longer_than_the_throttle_would_have(world: World) -> None:
    throttle_id = world.throttle(deny=True, duration="10m")
    assert off(world, throttle_id, "10%,50%,100%", "1h") == "2025-03-27T11:00:00Z"
    assert limits_at(world, "09:30:00", "10:30:00") == [10, 50]


def test_while_it_goes_off_it_can_be_held_and_go_on(world: World) -> None:
    throttle_id = world.throttle(deny=True, duration="5h")
    off(world, throttle_id, "25%,50%,100%", "20m")
    world.later(minutes=25)
    held = world.admin.throttle_hold(throttle_id, reason="errors")
    # Its end was that of the ramp; it is an hour from now unless told otherwise.
    assert held.item["ends_at"] == "2025-03-27T10:25:00Z"
    assert limits_at(world, "09:40:00", "10:05:00") == [50, 50]
    resumed = world.admin.throttle_resume(throttle_id, reason="fine")
    assert resumed.item["ends_at"] == "2025-03-27T10:20:00Z"
    assert limits_at(world, "10:19:59.999", "10:20:00") == [50, 100]


def test_while_it_goes_off_it_can_go_off_faster_but_not_back(world: World) -> None:
    throttle_id = world.throttle(deny=True, duration="5h")
    off(world, throttle_id, "10%,30%,60%,100%", "20m")
    world.later(minutes=20)
    for back in ("30%,100%", "20%,100%"):
        with pytest.raises(InvalidInput):
            world.admin.throttle_off(throttle_id, ramp=back, every="5m", reason="r")
    off(world, throttle_id, "50%,80%,100%", "5m")
    times = ("09:20:00", "09:25:00", "09:29:59.999", "09:30:00")
    assert limits_at(world, *times) == [50, 80, 80, 100]
    with pytest.raises(Conflict):
        world.admin.throttle_extend(throttle_id, duration="1h", reason="r")


def test_while_it_goes_off_it_can_be_lifted_at_once(world: World) -> None:
    throttle_id = world.throttle(deny=True, duration="5h")
    off(world, throttle_id, "10%,100%")
    assert world.admin.throttle_off(throttle_id, reason="enough").changed
    assert world.check().limit == 100
    again = world.admin.throttle_off(throttle_id, ramp="10%,100%", every="5m", reason="r")
    assert not again.changed
    assert world.check().limit == 100


@pytest.mark.parametrize(
    ("how", "ramp"),
    [
        ({"total": "5/day"}, "25%,100%"),
        ({"cap": "5/day", "at": "10:00"}, "25%,100%"),
        ({"deny": True}, "50%,25%"),
        ({"deny": True}, "50%,50%"),
        ({"deny": True}, "101%"),
        ({"deny": True}, ""),
    ],
)
def test_off_in_steps_is_refused_where_it_makes_no_sense(
    world: World, how: dict[str, Any], ramp: str
) -> None:
    throttle_id = world.throttle(**how)
    before = world.sql("SELECT * FROM switch"), world.sql("SELECT * FROM switch_step")
    with pytest.raises(InvalidInput):
        world.admin.throttle_off(throttle_id, ramp=ramp, reason="r")
    assert (world.sql("SELECT * FROM switch"), world.sql("SELECT * FROM switch_step")) == before


def test_steps_edit_nothing_below(world: World) -> None:
    world.take(2)
    tables = ("tier", "tier_limit", "user", "counter", "entry", "demand")
    before = [world.sql(f"SELECT * FROM {table}") for table in tables]
    throttle_id = world.throttle(ramp="10%,50%,100%", every="20m", duration="5h")
    world.admin.throttle_hold(throttle_id, reason="r")
    world.admin.throttle_resume(throttle_id, reason="r")
    off(world, throttle_id, "60%,100%")
    assert [world.sql(f"SELECT * FROM {table}") for table in tables] == before


@pytest.mark.parametrize(
    "act", ["throttle_hold", "throttle_resume", "throttle_extend", "throttle_off"]
)
def test_every_act_on_a_ramp_wants_a_reason_and_is_in_the_audit(world: World, act: str) -> None:
    throttle_id = world.throttle(ramp="10%,100%", every="20m", name="melt")
    if act == "throttle_resume":
        world.admin.throttle_hold(throttle_id, reason="r")
    how = {"throttle_extend": {"duration": "2h"}, "throttle_off": {"ramp": "50%,100%"}}.get(act, {})
    rows = world.count("audit")
    with pytest.raises(InvalidInput):
        getattr(world.admin, act)("melt", **how)
    assert world.count("audit") == rows
    getattr(world.admin, act)("melt", reason="so be it", ticket="INC-1", **how)
    assert world.count("audit") == rows + 1
    assert world.q.verify().ok


# ---- extend


def test_extend_keeps_the_last_step_longer(world: World) -> None:
    throttle_id = world.throttle(cap="50/day", ramp="10%,100%", every="20m")
    world.admin.throttle_extend(throttle_id, duration="3h", reason="still hot")
    assert limits_at(world, "09:20:00", "11:59:59.999", "12:00:00") == [50, 50, 100]


def test_extend_to_an_end_before_the_last_step_leaves_that_out(world: World) -> None:
    throttle_id = world.throttle(cap="50/day", ramp="10%,50%,100%", every="20m")
    world.admin.throttle_extend(throttle_id, duration="30m", reason="enough")
    assert limits_at(world, "09:20:00", "09:29:59.999", "09:30:00") == [25, 25, 100]


# ---- starts to come


def test_a_throttle_that_is_scheduled_begins_by_time_alone(world: World) -> None:
    other = world.reopened()
    made = world.admin.throttle_on(cap="5/day", at="10:00", duration="2h", reason="sale")
    assert (made.item["state"], made.item["starts_at"], made.item["ends_at"]) == (
        "scheduled",
        "2025-03-27T10:00:00Z",
        "2025-03-27T12:00:00Z",
    )
    assert other.check(user="ada", resource="image").limit == 100
    assert limits_at(world, "09:59:59.999", "10:00:00") == [100, 5]
    assert other.check(user="ada", resource="image").limit == 5
    assert limits_at(world, "11:59:59.999", "12:00:00") == [5, 100]


@pytest.mark.parametrize(
    ("how", "ends_at"),
    [
        ({}, "2025-03-27T13:00:00Z"),
        ({"duration": "6h"}, "2025-03-27T18:00:00Z"),
        ({"until": "18:00"}, "2025-03-27T18:00:00Z"),
        ({"ramp": "10%,100%", "every": "15m"}, "2025-03-27T12:30:00Z"),
        ({"no_expiry": True}, None),
    ],
)
def test_a_duration_counts_from_the_start(
    world: World, how: dict[str, Any], ends_at: str | None
) -> None:
    at = datetime.fromisoformat("2025-03-27T12:00:00+00:00")
    made = world.admin.throttle_on(scale=50, at=at, reason="sale", **how)
    assert made.item["ends_at"] == ends_at


def test_the_steps_of_a_scheduled_ramp_count_from_its_start(world: World) -> None:
    world.throttle(ramp="10%,50%", every="15m", at="10:00")
    times = ("09:59:59.999", "10:00:00", "10:15:00", "10:30:00")
    assert limits_at(world, *times) == [100, 10, 50, 100]


@pytest.mark.parametrize(
    "how",
    [
        {"at": "2025-03-27T08:59:59Z"},
        {"at": "2025-03-27T09:00:00Z"},
        {"at": "10"},
        {"at": "soon"},
        {"at": 5},
        {"at": "10:00", "until": "09:30"},
        {"at": "10:00", "until": "10:00"},
        {"at": datetime(2025, 3, 28)},  # noqa: DTZ001
    ],
)
def test_a_start_that_is_none_is_refused(world: World, how: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        world.admin.throttle_on(cap="5/day", reason="sale", **how)
    assert world.count("switch") == 0


def test_the_moment_to_retry_knows_a_start_to_come(world: World) -> None:
    world.throttle(cap="2/hour", duration="30m")
    world.throttle(deny=True, at="09:30", duration="1h")
    world.take(2)
    # The cap is over at half past nine, but then there is the other one.
    assert world.consume().retry_after_s == 90 * 60


def test_throttles_at_different_times_are_in_nobodys_way(world: World) -> None:
    world.throttle(cap="5/day", duration="1h")
    world.throttle(cap="7/day", at="10:00", duration="1h")
    assert limits_at(world, "09:59:59", "10:00:00", "11:00:00") == [5, 7, 100]


@pytest.mark.parametrize("start", ["09:30", "09:59"])
def test_throttles_that_overlap_need_replace(world: World, start: str) -> None:
    world.throttle(cap="5/day", duration="1h")
    assert not world.admin.throttle_on(cap="5/day", at=start, reason="same").changed
    with pytest.raises(Conflict):
        world.admin.throttle_on(cap="7/day", at=start, reason="other")


def test_a_name_is_one_throttles_at_any_time(world: World) -> None:
    world.throttle(cap="5/day", duration="1h", name="melt")
    with pytest.raises(Conflict):
        world.admin.throttle_on(cap="5/day", at="12:00", name="melt", reason="later")


def test_a_scheduled_throttle_can_be_lifted_or_moved_before_it_begins(world: World) -> None:
    first = world.throttle(cap="5/day", at="10:00", name="sale")
    moved = world.admin.throttle_extend("sale", duration="3h", reason="longer")
    # Counted from its start.
    assert moved.item["ends_at"] == "2025-03-27T13:00:00Z"
    with pytest.raises(InvalidInput):
        world.admin.throttle_extend("sale", until="09:30", reason="too short")
    assert world.admin.throttle_off(first, reason="no sale").changed
    assert limits_at(world, "10:00:00", "12:00:00") == [100, 100]
