"""What Tab offers: nouns, verbs, options, and the names that there are in the ledger.

Worked out from the declarations, without Typer, since somebody waits at each key. The
protocol is that of Typer's scripts: the shell runs `quotactl` with `_QUOTACTL_COMPLETE`
and the words so far in the environment, and reads the candidates from stdout.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import pairwise

from quotactl.cli.commands import COMMANDS, EVERYWHERE
from quotactl.cli.declared import Noun, Option, Parameter, parameters_of
from quotactl.render import OUTPUTS

VARIABLE = "_QUOTACTL_COMPLETE"

Candidate = tuple[str, str]
"""What is offered, and what is said of it."""


def answer(environment: Mapping[str, str]) -> int:
    """Write what the shell asks for to stdout; its exit code. Silent whatever goes wrong."""
    how = environment[VARIABLE]
    if how == "complete_bash":
        words = _split(environment.get("COMP_WORDS", ""))
        at = environment.get("COMP_CWORD", "")
        at_word = int(at) if at.isdecimal() else len(words)
        before, begun = words[1:at_word], (words[at_word] if at_word < len(words) else "")
    else:
        text = environment.get("_TYPER_COMPLETE_ARGS", "")
        words = _split(text)[1:]
        ends = not words or text[-1:].isspace()
        before, begun = (words, "") if ends else (words[:-1], words[-1])
    found = list(candidates(before, begun))
    if how == "complete_fish":
        if environment.get("_TYPER_COMPLETE_FISH_ACTION") == "is-args":
            return 0 if found else 1
        sys.stdout.write("".join(f"{word}\t{about}\n" for word, about in found))
    elif how == "complete_zsh":
        offered = "\n".join(f'"{_for_zsh(word)}":"{_for_zsh(about)}"' for word, about in found)
        sys.stdout.write(f"_arguments '*: :(({offered}))'\n" if found else "_files\n")
    else:
        sys.stdout.write("".join(f"{word}\n" for word, _ in found))
    return 0


def candidates(before: Sequence[str], begun: str) -> Iterator[Candidate]:
    """What could stand where the last word is begun, after these words."""
    offered = _offered(list(before), begun)
    yield from ((word, about) for word, about in offered if word.startswith(begun))


def _offered(before: list[str], begun: str) -> Iterable[Candidate]:
    valued = {name for every in EVERYWHERE if every.to is None for name in every.option.names}
    ledger = _value_of("--db", before)
    noun = _next_word(before, valued)
    if noun is None:
        nouns = [(name, entry.help) for name, entry in COMMANDS.items()]
        return _value(before, (), ledger) or (_options(()) if _dash(begun) else nouns)
    if noun not in COMMANDS:
        return ()
    entry = COMMANDS[noun]
    found = getattr(import_module(entry.module), entry.attribute)
    if isinstance(found, Noun):
        verb = _next_word(before, valued)
        if verb is None:
            verbs = [
                (name, _first_line(found.function(name)))
                for name in found.verbs
                if name.startswith(begun)
            ]
            return _value(before, (), ledger) or (_options(()) if _dash(begun) else verbs)
        if verb not in found.verbs:
            return ()
        found = found.function(verb)
    parameters = parameters_of(found)
    values = _value(before, parameters, ledger)
    if values is not None:
        return values
    if _dash(begun):
        return _options(parameters)
    return _argument(before, parameters, ledger, noun)


def _value(
    before: Sequence[str], parameters: Sequence[Parameter], ledger: str | None
) -> Iterable[Candidate] | None:
    """What an option's value could be; None where the word is no value of an option."""
    option = before[-1] if before else ""
    if not _dash(option):
        return None
    for every in EVERYWHERE:
        if option in every.option.names and every.to is None:
            return [(o, "") for o in OUTPUTS] if every.attribute == "format" else ()
    for parameter in parameters:
        declared = parameter.declared
        if isinstance(declared, Option) and option in declared.names and not parameter.is_flag:
            return _names(declared.metavar, ledger)
    return None


def _argument(
    before: Sequence[str], parameters: Sequence[Parameter], ledger: str | None, noun: str
) -> Iterable[Candidate]:
    valued = {
        name
        for p in parameters
        if isinstance(p.declared, Option) and not p.is_flag
        for name in p.declared.names
    } | {name for every in EVERYWHERE if every.to is None for name in every.option.names}
    words = list(before)
    given = 0
    while _next_word(words, valued) is not None:
        given += 1
    places = [p for p in parameters if not isinstance(p.declared, Option)]
    if not places or (given >= len(places) and not places[-1].is_list):
        return ()
    metavar = places[min(given, len(places) - 1)].declared.metavar
    return _names("THROTTLE" if metavar == "ID|NAME" and noun == "throttle" else metavar, ledger)


def _options(parameters: Sequence[Parameter]) -> list[Candidate]:
    own = [p.declared for p in parameters if isinstance(p.declared, Option)]
    shown = [option for option in own if not option.hidden]
    return [
        *((n, o.help or "") for o in shown for name in o.names for n in name.split("/")),
        *((n, e.option.help or "") for e in EVERYWHERE for n in e.option.names if n[:2] == "--"),
        ("--help", "Show this command's help."),
    ]


def _names(metavar: str | None, ledger: str | None) -> Iterable[Candidate]:
    """Names of the ledger that a place takes: of tiers, resources, throttles."""
    kind = (metavar or "").strip("[]").rstrip(".")
    kind, _, pair = kind.partition("=")
    if kind not in {"TIER", "RESOURCE", "THROTTLE"}:
        return ()
    path = ledger or os.environ.get("QUOTACTL_DB")
    if not path:
        return ()
    from quotactl.engines.opening import open_engine

    engine = open_engine(path, timeout_s=0.5)
    try:
        with engine.reading() as book:
            policy = book.policy
    finally:
        engine.close()
    if kind == "THROTTLE":
        return [(t.name or str(t.id), t.kind) for t in policy.throttles]
    found = policy.tiers_by_name if kind == "TIER" else policy.resources_by_name
    return [(f"{name}=" if pair else name, "") for name in found]


def _next_word(words: list[str], valued: set[str]) -> str | None:
    """Take the next word that is no option, nor an option's value, off the list."""
    while words:
        word = words.pop(0)
        if not _dash(word):
            return word
        if word in valued and words:
            words.pop(0)
        elif word in valued:
            words.append(word)
            return None
    return None


def _value_of(name: str, words: Sequence[str]) -> str | None:
    for word, following in pairwise(words):
        if word == name:
            return following
    return next((w.partition("=")[2] for w in words if w.startswith(f"{name}=")), None)


def _dash(word: str) -> bool:
    return word[:1] == "-"


def _first_line(function: Callable[..., object]) -> str:
    return (function.__doc__ or "").partition("\n")[0]


def _split(text: str) -> list[str]:
    import shlex

    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    try:
        words.extend(lexer)
    except ValueError:  # a quote that is still open
        words.append(lexer.token)
    return words


def _for_zsh(text: str) -> str:
    for sign, instead in (('"', '""'), ("'", "''"), ("$", "\\$"), ("`", "\\`"), (":", "\\\\:")):
        text = text.replace(sign, instead)
    return text
