"""What several tests build: random placements, batches, problems and request files."""

from pathlib import Path
from typing import Any

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.placement import Placement
from optimizer.domain.presets import load_hardware
from optimizer.domain.problem import Constraints, Problem, make_problem
from optimizer.traces.batches import Batches, Sets, default_rows, with_shared

WORMHOLE = "tt-wormhole-quad-galaxy"


def cost(per_expert: bool = False) -> Cost:
    """The cost model of the default hardware, which combines per device or per expert."""
    preset = load_hardware(WORMHOLE)
    combine = preset.combine.model_copy(update={"message_per": "expert" if per_expert else "device"})
    return Cost(WORMHOLE, preset.model_copy(update={"combine": combine}))


def routed(rng: np.random.Generator, batches: int, tokens: int, model: Model) -> Ints:
    """Draw top-k choices `[batch, token, top_k]`, of different experts, some far hotter than others."""
    popularity = rng.exponential(size=model.routed_experts) ** 2
    score = np.log(popularity + 1e-9) + rng.gumbel(size=(batches, tokens, model.routed_experts))
    return np.argsort(-score, axis=2)[..., : model.top_k].astype(np.uint16)


def random_batches(rng: np.random.Generator, batches: int, tokens: int, model: Model, rows: int) -> Batches:
    """Draw batches whose tokens come from the rows in equal blocks."""
    experts = with_shared(routed(rng, batches, tokens, model), model)
    return Batches(experts, np.broadcast_to(default_rows(tokens, rows), experts.shape[:2]))


def random_placement(rng: np.random.Generator, experts: int, mesh: Mesh) -> Placement:
    """Draw a valid placement: it has every expert once, and replicas in some of the slots that are left."""
    while True:
        slots = np.full(mesh.slots, -1)
        slots[rng.permutation(mesh.slots)[:experts]] = np.arange(experts)
        placement = Placement(slots.reshape(mesh.devices, -1))
        filled = placement.slots.copy()
        for device, slot in np.argwhere(filled == -1):
            candidates = [e for e in range(experts) if e not in filled[device]]
            if candidates and rng.random() < 0.8:
                filled[device, slot] = rng.choice(candidates)
        found = Placement(filled)
        if not found.violations(experts, mesh.devices, mesh.slots_per_device):
            return found


def small_problem(seed: int, **changes: Any) -> tuple[Problem, Sets]:
    """Draw a problem small enough for the oracles, and its batches; changes are to the sizes named below."""
    rng = np.random.default_rng(seed)
    said = {
        "rows": 3,
        "cols": 2,
        "slots": 3,
        "routed": 9,
        "shared": 1,
        "top_k": 3,
        "tokens": 70,
        "replicas": None,
        "extra": None,
    } | changes
    model = Model("small", said["routed"], said["shared"], said["top_k"])
    mesh = Mesh(said["rows"], said["cols"], said["slots"])
    sets = Sets(*(random_batches(rng, 6, said["tokens"], model, mesh.rows) for _ in range(3)))
    load = sets.train.load(model.experts)
    return make_problem(model, mesh, cost(), load, Constraints(said["replicas"], said["extra"])), sets


def write_request(path: Path, experts: Any, prompt: int = 2, output: int | None = None, **more: Any) -> Path:
    """Write a native request file; without `output` it has as many output tokens as fit its prompt and experts."""
    tokens = len(experts) if np.ndim(experts) else 0
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        "request_id": np.int64(1),
        "prompt_token_ids": np.full(prompt, -1, dtype=np.int32),
        "output_token_ids": np.full(max(tokens - prompt, 0) if output is None else output, -1, dtype=np.int32),
        "routed_experts": experts,
    }
    np.savez(path, **(arrays | more))
    return path


def request_experts(rng: np.random.Generator, tokens: int, layers: int, experts: int, top_k: int) -> Ints:
    """Draw valid choices of one request, `[token, layer, k]` uint8."""
    return np.argsort(rng.random((tokens, layers, experts)), axis=2)[..., :top_k].astype(np.uint8)


def write_traces(folder: Path, rng: np.random.Generator) -> Path:
    """Write twelve small requests into the folder, and return it."""
    for number in range(12):
        write_request(folder / f"r{number}.npz", request_experts(rng, 20, 3, 8, 2))
    return folder
