"""Which model traces are of, now that presets share layers and top-k: what tells them apart, and what is said else."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from random_problems import request_experts, write_request

from formulations.kit.arrays import Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.presets import load_model, names
from optimizer.errors import InputError
from optimizer.traces.corpus import TraceFile, find_files
from optimizer.traces.counted_source import known_model, open_counts
from optimizer.traces.infer import ModelChoice, model_of_files
from optimizer.traces.source import TraceInput, open_traces


def files(folder: Path, experts: Ints) -> list[TraceFile]:
    write_request(folder / "a.npz", experts)
    return find_files([str(folder)])


@pytest.mark.parametrize("name", names("models"))
@pytest.mark.parametrize("axis", ["moe", "all"])
def test_traces_of_every_preset_are_recognised(tmp_path: Path, rng: np.random.Generator, name: str, axis: str) -> None:
    """Servers write all layers, zero where there are no experts, or those with experts alone."""
    model = load_model(name)
    experts = request_experts(rng, 40, model.moe_layers, model.routed_experts, model.top_k)
    if axis == "all":
        every = np.zeros((40, model.layers, model.top_k), dtype=experts.dtype)
        every[:, list(model.moe_layer_ids)] = experts
        experts = every
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model_of_files(ModelChoice(), files(tmp_path, experts)).name == name


def test_models_that_fit_equally_well_are_named_and_none_is_taken(tmp_path: Path) -> None:
    """A log names its layers, of which two models of Qwen3 have these, with as many experts and the same top-k."""
    path = tmp_path / "log.jsonl"
    lines = [{"layer": layer, "batch_id": 0, "origin_rows": [0] * 32,
              "topk_experts": [[(8 * token + place) % 128 for place in range(8)] for token in range(32)]}
             for layer in (0, 1)]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    named = find_files([str(path)])
    with pytest.warns(UserWarning, match="may be of qwen3-235b-a22b and qwen3-30b-a3b: name the model"):
        assert model_of_files(ModelChoice(), named) == Model("custom", 128, 0, 8)
    assert model_of_files(ModelChoice("qwen3-30b-a3b"), named).name == "qwen3-30b-a3b"


def test_layers_of_every_second_kind_are_numbered_by_the_model(tmp_path: Path, rng: np.random.Generator) -> None:
    """Maverick's 24 rows are layers 1, 3 .. 47, in requests as in counts; DeepSeek-V3's 59 end with the MTP layer."""
    maverick = files(tmp_path / "m", request_experts(rng, 20, 24, 128, 1))
    named = TraceInput(traces=[str(tmp_path / "m")])
    trace = open_traces(named, [1, 47], ModelChoice("llama-4-maverick"), Mesh(2, 2, 33), lambda share: None).trace
    with np.load(maverick[0].path) as archive:
        assert (trace.layer(47) == archive["routed_experts"][:, 23]).all()
    with pytest.raises(InputError, match="layer 2 is no MoE layer of llama-4-maverick"):
        open_traces(named, [2], ModelChoice("llama-4-maverick"), Mesh(2, 2, 33), lambda share: None)
    files(tmp_path / "v3", request_experts(rng, 20, 59, 256, 8))
    named = TraceInput(traces=[str(tmp_path / "v3")])
    assert known_model(named, ModelChoice()).name == "deepseek-v3"
    trace = open_traces(named, [61], ModelChoice(), Mesh(2, 2, 65), lambda share: None).trace
    assert trace.layers == (61,)


def test_counts_of_every_second_layer_are_numbered_by_the_model(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    path.write_text(json.dumps({"logical_count": [[layer + 1] * 128 for layer in range(24)]}))
    found = open_counts(TraceInput(traces=[str(path)]), ModelChoice("llama-4-maverick"))
    assert found is not None
    assert found[0].layers == found[0].counted_layers == tuple(range(1, 48, 2))
    assert known_model(TraceInput(traces=[str(path)]), ModelChoice("llama-4-maverick")).top_k == 1
