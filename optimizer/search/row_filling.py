"""The placement inside each mesh row by the formulation of rows, one row after the other, with all others as they are.

The search gives, the formulation answers: the replicas that are in a row are its hint, and how batches are split at
present is what stays outside. The formulation (`rows.row_placement`) gives a better row, or a bound which says that
there is next to none. A row is kept where the objective over the exact least peaks of all batches gets better.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.background import unless_cancelled
from formulations.kit.outcome import PROVEN, Outcome
from formulations.kit.solver import Limits
from formulations.rows.row_placement import place_row
from optimizer.domain.placement import Placement
from optimizer.search.freeing import Freed
from optimizer.search.moves import MoveRules
from optimizer.search.neighbourhood import fine_peaks, flow_of, objective

SAMPLE = 64  # batches that the formulation of a row looks at; with 24 slots its relaxation then takes a second


@dataclass(frozen=True, eq=False)
class FilledRows:
    """A placement, the rows that were filled to get there, and how many of them no filling of that row alone betters.

    gaps `[row that was looked at]`: how far its peaks were from the bound that the formulation proved.
    """

    placement: Placement
    changed: int
    gaps: tuple[float, ...]

    @property
    def proven(self) -> int:
        """How many of the rows were proven to be best with the others as they were."""
        return sum(gap <= PROVEN for gap in self.gaps)

    def in_words(self) -> str:
        """What was done, in a sentence."""
        if not self.gaps:
            return "there was no time for the placement inside rows"
        mean = float(np.mean(self.gaps))
        return f"{self.changed} of {len(self.gaps)} rows filled anew, peaks within {mean:.2%} of the bound on average"


def fill_rows(
    start: Placement,
    units: Ints,
    rules: MoveRules,
    limits: Limits,
    progress: Callable[[float], None] = lambda share: None,
) -> FilledRows:
    """Fill the rows of a placement, those with the fullest devices first, each once.

    units `[batch, expert]`: load in tokens or tiles. Each row gets an equal part of the time that is left. What is
    returned has no worse objective than the start.
    """
    clock, best, gaps, changed = limits.clock(), start, list[float](), 0
    least = objective(fine_peaks(best, units))
    sample = units[np.linspace(0, len(units) - 1, min(SAMPLE, len(units))).astype(np.int64)]
    order = _fullest_first(flow_of(start, sample), rules.cols)
    for place, row in enumerate(order):
        devices = np.arange(row * rules.cols, (row + 1) * rules.cols)
        freed = Freed.of(best, devices, rules.spread, sample, flow_of(best, sample))
        found = _filling(freed, replace(limits, seconds=clock.left() / (len(order) - place)))
        if found is None:
            break
        gaps.append(found.gap)
        filled = _better(freed, found, best, units, rules, least)
        if filled is not None:
            best, least, changed = filled, objective(fine_peaks(filled, units)), changed + 1
        progress((place + 1) / len(order))
    return FilledRows(best, changed, tuple(gaps))


def _filling(freed: Freed, limits: Limits) -> Outcome[Ints] | None:
    """The formulation's answer for the freed devices; None without time, or where the end was asked for."""
    if limits.seconds <= 0 or limits.cancelled():
        return None
    return unless_cancelled(lambda: place_row(freed.row, freed.slots, limits), limits)


def _better(
    freed: Freed, found: Outcome[Ints], best: Placement, units: Ints, rules: MoveRules, least: float
) -> Placement | None:
    """The placement with the row filled, if it is legal and has an objective below `least`."""
    if found.value is None or not freed.is_legal(found.value):
        return None
    filled = freed.filled(best, found.value)
    if int((filled.slots >= 0).sum()) > rules.most or objective(fine_peaks(filled, units)) >= least:
        return None
    return filled


def _fullest_first(flow: Floats, cols: int) -> list[int]:
    """The mesh rows by the mean load of their fullest device, falling; flow `[batch, device, slot]`."""
    load = flow.sum(axis=2).reshape(len(flow), -1, cols)
    order: list[int] = np.argsort(-load.max(axis=2).mean(axis=0), kind="stable").tolist()
    return order
