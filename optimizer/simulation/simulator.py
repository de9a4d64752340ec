"""The simulator: routes every token of recorded batches and counts what devices and links carry.

What it reports is what a cost evaluator of the search must agree with exactly on the same batches and policy.
"""

from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.domain.placement import EMPTY, Placement
from optimizer.errors import InputError
from optimizer.routing.capacity import Coactivation, Rerouted, limit_replicas
from optimizer.routing.context import CAPACITY_FACTOR, LearnedShares, RoutingContext, capacity_of
from optimizer.routing.policies import POLICIES, REMEMBERING, check_policy, price_us
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.report import Queues, Rerouting, SimulationReport
from optimizer.simulation.timing import Clock, Routed, Times
from optimizer.traces.batches import Batches

NOTHING = np.empty(0, dtype=np.int32)
# Pairs that are routed at a time, so that memory does not grow with the number of batches. A compromise between memory
# and the fixed cost of a call; not tuned.
CHUNK_PAIRS = 1 << 20


def simulate(
    placement: Placement,
    batches: Batches,
    model: Model,
    mesh: Mesh,
    cost: Cost,
    conditions: Conditions,
    learned: LearnedShares | None = None,
    layers_before: tuple[Placement | None, ...] = (),
) -> SimulationReport:
    """Route every pair of every batch under a placement, and report what devices and links carry and how long it takes.

    learned: what train batches taught, for the policies in `policies.LEARNING`. layers_before: as of `RoutingContext`.
    Raises as `Simulation` and its `feed` do.
    """
    simulation = Simulation(placement, model, mesh, cost, conditions, learned, layers_before=layers_before)
    simulation.feed(batches)
    return simulation.report()


class _Part(NamedTuple):
    """What is kept of some batches; the fields have the shapes and meanings of those of `SimulationReport`."""

    routing_us: Floats
    dispatch_us: Floats
    compute_us: Floats
    combine_us: Floats
    device_load: Ints
    device_tiles: Ints
    device_active: Ints
    spread: Ints
    row_traffic: Ints
    critical: Ints


class Simulation:
    """One layer under one policy, which is fed with batches and keeps nothing but figures per batch.

    learned: what train batches taught, for the policies in `policies.LEARNING`. guess: how a token's next expert is
    estimated where a capacity is set and no candidates are recorded. layers_before: as of `RoutingContext`. Raises
    ValueError for an invalid placement, and InputError as `Conditions.alive` does and for overlap with a dispatch model
    that has no links.
    """

    def __init__(
        self,
        placement: Placement,
        model: Model,
        mesh: Mesh,
        cost: Cost,
        conditions: Conditions,
        learned: LearnedShares | None = None,
        guess: Coactivation | None = None,
        layers_before: tuple[Placement | None, ...] = (),
    ) -> None:
        if faults := placement.violations(model.experts, mesh.devices, mesh.slots_per_device):
            raise ValueError("; ".join(faults))
        if conditions.timing == "overlap" and cost.uses_table:
            raise InputError("overlap needs a dispatch model with links, and the table model has none", field="timing")
        self.model, self.mesh, self.cost, self.conditions = model, mesh, cost, conditions
        self.placement = conditions.alive(placement, model)
        self.network: Network = Network.of(mesh, cost.preset.network)
        self.learned, self.guess, self.layers_before = learned, guess, layers_before
        self.unit = conditions.unit or cost.unit
        self.tokens = 0
        self.clock = Clock(cost, self.network, self.placement.slots != EMPTY, conditions.slowdown(mesh.devices))
        self._parts: list[_Part] = []
        self._rerouted: list[Rerouted] = []
        self._out = np.zeros(len(self.network.remote), dtype=np.int64)
        self._back = np.zeros(len(self.network.remote), dtype=np.int64)
        self._queues = Queues.none(mesh.devices)

    def feed(self, batches: Batches) -> None:
        """Run these batches too.

        Raises ValueError if they have another number of tokens than the batches before, InputError if they name an
        expert that the model does not have or a source that the mesh does not have, or if there is no such policy.
        """
        self._check(batches)
        self.tokens = self.tokens or batches.tokens
        if batches.tokens != self.tokens:
            raise ValueError(f"batches of {batches.tokens} tokens after batches of {self.tokens}")
        step = max(1, CHUNK_PAIRS // (batches.tokens * batches.experts.shape[2]))
        for first in range(0, batches.count, step):
            self._run(batches.part(first, first + step))

    def slot_loads(self, batches: Batches) -> Ints:
        """The pairs that each slot serves of these batches, `[batch, slot]`, of which no figure is kept.

        Raises as `feed` does.
        """
        self._check(batches)
        self.tokens = self.tokens or batches.tokens
        chosen, slots = self._chosen(batches, batches.source_on(self.network)), self.placement.slots.size
        place = chosen + np.arange(batches.count)[:, None, None] * slots
        load: Ints = np.bincount(place[chosen >= 0], minlength=batches.count * slots).reshape(batches.count, slots)
        return load

    def _check(self, batches: Batches) -> None:
        """Refuse ids with which the kernels, which do not check, would read and write outside their arrays."""
        _within("expert ids", batches.experts, self.model.experts, f"model {self.model.name}")
        _within("source rows", batches.source_row, self.mesh.rows, "the mesh")
        if batches.candidates is not None:
            _within("candidate experts", batches.candidates, self.model.routed_experts, f"model {self.model.name}")

    @property
    def batches(self) -> int:
        """Number of batches fed so far."""
        return sum(len(part.dispatch_us) for part in self._parts)

    @property
    def routing_us(self) -> float:
        """How long a batch waits until the policy has chosen replicas, in microseconds."""
        return price_us(self.cost, self.conditions.routing)

    @property
    def capacity(self) -> int:
        """Pairs of a batch that each replica takes, for the policies and conditions that limit them."""
        factor = self.conditions.capacity_factor or CAPACITY_FACTOR
        replicas = int(np.count_nonzero(self.placement.slots != EMPTY))
        return capacity_of(factor, self.tokens, self.model, replicas)

    def _run(self, batches: Batches) -> None:
        """Route some batches and keep their figures."""
        source = batches.source_on(self.network)
        routed = self.clock.count(self._chosen(batches, source), source, batches.source_row)
        self._out += routed.traffic.out.sum(axis=0)
        self._back += routed.traffic.back.sum(axis=0)
        self._parts.append(
            _Part(
                np.full(batches.count, self.routing_us),
                *self._times(routed),
                device_load=routed.slot_load.sum(axis=2, dtype=np.int32),
                device_tiles=self.cost.tiles(routed.slot_load).sum(axis=2, dtype=np.int32),
                device_active=np.count_nonzero(routed.slot_load, axis=2).astype(np.int32),
                spread=routed.traffic.spread,
                row_traffic=routed.traffic.arrivals,
                critical=self._critical(routed),
            )
        )

    def _times(self, routed: Routed) -> Times:
        """How long routed batches take; with overlap the waiting and work of devices is kept too."""
        if self.conditions.timing == "barrier":
            return self.clock.in_turn(routed)
        times, found = self.clock.overlapping(routed)
        self._queues = self._queues.added(found.waiting, found.busy, found.end)
        return times

    @cached_property
    def _context(self) -> RoutingContext:
        """What the policy may look at. It is made when the first batch comes, as the capacity follows from its size."""
        tile, unit_ns = 1, (1, 1)
        if self.unit == "tiles":
            tile, unit_ns = self.cost.tile_tokens, self.cost.tile_ns
        message_us = self.cost.combine_message_us(self.network.remote)
        known = self.capacity, self.learned, unit_ns, message_us
        context = RoutingContext.of(self.placement, self.model, self.network, tile, *known)
        hints, read_tokens = self.conditions.hints, self.cost.read_tokens
        return replace(context, layers_before=self.layers_before, hints=hints, read_tokens=read_tokens)

    def _chosen(self, batches: Batches, source: Ints) -> Ints:
        """The flat slot that serves each pair, `[batch, token, k]`, after a capacity limit if there is one."""
        check_policy(self.conditions.routing)
        chosen = POLICIES[self.conditions.routing](batches.experts, source, self._context)
        if self.conditions.capacity_factor is None:
            return chosen
        guess = None if batches.candidates is not None else self.guess
        rerouted = limit_replicas(chosen, batches, source, self._context, self.model, guess, self.conditions.drop)
        self._rerouted.append(rerouted._replace(chosen=NOTHING))
        self._estimated = guess is not None, batches.weights is None
        return rerouted.chosen

    def _critical(self, routed: Routed) -> Ints:
        """What decides the latency of each batch, `[batch, 4]` int32, as of `SimulationReport.critical`.

        Of devices, or experts on the slowest device, that take equally long, the one with the most pairs counts.
        """
        spent, load, traffic = routed.spent, routed.slot_load, routed.traffic
        device = _largest(self.clock.device_ns(routed), load.sum(axis=2))
        here = np.arange(len(device)), device
        slot = _largest(spent[here], load[here])
        busy = traffic.out * self.clock.out_us, traffic.back * self.clock.back_us
        links = [np.where(of.max(axis=1) > 0, of.argmax(axis=1), -1) for of in busy]
        return np.stack([device, self.placement.slots[device, slot], *links], axis=1).astype(np.int32)

    def report(self) -> SimulationReport:
        """The report on all batches fed so far. Raises ValueError if there were none."""
        if not self._parts:
            raise ValueError("no batches were simulated")
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in self._parts]) for name in _Part._fields
        }
        return SimulationReport(
            **joined,
            routing=self.conditions.routing,
            tokens=self.tokens,
            network=self.network,
            dispatch_model=self.cost.dispatch_model or self.cost.preset.dispatch.kind,
            unit=self.unit,
            moe_op=self.cost.moe_op,
            timing=self.conditions.timing,
            out=self._out,
            back=self._back,
            hints=self.conditions.hints if self.conditions.routing in REMEMBERING else None,
            rerouting=self._rerouting(),
            queues=None if self.conditions.timing == "barrier" else self._queues,
        )

    def _rerouting(self) -> Rerouting | None:
        """What the capacity limit did to all batches fed so far; None without a limit."""
        factor = self.conditions.capacity_factor
        if factor is None:
            return None
        names = ("moved", "rerouted", "dropped", "over", "kept")
        counts = {name: np.concatenate([getattr(part, name) for part in self._rerouted]) for name in names}
        pairs = self.tokens * self.model.top_k
        return Rerouting(factor, self.capacity, **counts, routed_pairs=pairs, next_estimated=self._estimated[0],
                         weights_estimated=self._estimated[1])  # fmt: skip


def _within(what: str, ids: Ints, count: int, owner: str) -> None:
    """Raise InputError unless all ids `[...]` are within 0..count - 1, which is what their owner has."""
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < count:
        raise InputError(f"the batches' {what} are {ids.min()}..{ids.max()}, but {owner} has 0..{count - 1}", "batches")


def _largest(first: Ints | Floats, then: Ints) -> Ints:
    """The index of the largest value in each row of first `[batch, place]`, `[batch]`.

    Between equal values the larger one in then `[batch, place]` decides, and then the lower index.
    """
    leading = first == first.max(axis=1, keepdims=True)
    found: Ints = np.where(leading, then, -1).argmax(axis=1)
    return found
