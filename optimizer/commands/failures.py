"""The errors that end a command early, with one line on standard error and an exit code."""

from collections.abc import Sequence

import click

from optimizer.errors import InputError

OPTION_OF_FIELD = {
    "extra_replicas": "--replicas",
    "first_moe_layer": "--first-moe-layer",
    "layers": "--layer",
    "most_row_traffic": "--max-row-traffic",
    "row_traffic": "--max-row-traffic",
    "routings": "--routing",
    "shared": "--shared-replicas",
    "slots_per_device": "--slots",
}
"""The options of fields that the program calls by another name than the parameter by which a user gives them."""


class BadInput(click.ClickException):
    """The error of a command whose input cannot be used; the exit code is 2."""

    exit_code = 2


class FailedRun(click.ClickException):
    """The error of a command whose input was good, but whose run failed; the exit code is 1."""

    exit_code = 1


def as_click_error(error: InputError, params: Sequence[click.Parameter]) -> BadInput:
    """The error as one line, which begins with the option by which the user gave the field at fault, if there is one.
    params: the parameters of the command."""
    message = " ".join(str(error).split())
    option = option_of(error.field, params)
    return BadInput(message if option is None else f"{option}: {message}")


def option_of(field: str | None, params: Sequence[click.Parameter]) -> str | None:
    """The long flag of the option by which a field is given, None where none of the parameters is such an option."""
    flags = {param.name: max(param.opts, key=len) for param in params if isinstance(param, click.Option)}
    known = flags.get(field) if field is not None else None
    wanted = OPTION_OF_FIELD.get(field or "")
    return known or (wanted if wanted in flags.values() else None)
