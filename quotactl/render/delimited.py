"""TSV for pipes, CSV for spreadsheets: every row one line, nothing cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quotactl.render.text import is_number, neutralise, scalar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

# Spreadsheets run a cell that begins so (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001


def tsv(content: Mapping[str, Any] | list[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return a header and rows; of a record, a line per field with its name first."""
    if isinstance(content, list):
        return "".join(tsv_rows(content, columns))
    return "".join(f"{name}\t{_cell(content.get(name))}\n" for name in columns)


def tsv_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    """Yield a header and rows, a line each."""
    if not columns:
        return
    yield "\t".join(columns) + "\n"
    for row in rows:
        yield "\t".join([_cell(row.get(name)) for name in columns]) + "\n"


def csv(content: Mapping[str, Any] | list[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return a header and rows. Lines end in a bare newline, as other tools here expect."""
    return "".join(csv_rows(content if isinstance(content, list) else [content], columns))


def csv_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    """Yield a header and rows, a line each."""
    import csv as standard

    if not columns:
        return
    line: list[str] = []
    writer = standard.writer(_Into(line.append), lineterminator="\n")
    writer.writerow(columns)
    yield line.pop()
    for row in rows:
        writer.writerow([_defused(row.get(name)) for name in columns])
        yield line.pop()


class _Into:
    """What csv takes for a file: it writes a row at once."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self.write = write


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
