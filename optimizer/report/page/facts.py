"""What a page shows of a plan, as numbers: nothing here knows how it is drawn."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.cost import Cost
from optimizer.domain.placement import Placement
from optimizer.planning.plan_file import Plan
from optimizer.planning.replica_curves import ReplicaCurve
from optimizer.simulation.report import SimulationReport
from optimizer.statistics.loads import five_figures
from optimizer.statistics.suspicion import Suspicion

PLAN = "moeplan"
"""The name of the plan that a page is of, beside the placement before it."""


GREEDY = "greedy"
"""What pages call EPLB's scheme, as the table of `solve` does: the placement before, where none is named."""


@dataclass(frozen=True, eq=False)
class JudgedRun:
    """One placement under one routing policy, on the batches that the page is of.

    owner: whose placement it is. slot_load, slot_tiles `[device, slot]`: pairs and tiles (or tokens, see `Cost.unit`)
    of a batch in each slot, means over batches.
    """

    owner: str
    placement: Placement
    report: SimulationReport
    slot_load: Floats
    slot_tiles: Floats

    @property
    def name(self) -> str:
        """The placement and the policy in words."""
        return f"{self.owner}, {self.report.routing}"

    @property
    def latency(self) -> dict[str, float]:
        """Mean, p50, p95, p99 and maximum of the latency in microseconds."""
        return five_figures(self.report.latency_us)

    def latency_share(self) -> Floats:
        """The part of all latency in which a device computes as the slowest of its batch, `[device]`, 0 to 1; the parts
        of all devices sum to that of compute. Of devices that take equally long one counts, see
        `SimulationReport.critical`."""
        report = self.report
        slowest = np.bincount(report.critical[:, 0], report.compute_us, len(self.placement.slots))
        share: Floats = slowest / report.latency_us.sum()
        return share


@dataclass(frozen=True, eq=False)
class LayerFacts:
    """What a page shows of one layer.

    before, plan: the placement before under its own routing, and the plan under its own. others: both under further
    policies. load `[batch, expert]`: pairs of each expert in each batch. pairs `[expert, expert]`: tokens that chose
    both of two routed experts, of `tokens` in all. known `[batch, expert]`: the load that a load hint expects before
    each batch. unseen: whether the batches are of test requests alone. capacities: the plan under its own policy,
    without and with limits on what replicas take, and replicas: what more of them win; both for one layer of a page.
    """

    layer: int
    before: JudgedRun
    plan: JudgedRun
    others: tuple[JudgedRun, ...]
    load: Ints
    pairs: Ints
    tokens: int
    known: Floats
    unseen: bool
    capacities: tuple[SimulationReport, ...] = ()
    replicas: ReplicaCurve | None = None

    @property
    def runs(self) -> tuple[JudgedRun, ...]:
        """All runs, in the order in which they are shown."""
        return (self.before, self.plan, *self.others)

    @property
    def batches(self) -> str:
        """On which batches the figures are, in words."""
        report = self.plan.report
        kind = "test batches" if self.unseen else "batches of all requests"
        return f"{report.batches:,} {kind} of {report.tokens:,} tokens"


@dataclass(frozen=True, eq=False)
class DatasetFigures:
    """The placement before and the plan on one data set: statistics of latency in microseconds, summed over layers.

    batches: on which batches, in words.
    """

    name: str
    before: dict[str, float]
    plan: dict[str, float]
    batches: str


@dataclass(frozen=True, eq=False)
class PlanFacts:
    """What a page shows of a plan.

    layers: by id. before: whose the placement before is. origin: where the traces came from. notes: sentences on the
    traces that a reader should know. command: the line that made the page. looks_wrong: in the traces, the worst
    first. generated: whether these are the built-in trace. datasets: the figures of each, where several are named.
    moves: the JSON form of what `rebalance` found, where it is shown.
    """

    plan: Plan
    cost: Cost
    layers: dict[int, LayerFacts]
    before: str
    notes: tuple[str, ...]
    command: str = ""
    looks_wrong: tuple[Suspicion, ...] = ()
    generated: bool = False
    datasets: tuple[DatasetFigures, ...] = ()
    moves: Mapping[str, Any] | None = None

    @property
    def first(self) -> LayerFacts:
        """What is known of the lowest layer of the page, which is shown before the slider is moved."""
        return next(iter(self.layers.values()))

    def summed(self, which: str, statistic: str) -> float:
        """A statistic of latency, summed over the layers, in microseconds; which: `before` or `plan`."""
        return float(sum(getattr(each, which).latency[statistic] for each in self.layers.values()))

    @property
    def batches(self) -> str:
        """On which batches the figures are, in words; they are as many in each layer."""
        return self.first.batches
