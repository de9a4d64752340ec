"""Dispatch tables: one replica for each source and expert, which stays the same until the table is replaced."""

from dataclasses import dataclass

import numpy as np

from formulations.kit.arrays import Bools, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.arrays import fitting, frozen
from optimizer.domain.placement import Placement


@dataclass(frozen=True, eq=False)
class DispatchTable:
    """Which replica serves the pairs of each source and expert.

    replica `[source, expert]` int32: flat slots of the placement, each of which holds the expert. The array is copied
    and read-only. Raises ValueError for another shape, and for an entry that does not hold its expert.
    """

    placement: Placement
    replica: Ints

    def __post_init__(self) -> None:
        if self.replica.ndim != 2:
            raise ValueError(f"a dispatch table is [source, expert], not {list(self.replica.shape)}")
        object.__setattr__(self, "replica", frozen(fitting("flat slots", self.replica, np.int32)))
        wrong = np.argwhere(~holding(self.replica, self.placement.slots.ravel()))
        if len(wrong):
            source, expert = wrong[0].tolist()
            slot = int(self.replica[source, expert])
            raise ValueError(f"source {source} sends expert {expert} to flat slot {slot}, which does not hold it")

    @classmethod
    def of_ranks(cls, placement: Placement, rank: Ints) -> "DispatchTable":
        """The table that names replicas by rank `[source, expert]`: their place among their expert's replicas.

        Raises ValueError for a rank that an expert has no replica of.
        """
        start, slot = placement.replicas(rank.shape[1])
        count = np.diff(start)
        wrong = np.argwhere((rank < 0) | (rank >= count))
        if len(wrong):
            source, expert = wrong[0].tolist()
            said = f"{int(rank[source, expert])} for expert {expert} of source {source}"
            raise ValueError(f"{said}, but the expert's replicas have ranks 0..{count[expert] - 1}")
        return cls(placement, slot[start[:-1] + rank])

    @property
    def sources(self) -> int:
        """The number of sources that the table is for."""
        return len(self.replica)

    @property
    def rank(self) -> Ints:
        """The place of each named replica among its expert's replicas, `[source, expert]`."""
        start, slot = self.placement.replicas(self.replica.shape[1])
        place = np.zeros(self.placement.slots.size, dtype=np.int64)
        place[slot] = np.arange(len(slot))
        rank: Ints = place[self.replica] - start[:-1]
        return rank


def holding(replica: Ints, flat: Ints) -> Bools:
    """Whether each entry of a table `[source, expert]` is a slot of `flat [slot]` that holds the expert."""
    inside = np.minimum(replica, len(flat) - 1)
    held: Bools = (replica < len(flat)) & (flat[inside] == np.arange(replica.shape[1]))
    return held


@kernel
def nearest_table(start: Ints, slot: Ints, device_of: Ints, distance: Ints, load: Ints, order: Ints) -> Ints:
    """The table of nearest replicas, `[source, expert]` int32 flat slots; see `RoutingContext.nearest_slot`.

    start `[expert + 1]`, slot `[replica]`, device_of `[slot]` and distance `[source, device]` are those of
    `RoutingContext`; load `[expert]` int64 expected loads; order `[expert]` lists hot experts first.
    """
    sources, devices = distance.shape
    table = np.empty((sources, len(order)), dtype=np.int32)
    taken = np.zeros(devices, dtype=np.int64)
    for expert in order:
        for source in range(sources):
            best = slot[start[expert]]
            for replica in range(start[expert] + 1, start[expert + 1]):
                one, other = device_of[slot[replica]], device_of[best]
                closer = distance[source, one] - distance[source, other]
                if closer < 0 or (closer == 0 and taken[one] < taken[other]):
                    best = slot[replica]
            table[source, expert] = best
            taken[device_of[best]] += load[expert]
    return table
