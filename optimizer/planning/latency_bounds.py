"""The latency that no plan of a layer goes below: fixed times, compute, and what links carry at the least."""

from dataclasses import dataclass

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.planning.link_bounds import Links, SplitMessages

SLOWEST = 5
"""A bound on the p99 is looked for among one in so many batches, those with the longest compute. Any number is valid:
few slow batches have a longer compute, and more of them a better bound on links. Not tuned."""


@dataclass(frozen=True)
class Latency:
    """What mean, p50 and p99 over batches of a latency do not go below, in microseconds."""

    mean: float
    p50: float
    p99: float


@dataclass(frozen=True, eq=False)
class SomeBatches:
    """Batches by their numbers `[chosen]`, and `Links.together` of them."""

    number: Ints
    together: Ints


def least_latency(links: Links, rest_us: Floats, slowest: SomeBatches, split: SplitMessages) -> Latency:
    """What no latency goes below, without the price of routing.

    rest_us `[batch]`: what a batch takes at least besides what its links carry. slowest: the batches with the largest
    rest; split: of all batches. The mean holds for one placement of all batches. So does the p99, as not all of the
    slowest batches, nor all batches, can have less than their part of the bound.
    """
    alone, every = rest_us + links.per_batch_us, np.arange(len(rest_us))
    mean = max(float(alone.mean()), float(rest_us.mean()) + split.value / len(rest_us))
    p50, p99 = np.percentile(alone, [50, 99])
    of_every = _least_p99(links, rest_us, every, split.value)
    of_slowest = _least_p99(links, rest_us, slowest.number, links.least_together_us(slowest.together, split))
    return Latency(mean, float(p50), max(float(p99), of_every, of_slowest))


def slowest_batches(links: Links, rest_us: Floats) -> SomeBatches:
    """One in `SLOWEST` batches, those with the largest rest_us `[batch]`."""
    number = np.argsort(-rest_us, kind="stable")[: -(-len(rest_us) // SLOWEST)]
    return SomeBatches(number, links.together(number))


def _least_p99(links: Links, rest_us: Floats, chosen: Ints, total_us: float) -> float:
    """A lower bound on the p99 of the latency over all batches, by the mean over the chosen ones.

    Let y of h chosen batches be slower than the p99: no more than the batches above it. The others take at least what
    all h take, less what these y take, which is `most_us` at most. Their mean is below the p99, and the bound on it is
    the lower the larger y is. total_us: what links take in the chosen batches at least.
    """
    batches = len(rest_us)
    above = batches - 1 - int(0.99 * (batches - 1))
    below = len(chosen) - above
    if below <= 0:
        return 0.0
    left_out = float(np.sort(links.most_us[chosen])[below:].sum())
    return float(np.sort(rest_us[chosen])[:below].mean()) + max(0.0, total_us - left_out) / below
