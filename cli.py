"""The command line: its commands, and how it ends."""

import warnings
from typing import Any

import click

from optimizer import __version__
from optimizer.commands.advise import advise
from optimizer.commands.benchmark import benchmark
from optimizer.commands.bound import bound
from optimizer.commands.calibrate import calibrate
from optimizer.commands.compare import compare
from optimizer.commands.exchange import export, import_
from optimizer.commands.experiment import experiment
from optimizer.commands.failures import BadInput, FailedRun
from optimizer.commands.presets import presets
from optimizer.commands.rebalance import rebalance
from optimizer.commands.report import report
from optimizer.commands.session import begun
from optimizer.commands.simulate import simulate
from optimizer.commands.slots import slots
from optimizer.commands.solve import solve
from optimizer.commands.stats import stats
from optimizer.commands.sweep import sweep
from optimizer.commands.traces import convert, synth
from optimizer.commands.validate import validate
from optimizer.commands.verbosity import LOGGER, spoken
from optimizer.commands.watch import watch
from optimizer.errors import InputError, LostWorkerError, OutOfTimeError


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    LOGGER.warning("%s", message)


class Moeplan(click.Group):
    """The group of commands, which turns whatever ends a command early into one line and an exit code."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command; what it logs goes to stderr, and warnings too, without the line of code that gave them."""
        with spoken(), warnings.catch_warnings():
            warnings.showwarning = _warn
            return super().main(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. Its time limit counts from here, and Ctrl-C asks its token."""
        try:
            with begun() as ctx.obj:
                return super().invoke(ctx)
        except InputError as error:
            raise BadInput(" ".join(str(error).split())) from None
        except OutOfTimeError as error:
            raise FailedRun(f"the run failed: {error} (--time-limit)") from None
        except LostWorkerError as error:
            raise FailedRun(f"the run failed: {error}; finished layers are kept where --work is given") from None
        except (OSError, MemoryError) as error:
            raise FailedRun(f"the run failed: {error or type(error).__name__}") from None


@click.group(cls=Moeplan, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="moeplan")
def main() -> None:
    """Place the experts of a Mixture-of-Experts model on a device mesh, from recorded routing traces.

    TRACES are files, folders (searched recursively) or globs of .npz requests, of servers' responses and routing logs,
    or of counts; a file's content tells its format. Without TRACES a small built-in trace is generated. Exit code 0 is
    fine, 1 a failed run, 2 bad usage or bad input.
    """


COMMANDS = (
    *(solve, advise, rebalance, watch, compare, simulate, report, sweep, bound, stats, slots),
    *(convert, synth, export, import_, validate, presets, calibrate, benchmark, experiment),
)
for command in COMMANDS:
    main.add_command(command)


if __name__ == "__main__":
    main()
