"""What formulations say to searches: that a placement cannot be bettered, and how its rows can be filled better."""

from formulations.bounds.load import any_placement_bound
from formulations.kit.arrays import Ints
from formulations.kit.solver import Limits
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.planning.options import Effort
from optimizer.search.moves import MoveRules
from optimizer.search.row_filling import FilledRows, fill_rows
from optimizer.search.split_state import exact_peaks
from optimizer.streams import Purpose, derived_seed

LEAST_SECONDS = 1.0  # for filling rows; in less even small rows do not get to the end of a descent


def is_proven(problem: Problem, placement: Placement, units: Ints) -> bool:
    """Whether no placement has lower peaks in any train batch, as those of this one meet a bound for all placements.

    units `[batch, expert]`: the loads in tokens or tiles, each batch split at best.
    """
    bound = any_placement_bound(units, problem.mesh.devices, problem.mesh.slots)
    return bool((exact_peaks(placement, units) <= bound).all())


def polished(problem: Problem, start: Placement, units: Ints, effort: Effort, until: float) -> FilledRows | None:
    """The placement with its rows filled anew by their formulation until the clock reads `until` seconds.

    None where that leaves no time, and where moves are counted, as there the clock is to decide nothing.
    """
    seconds = until - effort.deadline.elapsed()
    if effort.iterations is not None or seconds < LEAST_SECONDS or effort.cancel.asked:
        return None
    seed = derived_seed(Purpose.ROW_ASSIGNMENT, effort.seed, 1)
    limits = Limits(seconds, workers=effort.jobs, seed=seed, cancelled=lambda: effort.cancel.asked)
    return fill_rows(start, units, MoveRules.of(problem), limits)
