"""JSON and JSON lines: exact, ASCII only, an element per line."""

from __future__ import annotations

from json import JSONEncoder
from typing import TYPE_CHECKING, Any

from quotactl.render.text import scalar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# ASCII only: what could harm a terminal is escaped, and a lone surrogate (an argument
# that was no UTF-8) has a form at all. NaN is no JSON.
_wide = JSONEncoder(ensure_ascii=True, allow_nan=False, default=scalar)
_compact = JSONEncoder(ensure_ascii=True, allow_nan=False, default=scalar, separators=(",", ":"))


def json(content: Mapping[str, Any] | list[Mapping[str, Any]]) -> str:
    """Return an object on one line, or an array with an element per line.

    Not indented: that takes the standard library's slow encoder, and a list with an
    element per line is good for diff and grep.
    """
    return "".join(array(content)) if isinstance(content, list) else dumps(content) + "\n"


def array(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield an array bit by bit."""
    before = "[\n  "
    for row in rows:
        yield before + dumps(row)
        before = ",\n  "
    yield "[]\n" if before[0] == "[" else "\n]\n"


def jsonl(content: Mapping[str, Any] | list[Mapping[str, Any]]) -> str:
    """Return an object per line."""
    return "".join(lines(content if isinstance(content, list) else [content]))


def lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield an object per line."""
    for row in rows:
        yield f"{dumps(row)}\n"


def dumps(value: object, *, compact: bool = False) -> str:
    """Return `value` as JSON on one line; `compact` without blanks, for a cell."""
    # DEL is ASCII, so the encoder lets it through; it can only stand inside a string.
    return (_compact if compact else _wide).encode(value).replace("\x7f", "\\u007f")
