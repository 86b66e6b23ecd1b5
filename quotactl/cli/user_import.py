"""The CSV of `quotactl user import`: (user, tier) by row, and the line of what is wrong."""

from __future__ import annotations

import csv
import hashlib
import io
from contextlib import contextmanager
from typing import TYPE_CHECKING

from quotactl.cli.files import open_bytes
from quotactl.errors import InvalidInput, NotFound, QuotaError

if TYPE_CHECKING:
    from collections.abc import Iterator


class UserFile:
    """A CSV file's pairs, read as they are asked for; `digest` is the SHA-256 of its bytes.

    The bytes are read once, before anything else: what is hashed is what is imported,
    also from a pipe and from a file that is written to meanwhile.
    """

    def __init__(self, name: str, content: bytes) -> None:
        self.name = name
        self.digest = hashlib.sha256(content).hexdigest()
        self.tiers: frozenset[str] = frozenset()
        self._content = content
        self._line: int | None = None

    @classmethod
    def read(cls, path: str) -> UserFile:
        """The file at `path`, or stdin for `-`."""
        with open_bytes(path, "file") as file:
            return cls("stdin" if path == "-" else path, file.read())

    def __iter__(self) -> Iterator[tuple[str, str]]:
        try:
            text = self._content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self._line = self._content.count(b"\n", 0, error.start) + 1
            raise InvalidInput("not UTF-8") from None
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        # Where a row starts, since a quoted cell may go over several lines.
        self._line = 1
        try:
            header = next(reader, None)
            user_at, tier_at = _columns(header)
            ends = reader.line_num
            for row in reader:
                self._line, ends = ends + 1, reader.line_num
                if not row:
                    continue
                if len(row) <= max(user_at, tier_at):
                    raise InvalidInput(f"{len(row)} cells, the header has {len(header or ())}")
                tier = row[tier_at]
                if tier not in self.tiers:
                    known = ", ".join(sorted(self.tiers)) or "none yet"
                    raise NotFound(f"no tier {tier!r}", hint=f"known: {known}")
                yield row[user_at], tier
        except csv.Error as error:
            self._line = max(self._line, reader.line_num)
            raise InvalidInput(f"not CSV: {error}") from None
        self._line = None

    @contextmanager
    def located(self) -> Iterator[None]:
        """Put the file's name and the line into whatever is raised about a row."""
        try:
            yield
        except QuotaError as error:
            if self._line is None:
                raise
            raise type(error)(
                f"{self.name} line {self._line}: {error.message}",
                hint=error.hint or "nothing was imported",
            ) from None


def _columns(header: list[str] | None) -> tuple[int, int]:
    names = [name.strip() for name in header or ()]
    for name in ("user", "tier"):
        if names.count(name) != 1:
            what = "no column" if name not in names else "more than one column"
            raise InvalidInput(f"{what} {name!r}", hint="the first line names them: user,tier")
    return names.index("user"), names.index("tier")
