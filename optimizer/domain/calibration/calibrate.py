"""A preset whose constants are fitted to a user's own timings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from formulations.kit.arrays import Floats
from optimizer.domain.calibration.least_squares import Fit, fit, helpful
from optimizer.domain.calibration.measurements import Measurement, read_measurements
from optimizer.domain.calibration.other_experts import preset_of_model, without_other_experts
from optimizer.domain.calibration.sheet import sheet_rows
from optimizer.domain.calibration.stages import Stage, choices_of, stages_of
from optimizer.domain.presets import load_hardware
from optimizer.domain.presets.schema import HardwarePreset
from optimizer.errors import InputError

DIGITS = 6  # of a figure that is written: more than any timing tells


@dataclass(frozen=True)
class FittedFigure:
    """A figure of a preset's section as timings tell it.

    before: the figure of the preset that was begun with; error: its standard error, None where it has none. told: yes;
    badly, where it hardly differs in its effect from others; not apart, where it does not differ at all; or unseen,
    where no timing has it. The last is as in the preset before, or as near to that as timings allow.
    """

    name: str
    value: float
    error: float | None
    before: float
    told: str


@dataclass(frozen=True, eq=False)
class SectionFit:
    """One section of a preset fitted to timings.

    rows: the timings; modelled_us `[row]`: what the section says of them. advice: measurements to add, in words, which
    would tell figures that are not told.
    """

    stage: str
    section: str
    figures: tuple[FittedFigure, ...]
    rows: tuple[Measurement, ...]
    modelled_us: Floats
    advice: tuple[str, ...]

    @property
    def rmse_us(self) -> float:
        """The root of the mean square residual."""
        return round(float(np.sqrt(np.mean((self.modelled_us - self._measured()) ** 2))), 6)  # less is rounding

    @property
    def worst(self) -> int:
        """The index of the row with the largest residual."""
        return int(np.abs(self.modelled_us - self._measured()).argmax())

    @property
    def mean_us(self) -> float:
        """The mean of the timings."""
        return float(self._measured().mean())

    def named(self, told: str) -> list[str]:
        """The names of the figures that are told so well."""
        return [figure.name for figure in self.figures if figure.told == told]

    def _measured(self) -> Floats:
        return np.array([row.us for row in self.rows])


@dataclass(frozen=True, eq=False)
class Calibration:
    """What timings make of a preset.

    file: where the timings are; like: the preset that was begun with; fits: the sections with timings; kept: those that
    could have had some; blank: rows without a time.
    """

    file: str
    like: str
    preset: HardwarePreset
    fits: tuple[SectionFit, ...]
    kept: tuple[str, ...]
    blank: int


def calibrate(path: Path, like: str, model: str | None = None) -> Calibration:
    """Fit a preset to the timings of a CSV file.

    path: the file; like: a preset, or a TOML file like one, which gives what was not measured; model: whose experts
    were timed, None for those that the preset's figures are of. Raises InputError for a file, preset or model that
    cannot be used, and for timings that fit no preset, such as those that fall with the load.
    """
    preset = load_hardware(like) if model is None else preset_of_model(load_hardware(like), like, model)
    stages = stages_of(preset)
    rows, blank = read_measurements(path, choices_of(stages))
    fits, kept, sections = [], [], {}
    for stage in stages:
        own = [row for row in rows if stage.takes(row)]
        if own:
            fits.append(fit_section(stage, own, preset))
            sections[stage.section] = _section(fits[-1], preset, path.name, like)
        else:
            kept.append(stage.section)
    if model is not None:
        preset, kept = without_other_experts(preset, like, kept)
    return Calibration(str(path), like, _with(preset, sections), tuple(fits), tuple(kept), blank)


def fit_section(stage: Stage, rows: Sequence[Measurement], preset: HardwarePreset) -> SectionFit:
    """The section that fits these rows best, which are all of its stage.

    Prices of routing stand for themselves: one that was not measured stays, and is no figure of the fit. Raises
    InputError for a figure that would be infinite.
    """
    design, start = stage.design(rows), np.array([figure.turned(figure.start) for figure in stage.figures])
    found = fit(design, np.array([row.us for row in rows]), start)
    unasked = found.unseen if stage.section == "routing" else np.zeros(len(start), dtype=bool)
    figures = tuple(_figure(stage, place, found) for place in range(len(start)) if not unasked[place])
    modelled, advice = design.times(found.constants), _advice(stage, found, _filled(preset, stage.section, figures))
    return SectionFit(stage.stage, stage.section, figures, tuple(rows), modelled, advice)


def _filled(preset: HardwarePreset, section: str, figures: Sequence[FittedFigure]) -> HardwarePreset:
    """The preset with these figures in a section that it has, unchecked."""
    old = getattr(preset, section)
    values = {figure.name: figure.value for figure in figures}
    return preset if old is None else preset.model_copy(update={section: old.model_copy(update=values)})


def _figure(stage: Stage, place: int, found: Fit) -> FittedFigure:
    """One figure of a fit."""
    figure, constant, error = stage.figures[place], float(found.constants[place]), float(found.errors[place])
    if figure.per is not None and constant <= 0:
        raise InputError(
            f"no {stage.section}.{figure.name} fits: times of {stage.stage} do not grow with what it is the speed of; "
            "check the counts and times of these rows"
        )
    told = "unseen" if found.unseen[place] else "not apart" if found.blind[place] else "yes"
    told = "badly" if found.weak[place] else told
    deviation = None if np.isnan(error) else figure.error(constant, error)
    return FittedFigure(figure.name, figure.turned(constant), deviation, figure.start, told)


def _advice(stage: Stage, found: Fit, preset: HardwarePreset) -> tuple[str, ...]:
    """The rows of the fitted preset's sheet that would tell what is not told, in words; none of routing, see
    `fit_section`."""
    possible = [row for row, _ in sheet_rows(preset) if stage.takes(row)]
    if stage.section == "routing":
        return ()
    design = stage.design(possible)
    chosen = helpful(design.columns(found.ratio), found)
    if not chosen and found.rival is not None:
        chosen = [int(np.abs(design.times(found.constants) - design.times(found.rival)).argmax())]
    return tuple(possible[index].words() for index in chosen)


def _section(found: SectionFit, preset: HardwarePreset, file: str, like: str) -> dict[str, Any]:
    """The figures of a section with their source."""
    old = getattr(preset, found.section)
    fitted = {each.name: float(f"{each.value:.{DIGITS}g}") for each in found.figures}
    before = {} if old is None else old.model_dump(exclude_none=True)
    said = [f"fitted to {len(found.rows)} measurements of {file}, RMSE {found.rmse_us:.3g} us: {_stated(found)}"]
    untold = [*found.named("not apart"), *found.named("unseen")]
    said += [f"not told by them, and so as near to {like} as they allow: {', '.join(untold)}"] if untold else []
    said += [f"other figures as in {like}: {before['source']}"] if before.keys() - fitted.keys() - {"source"} else []
    source = "; ".join(said).encode("utf-8", "replace").decode()  # a file's name may hold what is no text
    return before | fitted | {"source": source}


def _stated(found: SectionFit) -> str:
    """The fitted constants of a section with their standard errors, as one line of text for a preset's source."""
    return ", ".join(
        f"{each.name} {each.value:.{DIGITS}g}" + ("" if each.error is None else f" (standard error {each.error:.2g})")
        for each in found.figures
    )


def _with(preset: HardwarePreset, sections: dict[str, Any]) -> HardwarePreset:
    """The preset with these sections. Raises InputError for a figure that no preset may have."""
    try:
        return HardwarePreset.model_validate(preset.model_dump(exclude_none=True) | sections)
    except ValidationError as error:
        first = error.errors()[0]
        section, *_, name = map(str, first["loc"])
        remedy = "check the counts and times of these rows"
        if name == "efficiency":
            remedy = "write the peak_tflops of your device into a TOML file, and begin with that"
        said = first["msg"].removeprefix("Input ")
        raise InputError(f"{section}.{name} comes out as {first['input']:g} and {said}; {remedy}") from None
