"""The seeds that look at tokens, and so need train batches: by partition, and by row and column assignment."""

import time
from collections.abc import Collection, Iterator

from formulations.kit.solver import Limits
from optimizer.domain.problem import Problem
from optimizer.planning.candidates import Candidate, seeds_and_formulation
from optimizer.planning.options import BY_TOKENS, Effort, Progress, SolveOptions
from optimizer.planning.portfolio_shares import PortfolioShares
from optimizer.search.moves import MoveRules
from optimizer.search.row_filling import fill_rows
from optimizer.search.seeds.partition import partition
from optimizer.search.seeds.rows import rows
from optimizer.streams import Purpose, derived_seed
from optimizer.traces.batches import Batches

PARTITION, ROWS = BY_TOKENS

ASSIGNING = 0.6  # the share of the seed's time that rows and columns may take; the rest is for the devices of each row


def all_seeds(
    problem: Problem, train: Batches, options: SolveOptions, effort: Effort, progress: Progress
) -> Iterator[Candidate]:
    """The candidates of `seeds_and_formulation`, of the seeds that the options name, or of the usual ones."""
    wanted = options.seeds
    more = token_seeds(problem, train, wanted or (), effort, options.shares, progress)
    return seeds_and_formulation(problem, effort, progress, options.shares, wanted, more)


def token_seeds(
    problem: Problem,
    train: Batches,
    wanted: Collection[str],
    effort: Effort,
    shares: PortfolioShares,
    progress: Progress,
) -> Iterator[Candidate]:
    """The wanted ones of both. There is none by partition where Mt-KaHyPar is not installed, or a mesh has too many
    rows for the experts; the seed by rows gives up its rows, and says so, where it has no time for them."""
    if PARTITION in wanted:
        started = time.monotonic()
        found = partition(problem, train, derived_seed(Purpose.PARTITION, effort.seed))
        if found is not None:
            yield Candidate(PARTITION, found, time.monotonic() - started)
    if ROWS in wanted:
        progress(ROWS, 0.0)
        yield by_rows(problem, train, effort, shares.rows * effort.deadline.remaining())


def by_rows(problem: Problem, train: Batches, effort: Effort, seconds: float) -> Candidate:
    """Experts to rows, replicas to columns and then to devices, each by its formulation, within this time.

    Where replicas of shared experts are spread over rows, they stay in the rows that they get.
    """
    started, seed = time.monotonic(), derived_seed(Purpose.ROW_ASSIGNMENT, effort.seed)
    limits = Limits(ASSIGNING * seconds, workers=effort.jobs, seed=seed, cancelled=lambda: effort.cancel.asked)
    assigned = rows(problem, train, limits)
    left = Limits(started + seconds - time.monotonic(), seed=seed, cancelled=limits.cancelled)
    filled = fill_rows(assigned.placement, problem.load, MoveRules.of(problem), left)
    says = f"{assigned.in_words()}; {filled.in_words()}"
    return Candidate(ROWS, filled.placement, time.monotonic() - started, says=says)
