"""DESIGN §3, promises 7 to 12: deciding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from quotactl import Conflict, Decision, InvalidInput, NotFound, QuotaError, Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import World


def figures(decision: Decision) -> tuple[Any, ...]:
    return (decision.reason, decision.period, decision.limit, decision.used, decision.remaining)


# ---- 7. Order: blocked, not_in_tier, windows, grants


def test_a_block_goes_before_everything(world: World) -> None:
    world.grant(5)
    world.admin.set_override(user="ada", resource="image", limit="unlimited", reason="vip")
    world.throttle(deny=True)
    made = world.admin.block("ada", resource="image", reason="abuse")
    decision = world.consume()
    assert (decision.reason, decision.exit_code) == ("blocked", 5)
    assert (decision.rule.kind, decision.rule.id) == ("block", made.item["id"])


def test_a_block_of_all_resources_holds_for_each(world: World) -> None:
    world.admin.create_resource("video")
    world.limit("1/day", resource="video")
    world.admin.block("ada", reason="abuse")
    assert world.consume().reason == world.consume(resource="video").reason == "blocked"
    assert world.consume(user="bob", resource="video").allowed


def test_a_block_of_one_resource_leaves_the_others(world: World) -> None:
    world.admin.create_resource("video")
    world.limit("1/day", resource="video")
    world.admin.block("ada", resource="video", reason="abuse")
    assert world.consume(resource="video").reason == "blocked"
    assert world.consume().allowed


def test_a_block_ends_at_its_end(world: World) -> None:
    world.admin.block("ada", duration="2h", reason="abuse")
    assert world.consume().retry_after_s == 7200
    world.later(seconds=7199.999)
    assert world.consume().reason == "blocked"
    world.later(seconds=0.001)
    assert world.consume().allowed


def test_a_resource_that_neither_tier_nor_override_lists_is_not_in_tier(world: World) -> None:
    world.admin.create_resource("video")
    decision = world.consume(resource="video")
    assert (decision.reason, decision.exit_code, decision.retry_after_s) == ("not_in_tier", 3, None)


def test_an_override_alone_lists_a_resource(world: World) -> None:
    world.admin.create_resource("video")
    world.admin.set_override(user="ada", resource="video", limit="1/day", reason="trial")
    assert world.consume(resource="video").allowed
    assert world.consume(resource="video").reason == "limit_reached"


def test_a_grant_pays_for_an_unlisted_resource_whole_or_not_at_all(world: World) -> None:
    world.admin.create_resource("video")
    world.admin.add_grant(user="ada", resource="video", amount=2, reason="trial")
    assert world.consume(3, resource="video").reason == "not_in_tier"
    decision = world.consume(2, resource="video")
    assert (decision.allowed, decision.reason, decision.granted) == (True, "granted", 2)
    assert world.consume(1, resource="video").reason == "not_in_tier"


def test_a_throttle_does_not_make_an_unlisted_resource_throttled(world: World) -> None:
    world.admin.create_resource("video")
    world.throttle(deny=True)
    assert world.consume(resource="video").reason == "not_in_tier"


def test_an_override_replaces_the_limit_of_its_period_alone(world: World) -> None:
    world.admin.set_tier("ada", "plus")
    world.admin.set_override(user="ada", resource="image", limit="6/day", reason="event")
    world.take(5)
    assert world.consume().period == "minute"
    world.later(minutes=1)
    world.take(1)
    assert figures(world.consume()) == ("limit_reached", "day", 6, 6, 0)


def test_an_override_may_be_lower_than_the_tier(world: World) -> None:
    world.admin.set_override(user="ada", resource="image", limit="1/day", reason="careful")
    world.take(1)
    denied = world.consume()
    assert (denied.reason, denied.rule.kind) == ("limit_reached", "override")


def test_a_bare_unlimited_override_replaces_every_period(world: World) -> None:
    world.admin.set_tier("ada", "plus")
    world.admin.set_override(user="ada", resource="image", limit="unlimited", reason="vip")
    decision = world.consume(100)
    assert (decision.allowed, decision.limit, decision.remaining) == (True, None, None)


def test_an_override_ends_at_its_end_and_the_tier_is_there_again(world: World) -> None:
    world.admin.set_override(
        user="ada", resource="image", limit="9/day", duration="2h", reason="event"
    )
    world.take(3)
    world.later(seconds=7199.999)
    world.take(1)
    world.later(seconds=0.001)
    assert figures(world.consume()) == ("limit_reached", "day", 3, 4, 0)


def test_an_override_or_a_block_that_ran_out_makes_room_for_another(world: World) -> None:
    how = {"user": "ada", "resource": "image"}
    for limit in ("9/day", "4/day"):
        made = world.admin.set_override(**how, limit=limit, duration="2h", reason="event")
        assert made.changed
        assert world.check().limit == int(limit[0])
        world.later(hours=2)
    for _ in range(2):
        assert world.admin.block("ada", resource="image", duration="2h", reason="abuse").changed
        assert world.check().reason == "blocked"
        world.later(hours=2)
    assert not world.admin.unblock("ada", reason="over").changed
    before = world.sql("SELECT before FROM audit WHERE action IN ('override.set', 'user.block')")
    assert before == [(None,)] * 4, "what had run out was not replaced"


def test_a_limit_of_zero_is_limit_reached_and_grants_may_pay(world: World) -> None:
    world.limit("0/day")
    assert world.consume().reason == "limit_reached"
    world.grant(1)
    assert world.consume().reason == "granted"
    assert world.consume().reason == "limit_reached"


def test_a_deny_throttle_stops_grants_too(world: World) -> None:
    grant_id = world.grant(5)
    world.throttle(deny=True)
    assert world.consume().reason == "throttled"
    assert world.balance(grant_id) == 5


# ---- 8. The reason compares this one request with and without throttles


def test_refused_only_because_of_a_throttle_is_throttled(world: World) -> None:
    throttle_id = world.throttle(cap="1/day", name="gpu-melt")
    world.take(1)
    denied = world.consume()
    assert (denied.reason, denied.exit_code) == ("throttled", 4)
    assert denied.rule.to_dict() == {"kind": "throttle", "id": throttle_id, "name": "gpu-melt"}


def test_refused_with_and_without_a_throttle_is_limit_reached(world: World) -> None:
    world.take(3)
    world.throttle(cap="1/day")
    denied = world.consume()
    assert (denied.reason, denied.exit_code, denied.rule.kind) == ("limit_reached", 3, "tier")
    assert denied.limit == 3


def test_one_request_may_be_throttled_and_a_larger_one_limit_reached(world: World) -> None:
    world.throttle(cap="1/day")
    assert [world.check(amount).reason for amount in (1, 2, 3, 4)] == [
        "ok",
        "throttled",
        "throttled",
        "limit_reached",
    ]


def test_grants_count_in_the_comparison(world: World) -> None:
    world.take(3)
    world.grant(2)
    world.throttle(cap="0/day", freeze_grants=True)
    # Without the throttle the grant would have paid.
    assert world.consume().reason == "throttled"
    assert world.consume(3).reason == "limit_reached"


def test_what_a_throttle_cost_is_left_to_demand(world: World) -> None:
    world.throttle(cap="1/day")
    for _ in range(5):
        world.consume()
    ((used, _, denied, _),) = world.counters()
    limit = 3
    assert min(used + denied, limit) - min(used, limit) == 2


# ---- 9. Figures in a decision


def test_figures_of_a_denial_are_of_the_window_that_denied(world: World) -> None:
    world.admin.set_tier("ada", "plus")
    world.take(5)
    assert figures(world.consume()) == ("limit_reached", "minute", 5, 5, 0)


def test_of_several_windows_that_deny_the_latest_reset_is_named(world: World) -> None:
    world.limit("3/day,3/hour,3/minute")
    world.take(3)
    assert figures(world.consume()) == ("limit_reached", "day", 3, 3, 0)


def test_of_several_throttles_the_lowest_id_is_named(world: World) -> None:
    first = world.throttle(cap="1/day")
    world.throttle(scale=34)
    world.take(1)
    denied = world.consume()
    assert (denied.rule.id, denied.limit) == (first, 1)


def test_an_allowed_request_shows_the_window_with_least_remaining(world: World) -> None:
    world.limit("10/day,5/hour")
    assert figures(world.consume()) == ("ok", "hour", 5, 1, 4)
    world.later(hours=1)
    world.take(5)
    world.later(hours=1)
    assert figures(world.consume(2)) == ("ok", "day", 10, 8, 2)


def test_of_equal_remainders_the_longest_window_is_shown(world: World) -> None:
    world.limit("5/month,5/day,5/hour")
    assert world.consume().period == "month"


def test_consume_reports_used_with_the_request_and_check_without(world: World) -> None:
    assert world.check(2).used == 0
    assert world.consume(2).used == 2
    assert world.check(1).used == 2
    assert world.check(1).remaining == 1


def test_a_decision_has_exactly_the_documented_json(world: World) -> None:
    assert world.consume(2, key="r1").to_dict() == {
        "allowed": True,
        "reason": "ok",
        "user": "ada",
        "resource": "image",
        "amount": 2,
        "tier": "free",
        "period": "day",
        "limit": 3,
        "used": 2,
        "remaining": 1,
        "granted": 0,
        "reset_at": "2025-03-28T00:00:00Z",
        "retry_after_s": None,
        "rule": {"kind": "tier", "id": 1, "name": "free"},
        "entry_id": 1,
        "reservation_id": None,
        "replayed": False,
    }


# ---- 10. retry_after_s


def passes_exactly_at(world: World, amount: int = 1) -> None:
    """At `retry_after_s` the same request passes, and a second before it does not."""
    denied = world.check(amount)
    assert not denied.allowed
    assert denied.retry_after_s is not None
    world.later(seconds=denied.retry_after_s - 1)
    assert not world.check(amount).allowed
    world.later(seconds=1)
    assert world.check(amount).allowed


def test_retry_after_is_the_reset_of_the_window(world: World) -> None:
    world.take(3)
    assert world.consume().retry_after_s == 15 * 3600
    passes_exactly_at(world)


def test_retry_after_is_rounded_up_to_whole_seconds(world: World) -> None:
    world.at("2025-03-27T23:59:58.001Z")
    world.take(3)
    assert world.consume().retry_after_s == 2


def test_retry_after_waits_for_every_window(world: World) -> None:
    world.limit("3/day,3/hour")
    world.take(3)
    passes_exactly_at(world)


def test_retry_after_is_the_end_of_a_throttle(world: World) -> None:
    world.throttle(deny=True, duration="2h")
    assert world.consume().retry_after_s == 7200
    passes_exactly_at(world)


def test_retry_after_is_the_earlier_of_reset_and_end(world: World) -> None:
    world.throttle(cap="1/day", duration="20h")
    world.take(1)
    assert world.consume().retry_after_s == 15 * 3600
    passes_exactly_at(world)


def test_retry_after_skips_a_reset_that_a_throttle_outlasts(world: World) -> None:
    world.throttle(deny=True, duration="20h")
    assert world.consume().retry_after_s == 20 * 3600
    passes_exactly_at(world)


def test_retry_after_is_the_end_of_a_low_override(world: World) -> None:
    world.admin.set_override(
        user="ada", resource="image", limit="0/day", duration="3h", reason="careful"
    )
    assert world.consume().retry_after_s == 3 * 3600
    passes_exactly_at(world)


def test_retry_after_is_null_for_an_amount_above_every_limit_to_come(world: World) -> None:
    assert world.consume(4).retry_after_s is None


def test_retry_after_is_null_where_no_moment_would_do(world: World) -> None:
    world.limit("0/day")
    assert world.consume().retry_after_s is None
    world.throttle(deny=True, no_expiry=True, tiers=["plus"])
    assert world.consume(user="bob").retry_after_s is None
    world.admin.block("eve", reason="abuse")
    assert world.consume(user="eve").retry_after_s is None


def test_an_amount_above_todays_override_may_pass_when_it_ends(world: World) -> None:
    world.admin.set_override(
        user="ada", resource="image", limit="1/day", duration="1h", reason="careful"
    )
    assert world.consume(3).retry_after_s == 3600
    assert world.consume(4).retry_after_s is None


# ---- 11. Unknown users


def test_an_unknown_user_is_on_the_default_tier(world: World) -> None:
    assert world.check(user="new").tier == "free"
    assert world.consume(user="new").tier == "free"
    world.admin.set_default_tier("plus")
    assert world.check(user="new").tier == world.check(user="newer").tier == "plus"


def test_a_check_of_an_unknown_user_makes_nobody_known(world: World) -> None:
    world.check(user="new")
    assert world.count("user") == 0


def test_consume_and_reserve_accept_unknown_users(world: World) -> None:
    assert world.consume(user="new").allowed
    assert world.q.reserve(user="newer", resource="image").allowed


def test_acts_that_accept_unknown_users_say_new_user(world: World) -> None:
    admin = world.admin
    outcomes = [
        admin.add_grant(user="a", resource="image", amount=1, reason="r"),
        admin.set_override(user="b", resource="image", limit="1/day", reason="r"),
        admin.block("c", reason="r"),
        admin.set_tier("d", "plus"),
    ]
    assert all("new user" in outcome.message for outcome in outcomes)
    assert "new user" not in admin.set_tier("d", "free").message


def test_acts_on_what_must_be_there_refuse_unknown_users(world: World) -> None:
    admin = world.admin
    acts: list[Callable[[], object]] = [
        lambda: admin.unblock("nobody"),
        lambda: admin.clear_override(user="nobody"),
        lambda: admin.reset_user("nobody", reason="r"),
    ]
    for act in acts:
        with pytest.raises(NotFound) as caught:
            act()
        assert caught.value.exit_code == 6
    assert world.count("user") == 0


def test_users_are_told_apart_to_the_letter(world: World) -> None:
    names = [
        "ada",
        "Ada",
        "ada ",
        "ad\u0430",
        "é",
        "e\u0301",
        "[red]ada[/red]",
        "x" * 256,
        "🙂" * 256,
    ]
    for name in names:
        world.take(3, user=name)
        assert not world.consume(user=name).allowed
    assert world.count("user") == len(names)


@pytest.mark.parametrize("user", ["", "x" * 257, "a\nb", "a\x1b[31m", "a\x00b", "\ud800", 7, None])
def test_an_id_that_is_none_is_refused(world: World, user: object) -> None:
    with pytest.raises(InvalidInput):
        world.q.consume(user=user, resource="image")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        world.admin.block(user, reason="r")  # type: ignore[arg-type]
    assert world.count("user") == 0


def test_an_unknown_resource_is_not_found(world: World) -> None:
    for name in ("vidoe", "", None, 3):
        with pytest.raises(NotFound):
            world.q.consume(user="ada", resource=name)  # type: ignore[arg-type]
    assert world.count("user") == 0


# ---- 12. In a batch each item is decided in order


def test_a_batch_is_decided_in_order(world: World) -> None:
    answers = world.q.consume_many([Request("ada", "image", amount) for amount in (2, 2, 1, 1)])
    assert [isinstance(a, Decision) and a.allowed for a in answers] == [True, False, True, False]
    assert world.counters() == [(3, 0, 3, 0)]


def test_a_bad_item_has_its_error_in_its_place_and_the_others_proceed(world: World) -> None:
    world.consume(2, user="eve", key="taken")
    answers = world.q.consume_many(
        [
            Request("ada", "image"),
            Request("ada", "vidoe"),
            Request("", "image"),
            Request("ada", "image", 0),
            Request("ada", "image", 2**63),
            Request("ada", "image", 1, "taken"),
            Request("ada", "image", 1, ""),
            Request("ada", "image"),
        ]
    )
    kinds = [type(answer) for answer in answers]
    assert kinds == [
        Decision,
        NotFound,
        InvalidInput,
        InvalidInput,
        InvalidInput,
        Conflict,
        InvalidInput,
        Decision,
    ]
    assert all(isinstance(a, QuotaError) or a.allowed for a in answers)
    assert world.counters()[0][0] == 2


def test_an_item_too_many_for_the_counter_leaves_the_others(world: World) -> None:
    world.limit("0/day")
    world.grant(2**53 - 1)
    world.grant(2**53 - 1)
    world.grant(1, user="bob")
    answers = world.q.consume_many(
        [
            Request("ada", "image", 2**53 - 1),
            Request("ada", "image", 2**53 - 1),
            Request("bob", "image", 1),
        ]
    )
    assert [type(answer) for answer in answers] == [Decision, InvalidInput, Decision]


def test_splitting_a_batch_changes_no_answer(world: World) -> None:
    world.limit("7/day,4/hour")
    world.grant(2, user="b")
    requests = [
        Request(user, "image", amount, key)
        for user, amount, key in [
            ("a", 1, "k1"),
            ("b", 4, None),
            ("a", 4, None),
            ("a", 1, "k1"),
            ("new", 3, "k2"),
            ("b", 1, None),
            ("new", 3, "k2"),
            ("new", 2, "k2"),
        ]
    ]

    def told(answers: list[Decision | QuotaError]) -> list[Any]:
        return [a.code if isinstance(a, QuotaError) else (a.allowed, a.reason) for a in answers]

    whole = told(world.q.consume_many(requests))
    for user in ("a", "b", "new"):
        world.admin.reset_user(user, reason="once more")
    world.later(hours=1)
    renamed = [
        Request(r.user, r.resource, r.amount, r.idempotency_key and r.idempotency_key + "x")
        for r in requests
    ]
    single = [answer for r in renamed for answer in world.q.consume_many([r])]
    assert told(single) == whole


def test_an_unknown_user_with_two_resources_in_a_batch_is_one_user(world: World) -> None:
    world.admin.create_resource("video")
    world.limit("1/day", resource="video")
    answers = world.q.consume_many([Request("new", "image"), Request("new", "video")])
    assert all(isinstance(a, Decision) and a.allowed for a in answers)
    assert world.sql("SELECT name FROM user") == [("new",)]


def test_an_unknown_user_whose_first_item_is_bad_is_one_user_all_the_same(world: World) -> None:
    world.admin.create_resource("video")
    world.limit("1/day", resource="video")
    world.consume(1, user="eve", key="taken")
    answers = world.q.consume_many(
        [
            Request("new", "image", 1, "taken"),
            Request("new", "video"),
            Request("new", "image"),
        ]
    )
    assert [type(answer) for answer in answers] == [Conflict, Decision, Decision]
    assert world.sql("SELECT name FROM user ORDER BY id") == [("eve",), ("new",)]


def test_a_batch_of_denials_counts_them_all(world: World) -> None:
    world.limit("0/day")
    answers = world.q.consume_many([Request(f"u{n}", "image", n + 1) for n in range(5)])
    assert [isinstance(a, Decision) and a.allowed for a in answers] == [False] * 5
    assert world.sql("SELECT sum(requests), sum(denied) FROM demand") == [(5, 15)]


def test_an_empty_batch_is_nothing(world: World) -> None:
    assert world.q.consume_many([]) == []
