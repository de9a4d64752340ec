"""Choosing among candidates on batches that none of them was planned on."""

import numpy as np

from formulations.arrays import Floats
from optimizer.simulator import SimulationReport


def figures(report: SimulationReport) -> Floats:
    """What a plan is judged by: mean, p50 and p99 of latency (us) and of imbalance, `[6]`."""
    values = [report.latency_us, report.imbalance]
    return np.array([figure for value in values for figure in (value.mean(), *np.percentile(value, [50, 99]))])


def choose(candidates: list[Floats], baseline: int) -> int:
    """Index of the candidate with the best mean ratio to the baseline, of those that are worse than it in no figure.

    candidates: `figures` of each. The baseline is a candidate itself, so there is always one.
    """
    ratios = [figure / candidates[baseline] for figure in candidates]
    no_worse = [index for index, ratio in enumerate(ratios) if (ratio <= 1).all()]
    return min(no_worse, key=lambda index: float(ratios[index].mean()))
