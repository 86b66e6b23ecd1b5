"""Traces are read row by row: what a row says, and why one is skipped."""

from __future__ import annotations

import io

import pytest

from quotactl.errors import InvalidInput
from quotactl.operations.trace import Columns, SkippedRow, TraceRow, read_trace
from quotactl.policy.window import calendar_of

NINE = 1_740_819_600_000
"""2025-03-01T09:00:00Z."""


def rows(text: str, columns: Columns | None = None) -> list[TraceRow | SkippedRow]:
    file = io.StringIO(text, newline="")
    return list(read_trace(file, columns or Columns(), calendar_of("Europe/Rome")))


def test_a_row_has_a_moment_a_user_a_resource_and_an_amount() -> None:
    text = "at,user,amount\n2025-03-01T09:00:00Z,ada,3\n2025-03-01T10:00:00+01:00,bob,2k\n"
    assert rows(text, Columns(resource="image")) == [
        TraceRow(2, NINE, "ada", "image", 3, False),
        TraceRow(3, NINE, "bob", "image", 2000, False),
    ]


def test_without_a_column_of_amounts_each_row_is_one_unit() -> None:
    text = "user,at\nada,2025-03-01 10:00\n"
    assert rows(text, Columns(resource="image")) == [TraceRow(2, NINE, "ada", "image", 1, False)]


def test_columns_may_be_called_otherwise() -> None:
    columns = Columns(
        at="when", user="who", amount="images", resource_column="what", status="how",
        failed=frozenset({"failed", "lost"}),
    )  # fmt: skip
    text = (
        "what,when,who,images,how,amount\n"
        "video,2025-03-01T09:00:00Z,ada,2,done,x\n"
        "image,2025-03-01T09:00:00Z,ada,3,lost,x\n"
    )
    assert rows(text, columns) == [
        TraceRow(2, NINE, "ada", "video", 2, False),
        TraceRow(3, NINE, "ada", "image", 3, True),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_are_counted_as_an_editor_counts_them(end: str) -> None:
    text = end.join(
        (
            "\ufeffat,user",
            "",
            '2025-03-01T09:00:00Z,"a',
            'b"',
            "2025-03-01T09:00:00Z",
            "2025-03-01T09:00:00Z,ada,x",
            "",
            "2025-03-01T09:00:00Z,ada",
        )
    )
    found = rows(text, Columns(resource="image"))
    assert [row.line for row in found] == [3, 5, 6, 8]
    skipped = [row.why for row in found if isinstance(row, SkippedRow)]
    assert "control character" in skipped[0]
    assert skipped[1:] == ["1 fields instead of 2", "3 fields instead of 2"]


def test_after_a_row_that_is_not_csv_the_next_are_read() -> None:
    text = 'at,user\n2025-03-01T09:00:00Z,"a"b\n2025-03-01T09:00:00Z,ada\n'
    broken, whole = rows(text, Columns(resource="image"))
    assert isinstance(broken, SkippedRow)
    assert (broken.line, broken.why[:9]) == (2, "not CSV: ")
    assert whole == TraceRow(3, NINE, "ada", "image", 1, False)


@pytest.mark.parametrize(
    "at",
    ["09:00", "tomorrow 09:00", "2025-03-01", "yesterday", "", "174081960", "2025-03-01T09:00:60Z"],
)
def test_a_time_that_would_be_another_one_tomorrow_is_none(at: str) -> None:
    (row,) = rows(f"at,user\n{at},ada\n", Columns(resource="image"))
    assert isinstance(row, SkippedRow)
    assert row.why.startswith("time ") and row.to_dict() == {"line": 2, "why": row.why}


@pytest.mark.parametrize(
    ("text", "columns", "why"),
    [
        ("", Columns(), "the trace is empty: not even a header"),
        ('"at"x,user\n', Columns(), "the trace is not CSV"),
        ("at,name\n", Columns(), "no column 'user'"),
        ("user\n", Columns(), "no column 'at'"),
        ("at,user,user\n", Columns(), "two columns 'user'"),
        ("at,user\n", Columns(amount="images"), "no column 'images'"),
        ("at,user\n", Columns(status="how"), "no column 'how'"),
        ("at,user\n", Columns(resource_column="what"), "no column 'what'"),
        ("at,user,amount,amount\n", Columns(), "two columns 'amount'"),
    ],
)
def test_a_header_that_lacks_a_column_or_has_it_twice_is_refused(
    text: str, columns: Columns, why: str
) -> None:
    with pytest.raises(InvalidInput, match=why):
        rows(text, columns)
