"""The heuristics of the ladder that look at tokens, and not at loads alone, by family and name."""

from collections.abc import Callable

from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.planning.options import Effort
from optimizer.planning.token_seeds import ROWS, by_rows
from optimizer.traces.batches import Batches

TokenMethod = Callable[[Problem, Batches, Effort], Placement]


def by_assignment(problem: Problem, batches: Batches, effort: Effort) -> Placement:
    """Rows, columns and the devices of each row by their formulations, in all the time that there is."""
    return by_rows(problem, batches, effort, effort.deadline.remaining()).placement


TOKEN_METHODS: dict[str, dict[str, TokenMethod]] = {"batches": {ROWS: by_assignment}}
