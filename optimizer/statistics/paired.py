"""How far figures differ between two ways of doing the same batches, with intervals."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Floats
from optimizer.statistics.loads import drawn_batches, paired_gain


class Gain(NamedTuple):
    """By which part a figure is lower than before, .1 being a tenth, and the ends of a 95 % interval of that."""

    share: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether the interval says that there is a gain at all."""
        return self.low > 0

    @property
    def may_be_chance(self) -> bool:
        """Whether there is a difference that other batches of the same traffic may turn round."""
        return self.share != 0 and self.low <= 0 <= self.high


def gain_of_mean(before: Floats, after: Floats) -> Gain:
    """The gain of the mean over batches; before and after `[batch]`, of the same batches."""
    return Gain(*paired_gain(before, after))


def gain_of_p99(before: Floats, after: Floats) -> Gain:
    """The gain of the 99th percentile over batches, with the resamples of `paired_gain`; before and after `[batch]`."""
    return gain_of_summed_p99([before], [after])


def gain_of_summed_p99(before: Sequence[Floats], after: Sequence[Floats]) -> Gain:
    """The gain of the sum over layers of the 99th percentile over batches; before and after `[layer][batch]`, of the
    same batches in every layer, so that a resample draws the same ones for all layers."""
    drawn = drawn_batches(len(before[0]))
    worst = [np.sum([np.percentile(each[drawn], 99, axis=1) for each in layers], axis=0) for layers in (before, after)]
    low, high = np.percentile(1 - worst[1] / worst[0], [2.5, 97.5])
    was, now = (sum(float(np.percentile(each, 99)) for each in layers) for layers in (before, after))
    return Gain(1 - now / was, float(low), float(high))
