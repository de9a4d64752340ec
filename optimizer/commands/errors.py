"""What ends a command: one line and an exit code."""

import click


class BadInput(click.ClickException):
    """What the user gave cannot be used."""

    exit_code = 2


class FailedRun(click.ClickException):
    """The machine could not do what was asked."""

    exit_code = 1
