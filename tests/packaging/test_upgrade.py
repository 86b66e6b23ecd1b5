"""Ledgers of older versions, brought up to date: `schema1.py` and its like say how they
were made."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import quotactl
from quotactl.cli import main
from quotactl.engines.schema import SCHEMA_VERSION

sys.path.insert(0, str(Path(__file__).parent))
from schema1 import NOW, decide

HERE = Path(__file__).parent
# What is counted and administered: a new version finds it as the old one left it.
KEPT = (
    "ledger", "setting", "tier", "tier_limit", "user", "audit", "audit_text", "override", "block",
    "grant_pool", "switch_resource", "switch_tier", "entry", "grant_movement", "idempotency_key",
    "reservation", "counter", "closed_day",
)  # fmt: skip


def hour(text: str) -> int:
    return int(datetime.fromisoformat(f"2025-{text}:00+00:00").timestamp()) * 1000


@pytest.fixture
def schema() -> int:
    """The version of the older ledger: 1, but for the tests that are of each."""
    return 1


each = pytest.mark.parametrize("schema", range(1, SCHEMA_VERSION))


def made(schema: int) -> Path:
    return HERE / f"schema{schema}.db"


@pytest.fixture
def old(tmp_path: Path, schema: int) -> Path:
    """A copy of an older ledger."""
    return Path(shutil.copy(made(schema), tmp_path / "ledger.db"))


@pytest.fixture
def upgraded(old: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["--db", str(old), "db", "migrate"]) == 0
    capsys.readouterr()
    return old


def rows(path: Path, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def backup_of(path: Path) -> Path:
    (found,) = path.parent.glob("ledger.db.backup-schema*")
    return found


@each
@pytest.mark.parametrize("words", ["consume ada image", "status", "throttle off half --reason r"])
def test_an_older_ledger_is_refused_with_the_way_out_and_left_as_it_is(
    old: Path, schema: int, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    before = "\n".join(rows_of_all(old))
    assert main(["--db", str(old), *words.split()]) == 78
    told = capsys.readouterr().err
    assert f"schema {schema}" in told
    assert "quotactl db migrate" in told
    assert "\n".join(rows_of_all(old)) == before
    with pytest.raises(quotactl.SchemaMismatch):
        quotactl.connect(old)


def rows_of_all(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


@each
def test_it_is_backed_up_first_and_the_backup_is_what_it_was(
    schema: int, old: Path, upgraded: Path
) -> None:
    assert rows_of_all(backup_of(upgraded)) == rows_of_all(made(schema))
    assert rows(backup_of(upgraded), "PRAGMA user_version") == [(schema,)]
    assert rows(backup_of(upgraded), "PRAGMA application_id") != [(0,)]


@each
def test_it_has_the_present_schema_like_a_new_ledger(upgraded: Path, tmp_path: Path) -> None:
    assert rows(upgraded, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    quotactl.create(tmp_path / "new.db").close()
    for kind in ("table", "index", "trigger"):
        names = f"SELECT name FROM sqlite_master WHERE type = '{kind}' ORDER BY name"
        assert rows(upgraded, names) == rows(tmp_path / "new.db", names)
    for (table,) in rows(upgraded, "SELECT name FROM sqlite_master WHERE type = 'table'"):
        columns = (
            f"SELECT name, type, \"notnull\", dflt_value, pk FROM pragma_table_info('{table}')"
        )
        assert rows(upgraded, columns) == rows(tmp_path / "new.db", columns), table


def test_twice_says_that_it_is_up_to_date(
    upgraded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows_of_all(upgraded)
    assert main(["--db", str(upgraded), "db", "migrate"]) == 0
    assert capsys.readouterr().err == f"schema {SCHEMA_VERSION} is up to date already\n"
    assert rows_of_all(upgraded) == before
    assert backup_of(upgraded).exists()


@each
def test_nothing_that_is_counted_has_changed(schema: int, upgraded: Path) -> None:
    for table in KEPT:
        columns = ", ".join(
            name for _, name, *_ in rows(made(schema), f"PRAGMA table_info({table})")
        )
        every = f"SELECT {columns} FROM {table} ORDER BY 1, 2"
        assert rows(upgraded, every) == rows(made(schema), every), table


@each
def test_it_verifies(schema: int, upgraded: Path) -> None:
    with quotactl.connect(upgraded, clock=lambda: NOW) as q:
        found = q.verify()
    assert found.differences == ()
    counted = "SELECT (SELECT count(*) FROM entry), (SELECT count(*) FROM audit)"
    assert [(found.entries, found.audit_rows)] == rows(made(schema), counted)
    assert found.entries > 40


@each
def test_it_decides_as_before(schema: int, upgraded: Path) -> None:
    before = json.loads(made(schema).with_suffix(".json").read_text())
    now = json.loads(json.dumps(decide(upgraded)))
    assert len(now) == len(before) > 90
    for one, other in zip(now, before, strict=True):
        if isinstance(other, dict):
            # Fields that are new are not asked for.
            assert {key: one[key] for key in other} == other
        else:
            assert one == other
    with quotactl.connect(upgraded, clock=lambda: NOW) as q:
        assert q.verify().differences == ()


def test_what_resets_took_off_is_told_from_refunds_and_no_sum_changes(
    old: Path, upgraded: Path
) -> None:
    booked = (
        "SELECT hour_ms, resource_id, tier_id, used, granted FROM demand "
        "WHERE reason = '{}' AND (used <> 0 OR granted <> 0) ORDER BY 1, 2, 3"
    )
    monday, wednesday, thursday = hour("03-23T23:00"), hour("03-25T23:00"), hour("03-26T23:00")
    night, morning = hour("03-27T23:00"), hour("03-28T07:00")
    assert rows(upgraded, booked.format("reset")) == [
        # Of bob (image and video) and carl, on plus: both were reset on Friday, for days of
        # the week that are booked at their first hours.
        (monday, 1, 2, -5, 0),
        (monday, 2, 2, -1, 0),
        (wednesday, 1, 2, -5, 0),
        (thursday, 1, 2, -5, 0),
        # Friday itself, by the hour: carl just after midnight, bob and dan in the morning.
        (night, 1, 2, -1, 0),
        (morning, 1, 1, -2, 0),
        (morning, 1, 2, -8, 0),
    ]
    assert rows(upgraded, booked.format("correction")) == [
        # Whose entries are pruned stays as it was: resets on the 10th and 12th, a refund.
        (hour("02-09T23:00"), 1, 2, -4, 0),
        (hour("02-10T10:00"), 1, 1, 0, -2),
        (hour("02-12T10:00"), 1, 2, -3, 0),
        (wednesday, 1, 2, -1, 0),
        (morning, 1, 1, -1, -1),
        (morning, 1, 2, -2, 0),
        (morning, 1, 3, -7, 0),
    ]
    sums = (
        "SELECT hour_ms, resource_id, tier_id, sum(requests), sum(used), sum(granted), "
        "sum(denied), sum(shadow_denied) FROM demand GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
    )
    assert rows(upgraded, sums) == rows(HERE / "schema1.db", sums)


@pytest.mark.parametrize(
    ("tiers", "period", "used"),
    [
        # Friday, in Rome. Resets give nothing back: carl's 1 + 4 and bob's 5 + 3 + 2 + 4 of
        # which 2 were refunded.
        (["plus"], "day", 17),
        # And of the days before: 3 + 2, then 2 + 4 - 1, then 5.
        (["plus"], "week", 32),
        # dan (2 of 3, and 2), ada (3, 1 of 2, 3), zed, eve (one hold is over) and nobody.
        (["free"], "day", 2 + 2 + 3 + 1 + 3 + 4 + 1 + 1),
        (["pro"], "day", 10),
    ],
)
def test_a_total_counts_what_the_older_version_served(
    upgraded: Path, tiers: list[str], period: str, used: int
) -> None:
    with quotactl.connect(upgraded, clock=lambda: NOW, actor="ops") as q:
        on = q.admin.throttle_on(
            total=f"{used}/{period}", tiers=tiers, resources=["image"], include_protected=True,
            reason="melting",
        )  # fmt: skip
        user = {"plus": "bob", "free": "fay", "pro": "pia"}[tiers[0]]
        denied = q.consume(user=user, resource="image")
        assert (denied.reason, denied.rule.id) == ("throttled", on.item["id"])
        assert (denied.limit, denied.used, denied.remaining) == (used, used, 0)
        q.admin.throttle_on(
            total=f"{used + 1}/{period}", tiers=tiers, resources=["image"],
            include_protected=True, replace=True, reason="better",
        )  # fmt: skip
        assert q.consume(user=user, resource="image").allowed
        assert q.verify().differences == ()


def test_what_is_new_works_on_it(upgraded: Path) -> None:
    clock = [NOW]
    with quotactl.connect(upgraded, clock=lambda: clock[0], actor="ops") as q:
        q.admin.throttle_off("half", reason="cool")
        q.admin.throttle_on(
            ramp="50%,100%", every="1h", tiers=["free"], message="busy", reason="hot"
        )
        denied = q.consume(user="fay", resource="image", amount=3)
        assert (denied.limit, denied.message, denied.retry_after_s) == (1, "busy", 3600)
        clock[0] = datetime(2025, 3, 28, 10, 0, tzinfo=UTC)
        assert q.consume(user="fay", resource="image", amount=3).allowed
        assert q.verify().differences == ()
