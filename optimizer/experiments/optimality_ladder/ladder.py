"""The instances of the benchmark: layers of the built-in generator for each mesh size, and layers of traces."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.presets import load_hardware, load_model
from optimizer.domain.problem import Constraints, Problem, make_problem
from optimizer.errors import InputError
from optimizer.planning.options import Progress
from optimizer.planning.plan_expected_load import step_loads
from optimizer.traces.batches import Batches
from optimizer.traces.corpus import TraceFile, stream
from optimizer.traces.counted_source import open_counts
from optimizer.traces.formats.npz import layer_ids
from optimizer.traces.formats.request import Request
from optimizer.traces.infer import ModelChoice, model_of_files
from optimizer.traces.source import Source, TraceInput, TraceSource, open_source
from optimizer.traces.synthetic.generator import builtin_trace
from optimizer.traces.trace import digest

LADDER = {
    "1x8": Model("row", 16, 0, 4),
    "4x2": Model("full", 24, 0, 4),
    "4x4": Model("small", 32, 0, 4),
    "4x8": Model("medium", 64, 0, 8, groups=8, groups_per_token=4),
    "16x8": load_model("deepseek-v3"),
}
"""The model that is generated for each mesh, smallest first. It has two thirds as many experts as the mesh has slots,
as DeepSeek-V3 has on 128 devices, but on 4x2 as many experts as slots, so that nothing can be replicated."""

SLOTS = 3  # per device, as DeepSeek-V3 has on 128 devices
DEVICE_PAIRS = 32  # pairs per device and batch, as with 512 tokens of DeepSeek-V3 on 128 devices
BATCHES, APART = 16, 16  # every 16th batch is taken, as neighbours share most of their requests
LAYERS = 3  # instances of each mesh and of each trace; a compromise with the time of the benchmark
HARDWARE = "tt-wormhole-quad-galaxy"  # a problem needs some hardware; loads do not depend on it


@dataclass(frozen=True, eq=False)
class LadderInstance:
    """One layer to place on one mesh; counted: whether its batches are recorded steps without tokens; batches: the
    tokens behind the loads, None where there are none."""

    name: str
    size: str
    problem: Problem
    counted: bool = False
    batches: Batches | None = None

    @cached_property
    def digest(self) -> str:
        """A digest of the mesh and the loads; a row of results is valid for an instance with the same digest alone."""
        mesh = self.problem.mesh
        return digest(np.array([mesh.rows, mesh.cols, mesh.slots_per_device]), self.problem.load)


def generated(sizes: Iterable[str], notify: Progress) -> Iterator[LadderInstance]:
    """The first layers of the model that is generated for each mesh; they are the same in every run."""
    for size in sizes:
        notify(f"instances {size}", 0.0)
        model, mesh = LADDER[size], Mesh.parse(size, SLOTS)
        layers = [model.first_moe_layer + number for number in range(LAYERS)]
        named = TraceInput(batch_tokens=_tokens(model, mesh))
        source = TraceSource(model, named.composition(mesh), builtin_trace(model, layers, named.seed), named.seed)
        for layer in layers:
            yield _of_tokens(f"generated layer {layer}", size, model, _batches(source, layer))


def of_trace(path: str, sizes: Sequence[str], notify: Progress) -> Iterator[LadderInstance]:
    """Layers of one trace, evenly spaced, on the first of the meshes that has a slot for each expert.

    Raises InputError for a trace that cannot be used, or that has more experts than any of the meshes has slots.
    """
    notify(f"reading {path}", 0.0)
    name, named = Path(path).resolve().name, TraceInput(traces=[path])
    if (counted := open_counts(named, ModelChoice())) is not None:
        counts, model = counted
        size = _fitting(path, model, sizes)
        for layer in _drawn(counts.layers):
            yield _instance(f"{name} layer {layer}", size, model, step_loads(counts, layer, model), counted=True)
        return
    model = model_of_files(ModelChoice(), named.files)
    size = _fitting(path, model, sizes)
    mesh, layers = Mesh.parse(size, SLOTS), _drawn(_layers(named.files, model))
    named = TraceInput(traces=[path], batch_tokens=_tokens(model, mesh))
    source = open_source(named, layers, model, mesh, lambda share: notify(f"reading {path}", share))
    for layer in layers:
        yield _of_tokens(f"{name} layer {layer}", size, model, _batches(source, layer))


def tiny() -> list[LadderInstance]:
    """Two layers, with and without slots to spare, that are solved at once and compile all that others need."""
    loads = [[1, 2, 3, 4], [4, 3, 2, 1]], [[8, 1, 5, 2, 7, 3], [1, 6, 2, 6, 4, 9]]
    return [
        _instance(f"{len(load[0])} experts", "1x2", Model("tiny", len(load[0]), 0, 1), np.array(load, dtype=np.int32))
        for load in loads
    ]


def _batches(source: Source, layer: int) -> Batches:
    """Up to BATCHES evenly spaced batches of those that are drawn from all requests."""
    parts = list(source.stream(layer, test_only=False, count=BATCHES * APART))
    experts = np.concatenate([part.experts for part in parts])
    drawn = _drawn_from(len(experts))
    return Batches(experts[drawn], np.concatenate([part.source_row for part in parts])[drawn])


def _of_tokens(name: str, size: str, model: Model, batches: Batches) -> LadderInstance:
    """The instance of these batches."""
    return replace(_instance(name, size, model, batches.load(model.experts)), batches=batches)


def _drawn_from(number: int) -> Ints:
    """Up to BATCHES evenly spaced places among this number."""
    return np.linspace(0, number - 1, min(BATCHES, number)).astype(np.int64)


def _instance(name: str, size: str, model: Model, load: Ints, counted: bool = False) -> LadderInstance:
    """The instance of up to BATCHES evenly spaced batches, or recorded steps, of load `[batch, expert]`."""
    drawn = load[_drawn_from(len(load))]
    cost = Cost(HARDWARE, load_hardware(HARDWARE))
    return LadderInstance(
        name, size, make_problem(model, Mesh.parse(size, SLOTS), cost, drawn, Constraints("auto")), counted
    )


def _tokens(model: Model, mesh: Mesh) -> int:
    """The tokens of a batch that give each device DEVICE_PAIRS pairs on average."""
    return DEVICE_PAIRS * mesh.devices // model.top_k


def _fitting(path: str, model: Model, sizes: Sequence[str]) -> str:
    """The first mesh size that has a slot for each expert of the trace's model."""
    for size in sizes:
        if model.experts <= Mesh.parse(size, SLOTS).slots:
            return size
    raise InputError(
        f"{path}: {model.experts} experts fit in no mesh of {', '.join(sizes)}; name a larger one", "sizes"
    )


def _layers(files: Sequence[TraceFile], model: Model) -> Sequence[int]:
    """The layers that the first readable request holds."""
    for _, request in stream(files, model):
        if isinstance(request, Request):
            ids = request.layers or layer_ids(request.experts, model, None)
            return [layer for place, layer in enumerate(ids) if request.experts[:, place].any()]
    return []


def _drawn(layers: Sequence[int]) -> list[int]:
    """LAYERS evenly spaced layers, neither the first nor the last where there are more; all where there are fewer."""
    number = min(LAYERS, len(layers))
    return [layers[(2 * place + 1) * len(layers) // (2 * number)] for place in range(number)]
