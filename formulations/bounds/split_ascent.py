"""The split of messages among the experts that share them by which the bound of `crossings` is largest, or nearly so.

The bound is concave in all slopes and shifts, so that steps along its gradients climb to its largest value, about which
they swing; the mean of all steps is nearer to it. They are taken as if all sources sent the mean of their tokens, which
is quick; any split is valid, so that nothing is lost but what a split for all sources might win.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from formulations.bounds.sharing import TINY, Replicas, Sharing, alone, even_slope, gains, largest_sums
from formulations.kit.arrays import Bools, Floats, Ints

STEPS = 40
"""Steps of the ascent. On train batches of the home case (16 x 8 devices, 256 routed experts, 512 tokens) links are
bounded at 20.3 us without shifts, and at 23.4, 23.6, 23.7 and 23.8 after 10, 20, 40 and 100 steps."""

RISE, PATIENCE = 1e-4, 5
"""The ascent ends after so many steps in a row none of which is higher than all before by such a part. That costs .02
us of 23.7 on these batches; small layers, where steps of no use are most of the time, take half of it."""

STEP_OF_SLOPES, STEP_OF_SHIFTS = 0.05, 0.1
"""The first steps, as shares of a message. Tried on the same batches: with slopes that change by .02 and .1 the bound
is as high within .04 us; with shifts that change by .05 and .2 it is 23.4 and 23.8."""

SHORTER = 5
"""Steps are half as long after so many, a third after twice as many, and so on. With 2 the same bound is
23.5 us, with 20 it is 23.8; but where sources differ more, long steps end .3 us lower than short ones."""


@dataclass(frozen=True, eq=False)
class Demand:
    """What sources ask for: mean `[expert, expert]` tokens of a source, on average over sources, that chose both
    experts, on the diagonal those that chose the expert; beyond `[level, choice]`: how many of the `sources` are
    left beyond so many hops at each choice of replicas; spare: slots besides one for each expert."""

    mean: Floats
    sources: int
    beyond: Ints
    replicas: Replicas
    spare: int

    @classmethod
    def of(cls, together: Ints, within: Sequence[int], replicas: Replicas, spare: int) -> "Demand":
        """The demand of `together` `[source, expert, expert]`; within `[level]`: how many sources a device has within
        so many hops at most."""
        reached = np.multiply.outer(np.array(within, dtype=np.int64), replicas.most)
        return cls(together.mean(axis=0), len(together), np.maximum(0, len(together) - reached), replicas, spare)


class Tilt(NamedTuple):
    """A split with one line for each expert, as the ascent knows it: slope `[expert]`, shift as of `Split`."""

    slope: Floats
    shift: Floats

    def toward(self, other: "Tilt", part: float) -> "Tilt":
        """The split that is such a part of the way from this one to another."""
        return Tilt(*((1 - part) * here + part * there for here, there in zip(self, other, strict=True)))


def mean_tilts(demand: Demand, stages: Sequence[Sharing]) -> list[Tilt]:
    """A split for each stage by which the bound on the sum of all stages is nearly the largest: the mean of those that
    the ascent meets, the later ones of which count more."""
    place = np.arange(len(demand.mean))
    found = [Tilt(even_slope(demand.mean, stage), np.zeros_like(demand.mean)) for stage in stages]
    mean, highest, last_rise = found, -np.inf, 0
    for step in range(STEPS):
        charged = [_charged(demand, stage, tilt) for stage, tilt in zip(stages, found, strict=True)]
        cost = sum((each.cost for each in charged), start=np.zeros((len(demand.replicas.least), len(place))))
        choice = hull_choices(cost, demand.replicas.least, demand.spare)
        value = float(cost[choice, place].sum())
        if value > highest + RISE * abs(highest) or step == 0:
            highest, last_rise = value, step
        if step - last_rise >= PATIENCE:
            break
        length = SHORTER / (SHORTER + step)
        found = [_climbed(demand.mean, of, tilt, choice, length) for of, tilt in zip(charged, found, strict=True)]
        part = 2 / (step + 2)  # so that a split weighs as much as the number of its step
        mean = [of.toward(tilt, part) for of, tilt in zip(mean, found, strict=True)]
    return mean


def hull_choices(cost: Floats, number: Ints, spare: int) -> Ints:
    """About the choices `[expert]` with the least sum of costs `[choice, expert]`, as if costs were convex; number: the
    replicas of a choice."""
    more = np.diff(number)
    saved = (-np.diff(cost, axis=0) / more[:, None]).T
    order = np.argsort(-saved.ravel(), kind="stable")
    taken = order[np.tile(more, saved.shape[0])[order].cumsum() <= spare]
    choice: Ints = np.bincount(taken // max(1, len(more)), minlength=cost.shape[1])
    return choice


class _Charged(NamedTuple):
    """What experts are charged for a stage.

    cost `[choice, expert]`. order `[expert, place]`: the other experts, those first whose company takes most off the
    charge of the expert, and counted: whether it takes anything; others `[level, choice]`: how many of them are
    company; weight `[level, choice, expert]`: how many sources are charged so, times the price of the hop, as a
    share of that of one replica, and nothing where charges do not follow the line; meet: as of `alone`.
    """

    cost: Floats
    order: Ints
    counted: Bools
    others: Ints
    weight: Floats
    meet: Ints


def _charged(demand: Demand, stage: Sharing, tilt: Tilt) -> _Charged:
    """The charges by the line, or by 1 / most for each token, less what the shifts take off."""
    mean, chosen, every = demand.mean, np.diag(demand.mean), np.arange(len(demand.mean))
    gain = gains(mean, tilt.slope, tilt.shift)
    order = np.argsort(-gain, axis=1)
    gain = np.take_along_axis(gain, order, axis=1)
    first, meet = alone(tilt.slope, stage.most)
    others = stage.others(demand.replicas, len(mean))
    line = first * chosen - np.concatenate([np.zeros((1, len(mean))), gain.cumsum(axis=1).T])[others]
    least = chosen / stage.most - largest_sums(tilt.shift * mean, every)[others]
    charge = np.maximum(line, least)
    weight = stage.cost[:, None, None] * np.where(charge < 0, demand.sources, demand.beyond[:, :, None])
    alone_weight = max(float((stage.cost * demand.beyond[:, 0]).sum()), TINY)
    cost = (weight * charge).sum(axis=0)
    return _Charged(cost, order, gain > 0, others, weight * (line >= least) / alone_weight, meet)


def _climbed(mean: Floats, charged: _Charged, tilt: Tilt, choice: Ints, length: float) -> Tilt:
    """The split a step farther up, from where experts make these choices `[expert]`; mean: as of `Demand`."""
    chosen, place = np.maximum(np.diag(mean), TINY), np.arange(len(mean))
    by_place = np.zeros_like(mean)
    weight, others = charged.weight[:, choice, place], charged.others[:, choice]
    for of_level, company in zip(weight, others, strict=True):
        by_place += of_level[:, None] * (place < company[:, None])
    share = np.zeros_like(mean)
    np.put_along_axis(share, charged.order, by_place * charged.counted, axis=1)
    rise = weight.sum(axis=0) * charged.meet - (share * mean).sum(axis=1) / chosen
    slope = np.clip(tilt.slope + STEP_OF_SLOPES * length * rise, 0, 0.5)
    return Tilt(slope, tilt.shift + STEP_OF_SHIFTS * length * (share.T - share))
