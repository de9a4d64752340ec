"""How far the experts' shares differ between data sets, and between prompts and outputs."""

import numpy as np

from formulations.arrays import Floats, Ints
from optimizer.traces.summary import CorpusSummary
from optimizer.traces.trace import OUTPUT, PROMPT


def total_variation(one: Ints, other: Ints) -> Floats:
    """Half the summed difference of two count vectors' shares, `[...]` for `[..., expert]`, broadcast.

    0 for equal shares, 1 where no expert is common, nan where either has no counts. Two samples of n independent
    choices each from one source differ too, by sqrt(experts / (pi n)) on average if the experts are equally popular.
    """
    with np.errstate(invalid="ignore"):
        gap = one / one.sum(axis=-1, keepdims=True) - other / other.sum(axis=-1, keepdims=True)
    distance: Floats = np.abs(gap).sum(axis=-1) / 2
    return distance


def drift_matrix(counts: Ints) -> Floats:
    """Total variation between any two data sets, `[dataset, dataset, ...]` for counts `[dataset, ..., expert]`."""
    return total_variation(counts[:, None], counts[None])


def dataset_drift(summary: CorpusSummary) -> Floats:
    """Total variation between data sets in each layer, both phases together, `[dataset, dataset, layer]`."""
    return drift_matrix(summary.counts.sum(axis=1))


def phase_drift(summary: CorpusSummary) -> Floats:
    """Total variation between prompts and outputs in each layer, `[layer]`; nan where there are not both."""
    counts = summary.counts.sum(axis=0)
    return total_variation(counts[PROMPT], counts[OUTPUT])
