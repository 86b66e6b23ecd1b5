"""Files named on the command line; `-` is standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from quotactl.errors import InvalidInput, NotFound


@contextmanager
def open_text(path: str, what: str, *, errors: str = "strict") -> Iterator[TextIO]:
    """A UTF-8 text file, with one line of error where it can't be had or read.

    With `errors="surrogateescape"` what is not UTF-8 arrives as lone surrogates,
    so that one bad line does not spoil the others.
    """
    try:
        if path == "-":
            sys.stdin.reconfigure(  # type: ignore[union-attr]
                encoding="utf-8", errors=errors, newline=""
            )
            yield sys.stdin
        else:
            with open(path, encoding="utf-8", errors=errors, newline="") as file:  # noqa: PTH123
                yield file
    except FileNotFoundError:
        raise NotFound(f"no {what} {path!r}") from None
    except IsADirectoryError:
        raise InvalidInput(f"the {what} {path!r} is a folder") from None
    except PermissionError:
        raise InvalidInput(f"the {what} {path!r} can't be read: permission denied") from None
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
    try:
        file = Path(path).open("rb")  # noqa: SIM115 - what the block raises is its own affair
    except FileNotFoundError:
        raise NotFound(f"no {what} {path!r}") from None
    except IsADirectoryError:
        raise InvalidInput(f"the {what} {path!r} is a folder") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InvalidInput(f"the {what} {path!r} can't be read: {why}") from None
    with file:
        yield file
