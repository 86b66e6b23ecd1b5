"""What a command takes, declared without importing Typer.

A parameter is `Annotated[str | None, Option("--reason", metavar="TEXT", help="Why.")]`, a
noun is `app = Noun()` with `@app.command("show")` over its verbs. Two readers understand
that: `plain`, which runs a command line that is plainly right, and `app`, which makes
Typer commands of it for help and for everything else.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar, get_type_hints

from quotactl.frozen import frozen

Function = TypeVar("Function", bound=Callable[..., int | None])


@frozen
class Argument:
    """A parameter by its place; a list takes all that is left."""

    metavar: str | None = None
    help: str | None = None


class Option:
    """A parameter by its name; of the type bool it is a flag, a list is repeatable."""

    def __init__(
        self,
        *names: str,
        metavar: str | None = None,
        help: str | None = None,  # noqa: A002 - as Typer's own
        hidden: bool = False,
    ) -> None:
        self.names = names
        self.metavar = metavar
        self.help = help
        self.hidden = hidden


class Noun:
    """A noun with its verbs, in the order in which they are declared."""

    def __init__(self, help: str | None = None) -> None:  # noqa: A002
        self.help = help
        self._verbs: dict[str, Callable[..., int | None] | tuple[str, str]] = {}

    @property
    def verbs(self) -> tuple[str, ...]:
        """The names of the verbs."""
        return tuple(self._verbs)

    def function(self, verb: str) -> Callable[..., int | None]:
        """The function that follows a verb, which is imported if need be."""
        found = self._verbs[verb]
        if isinstance(found, tuple):
            module, attribute = found
            function: Callable[..., int | None] = getattr(import_module(module), attribute)
            return function
        return found

    def elsewhere(self, name: str, module: str, attribute: str) -> None:
        """Declare a verb whose function is in another module, imported when it is asked for."""
        self._verbs[name] = (module, attribute)

    def command(self, name: str) -> Callable[[Function], Function]:
        """Make the function that follows a verb."""

        def declare(function: Function) -> Function:
            self._verbs[name] = function
            return function

        return declare


_LISTS = (list[str], list[str] | None)
_KINDS = (str, str | None, int, bool, bool | None, *_LISTS)


@frozen
class Parameter:
    """One parameter of a command: how it is declared, and what it holds."""

    name: str
    declared: Argument | Option
    is_flag: bool
    is_list: bool
    is_number: bool
    required: bool


def parameters_of(function: Callable[..., Any]) -> list[Parameter]:
    """The parameters of a command function, in order.

    TypeError for one that is neither text, texts, a whole number nor a flag: what a text
    means is decided further down, so that what is wrong with it is said in one place.
    """
    optional = len(function.__defaults__ or ())
    code = function.__code__
    names = code.co_varnames[: code.co_argcount]
    hints = get_type_hints(function, include_extras=True)
    found = []
    for place, name in enumerate(names):
        hint = hints[name]
        kind = getattr(hint, "__origin__", hint) if hasattr(hint, "__metadata__") else hint
        if kind not in _KINDS:
            raise TypeError(f"{function.__name__}: {name} is {kind}")
        required = place < len(names) - optional
        declared = next(
            (d for d in getattr(hint, "__metadata__", ()) if isinstance(d, Argument | Option)),
            Argument() if required else None,
        )
        if declared is None:
            raise TypeError(f"{function.__name__}: {name} is neither Argument nor Option")
        is_flag = kind in (bool, bool | None)
        is_list, is_number = kind in _LISTS, kind is int
        found.append(Parameter(name, declared, is_flag, is_list, is_number, required))
    return found
