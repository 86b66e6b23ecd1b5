r"""Value → text: a record or a list, as table, json, jsonl, csv or tsv.

A value is a dictionary or anything with `to_dict()` (a record), or a sequence of them (a
list). `columns` names what the flat formats show, in order; JSON always shows everything.
It is needed for the header of a list that may be empty.

|       | record                       | list                                  |
| ----- | ---------------------------- | ------------------------------------- |
| json  | an object                    | a bare array, an element per line     |
| jsonl | an object                    | an object per line                    |
| csv   | a header and a row           | a header and rows                     |
| tsv   | a line per field, name first | a header and rows                     |
| table | a line per field, name first | columns, or blocks if they don't fit  |

Cells: None is empty (`-` in a table); true and false (yes and no in a table); times are
RFC 3339 in UTC with `Z` everywhere, to the second in a table; what is nested is compact
JSON (`a=1 b=2` in a table).

Names come from outside. JSON is exact and pure ASCII; in the other formats what could
move a cursor, turn the reading direction or break a line shows as a visible escape such
as `\x1b` (see `text`), and csv defuses formulas. No format reads markup in a cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

Output: TypeAlias = Literal["table", "json", "jsonl", "csv", "tsv"]
OUTPUTS: tuple[Output, ...] = ("table", "json", "jsonl", "csv", "tsv")


class HasDict(Protocol):
    """A report value: gives exactly the JSON that is printed."""

    def to_dict(self) -> dict[str, Any]:
        """Return field names and values, in the order in which they are shown."""


Record: TypeAlias = Mapping[str, Any] | HasDict
Value: TypeAlias = Record | Sequence[Record]


def render(
    value: Value,
    output: Output,
    *,
    columns: Sequence[str] | None = None,
    title: str | None = None,
    caption: str | None = None,
) -> str:
    """Return `value` as text that ends in a newline, or is empty.

    `title` and `caption` stand above and below a table and nowhere else. Rich is
    imported for tables only.
    """
    content = _plain(value)
    if output in {"json", "jsonl"}:
        from quotactl.render import structured

        return structured.json(content) if output == "json" else structured.jsonl(content)
    if columns is None:
        # Rows may differ in what they have: every name, in order of appearance.
        rows = [content] if isinstance(content, Mapping) else content
        columns = list(dict.fromkeys(name for row in rows for name in row))
    if output == "table":
        from quotactl.render import table

        return table.table(content, columns, title=title, caption=caption)
    from quotactl.render import delimited

    return (delimited.csv if output == "csv" else delimited.tsv)(content, columns)


def pieces(rows: Iterable[Record], output: Output, columns: Sequence[str]) -> Iterator[str]:
    """Yield the text of a list as `render` gives it, bit by bit: no row is kept.

    Any format but a table, which needs all rows for the widths of its columns.
    """
    content = map(_record, rows)
    if output in {"json", "jsonl"}:
        from quotactl.render import structured

        return structured.array(content) if output == "json" else structured.lines(content)
    from quotactl.render import delimited

    return (delimited.csv_rows if output == "csv" else delimited.tsv_rows)(content, columns)


def _plain(value: Value) -> Mapping[str, Any] | list[Mapping[str, Any]]:
    if isinstance(value, Sequence):
        return [_record(item) for item in value]
    return _record(value)


def _record(value: Record) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else value.to_dict()
