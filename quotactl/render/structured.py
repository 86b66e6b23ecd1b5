"""JSON and JSON lines: exact, ASCII only, an element per line."""

from __future__ import annotations

from json import JSONEncoder
from typing import TYPE_CHECKING, Any

from quotactl.render.text import scalar

if TYPE_CHECKING:
    from collections.abc import Mapping

# ASCII only: what could harm a terminal is escaped, and a lone surrogate (an argument
# that was no UTF-8) has a form at all. NaN is no JSON.
_wide = JSONEncoder(ensure_ascii=True, allow_nan=False, default=scalar)
_compact = JSONEncoder(ensure_ascii=True, allow_nan=False, default=scalar, separators=(",", ":"))


def json(content: Mapping[str, Any] | list[Mapping[str, Any]]) -> str:
    """Return an object on one line, or an array with an element per line.

    Not indented: that takes the standard library's slow encoder, and a list with an
    element per line is good for diff and grep.
    """
    if isinstance(content, list):
        return "[\n  " + ",\n  ".join(map(dumps, content)) + "\n]\n" if content else "[]\n"
    return dumps(content) + "\n"


def jsonl(content: Mapping[str, Any] | list[Mapping[str, Any]]) -> str:
    """Return an object per line."""
    rows = content if isinstance(content, list) else [content]
    return "".join(f"{dumps(row)}\n" for row in rows)


def dumps(value: object, *, compact: bool = False) -> str:
    """Return `value` as JSON on one line; `compact` without blanks, for a cell."""
    # DEL is ASCII, so the encoder lets it through; it can only stand inside a string.
    return (_compact if compact else _wide).encode(value).replace("\x7f", "\\u007f")
