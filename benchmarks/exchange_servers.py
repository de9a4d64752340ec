"""Whether the servers' own code reads what `moeplan export` writes, slot for slot.

Usage: python benchmarks/exchange_servers.py FOLDER. FOLDER holds servers' Python packages as they are released,
unpacked (`pip download --no-deps sglang`, then unzip): `sglang/srt/eplb/expert_location.py`,
`vllm_ascend/eplb/core/eplb_utils.py` and `tensorrt_llm/llmapi/llm_args.py` are run, whichever is there. The first two
need torch, which this project does not; put it beside. What they import of the rest of their servers is replaced by
objects that hold the sizes alone. Of TensorRT-LLM's module, which imports its GPU libraries, the class that holds the
file is run alone (`MoeLoadBalancerConfig`; the registry's package fetches them, so take the file from its repository).
The readers of vLLM's two proposals are in no package, as neither was merged; those of RTP-LLM, OmniInfer and tt-metal
are in none that can be imported without their devices' libraries.

Each server reads fifty random placements, of 4 to 64 ranks. Of SGLang the static table of every rank is compared with
`optimizer.routing.servers.sglang`, too, for the layers after a dense one.
"""

import ast
import importlib.util
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydantic
import yaml

from formulations.kit.arrays import Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.exchange.formats import write_placement
from optimizer.exchange.server_placement import ServerPlacement
from optimizer.routing.servers.sglang import static_table

CASES, LAYERS = 50, 3


def main(folder: Path) -> None:
    """Check each server whose package is there, and print how many placements it read."""
    readers = {
        "sglang": (folder / "sglang/srt/eplb/expert_location.py", check_sglang),
        "vllm-ascend": (folder / "vllm_ascend/eplb/core/eplb_utils.py", check_vllm_ascend),
        "tensorrt-llm": (folder / "tensorrt_llm/llmapi/llm_args.py", check_tensorrt_llm),
    }
    for name, (source, check) in readers.items():
        if not source.is_file():
            print(f"{name}: {source} is absent")
            continue
        count = run(balancer_class(source) if name == "tensorrt-llm" else loaded(source), check)
        print(f"{name}: its own code read {count} files of {count} as they were meant")


def run(module: Any, check: Callable[[Any, Path, Mesh, Ints, int], None]) -> int:
    """Let a server's module read random placements, and return how many; the first difference ends the program."""
    rng = np.random.default_rng(5)
    with TemporaryDirectory() as scratch:
        for _ in range(CASES):
            mesh = Mesh(int(rng.integers(1, 5)), int(rng.choice([4, 8, 16])), int(rng.integers(1, 4)))
            experts = int(rng.integers(mesh.slots_per_device, mesh.slots + 1))
            rows = np.array([drawn(rng, mesh, experts) for _ in range(LAYERS)])
            check(module, Path(scratch) / "placement.json", mesh, rows, experts)
    return CASES


def drawn(rng: np.random.Generator, mesh: Mesh, experts: int) -> Ints:
    """The slots of one layer: experts in random order again and again, so that no rank has one twice."""
    order = rng.permutation(experts)
    return order[np.arange(mesh.slots) % experts]


def check_sglang(module: Any, path: Path, mesh: Mesh, rows: Ints, experts: int) -> None:
    """SGLang's metadata hold the same slots, and its static tables are those that this project replays."""
    layers = tuple(range(len(rows)))
    write_placement(path, ServerPlacement("sglang", layers, rows, experts, mesh.devices))
    config = module.ModelConfigForExpertLocation(num_layers=len(rows), num_logical_experts=experts)
    SIZES.moe.init_expert_location = str(path)
    SIZES.moe.ep_num_redundant_experts = mesh.slots - experts
    SIZES.parallel.ep_size, SIZES.parallel.nnodes = mesh.devices, mesh.rows
    SIZES.config = config
    network = Network(mesh, tokens="device", links="nodes")
    placements = [Placement(row.reshape(mesh.devices, -1)) for row in rows]
    for rank in range(0, mesh.devices, 5):
        read = module.compute_initial_expert_location_metadata(SimpleNamespace(hf_config=None), rank)
        assert np.array_equal(read.physical_to_logical_map.numpy(), rows)
        table = read.logical_to_rank_dispatch_physical_map.numpy()
        for layer, placement in enumerate(placements):
            start, slot = placement.replicas(experts)
            own = static_table(start, slot, network, mesh.slots_per_device, placements[:layer])
            assert np.array_equal(table[layer], own[rank])


def check_vllm_ascend(module: Any, path: Path, mesh: Mesh, rows: Ints, experts: int) -> None:
    """vllm-ascend's placement of each layer is the same, by device."""
    layers = tuple(range(len(rows)))
    write_placement(path, ServerPlacement("vllm-ascend", layers, rows, experts, mesh.devices, "moe"))
    for layer, row in enumerate(rows):
        placement, count = module.expert_file_to_tensor(str(path), layer)
        assert count == mesh.slots
        assert np.array_equal(placement.numpy(), row.reshape(mesh.devices, -1))


def check_tensorrt_llm(balancer: Any, path: Path, mesh: Mesh, rows: Ints, experts: int) -> None:
    """TensorRT-LLM's configuration takes the keys, and has the same slots in each layer, and on each rank."""
    layers = tuple(range(3, 3 + len(rows)))
    write_placement(path, ServerPlacement("tensorrt-llm", layers, rows, experts, mesh.devices))
    read = balancer(**yaml.safe_load(path.read_text()))
    assert read.layer_updates_per_iter == 0
    for rank in range(mesh.devices):
        read.setup(ep_rank=rank, ep_size=mesh.devices)
        for layer, row in zip(layers, rows, strict=True):
            slots = read.get_layer_initial_global_assignments(layer)
            assert slots == row.tolist()
            own = row.reshape(mesh.devices, -1)[rank]
            assert slots[read.slot_start : read.slot_end] == own.tolist()


def balancer_class(source: Path) -> Any:
    """TensorRT-LLM's class of the file, by itself; its base forbids unknown keys."""
    parsed = ast.parse(source.read_text())
    (found,) = (each for each in parsed.body if isinstance(each, ast.ClassDef) and each.name == "MoeLoadBalancerConfig")
    base = type("StrictBaseModel", (pydantic.BaseModel,), {"model_config": pydantic.ConfigDict(extra="forbid")})
    own = {"StrictBaseModel": base, "Field": pydantic.Field, "PrivateAttr": pydantic.PrivateAttr}
    names: dict[str, Any] = {**vars(typing), **own, "__name__": "server_balancer"}
    exec(compile(ast.Module([found], []), str(source), "exec"), names)
    return names[found.name]


SIZES = SimpleNamespace(
    moe=SimpleNamespace(ep_dispatch_algorithm="static", moe_a2a_backend="deepep", ep_join_mode=None),
    parallel=SimpleNamespace(elastic_ep_initial_size=None),
    device="cpu",
    config=None,
)
"""The settings that servers' modules ask the rest of their server for."""


class Architecture:
    """Stands for a model class of SGLang, which says how many layers and experts a model has."""

    @staticmethod
    def get_model_config_for_expert_location(_: Any) -> Any:
        """The sizes of the case at hand."""
        return SIZES.config


def stand_in() -> None:
    """Put modules that hold `SIZES` alone in the place of what the servers' modules import."""
    given: dict[str, dict[str, Any]] = {
        "sglang": {},
        "sglang.srt": {},
        "sglang.srt.runtime_context": {
            "get_device": lambda: SIZES,
            "get_exec": lambda: SIZES,
            "get_parallel": lambda: SIZES.parallel,
            "get_resources": lambda: SIZES,
        },
        "sglang.srt.model_loader": {"get_model_architecture": lambda _: (Architecture, "")},
        "sglang.srt.elastic_ep": {},
        "sglang.srt.elastic_ep.elastic_ep": {"elastic_expanded_world_enabled": lambda: False},
        "vllm": {},
        "vllm.logger": {"logger": SimpleNamespace(warning=print, info=print)},
        "vllm.model_executor": {},
        "vllm.model_executor.layers": {},
        "vllm.model_executor.layers.fused_moe": {},
        "vllm.model_executor.layers.fused_moe.expert_map_manager": {"determine_expert_map": None},
    }
    for name, members in given.items():
        module = types.ModuleType(name)
        module.__dict__.update(members)
        sys.modules[name] = module


def loaded(source: Path) -> Any:
    """The module in a file."""
    stand_in()
    spec = importlib.util.spec_from_file_location(f"server_{source.stem}", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/exchange_servers.py FOLDER")
    main(Path(sys.argv[1]))
