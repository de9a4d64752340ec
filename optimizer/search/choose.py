"""Choosing among candidates on batches that none of them was planned on."""

from enum import StrEnum

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.simulation.report import SimulationReport

WORST = 0.03  # share of batches that are the worst ones; a compromise: fewer tell more of the tail, and more by chance
LATENCIES: Ints = np.arange(4)
IMBALANCES: Ints = np.arange(4, 8)
ALL: Ints = np.arange(8)
"""Which of `figures` are of latency, which of imbalance."""

WITHOUT_P99: Ints = np.array([0, 1, 3])
"""The figures of latency without p99, for choosing among policies, and for those that save hops and leave tiles as they
are. One batch in a hundred with a further tile lifts p99 by a quarter, and so many or few have it by chance: on the
built-in trace .7 to 1.4 % for candidates of which those with devices exchanged for the network win 3 % in all other
batches, and lost by p99 alone; and `near-source` so lost to `even-source`, which is 5 % slower."""

MEAN_LATENCY: Ints = np.array([0])
"""The figure of latency that depends least on chance. A tail of some tens of batches may differ by a tile either way
between two sets of requests, so that a plan which is better in all else must not fail by it alone."""


class SelectionGoal(StrEnum):
    """What decides between candidates: latency, as long as balance is not lost; both together, as long as mean latency
    is not lost; latency alone, where full tiles are better than even loads; or the balance of tokens."""

    LATENCY_AND_BALANCE = "latency and balance"
    BOTH = "both"
    LATENCY = "latency"
    BALANCE = "balance"


DECISIVE = {
    SelectionGoal.LATENCY_AND_BALANCE: LATENCIES,
    SelectionGoal.BOTH: ALL,
    SelectionGoal.LATENCY: WITHOUT_P99,
    SelectionGoal.BALANCE: IMBALANCES,
}
"""The figures whose mean ratio to the baseline's is to be least."""
GUARDED = {
    SelectionGoal.LATENCY_AND_BALANCE: ALL,
    SelectionGoal.BOTH: MEAN_LATENCY,
    SelectionGoal.LATENCY: MEAN_LATENCY,
    SelectionGoal.BALANCE: IMBALANCES,
}
"""The figures in which a candidate may not be worse than the baseline."""


def figures(report: SimulationReport) -> Floats:
    """What a plan is judged by: mean, p50, p99 and mean of the worst 3 % of latency (us) and of imbalance, `[8]`.

    Latency climbs in steps of a tile, and p99 tells nothing of how near the next step is; the worst 3 % do.
    """
    found: list[float] = []
    for values in (report.latency_us, report.imbalance):
        worst = np.sort(values)[-max(1, round(WORST * len(values))) :]
        found += [values.mean(), *np.percentile(values, [50, 99]), worst.mean()]
    return np.array(found)


def choose(candidates: list[Floats], baseline: int, goal: SelectionGoal) -> int:
    """Index of the best candidate by the goal among those that are no worse than the baseline in what the goal guards.

    candidates: `figures` of each. The best has the least mean ratio of the deciding figures to the baseline's. The
    baseline is a candidate itself, so there is always one.
    """
    return nearly_best(candidates, baseline, goal, 0.0)[0]


def nearly_best(candidates: list[Floats], baseline: int, goal: SelectionGoal, within: float) -> list[int]:
    """Indices of the candidates whose mean ratio exceeds that of the best by `within` of it at most, the best first;
    otherwise as of `choose`."""
    ratios = [figure / candidates[baseline] for figure in candidates]
    no_worse = [index for index, ratio in enumerate(ratios) if (ratio[GUARDED[goal]] <= 1).all()]
    mean = {index: float(ratios[index][DECISIVE[goal]].mean()) for index in no_worse}
    least = min(mean.values())
    return sorted((index for index in no_worse if mean[index] <= least * (1 + within)), key=mean.__getitem__)
