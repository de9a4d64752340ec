"""How long routed batches take, if dispatch, compute and combine follow one another, or if they overlap."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Bools, Floats, Ints
from optimizer.domain.cost import NS_PER_US, Cost
from optimizer.domain.network import Network, rank_in_row
from optimizer.domain.presets.schema import TileCompute
from optimizer.domain.traffic import Traffic, column_and_hops, count_blocks, count_traffic
from optimizer.simulation.queueing import DeviceWork, Messages, Overlap, ServedPairs, overlap


class Times(NamedTuple):
    """The three parts of the latency of each batch, `[batch]` microseconds.

    If the parts overlap, dispatch lasts until the last token has arrived at its device, compute from then until the
    last device is done, and combine from then until the last result is home.
    """

    dispatch_us: Floats
    compute_us: Floats
    combine_us: Floats


class Routed(NamedTuple):
    """Routed batches and what they put on links and slots.

    chosen `[batch, token, k]`: flat slots, negative for a dropped pair. source `[batch, token]`: where tokens come
    from. block `[batch, token]`: the block of each token, for the functional MoE op, else None. traffic: messages
    on links. slot_load `[batch, device, slot]`: pairs. spent `[batch, device, slot]`: nanoseconds of work on devices of
    normal speed. beside `[batch, device]`: the same for shared experts outside the slots; None where there are none.
    """

    chosen: Ints
    source: Ints
    block: Ints | None
    traffic: Traffic
    slot_load: Ints
    spent: Ints
    beside: Ints | None


@dataclass(frozen=True, eq=False)
class Clock:
    """The cost model applied to one placement.

    filled `[device, slot]`: whether a slot holds a replica. slowdown `[device]`: how many times longer a device takes.
    """

    cost: Cost
    network: Network
    filled: Bools
    slowdown: Floats

    @cached_property
    def device_of(self) -> Ints:
        """The device of each flat slot, `[slot]` int32."""
        device: Ints = (np.arange(self.filled.size) // self.filled.shape[1]).astype(np.int32)
        return device

    @cached_property
    def out_us(self) -> Floats:
        """How long a message keeps each link busy in dispatch, `[link]` microseconds."""
        return self.cost.dispatch_message_us(self.network.remote)

    @cached_property
    def back_us(self) -> Floats:
        """How long a message keeps each link busy in combine, `[link]` microseconds."""
        return self.cost.combine_message_us(self.network.remote)

    @property
    def messages(self) -> Messages:
        """What messages cost where dispatch, compute and combine overlap."""
        return Messages(
            network=self.network,
            out_us=self.out_us,
            back_us=self.back_us,
            out_base_us=self.cost.preset.dispatch.base_us,
            back_base_us=self.cost.preset.combine.base_us,
            out_per_expert=self.cost.dispatch_per_expert,
            back_per_expert=self.cost.combine_per_expert,
        )

    def count(self, chosen: Ints, source: Ints, source_row: Ints) -> Routed:
        """Count what routed batches put on slots and links.

        chosen `[batch, token, k]` flat slots, source and source_row (mesh row) `[batch, token]`.
        """
        per_expert = self.cost.dispatch_per_expert, self.cost.combine_per_expert
        traffic = count_traffic(chosen, source, self.device_of, self.network, *per_expert)
        shape = (len(chosen), *self.filled.shape)
        block = slot_blocks = None
        if self.cost.moe_op == "functional":
            block = self._block(source_row)
            slot_blocks = count_blocks(chosen, block, int(block.max()) + 1, self.filled.size).reshape(shape)
        slot_load = traffic.slot_load.reshape(shape)
        spent = self.cost.slot_work_ns(slot_load, slot_blocks, self.filled)
        beside = self.cost.beside_ns(self.network.own_tokens(source)) if self.cost.beside else None
        return Routed(chosen, source, block, traffic, slot_load, spent, beside)

    def _block(self, source_row: Ints) -> Ints:
        """The block of each token, `[batch, token]` int32; a block is a number of consecutive tokens of one row."""
        size = self.cost.functional.block_tokens
        first = source_row * -(-source_row.shape[1] // size)
        block: Ints = (first + rank_in_row(source_row, self.network.mesh.rows) // size).astype(np.int32)
        return block

    def device_ns(self, routed: Routed) -> Floats:
        """How long each device works, `[batch, device]` nanoseconds, longer on slow devices."""
        work = routed.spent.sum(axis=2)
        time: Floats = (work if routed.beside is None else work + routed.beside) * self.slowdown
        return time

    def in_turn(self, routed: Routed) -> Times:
        """The times if dispatch, compute and combine follow one another, as the MoE op runs today."""
        remote, traffic = self.network.remote, routed.traffic
        return Times(
            self._by_table(routed) if self.cost.uses_table else self.cost.dispatch_us(traffic.out, remote),
            self.device_ns(routed).max(axis=1) / NS_PER_US,
            self.cost.combine_us(traffic.back, remote),
        )

    def _by_table(self, routed: Routed) -> Floats:
        """How long dispatch of each batch takes by the table model, `[batch]` microseconds: as long as for its slowest
        token."""
        network = self.network
        asked = column_and_hops(routed.chosen, routed.source, self.device_of, network.distance, network.mesh.cols)
        slowest: Floats = self.cost.table_us(*asked).max(axis=1)
        return slowest

    def overlapping(self, routed: Routed) -> tuple[Times, Overlap]:
        """The times if each token goes on as soon as links and devices can, and who waited meanwhile."""
        pairs = ServedPairs(routed.chosen, routed.source, self.device_of)
        found = overlap(pairs, self.messages, self._work(routed), self.slowdown)
        computed = found.finished - found.arrived
        if routed.beside is not None:  # before the first token arrives, on every device, so that all wait for the last
            computed = computed + (routed.beside * self.slowdown).max(axis=1) / NS_PER_US
        return Times(found.arrived, computed, found.end - found.finished), found

    def _work(self, routed: Routed) -> DeviceWork:
        """The jobs that the cost model makes of the tokens of each slot."""
        compute = self.cost.preset.compute
        if routed.block is not None:
            functional = self.cost.functional
            return DeviceWork.blocks(routed.block, functional.block_us, functional.load_us, self.filled.ravel())
        if isinstance(compute, TileCompute):
            tile = compute.tile_tokens
            return DeviceWork.tiles(tile, compute.first_tile_us, compute.further_tile_us, self.filled.size)
        return DeviceWork.whole_slots(routed.spent.reshape(len(routed.chosen), -1) / NS_PER_US)
