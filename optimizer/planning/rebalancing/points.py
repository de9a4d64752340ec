"""What budgets of expert weights win in layers, and one budget shared out over layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from formulations.choice.slot_budget import share_budget
from formulations.kit.arrays import Floats
from optimizer.planning.plan_file import LayerPlan
from optimizer.planning.rebalancing.expected import ExpectedBound
from optimizer.statistics.loads import PairedGain, paired_gain


@dataclass(frozen=True, eq=False)
class LayerPoint:
    """What one layer has within a budget of moves, None for no limit.

    moves: those that it takes; part: its part of a plan, with its figures. value: what decided between placements, on
    what they are chosen by. judged `[batch]` or, of counts, `[step]`: what they are judged by, on test batches: latency
    in microseconds; of counts peak / mean expected device load. imbalance: mean on test batches; expected: a bound for
    even split, where the layer is small.
    """

    most: int | None
    moves: int
    part: LayerPlan
    value: float
    judged: Floats
    imbalance: float
    expected: ExpectedBound | None


@dataclass(frozen=True, eq=False)
class CurvePoint:
    """What all layers together have within a budget, None for no limit; layers: the point of each. before and after
    `[batch]` or `[step]`: sums of what the layers are judged by, on the same test batches, as they are now and then."""

    most: int | None
    layers: Mapping[int, LayerPoint]
    before: Floats
    after: Floats

    @property
    def moves(self) -> int:
        """The expert weights that devices load."""
        return sum(point.moves for point in self.layers.values())

    @property
    def value(self) -> float:
        """The sum over layers of what decided between placements."""
        return sum(point.value for point in self.layers.values())

    @property
    def imbalance(self) -> float:
        """The mean over layers of the mean imbalance on test batches."""
        return float(np.mean([point.imbalance for point in self.layers.values()]))

    @cached_property
    def gain(self) -> PairedGain:
        """The share of the mean that is saved of what layers are judged by, with its 95 % interval."""
        return paired_gain(self.before, self.after)


def shared(points: Mapping[int, Sequence[LayerPoint]], grid: Sequence[int], most: int | None) -> CurvePoint:
    """A budget for all layers shared out so that the sum of their values is least.

    points: those of each layer at no move, at each budget of the grid, ascending, and without a limit.
    """
    if most is None:
        chosen = {layer: of[-1] for layer, of in points.items()}
    else:
        value = np.array([[point.value for point in of[:-1]] for of in points.values()])
        taken = share_budget(value, np.array([0, *grid]), most).value
        assert taken is not None  # no move at all is within any budget
        chosen = {layer: of[option] for (layer, of), option in zip(points.items(), taken, strict=True)}
    before = np.sum([of[0].judged for of in points.values()], axis=0)
    after = np.sum([point.judged for point in chosen.values()], axis=0)
    return CurvePoint(most, chosen, before, after)
