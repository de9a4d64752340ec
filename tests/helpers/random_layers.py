"""Small random layers for the routing and simulator tests, as the program sees them and as the oracles do."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st
from random_problems import WORMHOLE, random_placement, routed
from reference_routing import Layer
from reference_traffic import Wires

from formulations.kit.arrays import Ints
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.domain.presets import load_hardware
from optimizer.domain.presets.schema import HardwarePreset
from optimizer.routing.context import LearnedShares, RoutingContext
from optimizer.routing.hints import USUAL_HINTS, HintSettings
from optimizer.routing.tables import DispatchTable
from optimizer.traces.batches import Batches, default_rows, with_shared

TokensAt = Literal["row", "column", "device"]
Links = Literal["rings", "switch", "nodes"]

SHAPES = [(1, 1), (1, 4), (2, 2), (3, 2), (4, 1), (4, 3), (5, 2), (8, 1)]
TOKENS_AT: list[TokensAt] = ["row", "column", "device"]
WIRINGS: list[tuple[TokensAt, Links]] = [(at, "rings") for at in TOKENS_AT]
WIRINGS += [(at, links) for at in TOKENS_AT for links in ("switch", "nodes")]


@dataclass(frozen=True)
class Case:
    """A layer with batches, with loads and shares as if they had been learned, and with layers before it."""

    model: Model
    mesh: Mesh
    placement: Placement
    batches: Batches
    learned: LearnedShares
    layers_before: tuple[Placement | None, ...] = ()

    def network(self, wiring: tuple[TokensAt, Links]) -> Network:
        """The network of this mesh with tokens and links as the wiring says."""
        return Network(self.mesh, *wiring)

    def wires(self, wiring: tuple[TokensAt, Links]) -> Wires:
        """The same network as the oracles take it."""
        return Wires(self.mesh.rows, self.mesh.cols, *wiring)

    def context(
        self, wiring: tuple[TokensAt, Links], tile: int, capacity: int, hints: HintSettings = USUAL_HINTS
    ) -> RoutingContext:
        """What a policy sees of the layer."""
        network = self.network(wiring)
        context = RoutingContext.of(self.placement, self.model, network, tile, capacity, self.learned)
        return replace(context, layers_before=self.layers_before, hints=hints)

    def layer(self, wiring: tuple[TokensAt, Links], tile: int, capacity: int) -> Layer:
        """What a policy sees of the layer, as the oracles take it."""
        load, share, known = self.learned.load.tolist(), self.learned.share.tolist(), self.learned.table
        depth = self.mesh.slots_per_device
        table = [] if known is None else [[divmod(slot, depth) for slot in row] for row in known.replica.tolist()]
        before = [None if placement is None else placement.slots.tolist() for placement in self.layers_before]
        slots = self.placement.slots.tolist()
        return Layer(self.wires(wiring), slots, tile, capacity, load, share, before, table)

    def flat(self, places: Any) -> list[list[int]]:
        """The flat slots of places that are (device, slot) as the oracles give them, -1 for None."""
        depth = self.mesh.slots_per_device
        return [[-1 if place is None else place[0] * depth + place[1] for place in token] for token in places]


def case(seed: int, shape: tuple[int, int], depth: int, shared: int = 0, replicas: int | None = None) -> Case:
    """A random layer of two batches; the mesh has the shape and `depth` slots per device.

    Tokens of a row are neighbours or mixed with others. An expert has up to `replicas` replicas, or any number (None).
    """
    rng = np.random.default_rng(seed)
    mesh = Mesh(*shape, depth)
    shared = min(shared, mesh.slots - 1)
    experts = int(rng.integers(shared + 1, mesh.slots + 1))
    model = Model("drawn", experts - shared, shared, int(rng.integers(1, min(experts - shared, 4) + 1)))
    placement = random_placement(rng, experts, mesh)
    if replicas is not None:
        placement = fewer(placement, replicas)
    tokens = int(rng.integers(1, 90))
    chosen = with_shared(routed(rng, 2, tokens, model), model)
    rows = default_rows(tokens, mesh.rows) if rng.random() < 0.5 else rng.integers(mesh.rows, size=(2, tokens))
    batches = Batches(chosen, np.broadcast_to(rows, (2, tokens)))
    taught = learned(rng, placement, experts, (0, mesh.rows, mesh.devices))
    before = [random_placement(rng, experts, mesh) if rng.random() < 0.5 else None for _ in range(rng.integers(4))]
    return Case(model, mesh, placement, batches, taught, tuple(before))


def fewer(placement: Placement, replicas: int) -> Placement:
    """The placement with only the first `replicas` replicas of each expert."""
    slots = placement.slots.ravel().copy()
    for expert in range(slots.max() + 1):
        slots[np.flatnonzero(slots == expert)[replicas:]] = -1
    return Placement(slots.reshape(placement.slots.shape))


def learned(
    rng: np.random.Generator, placement: Placement, experts: int, sources: tuple[int, ...] = (0,)
) -> LearnedShares:
    """Random loads, of which some are equal, random shares, of which some are zero, and a random table for any of these
    numbers of sources, or none for 0."""
    share = rng.integers(0, 4, placement.slots.shape) * (placement.slots >= 0)
    held = [placement.slots == expert for expert in range(experts)]
    even = LearnedShares.nothing(placement, experts).share
    total = sum(of * share[of].sum() for of in held)
    parts = np.where(total > 0, share / np.maximum(total, 1), even)
    load, size = rng.integers(1, 5, experts).astype(float), int(rng.choice(sources))
    rank = rng.integers(0, placement.counts(experts), (size, experts))
    return LearnedShares(load, parts, DispatchTable.of_ranks(placement, rank) if size else None)


def cases(shared: int = 2, replicas: int | None = None) -> st.SearchStrategy[Case]:
    """Random layers of small shapes, with up to `shared` shared experts."""
    return st.builds(
        case,
        st.integers(0, 10**6),
        st.sampled_from(SHAPES),
        st.integers(1, 3),
        st.integers(0, shared),
        st.just(replicas),
    )


def changed(name: str, **sections: dict[str, Any]) -> HardwarePreset:
    """A built-in preset with some figures of some sections changed."""
    text = load_hardware(name).model_dump()
    return HardwarePreset.model_validate(text | {key: text[key] | new for key, new in sections.items()})


def wired(wiring: tuple[TokensAt, Links], back: str = "device", out: str = "device", **asked: Any) -> Cost:
    """The hardware that has such links, tokens where the wiring says, and messages per device or expert.

    Blocks are smaller and multiplications dearer than they are, so that small batches meet both sides of a step.
    """
    sections: dict[str, Any] = {"network": {"tokens": wiring[0]}, "combine": {"message_per": back}}
    if wiring[1] == "rings":
        return Cost(WORMHOLE, changed(WORMHOLE, functional={"block_tokens": 4}, **sections), **asked)
    name = {"switch": "gb200-nvl72", "nodes": "h800"}[wiring[1]]
    sections |= {"dispatch": {"message_per": out}, "compute": {"flops_per_token": 1e9}}
    return Cost(name, changed(name, **sections), **asked)


def rows_of(batches: Batches, batch: int) -> list[int]:
    """The source rows of one batch."""
    rows: list[int] = batches.source_row[batch].tolist()
    return rows


def as_tokens(experts: Ints) -> list[list[int]]:
    """The experts of each token of one batch, as plain lists."""
    tokens: list[list[int]] = experts.tolist()
    return tokens
