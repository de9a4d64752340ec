"""The command `calibrate`, which fits a hardware preset to the user's own timings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import click

from optimizer.commands.declare import Argument, Option, command
from optimizer.commands.failures import BadInput
from optimizer.commands.options import JsonOptions
from optimizer.commands.output import say, show, show_json


@dataclass(frozen=True)
class CalibrateOptions:
    """The timings, the preset to begin with, and the files to write."""

    SECTION: ClassVar[str] = "What to fit"
    measurements: Annotated[Path | None, Argument("[MEASUREMENTS.csv]")] = None
    like: Annotated[
        str,
        Option(
            ("--like",),
            "The hardware preset, or a TOML file like one, that says which constants there are, and gives what was "
            "not measured.",
            essential=True,
        ),
    ] = "tt-wormhole-quad-galaxy"
    model: Annotated[
        str | None,
        Option(
            ("--model",),
            "The model whose experts were timed, a preset or its config.json; by default the one that --like is of.",
            essential=True,
        ),
    ] = None
    output: Annotated[
        Path,
        Option(("-o", "--output"), "The preset to write, which --hardware takes.", metavar="FILE.toml", essential=True),
    ] = Path("calibrated.toml")
    sheet: Annotated[
        Path | None,
        Option(
            ("--sheet",),
            "Write the sheet to fill in, with the measurements that --like's constants need, and end.",
            metavar="FILE.csv",
            essential=True,
        ),
    ] = None


@command(example="moeplan calibrate measurements.csv --like h100 -o mine.toml")
def calibrate(what: CalibrateOptions, figures: JsonOptions) -> None:
    """Fit a hardware preset to your own timings, by least squares, and write it as a TOML file.

    MEASUREMENTS.csv is the sheet that --sheet writes with times filled in; rows without a time are left out. It says
    which constants the timings do not tell apart, and what to measure to tell them; these stay as near to --like as the
    timings allow.
    """
    if (what.measurements is None) == (what.sheet is None):
        raise BadInput("give either MEASUREMENTS.csv, or --sheet FILE.csv to get the sheet to fill in")
    if what.measurements is None:
        assert what.sheet is not None
        _write_sheet(what.sheet, what)
    else:
        _fit(what.measurements, what, figures.as_json)


def _write_sheet(path: Path, what: CalibrateOptions) -> None:
    """Write the sheet for the hardware of the preset, and say what to do with it."""
    from optimizer.domain.calibration.sheet import sheet_text
    from optimizer.domain.presets import load_hardware
    from optimizer.files import check_writable, write_whole

    if path.is_file():
        raise BadInput(f"--sheet: {path} is there already, perhaps with times; name a new file")
    check_writable(path, "sheet")
    write_whole(path, sheet_text(load_hardware(what.like)))
    model = "" if what.model is None else f" --model {what.model}"
    click.echo(f"Written: {path}. Fill in its column us, in microseconds.")
    click.echo(f"Then: moeplan calibrate {path} --like {what.like}{model}")


def _fit(path: Path, what: CalibrateOptions, as_json: bool) -> None:
    """Fit the preset, write it, and print what was found."""
    from optimizer.domain.calibration.calibrate import calibrate as fitted_preset
    from optimizer.domain.calibration.preset_file import preset_text
    from optimizer.files import check_writable, write_whole
    from optimizer.report.calibration import as_json as figures_of
    from optimizer.report.calibration import parts

    if what.output.suffix != ".toml":  # by its name --hardware tells a file from a preset
        raise BadInput(f"--output: {what.output} does not end in .toml, by which --hardware knows a file")
    check_writable(what.output, "output")
    found = fitted_preset(path, what.like, what.model)
    write_whole(what.output, preset_text(found.preset))
    if found.blank:
        say([f"{found.blank} row(s) of {path} have no time in column us and were left out"])
    if as_json:
        show_json(figures_of(found))
        return
    show([*parts(found), f"Written: {what.output}, which --hardware takes."])
