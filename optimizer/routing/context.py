"""What a routing policy may look at: where the replicas are, how far away, and what was learned beforehand."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import ceil
from typing import Literal

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.link_paths import LinkPaths
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement

Unit = Literal["tokens", "tiles"]
"""What load-aware policies count."""

CAPACITY_FACTOR = 1.5  # of the capacity-fill policy where nothing is said
MILLION = 1_000_000  # learned figures count in millionths, as a plan keeps them: it must route alike when read back


@dataclass(frozen=True, eq=False)
class LearnedShares:
    """What train batches say: load `[expert]` mean pairs per batch; share `[device, slot]` of its expert's pairs that
    each replica should get, summing to 1 over the replicas of an expert."""

    load: Floats
    share: Floats

    @classmethod
    def nothing(cls, placement: Placement, experts: int) -> "LearnedShares":
        """Where there were no train batches: all experts alike, all replicas of an expert alike."""
        count = placement.counts(experts)
        share = np.where(placement.slots >= 0, 1 / np.maximum(count, 1)[placement.slots], 0.0)
        return cls(np.ones(experts), share)


@dataclass(frozen=True, eq=False)
class RoutingContext:
    """One layer's replicas as the policies see them.

    start `[expert + 1]` and slot `[replica]` as of `Placement.replicas`, a replica's rank being its place among its
    expert's; device_of `[slot]`; distance `[source, device]` hops; tile: tokens that make up one unit of load (1: loads
    are counted in tokens); capacity: pairs that `capacity-fill` gives a replica; load `[expert]` expected pairs per
    batch and share `[replica]` as learned, in whole millionths; unit_ns: how long a slot takes for its first unit and
    for each further one, alike where this does not decide; message_us `[link]`: how long a result keeps a link
    busy, None where all are alike. Arrays are int32, load and share int64.
    """

    start: Ints
    slot: Ints
    device_of: Ints
    distance: Ints
    tile: int
    capacity: int
    load: Ints
    share: Ints
    unit_ns: tuple[int, int]
    network: Network
    message_us: Floats | None

    @classmethod
    def of(
        cls,
        placement: Placement,
        model: Model,
        network: Network,
        tile: int,
        capacity: int,
        learned: LearnedShares | None,
        unit_ns: tuple[int, int] = (1, 1),
        message_us: Floats | None = None,
    ) -> "RoutingContext":
        """The replicas of a valid placement; learned None is `LearnedShares.nothing`."""
        known = learned or LearnedShares.nothing(placement, model.experts)
        start, slot = placement.replicas(model.experts)
        return cls(
            start=start,
            slot=slot,
            device_of=(np.arange(placement.slots.size) // placement.slots.shape[1]).astype(np.int32),
            distance=network.distance,
            tile=tile,
            capacity=capacity,
            load=_millionths(known.load),
            share=_millionths(known.share.ravel()[slot]),
            unit_ns=unit_ns,
            network=network,
            message_us=message_us,
        )

    @property
    def devices(self) -> int:
        """Number of devices."""
        return int(self.distance.shape[1])

    @cached_property
    def link_paths(self) -> LinkPaths:
        """The links that results pass."""
        return LinkPaths.of(self.network, self.message_us)

    @cached_property
    def nearest_slot(self) -> Ints:
        """The static table of `nearest`, `[source, expert]` flat slots: what a kernel mapping per source can express.

        The replica with the fewest hops. On a tie the one whose device has the least expected load so far, hot experts
        being dealt out first, each source bringing an equal part of an expert's load.
        """
        hottest_first = np.argsort(-self.load, kind="stable")
        return _nearest(self.start, self.slot, self.device_of, self.distance, self.load, hottest_first)


def _millionths(learned: Floats) -> Ints:
    """Whole, and of at most a million, so that no plan file makes them overflow."""
    whole: Ints = np.rint(learned.clip(0, MILLION) * MILLION).astype(np.int64)
    return whole


def capacity_of(factor: float, tokens: int, model: Model, slots: int) -> int:
    """Pairs that a replica takes: `factor * tokens * top_k / slots`, rounded up; the factor counts as it is written."""
    return ceil(Fraction(str(factor)) * tokens * model.top_k / slots)


@kernel
def _nearest(start: Ints, slot: Ints, device_of: Ints, distance: Ints, load: Ints, order: Ints) -> Ints:
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
