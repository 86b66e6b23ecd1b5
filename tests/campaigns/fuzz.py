"""Hostile input at every border of the command line, by Hypothesis.

    python tests/campaigns/fuzz.py --seed 1 --examples 2000
    python tests/campaigns/fuzz.py --seed 7 --examples 500 --only commands trace

Each example runs command lines in this process on a copy of a small ledger, and holds
them to what the manual promises: a documented exit code and never 1, one line of error,
nothing on either stream that a terminal or a spreadsheet would obey, JSON that is JSON,
and a ledger that verifies and that a refused command left as it was. `tests/cli/test_hostile.py`
runs a short pass of the same.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import re
import shlex
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import quotactl
from quotactl.cli import main as quotactl_main
from quotactl.errors import InvalidInput
from quotactl.policy import levers, notation
from quotactl.policy.window import calendar_of, to_ms
from quotactl.render import OUTPUTS, render

NOW = datetime(2025, 3, 27, 9, 0, tzinfo=UTC)
DENIED = {3, 4, 5}
REFUSED = {2, 6, 7, 78}
DOCUMENTED = {0, 8, *DENIED, *REFUSED}
# Written apart from quotactl.render.text on purpose: what the one forgets the other finds.
HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\u2028\u2029]"
)
FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")  # noqa: RUF001

# ---- what is hostile

CANNED = (
    "", " ", "\n", "'; DROP TABLE user; --", '" OR 1=1 --', "ada' --", "%", "_", "NULL", "None",
    "=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "＝1+1",  # noqa: RUF001
    "[red]ada[/red]", "[/]",
    "[link=http://x]y", "<script>alert(1)</script>", "|a|b|", "```", "@everyone", "$(id)", "`id`",
    "\x1b[31m", "\x1b]52;c;AAAA\x07", "\x1b]8;;http://x\x1b\\", "\x9b2J", "\x00", "a\x00b", "\x7f",
    "\u202eada", "\u2066x\u2069", "\u200f", "\u061c", "a\u2028b", "\ufeffada", "\u200b",
    "\ud800", "a\udcffb", "\U000e0041", "e\u0301", "🦊", "👩\u200d👩", "ß", "İ", "٣",
    "１", "½",  # noqa: RUF001
    "1_000", "0x10", "1e3", "1.5", "-1", "-0", "+3", "NaN", "Infinity", "1e309", "0", "00", "∞",
    str(2**53 - 1), str(2**53), str(2**63 - 1), str(2**63), str(2**64), str(-(2**63)), "9" * 400,
    "9" * 5000, "x" * 256, "x" * 257, "é" * 256, "x" * 2001, "{}", "[]", "null", "true", "{0}",
    "%s",
    "%n%n", "\\", "\\x1b", "a\\|b", "../x", "/dev/null", "con", "a=b=c", "=", "image=", ",", ";",
    ":",
    "a,b\nc", '"', '""', "#", "\r\n", "-", "--", "-q", "~", "*",
)  # fmt: skip
PIECES = ("\x00", "\x1b[2J", "\x9b", "\u202e", "\u2067", "\ud800", "\r", "\n", "\t",
          "=", "'", '"', ",",
          "/", "%", "-", "[/]", "|", "`", "\\", "9", "k", "day", "ada", "image", " ", ":",
          "T")  # fmt: skip

hostile = st.one_of(
    st.sampled_from(CANNED),
    st.lists(st.sampled_from(PIECES), max_size=5).map("".join),
    st.text(max_size=12),
    st.text(st.characters(codec=None), max_size=6),
)


def mostly(*valid: str) -> st.SearchStrategy[str]:
    """One that would do, in two of three cases, so that commands get past their first check."""
    good = st.sampled_from(valid)
    return st.one_of(good, good, hostile)


DURATIONS = (
    "30m",
    "1h30m",
    "2h",
    "7d",
    "90s",
    "0h",
    "1d1d",
    "999999999d",
    "999999999d999999999h",
    "3",
)
INSTANTS = (
    "18:00", "tomorrow 09:00", "2025-03-28T09:00:00Z", "2025-03-30 02:30", "2025-10-26 02:30",
    "24:00",
    "2025-02-29 10:00", "9999-12-31T23:59:59Z", "9999-12-31 23:59", "0001-01-01T00:00:00+23:59",
    "0001-01-01 00:00", "1969-12-31T23:59:59Z", "2025-03-28T09:00:00.123456789Z", "yesterday 18:00",
    "8999-12-31T23:59:59Z", "2025-03-28T09:00:60Z", "today 23:59", "2025-03-26 09:00", "now",
)  # fmt: skip
DAYS = ("2025-03-27", "today", "yesterday", "0001-01-01", "9999-12-31", "1970-01-01", "2025-02-29",
        "2025-W13-4", "20250327")  # fmt: skip
LIMITS = ("3/day", "0/day", "1/day", "unlimited", "50/day,5/minute", "40k/hour", "2M/month",
          "7/week",
          "9007199254740991/day", "9007199254740992/day", "1/24h", "3/5m", "0/minute",
          "unlimited/hour",
          "3/day,3/day", "1/1439m", "1/0m", "9k/999999d")  # fmt: skip
AMOUNTS = ("1", "2", "3", "40k", "9007199254740991", "9007199254740992", "9007199254740991M", "0")
VALUES: dict[str, st.SearchStrategy[str]] = {
    "user": mostly("ada", "bob", "eve", "new"),
    "resource": mostly("image", "video"),
    "tier": mostly("free", "plus", "pro"),
    "name": mostly("melt", "more", "1"),
    "id": mostly("1", "2", "99"),
    "amount": mostly(*AMOUNTS),
    "limit": mostly(*LIMITS),
    "pair": st.one_of(
        st.tuples(mostly("image", "video"), mostly(*LIMITS, *AMOUNTS)).map("=".join), hostile
    ),
    "key": mostly("k1", "k2"),
    "for": mostly(*DURATIONS),
    "at": mostly(*INSTANTS),
    "day": mostly(*DAYS),
    "count": mostly("1", "3", "400", "9007199254740991"),
    "percent": mostly("25%", "0%", "100%", "101%", "٣%"),
    "ramp": mostly("10%,25%,50%,100%", "100%", "0%", "1%," * 101 + "1%", "50%,", "50%,25%"),
    "text": mostly("INC-9", "GPUs melt"),
    "preset": mostly("gpu-melt"),
    "period": mostly("day", "hour", "week"),
    "setting": mostly("entry_retention", "durability", "impact_limit"),
    "least": st.one_of(st.tuples(mostly("free", "plus"), mostly(*LIMITS)).map("=".join), hostile),
    "by": mostly("user", "tier", "resource", "day", "hour", "used", "denied"),
    "path": hostile.map(lambda text: text.replace("/", "").replace("..", "")),
}
# A word in braces is a value, words in brackets may be left out. `on` and its likes are not
# always allowed to ask, so that confirmations are met too.
_WHY = "[--reason {text}] [--ticket {text}] [--as {text}]"
_END = "[--for {for}] [--until {at}] [--no-expiry]"
_LEVER = (
    "[--name {name}] [--resource {resource}] [--tier {tier}] [--deny] [--cap {limit}] "
    "[--total {limit}] [--scale {percent}] [--floor {amount}] [--at {at}] [--ramp {ramp}] "
    "[--every {for}] [--message {text}] [--freeze-grants] [--include-protected]"
)
_PUT = "--message {text} --reason {text} [--replace] [--allow-impact]"
_SPAN = "[--day {day}] [--days {count}]"
WRITES = (
    "consume {user} {resource} [{amount}] [--key {key}]",
    "reserve {user} {resource} {amount} [--ttl {for}] [--key {key}]",
    "post {id} [{amount}]",
    "void {id}",
    "refund [--key {key}] [--entry {id}] [--amount {amount}] [--refund-key {key}]",
    "resource create {resource} [--unit {text}]",
    "resource delete {resource} [--yes]",
    "tier create {tier} [--protected] [--default]",
    "tier delete {tier} [--move-to {tier}] [--yes]",
    "tier default {tier}",
    "tier protect {tier} [--reason {text}]",
    "tier unprotect {tier} [--reason {text}]",
    f"limit set {{tier}} {{pair}} [{{pair}}] {_WHY}",
    f"limit unset {{tier}} {{resource}} {_WHY}",
    "setting set {setting} {for}",
    "setting unset {setting}",
    f"user set-tier {{user}} {{tier}} {_WHY}",
    f"user block {{user}} --reason {{text}} [--resource {{resource}}] {_END}",
    f"user unblock {{user}} [--resource {{resource}}] {_WHY}",
    f"user protect {{user}} {_WHY}",
    f"user unprotect {{user}} {_WHY}",
    "db backup {path} [--keep {count}]",
    f"override set {{user}} {{pair}} --reason {{text}} {_END}",
    f"override clear {{user}} [{{resource}}] [--period {{period}}] {_WHY}",
    f"grant add {{user}} {{pair}} --reason {{text}} {_END} [--priority {{count}}]",
    "grant add --from-throttle {name} --each {amount} --reason {text} [--limit-to refused]",
    "grant add --from-throttle {name} --each {amount} --reason {text} [--resource {resource}]",
    "grant revoke {id} --reason {text}",
    f"throttle on {_LEVER} {_END} --reason {{text}} --yes [--replace] [--allow-impact]",
    f"throttle on --resource {{resource}} --cap {{limit}} --name {{name}} {_PUT}",
    f"throttle on --total {{limit}} --ramp {{ramp}} --every {{for}} {_END} --reason {{text}} --yes",
    "throttle off {name} --reason {text} [--ramp {ramp}] [--every {for}]",
    f"throttle hold {{name}} --reason {{text}} {_END}",
    "throttle resume {name} --reason {text}",
    f"throttle extend {{name}} --reason {{text}} {_END}",
    "throttle solve --capacity {limit} --resource {resource} --apply --reason {text} [--replace]",
    f"preset on {{preset}} --reason {{text}} {_END} [--replace] [--allow-impact] [--yes]",
    "preset off {preset} --reason {text}",
    "preset drill {preset} --reason {text} [--for {for}] --no-wait",
    f"enforcement shadow --reason {{text}} {_END} [--tier {{tier}}] [--resource {{resource}}] -y",
    "enforcement on --reason {text} [--tier {tier}]",
    "reset user {user} [{resource}] --reason {text}",
    "reset daily",
    "init {path} [--name {text}] [--zone {text}]",
)  # fmt: skip
READS = (
    "check {user} {resource} [{amount}]",
    "explain {user} {resource} [--amount {amount}] [--at {at}]",
    f"throttle preview {_LEVER} {_END} {_SPAN}",
    f"throttle preview --resource {{resource}} --cap {{limit}} {_SPAN}",
    f"throttle on {_LEVER} {_END} --reason {{text}} --dry-run",
    "throttle solve --capacity {limit} --resource {resource} [--protect {tier}] [--min {least}] "
    + _SPAN,
    "throttle report {name} [--limit {count}]",
    "throttle report {name} --markdown",
    "throttle show {name}",
    "throttle list [--all]",
    "preset show {preset}",
    "preset list",
    f"preset preview {{preset}} {_SPAN}",
    "preset drill {preset} --report",
    "grant add {user} {pair} --reason {text} --dry-run",
    "grant list [--user {user}] [--resource {resource}] [--all]",
    "override list [--user {user}] [--all]",
    "user show {user}",
    "user list [--tier {tier}] [--limit {count}]",
    "tier list",
    "tier show {tier}",
    "limit list",
    "setting list",
    "resource list",
    "enforcement show [--all]",
    f"report usage [--by {{by}}] {_SPAN} [--from {{day}}] [--to {{day}}] [--user {{user}}]",
    f"report top [--by {{by}}] {_SPAN} [--limit {{count}}]",
    "report throttle {name}",
    "audit list [--limit {count}] [--user {user}] [--action {text}]",
    "audit show {id}",
    "audit verify",
    "status",
    "reset status",
    "policy export",
    "policy diff -f {path}",
    "db verify",
    "doctor",
    "reset install --cron",
    "user import {path} --dry-run",
)
# Whatever was let in shows up again in these.
ECHOES = (
    "throttle list --all", "throttle report melt", "throttle report melt --markdown",
    "throttle show melt",
    "audit list", "grant list --all", "override list --all", "user list", "report top", "status",
    "report usage --by user", "preset list", "resource list", "policy export", "tier list",
    "limit list",
)  # fmt: skip
_TOKEN = re.compile(r"\[[^]]*\]|\S+")


@st.composite
def command(draw: st.DrawFn, shapes: Sequence[str]) -> list[str]:
    """A command line: some of the optional words, and a value in each place."""
    argv: list[str] = []
    chances = st.integers(0, 9)
    for token in _TOKEN.findall(draw(st.sampled_from(shapes))):
        words = token
        if token[0] == "[":
            # Few of many, or next to nothing would be without a contradiction.
            if draw(chances) > 2:
                continue
            words = token[1:-1]
        for word in words.split():
            argv += [draw(VALUES[word[1:-1]]) if word[0] == "{" else word]
    return argv


formats = st.sampled_from(([], *(["-o", name] for name in OUTPUTS), ["--json"]))


# ---- where it is done


class Bench:
    """A folder with a small ledger that is copied for each example."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._template = folder / "template.db"
        self._numbers = count()
        self.path = folder / "none.db"
        self.codes: Counter[int] = Counter()
        self._prepare()

    def _prepare(self) -> None:
        (self.folder / "policy.toml").write_text(POLICY)
        self.path = self._template
        os.environ["QUOTACTL_DB"] = str(self.path)
        for line in SETUP:
            ran = self.run(shlex.split(line))
            assert ran.code in {0, *DENIED}, (line, ran)

    @contextmanager
    def ledger(self) -> Iterator[Watch]:
        """A fresh copy, verified at the end."""
        self.path = self.folder / f"{next(self._numbers)}.db"
        shutil.copyfile(self._template, self.path)
        os.environ["QUOTACTL_DB"] = str(self.path)
        try:
            with closing(sqlite3.connect(self.path)) as connection:
                yield Watch(connection)
                with quotactl.connect(self.path, clock=lambda: NOW) as q:
                    found = q.verify()
                assert found.ok, found.differences
        finally:
            for left in self.folder.glob(f"{self.path.stem}.db*"):
                left.unlink()

    def backup(self) -> bytes:
        """A backup of the ledger that examples start from, made once."""
        path = self.folder / "whole.backup"
        if not path.exists():
            assert self.run(["db", "backup", path.name]).code == 0
        return path.read_bytes()

    def run(self, argv: Sequence[str], stdin: bytes = b"") -> Ran:
        """Run a command line on streams like those of a pipe."""
        streams = [io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")]
        streams += [
            io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=errors, newline="")
            for errors in ("strict", "backslashreplace")
        ]
        with (
            mock.patch.object(sys, "stdin", streams[0]),
            mock.patch.object(sys, "stdout", streams[1]),
            mock.patch.object(sys, "stderr", streams[2]),
            mock.patch("quotactl.api.system_clock", return_value=NOW),
            mock.patch("quotactl.operations.acts.system_clock", return_value=NOW),
            contextlib.chdir(self.folder),
        ):
            code = quotactl_main(list(argv))
            for stream in streams[1:]:
                stream.flush()
        out, err = (stream.buffer.getvalue() for stream in streams[1:])
        self.codes[code] += 1
        return Ran(tuple(argv), code, out.decode(), err.decode())


class Watch:
    """Tells whether anything was written since it was asked last."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._version = self._data_version()

    def _data_version(self) -> int:
        version: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return version

    def changed(self) -> bool:
        before, self._version = self._version, self._data_version()
        return self._version != before

    def taken(self) -> list[tuple[Any, ...]]:
        """All that a denial may not touch."""
        kept: list[tuple[Any, ...]] = []
        for table in ("entry", "grant_pool", "grant_movement", "reservation", "audit", "switch",
                      "idempotency_key", "override", "block", "tier", "tier_limit",
                      "ledger"):  # fmt: skip
            kept += self._connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
        kept += self._connection.execute("SELECT sum(used), sum(granted) FROM counter").fetchall()
        return kept


class Ran:
    """What a command line did, held to what holds for all of them."""

    def __init__(self, argv: tuple[str, ...], code: int, out: str, err: str) -> None:
        self.argv, self.code, self.out, self.err = argv, code, out, err

    def __repr__(self) -> str:
        return f"{self.argv!a:.600}\n  -> {self.code}\n  {self.out[:600]!a}\n  {self.err[:600]!a}"

    def behaved(self, output: str) -> Ran:
        assert self.code in DOCUMENTED, self
        assert "Traceback (most recent" not in self.out + self.err, self
        assert not HARMFUL.search(self.out), self
        assert not HARMFUL.search(self.err.replace("\n", "")), self
        assert "\t" not in self.err, self
        if self.code in REFUSED and "--batch" not in self.argv:
            assert self.err.startswith("quotactl: "), self
            assert self.err.count("\n") == 1, self
            assert self.err.endswith("\n"), self
        if output in {"json", "jsonl"} and self.out:
            assert self.out.isascii(), self
            texts = [self.out] if output == "json" else self.out.splitlines()
            for text in texts:
                json.loads(text, parse_constant=_no_json)
        elif self.code in REFUSED and not {"policy", "--"}.intersection(self.argv):
            assert self.out == "", self
        if output == "csv" and self.code not in REFUSED and self.argv[:2] != ("policy", "export"):
            for row in csv.reader(io.StringIO(self.out, newline=""), strict=True):
                for cell in row:
                    risky = cell.startswith(FORMULA) and not re.fullmatch(r"-[0-9.]+", cell)
                    assert not risky, (cell, self)
        return self


def _no_json(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


def _said(form: list[str]) -> str:
    return "json" if form == ["--json"] else form[1] if form else "tsv"


POLICY = """\
zone = "Europe/Rome"
default_tier = "free"
[resource.image]
unit = "image"
capacity = "1k/hour"
[resource.video]
[tier.free.limits]
image = "3/day"
[tier.plus.limits]
image = "50/day,5/minute"
video = "7/week"
[tier.pro]
protected = true
[tier.pro.limits]
image = "unlimited"
[preset.gpu-melt]
[[preset.gpu-melt.throttle]]
resource = ["image"]
tier = ["free"]
cap = "1/day"
message = "Try again later"
"""
SETUP = (
    "init template.db --name prod --zone Europe/Rome",
    "setting set durability relaxed",
    "policy apply -f policy.toml",
    "user set-tier bob plus",
    "user block eve --reason 'stolen card' --no-expiry -q --for 2h".replace(" --no-expiry", ""),
    "grant add ada image=2 --reason sorry",
    "override set bob image=9/day --reason event --for 2h",
    "consume ada image 2 --key k1",
    "consume bob image 2",
    "reserve ada image 1 --ttl 2h",
    "throttle on --name melt --resource image --tier free --cap 2/day --reason INC-9 --yes "  # noqa: ISC004
    "--allow-impact --message 'Try again later'",
    "consume cyd image 3",
)


# ---- the targets


def try_commands(bench: Bench, draw: st.DataObject) -> None:
    """Hostile words in command lines that write, and then in what shows it again."""
    with bench.ledger() as watch:
        for _ in range(draw.draw(st.integers(1, 3))):
            reads = draw.draw(st.booleans())
            form = draw.draw(formats)
            argv = draw.draw(command(READS if reads else WRITES)) + form
            before = watch.taken()
            watch.changed()
            ran = bench.run(argv, b"").behaved(_said(form) if "--" not in argv else "")
            if reads or ran.code in REFUSED:
                assert not watch.changed(), ran
            elif ran.code in DENIED:
                assert watch.taken() == before, ran
        form = draw.draw(formats)
        echo = shlex.split(draw.draw(st.sampled_from(ECHOES)))
        if "--markdown" in echo:
            form = []
        watch.changed()
        bench.run(echo + form).behaved("" if echo[0] == "policy" else _said(form))
        assert not watch.changed(), echo


json_values = st.one_of(
    hostile, st.integers(-(2**70), 2**70), st.floats(), st.none(), st.booleans(),
    st.lists(hostile, max_size=2), st.dictionaries(hostile, hostile, max_size=2),
)  # fmt: skip
ODD_LINES = (
    b"", b" ", b"{", b"[]", b"3", b"null", b'{"user": "ada", "user": "bob", "resource": "image"}',
    b"[" * 30_000, b'{"a":' * 5_000, b'{"user": "' + b"x" * 1_000_000 + b'"}', b"\xff\xfe",
    b"\xef\xbb\xbf{}",
    b'{"user": "ada", "resource": "image", "amount": ' + b"9" * 5000 + b"}", b"\x00" * 9, b"\r",
    b'{"user": "ada", "resource": "image", "amount": 1e0}',
    b'{"user": "\\ud800", "resource": "image"}',
    b'{"user": "a\\u0000b", "resource": "image"}', b'{"user": "ada", "resource": "image"}\r',
)  # fmt: skip


@st.composite
def batch_line(draw: st.DrawFn) -> bytes:
    if draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from(ODD_LINES))
    fields: dict[str, object] = {}
    for name, values in (
        ("user", VALUES["user"]),
        ("resource", VALUES["resource"]),
        ("amount", st.one_of(st.integers(1, 3), st.integers(1, 3), json_values)),
        ("key", st.one_of(VALUES["key"], json_values)),
        ("idempotency_key", VALUES["key"]),
    ):
        if draw(st.integers(0, 9)) > (8 if "key" not in name else 2):
            continue
        fields[name] = draw(values)
    return json.dumps(fields).encode()


def try_batch(bench: Bench, draw: st.DataObject) -> None:
    """JSON lines: an answer for each, in order, and what one line is does not touch the next."""
    lines = draw.draw(st.lists(batch_line(), max_size=6))
    last = b'{"user": "zoe", "resource": "image"}'
    with bench.ledger():
        ran = bench.run(["consume", "--batch", "-"], b"\n".join([*lines, last])).behaved("jsonl")
        assert ran.code in {0, 2}, ran
        answers = [json.loads(line, parse_constant=_no_json) for line in ran.out.splitlines()]
        assert ran.out.isascii(), ran
        assert len(answers) == sum(bool(line.strip()) for line in lines) + 1, ran
        # A throttle of the ledger's lets zoe have it.
        assert answers[-1]["allowed"] is True or answers[-1]["user"] == "zoe", ran
        assert (ran.code == 2) == any("error" in answer for answer in answers), ran


@st.composite
def spoiled(draw: st.DrawFn, pieces: st.SearchStrategy[str]) -> bytes:
    """A text as bytes, in some cases with a few of them changed, cut or repeated."""
    raw = draw(pieces).encode("utf-8", "surrogatepass")
    how = draw(st.integers(0, 7))
    if how == 0 and raw:
        at = draw(st.integers(0, len(raw) - 1))
        raw = raw[:at] + draw(st.binary(max_size=3)) + raw[at + draw(st.integers(0, 3)) :]
    elif how == 1:
        raw = raw[: draw(st.integers(0, len(raw)))]
    elif how == 2:
        raw = raw.replace(b"\n", draw(st.sampled_from((b"\r\n", b"\r", b"\n\n", b"\x00"))))
    elif how == 3:
        raw = b"\xef\xbb\xbf" + raw
    return raw


def quoted(text: str) -> str:
    """As a TOML string, with what TOML takes bare left as it is."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


toml_values = st.one_of(
    hostile.map(quoted),
    st.sampled_from(("3", "true", "1e999", "nan", "[1, [2]]", "{}", "2025-03-27",
        "9" * 5000, "[" * 3000,
                     '"' + "x" * 1_000_000 + '"', "0x" + "f" * 5000, "1979-05-27T07:32:00Z", "''")),
)  # fmt: skip
toml_limits = st.one_of(mostly(*LIMITS).map(quoted), toml_values)
toml_keys = st.one_of(
    st.sampled_from(("image", "video", "free", "plus", "pro")), hostile.map(quoted)
)


@st.composite
def policy_text(draw: st.DrawFn) -> str:
    swaps = {
        '"Europe/Rome"': mostly("Europe/Rome", "UTC", "../../etc/passwd", "").map(quoted),
        '"3/day"': toml_limits,
        '"50/day,5/minute"': toml_limits,
        '"1k/hour"': toml_limits,
        '"1/day"': toml_limits,
        "true": toml_values,
        '"Try again later"': toml_values,
        '["image"]': toml_values,
        "[tier.plus.limits]": toml_keys.map(lambda key: f"[tier.{key}.limits]"),
        'unit = "image"': toml_values.map(lambda value: f"unit = {value}"),
        "cap =": st.sampled_from(("cap =", "total =", "scale =", "deny =", "ramp =", "for =")),
        "video =": toml_keys.map(lambda key: f"{key} ="),
        "[preset.gpu-melt]": hostile.map(lambda text: f"[preset.{quoted(text)}]"),
        '["free"]': toml_values,
    }  # fmt: skip
    text = POLICY
    for old in draw(st.lists(st.sampled_from(sorted(swaps)), max_size=3, unique=True)):
        text = text.replace(old, draw(swaps[old]), 1)
    return text


def try_policy(bench: Bench, draw: st.DataObject) -> None:
    """Policy files: whole or not at all, and what was applied is what is exported."""
    path = bench.folder / "hostile.toml"
    path.write_bytes(draw.draw(spoiled(policy_text())))
    form = draw.draw(formats)
    with bench.ledger() as watch:
        bench.run(["policy", "diff", "-f", path.name, *form]).behaved(_said(form))
        bench.run(["policy", "apply", "-f", path.name, "--dry-run", *form]).behaved(_said(form))
        assert not watch.changed()
        ran = bench.run(["policy", "apply", "-f", path.name, "--yes", *form]).behaved(_said(form))
        if ran.code:
            assert not watch.changed(), ran
            return
        watch.changed()
        exported = bench.run(["policy", "export"]).behaved("")
        path.write_text(exported.out)
        again = bench.run(["policy", "apply", "-f", path.name, "--json"]).behaved("json")
        assert again.code == 0, (exported, again)
        assert json.loads(again.out)["changes"] == [], (exported, again)
        assert not watch.changed(), again


CONFIG = """\
[[notify]]
command = ["/bin/true", "word"]
on = ["throttle"]
timeout = "2s"
"""


@st.composite
def config_text(draw: st.DrawFn) -> str:
    text = CONFIG
    swaps = {
        '"/bin/true"': toml_values,
        '"word"': toml_values,
        '["/bin/true", "word"]': toml_values,
        '["throttle"]': toml_values,
        '"2s"': st.one_of(mostly(*DURATIONS).map(quoted), toml_values),
        "timeout =": toml_keys.map(lambda key: f"{key} ="),
        "[[notify]]": st.sampled_from(("[notify]", "[[notify.notify]]", "[[other]]", "")),
    }
    for old in draw(st.lists(st.sampled_from(sorted(swaps)), max_size=2, unique=True)):
        text = text.replace(old, draw(swaps[old]), 1)
    return text


def try_config(bench: Bench, draw: st.DataObject) -> None:
    """The host's configuration: what can't be read refuses what would tell of it, whole."""
    path = bench.folder / "config.toml"
    path.write_bytes(draw.draw(spoiled(config_text())))
    path.chmod(0o644)
    form = draw.draw(formats)
    argv = ["throttle", "on", "--name", draw.draw(VALUES["name"]), "--resource", "video",
            "--cap", "1/day", "--reason", draw.draw(VALUES["text"]),
            "--message", draw.draw(VALUES["text"]), *form]  # fmt: skip
    with bench.ledger() as watch, mock.patch.dict(os.environ, {"QUOTACTL_CONFIG": str(path)}):
        watch.changed()
        ran = bench.run(argv).behaved(_said(form) if "--" not in argv else "")
        assert not (ran.code in REFUSED and watch.changed()), ran
        watch.changed()
        bench.run(["doctor", *form]).behaved(_said(form))
        assert not watch.changed()


def try_restore(bench: Bench, draw: st.DataObject) -> None:
    """A file that is said to be a backup: put in place as it adds up, or nothing is touched."""
    path = bench.folder / "hostile.backup"
    with bench.ledger() as watch:
        raw = bytearray(bench.backup())
        for _ in range(draw.draw(st.integers(0, 3))):
            at = draw.draw(st.integers(0, len(raw) - 1))
            raw[at : at + 1] = draw.draw(st.binary(min_size=1, max_size=1))
        how = draw.draw(st.integers(0, 4))
        if how == 0:
            raw = raw[: draw.draw(st.integers(0, len(raw)))]
        elif how == 1:
            raw = bytearray(draw.draw(st.binary(max_size=200)))
        path.write_bytes(raw)
        form = draw.draw(formats)
        watch.changed()
        before = watch.taken()
        argv = ["db", "restore", path.name, "--yes", "--reason", draw.draw(VALUES["text"]), *form]
        ran = bench.run(argv).behaved(_said(form) if "--" not in argv else "")
        assert not list(bench.folder.glob(".*.restoring*")), ran
        if ran.code:
            assert watch.taken() == before, ran


cells = st.one_of(
    hostile,
    hostile.map(lambda text: '"' + text.replace('"', '""') + '"'),
    st.sampled_from(("x" * 140_000, "x" * 1_000_000)),
)


@st.composite
def csv_text(draw: st.DrawFn, header: str, valid: Sequence[Sequence[str]]) -> str:
    rows = [draw(st.one_of(st.just(header), st.just(header), cells))]
    for _ in range(draw(st.integers(0, 4))):
        row = list(draw(st.sampled_from(valid)))
        if draw(st.booleans()):
            row[draw(st.integers(0, len(row) - 1))] = draw(cells)
        rows.append(",".join(row))
    return "\n".join(rows)


def try_users(bench: Bench, draw: st.DataObject) -> None:
    """A CSV of users: all or none."""
    rows = [("ada", "plus"), ("new", "free"), ("bob", "gold"), ("ada", "pro")]
    content = draw.draw(spoiled(csv_text("user,tier", rows)))
    form = draw.draw(formats)
    with bench.ledger() as watch:
        from_stdin = ["user", "import", "-", *form]
        bench.run([*from_stdin, "--dry-run"], content).behaved(_said(form))
        assert not watch.changed()
        ran = bench.run(from_stdin, content).behaved(_said(form))
        assert not (ran.code and watch.changed()), ran


def try_trace(bench: Bench, draw: st.DataObject) -> None:
    """A recorded trace: rows that can't be read are skipped, and nothing is left behind."""
    rows = [
        ("2025-03-27T09:00:00Z", "ada", "1", "ok"),
        ("2025-03-27 10:00", "bob", "3", "failed"),
        ("9999-12-31T23:59:59Z", "bob", "9007199254740991", "ok"),
        ("1970-01-01T00:00:00Z", "ada", "9007199254740992", "ok"),
        ("0001-01-01 00:00", "ada", "0", "ok"),
        ("8999-12-31 23:59", "ada", "2", "ok"),
    ]
    path = bench.folder / "trace.csv"
    path.write_bytes(draw.draw(spoiled(csv_text("at,user,amount,status", rows))))
    form = draw.draw(formats)
    argv = ["replay", path.name, "-f", "policy.toml", "--resource", "image", *form]
    if draw.draw(st.booleans()):
        argv += ["--failed", draw.draw(hostile), "--status", draw.draw(mostly("status"))]
    if draw.draw(st.integers(0, 3)) == 0:
        argv += ["--user", draw.draw(hostile)]
    here = sorted(bench.folder.iterdir())
    bench.run(argv).behaved(_said(form) if "--" not in argv else "")
    assert sorted(bench.folder.iterdir()) == here


PARSERS: tuple[Callable[[str], object], ...] = (
    notation.parse_number,
    notation.parse_amount,
    notation.parse_percent,
    notation.parse_period,
    notation.parse_limit,
    notation.parse_assignment,
    notation.parse_duration,
    notation.parse_rfc3339,
    notation.parse_date,
    lambda text: notation.check_id(text, "user"),
    lambda text: notation.check_name(text, "tier"),
    lambda text: notation.check_text(text, "reason"),
    lambda text: levers.one_limit("cap", text),
    lambda text: notation.parse_instant(
        text, now_ms=to_ms(NOW), calendar=calendar_of("Europe/Rome")
    ),
)
everything_written = st.one_of(*(VALUES[name] for name in sorted(VALUES)))


def try_words(bench: Bench, draw: st.DataObject) -> None:
    """Every reader of a word, on its own: a value or InvalidInput in one safe line."""
    text = draw.draw(everything_written)
    for parse in PARSERS:
        try:
            parse(text)
        except InvalidInput as error:
            line = f"{error.message} {error.hint}"
            assert "\n" not in line, (text, line)
            assert len(line) < 600, (text, line)


def try_rendering(bench: Bench, draw: st.DataObject) -> None:
    """Every format with every kind of cell."""
    names = draw.draw(st.lists(st.sampled_from(("user", "reason", "a b", "n")), max_size=3))
    cell = st.one_of(
        hostile, st.integers(), st.none(), st.booleans(), st.lists(hostile, max_size=2),
        st.dictionaries(hostile, hostile, max_size=2),
    )  # fmt: skip
    rows = draw.draw(st.lists(st.fixed_dictionaries(dict.fromkeys(names, cell)), max_size=3))
    for output in OUTPUTS:
        Ran(("render",), 0, render(rows, output, columns=names, title="t"), "").behaved(output)
        if rows:
            Ran(("render",), 0, render(rows[0], output, columns=names), "").behaved(output)


TARGETS: dict[str, Callable[[Bench, st.DataObject], None]] = {
    "commands": try_commands,
    "batch": try_batch,
    "policy": try_policy,
    "users": try_users,
    "trace": try_trace,
    "config": try_config,
    "restore": try_restore,
    "words": try_words,
    "rendering": try_rendering,
}


def fuzz(bench: Bench, target: str, *, examples: int, number: int | None = None) -> None:
    """Run a target; without a seed the same examples every time."""

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=number is None,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        TARGETS[target](bench, data)

    (run if number is None else seed(number)(run))()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--examples", type=int, default=1000, help="for each target")
    parser.add_argument("--only", nargs="+", choices=sorted(TARGETS), default=list(TARGETS))
    asked = parser.parse_args()
    # What the host's own file names would be run.
    os.environ |= {"QUOTACTL_CONFIG": os.devnull, "NO_COLOR": "1", "COLUMNS": "80"}
    failed = 0
    for target in asked.only:
        with tempfile.TemporaryDirectory(prefix="quotactl-fuzz-") as folder:
            bench = Bench(Path(folder))
            started = time.monotonic()
            try:
                fuzz(bench, target, examples=asked.examples, number=asked.seed)
            except Exception:  # noqa: BLE001 - the next target is tried all the same
                import traceback

                traceback.print_exc()
                failed += 1
            took = time.monotonic() - started
            codes = ", ".join(f"{code}: {n}" for code, n in sorted(bench.codes.items()))
            sys.stdout.write(f"{target}: {took:.0f} s; exit codes {codes or 'none'}\n")
            sys.stdout.flush()
    return 8 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
