"""`quotactl consume --batch`: JSON lines in, JSON lines out, in order, chunk by chunk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from quotactl.cli.files import open_bytes
from quotactl.cli.invocation import invocation
from quotactl.cli.outcome import opened
from quotactl.errors import InvalidInput, LedgerBusy, QuotaError
from quotactl.render import render

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from quotactl.api import Ledger
    from quotactl.ledger.values import Request
    from quotactl.render import Record

CHUNK = 1000
LINE_MAX = 64 * 1024
_READ = 256 * 1024
_FIELDS = {"user", "resource", "amount", "idempotency_key", "key"}


class Source(Protocol):
    """Where bytes come from: `read1` gives what is there, waiting only for the first byte."""

    def read1(self, size: int, /) -> bytes: ...


def consume_batch(path: str) -> int:
    """Answer every line of a file, or of stdin for `-`; 0 if all were decided, else 2."""
    this = invocation()
    if this.format not in {None, "json", "jsonl"}:
        raise InvalidInput("a batch answers in JSON lines", hint="leave -o out")
    answered, failed = 0, 0
    with opened(notice=False) as q, open_bytes(path, "batch file") as file:
        assert hasattr(file, "read1")  # buffered: gives what is there
        for chunk in chunks(file):
            try:
                answers = _answer(q, chunk)
            except LedgerBusy as error:
                raise LedgerBusy(
                    f"{error.message}; {answered} lines were answered, none after them was counted",
                    hint="safe to send the rest again",
                ) from error
            this.write_lines(render([answer for answer, _ in answers], "jsonl"))
            answered += len(answers)
            failed += sum(bad for _, bad in answers)
    if failed:
        this.say(f"{failed} of {answered} lines were not decided")
    return 2 if failed else 0


def chunks(source: Source) -> Iterator[list[bytes | None]]:
    """Lines as they arrive, at most `CHUNK` at a time; None is one that is too long.

    Empty lines are left out. The last line needs no newline.
    """
    rest, too_long = b"", False
    while data := source.read1(_READ):
        first, *more = data.split(b"\n")
        rest = b"" if too_long else rest + first
        lines: list[bytes | None] = []
        for piece in more:
            lines.append(None if too_long else rest)
            rest, too_long = piece, False
        if len(rest) > LINE_MAX:
            rest, too_long = b"", True
        yield from _portions(lines)
    yield from _portions([None if too_long else rest])


def _portions(lines: Sequence[bytes | None]) -> Iterator[list[bytes | None]]:
    kept = [
        None if line is not None and len(line) > LINE_MAX else line
        for line in lines
        if line is None or line.strip()
    ]
    for start in range(0, len(kept), CHUNK):
        yield kept[start : start + CHUNK]


def _answer(q: Ledger, lines: Sequence[bytes | None]) -> list[tuple[Record, bool]]:
    """An answer for each line, and whether it is an error; what can be decided in one go."""
    parsed = [read_line(line) for line in lines]
    requests = [request for request in parsed if not isinstance(request, QuotaError)]
    decided = iter(q.consume_many(requests) if requests else ())
    answers: list[tuple[Record, bool]] = []
    for one in parsed:
        answer = one if isinstance(one, QuotaError) else next(decided)
        answers.append((answer, isinstance(answer, QuotaError)))
    return answers


def read_line(line: bytes | None) -> Request | InvalidInput:
    """One line as a request, or as what is wrong with it."""
    from quotactl.ledger.values import Request

    try:
        if line is None:
            raise InvalidInput("the line is too long", hint=f"at most {LINE_MAX} bytes")
        fields = _read_object(line)
        for name in fields:
            if name not in _FIELDS:
                raise InvalidInput(
                    f"field {name[:40]!r} is not known",
                    hint="known are user, resource, amount, idempotency_key (or key)",
                )
        for name in ("user", "resource"):
            if not isinstance(fields.get(name), str):
                missing = name not in fields
                raise InvalidInput(f"{name} is {'missing' if missing else 'not a text'}")
        if "key" in fields and "idempotency_key" in fields:
            raise InvalidInput("both key and idempotency_key are given", hint="give one of them")
        key = fields.get("idempotency_key", fields.get("key"))
        return Request(fields["user"], fields["resource"], fields.get("amount", 1), key)
    except InvalidInput as error:
        return error


def _read_object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(
            line.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_float=_not_whole,
            parse_constant=_not_whole,
        )
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the line is not UTF-8, at byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise InvalidInput(f"the line is not JSON: {error.msg} at {error.colno}") from None
    except (RecursionError, ValueError):
        raise InvalidInput("the line is not JSON that can be read: too deep or too large") from None
    if not isinstance(value, dict):
        raise InvalidInput("the line is not an object", hint='such as {"user": "ada", …}')
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise InvalidInput(f"field {name[:40]!r} is there twice")
        found[name] = value
    return found


def _not_whole(text: str) -> NoReturn:
    raise InvalidInput(f"{text[:40]} is not a whole number")
