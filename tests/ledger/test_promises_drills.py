"""Drills: throttles that deny nothing, and are told what they would have denied."""

from __future__ import annotations

from typing import Any

from quotactl.operations.acts import Acts
from quotactl.operations.emergency import Timing, put_on
from quotactl.policy.levers import lever


class Drills(Acts):
    """Puts throttles on as drills, as a preset's drill does."""

    def drill(self, **flags: Any) -> int:
        with self._act(reason="x") as act:
            put = put_on(act, lever(resources=["image"], **flags), Timing(), drill=True)
            assert isinstance(put, tuple)
            return int(put[0]["id"])


def drill(world: Any, **flags: Any) -> int:
    return Drills(world.q.engine, world.clock, "tester").drill(**flags)


def counted(world: Any, throttle_id: int) -> tuple[int, int]:
    """Requests and units that a drill would have denied."""
    with world.q.engine.reading() as book:
        rows = book.denied_by(throttle_id, 0, 2**52, drill=True)
    return sum(row[3] for row in rows), sum(row[4] for row in rows)


def test_a_drill_denies_nothing_and_says_what_it_would_have(world: Any) -> None:
    one = drill(world, cap="1/day")
    first, second = world.consume(), world.consume()
    assert (first.allowed, first.would_be) == (True, None)
    assert (second.allowed, second.would_be, second.reason) == (True, "throttled", "ok")
    assert second.rule.kind == "tier"
    world.take()
    assert counted(world, one) == (2, 2)
    # What is refused anyway is not the drill's.
    assert not world.consume().allowed
    assert counted(world, one) == (2, 2)


def test_shadow_enforcement_goes_before_a_drill(world: Any) -> None:
    one = drill(world, cap="1/day")
    world.admin.enforcement_set("shadow", reason="x")
    world.take(3)
    over = world.consume()
    assert (over.allowed, over.would_be) == (True, "limit_reached")
    assert counted(world, one) == (1, 3)


def test_a_denial_is_booked_under_the_drill_where_a_real_throttle_freezes_grants(
    world: Any,
) -> None:
    world.admin.add_grant(user="ada", resource="image", amount=5, reason="x")
    world.admin.throttle_on(cap="2/day", resources=["image"], freeze_grants=True, reason="x")
    one = drill(world, cap="1/day")
    world.take()
    second = world.consume()
    assert (second.allowed, second.would_be) == (True, "throttled")
    assert counted(world, one) == (1, 1)
    assert not world.consume().allowed


def test_a_drill_of_a_total_counts_what_all_take(world: Any) -> None:
    one = drill(world, total="3/day")
    for user in "abcde":
        world.take(user=user)
    assert counted(world, one) == (2, 2)


def test_a_drill_is_over_by_itself(world: Any) -> None:
    one = drill(world, deny=True)
    world.take()
    world.later(hours=1)
    assert world.consume().would_be is None
    assert counted(world, one) == (1, 1)
