"""What a layer's time goes to now: communication and work at their best, and two kinds of imbalance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Bools, Floats, Ints
from optimizer.domain.cost import Cost
from optimizer.planning.bounds import TIME, Bound
from optimizer.simulation.report import SimulationReport


class _Split(NamedTuple):
    """Microseconds of one stage: what it takes at its best, and what expected and chance imbalance add."""

    best: float
    expected: float
    chance: float


@dataclass(frozen=True)
class CostParts:
    """Means over test batches, microseconds, that add up to the mean latency.

    routing: waiting for the policy. communication: dispatch and combine of these messages, if all links of a kind had
    equally many. work: compute that no placement and routing goes below. expected: what unequal mean loads of devices
    and links add. chance: what loads that differ from batch to batch add to that. Compute beyond its bound is shared
    out to the two in proportion to the imbalance of devices, as it is not known otherwise; where dispatch is by a table
    of tokens, it counts as communication as it is. expected_imbalance: peak / mean of the devices' mean loads;
    imbalance: peak / mean of a batch, in the mean.
    """

    routing: float
    communication: float
    work: float
    expected: float
    chance: float
    expected_imbalance: float
    imbalance: float

    @property
    def latency(self) -> float:
        """The mean latency of the layer in microseconds: the sum of all its parts."""
        return self.routing + self.communication + self.work + self.expected + self.chance

    @classmethod
    def of(cls, report: SimulationReport, bounds: Sequence[Bound], cost: Cost) -> "CostParts":
        """The parts of a simulated layer; bounds: for any placement, of which those on time count. Where there is none,
        compute in proportion to the mean load counts as work."""
        mean_load = report.device_load.mean(axis=0)
        expected, imbalance = float(mean_load.max() / mean_load.mean()), float(report.imbalance.mean())
        known = [bound.mean for bound in bounds if bound.unit == TIME and not bound.given]
        compute = _compute(float(report.compute_us.mean()), max(known, default=None), expected, imbalance)
        travel = _communication(report, cost)
        return cls(
            routing=float(report.routing_us.mean()),
            communication=travel.best,
            work=compute.best,
            expected=compute.expected + travel.expected,
            chance=compute.chance + travel.chance,
            expected_imbalance=expected,
            imbalance=imbalance,
        )


def _compute(mean: float, least: float | None, expected: float, imbalance: float) -> _Split:
    """Compute of this mean, of which `least` is the bound."""
    beyond = max(mean - (mean / imbalance if least is None else least), 0.0)
    part = (expected - 1) / (imbalance - 1) if imbalance > 1 else 0.0
    return _Split(mean - beyond, beyond * part, beyond * (1 - part))


def _communication(report: SimulationReport, cost: Cost) -> _Split:
    """Dispatch and combine by what their links carry."""
    stages = [(cost.combine_us, report.combine_us, report.back)]
    stages += [] if cost.uses_table else [(cost.dispatch_us, report.dispatch_us, report.out)]
    best = float(report.dispatch_us.mean()) if cost.uses_table else 0.0
    expected = chance = 0.0
    for time_us, spent_us, halves in stages:
        remote = report.network.remote
        mean = halves / report.batches
        even, busiest = (float(time_us(_whole(each), remote)[0]) for each in (_evened(mean, remote), mean))
        best += even
        expected += busiest - even
        chance += float(spent_us.mean()) - busiest
    return _Split(best, expected, chance)


def _evened(mean: Floats, remote: Bools) -> Floats:
    """Messages `[link]` shared out evenly to the links between nodes, and to all others."""
    even = np.zeros(mean.shape)
    for kind in (remote, ~remote):
        if kind.any():
            even[kind] = mean[kind].mean()
    return even


def _whole(halves: Floats) -> Ints:
    """Half messages of one batch as whole numbers, `[1, link]`, as the cost model counts them."""
    whole: Ints = np.rint(halves)[None].astype(np.int64)
    return whole
