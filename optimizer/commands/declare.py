"""The declaration of commands: options are fields of dataclasses, declared once, typed, and shown in sections of the
help.

A command is a function whose parameters are annotated with such dataclasses, called groups of options, or with
dataclasses that bundle several groups. Each field of a group is annotated with its type and with an `Option` or an
`Argument`; its default is the option's default, and a field without a default is required.
"""

import types
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, Union, cast, get_args, get_origin, get_type_hints

import click

from optimizer.commands.completion import for_flags, paths
from optimizer.commands.config import config_option
from optimizer.commands.failures import as_click_error
from optimizer.commands.verbosity import verbosity_options
from optimizer.errors import InputError

FIRST_SECTION = "What most runs need"
"""The title of the section with the essential options of all groups, which the help shows first."""

METAVARS = {int: "N", float: "NUMBER", str: "NAME", Path: "FILE"}
"""What stands for a value of each type in the help, where an option names nothing better."""


@dataclass(frozen=True)
class Option:
    """How a field is given on the command line by a flag.

    flags: such as `-o`, `--output`. help: one or two sentences. type: a type of click, where the annotated type does
    not say which values are allowed. metavar: what stands for the value in the help. essential: whether the option is
    shown in the first section of the help, whatever the section of its dataclass.
    """

    flags: tuple[str, ...]
    help: str
    type: click.ParamType[Any] | None = None
    metavar: str | None = None
    essential: bool = False


@dataclass(frozen=True)
class Argument:
    """How a field is given on the command line without a flag.

    metavar: what stands for the value in the help. many: whether any number of values may be given; none at all only
    where the field has a default.
    """

    metavar: str
    many: bool = False


class OptionGroup(Protocol):
    """The type of a dataclass of options. SECTION: the title of the section in which the help shows them."""

    SECTION: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


class OptionsCommand(click.Command):
    """A command that shows its options in sections and an example, and turns bad input into an error of one line.

    sections: the options by the title of their section. example: a line to type. takes_tables: whether a `--config`
    file may hold tables of search parameters.
    """

    def __init__(
        self, *, sections: dict[str, list[click.Option]], example: str, takes_tables: bool, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.sections, self.example, self.takes_tables = sections, example, takes_tables

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. An InputError becomes a BadInput, which names the option by which the user gave the field at
        fault."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            raise as_click_error(error, self.params) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections of options one after another, and then the example, into the help."""
        for title, options in self.sections.items():
            records = [record for option in options if (record := option.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
        with formatter.section("Example"):
            formatter.write_text(self.example)


def command(example: str) -> Callable[[Callable[..., None]], OptionsCommand]:
    """A decorator that makes a command of a function, with the options of the dataclasses that its parameters are
    annotated with. The command has the function's name, but for `_` around it where Python keeps the word for itself.
    example: the line that the help shows at its end."""

    def decorate(function: Callable[..., None]) -> OptionsCommand:
        hints = get_type_hints(function)
        wanted = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
        groups = [group for kind in wanted.values() for group in _groups(kind)]

        def run(**values: Any) -> None:
            function(**{name: _filled(kind, values) for name, kind in wanted.items()})

        params, sections = _parameters(groups)
        return OptionsCommand(
            name=function.__name__.strip("_").replace("_", "-"),
            callback=run,
            params=params,
            help=function.__doc__,
            sections=sections,
            example=example,
            takes_tables=any(getattr(group, "PARAMETER_TABLES", False) for group in groups),
        )

    return decorate


def _groups(kind: Any) -> list[type[OptionGroup]]:
    """The groups of options that a dataclass consists of: itself, or the groups that it bundles, in their order."""
    if hasattr(kind, "SECTION"):
        return [cast(type[OptionGroup], kind)]
    hints = get_type_hints(kind)
    return [group for field in fields(kind) for group in _groups(hints[field.name])]


def _filled(kind: Any, values: dict[str, Any]) -> Any:
    """An instance of a group of options with its values, or of a bundle with its groups filled in the same way."""
    if hasattr(kind, "SECTION"):
        return kind(**{field.name: values[field.name] for field in fields(kind) if field.name in values})
    hints = get_type_hints(kind)
    return kind(**{field.name: _filled(hints[field.name], values) for field in fields(kind)})


def _parameters(groups: list[type[OptionGroup]]) -> tuple[list[click.Parameter], dict[str, list[click.Option]]]:
    """All click parameters of a command, and its options by section: first what most runs need, then the sections in
    the order of the groups. The options that all commands share are among them."""
    params: list[click.Parameter] = []
    sections: dict[str, list[click.Option]] = {FIRST_SECTION: []}
    for group in groups:
        for field, param, essential in _of_group(group):
            assert field.name not in {known.name for known in params}, f"{field.name} is in two groups of options"
            params.append(param)
            if isinstance(param, click.Option):
                title = FIRST_SECTION if essential else group.SECTION
                sections.setdefault(title, []).append(param)
    shared = [config_option(), *verbosity_options()]
    sections.setdefault("Output", []).extend(shared)
    return [*params, *shared], sections


def _of_group(group: type[OptionGroup]) -> list[tuple[Field[Any], click.Parameter, bool]]:
    """The fields of a group with the click parameter of each and whether it is essential. Fields that are annotated
    with neither an `Option` nor an `Argument` are left out."""
    hints = get_type_hints(group, include_extras=True)
    found: list[tuple[Field[Any], click.Parameter, bool]] = []
    for field in fields(group):
        if get_origin(hints[field.name]) is not Annotated:
            continue
        kind, declared = get_args(hints[field.name])[:2]
        if isinstance(declared, Argument):
            found.append((field, _argument(field, kind, declared), False))
        elif isinstance(declared, Option):
            found.append((field, _option(field, kind, declared), declared.essential))
    return found


def _argument(field: Field[Any], kind: Any, declared: Argument) -> click.Argument:
    """The click argument of a field; kind is the field's type."""
    required, many, type_of_one = field.default is MISSING, -1 if declared.many else 1, _click_type(_single(kind))
    return click.Argument(
        [field.name],
        metavar=declared.metavar,
        nargs=many,
        required=required,
        type=type_of_one,
        shell_complete=paths if type_of_one is str else None,  # TRACES and the like, which may be globs
    )


def _option(field: Field[Any], kind: Any, declared: Option) -> click.Option:
    """The click option of a field; kind is the field's type, and a bool becomes a flag without a value."""
    kind, required = _single(kind), field.default is MISSING
    # click takes a default of None for a value that was given, so that an option with it is never missing
    default: dict[str, Any] = {} if required else {"default": field.default}
    if kind is bool:
        return click.Option([*declared.flags, field.name], is_flag=True, help=declared.help, **default)
    wanted = declared.type or _click_type(kind)
    return click.Option(
        [*declared.flags, field.name],
        type=wanted,
        required=required,
        shell_complete=None if isinstance(wanted, click.ParamType) else for_flags(declared.flags),
        show_default=default.get("default") not in (None, ""),
        metavar=declared.metavar or METAVARS.get(kind),
        help=declared.help,
        **default,
    )


def _single(kind: Any) -> Any:
    """The type of one value: `X` for `X | None` and for `tuple[X, ...]`."""
    if get_origin(kind) in (Union, types.UnionType):
        return next(each for each in get_args(kind) if each is not type(None))
    return get_args(kind)[0] if get_origin(kind) is tuple else kind


def _click_type(kind: Any) -> Any:
    """The type by which click reads a value of this type."""
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    return click.Path(path_type=Path) if kind is Path else kind
