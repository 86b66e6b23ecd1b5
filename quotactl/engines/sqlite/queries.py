"""What reports show, in SQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from quotactl.ledger.engine import Row


class Queries:
    """Read-only queries on one transaction; each returns plain rows as dicts."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def _dicts(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[Row]:
        cursor = self._connection.execute(sql, parameters)
        columns = [column[0] for column in cursor.description]
        return [dict(zip(columns, row, strict=True)) for row in cursor]
