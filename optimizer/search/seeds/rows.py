"""A placement by exact models: rows near the tokens, then columns that keep apart what tokens choose together.

The way is the one from a co-activation graph to devices. Replicas are handed out as the greedy seed does. An integer
program chooses the mesh rows of every expert's replicas, so that tokens make few hops and no row is too full
(`rows.row_assignment`). Then each replica gets a column of its row, so that experts which tokens choose together, the
heavy edges of the co-activation graph, are in different columns (`rows.column_assignment`). A row and a column make a
device. How replicas share the devices of a row is left to `search.row_filling`, which begins here.
"""

from dataclasses import dataclass, replace
from functools import partial
from math import comb

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.background import unless_cancelled
from formulations.kit.outcome import Outcome, SolveStatus
from formulations.kit.solver import Limits
from formulations.rows.column_assignment import Columns, assign_columns
from formulations.rows.row_assignment import Rows, assign_rows
from optimizer.domain.mesh import Mesh
from optimizer.domain.placement import EMPTY, Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.greedy import greedy, greedy_counts
from optimizer.statistics.coactivation import pair_counts
from optimizer.traces.batches import Batches

ROW_LOADS = (1.02, 1.1, 1.3, np.inf)
"""Limits to the load of a row, as multiples of the mean row's, that are tried in turn until one can be kept. Not tuned:
the first leaves a solver some room, the last is no limit."""

ROW_SHARE = 0.75  # of the time is for rows; with 16 rows they take some three times as long as columns

MOST_SETS = 200_000
"""Sets of rows, of all experts together, for which the integer program is made. DeepSeek-V3 on 16 x 8 devices has some
25,000; each takes a variable and some kB while the model is made."""


@dataclass(frozen=True, eq=False)
class AssignedRows:
    """The placement, and how its rows and columns were found; rows: None where greedy's rows had to stand in; columns:
    None where there was no time for them either, so that the placement is greedy's."""

    placement: Placement
    rows: Outcome[Ints] | None
    columns: Outcome[Ints] | None

    def in_words(self) -> str:
        """How rows and columns were found, in a sentence."""
        if self.columns is None:
            return "the placement is greedy's, as there was no time for the assignment of rows and columns"
        rows = "rows are greedy's, as there was no time for the assignment of rows"
        if self.rows is not None:
            rows = f"rows {self.rows.status}, their hops within {self.rows.gap:.2%} of the bound"
        if self.columns.value is None:
            return f"{rows}; columns are dealt out in turn, as there was no time for their assignment"
        return f"{rows}; columns {self.columns.status}, within {self.columns.gap:.2%} of the bound"


def rows(problem: Problem, train: Batches, limits: Limits) -> AssignedRows:
    """A placement of rows and columns by exact models; it is legal whatever time there is.

    Where rows cannot be assigned within the limits, they are those of the greedy placement.
    """
    clock, case = limits.clock(), row_case(problem, train, greedy_counts(problem))
    found = _rows(case, replace(limits, seconds=ROW_SHARE * limits.seconds))
    if clock.over() and (found is None or found.value is None):
        return AssignedRows(greedy(problem), None, None)
    if found is None or found.value is None:
        found, held = None, _held(greedy(problem), problem)
    else:
        held = found.value
    columns = column_case(problem, train, held)
    dealt = _dealt(columns)
    outcome = assign_columns(columns, dealt, replace(limits, seconds=clock.left()))
    column = dealt if outcome.value is None else outcome.value
    return AssignedRows(_placement(columns, column, problem.mesh), found, outcome)


def row_case(problem: Problem, train: Batches, counts: Ints) -> Rows:
    """The instance of the row assignment for these counts `[expert]`, without a limit to the load of a row."""
    mesh, network, experts = problem.mesh, problem.network, problem.model.experts
    pair = train.source_row[:, :, None].astype(np.int64) * experts + train.experts
    demand: Floats = np.bincount(pair.ravel(), minlength=mesh.rows * experts) / train.count
    first = np.unique(network.home_row, return_index=True)[1]  # a source in each row
    hops = network.distance[first].reshape(mesh.rows, mesh.rows, mesh.cols).min(axis=2)
    return Rows(demand.reshape(mesh.rows, experts), counts, mesh.cols * mesh.slots_per_device, hops)


def _rows(case: Rows, limits: Limits) -> Outcome[Ints] | None:
    """Rows with the least limit of `ROW_LOADS` that they can keep; None for too many sets, or without time to begin.

    Where time ends before a limit is found to be kept or not, there is no use in trying the next.
    """
    rows = len(case.hops)
    sets = sum(comb(rows, int(count) % rows) for count in case.count)
    if sets > MOST_SETS:
        return None
    clock, mean = limits.clock(), float(case.demand.sum()) / rows
    for most in ROW_LOADS:
        if clock.over():
            return None
        limited = replace(case, most_load=most * mean)
        found = unless_cancelled(partial(assign_rows, limited, replace(limits, seconds=clock.left())), limits)
        if found is None or found.status is not SolveStatus.INFEASIBLE:
            return found
    return None


def column_case(problem: Problem, train: Batches, held: Ints) -> Columns:
    """The instance of the column assignment for replicas in these rows, held `[expert, row]`."""
    expert, row = np.nonzero(held)
    number = held[expert, row]
    together = pair_counts(train.experts, problem.model.experts)
    mesh = problem.mesh
    return Columns(np.repeat(expert, number), np.repeat(row, number), together, mesh.cols, mesh.slots_per_device)


def _held(placement: Placement, problem: Problem) -> Ints:
    """How many replicas each expert has in each row of a placement, `[expert, row]`."""
    rows, experts = problem.mesh.rows, problem.model.experts
    by_row = placement.slots.reshape(rows, -1)
    return np.stack([np.bincount(row[row != EMPTY], minlength=experts) for row in by_row], axis=1)


def _dealt(case: Columns) -> Ints:
    """Legal columns `[replica]`: the replicas of a row are dealt out in turn, those of one expert one after another.

    An expert has no more replicas in a row than the row has columns, so none of them meet.
    """
    column = np.empty(len(case.row), dtype=np.int64)
    for row in np.unique(case.row):
        here = np.flatnonzero(case.row == row)
        ordered = here[np.argsort(case.expert[here], kind="stable")]
        column[ordered] = np.arange(len(here)) % case.columns
    return column


def _placement(case: Columns, column: Ints, mesh: Mesh) -> Placement:
    """The placement of replicas in these columns `[replica]`."""
    slots = np.full((mesh.devices, mesh.slots_per_device), EMPTY, dtype=np.int32)
    used = np.zeros(mesh.devices, dtype=np.int64)
    for device, expert in zip((case.row * mesh.cols + column).tolist(), case.expert.tolist(), strict=True):
        slots[device, used[device]] = expert
        used[device] += 1
    return Placement(slots)
