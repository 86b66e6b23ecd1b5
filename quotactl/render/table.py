"""Tables for people, by Rich; at 80 columns too, and never with a name cut off.

A cell that is too long is folded. If the columns don't fit side by side without being
squeezed, each row becomes a block of its own, a line per field.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quotactl.render.structured import dumps
from quotactl.render.text import is_number, neutralise, scalar

if TYPE_CHECKING:
    from collections.abc import Sequence

_FOLD_AT = 20  # the least width of a column to which a longer cell is folded: a time fits
_GAP = 2
_MOMENT = re.compile(r"\A(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.\d+Z\Z")


def table(
    content: Mapping[str, Any] | list[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    title: str | None,
    caption: str | None,
) -> str:
    """Return a table as wide as the terminal (80 or COLUMNS without one), in colour on one.

    With NO_COLOR there are no escape sequences at all; Rich by itself would keep bold.
    """
    width = _width()
    console = Console(
        width=width,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        markup=False,
        highlight=False,
        emoji=False,
    )
    with console.capture() as captured:
        if title:
            console.print(Text(neutralise(title), style="bold"))
        if not isinstance(content, list):
            console.print(_block(content, columns))
        elif not content:
            console.print(Text("none", style="dim"))
        elif (widths := _least_widths(content, columns)) and sum(widths) + _GAP * (
            len(widths) - 1
        ) <= width:
            console.print(_grid(content, columns, widths))
        else:
            for number, row in enumerate(content):
                if number:
                    console.print()
                console.print(_block(row, columns))
        if caption:
            console.print(Text(neutralise(caption), style="dim"))
    # Rich pads lines with blanks up to the table's edge; they only get in the way.
    return "".join(f"{line.rstrip(' ')}\n" for line in captured.get().splitlines())


def _width() -> int:
    # Not Rich's own measure: into a pipe it takes the width of the terminal on stdin. And not
    # the one of `shutil`, with which a tenth of the modules of a whole command would come.
    columns, stdout = 0, sys.__stdout__
    with suppress(ValueError):
        columns = int(os.environ.get("COLUMNS", ""))
    if columns <= 0 and stdout is not None:
        with suppress(ValueError, OSError):
            columns = os.get_terminal_size(stdout.fileno()).columns
    return columns if columns > 0 else 80


def _grid(rows: list[Mapping[str, Any]], columns: Sequence[str], widths: list[int]) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for name, width in zip(columns, widths, strict=True):
        values = [row.get(name) for row in rows]
        numeric = any(map(is_number, values)) and all(v is None or is_number(v) for v in values)
        grid.add_column(
            Text(neutralise(name)),
            justify="right" if numeric else "left",
            overflow="fold",
            min_width=width,
        )
    for row in rows:
        grid.add_row(*(Text(_cell(row.get(name))) for name in columns))
    return grid


def _block(record: Mapping[str, Any], columns: Sequence[str]) -> Table:
    block = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
    block.add_column(style="bold", no_wrap=True)
    block.add_column(overflow="fold")
    for name in columns:
        block.add_row(Text(neutralise(name)), Text(_cell(record.get(name))))
    return block


def _least_widths(rows: list[Mapping[str, Any]], columns: Sequence[str]) -> list[int]:
    """Return for each column what it needs: its header, and its cells up to the folding width."""
    return [
        max(
            cell_len(name),
            min(_FOLD_AT, max(cell_len(_cell(row.get(name))) for row in rows)),
        )
        for name in columns
    ]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if value is True or value is False:
        return "yes" if value else "no"
    if is_number(value):
        return str(value)
    if not isinstance(value, str | Mapping | list | tuple):
        value = scalar(value)
    if isinstance(value, str):
        # A person reads seconds; JSON and tsv have the whole moment.
        return neutralise(_MOMENT.sub(r"\1Z", value))
    if isinstance(value, Mapping) and not any(map(_is_nested, value.values())):
        return " ".join(f"{neutralise(str(k))}={_cell(v)}" for k, v in value.items())
    if isinstance(value, list | tuple) and not any(map(_is_nested, value)):
        return ", ".join(map(_cell, value)) or "-"
    return dumps(value, compact=True)


def _is_nested(value: object) -> bool:
    return isinstance(value, Mapping | list | tuple) or hasattr(value, "to_dict")
