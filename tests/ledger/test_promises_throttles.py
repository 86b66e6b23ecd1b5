"""DESIGN §3, promises 17 to 21: throttles and enforcement."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from quotactl import Conflict, InvalidInput, NotFound
from quotactl.operations.emergency import Timing
from quotactl.operations.impact import Impact
from quotactl.policy.levers import lever

if TYPE_CHECKING:
    from conftest import World

BELOW = (
    "tier", "tier_limit", "user", "override", "block", "grant_pool", "counter", "entry", "demand",
    "reservation",
)  # fmt: skip


def below(world: World) -> list[Any]:
    return [world.sql(f"SELECT * FROM {table}") for table in BELOW]


# ---- 17. A throttle never edits anything below it


def test_a_throttle_writes_one_row_and_edits_nothing_below(world: World) -> None:
    world.take(2)
    world.grant(2)
    world.admin.set_override(user="bob", resource="image", limit="9/day", reason="r")
    before = below(world)
    throttle_id = world.throttle(scale=50, tiers=["free"], resources=["image"])
    assert world.count("switch") == 1
    assert below(world) == before
    world.admin.throttle_off(throttle_id, reason="cool again")
    assert below(world) == before


@pytest.mark.parametrize("ending", ["off", "time"])
def test_the_end_of_a_throttle_restores_exactly_what_was_there(world: World, ending: str) -> None:
    world.take(1)
    world.grant(1)
    asked = [(amount, user) for amount in (1, 2, 3, 4) for user in ("ada", "bob")]

    def told() -> list[Any]:
        # The time to wait moves with the clock.
        decisions = [world.check(amount, user=user) for amount, user in asked]
        return [{**decision.to_dict(), "retry_after_s": None} for decision in decisions]

    before = told()
    throttle_id = world.throttle(deny=True, duration="2h")
    assert not any(world.check(amount, user=user).allowed for amount, user in asked)
    if ending == "off":
        world.admin.throttle_off(throttle_id, reason="cool again")
    else:
        world.later(hours=2)
    assert told() == before


def test_a_throttle_holds_for_the_next_decision_of_another_connection(world: World) -> None:
    other = world.reopened()
    assert other.consume(user="ada", resource="image").allowed
    throttle_id = world.throttle(deny=True)
    assert other.consume(user="ada", resource="image").reason == "throttled"
    world.admin.throttle_off(throttle_id, reason="cool again")
    assert other.consume(user="ada", resource="image").allowed


def test_a_throttle_lasts_an_hour_unless_told_otherwise_and_says_so(world: World) -> None:
    made = world.admin.throttle_on(deny=True, reason="melting")
    assert made.item["ends_at"] == "2025-03-27T10:00:00Z"
    assert "10:00" in made.message
    world.at("2025-03-27T09:59:59.999Z")
    assert world.consume().reason == "throttled"
    world.at("2025-03-27T10:00:00Z")
    assert world.consume().allowed


@pytest.mark.parametrize(
    ("how", "end"),
    [
        ({"duration": "6h"}, "2025-03-27T15:00:00Z"),
        ({"duration": timedelta(minutes=90)}, "2025-03-27T10:30:00Z"),
        ({"until": "18:00"}, "2025-03-27T18:00:00Z"),
        ({"until": "08:00"}, "2025-03-28T08:00:00Z"),
        ({"until": "tomorrow 09:00"}, "2025-03-28T09:00:00Z"),
        ({"until": "2025-03-27T12:00:00+01:00"}, "2025-03-27T11:00:00Z"),
        ({"until": datetime.fromisoformat("2025-03-27T11:00:00+00:00")}, "2025-03-27T11:00:00Z"),
        ({"no_expiry": True}, None),
    ],
)
def test_a_throttle_ends_as_it_was_told(world: World, how: dict[str, Any], end: str | None) -> None:
    made = world.admin.throttle_on(deny=True, reason="melting", **how)
    assert made.item["ends_at"] == end


def test_an_end_is_read_in_the_ledgers_zone(rome: World) -> None:
    made = rome.admin.throttle_on(deny=True, until="18:00", reason="melting")
    assert made.item["ends_at"] == "2025-03-28T17:00:00Z"
    later = rome.admin.throttle_on(cap="1/day", until="2025-03-30 18:00", reason="melting")
    assert later.item["ends_at"] == "2025-03-30T16:00:00Z"


@pytest.mark.parametrize(
    "how",
    [
        {"until": "2025-03-27T08:00:00Z"},
        {"until": "2025-03-27T09:00:00Z"},
        {"duration": "2"},
        {"duration": "0m"},
        {"duration": timedelta(0)},
        {"until": "18"},
        {"duration": "1h", "until": "18:00"},
        {"duration": "1h", "no_expiry": True},
        {"until": datetime(2025, 3, 28)},  # noqa: DTZ001
        {"duration": timedelta(days=10**8)},
    ],
)
def test_an_end_that_is_none_is_refused(world: World, how: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        world.admin.throttle_on(deny=True, reason="melting", **how)
    assert world.count("switch") == 0


def test_a_throttle_needs_a_reason(world: World) -> None:
    for reason in (None, "", "  "):
        with pytest.raises(InvalidInput):
            world.admin.throttle_on(deny=True, reason=reason)
    assert world.count("switch") == 0


# ---- 18. Several stack


def test_of_several_throttles_the_lowest_result_wins(world: World) -> None:
    world.limit("100/day")
    world.throttle(cap="40/day")
    world.throttle(scale=30)
    world.throttle(cap="35/day", tiers=["free"])
    assert world.check().limit == 30


def test_scales_apply_to_the_base_and_never_to_each_other(world: World) -> None:
    world.limit("100/day")
    world.throttle(scale=50)
    world.throttle(scale=40, tiers=["free"])
    assert world.check().limit == 40


def test_a_scale_lowers_every_window_and_rounds_down(world: World) -> None:
    world.limit("11/day,7/hour,3/minute")
    world.throttle(scale=50)
    assert (world.check(2).limit, world.check(2).period) == (1, "minute")
    world.limit("11/day")
    assert world.check().limit == 5


@pytest.mark.parametrize(
    ("limit", "scale", "floor", "result"),
    [
        ("3/day", 25, None, 0),
        ("3/day", 25, 1, 1),
        ("3/day", 25, 3, 3),
        ("3/day", 25, 5, 3),  # a floor never exceeds the base
        ("0/day", 25, 5, 0),
        ("100/day", 25, 5, 25),
        ("3/day", 100, None, 3),
        ("3/day", 0, None, 0),
        ("9007199254740991/day", 99, None, 9007199254740991 * 99 // 100),
    ],
)
def test_a_floor_is_not_above_the_base(
    world: World, limit: str, scale: int, floor: int | None, result: int
) -> None:
    world.limit(limit)
    world.throttle(scale=scale, floor=floor)
    assert world.check().limit == result


def test_scaling_unlimited_leaves_it_so_and_capping_it_caps(world: World) -> None:
    world.limit("unlimited")
    world.throttle(scale=1)
    assert world.consume(1000).limit is None
    world.throttle(cap="1001/day")
    assert world.consume().limit == 1001
    assert world.consume().reason == "throttled"


def test_a_cap_above_the_limit_changes_nothing(world: World) -> None:
    world.throttle(cap="10/day")
    world.take(3)
    denied = world.consume()
    assert (denied.reason, denied.limit) == ("limit_reached", 3)


def test_a_cap_of_a_period_that_the_tier_lacks_is_one_more_ceiling(world: World) -> None:
    world.throttle(cap="1/hour")
    world.take(1)
    denied = world.consume()
    assert (denied.reason, denied.period, denied.limit) == ("throttled", "hour", 1)
    world.later(hours=1)
    world.take(1)


def test_a_scale_applies_to_the_override_of_a_user(world: World) -> None:
    world.admin.set_override(user="ada", resource="image", limit="20/day", reason="event")
    world.throttle(scale=50)
    assert world.check().limit == 10


def test_a_throttle_is_for_its_resources_and_tiers_alone(world: World) -> None:
    world.admin.create_resource("video")
    world.limit("3/day", resource="video")
    world.admin.set_tier("bob", "plus")
    world.throttle(deny=True, resources=["image"], tiers=["free"])
    assert world.consume().reason == "throttled"
    assert world.consume(resource="video").allowed
    assert world.consume(user="bob").allowed


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"deny": True, "scale": 5},
        {"deny": True, "floor": 1},
        {"cap": "3/day", "floor": 1},
        {"cap": "3"},
        {"cap": "3/day,1/hour"},
        {"cap": "unlimited"},
        {"scale": 101},
        {"scale": -1},
        {"scale": 1.5},
        {"scale": 50, "floor": -1},
        {"scale": 50, "floor": 2**53},
        {"deny": True, "name": "7"},
        {"deny": True, "name": "[red]"},
    ],
)
def test_a_throttle_that_is_none_is_refused(world: World, how: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        world.admin.throttle_on(reason="melting", **how)
    assert world.count("switch") == 0


def test_a_throttle_on_what_is_not_there_is_refused(world: World) -> None:
    for how in ({"tiers": ["gold"]}, {"resources": ["vidoe"]}):
        with pytest.raises(NotFound):
            world.admin.throttle_on(deny=True, reason="melting", **how)  # type: ignore[arg-type]
    assert world.count("switch") == 0


# ---- 19. Identical, replace, extend


def test_an_identical_throttle_is_already_on(world: World) -> None:
    made = world.admin.throttle_on(
        cap="1/day", tiers=["free", "plus"], name="a", duration="2h", reason="melting"
    )
    again = world.admin.throttle_on(
        cap="1/day", tiers=["plus", "free"], name="b", duration="5h", reason="still melting"
    )
    assert not again.changed
    assert again.item["id"] == made.item["id"]
    assert again.item["ends_at"] == "2025-03-27T11:00:00Z"
    assert "already on until 2025-03-27 11:00" in again.message
    assert "throttle extend" in again.message
    assert world.count("switch") == 1


def test_an_identical_throttle_that_is_to_come_does_not_keep_one_from_coming_on_now(
    world: World,
) -> None:
    planned = world.throttle(cap="1/day", at="18:00", duration="2h", name="tonight")
    now = world.admin.throttle_on(cap="1/day", duration="12h", reason="worse")
    assert now.changed
    assert now.item["id"] != planned
    assert world.check().limit == 1
    # Under its own end each holds alone, and lifting one leaves the other.
    world.admin.throttle_off(now.item["id"], reason="cool")
    assert world.check().limit == 3
    world.at("2025-03-27T19:00:00Z")
    assert world.check().limit == 1


def test_an_identical_throttle_that_is_to_come_is_already_so_for_its_start(world: World) -> None:
    planned = world.throttle(cap="1/day", at="18:00", duration="2h")
    for at in ("18:00", "19:00"):
        again = world.admin.throttle_on(cap="1/day", at=at, duration="30m", reason="r")
        assert (again.changed, again.item["id"]) == (False, planned)
        assert "already scheduled from 2025-03-27 18:00 UTC until 2025-03-27 20:00" in again.message
    assert world.throttle(cap="1/day", at="17:59", duration="2h") != planned


def test_a_name_that_is_to_come_needs_replace_now(world: World) -> None:
    world.throttle(cap="1/day", at="18:00", name="tonight")
    with pytest.raises(Conflict, match="scheduled"):
        world.admin.throttle_on(cap="1/day", name="tonight", duration="12h", reason="worse")
    assert world.check().limit == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"cap": "2/day"}, {"cap": "1/day"}),
        ({"scale": 50}, {"scale": 25}),
        ({"scale": 50}, {"scale": 50, "floor": 1}),
        ({"cap": "2/day"}, {"cap": "2/day", "freeze_grants": True}),
        ({"deny": True}, {"deny": True, "include_protected": True}),
    ],
)
def test_another_value_for_the_same_needs_replace(
    world: World, one: dict[str, Any], other: dict[str, Any]
) -> None:
    first = world.throttle(**one)
    with pytest.raises(Conflict) as caught:
        world.admin.throttle_on(reason="worse", **other)
    assert "replace" in (caught.value.hint or "")
    assert world.count("switch") == 1
    made = world.admin.throttle_on(reason="worse", replace=True, **other)
    assert made.changed
    live = world.sql("SELECT id FROM switch WHERE ended_at_ms IS NULL")
    assert live == [(made.item["id"],)]
    assert live != [(first,)]


@pytest.mark.parametrize(
    "other",
    [
        {"cap": "1/hour"},
        {"scale": 10},
        {"deny": True},
        {"cap": "1/day", "tiers": ["free"]},
        {"cap": "1/day", "resources": ["image"]},
    ],
)
def test_another_target_kind_or_period_stacks(world: World, other: dict[str, Any]) -> None:
    world.throttle(cap="2/day")
    world.throttle(**other)
    assert world.count("switch") == 2


def test_a_name_in_use_needs_replace(world: World) -> None:
    world.throttle(cap="2/day", name="melt")
    with pytest.raises(Conflict):
        world.admin.throttle_on(deny=True, name="melt", reason="worse")
    world.admin.throttle_on(deny=True, name="melt", replace=True, reason="worse")
    assert world.admin.throttle_off("melt", reason="cool").item["kind"] == "deny"
    assert world.consume(3).allowed


def test_a_throttle_that_is_over_is_in_nobodys_way(world: World) -> None:
    first = world.throttle(cap="1/day", name="melt", duration="1h")
    world.later(hours=1)
    second = world.throttle(cap="1/day", name="melt", duration="1h")
    assert second > first
    world.admin.throttle_off("melt", reason="cool")
    assert world.consume(3).allowed


def test_extend_moves_the_end_and_nothing_else(world: World) -> None:
    throttle_id = world.throttle(cap="1/day", name="melt", duration="1h")
    world.later(minutes=30)
    moved = world.admin.throttle_extend("melt", duration="2h", reason="still hot")
    assert (moved.item["id"], moved.item["ends_at"]) == (throttle_id, "2025-03-27T11:30:00Z")
    world.at("2025-03-27T11:29:59Z")
    world.take(1)
    assert world.consume().reason == "throttled"
    sooner = world.admin.throttle_extend(throttle_id, until="2025-03-27T11:29:59.500Z", reason="r")
    assert sooner.changed
    world.later(seconds=0.5)
    assert world.consume().allowed


def test_extending_to_the_same_end_is_already_so(world: World) -> None:
    throttle_id = world.throttle(deny=True, no_expiry=True)
    assert not world.admin.throttle_extend(throttle_id, no_expiry=True, reason="r").changed


def test_what_is_over_cannot_be_extended(world: World) -> None:
    over = world.throttle(deny=True, duration="1h")
    world.later(hours=1)
    with pytest.raises(Conflict):
        world.admin.throttle_extend(over, duration="1h", reason="r")
    lifted = world.throttle(deny=True)
    world.admin.throttle_off(lifted, reason="r")
    with pytest.raises(Conflict):
        world.admin.throttle_extend(lifted, duration="1h", reason="r")
    assert world.consume().allowed


def test_off_twice_is_already_so(world: World) -> None:
    throttle_id = world.throttle(deny=True)
    assert world.admin.throttle_off(throttle_id, reason="r").changed
    assert not world.admin.throttle_off(throttle_id, reason="r").changed


@pytest.mark.parametrize("unknown", [9, "melt", 2**70, ""])
def test_a_throttle_that_is_not_there_is_not_found(world: World, unknown: int | str) -> None:
    with pytest.raises(NotFound):
        world.admin.throttle_off(unknown, reason="r")


# ---- 20. Protected tiers and users are spared


def test_protected_tiers_and_users_are_spared(world: World) -> None:
    world.admin.set_tier("pia", "pro")
    world.admin.protect("ada")
    world.throttle(deny=True)
    assert world.consume(user="pia").allowed
    assert world.consume(user="ada").allowed
    assert world.consume(user="bob").reason == "throttled"


def test_include_protected_spares_nobody(world: World) -> None:
    world.admin.set_tier("pia", "pro")
    world.admin.protect("ada")
    throttle_id = world.throttle(deny=True, include_protected=True)
    assert world.consume(user="pia").reason == world.consume(user="ada").reason == "throttled"
    world.admin.throttle_off(throttle_id, reason="r")
    world.throttle(deny=True, tiers=["pro"])
    assert world.consume(user="pia").allowed


def test_protection_is_lifted_at_once(world: World) -> None:
    world.admin.protect("ada")
    world.throttle(deny=True)
    assert world.consume().allowed
    world.admin.unprotect("ada")
    assert world.consume().reason == "throttled"
    world.admin.protect_tier("free")
    assert world.consume().allowed


def test_protection_spares_from_throttles_alone(world: World) -> None:
    world.admin.protect("ada")
    world.take(3)
    assert world.consume().reason == "limit_reached"


# ---- 21. Enforcement


def test_shadow_serves_counts_and_counts_apart(world: World) -> None:
    switch = world.admin.enforcement_set("shadow", reason="trial").item["id"]
    ok = world.consume(2)
    assert (ok.reason, ok.would_be, ok.rule.kind) == ("ok", None, "tier")
    over = world.consume(2)
    assert (over.allowed, over.reason, over.would_be) == (True, "ok", "limit_reached")
    assert (over.rule.kind, over.rule.id) == ("enforcement", switch)
    assert over.to_dict()["would_be"] == "limit_reached"
    assert world.counters() == [(4, 0, 0, 2)]
    assert world.sql("SELECT sum(used), sum(denied), sum(shadow_denied) FROM demand") == [(4, 0, 2)]


def test_shadow_tells_what_would_have_been_throttled_or_unlisted(world: World) -> None:
    world.admin.create_resource("video")
    world.admin.enforcement_set("shadow", reason="trial")
    world.throttle(cap="1/day")
    assert world.consume(2).would_be == "throttled"
    assert world.consume(resource="video").would_be == "not_in_tier"
    assert world.check(2).would_be == "limit_reached"


def test_grants_pay_in_shadow_what_they_would_pay(world: World) -> None:
    world.admin.enforcement_set("shadow", reason="trial")
    grant_id = world.grant(2)
    assert world.consume(5).granted == 2
    over = world.consume(1)
    assert (over.granted, over.would_be) == (0, "limit_reached")
    assert world.balance(grant_id) == 0


@pytest.mark.parametrize("mode", ["shadow", "off"])
def test_a_block_holds_in_shadow_and_off(world: World, mode: str) -> None:
    world.admin.enforcement_set(mode, reason="trial")
    world.admin.block("ada", reason="abuse")
    denied = world.consume()
    assert (denied.allowed, denied.reason) == (False, "blocked")
    assert world.counters() == [(0, 0, 1, 0)]


def test_off_serves_and_counts_as_used(world: World) -> None:
    world.throttle(deny=True)
    world.admin.enforcement_set("off", reason="trial")
    decision = world.consume(10)
    assert (decision.allowed, decision.reason, decision.would_be) == (True, "ok", None)
    assert decision.rule.kind == "enforcement"
    assert world.counters() == [(10, 0, 0, 0)]


def test_what_was_used_in_shadow_counts_when_limits_hold_again(world: World) -> None:
    switch = world.admin.enforcement_set("shadow", reason="trial").item["id"]
    world.take(5)
    done = world.admin.enforcement_set("on", reason="done")
    assert (done.changed, done.item) == (True, {"mode": "on", "lifted": [switch]})
    denied = world.consume()
    assert (denied.reason, denied.used) == ("limit_reached", 5)
    done = world.admin.enforcement_set("on", reason="done")
    assert (done.changed, done.item) == (False, {"mode": "on", "lifted": []})


def test_enforcement_ends_like_a_throttle(world: World) -> None:
    made = world.admin.enforcement_set("off", reason="trial")
    assert made.item["ends_at"] == "2025-03-27T10:00:00Z"
    world.take(5)
    world.at("2025-03-27T09:59:59.999Z")
    assert world.consume().allowed
    world.at("2025-03-27T10:00:00Z")
    assert world.consume().reason == "limit_reached"


def test_enforcement_has_a_scope(world: World) -> None:
    world.admin.create_resource("video")
    world.limit("0/day", resource="video")
    world.limit("0/day")
    world.admin.set_tier("bob", "plus")
    world.limit("0/day", tier="plus")
    world.admin.enforcement_set("shadow", resources=["image"], tiers=["free"], reason="trial")
    assert world.consume().would_be == "limit_reached"
    assert not world.consume(resource="video").allowed
    assert not world.consume(user="bob").allowed


def test_enforcement_of_one_scope_is_turned_on_alone(world: World) -> None:
    world.limit("0/day")
    world.admin.enforcement_set("shadow", tiers=["free"], reason="trial")
    world.admin.enforcement_set("off", tiers=["plus"], reason="trial")
    world.admin.enforcement_set("on", tiers=["free"], reason="done")
    assert not world.consume().allowed
    world.admin.set_tier("ada", "plus")
    assert world.consume(60).allowed


def test_the_same_enforcement_with_another_end_replaces_the_first(world: World) -> None:
    world.admin.enforcement_set("shadow", no_expiry=True, reason="trial")
    assert not world.admin.enforcement_set("shadow", no_expiry=True, reason="trial").changed
    assert world.admin.enforcement_set("shadow", duration="2h", reason="trial").changed
    assert world.sql("SELECT count(*) FROM switch WHERE ended_at_ms IS NULL") == [(1,)]


def test_an_unknown_mode_or_no_reason_is_refused(world: World) -> None:
    with pytest.raises(InvalidInput):
        world.admin.enforcement_set("of", reason="typo")
    with pytest.raises(InvalidInput):
        world.admin.enforcement_set("off")
    assert world.count("switch") == 0


def test_a_refund_of_what_shadow_served_goes_back(world: World) -> None:
    world.admin.enforcement_set("shadow", reason="trial")
    entry_id = world.take(5)
    world.q.refund(entry_id=entry_id)
    assert world.counters() == [(0, 0, 0, 5)]


# ---- 9. The rule that denied is one whose lifting would have helped


def test_where_only_frozen_grants_made_the_difference_the_freezing_throttle_is_named(
    world: World,
) -> None:
    world.limit("3/day")
    world.take(3)
    world.grant(5)
    freezing = world.throttle(scale=100, freeze_grants=True)
    world.throttle(cap="2/day")
    denied = world.check()
    assert (denied.reason, denied.rule.id) == ("throttled", freezing)


def test_a_deny_is_named_although_an_older_throttle_freezes_grants_too(world: World) -> None:
    world.limit("3/day")
    world.grant(5)
    world.throttle(cap="100/day", freeze_grants=True)
    deny = world.throttle(deny=True)
    denied = world.check()
    assert (denied.reason, denied.rule.id, denied.limit) == ("throttled", deny, 0)


def test_a_name_means_the_throttle_that_is_on_also_by_a_clock_that_went_back(world: World) -> None:
    first = world.throttle(deny=True, name="melt", duration="1h")
    world.later(hours=2)
    second = world.throttle(deny=True, name="melt")
    assert world.admin.throttle_off("melt", reason="cool").item["id"] == second
    assert world.admin.throttle_off("melt", reason="cool").item["id"] == second, "the newest"
    world.later(hours=-1.5)
    off = world.admin.throttle_off("melt", reason="cool")
    assert (off.changed, off.item["id"]) == (True, first)


@pytest.mark.parametrize("modes", [("shadow", "off"), ("off", "shadow")])
def test_where_scopes_overlap_off_goes_further_than_shadow(
    world: World, modes: tuple[str, str]
) -> None:
    for mode, tiers in zip(modes, ([], ["free"]), strict=True):
        world.admin.enforcement_set(mode, tiers=tiers, reason="trial")
    decision = world.consume(9)
    assert (decision.allowed, decision.would_be) == (True, None)
    assert decision.rule.name == "off"


@pytest.mark.parametrize("what", ["tier", "resource"])
def test_a_throttle_for_what_could_have_no_name_says_which(world: World, what: str) -> None:
    def on(name: str) -> None:
        how: dict[str, Any] = {f"{what}s": [name]}
        world.admin.throttle_on(deny=True, reason="x", **how)

    with pytest.raises(InvalidInput, match=f"{what} 'a b' is no name"):
        on("a b")
    with pytest.raises(NotFound, match=f"no {what} 'gold'"):
        on("gold")


def test_of_several_pulled_at_once_one_that_is_on_keeps_no_other_from_coming(world: World) -> None:
    levers = [lever(cap="2/day"), lever(cap="1/hour")]
    world.throttle(cap="2/day")
    shown: list[Impact] = []
    outcomes = world.admin.pull(levers, Timing(), reason="melting", approve=shown.append)
    assert [outcome.changed for outcome in outcomes] == [False, True]
    assert len(shown) == 1
    again = world.admin.pull(levers, Timing(), reason="melting", approve=shown.append)
    assert [outcome.changed for outcome in again] == [False, False]
    assert len(shown) == 1, "nobody is asked about what is so already"
