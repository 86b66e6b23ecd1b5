"""Command lines that are plainly right, read without importing Typer.

Typer costs three times `import sqlite3`, and is there for what it does well: help, usage
errors, suggestions. A command line that needs none of these is understood here, from the
same declarations and to the same effect (a test compares the two on random ones); of
every other one nothing is said here: Typer has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from quotactl.cli.commands import EVERYWHERE, Entry
from quotactl.cli.declared import Noun, Option, Parameter, parameters_of
from quotactl.frozen import frozen
from quotactl.render import OUTPUTS


@frozen
class Plain:
    """A command line that was understood: what it calls, with what, and what it says of
    the invocation."""

    function: Callable[..., int | None]
    arguments: dict[str, Any]
    everywhere: dict[str, Any]


@frozen
class _Named:
    """What an option sets, to its value or to `to`: a parameter, or of the invocation."""

    name: str
    to: object = None
    parameter: Parameter | None = None


_EVERYWHERE: dict[str, _Named] = {
    name: _Named(every.attribute, every.to) for every in EVERYWHERE for name in every.option.names
}


def understood(words: Sequence[str], table: Mapping[str, Entry]) -> Plain | None:
    """What a command line asks for; None where that is not plain."""
    reader = _Reader(words)
    word = reader.word_after_options()
    entry = None if word is None else table.get(word)
    if entry is None:
        return None
    found = getattr(import_module(entry.module), entry.attribute)
    if isinstance(found, Noun):
        word = reader.word_after_options()
        if word is None or word not in found.verbs:
            return None
        found = found.function(word)
    parameters = parameters_of(found)
    if not (reader.read_all(parameters) and reader.put_in_places(parameters)):
        return None
    return Plain(found, reader.arguments, reader.everywhere)


class _Reader:
    """Goes through the words from left to right; what is said twice holds as said last."""

    def __init__(self, words: Sequence[str]) -> None:
        self.arguments: dict[str, Any] = {}
        self.everywhere: dict[str, Any] = {}
        self._words = words
        self._at = 0
        self._places: list[str] = []

    def word_after_options(self) -> str | None:
        """The next word that is no option; None if there is none, or an option is not plain."""
        while self._at < len(self._words):
            word = self._words[self._at]
            self._at += 1
            if not _is_option(word):
                return word
            if word == "--" or not self._take_option(word, _EVERYWHERE):
                return None
        return None

    def read_all(self, parameters: Sequence[Parameter]) -> bool:
        """Read all that is left, options and arguments in any order."""
        options = dict(_EVERYWHERE)
        for parameter in parameters:
            if isinstance(parameter.declared, Option):
                for name in parameter.declared.names:
                    on, _, off = name.partition("/")
                    to = True if parameter.is_flag else None
                    options[on] = _Named(parameter.name, to, parameter)
                    if off:
                        options[off] = _Named(parameter.name, False, parameter)
        while self._at < len(self._words):
            word = self._words[self._at]
            self._at += 1
            if word == "--":
                self._places += self._words[self._at :]
                break
            if not _is_option(word):
                self._places.append(word)
            elif not self._take_option(word, options):
                return False
        return True

    def put_in_places(self, parameters: Sequence[Parameter]) -> bool:
        """Give the arguments to the parameters that go by place; whether all fits."""
        places = self._places
        for parameter in parameters:
            if isinstance(parameter.declared, Option):
                if parameter.required and parameter.name not in self.arguments:
                    return False
            elif parameter.is_list:
                # A list takes all that is left, so that it can only be the last.
                if parameter.required and not places:
                    return False
                self.arguments[parameter.name], places = places, []
            elif places:
                first, *places = places
                if not self._give(parameter, first):
                    return False
            elif parameter.required:
                return False
        return not places

    def _take_option(self, word: str, options: Mapping[str, _Named]) -> bool:
        name, equals, value = word.partition("=") if word[1] == "-" else (word, "", "")
        named = options.get(name)
        if named is None:
            return False
        found: object
        if named.to is not None:
            if equals:
                return False
            found = named.to
        elif equals:
            found = value
        elif self._at < len(self._words):
            found = self._words[self._at]
            self._at += 1
        else:
            return False
        if named.parameter is None:
            if named.name == "format" and found not in OUTPUTS:
                return False  # also where another option says otherwise after it
            self.everywhere[named.name] = found
            return True
        return self._give(named.parameter, found)

    def _give(self, parameter: Parameter, found: object) -> bool:
        if parameter.is_list:
            self.arguments.setdefault(parameter.name, []).append(found)
            return True
        if parameter.is_number:
            # Only what has no second reading; Typer names what is wrong with the rest.
            digits = str(found).removeprefix("-")
            if not (digits.isascii() and digits.isdecimal()) or len(digits) > 18:
                return False
            found = int(str(found))
        self.arguments[parameter.name] = found
        return True


def _is_option(word: str) -> bool:
    return word[:1] == "-" and word != "-"
