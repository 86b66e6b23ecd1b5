"""DESIGN §3, promises 13 to 16: grants, refunds, holds, retries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from quotactl import Conflict, InvalidInput, NotFound, Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import World

# ---- 13. Grants buy quota, not speed


def test_a_grant_pays_the_shortage_alone(world: World) -> None:
    grant_id = world.grant(5)
    world.take(2)
    decision = world.consume(4)
    assert (decision.reason, decision.granted, decision.used) == ("granted", 3, 3)
    assert (decision.rule.kind, decision.rule.id) == ("grant", grant_id)
    assert world.counters() == [(3, 3, 0, 0)]
    assert world.balance(grant_id) == 2


def test_a_grant_is_not_touched_while_the_limit_suffices(world: World) -> None:
    grant_id = world.grant(5)
    world.take(3)
    assert world.balance(grant_id) == 5


def test_a_grant_pays_the_largest_shortage_of_its_windows(world: World) -> None:
    world.limit("5/day,6/week")
    world.take(5)
    world.later(days=1)
    world.grant(10)
    decision = world.consume(4)
    assert decision.granted == 3
    assert [used for used, *_ in world.counters()] == [5, 1]


def test_a_grant_does_not_pay_for_windows_shorter_than_a_day(world: World) -> None:
    grant_id = world.grant(10)
    world.admin.set_tier("ada", "plus")
    world.take(5)
    denied = world.consume()
    assert (denied.reason, denied.period) == ("limit_reached", "minute")
    assert world.balance(grant_id) == 10


def test_a_shorter_window_takes_the_whole_amount(world: World) -> None:
    world.limit("3/day,5/minute")
    world.grant(10)
    decision = world.consume(5)
    assert decision.granted == 2
    assert world.counters(period=1) == [(5, 0, 0, 0)]
    assert world.counters() == [(3, 2, 0, 0)]
    assert world.consume().period == "minute"


def test_a_limit_lowered_below_used_charges_grants_only_what_is_asked(world: World) -> None:
    world.take(3)
    world.limit("1/day")
    grant_id = world.grant(2)
    assert world.consume(1).granted == 1
    assert world.balance(grant_id) == 1


def test_grants_burn_by_priority_then_expiry_then_age(world: World) -> None:
    world.limit("0/day")
    first_of_two = world.grant(1, priority=5, duration="3d")
    second_of_two = world.grant(1, priority=5, duration="3d")
    never = world.grant(1, priority=5)
    sooner = world.grant(1, priority=5, duration="2d")
    before_all = world.grant(1, priority=-1)
    burnt = [world.consume().rule.id for _ in range(5)]
    assert burnt == [before_all, sooner, first_of_two, second_of_two, never]
    assert not world.consume().allowed


def test_one_request_may_burn_several_grants(world: World) -> None:
    one, two = world.grant(2, priority=1), world.grant(4, priority=2)
    assert world.consume(7).granted == 4
    assert (world.balance(one), world.balance(two)) == (0, 2)


def test_a_grant_expires_at_its_end(world: World) -> None:
    world.limit("0/day")
    world.grant(2, duration="2h")
    world.later(seconds=7199.999)
    assert world.consume().allowed
    world.later(seconds=0.001)
    assert world.consume().reason == "limit_reached"


def test_a_grant_is_for_one_user_and_resource(world: World) -> None:
    world.admin.create_resource("video")
    world.limit("0/day", resource="video")
    world.limit("0/day")
    world.grant(5)
    assert not world.consume(user="bob").allowed
    assert not world.consume(resource="video").allowed
    assert world.consume().allowed


def test_caps_and_scales_leave_grants_usable(world: World) -> None:
    world.grant(2)
    world.throttle(cap="1/day")
    world.throttle(scale=0)
    decision = world.consume(2)
    assert (decision.reason, decision.granted) == ("granted", 2)


def test_a_throttle_that_freezes_grants_keeps_them_from_paying(world: World) -> None:
    grant_id = world.grant(2)
    throttle_id = world.throttle(cap="1/day", freeze_grants=True)
    world.take(1)
    assert world.consume().reason == "throttled"
    assert world.balance(grant_id) == 2
    world.admin.throttle_off(throttle_id, reason="cool again")
    assert world.consume(4).granted == 2


def test_a_revoked_grant_pays_nothing_more(world: World) -> None:
    world.limit("0/day")
    grant_id = world.grant(3)
    world.take(1)
    assert world.admin.revoke_grant(grant_id, reason="mistake").changed
    assert not world.consume().allowed
    assert world.balance(grant_id) == 0
    assert not world.admin.revoke_grant(grant_id, reason="mistake").changed


@pytest.mark.parametrize("unknown", [99, 0, -1, 2**63])
def test_a_grant_that_is_not_there_is_not_found(world: World, unknown: int) -> None:
    with pytest.raises(NotFound):
        world.admin.revoke_grant(unknown, reason="r")


# ---- 14. Refunds go back where they came from


def test_a_refund_goes_back_to_its_window(world: World) -> None:
    world.take(3, key="r1")
    refund = world.q.refund(idempotency_key="r1", amount=2)
    assert (refund.amount, refund.granted) == (2, 0)
    assert world.used() == 1
    world.take(2)


def test_a_refund_goes_back_to_short_windows_too(world: World) -> None:
    world.admin.set_tier("ada", "plus")
    entry_id = world.take(5)
    assert not world.consume().allowed
    world.q.refund(entry_id=entry_id, amount=4)
    assert world.counters(period=1)[0][0] == 1
    world.take(4)


def test_a_refund_goes_to_a_window_that_is_over(world: World) -> None:
    entry_id = world.take(3)
    world.later(days=1)
    world.take(1)
    world.q.refund(entry_id=entry_id, amount=2)
    assert [used for used, *_ in world.counters()] == [1, 1]
    assert world.used() == 1


def test_a_refund_of_yesterday_frees_the_week(world: World) -> None:
    world.limit("3/day,4/week")
    entry_id = world.take(3)
    world.later(days=1)
    world.take(1)
    assert not world.consume().allowed
    world.q.refund(entry_id=entry_id, amount=2)
    world.take(2)
    assert not world.consume().allowed


def test_a_refund_goes_to_grants_in_reverse_burn_order(world: World) -> None:
    first, second = world.grant(2, priority=1), world.grant(3, priority=2)
    entry_id = world.take(8)
    assert (world.balance(first), world.balance(second)) == (0, 0)
    refund = world.q.refund(entry_id=entry_id, amount=4)
    assert refund.granted == 4
    assert (world.balance(first), world.balance(second)) == (1, 3)
    assert world.counters() == [(3, 1, 0, 0)]
    refund = world.q.refund(entry_id=entry_id, amount=2)
    assert refund.granted == 1
    assert world.balance(first) == 2
    assert world.counters() == [(2, 0, 0, 0)]


def test_an_expired_grant_stays_expired_on_refund(world: World) -> None:
    grant_id = world.grant(2, duration="1h")
    entry_id = world.take(5)
    world.later(hours=1)
    refund = world.q.refund(entry_id=entry_id, amount=2)
    assert refund.granted == 2
    assert world.balance(grant_id) == 2
    assert world.used() == 3
    assert world.consume().reason == "limit_reached"


def test_a_refund_does_not_go_to_a_window_that_was_reset_since(world: World) -> None:
    entry_id = world.take(3)
    world.admin.reset_user("ada", reason="apology")
    world.take(1)
    refund = world.q.refund(entry_id=entry_id)
    assert refund.amount == 3
    assert world.used() == 1


def test_what_was_taken_after_a_reset_is_given_back(world: World) -> None:
    world.take(3)
    world.admin.reset_user("ada", reason="apology")
    entry_id = world.take(2)
    world.q.refund(entry_id=entry_id)
    assert world.used() == 0


def test_a_refund_past_a_reset_still_goes_to_grants(world: World) -> None:
    grant_id = world.grant(2)
    entry_id = world.take(5)
    world.admin.reset_user("ada", reason="apology")
    world.q.refund(entry_id=entry_id)
    assert world.balance(grant_id) == 2
    assert world.used() == 0


def test_never_more_than_was_taken_is_given_back(world: World) -> None:
    entry_id = world.take(3)
    world.q.refund(entry_id=entry_id, amount=2)
    with pytest.raises(Conflict):
        world.q.refund(entry_id=entry_id, amount=2)
    assert world.q.refund(entry_id=entry_id).amount == 1
    assert world.q.refund(entry_id=entry_id).amount == 0
    with pytest.raises(Conflict):
        world.q.refund(entry_id=entry_id, amount=1)
    assert world.used() == 0


def test_only_a_consumption_can_be_refunded(world: World) -> None:
    entry_id = world.take(1)
    refund = world.q.refund(entry_id=entry_id)
    assert refund.entry_id is not None
    grant_entry = refund.entry_id + 1
    world.grant(1)
    for wrong in (refund.entry_id, grant_entry):
        with pytest.raises(Conflict):
            world.q.refund(entry_id=wrong)


@pytest.mark.parametrize("unknown", [99, 0, -1, 2**63, 2**70])
def test_a_refund_of_what_is_not_there_is_not_found(world: World, unknown: int) -> None:
    with pytest.raises(NotFound):
        world.q.refund(entry_id=unknown)


def test_a_refund_of_an_unknown_key_is_not_found(world: World) -> None:
    with pytest.raises(NotFound):
        world.q.refund(idempotency_key="never used")


def test_a_refund_names_either_a_key_or_an_entry(world: World) -> None:
    with pytest.raises(InvalidInput):
        world.q.refund()
    with pytest.raises(InvalidInput):
        world.q.refund(idempotency_key="a", entry_id=1)


# ---- 15. A hold counts as used


def test_a_hold_counts_as_used_until_it_is_settled(world: World) -> None:
    hold = world.hold(2)
    assert world.used() == 2
    world.q.void(hold)
    assert world.used() == 0


def test_a_hold_is_posted_for_at_most_what_was_held(world: World) -> None:
    hold = world.hold(3)
    with pytest.raises(Conflict):
        world.q.post(hold, amount=4)
    with pytest.raises(InvalidInput):
        world.q.post(hold, amount=0)
    settled = world.q.post(hold, amount=1)
    assert (settled.state, settled.posted, settled.freed) == ("posted", 1, 2)
    assert world.used() == 1


def test_a_hold_is_freed_by_time_alone(world: World) -> None:
    world.hold(3, ttl_s=60)
    world.later(seconds=59.999)
    assert not world.consume().allowed
    assert world.count("entry") == 1
    world.later(seconds=0.001)
    assert world.check().used == 0
    assert world.count("entry") == 1
    world.take(3)
    assert world.sql("SELECT state FROM reservation") == [("expired",)]


def test_a_hold_that_timed_out_is_freed_in_the_day_where_it_was_made(world: World) -> None:
    world.limit("3/day,4/week")
    world.at("2025-03-27T23:59:30Z")
    world.hold(3, ttl_s=60)
    world.later(minutes=2)
    assert world.check(3).allowed
    world.take(3)
    assert [used for used, *_ in world.counters()] == [0, 3]


def test_a_hold_is_posted_in_the_window_where_it_was_made(world: World) -> None:
    world.at("2025-03-27T23:59:30Z")
    hold = world.hold(3, ttl_s=600)
    world.later(minutes=2)
    assert world.used() == 0
    world.q.post(hold, amount=2)
    assert world.used() == 0
    assert [used for used, *_ in world.counters()] == [2]


def test_a_hold_of_grants_gives_them_back(world: World) -> None:
    first, second = world.grant(2, priority=1), world.grant(2, priority=2)
    hold = world.hold(6)
    assert (world.balance(first), world.balance(second)) == (0, 1)
    world.q.post(hold, amount=4)
    assert (world.balance(first), world.balance(second)) == (1, 2)
    assert world.counters() == [(3, 1, 0, 0)]
    hold = world.hold(2)
    world.q.void(hold)
    assert (world.balance(first), world.balance(second)) == (1, 2)


def test_a_grant_whose_hold_timed_out_pays_again(world: World) -> None:
    world.limit("0/day")
    world.grant(2)
    world.hold(2, ttl_s=60)
    assert not world.consume().allowed
    world.later(seconds=60)
    assert world.consume(2).granted == 2


def test_a_repeated_post_or_void_is_already_so(world: World) -> None:
    posted, voided = world.hold(2), world.hold(1)
    assert not world.q.post(posted, amount=1).already
    assert not world.q.void(voided).already
    before = world.count("entry")
    again = world.q.post(posted, amount=1)
    assert (again.already, again.posted, again.freed) == (True, 1, 1)
    assert world.q.post(posted).already
    assert world.q.void(voided).already
    assert world.count("entry") == before


def test_a_repeated_post_for_another_amount_is_a_conflict(world: World) -> None:
    hold = world.hold(3)
    world.q.post(hold, amount=2)
    with pytest.raises(Conflict, match="posted already, for 2"):
        world.q.post(hold, amount=1)
    assert world.used() == 2


def test_a_refund_under_a_key_knows_a_hold_and_its_post_as_one(world: World) -> None:
    hold = world.hold(3)
    post = world.q.post(hold).entry_id
    assert world.q.refund(entry_id=hold, amount=1, refund_key="r").amount == 1
    assert world.q.refund(entry_id=post, amount=1, refund_key="r").replayed
    other = world.take(1, user="bob")
    with pytest.raises(Conflict, match="was used for another request"):
        world.q.refund(entry_id=other, amount=1, refund_key="r")
    assert world.used() == 2


def test_a_hold_is_settled_one_way_only(world: World) -> None:
    posted, voided, late = world.hold(1), world.hold(1), world.hold(1, ttl_s=60)
    world.q.post(posted)
    world.q.void(voided)
    with pytest.raises(Conflict, match=f"reservation {posted} is posted"):
        world.q.void(posted)
    with pytest.raises(Conflict, match=f"reservation {voided} was voided"):
        world.q.post(voided)
    world.later(seconds=60)
    with pytest.raises(Conflict, match=f"reservation {late} timed out at 2025-03-27 09:01 UTC"):
        world.q.post(late)
    assert world.used() == 1
    world.q.close_days()
    with pytest.raises(Conflict):
        world.q.post(late)
    assert world.q.void(late).already


def test_a_posted_hold_can_be_refunded_and_a_pending_one_not(world: World) -> None:
    hold = world.hold(3)
    with pytest.raises(Conflict):
        world.q.refund(entry_id=hold)
    settled = world.q.post(hold, amount=2)
    assert settled.entry_id is not None
    with pytest.raises(Conflict):
        world.q.refund(entry_id=hold, amount=3)
    assert world.q.refund(entry_id=settled.entry_id, amount=1).amount == 1
    assert world.q.refund(entry_id=hold).amount == 1
    assert world.used() == 0


@pytest.mark.parametrize("ttl_s", [0, -1, float("nan"), float("inf"), True, "60", 32 * 86400])
def test_a_time_out_that_is_none_is_refused(world: World, ttl_s: object) -> None:
    with pytest.raises(InvalidInput):
        world.q.reserve(user="ada", resource="image", ttl_s=ttl_s)  # type: ignore[arg-type]
    assert world.count("entry") == 0


@pytest.mark.parametrize("unknown", [99, 0, -1, 2**63])
def test_a_reservation_that_is_not_there_is_not_found(world: World, unknown: int) -> None:
    with pytest.raises(NotFound):
        world.q.post(unknown)
    with pytest.raises(NotFound):
        world.q.void(unknown)


def test_a_consumption_is_no_reservation(world: World) -> None:
    with pytest.raises(NotFound):
        world.q.post(world.take(1))


def test_holds_made_and_timed_out_by_others_are_freed_by_the_close(world: World) -> None:
    for n in range(7):
        world.hold(1, user=f"u{n}", ttl_s=60)
    world.later(seconds=60)
    assert world.q.close_days().expired_reservations == 7
    assert world.sql("SELECT DISTINCT state FROM reservation") == [("expired",)]


# ---- 16. Exactly once


def test_the_same_key_returns_the_first_answer_and_takes_nothing_more(world: World) -> None:
    first = world.consume(2, key="r1")
    again = world.consume(2, key="r1")
    assert again.replayed
    assert not first.replayed
    assert (again.allowed, again.reason, again.amount, again.granted, again.entry_id) == (
        first.allowed,
        first.reason,
        first.amount,
        first.granted,
        first.entry_id,
    )
    assert world.counters() == [(2, 0, 0, 0)]
    assert world.count("entry") == 1


def test_a_replay_shows_the_windows_as_they_are_now(world: World) -> None:
    world.consume(1, key="r1")
    world.take(2)
    again = world.consume(1, key="r1")
    assert (again.allowed, again.used, again.remaining) == (True, 3, 0)


def test_a_replay_tells_what_grants_paid_then(world: World) -> None:
    grant_id = world.grant(2)
    first = world.consume(5, key="r1")
    world.later(days=1)
    again = world.consume(5, key="r1")
    assert (again.reason, again.granted) == ("granted", 2) == (first.reason, first.granted)
    assert again.rule == first.rule
    assert world.balance(grant_id) == 0


def test_a_replay_answers_though_the_user_is_blocked_or_throttled_since(world: World) -> None:
    world.consume(1, key="r1")
    world.throttle(deny=True)
    world.admin.block("ada", reason="abuse")
    assert world.consume(1, key="r1").allowed
    assert not world.consume(1, key="r2").allowed


def test_a_key_with_another_request_is_a_conflict(world: World) -> None:
    world.admin.create_resource("video")
    world.limit("5/day", resource="video")
    world.consume(2, key="r1")
    requests: dict[str, Callable[[], object]] = {
        "user": lambda: world.consume(2, user="bob", key="r1"),
        "amount": lambda: world.consume(1, key="r1"),
        "resource": lambda: world.consume(2, resource="video", key="r1"),
        "kind": lambda: world.q.reserve(
            user="ada", resource="image", amount=2, idempotency_key="r1"
        ),
    }
    for what, request in requests.items():
        with pytest.raises(Conflict) as caught:
            request()
        assert caught.value.exit_code == 7, what
    assert world.counters() == [(2, 0, 0, 0)]


def test_a_key_fully_refunded_since_is_a_conflict(world: World) -> None:
    world.consume(2, key="r1")
    world.q.refund(idempotency_key="r1", amount=1)
    assert world.consume(2, key="r1").replayed
    world.q.refund(idempotency_key="r1")
    with pytest.raises(Conflict):
        world.consume(2, key="r1")
    assert world.used() == 0


def test_a_reserve_takes_a_key_of_its_own(world: World) -> None:
    def reserve(amount: int = 2) -> tuple[int | None, bool]:
        decision = world.q.reserve(
            user="ada", resource="image", amount=amount, ttl_s=60, idempotency_key="h1"
        )
        return decision.reservation_id, decision.replayed

    first, replayed = reserve()
    assert first is not None
    assert not replayed
    assert reserve() == (first, True)
    assert world.used() == 2
    with pytest.raises(Conflict):
        reserve(1)
    with pytest.raises(Conflict):
        world.consume(2, key="h1")
    world.q.post(first, amount=1)
    assert reserve() == (first, True)


@pytest.mark.parametrize("how", ["void", "time"])
def test_the_key_of_a_hold_that_was_freed_is_a_conflict(world: World, how: str) -> None:
    decision = world.q.reserve(user="ada", resource="image", ttl_s=60, idempotency_key="h1")
    assert decision.reservation_id is not None
    if how == "void":
        world.q.void(decision.reservation_id)
    world.later(seconds=60)
    with pytest.raises(Conflict):
        world.q.reserve(user="ada", resource="image", ttl_s=60, idempotency_key="h1")
    assert world.used() == 0


def test_a_refund_takes_a_key_of_its_own(world: World) -> None:
    entry_id = world.take(3, key="r1")
    first = world.q.refund(idempotency_key="r1", amount=1, refund_key="b1")
    again = world.q.refund(entry_id=entry_id, amount=1, refund_key="b1")
    assert (again.replayed, again.entry_id, again.amount) == (True, first.entry_id, 1)
    assert world.used() == 2
    other = world.take(1)
    for request in (
        {"entry_id": entry_id, "amount": 2},
        {"entry_id": other, "amount": 1},
    ):
        with pytest.raises(Conflict):
            world.q.refund(refund_key="b1", **request)  # type: ignore[arg-type]
    with pytest.raises(Conflict):
        world.q.refund(entry_id=entry_id, amount=1, refund_key="r1")
    with pytest.raises(Conflict):
        world.consume(1, key="b1")
    assert world.used() == 3


def test_denials_are_not_remembered(world: World) -> None:
    assert not world.consume(4, key="r1").allowed
    world.limit("9/day")
    decision = world.consume(4, key="r1")
    assert (decision.allowed, decision.replayed) == (True, False)


def test_a_key_twice_in_a_batch_is_charged_once(world: World) -> None:
    first, again, other = world.q.consume_many(
        [
            Request("ada", "image", 1, "k"),
            Request("ada", "image", 1, "k"),
            Request("bob", "image", 1, "k"),
        ]
    )
    assert not isinstance(first, Exception)
    assert not isinstance(again, Exception)
    assert (again.replayed, again.entry_id) == (True, first.entry_id)
    assert isinstance(other, Conflict)
    assert world.counters()[0][0] == 1


def test_keys_are_kept_for_thirty_days(world: World) -> None:
    world.consume(1, key="r1")
    world.later(days=30)
    world.q.close_days()
    assert world.consume(1, key="r1").replayed
    world.later(seconds=1)
    assert world.q.close_days().pruned_keys == 1
    assert not world.consume(1, key="r1").replayed


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_old_keys_go_wherever_they_lie_among_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr("quotactl.operations.close.CHUNK", chunk)
    for key in "acdgh":
        world.take(user=key, key=key)
    world.later(days=20)
    for key in "bef":
        world.take(user=key, key=key)
    world.later(days=11)
    assert world.q.close_days().pruned_keys == 5
    assert world.sql("SELECT key FROM idempotency_key ORDER BY key") == [("b",), ("e",), ("f",)]
    assert world.q.close_days().pruned_keys == 0


def test_how_long_keys_are_kept_is_a_setting(world: World) -> None:
    world.admin.set_setting("key_retention", "60d")
    world.consume(1, key="r1")
    world.later(days=59)
    world.q.close_days()
    assert world.consume(1, key="r1").replayed
    world.admin.set_setting("key_retention", "2d")
    world.q.close_days()
    assert not world.consume(1, key="r1").replayed


def test_a_key_in_shadow_is_charged_once(world: World) -> None:
    world.admin.enforcement_set("shadow", reason="trial")
    assert world.consume(4, key="r1").would_be == "limit_reached"
    assert world.consume(4, key="r1").replayed
    assert world.counters() == [(4, 0, 0, 4)]


@pytest.mark.parametrize("key", ["", "x" * 257, "a\nb", 7])
def test_a_key_that_is_none_is_refused(world: World, key: object) -> None:
    with pytest.raises(InvalidInput):
        world.q.consume(user="ada", resource="image", idempotency_key=key)  # type: ignore[arg-type]
    assert world.count("entry") == 0


# ---- fresh windows (issue 2): a reset is a correcting entry


def test_a_reset_gives_one_user_a_fresh_window(world: World) -> None:
    world.take(3)
    world.take(3, user="bob")
    outcome = world.admin.reset_user("ada", resource="image", reason="apology")
    assert outcome.item["freed"] == {"image": 3}
    world.take(3)
    assert not world.consume(user="bob").allowed
    assert world.count("entry") == 4


def test_a_reset_covers_every_window_in_force(world: World) -> None:
    world.limit("3/day,4/week,3/hour")
    world.take(3)
    world.later(days=1)
    world.take(1)
    world.admin.reset_user("ada", reason="apology")
    assert world.check(3).allowed
    assert [used for used, *_ in world.counters()] == [0, 0]
    assert [used for used, *_ in world.counters(period=60)] == [3, 0]


def test_a_reset_leaves_grants_alone(world: World) -> None:
    grant_id = world.grant(2)
    world.take(4)
    world.admin.reset_user("ada", reason="apology")
    assert world.balance(grant_id) == 1
    assert world.counters() == [(0, 0, 0, 0)]


def test_a_second_reset_changes_nothing(world: World) -> None:
    world.take(3)
    assert world.admin.reset_user("ada", reason="apology").changed
    before = (world.count("entry"), world.count("audit"))
    assert not world.admin.reset_user("ada", reason="apology").changed
    assert (world.count("entry"), world.count("audit")) == before
