"""Microseconds of dispatch, compute and combine: the only home of the objective.

Kernels count (tokens, blocks, half messages on links); this file alone turns counts into time.
"""

from dataclasses import dataclass, field, replace
from math import inf
from typing import Literal

import numpy as np

from formulations.kit.arrays import Bools, Floats, Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.presets.schema import (
    FunctionalCompute,
    HardwarePreset,
    LinkDispatch,
    NodeTransfer,
    RooflineCompute,
    TileCompute,
)
from optimizer.errors import InputError

NS_PER_US = 1000

DEEPSEEK_V3 = (7168, 2048)
"""Hidden size and expert width of DeepSeek-V3, by which a note names it."""

Information = Literal["none", "own", "hint", "batch"]
"""What a routing policy must know at run time, by which its price is told: see `presets.schema.RoutingPrice`."""


@dataclass(frozen=True)
class Cost:
    """The cost model of one hardware preset; `name` is what the user called the preset.

    moe_op: whether the MoE op packs tokens per expert (optimized) or leaves them where they are in the batch
    (functional). dispatch_model: which of the preset's models of dispatch is used; None takes its usual one. prices:
    what routing policies take to decide, in microseconds by name, where that is not the preset's price of what they
    must know. beside: how many shared experts every device computes for its own tokens, outside its slots. Raises
    InputError where the preset has no figures for what is asked, and for a price that is none.
    """

    name: str
    preset: HardwarePreset
    moe_op: Literal["optimized", "functional"] = "optimized"
    dispatch_model: Literal["link", "table", "node"] | None = None
    prices: dict[str, float] = field(default_factory=dict)
    beside: int = 0

    def __post_init__(self) -> None:
        for policy, price in self.prices.items():
            if not 0 <= price < inf:
                raise InputError(f"a price of {price} us for {policy} is not 0 or a positive number", "price")
        if self.moe_op == "functional" and self.preset.functional is None:
            raise InputError(
                f"hardware {self.name} has no [functional] section: it has the optimized MoE op alone", "moe_op"
            )
        there = [self.preset.dispatch.kind, *(["table"] if self.preset.table else [])]
        if self.dispatch_model not in (None, *there):
            asked, has = self.dispatch_model, ", ".join(there)
            raise InputError(f"hardware {self.name} has no dispatch model '{asked}'; it has {has}", "dispatch_model")

    def for_model(self, model: Model) -> "Cost":
        """The costs of this model's experts: of their size, where it is known and the figures grow with it."""
        sizes = model.hidden_size, model.expert_width
        preset = self.preset.for_expert(*sizes) if all(sizes) else self.preset
        return replace(self, preset=preset, beside=model.shared_beside)

    def expert_bytes(self, model: Model) -> float | None:
        """The bytes of the weights of one of this model's experts, in the precision of the preset; None where the
        preset does not say. Where the size of the model's experts is not known it is that of the preset's."""
        preset = self.for_model(model).preset
        own, there = preset.expert, preset.compute.weight_bytes
        if there is None or own is None or not model.hidden_size:
            return there
        return there * model.hidden_size * model.expert_width / (own.hidden_size * own.expert_width)

    def notes(self, model: Model) -> list[str]:
        """A sentence where the times for this model are those of experts of another size, or where its own size is not
        known; else none."""
        own, sizes = self.for_model(model).preset.expert, (model.hidden_size, model.expert_width)
        if own is None or sizes == (own.hidden_size, own.expert_width):
            return []
        whose = "DeepSeek-V3's expert" if (own.hidden_size, own.expert_width) == DEEPSEEK_V3 else "an expert"
        why = "are not scaled to" if all(sizes) else "do not know the size of"
        said = f"times of {self.name} are those of {whose} (hidden size {own.hidden_size}, width {own.expert_width})"
        return [f"{said}: they {why} the experts of model {model.name}"]

    def beside_ns(self, own_tokens: Ints) -> Ints:
        """How long devices compute the shared experts that take no slots, by the number of their own tokens; both in
        the same shape, whole nanoseconds. Each shared expert takes as long as a slot with as many tokens, and does not
        overlap with anything [inferred].
        """
        packed = self if self.moe_op == "optimized" else replace(self, moe_op="optimized")
        time: Ints = self.beside * packed.slot_ns(int(own_tokens.max(initial=0)))[own_tokens]
        return time

    def routing_us(self, policy: str, information: Information) -> float:
        """How long a batch waits until this policy has chosen replicas, in microseconds.

        It is the policy's own price where one was given, else the preset's for what the policy must know.
        """
        price: float = getattr(self.preset.routing, f"{information}_us")
        return self.prices.get(policy, price)

    @property
    def uses_table(self) -> bool:
        """Whether `table_us` is the dispatch time to use, instead of `dispatch_us`."""
        return self.dispatch_model == "table"

    @property
    def dispatch_per_expert(self) -> bool:
        """Whether tokens are sent one message per (token, expert) instead of per (token, device); rings multicast."""
        dispatch = self.preset.dispatch
        return isinstance(dispatch, NodeTransfer) and dispatch.message_per == "expert"

    @property
    def combine_per_expert(self) -> bool:
        """Whether results travel back one message per (token, expert) instead of per (token, device)."""
        return self.moe_op == "functional" or self.preset.combine.message_per == "expert"

    @property
    def unit(self) -> Literal["tiles", "tokens"]:
        """What the method `tiles` counts on this hardware."""
        return "tiles" if isinstance(self.preset.compute, TileCompute) else "tokens"

    @property
    def tile_tokens(self) -> int:
        """How many tokens a tile holds, all of which cost as much as one; 1 where every token costs time."""
        compute = self.preset.compute
        return compute.tile_tokens if isinstance(compute, TileCompute) else 1

    @property
    def read_tokens(self) -> int:
        """How many tokens of a slot cost no more than one, as they are multiplied while the expert's weights are read;
        where compute is told by tiles, for each of which weights are read again, those of a tile."""
        compute = self.preset.compute
        if isinstance(compute, TileCompute):
            return compute.tile_tokens
        return max(1, int(_read_us(compute) / _multiply_us(compute)))

    @property
    def tile_ns(self) -> tuple[int, int]:
        """Nanoseconds of a slot's first tile and of each further one; (1, 1) where more than tiles decides."""
        compute = self.preset.compute
        if self.moe_op == "functional" or not isinstance(compute, TileCompute):
            return 1, 1
        return _ns(compute.first_tile_us), _ns(compute.further_tile_us)

    @property
    def functional(self) -> FunctionalCompute:
        """The figures of the functional op. Raises ValueError where the preset has none."""
        if self.preset.functional is None:
            raise ValueError(f"hardware {self.name} has no [functional] section")
        return self.preset.functional

    def tiles(self, load: Ints) -> Ints:
        """How many tiles (or tokens, see `unit`) a slot with this many tokens works through, in the shape of `load`."""
        return -(-load // self.tile_tokens)

    def slot_ns(self, most_tokens: int, batch_blocks: int | None = None) -> Ints:
        """Compute time of one filled slot by its load, `[most_tokens + 1]` int64 nanoseconds.

        The times are whole nanoseconds, so that searches and simulator can be compared with ==. The functional op's
        time depends on the source rows of the tokens, which no such table knows. The table takes tokens that fall
        anywhere in the batch's `batch_blocks` blocks, on average; without `batch_blocks` it takes tokens in as few
        blocks as possible.
        """
        tokens = np.arange(most_tokens + 1)
        if self.moe_op == "functional":
            return _functional_ns(self.functional, tokens, batch_blocks)
        if isinstance(self.preset.compute, RooflineCompute):
            return _roofline_ns(self.preset.compute, tokens)
        return _staircase_ns(self.preset.compute, self.tiles(tokens))

    def slot_us(self, slot_load: Ints, slot_blocks: Ints | None = None, filled: Bools | None = None) -> Floats:
        """How long each slot works, `[..., device, slot]` microseconds.

        slot_load `[..., device, slot]` tokens. The functional op asks for slot_blocks of the same shape, the blocks of
        consecutive tokens of one source row that send the slot anything, and `filled [device, slot]`.
        """
        time: Floats = self.slot_work_ns(slot_load, slot_blocks, filled) / NS_PER_US
        return time

    def compute_us(
        self,
        slot_load: Ints,
        slot_blocks: Ints | None = None,
        filled: Bools | None = None,
        slowdown: Floats | None = None,
    ) -> Floats:
        """Compute time of each batch, `[batch]` microseconds: that of the slowest device.

        The slots of a device run one after another. slot_load `[batch, device, slot]` tokens; slot_blocks and filled
        are those of `slot_us`; `slowdown [device]` multiplies a device's time.
        """
        spent = self.slot_work_ns(slot_load, slot_blocks, filled).sum(axis=2)
        slowest: Floats = (spent if slowdown is None else spent * slowdown).max(axis=1) / NS_PER_US
        return slowest

    def dispatch_us(self, halves: Ints, remote: Bools | None = None) -> Floats:
        """Dispatch time of each batch by its busiest link, `[batch]` microseconds.

        halves `[batch, ...]` counts half messages on each link; `remote [link]` marks the links between nodes, and is
        None where there are none.
        """
        return _busiest_link_us(self.preset.dispatch, halves, remote)

    def combine_us(self, halves: Ints, remote: Bools | None = None) -> Floats:
        """Combine time of each batch, `[batch]` microseconds; halves and remote are those of `dispatch_us`."""
        return _busiest_link_us(self.preset.combine, halves, remote)

    def dispatch_message_us(self, remote: Bools) -> Floats:
        """How long one whole message of dispatch keeps each link busy, `[link]` microseconds; remote `[link]`."""
        return _message_us(self.preset.dispatch, remote)

    def combine_message_us(self, remote: Bools) -> Floats:
        """How long one whole message of combine keeps each link busy, `[link]` microseconds; remote `[link]`."""
        return _message_us(self.preset.combine, remote)

    def table_us(self, experts_in_column: Ints, hops: Ints | Floats) -> Floats:
        """Dispatch time of tokens by the table model, in microseconds; a batch takes as long as its slowest token.

        experts_in_column: the largest number of a token's experts in one column; hops: the ring distance of its
        farthest target; both of one shape, which the result has too. Raises ValueError where the preset has no such
        model.
        """
        table = self.preset.table
        if table is None:
            raise ValueError(f"hardware {self.name} has no [table] section")
        time: Floats = table.base_us + table.per_expert_us * experts_in_column + table.per_hop_us * hops
        return time

    def message_ns(self, mesh: Mesh) -> int:
        """Nanoseconds that it saves to have two experts of a token on one device, if all links are equally busy.

        It saves a message each way. It saves none where there is a message for every expert, nor in a multicast, which
        passes by in any case.
        """
        share, slow = self._share_of_links(mesh)
        transfers: list[LinkDispatch | NodeTransfer] = [] if self.combine_per_expert else [self.preset.combine]
        if isinstance(self.preset.dispatch, NodeTransfer) and not self.dispatch_per_expert:
            transfers.append(self.preset.dispatch)
        microseconds = sum(float(_message_us(transfer, np.array([slow]))[0]) for transfer in transfers)
        return round(NS_PER_US * microseconds * share)

    def _share_of_links(self, mesh: Mesh) -> tuple[float, bool]:
        """How often a message passes a link, averaged over links and targets, and whether the links are slow ones.

        The average distance on a ring of n places is (n * n // 4) / n; the axis with the larger average decides.
        """
        network = self.preset.network
        if network.links == "rings":
            lengths = (mesh.rows,) if network.tokens == "row" else (mesh.rows, mesh.cols)
            return max(length * length // 4 / length for length in lengths) / (2 * mesh.devices), False
        slow = network.links == "nodes" and mesh.rows > 1
        return (1 - 1 / (mesh.rows if slow else mesh.devices)) / mesh.devices, slow

    def slot_work_ns(self, slot_load: Ints, slot_blocks: Ints | None, filled: Bools | None) -> Ints:
        """What `slot_us` says, in whole nanoseconds, so that sums do not depend on their order."""
        if self.moe_op == "optimized":
            spent: Ints = self.slot_ns(int(slot_load.max(initial=0)))[slot_load]
            return spent
        if slot_blocks is None or filled is None:
            raise ValueError("the functional op needs slot_blocks and filled")
        load, block = _ns(self.functional.load_us), _ns(self.functional.block_us)
        return load * filled.astype(np.int64) + block * slot_blocks.astype(np.int64)


def _ns(microseconds: float) -> int:
    """A time in microseconds, rounded to whole nanoseconds so that sums of times are exact."""
    return round(microseconds * NS_PER_US)


def _staircase_ns(compute: TileCompute, tiles: Ints) -> Ints:
    """The time of a slot by its tiles: the first one costs more than each further one."""
    time: Ints = np.where(tiles > 0, _ns(compute.first_tile_us) + _ns(compute.further_tile_us) * (tiles - 1), 0)
    return time.astype(np.int64)


def _roofline_ns(compute: RooflineCompute, tokens: Ints) -> Ints:
    """The time of a slot by its tokens: reading the weights or multiplying, whichever takes longer."""
    longer = np.maximum(_read_us(compute), tokens * _multiply_us(compute))
    time: Ints = np.rint(np.where(tokens > 0, longer, 0) * NS_PER_US).astype(np.int64)
    return time


def _read_us(compute: RooflineCompute) -> float:
    """How long it takes to read the weights of one expert, in microseconds."""
    return compute.weight_bytes / (compute.memory_gigabytes_per_second * 1e3)


def _multiply_us(compute: RooflineCompute) -> float:
    """How long it takes to multiply one token by the weights of one expert, in microseconds."""
    return compute.flops_per_token / (compute.peak_tflops * compute.efficiency * 1e6)


def _functional_ns(functional: FunctionalCompute, tokens: Ints, batch_blocks: int | None) -> Ints:
    """The time of a filled slot by its tokens: loading it, and each block of tokens with any token for it."""
    if batch_blocks is None:
        blocks = np.ceil(tokens / functional.block_tokens)
    else:
        blocks = batch_blocks * (1 - (1 - 1 / batch_blocks) ** tokens)  # the expected number of bins that hold a ball
    time: Ints = _ns(functional.load_us) + np.rint(_ns(functional.block_us) * blocks).astype(np.int64)
    return time


def _message_us(transfer: LinkDispatch | NodeTransfer, remote: Bools) -> Floats:
    """How long a message keeps each link busy, `[link]` microseconds."""
    if isinstance(transfer, NodeTransfer):
        near = transfer.local_gigabytes_per_second
        far = transfer.gigabytes_per_second or near  # a switch has no remote links, and so may have no speed for them
        speed = np.where(remote, far, near)
    else:
        speed = np.full(len(remote), transfer.gigabytes_per_second)
    time: Floats = transfer.bytes_per_token / (speed * 1e3)
    return time


def _busiest_link_us(transfer: LinkDispatch | NodeTransfer, halves: Ints, remote: Bools | None) -> Floats:
    """The base time plus how long messages keep the busiest link busy, `[batch]` microseconds.

    Messages are counted in halves, as one that goes to the antipode of a ring is split.
    """
    links = halves.reshape(len(halves), -1)
    message_us = _message_us(transfer, np.zeros(links.shape[1], dtype=np.bool_) if remote is None else remote)
    time: Floats = transfer.base_us + (links * (message_us / 2)).max(axis=1)
    return time
