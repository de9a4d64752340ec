"""What links carry at the least, in microseconds of the busiest one.

The busiest link is at least as busy as the mean of those links over which all traffic of its kind runs. What it carries
in total is bounded for one placement of all batches by `formulations.bounds.crossings`. The rest follows for each batch
alone, so that quantiles of the sum are bounded, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from formulations.bounds.crossings import crossings_bounds, crossings_of_batches, crossings_splits
from formulations.bounds.message_splits import Split
from formulations.kit.arrays import Floats, Ints
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.planning.link_stages import Stages, stages_of
from optimizer.statistics.coactivation import pair_counts
from optimizer.traces.batches import Batches

BLOCK_PAIRS = 1 << 24
"""Loads of sources and experts that are held at a time, so that memory does not grow with the batches; not tuned."""


@dataclass(frozen=True)
class LeastTimes:
    """What links take at least in dispatch and in combine, each by itself, in microseconds of the busiest one."""

    dispatch: float
    combine: float


@dataclass(frozen=True, eq=False)
class Links:
    """What the batches of a layer put on links at least, in microseconds of the busiest one; grouped: whether groups of
    experts are looked at (`formulations.bounds.message_splits`), which proves more and takes as long as all else."""

    batches: Batches
    model: Model
    mesh: Mesh
    cost: Cost
    grouped: bool = True

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
        found = [
            crossings_splits(part.together, distance, each.both, part.slots, not shared, self.grouped) for each in known
        ]
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
