"""The option `--config FILE`, which reads options of a command from a TOML file; flags on the command line win over
it."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from optimizer.commands.failures import BadInput

TABLES = "moeplan.search_tables"
"""The key under which the `meta` of a click context keeps the tables of search parameters that the file holds."""


def config_option() -> click.Option:
    """The option `--config` for one command. It is eager: click reads it first, so that the values of the file are
    there as defaults when the other options are read."""
    return click.Option(
        ["--config"],
        type=click.Path(path_type=Path),
        metavar="FILE.toml",
        is_eager=True,
        expose_value=False,
        callback=_read,
        help="Read options from this TOML file, under their names without dashes in front; flags win.",
    )


def _read(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Make the values of the file the defaults of the command, and keep its tables of search parameters in the context.
    Raises BadInput, which names the file, for a file that is no TOML and for a key that is no option."""
    if path is None:
        return
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"--config {path}: cannot be read as TOML ({error})") from None
    names, takes_tables = _names(ctx.command), getattr(ctx.command, "takes_tables", False)
    values: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and takes_tables and key not in names:
            ctx.meta.setdefault(TABLES, {})[key] = dict(value)
            continue
        name = names.get(key.replace("-", "_"))
        if name is None:
            raise BadInput(f"--config {path}: {unknown(key, names, f'`moeplan {ctx.info_name}`')}")
        if isinstance(value, Mapping):
            raise BadInput(f"--config {path}: {key} is a table; write a value, like {key} = 12")
        values[name] = value
    ctx.default_map = {**(ctx.default_map or {}), **values}


def _names(command: click.Command) -> dict[str, str]:
    """The parameter behind each name that a file may use: its field's name, and its flags without the dashes in
    front."""
    found = {}
    for param in command.params:
        if param.name is not None and param.expose_value:
            for name in (param.name, *(flag.lstrip("-") for flag in param.opts if flag.startswith("--"))):
                found[name.replace("-", "_")] = param.name
    return found


def unknown(key: str, known: Iterable[str], where: str) -> str:
    """A sentence that says that a key is not known, and which known key is nearest to it. where: what the key was
    for."""
    near = difflib.get_close_matches(key.replace("-", "_"), list(known), n=1, cutoff=0.5)
    return f"'{key}' is no option of {where}" + (f"; did you mean '{near[0]}'?" if near else "")
