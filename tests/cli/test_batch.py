"""consume --batch: JSON lines in, JSON lines out, in order."""

from __future__ import annotations

import io
import json
import select
import subprocess
import sys
import time
from typing import Any

import pytest

from quotactl.cli.batch import CHUNK, LINE_MAX, chunks


@pytest.fixture
def batch(cli: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a batch on the given bytes from stdin."""

    def run(content: bytes, *words: str) -> Any:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        return cli("consume --batch -", *words)

    return run


def _line(**fields: Any) -> bytes:
    return json.dumps(fields).encode() + b"\n"


GOOD = _line(user="ada", resource="image")


def test_each_line_is_answered_in_order_and_the_decisions_are_those_of_consume(
    batch: Any, cli: Any
) -> None:
    ran = batch(GOOD * 4 + _line(user="bob", resource="image", amount=2))
    assert [(line["user"], line["allowed"], line["used"]) for line in ran.lines] == [
        ("ada", True, 1),
        ("ada", True, 2),
        ("ada", True, 3),
        ("ada", False, 3),
        ("bob", True, 2),
    ]
    assert ran.code == 0  # all were decided, that one was denied
    assert ran.err == ""
    single = cli("consume ada image --json").json
    assert single == ran.lines[3]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"nonsense", "the line is not JSON: Expecting value at 1"),
        (b"[]", "the line is not an object"),
        (b"null", "the line is not an object"),
        (b'"ada"', "the line is not an object"),
        (b'{"user": "ada"}', "resource is missing"),
        (b'{"resource": "image"}', "user is missing"),
        (b'{"user": 7, "resource": "image"}', "user is not a text"),
        (b'{"user": "ada", "user": "bob", "resource": "image"}', "field 'user' is there twice"),
        (b'{"user": "ada", "resource": "image", "amuont": 2}', "field 'amuont' is not known"),
        (b'{"user": "ada", "resource": "image", "amount": 1.0}', "1.0 is not a whole number"),
        (b'{"user": "ada", "resource": "image", "amount": 1e3}', "1e3 is not a whole number"),
        (b'{"user": "ada", "resource": "image", "amount": NaN}', "NaN is not a whole number"),
        (b'{"user": "ada", "resource": "image", "amount": -Infinity}', "-Infinity is not a whole"),
        (b'{"user": "ada", "resource": "image", "amount": true}', "amount True is not a whole"),
        (b'{"user": "ada", "resource": "image", "amount": "2"}', "amount '2' is not a whole"),
        (b'{"user": "ada", "resource": "image", "amount": null}', "amount None is not a whole"),
        (b'{"user": "ada", "resource": "image", "amount": 0}', "amount 0 is out of range"),
        (b'{"user": "ada", "resource": "image", "amount": -1}', "amount -1 is out of range"),
        (b'{"user": "ada", "resource": "image", "amount": 9223372036854775808}', "out of range"),
        (b'{"user": "ada", "resource": "image", "amount": ' + b"9" * 5000 + b"}", "too large"),
        (b'{"user": "ada", "resource": "image", "key": 5}', "key must be text, not 5"),
        (b'{"user": "ada", "resource": "image", "key": "a", "idempotency_key": "a"}', "both key"),
        (b'{"user": "a\\u001b[2J", "resource": "image"}', "has a control character in it"),
        (b'{"user": "a\\ud800", "resource": "image"}', "has a control character in it"),
        (b'{"user": "", "resource": "image"}', "user is empty"),
        (b'{"user": "ada", "resource": "audio"}', "no resource 'audio'"),
        (b'{"user": "\xff", "resource": "image"}', "the line is not UTF-8, at byte 11"),
        (b"[" * 30_000, "the line is not JSON that can be read: too deep or too large"),
        (b'{"user": "' + b"x" * LINE_MAX + b'"}', "the line is too long; at most"),
        (b'{"user": "' + b"x" * 300_000 + b'"}', "the line is too long"),
    ],
)
def test_a_bad_line_is_an_error_in_its_place_and_the_others_proceed(
    line: bytes, message: str, batch: Any
) -> None:
    ran = batch(GOOD + line + b"\n" + GOOD)
    first, error, last = ran.lines
    assert message.partition("; ")[0] in error["error"]["message"]
    assert (first["used"], last["used"]) == (1, 2)
    assert (ran.code, ran.err) == (2, "1 of 3 lines were not decided\n")


def test_a_key_counts_once_within_a_batch_and_under_both_of_its_names(batch: Any) -> None:
    ran = batch(
        _line(user="ada", resource="image", key="k")
        + _line(user="ada", resource="image", idempotency_key="k")
        + _line(user="ada", resource="image", amount=2, key="k")
    )
    assert [line.get("replayed") for line in ran.lines] == [False, True, None]
    assert ran.lines[2]["error"]["code"] == "conflict"
    assert ran.lines[1]["used"] == 1


def test_empty_lines_carriage_returns_and_a_missing_last_newline_are_fine(batch: Any) -> None:
    ran = batch(b"\n  \n" + GOOD.replace(b"\n", b"\r\n") + b"\r\n" + GOOD.strip())
    assert [line["used"] for line in ran.lines] == [1, 2]
    assert ran.code == 0
    assert batch(b"").out == ""


def test_a_batch_comes_from_a_file_too(cli: Any, tmp_path: Any) -> None:
    (tmp_path / "in.jsonl").write_bytes(GOOD * 2)
    assert len(cli.ok("consume --batch in.jsonl").lines) == 2


def test_a_chunk_is_one_transaction(batch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from quotactl.api import Ledger

    sizes = []
    real = Ledger.consume_many

    def counting(self: Ledger, requests: Any) -> Any:
        sizes.append(len(requests))
        return real(self, requests)

    monkeypatch.setattr(Ledger, "consume_many", counting)
    ran = batch(GOOD * (2 * CHUNK + 5))
    assert len(ran.lines) == 2 * CHUNK + 5
    assert sizes == [CHUNK, CHUNK, 5]


def test_a_busy_ledger_stops_the_batch_and_says_how_far_it_came(
    batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quotactl.api import Ledger
    from quotactl.errors import LedgerBusy

    calls = []
    real = Ledger.consume_many

    def busy(self: Ledger, requests: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise LedgerBusy("prod.db is busy")
        return real(self, requests)

    monkeypatch.setattr(Ledger, "consume_many", busy)
    ran = batch(GOOD * (CHUNK + 10))
    assert ran.code == 75
    assert len(ran.lines) == CHUNK
    assert ran.err == (
        f"quotactl: prod.db is busy; {CHUNK} lines were answered, none after them was counted; "
        "safe to send the rest again\n"
    )


class Drip:
    """A source that gives its bytes in pieces of the given sizes."""

    def __init__(self, content: bytes, size: int) -> None:
        self.content, self.size = content, size

    def read1(self, _size: int) -> bytes:
        piece, self.content = self.content[: self.size], self.content[self.size :]
        return piece


@pytest.mark.parametrize("size", [1, 2, 7, 1000, 10**7])
def test_how_bytes_arrive_makes_no_difference(size: int) -> None:
    content = b"a\n\nbb\r\n" + b"x" * (LINE_MAX + 1) + b"\nccc\n" + b"y" * LINE_MAX + b"\nd"
    if size < 7:
        content = content.replace(b"x" * LINE_MAX, b"x" * 5).replace(b"y" * LINE_MAX, b"y")
    lines = [line for chunk in chunks(Drip(content, size)) for line in chunk]
    expected = [
        None if len(line) > LINE_MAX else line for line in content.split(b"\n") if line.strip()
    ]
    assert lines == expected


def test_an_interactive_caller_is_answered_at_once(cli: Any) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "quotactl", "consume", "--batch", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for used in (1, 2):
            process.stdin.write(GOOD)
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], 20)
            assert ready, "no answer while stdin stays open"
            assert json.loads(process.stdout.readline())["used"] == used
        process.stdin.close()
        assert process.wait(20) == 0


def test_ten_thousand_lines_take_seconds(batch: Any) -> None:
    started = time.perf_counter()
    content = b"".join(_line(user=f"u{n % 500}", resource="image") for n in range(10_000))
    ran = batch(content)
    assert len(ran.out.splitlines()) == 10_000
    assert time.perf_counter() - started < 10
