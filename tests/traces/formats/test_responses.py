"""Responses as servers write them today: where the ids stand, in what form, and what must not be guessed of them.

Shapes and numbers are those of public reports, in which the answer was refused, or read as something else.
"""

import base64
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_files import as_json, little_memory, npy_bytes, one_line, replaced, sound
from hypothesis import given
from hypothesis import strategies as st
from random_problems import request_experts

from formulations.kit.arrays import Ints
from optimizer.domain.model import Model
from optimizer.domain.presets import load_model
from optimizer.errors import InputError
from optimizer.traces.convert import convert
from optimizer.traces.corpus import find_files, read_traces
from optimizer.traces.formats.request import BadRequestError, Request
from optimizer.traces.formats.servers import read_requests
from optimizer.traces.formats.sniff import Format, sniff

TOP_8 = Model("layers unknown", 128, 0, 8)
V3 = load_model("deepseek-v3")


def ids(tokens: int, layers: int, top_k: int, experts: int, dtype: str = "<i4") -> Ints:
    return request_experts(np.random.default_rng(tokens), tokens, layers, experts, top_k).astype(dtype)


def raw(array: Ints) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def payload(array: Ints, **changes: Any) -> dict[str, Any]:
    return {"data": raw(array), "shape": list(array.shape), "start": 0, "dtype": array.dtype.name} | changes


def put(path: Path, value: Any) -> Path:
    path.write_bytes(as_json(value))
    return path


def read(path: Path, model: Model | None = None) -> list[Request | BadRequestError]:
    return list(read_requests(path, sniff(path), model))


def only(path: Path, model: Model | None = None) -> Request:
    (found,) = read(path, model)
    assert isinstance(found, Request), str(found)
    return found


def fault(path: Path, model: Model | None = TOP_8) -> str:
    (found,) = read(path, model)
    assert isinstance(found, BadRequestError)
    return str(found)


USAGE = {"prompt_tokens": 20, "completion_tokens": 5}  # 24 tokens are run, as the last one of the output is not


# The reports


@pytest.mark.parametrize("model", [TOP_8, Model("right", 128, 0, 8, 48), Model("wrong", 128, 0, 8, 24)])
def test_rows_that_start_in_the_middle_of_the_prompt(tmp_path: Path, model: Model) -> None:
    """24 tokens of which the first 12 are left out were read as 24 tokens of half as many layers."""
    experts = ids(12, 48, 8, 128)
    meta = {**USAGE, "routed_experts_start_len": 12, "routed_experts": raw(experts)}
    found = only(put(tmp_path / "a.json", {"meta_info": meta}), model)
    assert (found.experts == experts).all()
    assert (found.prompt_tokens, found.skipped) == (8, 12)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int64"])
def test_numbers_of_a_named_type(tmp_path: Path, dtype: str) -> None:
    """uint16 was read as int32, so that ids were in millions."""
    experts = ids(24, 48, 8, 128, dtype)
    meta = {**USAGE, "routed_experts_dtype": dtype, "routed_experts": raw(experts)}
    found = only(put(tmp_path / "a.json", {"meta_info": meta}), TOP_8)
    assert found.experts.shape == (24, 48, 8)
    assert (found.experts == experts).all()


def test_the_prompt_part_beside_the_choices_serves_all_of_them(tmp_path: Path) -> None:
    """vLLM since 0.21: nested lists, whose prompt part is written once."""
    prompt, outputs = ids(4, 2, 2, 8), [ids(3, 2, 2, 8), ids(2, 2, 2, 8)]
    response = {
        "choices": [{"index": i, "routed_experts": part.tolist()} for i, part in enumerate(outputs)],
        "prompt_routed_experts": prompt.tolist(),
        "usage": {"prompt_tokens": 4, "completion_tokens": 7},
    }
    found = read(put(tmp_path / "a.json", response))
    assert sniff(tmp_path / "a.json") is Format.VLLM
    for request, output in zip(found, outputs, strict=True):
        assert isinstance(request, Request)
        assert (request.experts == np.concatenate([prompt, output])).all()
        assert request.prompt_tokens == 4


@pytest.mark.parametrize("place", ["sgl_ext", "sglext", "choice"])
def test_openai_endpoints_give_raw_numbers_in_the_choice(tmp_path: Path, place: str) -> None:
    experts = ids(24, 48, 8, 128)
    held = {"routed_experts": raw(experts)}
    choice = {"index": 0, "text": ""} | (held if place == "choice" else {place: held})
    found = only(put(tmp_path / "a.json", {"choices": [choice], "usage": USAGE}), TOP_8)
    assert (found.experts == experts).all()
    assert found.prompt_tokens == 20
    assert sniff(tmp_path / "a.json") is (Format.VLLM if place == "choice" else Format.SGLANG)


@pytest.mark.parametrize("place", ["choice", "meta_info", "response"])
def test_payload_objects(tmp_path: Path, place: str) -> None:
    experts = ids(5, 2, 22, 512, "<u2")
    held = {"routed_experts": payload(experts)}
    response: dict[str, Any] = {"choices": [held if place == "choice" else {"meta_info": held}]}
    response = (held if place == "response" else response) | {"usage": {"prompt_tokens": 4, "completion_tokens": 2}}
    found = only(put(tmp_path / "a.json", response))
    assert (found.experts == experts).all()
    assert found.prompt_tokens == 4


def test_a_payload_that_starts_later(tmp_path: Path) -> None:
    held = {"routed_experts": payload(ids(5, 2, 4, 16, "uint8"), start=3)}
    usage = {"prompt_tokens": 5, "completion_tokens": 4}
    found = only(put(tmp_path / "a.json", {"choices": [held], "usage": usage}))
    assert (len(found.experts), found.prompt_tokens, found.skipped) == (5, 2, 3)


def test_lists_in_meta_info(tmp_path: Path) -> None:
    """LMDeploy's, which need no model, as lists show their shape; large ones are read by a faster way."""
    for tokens in (3, 300):
        experts = ids(tokens, 4, 3, 8)
        meta = {"prompt_tokens": 2, "completion_tokens": tokens - 1, "routed_experts": experts.tolist()}
        (tmp_path / "a.json").write_text(json.dumps({"text": "[[", "meta_info": meta}, indent=1))
        found = only(tmp_path / "a.json")
        assert (found.experts == experts).all()
        assert found.prompt_tokens == 2


# What is impossible or has two readings


def choice(value: Any, **more: Any) -> dict[str, Any]:
    return {"choices": [{"routed_experts": value} | more]}


BYTES, LISTS = ids(5, 2, 4, 16, "uint8"), ids(5, 2, 4, 16).tolist()
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown type": (choice(payload(BYTES, dtype="float16")), "dtype is 'float16', not one of int16"),
    "no type": (choice(payload(BYTES, dtype=None)), "dtype is 'None', not one of"),
    "type of an object": (choice(payload(BYTES, dtype={})), "dtype is '{}', not one of"),
    "unknown key": (choice(payload(BYTES, order="F")), "has the key 'order', which is not known"),
    "shape too large": (choice(payload(BYTES, shape=[6, 2, 4])), "holds 40 numbers, not the 48 of its shape"),
    "shape of two": (choice(payload(BYTES, shape=[10, 4])), "is not the three lengths"),
    "shape with a zero": (choice(payload(BYTES, shape=[0, 2, 4])), "is not the three lengths"),
    "shape of floats": (choice(payload(BYTES, shape=[5.0, 2, 4])), "is not the three lengths"),
    "negative start": (choice(payload(BYTES, start=-1)), "start is another number, not a whole number"),
    "true as start": (choice(payload(BYTES, start=True)), "start is true or false"),
    "odd bytes": (choice(payload(BYTES, dtype="uint16", data=raw(BYTES)[:-4])), "are no uint16 numbers"),
    "no base64": (choice(payload(BYTES, data="???")), "routed_experts.data is not base64"),
    "no data": (choice(payload(BYTES, data=None)), "routed_experts.data is null"),
    "other type named": (choice(raw(BYTES), routed_experts_dtype="bf16"), "routed_experts_dtype is 'bf16', not one of"),
    "narrower than read": (choice(raw(ids(24, 48, 8, 128, "<u2")), usage=USAGE), "which is no expert id: is its type"),
    "floats": (choice([[[0.5, 1.0]]]), "holds numbers that are not whole"),
    "two axes": (choice([[1, 2], [3, 4]]), r"has shape (2, 2), not [token, layer, top_k]"),
    "ragged": (choice([[[1, 2], [3]]]), "lists of different lengths"),
    "negative": (choice([[[1, -2]]]), "holds -2, which is no expert id"),
    "large": (choice([[[1, 70000]]]), "holds 70000, which is no expert id"),
    "two places": (choice(LISTS, sgl_ext={"routed_experts": LISTS}), "has routed_experts in more than one place"),
    "two starts": (choice(payload(BYTES, start=2), routed_experts_start_len=3), "start_len is 3, but the start of its"),
    "behind the end": (
        {"meta_info": {**USAGE, "routed_experts_start_len": 24, "routed_experts": raw(ids(1, 2, 8, 16))}},
        "its rows begin at token 24, behind the 24 run",
    ),
    "more than was run": (choice(LISTS) | {"usage": {"prompt_tokens": 2, "completion_tokens": 2}}, "but 3 were run"),
    "other layers": (
        choice(LISTS) | {"prompt_routed_experts": ids(3, 3, 4, 16).tolist()},
        "whose layers or top-k are not those of prompt_routed_experts",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_no_reader_expects_is_never_read_as_something_else(tmp_path: Path, name: str) -> None:
    response, said = FAULTS[name]
    assert said in fault(put(tmp_path / "a.json", response))


def flat_v3(layers: int, tokens: int, dense: bool) -> Ints:
    experts = ids(tokens, layers, 8, 256)
    if dense:
        experts[:, :3] = 0
    return experts


@pytest.mark.parametrize("layers", [61, 58])
def test_a_length_that_fits_two_numbers_of_layers_is_told_by_dense_layers(tmp_path: Path, layers: int) -> None:
    """61 x 58 rows are 58 tokens of all layers, of which the dense ones are zero, or 61 of those with experts."""
    experts = flat_v3(layers, 61 + 58 - layers, layers == 61)
    found = only(put(tmp_path / "a.json", {"meta_info": {"routed_experts": raw(experts)}}), V3)
    assert (found.experts == experts).all()


def test_a_length_that_fits_two_numbers_of_layers_is_asked_about(tmp_path: Path) -> None:
    """Rows of zeros here and there fit neither reading, and are in both."""
    experts = flat_v3(61, 58, False)
    experts[7, 20] = 0
    path = put(tmp_path / "a.json", {"meta_info": {"routed_experts": raw(experts)}})
    said = r"a\.json: 3538 rows of top-8 are 58 tokens of 61 layers or 61 tokens of 58 layers; record the numbers"
    with pytest.raises(InputError, match=said) as error:
        read(path, V3)
    assert error.value.field == "model"
    meta = {"routed_experts": raw(experts), "prompt_tokens": 50, "completion_tokens": 9}
    assert only(put(path, {"meta_info": meta}), V3).experts.shape == (58, 61, 8)


# Expert maps, which are no routing


MAPS: dict[str, Any] = {
    "an expert map of vllm-ascend": {
        "moe_layer_count": 1,
        "layer_list": [{"device_list": [{"device_expert": [1, 0]}]}],
    },
    "an expert location of SGLang": {"physical_to_logical_map": [[0, 1, 2, 0]]},
    "an initial expert mapping proposed for vLLM": {
        "record_type": "eplb_initial_mapping",
        "initial_global_assignments": {"0": [0, 1]},
    },
}


@pytest.mark.parametrize("what", MAPS)
def test_an_expert_map_is_named_with_the_command_that_reads_it(tmp_path: Path, what: str) -> None:
    path = put(tmp_path / "map.json", MAPS[what])
    said = rf"map\.json: is {what}, .* `moeplan validate` checks it, and `moeplan import`"
    with pytest.raises(InputError, match=said):
        sniff(path)
    with pytest.raises(InputError, match=said):
        find_files([str(path)])


def test_other_expert_maps(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text("num_slots: 8\ninitial_global_assignments:\n  3: [0, 1]\n")
    with pytest.raises(InputError, match="is a load balancer file of TensorRT-LLM"):
        sniff(tmp_path / "map.yaml")
    np.save(tmp_path / "map.npy", np.eye(8, dtype=np.int32).reshape(2, 4, 8))
    assert "is a placement pattern of OmniInfer" in fault(tmp_path / "map.npy")
    with pytest.raises(InputError, match="is a plan, not recorded routing"):
        sniff(put(tmp_path / "plan.json", {"format": "moeplan/plan", "version": 1}))


# All of them


def forms(experts: Ints) -> dict[str, Any]:
    """One request of 6 tokens, 3 of them prompt, in every form of a response."""
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    split = {"choices": [{"routed_experts": experts[3:].tolist()}], "prompt_routed_experts": experts[:3].tolist()}
    return {
        "npy": {"choices": [{"routed_experts": base64.b64encode(npy_bytes(experts)).decode()}], "usage": usage},
        "split": split,
        "native": {"meta_info": {**usage, "routed_experts": raw(experts)}},
        "lists": {"meta_info": {**usage, "routed_experts": experts.tolist()}},
        "openai": {"choices": [{"sgl_ext": {"routed_experts": raw(experts)}}], "usage": usage},
        "payload": {"choices": [{"routed_experts": payload(experts)}], "usage": usage},
    }


@pytest.mark.parametrize("form", forms(np.zeros((6, 4, 3), dtype=np.int32)))
@pytest.mark.parametrize("lost", [False, True])
def test_convert_keeps_what_a_response_says(tmp_path: Path, form: str, lost: bool) -> None:
    model = Model("m", 8, 0, 3, 4)
    experts = ids(6, 4, 3, 8)
    if lost:
        experts[[1, 4]] = -1
    files = find_files([str(put(tmp_path / "a.json", [forms(experts)[form]] * 3))])
    convert(files, tmp_path / "native", model, False, lambda share: None)
    direct, native = (read_traces(found, model, [0, 2]) for found in (files, find_files([str(tmp_path / "native")])))
    assert direct.requests == 3
    for name in ("experts", "offsets", "phase"):
        assert (getattr(direct, name) == getattr(native, name)).all()
    assert (direct.recorded is None) is (native.recorded is None) is not lost
    used = direct.of_recorded()
    assert (used.experts[: len(used.experts) // 3] == experts[experts[:, 0, 0] >= 0][:, [0, 2]]).all()


@pytest.mark.parametrize("form", forms(np.zeros((6, 4, 3), dtype=np.int32)))
def test_hostile_responses_are_read_or_refused_in_a_line(tmp_path_factory: pytest.TempPathFactory, form: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"hostile-{form}.json"
    model = Model("m", 8, 0, 3, 4)

    @given(replaced(forms(ids(6, 4, 3, 8))[form]) | st.just(None))
    def check(value: Any) -> None:
        path.write_bytes(as_json(value))
        with little_memory():
            try:
                for request in read_requests(path, Format.SGLANG, model):
                    sound(request)
            except InputError as error:
                one_line(error)

    check()


def test_a_folder_of_zips_is_not_mistaken_for_torch_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("x/data.pkl", b"topk_ids_of_layer")
    assert sniff(tmp_path / "a.pt") is Format.RECORDER_TOKENS
    assert "is damaged" in fault(tmp_path / "a.pt")
