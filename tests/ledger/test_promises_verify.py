"""Promise 22's other half: verify names what was edited behind the ledger's back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from quotactl import LedgerCorrupt

if TYPE_CHECKING:
    from conftest import World


@pytest.fixture
def lived(world: World) -> World:
    """A ledger in which everything happened once; entry 1 took 3 units of ada's."""
    world.limit("3/day,9/hour")
    world.take(3, key="r1")
    world.grant(5)
    world.take(2, key="r2")
    world.hold(1)
    world.hold(1, user="bob")
    assert not world.consume(9).allowed
    world.q.refund(idempotency_key="r1", amount=1)
    world.later(days=1)
    world.q.close_days()
    world.take(1)
    assert world.q.verify().ok
    return world


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE counter SET used = used - 1 WHERE used = 2", {"counter.used"}),
        ("UPDATE counter SET used = used + 1 WHERE period = 60 AND used = 4", {"counter.used"}),
        (
            "UPDATE counter SET granted = 0 WHERE granted > 0",
            {"counter.granted"},
        ),
        ("UPDATE counter SET denied = 0 WHERE period = 1440", {"demand.denied"}),
        ("UPDATE counter SET shadow_denied = 7 WHERE period = 1440", {"demand.shadow_denied"}),
        ("UPDATE counter SET reset_id = 1 WHERE period = 1440", {"counter.reset_id"}),
        ("DELETE FROM counter WHERE period = 60", {"counter.used"}),
        ("UPDATE grant_pool SET balance = 5", {"grant.balance"}),
        ("UPDATE reservation SET state = 'posted'", {"reservation.state"}),
        ("UPDATE reservation SET state = 'voided' WHERE id = 4", {"reservation.state"}),
        ("DELETE FROM reservation", {"reservation.state"}),
        ("UPDATE demand_summed SET used = used + 1", {"demand.used"}),
        ("UPDATE demand_summed SET granted = granted + 1 WHERE granted > 0", {"demand.granted"}),
        ("UPDATE demand_summed SET denied = denied - 1 WHERE denied > 0", {"demand.denied"}),
        ("DELETE FROM demand_summed WHERE denied > 0", {"demand.denied"}),
        ("UPDATE audit_text SET text = 'harmless'", {"audit"}),
        ("UPDATE ledger SET closed_until_ms = NULL", {"ledger.closed_until_ms"}),
        (
            "UPDATE idempotency_key SET at_ms = at_ms + 1 WHERE key = 'r1'",
            {"idempotency_key.at_ms"},
        ),
    ],
)
def test_verify_names_what_was_edited(lived: World, statement: str, named: set[str]) -> None:
    lived.tamper(statement)
    assert lived.found() == named


@pytest.mark.parametrize(
    ("drop", "statement", "named"),
    [
        ("entry_is_immutable", "UPDATE entry SET amount = 2 WHERE id = 1", "counter.used"),
        ("entry_is_immutable", "UPDATE entry SET user_id = 2 WHERE id = 1", "counter.used"),
        ("entry_is_immutable", "UPDATE entry SET granted = 1 WHERE id = 1", "counter.granted"),
        ("entry_is_immutable", "UPDATE entry SET granted = 1 WHERE id = 1", "entry.granted"),
        ("entry_is_immutable", "UPDATE entry SET day_ms = day_ms + 1 WHERE id = 1", "counter.used"),
        ("entry_is_immutable", "UPDATE entry SET amount = -9 WHERE of_id = 1", "entry.given_back"),
        ("entry_is_kept", "DELETE FROM entry WHERE id = 1", "counter.used"),
        ("entry_is_kept", "DELETE FROM entry WHERE id = 1", "idempotency_key.entry"),
        (
            "grant_movement_is_immutable",
            "UPDATE grant_movement SET amount = 4 WHERE amount = 5",
            "grant.balance",
        ),
        ("grant_movement_is_kept", "DELETE FROM grant_movement WHERE amount < 0", "entry.granted"),
        ("audit_is_immutable", "UPDATE audit SET actor = 'nobody' WHERE id = 3", "audit"),
        ("audit_is_immutable", "UPDATE audit SET at_ms = at_ms + 1 WHERE id = 3", "audit"),
        ("audit_is_immutable", "UPDATE audit SET after = '{}' WHERE id = 3", "audit"),
        ("audit_is_immutable", "UPDATE audit SET user_id = 2 WHERE user_id = 1", "audit"),
        ("audit_is_kept", "DELETE FROM audit WHERE id = 3", "audit"),
        ("audit_is_kept", "DELETE FROM audit WHERE id = 1", "audit"),
    ],
)
def test_verify_names_what_was_edited_past_a_dropped_guard(
    lived: World, drop: str, statement: str, named: str
) -> None:
    lived.tamper(statement, drop=drop)
    assert named in lived.found()


def test_verify_names_an_entry_that_was_slipped_in(lived: World) -> None:
    lived.tamper(
        "INSERT INTO entry (at_ms, kind, user_id, resource_id, tier_id, amount, granted, day_ms) "
        "SELECT at_ms, 1, user_id, resource_id, tier_id, 1, 0, day_ms FROM entry WHERE id = 1"
    )
    assert "counter.used" in lived.found()


def test_verify_names_an_audit_row_that_was_slipped_in(lived: World) -> None:
    lived.tamper(
        "INSERT INTO audit (at_ms, actor, action, hash) VALUES (0, 'root', 'x', ?)", "f" * 64
    )
    assert lived.found() == {"audit"}


@pytest.mark.parametrize("guard", ["entry_is_immutable", "audit_is_kept"])
def test_verify_names_a_guard_that_is_gone(lived: World, guard: str) -> None:
    lived.tamper(f"DROP TRIGGER {guard}")
    assert any(guard in difference.where for difference in lived.q.verify().differences)


@pytest.mark.parametrize(
    ("statement", "drop"),
    [
        # Raises what a grant may still be given back, unseen by the balance alone.
        ("UPDATE grant_pool SET amount = 500", None),
        # The audit row of the close has the same figures, under its hash.
        ("UPDATE closed_day SET used = 700", "closed_day_is_immutable"),
    ],
)
def test_verify_names_quieter_edits_too(lived: World, statement: str, drop: str | None) -> None:
    lived.tamper(statement, drop=drop)
    assert lived.found()


def test_verify_names_a_closed_day_that_no_audit_row_tells_of(lived: World) -> None:
    lived.tamper("DELETE FROM audit WHERE action = 'day.close'", drop="audit_is_kept")
    closed = [d for d in lived.q.verify().differences if d.what == "closed_day"]
    assert [(d.where, d.expected, d.found) for d in closed] == [
        (day, "an audit row", None) for (day,) in lived.sql("SELECT day FROM closed_day")
    ]
    assert closed


def test_verify_names_a_closed_day_that_is_gone(lived: World) -> None:
    days = lived.sql("SELECT day FROM closed_day")
    lived.tamper("DELETE FROM closed_day", drop="closed_day_is_immutable")
    closed = [d for d in lived.q.verify().differences if d.what == "closed_day"]
    assert [(d.where, d.expected, d.found) for d in closed] == [
        (day, "a closed day", None) for (day,) in days
    ]


def test_the_demand_of_a_day_is_compared_from_its_first_instant_on(lived: World) -> None:
    lived.at("2025-04-05T00:00:00Z")
    lived.take(1, user="zoe")
    assert lived.q.verify().ok
    lived.tamper("UPDATE demand_summed SET used = used + 1 WHERE hour_ms >= 1743811200000")
    assert lived.found()


def test_a_difference_says_where_and_both_values(lived: World) -> None:
    lived.tamper("UPDATE counter SET used = used + 7 WHERE period = 60 AND used = 4")
    (difference,) = lived.q.verify().differences
    assert difference.to_dict() == {
        "what": "counter.used",
        "where": "ada image hour 2025-03-27T09:00:00Z",
        "expected": 4,
        "found": 11,
    }
    assert not lived.q.verify().ok


def test_verify_changes_nothing(lived: World) -> None:
    tables = [name for (name,) in lived.sql("SELECT name FROM sqlite_master WHERE type = 'table'")]
    before = [lived.sql(f"SELECT * FROM {table}") for table in tables]
    lived.q.verify()
    assert [lived.sql(f"SELECT * FROM {table}") for table in tables] == before


def test_a_ledger_that_lost_the_row_about_itself_is_corrupt(lived: World) -> None:
    lived.tamper("DELETE FROM ledger", drop="ledger_is_kept")
    with pytest.raises(LedgerCorrupt) as caught:
        lived.consume()
    assert caught.value.exit_code == 78
