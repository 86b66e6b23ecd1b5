"""A command line that is read without Typer means what it means to Typer."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import pytest
import typer
from hypothesis import example, given
from hypothesis import strategies as st

from quotactl.cli.app import Root
from quotactl.cli.commands import COMMANDS, EVERYWHERE
from quotactl.cli.declared import Noun, Option, parameters_of
from quotactl.cli.invocation import Invocation, started
from quotactl.cli.plain import understood

# What the options that everybody has say: those that take a value, and those that don't.
ATTRIBUTES = ("ledger", "format", "quiet", "yes", "act_as", "debug")
WORDS = ("ada", "image", "3/day", "", "-", "--", "-5", "a=b", "-q", "--json", "json", "x y", "1_0")

with started(Invocation([])):
    ROOT = Root(COMMANDS)
    LEAVES: dict[tuple[str, ...], Any] = {}
    for noun in COMMANDS:
        built = ROOT.commands[noun]
        for verb, leaf in getattr(built, "commands", {"": built}).items():
            LEAVES[(noun, verb) if verb else (noun,)] = leaf


def functions() -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for noun, entry in COMMANDS.items():
        declared = getattr(sys.modules[entry.module], entry.attribute)
        verbs = {"": declared}
        if isinstance(declared, Noun):
            verbs = {verb: declared.function(verb) for verb in declared.verbs}
        found.update({(noun, verb) if verb else (noun,): f for verb, f in verbs.items()})
    return found


FUNCTIONS = functions()


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[tuple[str, ...], list[str]]:
    path = draw(st.sampled_from(sorted(FUNCTIONS)))
    names = [name for every in EVERYWHERE for name in every.option.names]
    parameters = parameters_of(FUNCTIONS[path])
    for parameter in parameters:
        if isinstance(parameter.declared, Option):
            names += [part for name in parameter.declared.names for part in name.split("/")]
    word = st.sampled_from(WORDS)
    option = st.sampled_from(names)
    pieces = st.one_of(
        word.map(lambda w: [w]),
        option.map(lambda o: [o]),
        st.tuples(option, word).map(list),
        st.tuples(option, word).map(lambda both: ["=".join(both)]),
        st.tuples(option, word).map(lambda both: ["".join(both)]),
        st.sampled_from([["-o", "json"], ["-ojson"], ["-qy"], ["--help"], ["--nothing"]]),
    )
    wanted = [p for p in parameters if not isinstance(p.declared, Option)]
    arguments = [draw(word) for p in wanted if p.required or draw(st.booleans())]
    tail = [w for piece in draw(st.lists(pieces, max_size=4)) for w in piece]
    cut = draw(st.integers(0, len(arguments)))
    return path, [*arguments[:cut], *tail, *arguments[cut:]]


def told_by_typer(path: tuple[str, ...], rest: list[str]) -> tuple[dict[str, Any], list[object]]:
    """The parameters and the options of everybody, as Typer reads them."""
    this = Invocation(rest)
    with started(this), LEAVES[path].make_context(path[-1], list(rest)) as context:
        return dict(context.params), [getattr(this, name) for name in ATTRIBUTES]


@example((("audit", "show"), ["ada", "-o", "ada", "--json"]))
@given(command_lines())
def test_what_is_plain_means_the_same_to_typer(line: tuple[tuple[str, ...], list[str]]) -> None:
    path, rest = line
    plain = understood([*path, *rest], COMMANDS)
    if plain is None:
        return
    assert plain.function is FUNCTIONS[path]
    params, everywhere = told_by_typer(path, rest)
    this = Invocation(rest)
    for attribute, value in plain.everywhere.items():
        setattr(this, attribute, value)
    assert [getattr(this, name) for name in ATTRIBUTES] == everywhere
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(plain.function).parameters.items()
    }
    assert _listed(params) == _listed(defaults | plain.arguments)


def _listed(values: dict[str, Any]) -> dict[str, Any]:
    """A list that was not given is None or empty, as Typer pleases."""
    return {
        name: (list(value) or None) if isinstance(value, list | tuple) else value
        for name, value in values.items()
    }


@pytest.mark.parametrize(
    "line",
    [
        "consume ada image 2 --key r1 -o json",
        "--db x.db check ada image",
        "throttle --json on --resource image --tier free --cap 1/day --for 6h --reason melts",
        "throttle off 1 --reason over -q",
        "limit set free image=3/day video=1/day",
        "grant add ada image=5 --priority 2 --reason sorry --as ops",
        "preset drill melt --no-wait --reason try",
        "status",
        "report top --limit 100",
    ],
)
def test_what_is_written_day_by_day_is_plain(line: str) -> None:
    words = line.split()
    plain = understood(words, COMMANDS)
    assert plain is not None
    path = tuple(w for w in words if w not in ("--db", "x.db", "--json"))
    path = path[: 2 if path[:2] in FUNCTIONS else 1]
    assert plain.function is FUNCTIONS[path]


@pytest.mark.parametrize(
    "line",
    ["", "check", "consume --help", "-h", "throttle", "throttle of 1", "consume ada image 1 2",
     "consume ada image --kee x", "consume ada image --key", "check ada image -o xml",
     "check ada image -ojson", "-qy status", "-- consume ada image", "throttle on --deny=1",
     "grant add ada image=5 --priority many"],
)  # fmt: skip
def test_what_needs_a_word_is_left_to_typer(line: str) -> None:
    assert understood(line.split(), COMMANDS) is None


def test_typer_refuses_what_is_not_plain_here() -> None:
    with pytest.raises(typer.TyperException):
        told_by_typer(("throttle", "on"), ["--deny=1"])
