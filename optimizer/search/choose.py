"""Choosing among candidates on batches that none of them was planned on."""

import numpy as np

from formulations.arrays import Floats
from optimizer.simulated import SimulationReport

WORST = 0.03
LATENCIES = 4


def figures(report: SimulationReport) -> Floats:
    """What a plan is judged by: mean, p50, p99 and mean of the worst 3 % of latency (us) and of imbalance, `[8]`.

    Latency climbs in steps of a tile, and p99 tells nothing of how near the next step is; the worst 3 % do.
    """
    found: list[float] = []
    for values in (report.latency_us, report.imbalance):
        worst = np.sort(values)[-max(1, round(WORST * len(values))) :]
        found += [values.mean(), *np.percentile(values, [50, 99]), worst.mean()]
    return np.array(found)


def choose(candidates: list[Floats], baseline: int, balanced: bool) -> int:
    """Index of the candidate with the least latency, of those that are worse than the baseline in no figure.

    candidates: `figures` of each; least is the mean ratio of the four latencies to the baseline's. Where loads are not
    to be `balanced` in tokens, as full tiles are better than even ones, imbalance is no reason against a candidate. The
    baseline is a candidate itself, so there is always one.
    """
    ratios = [figure / candidates[baseline] for figure in candidates]
    counted = len(candidates[baseline]) if balanced else LATENCIES
    no_worse = [index for index, ratio in enumerate(ratios) if (ratio[:counted] <= 1).all()]
    return min(no_worse, key=lambda index: float(ratios[index][:LATENCIES].mean()))
