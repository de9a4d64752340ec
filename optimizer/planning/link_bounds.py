"""The latency that no plan of a layer goes below: fixed times, compute, and what links carry at the least.

The busiest link is at least as busy as the mean of those links over which all traffic of its kind runs. What it carries
in total is bounded for one placement of all batches by `formulations.bounds.crossings`. The rest follows for each batch
alone, so that quantiles of the sum are bounded, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from formulations.bounds.crossings import crossings_bounds, crossings_of_batches, crossings_splits
from formulations.bounds.sharing import Sharing, Split
from formulations.kit.arrays import Floats, Ints
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.statistics.coactivation import pair_counts
from optimizer.traces.batches import Batches

BLOCK_PAIRS = 1 << 24
"""Loads of sources and experts that are held at a time, so that memory does not grow with the batches; not tuned."""

SLOWEST = 5
"""A bound on the p99 is looked for among one in so many batches, those with the longest compute. Any number is valid:
few slow batches have a longer compute, and more of them a better bound on links. Not tuned."""


@dataclass(frozen=True)
class Stages:
    """Dispatch and combine as `crossings` takes them, in microseconds of the busiest link; None for a stage that the
    links do not bound. dispatch_fixed_us, combine_fixed_us: what each takes without any traffic."""

    dispatch: Sharing | None
    combine: Sharing
    dispatch_fixed_us: float
    combine_fixed_us: float

    @property
    def of_tables(self) -> "Stages":
        """The same where each source uses one replica of each expert."""
        dispatch = None if self.dispatch is None else replace(self.dispatch, fixed=True)
        return replace(self, dispatch=dispatch, combine=replace(self.combine, fixed=True))

    @property
    def out(self) -> tuple[Sharing, ...]:
        """Dispatch, if links bound it."""
        return () if self.dispatch is None else (self.dispatch,)

    @property
    def both(self) -> tuple[Sharing, ...]:
        """The stages that links bound."""
        return (*self.out, self.combine)


def stages_of(cost: Cost, network: Network, top_k: int) -> list[Stages]:
    """How dispatch and combine load the links of this network: alternatives, all of which are valid.

    top_k: experts of a token, the shared ones that take slots included.
    """
    fixed = _fixed_us(cost, network, top_k)
    back_company = 0 if cost.combine_per_expert else network.mesh.slots_per_device - 1
    out_company = 0 if cost.dispatch_per_expert else network.mesh.slots_per_device - 1
    combine_us, dispatch_us = cost.combine_message_us(network.remote), cost.dispatch_message_us(network.remote)
    found = []
    for back, out in zip(_prices(network, combine_us), _prices(network, dispatch_us), strict=True):
        combine = _sharing(back, np.full(len(back), back_company), top_k, on_device=True)
        multicast = network.links == "rings"
        company = _multicast_company(network, top_k) if multicast else np.full(len(out), out_company)
        dispatch = None if cost.uses_table else _sharing(out, company, top_k, on_device=not multicast)
        found.append(Stages(dispatch, combine, *fixed))
    return found


def _fixed_us(cost: Cost, network: Network, top_k: int) -> tuple[float, float]:
    """What dispatch and combine take without any traffic. By the table model some column has its part of a token's
    experts, all of which may be in the token's own row."""
    idle: Ints = np.zeros((1, len(network.remote)), dtype=np.int64)
    combine = float(cost.combine_us(idle, network.remote)[0])
    if cost.uses_table:
        return float(cost.table_us(np.array(-(-top_k // network.mesh.cols)), np.array(0))), combine
    return float(cost.dispatch_us(idle, network.remote)[0]), combine


def _sharing(cost: Floats, company: Ints, top_k: int, on_device: bool) -> Sharing:
    return Sharing(cost, company, min(top_k, int(company.max(initial=0)) + 1), on_device=on_device)


def _multicast_company(network: Network, top_k: int) -> Ints:
    """How many other experts can share hop level + 1 of a multicast with a replica, `[level]`: those in the slots of
    its side of its ring that are as far away or farther. Where messages travel along rows too, all of a token's experts
    may share its way along the column."""
    levels, depth = int(network.distance.max()), network.mesh.slots_per_device
    if network.across:
        return np.full(levels, network.mesh.slots)
    company: Ints = (network.mesh.rows // 2 - np.arange(levels)) * depth - 1
    return company


def _prices(network: Network, message_us: Floats) -> list[Floats]:
    """What a message's hops add to the busiest link at least, `[level]` microseconds, in one or two alternatives.

    message_us `[link]`. On rings, hops are spread over all links at best. A port out of every sender is passed by every
    message, in the fast network or in the slow one. Of M messages, R of them slow, some port is busy for at least the
    mean over senders: R slow, and (M - R) fast. So it is for their weighted mean, in which R cancels out, and for R
    alone.
    """
    levels = int(network.distance.max())
    if network.links == "rings":
        return [np.full(levels, float(message_us[0]) / len(message_us))]
    fast, slow = float(message_us[0]), float(message_us[-1])
    senders = len(np.unique(network.sender))
    if levels < 2:
        return [np.full(levels, fast / senders)]
    any_port = fast * slow / (fast + slow) if fast + slow > 0 else 0.0
    return [np.array([any_port, 0.0]) / senders, np.array([0.0, slow]) / senders]


@dataclass(frozen=True)
class Latency:
    """What mean, p50 and p99 over batches of a latency do not go below, in microseconds."""

    mean: float
    p50: float
    p99: float


@dataclass(frozen=True)
class LeastTimes:
    """What links take at least in dispatch and in combine, each by itself, in microseconds of the busiest one."""

    dispatch: float
    combine: float


@dataclass(frozen=True, eq=False)
class Links:
    """What the batches of a layer put on links at least, in microseconds of the busiest one."""

    batches: Batches
    model: Model
    mesh: Mesh
    cost: Cost

    @cached_property
    def network(self) -> Network:
        """The network of the mesh on this hardware."""
        return Network.of(self.mesh, self.cost.preset.network)

    @cached_property
    def alternatives(self) -> list[Stages]:
        """The stages, as alternatives all of which are valid."""
        return stages_of(self.cost, self.network, self.model.top_k + self.model.shared_experts)

    @property
    def fixed_us(self) -> float:
        """What dispatch and combine take without any traffic."""
        return self.alternatives[0].dispatch_fixed_us + self.alternatives[0].combine_fixed_us

    @cached_property
    def source(self) -> Ints:
        """The source of each token, `[batch, token]`."""
        return self.batches.source_on(self.network)

    @cached_property
    def per_batch_us(self) -> Floats:
        """What links take in each batch at least, `[batch]`, even with a placement for that batch alone."""
        return self._each_part(self._least_of)

    @cached_property
    def most_us(self) -> Floats:
        """What the hops of a batch cost at most under the best routing of any placement, `[batch]`: as if every expert
        had one replica, as far from its tokens as can be, and nothing were shared."""
        return self._each_part(self._most_of)

    def _each_part(self, of_load: Callable[[Ints], Floats]) -> Floats:
        """A figure of each batch, from its load `[batch, source, expert]`, made for some batches at a time."""
        step = max(1, BLOCK_PAIRS // (self.network.sources * self.model.experts))
        return np.concatenate([of_load(self._load(at, at + step)) for at in range(0, self.batches.count, step)])

    def _load(self, first: int, stop: int) -> Ints:
        """The pairs of each source and expert in batches first..stop - 1, `[batch, source, expert]`."""
        experts, source = self.batches.experts[first:stop], self.source[first:stop]
        shape = len(experts), self.network.sources, self.model.experts
        place = (np.arange(len(experts))[:, None] * shape[1] + source)[:, :, None] * shape[2] + experts
        load: Ints = np.bincount(place.ravel(), minlength=int(np.prod(shape))).reshape(shape)
        return load

    def _least_of(self, load: Ints) -> Floats:
        distance, slots = self.network.distance, self.mesh.slots
        least: Floats = np.max(
            [crossings_of_batches(load, distance, each.both, slots) for each in self.alternatives], axis=0
        )
        return least

    def _most_of(self, load: Ints) -> Floats:
        distance = np.unique(self.network.distance, axis=1)
        found = []
        for each in self.alternatives:
            price = np.concatenate([[0.0], np.sum([stage.cost for stage in each.both], axis=0).cumsum()])
            cost = load.swapaxes(1, 2) @ price[distance]
            found.append(cost.max(axis=2).sum(axis=1))
        most: Floats = np.max(found, axis=0)
        return most

    def together(self, chosen: slice | Ints) -> Ints:
        """Tokens of each source that chose both experts, in the chosen batches, `[source, expert, expert]`; on the
        diagonal those that chose the expert."""
        experts, source = self.batches.experts[chosen], self.source[chosen]
        return np.array([self._pairs(experts[source == home]) for home in range(self.network.sources)])

    def _pairs(self, experts: Ints) -> Ints:
        number = self.model.experts
        counts: Ints = pair_counts(experts, number) + np.diag(np.bincount(experts.ravel(), minlength=number))
        return counts

    def split(self, together: Ints, tables: bool = False, shared_replicas: int = 1) -> "SplitMessages":
        """How messages are best split among experts to bound what `together` counts, or else other batches; tables: for
        plans where each source uses one replica of each expert, the same in all batches; shared_replicas: how many
        replicas each shared expert has in a slot at least.

        Shared experts go with every token, and so would be company to all. They are left out unless they add more than
        that takes off, as where few messages are shared anyway.
        """
        with_shared = {False, self.model.shared_experts > 0}
        found = [self._split(together, tables, shared, shared_replicas) for shared in with_shared]
        return max(found, key=lambda split: split.value)

    def _split(self, together: Ints, tables: bool, shared: bool, shared_replicas: int) -> "SplitMessages":
        part, distance = self._part(together, shared, shared_replicas), self.network.distance
        known = [each.of_tables if tables else each for each in self.alternatives]
        found = [crossings_splits(part.together, distance, each.both, part.slots, not shared) for each in known]
        splits, value = [splits for splits, _ in found], max(value for _, value in found)
        return SplitMessages(known, shared, shared_replicas, splits, value)

    def least_us(self, together: Ints, split: "SplitMessages") -> LeastTimes:
        """What links take at least in each stage, however many replicas shared experts have, summed over the batches
        that `together` counts."""
        part = self._part(together, split.shared, shared_replicas=1)
        found = [
            self._least(part, stages, splits, [range(len(stages.out)), (len(stages.out),)])
            for stages, splits in zip(split.stages, split.of_stages, strict=True)
        ]
        return LeastTimes(*map(float, np.max(found, axis=0)))

    def least_together_us(self, together: Ints, split: "SplitMessages") -> float:
        """What links take at least in all stages, summed over the batches that `together` counts."""
        part = self._part(together, split.shared, split.shared_replicas)
        return max(
            self._least(part, stages, splits, [range(len(stages.both))])[0]
            for stages, splits in zip(split.stages, split.of_stages, strict=True)
        )

    def _least(
        self, part: "_Part", stages: Stages, splits: Sequence[Split], sums: Sequence[Sequence[int]]
    ) -> list[float]:
        return crossings_bounds(part.together, self.network.distance, stages.both, part.slots, sums, splits)

    def _part(self, together: Ints, shared: bool, shared_replicas: int) -> "_Part":
        """All experts, or the routed ones alone and the slots that shared ones leave to them."""
        model, slots = self.model, self.mesh.slots
        if shared:
            return _Part(together, slots)
        return _Part(
            together[:, : model.routed_experts, : model.routed_experts], slots - model.shared_experts * shared_replicas
        )


class _Part(NamedTuple):
    """Experts that are bounded, by what `Links.together` says of them, and their slots."""

    together: Ints
    slots: int


@dataclass(frozen=True)
class SplitMessages:
    """How messages are split among the experts that share them: the alternatives of `Links`, whether shared experts are
    among them and how many replicas these have at least, and the splits for each alternative and each of its stages.
    value: what links take at least in all stages, summed over the batches for which the splits were found."""

    stages: list[Stages]
    shared: bool
    shared_replicas: int
    of_stages: list[list[Split]]
    value: float


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
