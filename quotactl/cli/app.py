"""The table of commands, loaded lazily, and the classes that every command is built with.

A noun is a module with an ordinary Typer app; what this frame adds, it adds when it
loads it, so there is nothing to remember::

    app = typer.Typer(help="Tiers: named sets of limits.")

    @app.command("show")
    def show(tier: Annotated[str, typer.Argument(help="The tier's id.")]) -> int | None:
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
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command, get_group

from quotactl._version import __version__
from quotactl.cli.invocation import invocation
from quotactl.render import OUTPUTS

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

    from typer._click import Command, Context, HelpFormatter, Parameter


class Entry(NamedTuple):
    """Where a command is found: an app or a function, by module and attribute."""

    section: str
    module: str
    attribute: str
    help: str


_START, _POLICY, _PEOPLE = "Start", "Policy", "Users"
_EMERGENCY, _QUOTA, _BOOK = "Emergency", "Quota", "The book"

COMMANDS: dict[str, Entry] = {
    name: Entry(section, f"quotactl.cli.{module}", attribute, text)
    for name, section, module, attribute, text in [
        ("init", _START, "init", "init", "Make a new ledger."),
        ("demo", _START, "demo", "demo", "See it all at work on a small ledger."),
        ("status", _START, "status", "status", "How things stand, on one screen."),
        ("doctor", _START, "doctor", "doctor", "Is all well with the ledger and its file?"),
        ("resource", _POLICY, "resource", "app", "What is counted: image, video."),
        ("tier", _POLICY, "tier", "app", "Named sets of limits."),
        ("limit", _POLICY, "limit", "app", "Ceilings for a resource per period."),
        ("setting", _POLICY, "setting", "app", "Durability, retention and the like."),
        ("policy", _POLICY, "policy", "app", "The whole policy as a file."),
        ("replay", _POLICY, "replay", "replay", "What a policy would have done to a trace."),
        ("user", _PEOPLE, "user", "app", "Tiers, blocks and protection of users."),
        ("override", _PEOPLE, "override", "app", "Another limit for one user, for a time."),
        ("grant", _PEOPLE, "grant", "app", "Extra units for one user."),
        ("throttle", _EMERGENCY, "throttle", "app", "Lower or stop what tiers may take, now."),
        ("preset", _EMERGENCY, "preset", "app", "Several throttles under one name."),
        ("enforcement", _EMERGENCY, "enforcement", "app", "Enforce, only watch, or let all pass."),
        ("check", _QUOTA, "consume", "check", "Ask, and take nothing."),
        ("consume", _QUOTA, "consume", "consume", "Ask and take."),
        ("explain", _QUOTA, "explain", "explain", "Why a request passes or not, and when."),
        ("refund", _QUOTA, "consume", "refund", "Give back what was taken."),
        ("reserve", _QUOTA, "hold", "reserve", "Hold units until posted or voided."),
        ("post", _QUOTA, "hold", "post", "Take what was held."),
        ("void", _QUOTA, "hold", "void", "Free what was held."),
        ("reset", _BOOK, "reset", "app", "Close days; give one user a fresh window."),
        ("report", _BOOK, "report", "app", "Usage by user, tier, resource and day."),
        ("audit", _BOOK, "audit", "app", "Who changed what, when and why."),
        ("db", _BOOK, "db", "app", "Back up, restore, migrate and verify the ledger."),
    ]
}


def _set(attribute: str) -> Any:
    def remember(_context: Context, _option: Parameter, value: object) -> None:
        if value is not None:
            setattr(invocation(), attribute, value)

    return remember


def _set_output(_context: Context, _option: Parameter, value: str | None) -> None:
    if value is not None:
        if value not in OUTPUTS:
            raise typer.BadParameter(f"{value!r} is none of {', '.join(OUTPUTS)}")
        invocation().format = value


def _set_json(_context: Context, _option: Parameter, value: bool | None) -> None:
    if value:
        invocation().format = "json"


def _print_version(context: Context, _option: Parameter, value: bool | None) -> None:
    if value:
        sys.stdout.write(f"quotactl {__version__}\n")
        context.exit()


def _global(*names: str, callback: Any, help: str, metavar: str | None = None) -> TyperOption:  # noqa: A002
    # Eager: a missing argument is then reported in the format that was asked for.
    # None as the default tells "not given here" from "off", for flags too.
    return TyperOption(
        param_decls=list(names),
        expose_value=False,
        is_eager=True,
        is_flag=metavar is None,
        default=None,
        callback=callback,
        metavar=metavar,
        help=help,
    )


GLOBAL_OPTIONS = (
    _global(
        "--db", callback=_set("ledger"), metavar="PATH|URL", help="The ledger; else QUOTACTL_DB."
    ),
    _global(
        "-o",
        "--output",
        callback=_set_output,
        metavar="FORMAT",
        help=f"{', '.join(OUTPUTS)}; else table on a terminal, tsv in a pipe.",
    ),
    _global("--json", callback=_set_json, help="The same as -o json."),
    _global("-q", "--quiet", callback=_set("quiet"), help="Silent on success."),
    _global("-y", "--yes", callback=_set("yes"), help="Don't ask."),
    _global("--as", callback=_set("act_as"), metavar="ACTOR", help="Who acts; else the OS user."),
    _global("--debug", callback=_set("debug"), help="Show a traceback when something fails."),
)
_GLOBAL_NAMES = {name for option in GLOBAL_OPTIONS for name in option.opts}
_VERSION = _global("--version", callback=_print_version, help="Print the version.")


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
            params=[_VERSION],
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


def _build(name: str, found: Any, text: str) -> Command:
    """Make the command from a Typer app or a function, with the frame's classes and settings."""
    if not isinstance(found, typer.Typer):
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name, cls=Verb)(found)
        return get_command(app)
    found.rich_markup_mode = None  # Rich costs three times `import sqlite3`
    found.info.cls = Group
    if not isinstance(found.info.help, str):
        found.info.help = text
    for verb in found.registered_commands:
        verb.cls = Verb
    return get_group(found)  # not get_command: that makes a noun with one verb a command


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
