"""How far the experts' shares differ between data sets, and between prompts and outputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.model import Model
from optimizer.statistics.summary import CorpusSummary
from optimizer.traces.batches import Batches
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


@dataclass(frozen=True, eq=False)
class Drift:
    """How far apart the routed experts' shares are, as total variation (0 alike, 1 nothing in common).

    between `[data set, data set, layer]` of train batches; within `[data set, layer]` of a data set's train and test
    batches, which are of different requests: as much comes by chance.
    """

    names: tuple[str, ...]
    layers: tuple[int, ...]
    between: Floats
    within: Floats

    @classmethod
    def of(cls, names: Sequence[str], layers: Sequence[int], train: Ints, test: Ints) -> "Drift":
        """From counts `[data set, layer, expert]`, as of `routed_counts`."""
        return cls(tuple(names), tuple(layers), drift_matrix(train), total_variation(train, test))

    def summary(self) -> dict[str, Any]:
        """The stable JSON form: means over layers, and the layers' own."""
        return {
            "datasets": list(self.names),
            "between": self.between.mean(axis=2).tolist(),
            "within": self.within.mean(axis=1).tolist(),
            "layers": {
                str(layer): {"between": self.between[:, :, place].tolist(), "within": self.within[:, place].tolist()}
                for place, layer in enumerate(self.layers)
            },
        }


def routed_counts(batches: Batches, model: Model) -> Ints:
    """Pairs of each routed expert over all batches, `[expert]`."""
    counts: Ints = batches.load(model.experts)[:, : model.routed_experts].sum(axis=0, dtype=np.int64)
    return counts
