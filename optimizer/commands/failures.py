"""What ends a command early: one line on standard error and an exit code."""

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
"""Fields that are called otherwise than the parameter by which a user gives them."""


class BadInput(click.ClickException):
    """What the user gave cannot be used."""

    exit_code = 2


class FailedRun(click.ClickException):
    """The machine could not do what was asked."""

    exit_code = 1


def as_click_error(error: InputError, params: Sequence[click.Parameter]) -> BadInput:
    """The error in one line, after the option by which the user gave the field at fault, if there is one."""
    message = " ".join(str(error).split())
    option = option_of(error.field, params)
    return BadInput(message if option is None else f"{option}: {message}")


def option_of(field: str | None, params: Sequence[click.Parameter]) -> str | None:
    """The long flag of the parameter with this name, None where there is no such flag."""
    flags = {param.name: max(param.opts, key=len) for param in params if isinstance(param, click.Option)}
    known = flags.get(field) if field is not None else None
    wanted = OPTION_OF_FIELD.get(field or "")
    return known or (wanted if wanted in flags.values() else None)
