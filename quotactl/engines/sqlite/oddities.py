"""Values that no part of quotactl writes: what a damaged or edited ledger can hold.

SQLite's tables are strict, so a number is a number; but not every number is a moment, not
every text is JSON, and CHECKs bind only those who don't switch them off. `verify` names
them; and what fails for one of them is told as damage, not as a fault of the program.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from quotactl.policy.model import AMOUNT_MAX
from quotactl.policy.settings import SETTINGS
from quotactl.policy.window import calendar_of

Finding = tuple[str, dict[str, Any], Any, Any]

# From the year 1900 on, when no clock was ever so wrong, to 9000, as `--until` takes it.
MOMENTS = "-2208988800000 AND 221845392000000"
_JSON = {"audit": ("before", "after"), "switch": ("promise",), "preset": ("definition",)}
# What the schema itself does not refer to: hot tables, and rows that outlive what they name.
_PARENTS = {
    ("total", "resource_id"): "resource",
    ("counter", "resource_id"): "resource",
    ("counter", "user_id"): "user",
    ("demand_summed", "resource_id"): "resource",
    ("demand_summed", "tier_id"): "tier",
}
_ODD_PERIODS = """
periods <> '' AND CASE
  WHEN periods GLOB '*[^0-9,]*' OR json_valid('[' || periods || ']') = 0 THEN 1
  ELSE EXISTS (
    SELECT 1 FROM json_each('[' || periods || ']') WHERE value NOT BETWEEN 1 AND 1439
  )
END
"""
_SHOWN_MAX = 20


def odd_values(connection: sqlite3.Connection) -> Iterator[Finding]:
    """Values that can't be, table by table, the small ones first."""
    yield from _settings(connection)
    for table, columns in _tables(connection):
        for column, (condition, wanted) in _conditions(table, columns).items():
            for row in connection.execute(
                f"SELECT *, {column} FROM {table} WHERE {condition} LIMIT {_SHOWN_MAX}"
            ):
                yield f"{table}.{column}", {"": row[0]}, wanted, row[-1]


def odd_texts(connection: sqlite3.Connection) -> Iterator[Finding]:
    """Texts that are no UTF-8, of which SQLite knows nothing."""
    for table, columns in _tables(connection):
        for column in columns:
            cursor = connection.execute(
                # As blobs they can be read; in plain ASCII nothing is wrong.
                f"SELECT CAST({column} AS BLOB) FROM {table} "
                f"WHERE typeof({column}) = 'text' AND {column} GLOB '*[^ -~]*'"
            )
            for (text,) in cursor:
                try:
                    text.decode()
                except UnicodeDecodeError:
                    yield f"{table}.{column}", {}, "UTF-8", repr(text)


def _settings(connection: sqlite3.Connection) -> Iterator[Finding]:
    for (zone,) in connection.execute("SELECT zone FROM ledger"):
        try:
            calendar_of(zone)
        except (LookupError, ValueError, OSError):
            yield "ledger.zone", {}, "a zone that this machine knows", zone
    for key, value in connection.execute("SELECT key, value FROM setting"):
        setting = SETTINGS.get(key)
        try:
            fine = setting is not None and bool(setting.read(value))
        except Exception:  # noqa: BLE001 - however it can't be read
            fine = False
        if not fine:
            yield "setting", {"": key}, "a value of that setting", value


def _tables(connection: sqlite3.Connection) -> list[tuple[str, list[str]]]:
    """Our own tables with their columns, in an order in which the large ones come last."""
    large = ("audit", "user", "reservation", "total", "demand_summed", "counter", "grant_movement")
    order = {name: number for number, name in enumerate((*large, "idempotency_key", "entry"))}
    found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    names = [name for (name,) in found if not name.startswith(("_", "sqlite_"))]
    names.sort(key=lambda name: order.get(name, -1))
    tables = []
    for name in names:
        cursor = connection.execute(f"SELECT * FROM {name} LIMIT 0")
        tables.append((name, [column[0] for column in cursor.description]))
    return tables


def _conditions(table: str, columns: list[str]) -> dict[str, tuple[str, str]]:
    """For each column that has one: what is odd, in SQL, and what it should be instead."""
    conditions = {}
    for column in columns:
        if column == "id":
            conditions[column] = (f"id < 1 OR id > {AMOUNT_MAX}", "a number that is given out")
        elif column.endswith("_ms"):
            conditions[column] = (f"{column} NOT BETWEEN {MOMENTS}", "a moment")
        elif column in ("period", "capacity_period"):
            odd = f"{column} NOT BETWEEN 1 AND 1440 AND {column} NOT IN (10080, 43200)"
            conditions[column] = (odd, "a period")
        elif column in _JSON.get(table, ()):
            kind = f"CASE WHEN json_valid({column}) THEN json_type({column}) END"
            odd = f"{column} IS NOT NULL AND {kind} IS NOT 'object'"
            conditions[column] = (odd, "JSON")
        elif (parent := _PARENTS.get((table, column))) is not None:
            spared = f"{column} <> 0 AND " if column == "tier_id" else ""
            odd = f"{spared}NOT EXISTS (SELECT 1 FROM {parent} WHERE id = {table}.{column})"
            conditions[column] = (odd, f"a row of {parent}")
        elif (table, column) == ("entry", "periods"):
            odd = _ODD_PERIODS
            conditions[column] = (odd, "lengths in minutes")
        elif (table, column) in (("counter", "denied"), ("counter", "shadow_denied")):
            conditions[column] = (f"{column} NOT BETWEEN 0 AND {AMOUNT_MAX}", "a count of units")
    return conditions
