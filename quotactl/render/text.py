"""Strings from outside, made harmless, and what all formats share about a single value."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from enum import Enum
from typing import Any

# C0 with tab and newline, DEL, C1 (a lone U+009B starts a sequence like ESC [), marks and
# overrides of direction (Trojan Source, CVE-2021-42574), separators that some readers
# take for a line's end, invisible spaces and tags, and lone surrogates, which no
# encoding takes. Joiners stay: emoji and Persian need them.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_NAMED = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def neutralise(text: str) -> str:
    r"""Return `text` on one line, with what could harm a terminal as a visible escape.

    `"a\x1b[31m"` becomes `a\x1b[31m` in letters. A backslash that is already there stays
    single, so that `CORP\ada` can be copied: this is for reading, JSON is exact.
    """
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    return _NAMED.get(character) or (
        f"\\x{code:02x}"
        if code <= 0xFF
        else f"\\u{code:04x}"
        if code <= 0xFFFF
        else f"\\U{code:08x}"
    )


def is_number(value: object) -> bool:
    """Tell whether `value` is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def scalar(value: object) -> Any:
    """Return what JSON has no word for as what it is shown as; raise TypeError for the rest.

    Times are RFC 3339 in UTC, with milliseconds only if there are any. A time without a
    zone is a mistake of the caller's.
    """
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise TypeError(f"a time without a zone: {value!r}")
        moment = value.astimezone(UTC)
        precision = "milliseconds" if moment.microsecond else "seconds"
        return moment.isoformat(timespec=precision).replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    to_dict = getattr(value, "to_dict", None)
    if to_dict is not None:
        return to_dict()
    raise TypeError(f"can't be shown: {value!r}")
