"""Per-token records of SGLang's recorder and TensorRT-LLM: forward passes as requests, physical ids as experts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_files import damaged, little_memory, one_line, sound
from hypothesis import given
from random_problems import request_experts
from safetensors.numpy import save
from torch_files import torch_bytes, write_torch

from formulations.kit.arrays import Ints
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.traces.convert import convert
from optimizer.traces.corpus import find_files, read_traces
from optimizer.traces.formats.recorder_tokens import read_recorded_tokens
from optimizer.traces.formats.request import BadRequestError, Request
from optimizer.traces.formats.sniff import Format, sniff
from optimizer.traces.formats.tensorrt_raw import read_raw_ids

LAYERS, EXPERTS, COPIES, TOP_K = 4, 8, 3, 3
RNG = np.random.default_rng(8)
MAP = np.stack(
    [np.concatenate([np.arange(EXPERTS), RNG.integers(0, EXPERTS, COPIES)])[RNG.permutation(11)] for _ in range(LAYERS)]
)
MODEL = Model("m", EXPERTS, 0, TOP_K, LAYERS, 1)


def physical(experts: Ints) -> Ints:
    """Ids `[layer, token, 8]` as the recorder writes them: slots of the experts, -1 in layer 0 and beyond the top-k."""
    found = np.full((LAYERS, len(experts), 8), -1, dtype=np.int32)
    for token, row in enumerate(experts):
        for layer, chosen in enumerate(row, 1):
            for place, expert in enumerate(chosen):
                found[layer, token, place] = RNG.choice(np.flatnonzero(MAP[layer] == expert))
    return found


def a_pass(experts: Ints, mode: Any, lengths: Any = None) -> dict[str, Any]:
    said = {"input_ids": [1] * len(experts), "extend_seq_lens": lengths, "forward_mode": mode}
    return {"forward_pass_id": 5, "rank": 0, "topk_ids_of_layer": physical(experts), "misc_objects": []} | said


def recording(*passes: dict[str, Any]) -> dict[str, Any]:
    return {"records": list(passes), "last_physical_to_logical_map": MAP}


CHOSEN = request_experts(np.random.default_rng(2), 9, LAYERS - 1, EXPERTS, TOP_K)


def good(path: Path) -> list[Request]:
    found = []
    for request in read_recorded_tokens(path):
        assert isinstance(request, Request), str(request)
        found.append(request)
    return found


def test_physical_ids_of_passes_are_experts_of_requests(tmp_path: Path) -> None:
    """Prefill passes say the lengths of their prompts; a decode pass is the nearest to a request that is known."""
    nothing = CHOSEN[:0]
    passes = [a_pass(CHOSEN, 1, [2, 7]), a_pass(CHOSEN[:4], 2), a_pass(nothing, 2), a_pass(CHOSEN, 3, [1, 4, 1, 3])]
    path = write_torch(tmp_path / "a.pt", recording(*passes))
    assert sniff(path) is Format.RECORDER_TOKENS
    found = good(path)
    wanted = [CHOSEN[:2], CHOSEN[2:], CHOSEN[:4], CHOSEN[1:5], CHOSEN[6:], CHOSEN[[0, 5]]]
    assert [request.experts.tolist() for request in found] == [part.tolist() for part in wanted]
    assert [request.prompt_tokens for request in found] == [2, 7, 0, 4, 3, 0]
    assert {request.layers for request in found} == {(1, 2, 3)}
    assert found[0].remark.startswith("SGLang's recorder does not say which requests")


def test_padded_tokens_are_not_recorded(tmp_path: Path) -> None:
    one = a_pass(CHOSEN, 2)
    one["topk_ids_of_layer"][:, 6:] = -1
    path = write_torch(tmp_path / "a.pt", recording(one, a_pass(CHOSEN, None)))
    trace = read_traces(find_files([str(path)]), MODEL, [2])
    assert trace.recorded is not None
    assert trace.recorded.tolist() == [True] * 6 + [False] * 3 + [True] * 9
    assert (trace.of_recorded().layer(2) == np.concatenate([CHOSEN[:6, 1], CHOSEN[:, 1]])).all()
    convert(find_files([str(path)]), tmp_path / "native", None, False, lambda share: None)
    native = read_traces(find_files([str(tmp_path / "native")]), MODEL, [2])
    assert (native.experts == trace.experts).all()
    assert native.recorded is not None
    assert (native.recorded == trace.recorded).all()


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "lengths": (a_pass(CHOSEN, 1, [2, 6]), "extend_seq_lens does not add up to the 9 tokens"),
    "no lengths": (a_pass(CHOSEN, 3), "extend_seq_lens does not add up"),
    "mode": (a_pass(CHOSEN, 5), "forward_mode is 5, which is neither"),
    "slot": (a_pass(CHOSEN, 2) | {"topk_ids_of_layer": np.full((LAYERS, 2, 8), 11)}, "there are slots 0..10"),
    "negative": (a_pass(CHOSEN, 2) | {"topk_ids_of_layer": np.full((LAYERS, 2, 8), -2)}, "there are slots 0..10"),
    "layers": (a_pass(CHOSEN, 2) | {"topk_ids_of_layer": np.ones((2, 2, 8), dtype=int)}, "has 2 layers, but the map"),
    "type": (a_pass(CHOSEN, 2) | {"topk_ids_of_layer": np.ones((4, 2, 8))}, "is not [layer, token, top_k] of integers"),
    "empty": (a_pass(CHOSEN, 2) | {"topk_ids_of_layer": np.full((LAYERS, 2, 8), -1)}, "no token is recorded"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_pass_does_not_take_its_neighbours_along(tmp_path: Path, name: str) -> None:
    bad, said = FAULTS[name]
    path = write_torch(tmp_path / "a.pt", recording(a_pass(CHOSEN, 2), bad, a_pass(CHOSEN, 2)))
    first, fault, last = read_recorded_tokens(path)
    assert isinstance(first, Request)
    assert isinstance(last, Request)
    assert isinstance(fault, BadRequestError)
    assert str(fault).startswith("records[1]: ")
    assert said in str(fault)


def test_hostile_recordings_are_read_or_refused_in_a_line(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.pt", torch_bytes(recording(a_pass(CHOSEN, 1, [2, 7]), a_pass(CHOSEN, 2)))

    @given(damaged(whole))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        with little_memory():
            for value in read_recorded_tokens(path):
                sound(value)

    check()
    with pytest.raises(InputError, match="cannot be read"):
        list(read_recorded_tokens(tmp_path / "none"))


# TensorRT-LLM


def raw_folder(path: Path, ranks: list[dict[str, Any]], counts: bool = False) -> Path:
    path.mkdir(exist_ok=True)
    (path / "meta_info.json").write_text(json.dumps({"num_experts": EXPERTS, "num_experts_per_token": TOP_K}))
    for rank, tensors in enumerate(ranks):
        (path / f"rank{rank}_raw.safetensors").write_bytes(save(tensors))
        if counts:
            (path / f"rank{rank}.safetensors").write_bytes(save({}))
    return path


def keyed(iteration: int, experts: Ints) -> dict[str, Any]:
    return {f"{iteration}_{3 + layer}": np.ascontiguousarray(experts[:, layer]) for layer in range(experts.shape[1])}


def test_raw_ids_of_iterations_are_requests_of_output(tmp_path: Path) -> None:
    first = keyed(10, CHOSEN[:4]) | keyed(9, CHOSEN) | keyed(11, CHOSEN[:0])
    path = raw_folder(tmp_path / "run", [first, keyed(9, CHOSEN[::-1])])
    (file,) = find_files([str(path)])
    assert file.format is Format.TENSORRT_RAW
    found = [request for request in read_raw_ids(path) if isinstance(request, Request)]
    assert [request.experts.tolist() for request in found] == [
        part.tolist() for part in (CHOSEN, CHOSEN[:4], CHOSEN[::-1])
    ]
    assert {request.layers for request in found} == {(3, 4, 5)}
    assert [request.prompt_tokens for request in found] == [0, 0, 0]
    convert([file], tmp_path / "native", None, False, lambda share: None)
    model = Model("m", EXPERTS, 0, TOP_K)
    direct, native = (read_traces(files, model, [4]) for files in ([file], find_files([str(tmp_path / "native")])))
    assert (direct.experts == native.experts).all()
    assert (direct.offsets == native.offsets).all()


def test_counts_beside_raw_ids_are_asked_about(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name the format tensorrt or tensorrt-raw"):
        sniff(raw_folder(tmp_path / "run", [keyed(9, CHOSEN)], counts=True))


RAW_FAULTS: dict[str, tuple[Any, str]] = {
    "other layers": ({"9_3": CHOSEN[:, 0], "9_4": CHOSEN[:5, 1]}, "iteration 9: its layers differ in tokens or top-k"),
    "key": ({"9-3": CHOSEN[:, 0]}, "key '9-3' is not of the form iteration_layer"),
    "floats": ({"9_3": np.ones((2, 3))}, "9_3 is float64 (2, 3), not integers"),
    "axes": ({"9_3": np.ones(3, dtype=int)}, "9_3 is int64 (3,), not integers"),
    "large": ({"9_3": np.full((2, 3), 70000)}, "9_3 holds 70000..70000, not expert ids"),
}


@pytest.mark.parametrize("name", RAW_FAULTS)
def test_faulty_raw_ids_are_one_sentence(tmp_path: Path, name: str) -> None:
    tensors, said = RAW_FAULTS[name]
    held = {key: np.ascontiguousarray(array) for key, array in tensors.items()}
    (fault,) = read_raw_ids(raw_folder(tmp_path / "run", [held]))
    assert isinstance(fault, BadRequestError)
    assert said in str(fault)


def test_hostile_raw_ids_are_read_or_refused_in_a_line(tmp_path: Path) -> None:
    path, whole = raw_folder(tmp_path / "run", [{}]), save(keyed(9, CHOSEN) | keyed(10, CHOSEN))

    @given(damaged(whole))
    def check(content: bytes) -> None:
        (path / "rank0_raw.safetensors").write_bytes(content)
        with little_memory():
            for value in read_raw_ids(path):
                sound(value)
                if isinstance(value, BadRequestError):
                    one_line(value)

    check()
