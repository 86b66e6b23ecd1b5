"""DESIGN §3, promises 22 to 26: the book."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import stat
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from quotactl import (
    ClockBehind,
    Conflict,
    InvalidInput,
    LedgerCorrupt,
    NotFound,
    QuotaError,
    connect,
    create,
)
from quotactl.engines.sqlite.queries import Queries
from quotactl.operations.audit import row_hash

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeWorld, World

# ---- 22. Entries are never changed


def test_the_database_refuses_to_change_an_entry(world: World) -> None:
    world.grant(1)
    world.take(4)
    for table, column in (("entry", "amount"), ("grant_movement", "amount"), ("audit", "actor")):
        with pytest.raises(sqlite3.IntegrityError, match="never changed"):
            world.sql(f"UPDATE {table} SET {column} = {column}")


def test_the_database_refuses_to_change_a_closed_day(world: World) -> None:
    world.later(days=1)
    world.q.close_days()
    with pytest.raises(sqlite3.IntegrityError, match="never changed"):
        world.sql("UPDATE closed_day SET used = 7")


@pytest.mark.parametrize("table", ["entry", "grant_movement", "audit", "user", "ledger"])
def test_the_database_refuses_to_delete_from_the_book(world: World, table: str) -> None:
    world.grant(1)
    world.take(4)
    with pytest.raises(sqlite3.IntegrityError):
        world.sql(f"DELETE FROM {table}")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE counter SET used = -1",
        "UPDATE counter SET used = 9007199254740992",
        "UPDATE counter SET used = 1.5",
        "UPDATE counter SET used = 'many'",
        "UPDATE grant_pool SET balance = balance + 1",
        "UPDATE grant_pool SET balance = -1",
        "UPDATE reservation SET state = 'lost'",
        "UPDATE user SET name = ''",
        "UPDATE user SET tier_id = 99",
        "UPDATE tier_limit SET amount_max = -1",
        "INSERT INTO ledger SELECT 2, name, zone, 0, 0, NULL, NULL, 0, 0, 0, 0, 0 FROM ledger",
        "INSERT INTO entry (at_ms, kind, amount, granted) VALUES (0, 99, 1, 0)",
        "INSERT INTO entry (at_ms, kind, amount, granted) VALUES (0, 1, 1, 2)",
        "INSERT INTO tier (name, created_at_ms) VALUES ('free', 0)",
    ],
)
def test_the_database_refuses_what_can_not_be(world: World, statement: str) -> None:
    world.grant(2)
    world.take(3)
    world.hold(1, user="bob")
    with pytest.raises(sqlite3.IntegrityError):
        world.sql(statement)


def test_a_correction_is_a_new_entry(world: World) -> None:
    entry_id = world.take(3)
    before = world.sql("SELECT * FROM entry")
    world.q.refund(entry_id=entry_id, amount=1)
    world.admin.reset_user("ada", reason="apology")
    after = world.sql("SELECT * FROM entry ORDER BY id")
    assert after[:1] == before
    assert [row[6] for row in after] == [3, -1, -2]


def eventful(world: World) -> None:
    """A little of everything that writes to the book, over three days."""
    world.limit("3/day,3/hour")
    world.grant(5, duration="40d")
    world.grant(3, user="bob")
    for _ in range(3):
        first = world.take(2)
        world.consume(2)
        world.consume(1, key=f"k{world.now}")
        hold = world.hold(1, user="bob")
        lost = world.q.reserve(user="bob", resource="image", amount=1, ttl_s=60)
        assert lost.allowed
        world.q.post(hold)
        world.q.refund(entry_id=first, amount=1)
        world.later(minutes=90)
        world.take(2)
        world.admin.reset_user("bob", reason="apology")
        world.later(hours=22, minutes=30)


def test_counters_and_balances_are_sums_of_entries(world: World) -> None:
    eventful(world)
    checked = world.q.verify()
    assert checked.ok
    assert checked.entries > 15


def test_pruning_carries_live_balances_and_verify_starts_there(world: World) -> None:
    eventful(world)
    balances = world.sql("SELECT id, balance FROM grant_pool ORDER BY id")
    assert all(balance > 0 for _, balance in balances)
    days = world.counters()
    world.later(days=80)
    closing = world.q.close_days()
    assert closing.pruned_entries > 15
    kept = world.sql("SELECT kind FROM entry")
    assert kept == [(10,)]
    assert world.sql("SELECT grant_id, amount FROM grant_movement ORDER BY 1") == balances
    assert world.sql("SELECT id, balance FROM grant_pool ORDER BY id") == balances
    assert world.counters() == days, "day counters stay"
    assert world.counters(period=60) == []
    assert world.q.verify().ok


@pytest.mark.parametrize("times", [0, 1, 2, 5])
def test_the_users_of_a_day_are_counted_in_parts_and_anew_where_more_came_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    world.admin.create_resource("text")
    world.limit("9/day", resource="text")
    for name, resource in zip("aabcdefg", ["image", "text"] * 4, strict=True):
        world.consume(user=name, resource=resource)
    gateway = world.reopened()
    gateway.clock = lambda day=world.now: day  # type: ignore[misc]
    newcomers = iter(range(times))
    whole = Queries.users_counted

    def counted(self: Queries, *day: Any) -> int:
        users = whole(self, *day)
        if not self._connection.in_transaction or len(day) == 2:
            return users
        for n in newcomers:
            # One who has asked before, and one who is new: the gateway's clock is behind.
            assert gateway.consume(user="a", resource="text").allowed
            assert gateway.consume(user=f"new{n}", resource="text").allowed
            break
        return users

    monkeypatch.setattr(Queries, "users_counted", counted)
    monkeypatch.setattr("quotactl.operations.close.USERS_CHUNK", 2)
    world.later(days=1)
    (closed,) = world.q.close_days().closed
    entries = world.sql("SELECT count(DISTINCT user_id), count(*) FROM entry")
    assert [(closed.users, closed.requests)] == entries


def test_a_balance_is_carried_again_and_again(world: World) -> None:
    grant_id = world.grant(5)
    for spent in (1, 2):
        world.take(3 + spent)
        world.later(days=80)
        world.q.close_days()
        assert world.q.verify().ok
    assert world.balance(grant_id) == 2
    assert world.sql("SELECT sum(amount) FROM grant_movement") == [(2,)]
    assert world.consume(5).granted == 2


def test_an_edited_balance_is_still_found_after_pruning(world: World) -> None:
    grant_id = world.grant(5)
    world.take(4)
    world.later(days=80)
    world.q.close_days()
    world.tamper("UPDATE grant_pool SET balance = 5 WHERE id = ?", grant_id)
    assert world.found() == {"grant.balance"}


def test_entries_are_kept_until_their_retention_is_over(world: World) -> None:
    world.take(3)
    world.at("2025-05-01T23:59:59Z")
    assert world.q.close_days().pruned_entries == 0
    world.at("2025-05-02T00:00:00Z")
    assert world.q.close_days().pruned_entries == 1


def test_entries_of_an_open_month_are_kept(world: World) -> None:
    world.at("2025-05-01T00:00:00Z")
    world.admin.set_setting("entry_retention", "1d")
    world.admin.set_setting("key_retention", "1d")
    world.limit("9/month")
    world.take(3)
    world.at("2025-05-31T23:00:00Z")
    assert world.q.close_days().pruned_entries == 0
    world.at("2025-06-02T12:00:00Z")
    assert world.q.close_days().pruned_entries == 1


def test_entries_of_an_open_week_are_kept(world: World) -> None:
    world.admin.set_setting("entry_retention", "1d")
    world.admin.set_setting("key_retention", "1d")
    # The week that begins on Monday, the 28th of April, ends in May.
    world.at("2025-04-28T12:00:00Z")
    world.limit("9/week")
    entry_id = world.take(3)
    world.at("2025-05-02T12:00:00Z")
    assert world.q.close_days().pruned_entries == 0
    assert world.q.refund(entry_id=entry_id).amount == 3


def test_entries_of_a_key_that_is_kept_are_kept(world: World) -> None:
    world.admin.set_setting("key_retention", "90d")
    world.consume(3, key="r1")
    world.later(days=89)
    assert world.q.close_days().pruned_entries == 0
    assert world.consume(3, key="r1").replayed


def test_the_entry_of_a_hold_that_is_open_is_kept(world: World) -> None:
    world.admin.set_setting("entry_retention", "1d")
    world.admin.set_setting("key_retention", "1d")
    world.at("2025-04-20T12:00:00Z")
    world.take(1)
    hold = world.hold(2, ttl_s=31 * 86400)
    world.at("2025-05-20T12:00:00Z")
    assert world.q.close_days().pruned_entries == 1
    assert world.q.post(hold, amount=1).freed == 1


def test_pruning_stops_at_the_first_entry_that_still_matters(world: World) -> None:
    world.take(1)
    world.later(days=60)
    kept = world.take(1)
    world.later(days=10)
    assert world.q.close_days().pruned_entries == 1
    assert world.sql("SELECT id FROM entry") == [(kept,)]


def test_an_id_of_a_pruned_entry_never_comes_back(world: World) -> None:
    last = [world.take(1) for _ in range(3)][-1]
    world.later(days=80)
    world.q.close_days()
    assert world.count("entry") == 0
    assert world.take(1) > last


def test_the_delete_guard_permits_only_what_lies_below_the_checkpoint(world: World) -> None:
    world.take(1)
    world.later(days=80)
    world.q.close_days()
    kept = world.take(1)
    with pytest.raises(sqlite3.IntegrityError, match="below the checkpoint"):
        world.sql("DELETE FROM entry WHERE id = ?", kept)


def test_a_pruned_consumption_can_not_be_refunded(world: World) -> None:
    entry_id = world.take(1)
    world.later(days=80)
    world.q.close_days()
    with pytest.raises(NotFound):
        world.q.refund(entry_id=entry_id)


def test_a_refund_whose_consumption_was_pruned_leaves_no_difference(world: World) -> None:
    world.limit("3/day,3/minute")
    entry_id = world.take(3)
    # No close ran for a while, so that the entry is still there to be refunded.
    world.later(days=50)
    world.q.refund(entry_id=entry_id, amount=1)
    world.later(days=1)
    assert world.q.close_days().pruned_entries == 1
    world.verified()


def test_a_hold_settled_long_after_it_was_made_leaves_no_difference(world: World) -> None:
    world.limit("3/day,3/hour")
    hold = world.hold(3, ttl_s=30 * 86400)
    world.later(days=29)
    world.q.post(hold, amount=1)
    world.q.close_days()
    world.at("2025-05-15T12:00:00Z")
    assert world.q.close_days().pruned_entries == 1
    world.verified()


def test_day_counters_are_kept_for_400_days(world: World) -> None:
    world.take(3)
    world.later(days=399)
    world.q.close_days()
    assert world.counters() == [(3, 0, 0, 0)]
    world.later(days=2)
    assert world.q.close_days().pruned_counters == 1
    assert world.counters() == []


def test_entries_kept_longer_than_counters_leave_no_difference(world: World) -> None:
    try:
        world.admin.set_setting("counter_retention", "62d")
        world.admin.set_setting("entry_retention", "100d")
    except QuotaError:
        return  # refusing the pair is as good
    world.take(3)
    world.later(days=80)
    world.q.close_days()
    world.verified()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("entry_retention", "0d"),
        ("entry_retention", "12h"),
        ("counter_retention", "61d"),
        ("key_retention", "30"),
        ("durability", "none"),
    ],
)
def test_a_setting_that_is_none_is_refused(world: World, key: str, value: str) -> None:
    with pytest.raises(InvalidInput):
        world.admin.set_setting(key, value)
    assert world.count("setting") == 0


def test_an_unknown_setting_is_not_found(world: World) -> None:
    with pytest.raises(NotFound):
        world.admin.set_setting("colour", "red")


# ---- 23. Demand


def demand(world: World) -> list[tuple[Any, ...]]:
    return world.sql(
        "SELECT hour_ms, t.name, reason, rule_kind, requests, used, granted, denied "
        "FROM demand LEFT JOIN tier AS t ON t.id = tier_id ORDER BY 1, 2, 3, 4"
    )


def test_demand_is_kept_per_hour_tier_and_deciding_rule(world: World) -> None:
    hour = int(world.now.timestamp()) * 1000
    world.admin.set_tier("bob", "plus")
    world.take(2)
    world.take(1, user="eve")
    assert not world.consume(5).allowed
    world.take(4, user="bob")
    throttle_id = world.throttle(cap="0/day", duration="3h")
    world.consume(user="eve")
    world.later(hours=1)
    world.consume(user="eve")
    assert demand(world) == [
        (hour, "free", "limit_reached", "tier", 1, 0, 0, 5),
        (hour, "free", "ok", "tier", 2, 3, 0, 0),
        (hour, "free", "throttled", "throttle", 1, 0, 0, 1),
        (hour, "plus", "ok", "tier", 1, 4, 0, 0),
        (hour + 3_600_000, "free", "throttled", "throttle", 1, 0, 0, 1),
    ]
    assert world.sql("SELECT DISTINCT rule_id FROM demand WHERE rule_kind = 'throttle'") == [
        (throttle_id,)
    ]


def test_denied_units_are_kept_per_user_and_window(world: World) -> None:
    world.limit("3/day,2/hour")
    world.take(2)
    world.consume(3)
    world.later(hours=1)
    world.consume(4)
    assert world.counters() == [(2, 0, 7, 0)]
    assert world.counters(period=60) == [(2, 0, 3, 0), (0, 0, 4, 0)]


def test_check_writes_nothing(world: World) -> None:
    world.take(3)
    world.hold(1, user="bob", ttl_s=60)
    world.later(seconds=60)
    tables = [name for (name,) in world.sql("SELECT name FROM sqlite_master WHERE type = 'table'")]
    before = [world.sql(f"SELECT * FROM {table}") for table in tables]
    for user in ("ada", "bob", "new"):
        world.check(2, user=user)
        world.check(9, user=user)
    assert [world.sql(f"SELECT * FROM {table}") for table in tables] == before


def test_a_denial_is_there_for_every_other_connection_at_once(world: World) -> None:
    world.consume(9)
    assert world.sql("SELECT denied FROM counter") == [(9,)]


def test_durability_is_a_setting_and_full_by_default(world: World) -> None:
    def synchronous() -> int:
        engine: Any = world.q.engine
        value: int = engine._connection.execute("PRAGMA synchronous").fetchone()[0]
        return value

    world.take(1)
    assert synchronous() == 2
    world.consume(9)
    assert synchronous() == 1, "a denial does not wait for the disk"
    world.take(1)
    assert synchronous() == 2, "quota does"
    world.admin.set_setting("durability", "relaxed")
    world.take(1)
    world.consume(1, user="bob")
    assert synchronous() == 1
    world.admin.unset_setting("durability")
    world.take(1, user="bob")
    assert synchronous() == 2


def test_other_connections_follow_a_change_of_durability_with_their_next_write(
    world: World,
) -> None:
    world.admin.set_setting("durability", "relaxed")
    other = world.reopened()
    engine: Any = other.engine
    assert other.consume(user="bob", resource="image").allowed
    assert other.consume(user="bob", resource="image").allowed
    assert engine._connection.execute("PRAGMA synchronous").fetchone()[0] == 1
    world.admin.set_setting("durability", "full")
    assert other.consume(user="bob", resource="image").allowed
    assert engine._connection.execute("PRAGMA synchronous").fetchone()[0] == 2


# ---- 24. Administrative acts write their audit row in the same transaction


def acts(world: World) -> dict[str, Any]:
    """Every act once, in an order in which each changes something."""
    admin = world.admin
    seen: dict[str, int] = {}

    def keep(name: str, outcome: Any) -> Any:
        seen[name] = outcome.item["id"]
        return outcome

    return {
        "create_resource": lambda: admin.create_resource("video", reason="why"),
        "create_tier": lambda: admin.create_tier("gold", reason="why"),
        "set_limit": lambda: admin.set_limit(
            tier="gold", resource="video", limit="3/day", reason="why"
        ),
        "unset_limit": lambda: admin.unset_limit(tier="gold", resource="video", reason="why"),
        "protect_tier": lambda: admin.protect_tier("gold", reason="why"),
        "unprotect_tier": lambda: admin.unprotect_tier("gold", reason="why"),
        "set_setting": lambda: admin.set_setting("durability", "relaxed", reason="why"),
        "unset_setting": lambda: admin.unset_setting("durability", reason="why"),
        "set_tier": lambda: admin.set_tier("zoe", "gold", reason="why"),
        "protect": lambda: admin.protect("zoe", reason="why"),
        "unprotect": lambda: admin.unprotect("zoe", reason="why"),
        "block": lambda: admin.block("zoe", reason="why"),
        "unblock": lambda: admin.unblock("zoe", reason="why"),
        "set_override": lambda: admin.set_override(
            user="zoe", resource="image", limit="9/day", reason="why"
        ),
        "clear_override": lambda: admin.clear_override(user="zoe", reason="why"),
        "add_grant": lambda: keep(
            "grant", admin.add_grant(user="zoe", resource="image", amount=3, reason="why")
        ),
        "revoke_grant": lambda: admin.revoke_grant(seen["grant"], reason="why"),
        "throttle_on": lambda: keep("throttle", admin.throttle_on(deny=True, reason="why")),
        "throttle_extend": lambda: admin.throttle_extend(
            seen["throttle"], duration="2h", reason="why"
        ),
        "throttle_off": lambda: admin.throttle_off(seen["throttle"], reason="why"),
        "enforcement_off": lambda: admin.enforcement_set("off", reason="why"),
        "enforcement_on": lambda: admin.enforcement_set("on", reason="why"),
        "import_users": lambda: admin.import_users(
            [("yan", "plus")], digest="0" * 64, reason="why"
        ),
        "delete_tier": lambda: admin.delete_tier("gold", move_to="free", reason="why"),
        "set_default_tier": lambda: admin.set_default_tier("plus", reason="why"),
        "apply_policy": lambda: admin.apply_policy(
            admin.export_policy().replace('"3/day"', '"4/day"'), reason="why"
        ),
        "reset_user": lambda: admin.reset_user("ada", reason="why"),
        "delete_resource": lambda: admin.delete_resource("video", reason="why"),
        "refund": lambda: world.q.refund(idempotency_key="r1", amount=1, reason="why"),
    }


def test_every_act_writes_one_audit_row_with_who_and_why(world: World) -> None:
    world.take(2, key="r1")
    for name, act in acts(world).items():
        before = world.count("audit")
        act()
        assert world.count("audit") == before + 1, name
        ((actor, text),) = world.sql(
            "SELECT actor, text FROM audit JOIN audit_text ON audit_id = id "
            "WHERE id = (SELECT max(id) FROM audit)"
        )
        assert (actor, text) == ("tester", "why"), name
    assert world.q.verify().ok


def test_an_act_whose_audit_row_fails_did_not_happen(world: World) -> None:
    world.take(2, key="r1")
    guard = (
        "CREATE TRIGGER disk_full BEFORE INSERT ON audit "
        "BEGIN SELECT RAISE(ABORT, 'no room for the audit row'); END"
    )
    tables = [name for (name,) in world.sql("SELECT name FROM sqlite_master WHERE type = 'table'")]
    tables.remove("sqlite_sequence")  # ids may be skipped, never reused
    for name, act in acts(world).items():
        world.sql(guard)
        before = [world.sql(f"SELECT * FROM {table}") for table in tables]
        with pytest.raises(QuotaError, match="no room"):
            act()
        after = [world.sql(f"SELECT * FROM {table}") for table in tables]
        assert after == before, name
        world.sql("DROP TRIGGER disk_full")
        act()


def test_a_throttle_whose_audit_row_fails_throttles_nobody(world: World) -> None:
    other = world.reopened()
    world.sql("CREATE TRIGGER t BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(QuotaError):
        world.admin.throttle_on(deny=True, reason="melting")
    world.sql("DROP TRIGGER t")
    assert world.consume().allowed
    assert other.consume(user="ada", resource="image").allowed


def test_audit_rows_are_hashed_as_canonical_json(world: World) -> None:
    """Another way of writing them would break the chain of every ledger that is there."""
    world.admin.create_tier("gold", protected=True)
    (row,) = world.sql("SELECT * FROM audit ORDER BY id DESC LIMIT 1")
    (columns,) = [[name for _, name, *_ in world.sql("PRAGMA table_info(audit)")]]
    fields = dict(zip(columns, row, strict=True))
    assert fields["after"] == '{"default":false,"protected":true}'
    ((previous,),) = world.sql("SELECT hash FROM audit ORDER BY id DESC LIMIT 1 OFFSET 1")
    text = (
        f'["{previous}",{fields["id"]},{fields["at_ms"]},"tester","tier.create",null,"gold",null,'
        '"{\\"default\\":false,\\"protected\\":true}",null,null]'
    )
    assert fields["hash"] == hashlib.sha256(text.encode()).hexdigest()


def test_what_is_already_so_writes_no_audit_row(world: World) -> None:
    world.admin.set_tier("ada", "plus")
    before = world.count("audit")
    for outcome in (
        world.admin.set_tier("ada", "plus"),
        world.admin.create_tier("plus"),
        world.admin.create_resource("image"),
        world.admin.set_limit(tier="free", resource="image", limit="3/day"),
        world.admin.set_default_tier("free"),
        world.admin.clear_override(user="ada"),
        world.admin.unblock("ada"),
    ):
        assert not outcome.changed
    assert not world.admin.apply_policy(world.admin.export_policy()).applied
    assert world.count("audit") == before


def test_audit_rows_name_users_by_interned_id_and_keep_texts_apart(world: World) -> None:
    secret = "zoe-the-secret-name"
    why = f"{secret} asked for it"
    world.admin.set_tier(secret, "plus", reason=why, ticket="T-1")
    world.admin.block(secret, reason=why)
    world.admin.unblock(secret)
    world.admin.set_override(user=secret, resource="image", limit="9/day", reason=why)
    world.admin.clear_override(user=secret)
    world.admin.add_grant(user=secret, resource="image", amount=3, reason=why)
    world.take(2, user=secret, key="r1")
    world.q.refund(idempotency_key="r1", reason=why)
    world.admin.protect(secret)
    world.admin.reset_user(secret, reason=why)
    world.admin.import_users([(secret, "pro")], digest="0" * 64)
    world.admin.delete_tier("pro", move_to="plus")
    assert not any(secret in json.dumps(row) for row in world.sql("SELECT * FROM audit"))
    ((user_id,),) = world.sql("SELECT id FROM user")
    assert {row[0] for row in world.sql("SELECT user_id FROM audit WHERE user_id NOTNULL")} == {
        user_id
    }


def test_the_chain_holds_without_the_free_texts(world: World) -> None:
    world.admin.block("ada", reason="abuse", ticket="T-1")
    world.take(1, user="bob")
    world.sql("DELETE FROM audit_text")
    assert world.q.verify().ok


def test_a_digest_gives_nothing_away(world: World) -> None:
    world.admin.block("ada", reason="abuse")
    world.admin.block("bob", reason="abuse")
    digests = [
        d for (d,) in world.sql("SELECT reason_digest FROM audit WHERE reason_digest NOTNULL")
    ]
    assert len(set(digests)) == 2
    assert hashlib.sha256(b"abuse").hexdigest() not in digests


def test_each_hash_covers_the_row_before(world: World) -> None:
    for _ in range(3):
        world.admin.set_tier("ada", "plus")
        world.admin.set_tier("ada", "free")
    hashes = [h for (h,) in world.sql("SELECT hash FROM audit ORDER BY id")]
    assert len(set(hashes)) == len(hashes)
    assert world.q.verify().audit_hash == hashes[-1]
    with world.q.engine.reading() as book:
        rows = list(book.audit_rows())
    for before, row in pairwise(rows):
        assert row_hash(before["hash"], row) == row["hash"]
        assert row_hash("0" * 64, row) != row["hash"]
    assert world.sql("SELECT action FROM audit WHERE id = 1") == [("init",)]


# ---- 25. Clocks


def test_a_write_into_a_closed_day_is_refused_with_exit_code_75(world: World) -> None:
    entry_id = world.take(1, key="r1")
    hold = world.hold(1, ttl_s=10 * 86400)
    world.later(days=1)
    world.q.close_days()
    world.at("2025-03-27T23:59:59.999Z")
    tables = ("entry", "counter", "demand", "closed_day", "audit", "reservation")
    before = [world.sql(f"SELECT * FROM {table}") for table in tables]
    for write in (
        lambda: world.consume(1),
        lambda: world.consume(9),
        lambda: world.q.reserve(user="ada", resource="image"),
        lambda: world.q.refund(entry_id=entry_id),
        lambda: world.q.post(hold),
        lambda: world.q.void(hold),
        lambda: world.admin.reset_user("ada", reason="r"),
    ):
        with pytest.raises(ClockBehind) as caught:
            write()
        assert caught.value.exit_code == 75
    assert [world.sql(f"SELECT * FROM {table}") for table in tables] == before
    world.at("2025-03-28T00:00:00Z")
    world.take(1)


def test_a_replay_of_a_key_by_a_clock_behind_is_answered(world: World) -> None:
    world.consume(1, key="r1")
    world.later(days=1)
    world.q.close_days()
    world.at("2025-03-27T23:59:59Z")
    assert world.consume(1, key="r1").replayed


def test_a_clock_behind_in_a_batch_is_an_error_in_its_place(world: World) -> None:
    from quotactl import Request

    world.later(days=1)
    world.q.close_days()
    world.later(days=-1)
    (answer,) = world.q.consume_many([Request("ada", "image")])
    assert isinstance(answer, ClockBehind)


def test_a_clock_that_runs_behind_in_an_open_day_is_served(world: World) -> None:
    world.take(1)
    world.later(hours=-2)
    world.take(2)
    assert not world.consume().allowed


def test_refunds_of_older_entries_still_adjust_their_closed_day(world: World) -> None:
    entry_id = world.take(3)
    world.later(days=1)
    world.q.close_days()
    closed = world.sql("SELECT * FROM closed_day")
    world.q.refund(entry_id=entry_id, amount=2)
    assert world.counters() == [(1, 0, 0, 0)]
    assert world.sql("SELECT sum(used) FROM demand") == [(1,)]
    assert world.sql("SELECT * FROM closed_day") == closed


@pytest.mark.parametrize("how", ["post", "void", "time"])
def test_settlements_of_older_holds_still_adjust_their_closed_day(world: World, how: str) -> None:
    hold = world.hold(3, ttl_s=30 * 3600)
    world.later(hours=24)
    world.q.close_days()
    if how == "post":
        world.q.post(hold, amount=1)
    elif how == "void":
        world.q.void(hold)
    else:
        world.later(hours=6)
        world.take(1)
    assert world.counters()[0] == (1 if how == "post" else 0, 0, 0, 0)
    assert world.sql("SELECT sum(used) FROM demand") == [(1 if how != "void" else 0,)]


def test_the_policy_as_it_stands_applies_at_any_clock(world: World) -> None:
    world.later(days=-30)
    world.take(3)
    world.limit("5/day")
    world.take(2)
    assert not world.consume().allowed


def test_a_throttle_does_not_hold_before_its_start(world: World) -> None:
    world.throttle(deny=True)
    world.later(seconds=-1)
    assert world.consume().allowed


def test_a_clock_with_another_offset_is_the_same_moment(world: World) -> None:
    from datetime import timedelta, timezone

    world.now = world.now.astimezone(timezone(timedelta(hours=14)))
    decision = world.consume()
    assert decision.to_dict()["reset_at"] == "2025-03-28T00:00:00Z"


def test_a_clock_without_a_zone_is_refused(world: World) -> None:
    world.now = world.now.replace(tzinfo=None)
    with pytest.raises((ValueError, QuotaError)):
        world.consume()
    world.at("2025-03-27T09:00:00Z")
    assert world.count("entry") == 0


# ---- 26. Tiers, resources, policy files


def test_a_tier_with_users_is_deleted_only_with_move_to(world: World) -> None:
    world.admin.set_tier("ada", "plus")
    world.take(4)
    with pytest.raises(Conflict) as caught:
        world.admin.delete_tier("plus")
    assert "--move-to" in (caught.value.hint or "")
    with pytest.raises(InvalidInput):
        world.admin.delete_tier("plus", move_to="plus")
    with pytest.raises(NotFound):
        world.admin.delete_tier("plus", move_to="gold")
    assert world.check().tier == "plus"
    world.admin.delete_tier("plus", move_to="free")
    decision = world.check()
    assert (decision.tier, decision.used, decision.allowed) == ("free", 4, False)


def test_a_tier_without_users_is_deleted_without_more(world: World) -> None:
    world.admin.delete_tier("plus")
    with pytest.raises(NotFound):
        world.admin.set_tier("ada", "plus")


def test_the_default_tier_is_not_deleted(world: World) -> None:
    with pytest.raises(Conflict):
        world.admin.delete_tier("free", move_to="plus")
    world.admin.set_default_tier("plus")
    world.admin.delete_tier("free")
    assert world.check().tier == "plus"


def test_a_retired_id_is_never_reused(world: World) -> None:
    ((old_tier,),) = world.sql("SELECT id FROM tier WHERE name = 'pro'")
    ((old_resource,),) = world.sql("SELECT id FROM resource WHERE name = 'image'")
    world.take(3)
    throttle_id = world.throttle(deny=True, tiers=["pro"], include_protected=True)
    world.admin.delete_tier("pro")
    world.admin.delete_resource("image")
    world.admin.create_tier("pro")
    world.admin.create_resource("image")
    world.limit("3/day")
    world.limit("3/day", tier="pro")
    assert world.sql("SELECT id FROM tier WHERE name = 'pro' AND id <> ?", old_tier)
    assert world.sql("SELECT id FROM resource WHERE name = 'image' AND id <> ?", old_resource)
    assert world.check().used == 0, "a new resource of an old name has its own counts"
    world.admin.set_tier("bob", "pro")
    assert world.consume(user="bob").allowed, "an old throttle is not for the new tier"
    world.admin.throttle_off(throttle_id, reason="r")


def test_the_newest_id_is_not_reused_either(world: World) -> None:
    grant_id = world.grant(1)
    throttle_id = world.throttle(deny=True, duration="1h")
    world.admin.revoke_grant(grant_id, reason="r")
    world.later(days=80)
    world.q.close_days()
    assert world.grant(1) > grant_id
    assert world.throttle(deny=True) > throttle_id


def test_a_retired_resource_is_not_found_and_its_history_stays(world: World) -> None:
    entry_id = world.take(2)
    world.admin.delete_resource("image")
    with pytest.raises(NotFound):
        world.consume()
    assert world.count("entry") == 1
    assert world.q.refund(entry_id=entry_id).resource == "image"


def test_a_policy_file_is_complete(world: World) -> None:
    world.admin.create_resource("video")
    world.limit("1/day", resource="video")
    policy = (
        'default_tier = "free"\n[resource.image]\nunit = "image"\n'
        '[tier.free.limits]\nimage = "5/day"\n'
    )
    shown: list[Any] = []
    applied = world.admin.apply_policy(policy, approve=shown.append)
    removed = {change.what for change in applied.changes if change.change == "remove"}
    assert {"resource.video", "tier.plus", "tier.pro"} <= removed
    assert shown == [applied.changes]
    assert world.check().limit == 5
    assert not world.admin.apply_policy(policy, approve=shown.append).applied
    assert len(shown) == 1


def test_what_a_policy_file_removes_is_asked_about_first(world: World) -> None:
    def no(changes: object) -> None:
        raise QuotaError("no")

    before = world.admin.export_policy()
    with pytest.raises(QuotaError, match="no"):
        world.admin.apply_policy('default_tier = "free"\n[tier.free]\n', approve=no)
    assert world.admin.export_policy() == before


def test_a_policy_file_does_not_remove_a_tier_with_users(world: World) -> None:
    world.admin.set_tier("ada", "plus")
    before = world.admin.export_policy()
    with pytest.raises(Conflict):
        world.admin.apply_policy('default_tier = "free"\n[tier.free]\n')
    assert world.admin.export_policy() == before


def test_a_policy_that_moved_while_it_was_asked_about_is_not_applied(world: World) -> None:
    other = world.reopened()

    def meanwhile(changes: object) -> None:
        other.admin.set_limit(tier="free", resource="image", limit="9/day")

    policy = world.admin.export_policy().replace('"3/day"', '"4/day"')
    with pytest.raises(Conflict):
        world.admin.apply_policy(policy, approve=meanwhile)
    assert world.check().limit == 9


def test_an_exported_policy_applied_elsewhere_is_the_same(make_world: MakeWorld) -> None:
    one, other = make_world(zone="Europe/Rome"), make_world(zone="UTC")
    other.admin.delete_tier("plus")
    other.admin.apply_policy(one.admin.export_policy())
    assert other.admin.export_policy().count("[tier.") == one.admin.export_policy().count("[tier.")
    assert not one.admin.diff_policy(other.admin.export_policy()).changes


# ---- a ledger is never created by accident


def test_a_ledger_is_opened_never_created(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        connect(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_never_overwritten(world: World, tmp_path: Path) -> None:
    with pytest.raises(Conflict):
        create(world.path)
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    with pytest.raises(Conflict):
        create(other)
    assert other.read_text() == "mine"
    with pytest.raises(LedgerCorrupt):
        connect(other)
    with pytest.raises(LedgerCorrupt):
        connect(tmp_path)


def test_a_ledger_is_for_its_owner_alone(world: World) -> None:
    world.take(1)
    for file in world.path.parent.glob(world.path.name + "*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name


def test_an_unknown_zone_makes_no_ledger(tmp_path: Path) -> None:
    for zone in ("Europe/Atlantis", "", "../../etc/passwd", "/etc/passwd"):
        with pytest.raises(InvalidInput):
            create(tmp_path / "new.db", zone=zone)
    assert list(tmp_path.iterdir()) == []
