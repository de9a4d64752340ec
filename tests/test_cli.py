"""How the command line ends, and what it says beside its results."""

import warnings

import click
from click.testing import CliRunner

from cli import Moeplan


def test_a_warning_is_one_line_on_stderr() -> None:
    @click.command()
    def warn() -> None:
        warnings.warn("kernels cannot\nbe kept", UserWarning, stacklevel=1)
        click.echo("done")

    before = warnings.showwarning
    result = CliRunner().invoke(Moeplan(commands=[warn]), ["warn"])
    assert (result.stdout, result.stderr) == ("done\n", "Warning: kernels cannot be kept\n")
    assert warnings.showwarning is before
