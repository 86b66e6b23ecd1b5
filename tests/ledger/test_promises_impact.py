"""What a throttle would do to whom is told before it comes on; each of its figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from quotactl.operations.impact import Impact

if TYPE_CHECKING:
    from conftest import World


def impact(world: World, **how: Any) -> Impact:
    """What somebody would be shown who puts a throttle on."""
    shown: list[Impact] = []
    world.throttle(approve=shown.append, **how)
    (only,) = shown
    return only


@pytest.fixture
def morning(world: World) -> World:
    """At nine: ada (free) has 2 of 3, bob (plus) 27 of 50, paul (pro, protected) 6."""
    world.limit("50/day", tier="plus")
    for user, tier, amount in (("ada", "free", 2), ("bob", "plus", 27), ("paul", "pro", 6)):
        world.admin.set_tier(user=user, tier=tier)
        world.take(amount, user=user)
    world.at("2025-03-27T09:00:00Z")
    return world


# ---- who is cut off


@pytest.mark.parametrize(
    ("how", "cut_off"),
    [
        ({"cap": "2/day"}, 2),
        ({"cap": "2/day", "tiers": ["free"]}, 1),
        ({"cap": "2/day", "tiers": ["pro"]}, 0),
        ({"cap": "3/day"}, 1),
        ({"cap": "27/day"}, 1),
        ({"cap": "28/day"}, 0),
        ({"cap": "1/hour"}, 0),
        ({"scale": 50}, 2),
        ({"scale": 60}, 1),
        ({"deny": True}, 2),
    ],
)
def test_cut_off_is_who_has_used_as_much_as_would_be_left(
    morning: World, how: dict[str, Any], cut_off: int
) -> None:
    assert impact(morning, **how).cut_off == cut_off


def test_who_has_used_up_what_stays_the_same_is_not_cut_off_by_it(world: World) -> None:
    world.take(3)
    assert impact(world, cap="3/day").cut_off == 0


@pytest.mark.parametrize(
    ("how", "cut_off"),
    [
        ({"total": "36/day"}, 0),
        ({"total": "35/day"}, 2),
        ({"total": "35/day", "tiers": ["free"]}, 0),
        ({"total": "27/day", "tiers": ["plus"]}, 1),
        ({"total": "28/day", "tiers": ["plus"]}, 0),
        ({"total": "70/day", "ramp": [50, 100]}, 2),
        ({"total": "72/day", "ramp": [50, 100]}, 0),
        # Half past is no window that whole hours add up to, so it is not guessed at.
        ({"total": "1/5m"}, 0),
    ],
)
def test_a_total_that_is_used_up_cuts_off_all_in_its_scope_but_protected_ones(
    morning: World, how: dict[str, Any], cut_off: int
) -> None:
    if how["total"].endswith("m"):
        morning.take(1)
        morning.at("2025-03-27T09:32:00Z")
    assert impact(morning, **how).cut_off == cut_off


def test_on_a_day_to_come_nobody_is_cut_off_at_once(morning: World) -> None:
    assert impact(morning, deny=True, at="tomorrow 00:00").cut_off == 0
    assert impact(morning, cap="1/day", at="2025-03-27T23:59:00Z").cut_off == 2


# ---- how many are active, and what is refused


@pytest.mark.parametrize(
    ("tiers", "active"), [([], 3), (["free"], 1), (["free", "plus"], 2), (["pro"], 1)]
)
def test_active_is_who_asked_for_something_today_in_scope(
    morning: World, tiers: list[str], active: int
) -> None:
    found = impact(morning, cap="1000/day", tiers=tiers)
    assert (found.active, found.estimated) == (active, False)
    morning.later(days=1)
    assert impact(morning, cap="999/day", tiers=tiers).active == 0


@pytest.mark.parametrize(
    ("how", "refused"),
    [
        ({"cap": "9/day"}, 2),
        ({"cap": "9/day", "include_protected": True}, 2),
        ({"cap": "18/day"}, 1),
        ({"cap": "27/day"}, 0),
        ({"cap": "9/day", "tiers": ["free"]}, 0),
    ],
)
def test_refused_is_what_would_have_been_too_much_an_hour_since_midnight(
    morning: World, how: dict[str, Any], refused: int
) -> None:
    assert impact(morning, **how).refused_per_hour == refused


def test_what_is_refused_anyway_is_none_of_its_doing(world: World) -> None:
    world.at("2025-03-27T01:00:00Z")
    world.take(3)
    assert not world.consume(4).allowed
    assert impact(world, cap="1/day").refused_per_hour == 2


def test_in_the_first_hour_of_a_day_an_hours_refusals_are_those_so_far(world: World) -> None:
    world.at("2025-03-27T00:15:00Z")
    world.take(3)
    assert impact(world, cap="1/day").refused_per_hour == 2


def test_each_resource_adds_its_own_and_others_nothing(world: World) -> None:
    world.at("2025-03-27T01:00:00Z")
    world.admin.create_resource("video")
    world.limit("5/day", resource="video")
    world.take(3)
    assert world.consume(5, resource="video").allowed
    one = impact(world, cap="1/day", resources=["video"])
    assert (one.active, one.cut_off, one.refused_per_hour, one.all_resources) == (1, 1, 4, False)
    both = impact(world, deny=True)
    assert (both.active, both.cut_off, both.refused_per_hour, both.all_resources) == (2, 2, 4, True)


def test_shares_are_rounded_up() -> None:
    def of(cut_off: int, active: int) -> int:
        return Impact(active, cut_off, active, 0, False, False).share_percent

    assert [of(0, 0), of(0, 7), of(1, 3), of(1, 2), of(1, 1000), of(3, 3)] == [0, 0, 34, 50, 1, 100]


def test_with_fewer_looked_at_than_are_active_it_is_an_estimate() -> None:
    assert Impact(10, 0, 9, 0, False, False).estimated
    assert not Impact(10, 0, 10, 0, False, False).estimated


# ---- protected ones


@pytest.mark.parametrize(
    ("how", "hit"),
    [
        ({"cap": "1/day"}, False),
        ({"cap": "1/day", "include_protected": True}, True),
        ({"cap": "1/day", "include_protected": True, "tiers": ["free"]}, False),
        ({"total": "99/day", "include_protected": True}, True),
        ({"total": "99/day"}, False),
        ({"scale": 100, "include_protected": True}, False),
    ],
)
def test_protected_hit_is_whether_a_protected_tier_with_users_gets_less(
    morning: World, how: dict[str, Any], hit: bool
) -> None:
    assert impact(morning, **how).protected_hit is hit


def test_a_protected_tier_is_hit_by_its_users_whether_active_or_not(world: World) -> None:
    assert not impact(world, cap="1/day", include_protected=True).protected_hit
    world.admin.set_tier(user="paul", tier="pro")
    assert impact(world, cap="2/day", include_protected=True, replace=True).protected_hit


def test_a_protected_default_tier_is_hit_also_before_anybody_came(world: World) -> None:
    world.admin.set_default_tier("pro")
    assert impact(world, cap="1/day", include_protected=True).protected_hit


def test_a_protected_user_who_is_active_is_hit(morning: World) -> None:
    morning.admin.protect("ada")
    assert not impact(morning, cap="1/day", tiers=["free"]).protected_hit
    how = {"include_protected": True, "tiers": ["free"], "replace": True}
    assert impact(morning, cap="1/day", **how).protected_hit
    assert not impact(morning, cap="3/day", **how).protected_hit


# ---- many users


def test_of_many_users_a_few_stand_for_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for user in "abcdef":
        world.take(3 if user in "ad" else 2, user=user)
    for name, value in (("RUNS", 2), ("RUN_LENGTH", 1), ("ALL_UP_TO", 5)):
        monkeypatch.setattr(f"quotactl.operations.impact.{name}", value)
    # Of a, b, c and of d, e, f the first stands for three.
    few = impact(world, cap="2/day")
    assert (few.sampled, few.active, few.cut_off, few.estimated) == (2, 6, 6, True)
    monkeypatch.setattr("quotactl.operations.impact.ALL_UP_TO", 6)
    everybody = impact(world, cap="1/day", replace=True)
    assert (everybody.sampled, everybody.active, everybody.estimated) == (6, 6, False)
