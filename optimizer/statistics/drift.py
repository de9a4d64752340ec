"""Drift: how far the experts' shares of the load differ between data sets, between prompts and outputs, and between
the beginning and the end of what was recorded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.model import Model
from optimizer.statistics.summary import CorpusSummary
from optimizer.traces.batches import Batches
from optimizer.traces.trace import OUTPUT, PROMPT


def total_variation(one: Ints | Floats, other: Ints | Floats) -> Floats:
    """Total variation distance of the shares of two vectors of counts, `[...]` for `[..., expert]`, broadcast.

    This is half the sum over experts of the differences of their shares: 0 for equal shares, 1 if no expert is in both,
    nan if either vector has no counts. Two samples of n independent choices from one source differ too, by about
    sqrt(experts / (pi n)) on average if all experts are equally popular.
    """
    with np.errstate(invalid="ignore"):
        gap = one / one.sum(axis=-1, keepdims=True) - other / other.sum(axis=-1, keepdims=True)
    distance: Floats = np.abs(gap).sum(axis=-1) / 2
    return distance


def drift_matrix(counts: Ints) -> Floats:
    """Total variation between every two data sets, `[dataset, dataset, ...]` for counts `[dataset, ..., expert]`."""
    return total_variation(counts[:, None], counts[None])


def dataset_drift(summary: CorpusSummary) -> Floats:
    """Total variation between every two data sets, prompts and outputs together, `[dataset, dataset, layer]`."""
    return drift_matrix(summary.counts.sum(axis=1))


def phase_drift(summary: CorpusSummary) -> Floats:
    """Total variation between prompts and outputs in each layer, `[layer]`; nan if either is missing."""
    counts = summary.counts.sum(axis=0)
    return total_variation(counts[PROMPT], counts[OUTPUT])


DAY_PARTS = 5
"""The parts that a day is divided into: what lies in between; the first tenth, every other request of it and the rest;
and the last tenth likewise."""


def parts_of_day(count: int) -> Ints:
    """Which of the `DAY_PARTS` each of so many requests, or batches, in the order of time belongs to, `[request]`.

    A tenth has at least two requests; where there are fewer than four, none belongs to an end.
    """
    part = np.zeros(count, dtype=np.int64)
    size = max(2, count // 10)
    if count >= 2 * size:
        part[:size] = 1 + np.arange(size) % 2
        part[-size:] = 3 + np.arange(size) % 2
    return part


def drift_over_time(counts: Ints) -> Floats:
    """How far loads drift, `[..., 2]`, for counts `[..., part, expert]` of the `DAY_PARTS`.

    First the total variation between the first and the last tenth, then how much of it comes by chance: between every
    other request of both tenths and the rest of them, which are as many at all times of the day. nan if either is not
    known.
    """
    first, other_first, last, other_last = np.moveaxis(counts[..., 1:, :], -2, 0)
    drift = total_variation(first + other_first, last + other_last)
    chance = total_variation(first + last, other_first + other_last)
    return np.stack([drift, chance], axis=-1)


def drift_of_steps(load: Ints) -> Floats:
    """`drift_over_time` of the loads of batches in the order of time, `[2]` for load `[batch, expert]`."""
    counts = np.zeros((DAY_PARTS, load.shape[1]), dtype=np.int64)
    np.add.at(counts, parts_of_day(len(load)), load)
    return drift_over_time(counts)


@dataclass(frozen=True, eq=False)
class Drift:
    """How far apart the routed experts' shares are, as total variation from 0 (equal) to 1 (no expert in common).

    between `[data set, data set, layer]`: between the train batches of two data sets. within `[data set, layer]`:
    between train and test batches of one data set. Train and test batches are of different requests, so this is how
    much difference comes by chance.
    """

    names: tuple[str, ...]
    layers: tuple[int, ...]
    between: Floats
    within: Floats

    @classmethod
    def of(cls, names: Sequence[str], layers: Sequence[int], train: Ints, test: Ints) -> "Drift":
        """The drift between data sets; train and test `[data set, layer, expert]` pairs, as of `routed_counts`."""
        return cls(tuple(names), tuple(layers), drift_matrix(train), total_variation(train, test))

    def summary(self) -> dict[str, Any]:
        """The stable JSON form: the means over layers, and the values of each layer."""
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
    """Token-expert pairs of each routed expert, summed over batches, `[expert]` int64."""
    counts: Ints = batches.load(model.experts)[:, : model.routed_experts].sum(axis=0, dtype=np.int64)
    return counts
