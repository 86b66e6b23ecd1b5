"""A ledger that holds what no part of quotactl writes: told as damage, in a line, never as a
fault of the program. The campaign `damage.py --cells` tries such values at random."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest

import quotactl
from quotactl.engines.sqlite import checks


def edit(cli: Any, statement: str) -> None:
    """Change a cell past all guards but the types of the tables."""
    with closing(sqlite3.connect(cli.path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        guards = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall()
        for name, _ in guards:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(statement)
        for _, guard in guards:
            connection.execute(guard)


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("UPDATE ledger SET zone = 'Mars/Olympus'", 78),
        ("UPDATE user SET name = CAST(x'fffe' AS TEXT) WHERE name = 'ada'", 8),
        ("UPDATE resource SET name = CAST(x'fffe' AS TEXT)", 78),
        ("UPDATE ledger SET id = 7, default_tier_id = 99", 8),
        ("UPDATE tier_limit SET period = -1 WHERE period = 5 OR period = 1", 78),
        ("UPDATE counter SET period = 0", 8),
        ("UPDATE counter SET starts_at_ms = 9223372036854775807", 8),
        ("UPDATE counter SET used = 9223372036854775807", 8),
        ("UPDATE counter SET resource_id = 99", 8),
        ("UPDATE entry SET periods = '[1'", 8),
        ("UPDATE entry SET at_ms = -9223372036854775808", 8),
        ("UPDATE entry SET amount = 9223372036854775807", 8),
        ("UPDATE audit SET after = 'null'", 8),
        ("INSERT INTO setting VALUES ('entry_retention', 'for ever')", 8),
    ],
)
def test_what_can_not_be_is_a_difference_or_damage_in_one_line_and_nothing_fails_of_it(
    cli: Any, statement: str, code: int
) -> None:
    for user in ("ada", "bob"):
        cli.ok(f"user set-tier {user} plus")
        cli.ok(f"consume {user} image 2")
    edit(cli, statement)
    ran = cli("db verify")
    assert ran.code == code, ran
    assert cli("doctor").code == 8
    ran = cli("db backup")
    assert (ran.code, ran.err.count("\n")) == (78, 1), ran
    for line in ("status", "consume ada image", "explain ada image", "reset daily", "audit verify"):
        ran = cli(line)
        assert ran.code != 1 and "unexpected" not in ran.err, (line, ran)
        if ran.code == 78:
            assert ran.err.count("\n") == 1, (line, ran)


def test_a_failure_of_the_program_s_own_stays_one(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a fault of the program")

    monkeypatch.setattr("quotactl.operations.verify._closed_days", fail)
    ran = cli("db verify")
    assert (ran.code, "a fault of the program" in ran.err) == (1, True), ran


def test_a_gateway_that_meets_damage_again_and_again_looks_for_it_once(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []

    def first(connection: sqlite3.Connection, look: Any = checks._first) -> Any:
        looked.append(connection)
        return look(connection)

    monkeypatch.setattr(checks, "_first", first)
    cli.ok("consume ada image")
    edit(cli, "UPDATE counter SET used = -9223372036854775808")
    with quotactl.connect(cli.path, clock=lambda: cli.now) as q:
        for _ in range(3):
            with pytest.raises(quotactl.LedgerCorrupt, match="CHECK constraint failed in counter"):
                q.consume(user="ada", resource="image", amount=2)
    assert len(looked) == 1
