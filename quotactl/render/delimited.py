"""TSV for pipes, CSV for spreadsheets: every row one line, nothing cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quotactl.render.text import is_number, neutralise, scalar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Spreadsheets run a cell that begins so (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001


def tsv(content: Mapping[str, Any] | list[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return a header and rows; of a record, a line per field with its name first."""
    if isinstance(content, list):
        rows = [list(columns), *([_cell(row.get(name)) for name in columns] for row in content)]
    else:
        rows = [[name, _cell(content.get(name))] for name in columns]
    return "".join("\t".join(row) + "\n" for row in rows if row)


def csv(content: Mapping[str, Any] | list[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return a header and rows. Lines end in a bare newline, as other tools here expect."""
    import csv as standard
    import io

    rows = content if isinstance(content, list) else [content]
    if not columns:
        return ""
    text = io.StringIO()
    writer = standard.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_defused(row.get(name)) for name in columns] for row in rows)
    return text.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if value is True or value is False:
        return "true" if value else "false"
    if is_number(value):
        return str(value)
    if not isinstance(value, str | dict | list | tuple):
        value = scalar(value)
    if isinstance(value, str):
        return neutralise(value)
    from quotactl.render.structured import dumps

    return dumps(value, compact=True)


def _defused(value: object) -> str:
    cell = _cell(value)
    # A real number may be negative; a name that looks like one may be a formula.
    risky = isinstance(value, str) and value.startswith(_FORMULA)
    return f"'{cell}" if risky else cell
