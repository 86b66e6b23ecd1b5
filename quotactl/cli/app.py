"""Commands as Typer has them: for help, completion, and all that is not plainly right.

A noun is a module with declarations, of which this makes Typer commands when one is asked
for, with the frame's own classes::

    app = Noun()

    @app.command("show")
    def show(tier: Annotated[str, Argument(metavar="TIER", help="Its name.")]) -> int | None:
        '''Show one tier with its limits.

        Examples:
          quotactl tier show free
          quotactl tier show free --json
        '''

A command without a noun (`consume`, `init`) is a plain function of the same kind, named
in the table; one module may hold several.

- The docstring is the help. What follows a line `Examples:` is printed as it stands.
- `return 3` ends the process with 3; None is 0. Errors are raised as QuotaError.
- Global options are understood before the noun, after it and after the verb. They are
  options of every command and not picked out of the argument list beforehand, so
  that `--reason -q` keeps `-q` as its value. A command can't use their names.
- A noun alone prints its help on stderr and ends with 2: nothing was asked for, and a
  script that lost its verb must not go on. `--help` goes to stdout and ends with 0.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Annotated, Any, cast, get_type_hints

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command, get_group

from quotactl._version import __version__
from quotactl.cli.commands import EVERYWHERE, Entry, Everywhere
from quotactl.cli.declared import Noun, Option, parameters_of
from quotactl.cli.invocation import invocation
from quotactl.errors import InvalidInput
from quotactl.render import OUTPUTS

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

    from typer._click import Command, Context, HelpFormatter, Parameter


def _global(every: Everywhere) -> TyperOption:
    def remember(_context: Context, option: Parameter, value: object) -> None:
        # None is "not given here", for flags too: an earlier one may have said it.
        if value is None:
            return
        if every.attribute == "format" and every.to is None and value not in OUTPUTS:
            raise typer.BadParameter(f"{value!r} is none of {', '.join(OUTPUTS)}", param=option)
        setattr(invocation(), every.attribute, value if every.to is None else every.to)

    return _eager(every.option, remember)


def _print_version(context: Context, _option: Parameter, value: bool | None) -> None:
    if value:
        sys.stdout.write(f"quotactl {__version__}\n")
        context.exit()


def _show_completion(context: Context, option: Parameter, value: str | None) -> None:
    if value is not None:
        from typer._completion_shared import get_completion_script

        if value not in SHELLS:
            raise typer.BadParameter(f"{value!r} is none of {', '.join(SHELLS)}", param=option)
        script = get_completion_script(
            prog_name="quotactl", complete_var="_QUOTACTL_COMPLETE", shell=value
        )
        sys.stdout.write(f"{script}\n")
        context.exit()


def _eager(option: Option, callback: Any) -> TyperOption:
    # Eager: a missing argument is then reported in the format that was asked for.
    return TyperOption(
        param_decls=list(option.names),
        expose_value=False,
        is_eager=True,
        is_flag=option.metavar is None,
        default=None,
        callback=callback,
        metavar=option.metavar,
        help=option.help,
    )


GLOBAL_OPTIONS = tuple(map(_global, EVERYWHERE))
_GLOBAL_NAMES = {name for option in GLOBAL_OPTIONS for name in option.opts}
_VERSION = _eager(Option("--version", help="Print the version."), _print_version)


SHELLS = ("bash", "zsh", "fish")
_COMPLETION = _eager(
    Option(
        "--show-completion",
        metavar="SHELL",
        help=f"Print what makes Tab complete: {', '.join(SHELLS)}.",
    ),
    _show_completion,
)


class Verb(TyperCommand):
    """A command: its own parameters, the global options, and examples in its help."""

    def __init__(self, name: str | None, **settings: Any) -> None:
        settings["help"], self.examples = _split_examples(settings.get("help"))
        settings["context_settings"] = _CONTEXT
        super().__init__(name, **settings)
        for parameter in self.params:
            if isinstance(parameter, TyperArgument):
                parameter.metavar = parameter.metavar or (parameter.name or "").upper()
                continue
            if clash := _GLOBAL_NAMES.intersection(parameter.opts):
                raise TypeError(f"{name}: {', '.join(sorted(clash))} means something everywhere")
            # `--reason REASON`, not Typer's `--reason <str>`; choices are listed by it.
            flag = getattr(parameter, "is_flag", False)
            if not flag and parameter.metavar is None and not hasattr(parameter.type, "choices"):
                parameter.metavar = (parameter.name or "").upper()

    def get_params(self, ctx: Context) -> list[Parameter]:
        return [*GLOBAL_OPTIONS, *super().get_params(ctx)]

    def collect_usage_pieces(self, ctx: Context) -> list[str]:  # noqa: ARG002
        # Typer writes `{user}:TEXT`; the manual writes `USER`, `[AMOUNT]`, `PAIR...`.
        pieces = ["[OPTIONS]"]
        for parameter in self.params:
            if isinstance(parameter, TyperArgument):
                word = parameter.metavar or ""
                word += "" if parameter.nargs == 1 or word.endswith("...") else "..."
                pieces.append(word if parameter.required or word[:1] == "[" else f"[{word}]")
        return pieces

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        _format_options(self, ctx, formatter)

    def format_epilog(self, ctx: Context, formatter: HelpFormatter) -> None:  # noqa: ARG002
        _format_examples(self.examples, formatter)


class Group(TyperGroup):
    """A noun: its verbs, and the global options."""

    def __init__(self, **settings: Any) -> None:
        settings["help"], self.examples = _split_examples(settings.get("help"))
        settings["context_settings"] = _CONTEXT
        settings["no_args_is_help"] = False
        super().__init__(**settings)

    def get_params(self, ctx: Context) -> list[Parameter]:
        return [*GLOBAL_OPTIONS, *super().get_params(ctx)]

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        if not args and invocation().format is None:
            sys.stderr.write(f"{self.get_help(ctx)}\n")
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        _format_options(self, ctx, formatter)

    def format_epilog(self, ctx: Context, formatter: HelpFormatter) -> None:  # noqa: ARG002
        # A noun's examples are the first of each of its verbs.
        verbs = [verb for verb in self.commands.values() if isinstance(verb, Verb)]
        firsts = [verb.examples.split("\n", 1)[0] for verb in verbs if verb.examples]
        _format_examples(self.examples or "\n".join(firsts), formatter)


class Root(Group):
    """`quotactl` itself: knows its commands by the table and loads the one that is asked for."""

    def __init__(self, table: Mapping[str, Entry]) -> None:
        super().__init__(
            name="quotactl",
            help="Decide who may have how much, and account for every unit.",
            commands=cast("MutableMapping[str, Command]", _Loader(table)),
            params=[_VERSION, _COMPLETION],
            rich_markup_mode=None,
        )
        self.table = table
        self.examples = _EXAMPLES

    def format_epilog(self, ctx: Context, formatter: HelpFormatter) -> None:  # noqa: ARG002
        _format_examples(self.examples, formatter)

    def list_commands(self, ctx: Context) -> list[str]:  # noqa: ARG002
        return list(self.table)

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:  # noqa: ARG002
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in self.table.items():
            sections.setdefault(entry.section, []).append((name, entry.help))
        width = max(map(len, self.table))
        for section, rows in sections.items():
            with formatter.section(section):
                # One width for all sections, else each has a column of its own.
                formatter.write_dl([(name.ljust(width), text) for name, text in rows])


# Written here: those of the commands would have to be imported.
_EXAMPLES = """\
  quotactl demo
  quotactl init ledger.db --zone Europe/Rome
  quotactl consume ada image --json
  quotactl throttle on --tier free --resource image --cap 1/day --reason melting"""


class _Loader(Mapping[str, "Command"]):
    """Commands by name, each imported when it is looked up and not before."""

    def __init__(self, table: Mapping[str, Entry]) -> None:
        self._table = table

    def __getitem__(self, name: str) -> Command:
        entry = self._table[name]
        return _build(name, getattr(import_module(entry.module), entry.attribute), entry.help)

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


def _build(name: str, found: Noun | Callable[..., int | None], text: str) -> Command:
    """Make a Typer command of what was declared, with the frame's classes and settings."""
    # No Rich in help: it costs three times `import sqlite3`.
    if not isinstance(found, Noun):
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name, cls=Verb)(_for_typer(found))
        return get_command(app)
    app = typer.Typer(rich_markup_mode=None, cls=Group, help=found.help or text)
    for verb in found.verbs:
        app.command(verb, cls=Verb)(_for_typer(found.function(verb)))
    return get_group(app)  # not get_command: that makes a noun with one verb a command


def _for_typer(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """The same function, with its parameters declared in Typer's own words."""

    @wraps(function)
    def command(**arguments: Any) -> int | None:
        return function(**arguments)

    hints = get_type_hints(function, include_extras=True)
    for parameter in parameters_of(function):
        declared = parameter.declared
        metavar, text = declared.metavar, declared.help
        if isinstance(declared, Option):
            hidden = declared.hidden
            info = typer.Option(*declared.names, metavar=metavar, help=text, hidden=hidden)
        else:
            info = typer.Argument(metavar=metavar, help=text)
        hint = hints[parameter.name]
        kind = hint.__origin__ if hasattr(hint, "__metadata__") else hint
        hints[parameter.name] = Annotated[kind, info]
    plain = signature(function)
    command.__annotations__ = hints
    command.__signature__ = plain.replace(  # type: ignore[attr-defined]
        parameters=[p.replace(annotation=hints[p.name]) for p in plain.parameters.values()]
    )
    del command.__wrapped__
    return command


def call(table: Mapping[str, Entry], argv: Sequence[str]) -> int | None:
    """Run the command that `argv` names; what it returned. Raises InvalidInput for usage."""
    root = Root(table)
    try:
        with root.make_context("quotactl", list(argv)) as context:
            result: int | None = root.invoke(context)
            return result
    except typer.Exit as end:
        return end.exit_code
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    except typer.TyperException as error:
        raise _usage_error(error) from error


def _usage_error(error: typer.TyperException) -> InvalidInput:
    """Say Click's usage error our way: one line, and where the help is."""
    text = error.format_message().strip().removesuffix(".").replace(". Did you", ", did you")
    context: Context | None = getattr(error, "ctx", None)
    hint = f"see {context.command_path if context else 'quotactl'} --help"
    if getattr(error, "option_name", "")[1:2].isdigit():
        hint = "a quantity is 1 or more, and other words that begin with - go after --"
    return InvalidInput(text[:1].lower() + text[1:], hint=hint)


_CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


def _split_examples(text: str | None) -> tuple[str | None, str]:
    if text is None:
        return None, ""
    help_text, _, examples = text.partition("\nExamples:\n")
    return help_text.rstrip(), examples.rstrip()


def _format_examples(examples: str, formatter: HelpFormatter) -> None:
    if examples:
        formatter.write(f"\nExamples:\n{examples}\n")


def _format_options(command: Verb | Group, ctx: Context, formatter: HelpFormatter) -> None:
    """Write arguments, then the command's own options, then those that hold everywhere."""
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": [], "Everywhere": []}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            everywhere = parameter in GLOBAL_OPTIONS or "--help" in parameter.opts
            argument = isinstance(parameter, TyperArgument)
            sections["Everywhere" if everywhere else "Arguments" if argument else "Options"].append(
                record
            )
    for section, rows in sections.items():
        if rows:
            with formatter.section(section):
                formatter.write_dl(rows)
