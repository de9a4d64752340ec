"""What a routing policy may look at: where the replicas are, how far away, and what was learned beforehand.

A policy sees a `RoutingContext` and nothing else of placement, network and cost, so that this file lists all that a
server would have to provide to run any of the policies.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from math import ceil
from typing import Literal

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.arrays import frozen
from optimizer.domain.link_paths import LinkPaths
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.domain.placement import EMPTY, Placement
from optimizer.routing.expected_split import MILLION
from optimizer.routing.hints import USUAL_HINTS, HintSettings
from optimizer.routing.memory import HintMemory
from optimizer.routing.tables import DispatchTable, holding, nearest_table

Unit = Literal["tokens", "tiles"]
"""What load-aware policies count: token-expert pairs, or tiles that have been begun."""

# Capacity factor of the `capacity-fill` policy where the user gives none. A compromise, not tuned: a lower factor makes
# loads more even, a higher one lets more pairs stay near.
CAPACITY_FACTOR = 1.5


@dataclass(frozen=True, eq=False)
class LearnedShares:
    """What train batches teach a policy that does not see the loads of the batch at hand.

    load `[expert]`: mean pairs of each expert per batch. share `[device, slot]`: the part of its expert's pairs that
    the replica in each slot should get; the parts of an expert's replicas sum to 1, and empty slots have 0. table:
    which replica each source should use, None where this was not learned. Arrays of a caller are copied, and kept
    read-only.
    """

    load: Floats
    share: Floats
    table: DispatchTable | None = None

    def __post_init__(self) -> None:
        for name in ("load", "share"):
            object.__setattr__(self, name, frozen(getattr(self, name)))

    @classmethod
    def nothing(cls, placement: Placement, experts: int) -> "LearnedShares":
        """What holds without train batches: all experts have load 1, all replicas of an expert have equal shares."""
        count = placement.counts(experts)
        share = np.where(placement.slots >= 0, 1 / np.maximum(count, 1)[placement.slots], 0.0)
        return cls(np.ones(experts), share)


@dataclass(frozen=True, eq=False)
class RoutingContext:
    """One layer's replicas as the policies see them.

    start `[expert + 1]` and slot `[replica]` int32: the replicas of expert e are the flat slots
    slot[start[e] : start[e + 1]], and the rank of a replica is its place in this stretch (see `Placement.replicas`).
    device_of `[slot]` int32: the device of each flat slot.
    distance `[source, device]` int32: hops from where a token is before dispatch to each device.
    tile: how many tokens make up one unit of load; 1 if loads are counted in tokens.
    read_tokens: how many tokens of a slot cost no more than one, as they are multiplied while its weights are read.
    capacity: how many pairs of a batch `capacity-fill` gives a replica.
    load `[expert]` int64: expected pairs per batch, in millionths, as learned.
    share `[replica]` int64: the part of its expert's pairs that each replica should get, in millionths, as learned.
    unit_ns: nanoseconds that a slot takes for its first unit of load and for each further one; two equal numbers where
    the time of a slot does not depend on this difference.
    message_us `[link]`: how long one result keeps each link busy, in microseconds; None if all links are equally fast.
    hints: how load hints are made, for the policies that choose by them.
    layers_before: the placements of the model's layers before this one, by layer id, None where one is not known; empty
    for a layer of its own. A server's choice may depend on them.
    table: which replica each source should use, as learned; None where it was not.
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
    layers_before: tuple[Placement | None, ...] = ()
    hints: HintSettings = USUAL_HINTS
    table: DispatchTable | None = None
    read_tokens: int = 1

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
        """The context of a valid placement, of a layer of its own and with the usual hints, where every token costs
        time; without `learned` it is `LearnedShares.nothing`.

        The other parameters have the meaning and units of the fields of the same names.
        """
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
            table=known.table,
        )

    @property
    def devices(self) -> int:
        """Number of devices of the mesh, one for each column of `distance`."""
        return int(self.distance.shape[1])

    @property
    def slots_per_device(self) -> int:
        """How many slots each device has."""
        return len(self.device_of) // self.devices

    @cached_property
    def in_reads(self) -> "RoutingContext":
        """The context of a policy whose unit of load is `read_tokens`, of which each takes as long as the first."""
        return replace(self, tile=self.read_tokens, unit_ns=(1, 1))

    @cached_property
    def memory(self) -> HintMemory:
        """What policies that choose by load hints remember; the one part of a context that changes with each batch."""
        replicas = self.start, self.slot, self.device_of[self.slot]
        return HintMemory(*replicas, self.load / MILLION, self.distance, self.hints)

    @cached_property
    def link_paths(self) -> LinkPaths:
        """The links that a result passes on its way from each device to each source."""
        return LinkPaths.of(self.network, self.message_us)

    @cached_property
    def nearest_slot(self) -> Ints:
        """The static table of the `nearest` policy, `[source, expert]` int32 flat slots.

        Each source uses the replica with the fewest hops. Between equally near replicas expected loads decide: the
        table is filled expert by expert, the hottest first, and takes the replica whose device has been given the least
        expected load so far, assuming that every source brings an equal part of an expert's load.
        """
        hottest_first = np.argsort(-self.load, kind="stable")
        return nearest_table(self.start, self.slot, self.device_of, self.distance, self.load, hottest_first)

    @cached_property
    def table_slot(self) -> Ints:
        """The static table of the `table` policy, `[source, expert]` int32 flat slots.

        It is the learned one, and that of nearest replicas where none was learned for as many sources as there are.
        Where a replica of the learned one is gone, as that of a dead device, the nearest one takes its place.
        """
        if self.table is None or self.table.replica.shape != self.nearest_slot.shape:
            return self.nearest_slot
        flat = np.full(len(self.device_of), EMPTY, dtype=np.int32)
        flat[self.slot] = np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))
        found: Ints = np.where(holding(self.table.replica, flat), self.table.replica, self.nearest_slot)
        return found


def _millionths(learned: Floats) -> Ints:
    """Learned figures in whole millionths, int64, cut off at a million so that no plan file makes sums overflow."""
    whole: Ints = np.rint(learned.clip(0, MILLION) * MILLION).astype(np.int64)
    return whole


def capacity_of(factor: float, tokens: int, model: Model, replicas: int) -> int:
    """The capacity of a replica in pairs per batch: factor * tokens * top_k / replicas, rounded up.

    replicas: of all experts together. A factor of 1 is what each would take if all were loaded equally. The factor
    counts as its decimal digits say: as a binary fraction 1.1 would be a little more than 1.1 and could round up to one
    pair too many.
    """
    return ceil(Fraction(str(factor)) * tokens * model.top_k / replicas)
