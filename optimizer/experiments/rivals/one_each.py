"""What rivals share that place each expert once and make no copies.

Shared experts whose number of replicas is fixed have their places already, as in all placements of this program; none
of these rivals knows them. All others are placed, each once, so that slots may stay empty.
"""

from dataclasses import dataclass

import numpy as np

from formulations.kit.arrays import Bools, Ints
from optimizer.domain.placement import EMPTY, Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.packing import Packing
from optimizer.traces.batches import Batches


@dataclass(frozen=True, eq=False)
class OneEach:
    """The experts to place, and what devices take.

    experts `[expert to place]`: their ids; load `[expert to place]`: their pairs over all train batches, times the
    number of replicas of shared experts, so that the parts of these are whole. taken `[device]`: the load of shared
    experts that are placed already, in the same units. room `[device]`: the slots that these leave. least, most
    `[device]`: how many experts a device takes where all take the same number, as far as there is room.
    """

    experts: Ints
    load: Ints
    taken: Ints
    room: Ints
    least: Ints
    most: Ints

    @classmethod
    def of(cls, problem: Problem) -> "OneEach":
        """What is to be placed, and the room for it."""
        total, scale = problem.total_load, problem.shared_replicas or 1
        experts = np.flatnonzero(~problem.spread)
        held = Packing(problem, np.zeros(problem.model.experts)).slots
        fixed = np.append(np.where(problem.spread, total, 0), 0)
        room = (held == EMPTY).sum(axis=1)
        level = next(size for size in range(problem.mesh.slots + 1) if np.minimum(room, size).sum() >= len(experts))
        most = np.minimum(room, level)
        least = most if most.sum() == len(experts) else np.minimum(room, level - 1)
        return cls(experts, total[experts] * scale, fixed[held].sum(axis=1), room, least, most)

    def dealt(self) -> Ints:
        """The device of each expert `[expert to place]` by EPLB's packing (deepseek-ai/EPLB, `balanced_packing`): the
        heaviest first, each to the lightest device that has not yet its number of experts. Where this is not the same
        for all, as EPLB wants it, the devices that ask first get one more."""
        device_of = np.empty(len(self.experts), dtype=np.int64)
        load, count = self.taken.copy(), np.zeros_like(self.most)
        more = len(self.experts) - int(self.least.sum())
        for place in np.argsort(-self.load, kind="stable"):
            open_to_it = count < (self.most if more else self.least)
            device = int(np.argmin(np.where(open_to_it, load, np.iinfo(np.int64).max)))
            more -= int(count[device] >= self.least[device])
            device_of[place] = device
            load[device] += self.load[place]
            count[device] += 1
        return device_of

    def device_load(self, device_of: Ints) -> Ints:
        """The load of each device `[device]`, with the experts on the devices `[expert to place]`."""
        load: Ints = self.taken.copy()
        np.add.at(load, device_of, self.load)
        return load


def placed(problem: Problem, device_of: Ints) -> Placement:
    """The placement with these devices of the experts that `OneEach` places, `[expert to place]`."""
    packing = Packing(problem, np.zeros(problem.model.experts))
    for expert, device in zip(np.flatnonzero(~problem.spread), device_of, strict=True):
        packing.place(int(expert), int(device))
    return packing.placement()


def same_shared(problem: Problem) -> Bools:
    """Whether two devices hold the same of the shared experts that have their places, `[device, device]`."""
    shared = Packing(problem, np.zeros(problem.model.experts)).holds[problem.spread]
    same: Bools = (shared[:, :, None] == shared[:, None]).all(axis=0)
    return same


def pairs_by_source(problem: Problem, batches: Batches) -> Ints:
    """How many pairs each source of the network has of each expert, `[source, expert]` int64, over all batches."""
    sources, experts = problem.network.sources, problem.model.experts
    cells = batches.source_on(problem.network)[..., None] * np.int64(experts) + batches.experts
    return np.bincount(cells.ravel(), minlength=sources * experts).reshape(sources, experts)
