"""Markdown for a post-mortem: headings, lists and tables, with nothing in them taken for markup.

Texts come from outside. What would be markup in any of the usual dialects is escaped, and
ids stand as code, where not even an address becomes a link or a name a mention.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from quotactl.render.text import is_number, neutralise, scalar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MARKUP = re.compile(r"[\\`*_{}\[\]<>#|~&!$]")
# GitHub links bare addresses; an entity shows the same and is no address.
_ADDRESS = re.compile(r"(?<=[A-Za-z]):(?=//)|(?<=[Ww][Ww][Ww])\.")
# Mentions somebody.
_MENTION = re.compile(r"(?<![\w.+-])@")
_TICKS = re.compile("`+")


def text(value: object) -> str:
    r"""Return a value as text with all markup escaped: `a|b` is `a\|b`; None is `-`."""
    if value is None:
        return "-"
    if is_number(value):
        return str(value)
    plain = neutralise(value if isinstance(value, str) else str(scalar(value)))
    escaped = _MARKUP.sub(r"\\\g<0>", plain)
    return _MENTION.sub("&#64;", _ADDRESS.sub(lambda m: f"&#{ord(m[0])};", escaped))


def code(value: str) -> str:
    r"""Return an id as code, with a fence that it can't close."""
    plain = neutralise(value)
    if "\\|" in plain:
        # Readers don't agree on what that is within code in a table.
        return text(value)
    fence = "`" * (max((len(ticks) for ticks in _TICKS.findall(plain)), default=0) + 1)
    edge = " " if plain[0] in "` " or plain[-1] in "` " else ""
    return f"{fence}{edge}{plain}{edge}{fence}".replace("|", "\\|")


def heading(words: str, level: int = 2) -> str:
    """Return a heading, with an empty line after it."""
    return f"{'#' * level} {words}\n\n"


def bullets(lines: Sequence[str]) -> str:
    """Return a list."""
    return "".join(f"- {line}\n" for line in lines)


def table(rows: Sequence[Mapping[str, object]], columns: Mapping[str, str]) -> str:
    """Return a table; `columns` maps names to headers. Cells that are text stand as they
    are: they come from `text` or `code`. Columns of numbers are aligned to the right."""
    rules = []
    for name in columns:
        values = [row.get(name) for row in rows]
        rules.append("---:" if values and all(map(is_number, values)) else "---")
    lines = [list(columns.values()), rules]
    lines += [
        [str(cell) if is_number(cell := row.get(name)) else str(cell or "") for name in columns]
        for row in rows
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
