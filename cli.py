"""The command line: its commands, and how it ends."""

import time
from typing import Any

import click

from optimizer import __version__
from optimizer.commands.benchmark import benchmark
from optimizer.commands.bound import bound
from optimizer.commands.compare import compare
from optimizer.commands.errors import BadInput, FailedRun
from optimizer.commands.experiment import experiment
from optimizer.commands.given import Invocation
from optimizer.commands.simulate import simulate, sweep
from optimizer.commands.slots import slots
from optimizer.commands.solve import solve
from optimizer.commands.stats import stats
from optimizer.commands.traces import convert, synth
from optimizer.commands.validate import validate
from optimizer.errors import InputError, LostWorkerError
from optimizer.interrupts import Cancel, asking, heard_by


class Moeplan(click.Group):
    """Turns what went wrong into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """2 for what the user gave, 1 for what the machine could not do. Time limits count from here."""
        ctx.obj = Invocation(time.monotonic(), Cancel())
        try:
            with heard_by(asking(ctx.obj.cancel)):
                return super().invoke(ctx)
        except InputError as error:
            raise BadInput(" ".join(str(error).split())) from None
        except LostWorkerError as error:
            raise FailedRun(f"the run failed: {error}; finished layers are kept where --work is given") from None
        except (OSError, MemoryError) as error:
            raise FailedRun(f"the run failed: {error or type(error).__name__}") from None


@click.group(cls=Moeplan, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="moeplan")
def main() -> None:
    """Place the experts of a Mixture-of-Experts model on a device mesh, from recorded routing traces.

    TRACES are files, folders (searched recursively) or globs of .npz requests, of servers' responses and routing logs,
    or of counts; a file's content tells its format. Without TRACES a small built-in trace is generated. Exit code 0 is
    fine, 1 a failed run, 2 bad usage or bad input.
    """


for command in (solve, compare, simulate, sweep, bound, stats, slots, convert, synth, validate, benchmark, experiment):
    main.add_command(command)


if __name__ == "__main__":
    main()
