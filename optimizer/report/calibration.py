"""What timings make of a preset: a verdict for each section, its constants, and residuals."""

from typing import Any

from rich.table import Table

from optimizer.domain.calibration.calibrate import Calibration, SectionFit
from optimizer.report.tables import Part, make_table

TOLD = {"yes": "yes", "badly": "badly", "not apart": "no", "unseen": "no"}
"""Whether a constant is told, as the table shows it."""


def parts(found: Calibration) -> list[Part]:
    """The verdict on each section and what to measure next, the constants, the residuals, and what was not measured."""
    verdicts = [sentence for each in found.fits for sentence in _verdict(each)]
    kept = [f"Not measured, and so as in {found.like}: {', '.join(found.kept)}."] if found.kept else []
    return [*verdicts, _constants(found), _residuals(found), *kept]


def as_json(found: Calibration) -> dict[str, Any]:
    """All figures in their stable JSON form; lines are those of the file of timings."""
    return {
        "file": found.file,
        "like": found.like,
        "sections": {each.section: _section_json(each) for each in found.fits},
        "kept": list(found.kept),
        "rows_without_time": found.blank,
        "preset": found.preset.model_dump(exclude_none=True),
    }


def _section_json(found: SectionFit) -> dict[str, Any]:
    figures = {
        each.name: {"value": each.value, "standard_error": each.error, "before": each.before, "told": each.told}
        for each in found.figures
    }
    rows = [
        {"line": row.line, "measured_us": row.us, "modelled_us": float(modelled)}
        for row, modelled in zip(found.rows, found.modelled_us, strict=True)
    ]
    return {
        "verdict": _verdict(found),
        "constants": figures,
        "rmse_us": found.rmse_us,
        "worst_line": found.rows[found.worst].line,
        "rows": rows,
        "to_measure": list(found.advice),
    }


def _verdict(found: SectionFit) -> list[str]:
    """Whether the constants of a section are told apart, how well they fit, and what to measure if they are not."""
    blind, unseen, weak = (found.named(told) for told in ("not apart", "unseen", "badly"))
    faults = (
        [f"{_listed(blind)} cannot be told apart: their effects are in the same proportion in all rows"]
        if blind
        else []
    )
    faults += [f"{_listed(unseen)} {'shows' if len(unseen) == 1 else 'show'} in no time"] if unseen else []
    hardly = "is hardly told" if len(weak) == 1 else "are hardly told apart"
    faults += [f"{_listed(weak)} {hardly}: quite other values fit about as well"] if weak else []
    told = f"{found.section}: {'; '.join(faults)}" if faults else f"All constants of {found.section} are told apart"
    share = found.rmse_us / found.mean_us if found.mean_us else 0.0
    close = f"RMSE {found.rmse_us:.3g} us ({share:.1%} of the mean) over {_rows(len(found.rows))}"
    spare = "" if len(found.rows) > len(found.figures) else ", too few to say how sure they are"
    said = [f"{told}; {close}{spare}."]
    if found.advice:
        said.append(f"To tell them better measure {', and '.join(found.advice)}.")
    return said


def _constants(found: Calibration) -> Table:
    table = make_table("Constants", "constant", ("fitted", "standard error", found.like, "told"))
    for each in found.fits:
        for figure in each.figures:
            error = "" if figure.error is None else f"{figure.error:.2g}"
            name = f"{each.section}.{figure.name}"
            table.add_row(name, f"{figure.value:.5g}", error, f"{figure.before:.5g}", TOLD[figure.told])
    return table


def _residuals(found: Calibration) -> Table:
    table = make_table("Residuals", "section", ("rows", "RMSE, us", "worst line", "measured, us", "fitted, us"))
    for each in found.fits:
        row, modelled = each.rows[each.worst], each.modelled_us[each.worst]
        error, times = f"{each.rmse_us:.3g}", (f"{row.us:.5g}", f"{modelled:.5g}")
        table.add_row(each.section, str(len(each.rows)), error, str(row.line), *times)
    return table


def _listed(names: list[str]) -> str:
    """Names with commas, and `and` before the last."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"
