"""Commands whose options are fields of dataclasses: declared once, typed, and shown in sections.

A command is a function whose parameters are annotated with such dataclasses, or with dataclasses that bundle several of
them. Each field of a group of options is annotated with its type and with an `Option` or an `Argument`; its default is
the option's default, and a field without one is required.
"""

import types
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, Union, cast, get_args, get_origin, get_type_hints

import click

from optimizer.commands.config import config_option
from optimizer.commands.failures import as_click_error
from optimizer.errors import InputError

FIRST_SECTION = "What most runs need"

METAVARS = {int: "N", float: "NUMBER", str: "NAME", Path: "FILE"}
"""What stands for a value of a type in the help, where the option does not say it better."""


@dataclass(frozen=True)
class Option:
    """How a field is given on the command line.

    flags: such as `-o`, `--output`; help: one or two sentences; type: click's, where the annotation does not say it
    all; essential: shown in the first section of the help, whatever section the dataclass is for.
    """

    flags: tuple[str, ...]
    help: str
    type: click.ParamType[Any] | None = None
    metavar: str | None = None
    essential: bool = False


@dataclass(frozen=True)
class Argument:
    """A field that is given without a flag; many: any number of values, also none unless the field has no default."""

    metavar: str
    many: bool = False


class OptionGroup(Protocol):
    """A dataclass of options: the section of the help that its options are shown in."""

    SECTION: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


class OptionsCommand(click.Command):
    """A command that shows its options in sections and an example, and turns bad input into one line.

    takes_tables: whether a `--config` file may hold tables of search parameters.
    """

    def __init__(
        self, *, sections: dict[str, list[click.Option]], example: str, takes_tables: bool, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.sections, self.example, self.takes_tables = sections, example, takes_tables

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error that names a field is told with the option that the field was given by."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            raise as_click_error(error, self.params) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section after another, then the example."""
        for title, options in self.sections.items():
            records = [record for option in options if (record := option.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
        with formatter.section("Example"):
            formatter.write_text(self.example)


def command(example: str) -> Callable[[Callable[..., None]], OptionsCommand]:
    """Make a command of a function, with the options of the dataclasses that its parameters are annotated with."""

    def decorate(function: Callable[..., None]) -> OptionsCommand:
        hints = get_type_hints(function)
        wanted = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
        groups = [group for kind in wanted.values() for group in _groups(kind)]

        def run(**values: Any) -> None:
            function(**{name: _filled(kind, values) for name, kind in wanted.items()})

        params, sections = _parameters(groups)
        return OptionsCommand(
            name=function.__name__.replace("_", "-"),
            callback=run,
            params=params,
            help=function.__doc__,
            sections=sections,
            example=example,
            takes_tables=any(getattr(group, "PARAMETER_TABLES", False) for group in groups),
        )

    return decorate


def _groups(kind: Any) -> list[type[OptionGroup]]:
    """The groups of options that a dataclass consists of: itself, or those that it bundles, in their order."""
    if hasattr(kind, "SECTION"):
        return [cast(type[OptionGroup], kind)]
    hints = get_type_hints(kind)
    return [group for field in fields(kind) for group in _groups(hints[field.name])]


def _filled(kind: Any, values: dict[str, Any]) -> Any:
    """A group with its values, or a bundle of groups with theirs."""
    if hasattr(kind, "SECTION"):
        return kind(**{field.name: values[field.name] for field in fields(kind) if field.name in values})
    hints = get_type_hints(kind)
    return kind(**{field.name: _filled(hints[field.name], values) for field in fields(kind)})


def _parameters(groups: list[type[OptionGroup]]) -> tuple[list[click.Parameter], dict[str, list[click.Option]]]:
    """All parameters of a command, and its options by section: what most runs need first, then in the given order."""
    params: list[click.Parameter] = []
    sections: dict[str, list[click.Option]] = {FIRST_SECTION: []}
    for group in groups:
        for field, param, essential in _of_group(group):
            assert field.name not in {known.name for known in params}, f"{field.name} is in two groups of options"
            params.append(param)
            if isinstance(param, click.Option):
                title = FIRST_SECTION if essential else group.SECTION
                sections.setdefault(title, []).append(param)
    config = config_option()
    sections.setdefault("Output", []).append(config)
    return [*params, config], sections


def _of_group(group: type[OptionGroup]) -> list[tuple[Field[Any], click.Parameter, bool]]:
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
    required, many = field.default is MISSING, -1 if declared.many else 1
    return click.Argument(
        [field.name], metavar=declared.metavar, nargs=many, required=required, type=_click_type(_single(kind))
    )


def _option(field: Field[Any], kind: Any, declared: Option) -> click.Option:
    kind, required = _single(kind), field.default is MISSING
    default = None if required else field.default
    shown = default is not None and default != ""
    if kind is bool:
        return click.Option([*declared.flags, field.name], is_flag=True, default=default, help=declared.help)
    return click.Option(
        [*declared.flags, field.name],
        type=declared.type or _click_type(kind),
        required=required,
        default=default,
        show_default=shown,
        metavar=declared.metavar or METAVARS.get(kind),
        help=declared.help,
    )


def _single(kind: Any) -> Any:
    """The type of one value: `X` of `X | None` and of `tuple[X, ...]`."""
    if get_origin(kind) in (Union, types.UnionType):
        return next(each for each in get_args(kind) if each is not type(None))
    return get_args(kind)[0] if get_origin(kind) is tuple else kind


def _click_type(kind: Any) -> Any:
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    return click.Path(path_type=Path) if kind is Path else kind
