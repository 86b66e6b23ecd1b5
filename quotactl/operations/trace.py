"""Recorded traffic: rows of a CSV file as requests at their own times."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from typing import TextIO

from quotactl.errors import InvalidInput
from quotactl.frozen import frozen
from quotactl.policy.notation import (
    INSTANT_MAX_MS,
    check_id,
    parse_amount,
    parse_instant,
    parse_rfc3339,
    shown,
)
from quotactl.policy.window import Calendar


@frozen
class Columns:
    """Where a trace's values stand, by column name.

    `amount` None: the column `amount` if there is one, else 1 a row. `status`
    is looked at where `failed` names the values that mean failure. One of
    `resource` (a fixed one) and `resource_column` is set.
    """

    at: str = "at"
    user: str = "user"
    amount: str | None = None
    status: str | None = None
    failed: frozenset[str] = frozenset()
    resource: str | None = None
    resource_column: str | None = None


@frozen
class TraceRow:
    """One request as it was recorded; `failed` says that it came to nothing."""

    line: int
    at_ms: int
    user: str
    resource: str
    amount: int
    failed: bool


@frozen
class SkippedRow:
    """A row that could not be read, by the line on which it begins, and why."""

    line: int
    why: str

    def to_dict(self) -> dict[str, object]:
        return {"line": self.line, "why": self.why}


def read_trace(
    file: TextIO, columns: Columns, calendar: Calendar
) -> Iterator[TraceRow | SkippedRow]:
    """Rows in the order of the file; InvalidInput where the header lacks a column.

    Times are RFC 3339, or `2025-03-28 09:00` in the calendar's zone.
    """
    reader = csv.reader(file, strict=True)
    header = _header(reader)
    at = _position(header, columns.at)
    user = _position(header, columns.user)
    status = _position(header, columns.status) if columns.status is not None else None
    amount = None
    if columns.amount is not None or "amount" in header:
        amount = _position(header, columns.amount or "amount")
    resource = (
        None if columns.resource_column is None else _position(header, columns.resource_column)
    )
    last_line = reader.line_num
    while True:
        line = last_line + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            last_line = reader.line_num
            yield SkippedRow(line, f"not CSV: {error}")
            continue
        last_line = reader.line_num
        if not row:
            continue
        if len(row) != len(header):
            yield SkippedRow(line, f"{len(row)} fields instead of {len(header)}")
            continue
        try:
            yield TraceRow(
                line,
                _at(row[at], calendar),
                check_id(row[user], columns.user),
                columns.resource or "" if resource is None else check_id(row[resource], "resource"),
                1 if amount is None else parse_amount(row[amount], columns.amount or "amount"),
                status is not None and row[status] in columns.failed,
            )
        except InvalidInput as error:
            yield SkippedRow(line, error.message)


def _header(reader: Iterator[list[str]]) -> list[str]:
    try:
        header = next(reader)
    except StopIteration:
        raise InvalidInput("the trace is empty: not even a header") from None
    except csv.Error as error:
        raise InvalidInput(f"the trace is not CSV: {error}") from None
    if header and header[0].startswith("\ufeff"):
        header[0] = header[0][1:]
    return header


def _position(header: Sequence[str], column: str) -> int:
    if column not in header:
        raise InvalidInput(
            f"the trace has no column {shown(column)}", hint=f"it has {', '.join(header)}"
        )
    if header.count(column) > 1:
        raise InvalidInput(f"the trace has two columns {shown(column)}")
    return header.index(column)


def _at(text: str, calendar: Calendar) -> int:
    if len(text) == 20 and text[-1] == "Z":
        return parse_rfc3339(text)
    # `18:00` would mean another moment tomorrow: no record of anything.
    if len(text) < 16:
        raise InvalidInput(f"time {shown(text)} is not understood")
    return parse_instant(text, now_ms=INSTANT_MAX_MS - 1, calendar=calendar)
