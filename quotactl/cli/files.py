"""Files named on the command line; `-` is standard input."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, TextIO

from quotactl.errors import InvalidInput, NotFound


@contextmanager
def open_text(path: str, what: str, *, errors: str = "strict") -> Iterator[TextIO]:
    """A UTF-8 text file, with one line of error where it can't be had or read.

    With `errors="surrogateescape"` what is not UTF-8 arrives as lone surrogates,
    so that one bad line does not spoil the others.
    """
    if path == "-":
        sys.stdin.reconfigure(  # type: ignore[union-attr]
            encoding="utf-8", errors=errors, newline=""
        )
        file: TextIO = sys.stdin
    else:
        file = io.TextIOWrapper(_opened(path, what), encoding="utf-8", errors=errors, newline="")
    # Stdin is not ours to close.
    with nullcontext(file) if path == "-" else file:
        try:
            yield file
        except UnicodeDecodeError:
            raise InvalidInput(f"the {what} {path!r} is not UTF-8 text") from None


def read_text(path: str, what: str) -> str:
    """All of a text file."""
    with open_text(path, what) as file:
        return file.read()


@contextmanager
def open_bytes(path: str, what: str) -> Iterator[BinaryIO]:
    """A file's bytes as they are."""
    if path == "-":
        yield sys.stdin.buffer
        return
    with _opened(path, what) as file:
        yield file


def _opened(path: str, what: str) -> BinaryIO:
    # Apart from the reading: what that raises is its own affair.
    try:
        return Path(path).open("rb")
    except FileNotFoundError:
        raise NotFound(f"no {what} {path!r}") from None
    except IsADirectoryError:
        raise InvalidInput(f"the {what} {path!r} is a folder") from None
    except (OSError, ValueError) as error:
        # A name that is too long, one with a NUL in it, or a file of somebody else's.
        why = getattr(error, "strerror", None) or error
        raise InvalidInput(f"the {what} {path!r} can't be read: {why}") from None
