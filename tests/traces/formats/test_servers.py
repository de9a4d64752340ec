"""The servers' token-level formats: golden files from the documented layouts, damaged ones, malicious ones."""

import base64
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_files import (
    as_json,
    damaged,
    little_memory,
    lying_npy,
    npy_bytes,
    npy_header,
    one_line,
    pickled_npy,
    replaced,
    sound,
)
from hypothesis import given
from hypothesis import strategies as st
from random_problems import request_experts, write_request
from torch_files import write_torch

from optimizer.domain.model import Model
from optimizer.domain.presets import load_model
from optimizer.errors import InputError
from optimizer.traces.convert import convert
from optimizer.traces.corpus import find_files, read_traces
from optimizer.traces.formats.request import BadRequestError, Request
from optimizer.traces.formats.servers import read_requests
from optimizer.traces.formats.sniff import Format, sniff

SMALL = Model("small", 8, 0, 3)
LAYERED = Model("layered", 8, 0, 3, layers=5, first_moe_layer=1)
EXPERTS = request_experts(np.random.default_rng(1), 6, 4, 8, 3)  # 6 tokens, 4 layers, top-3


def encoded(array: Any) -> str:
    return base64.b64encode(npy_bytes(array)).decode()


def flat(array: Any) -> str:
    return base64.b64encode(array.astype("<i4").tobytes()).decode()


def good(path: Path, kind: Format, model: Model | None = None) -> list[Request]:
    found = []
    for value in read_requests(path, kind, model):
        assert isinstance(value, Request), str(value)
        found.append(value)
    return found


def faults(path: Path, kind: Format, model: Model | None = SMALL) -> list[str]:
    return [str(value) for value in read_requests(path, kind, model) if isinstance(value, BadRequestError)]


def write(path: Path, *values: Any) -> Path:
    path.write_bytes(b"\n".join(as_json(value) for value in values))
    return path


def lines_of(experts: Any, batch: int = 0) -> list[dict[str, Any]]:
    return [
        {"layer": 10 + layer, "batch_id": batch, "origin_rows": [0] * len(experts), "topk_experts": chosen.tolist()}
        for layer, chosen in enumerate(experts.swapaxes(0, 1))
    ]


def sglang(experts: Any, **meta: Any) -> dict[str, Any]:
    return {"text": "...", "output_ids": [1, 2], "meta_info": {"id": "a", "routed_experts": flat(experts), **meta}}


# Telling formats apart


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, b"...")
    return path


def statistics_folder(path: Path, rank_file: str = "rank0.safetensors") -> Path:
    path.mkdir()
    (path / "meta_info.json").write_text("{}")
    (path / rank_file).write_text("")
    return path


SAMPLES: dict[Format, list[Callable[[Path], Path]]] = {
    Format.NPZ: [lambda path: write_request(path.with_suffix(".npz"), EXPERTS).rename(path)],
    Format.COUNTS_NPZ: [lambda path: archive(path, "layers.npy", "counts.npy")],
    Format.NPY: [lambda path: put(path, npy_bytes(EXPERTS))],
    Format.VLLM: [
        lambda path: write(path, {"id": "x", "choices": [{"routed_experts": encoded(EXPERTS)}]}),
        lambda path: write(path, {"routed_experts": "..."}, {"routed_experts": "..."}),
        lambda path: write(path, {"choices": [{"text": "word " * 400_000, "routed_experts": "..."}]}),
        lambda path: put(path, b'\xef\xbb\xbf [\n {\n  "routed_experts" : null}]'),
    ],
    Format.SGLANG: [
        lambda path: write(path, sglang(EXPERTS)),
        lambda path: write(path, [{"text": "word " * 4000, "meta_info": {"id": 1, "routed_experts": "..."}}]),
    ],
    Format.ROUTING_JSONL: [lambda path: write(path, *lines_of(EXPERTS))],
    Format.EXPERT_LOG: [lambda path: write(path, {"type": "meta", "top_k": 1}, {"type": "route", "topk_ids": [1]})],
    Format.RECORDER_TOKENS: [lambda path: write_torch(path, {"records": [{"topk_ids_of_layer": EXPERTS}]})],
    Format.TENSORRT_RAW: [lambda path: statistics_folder(path, "rank3_raw.safetensors")],
    Format.LOGICAL_COUNT: [lambda path: write(path, {"rank": 0, "logical_count": [[1]]})],
    Format.LOAD_HISTORY: [lambda path: write(path, {"load_history": [{"logical_expert_load": [[1]]}]})],
    Format.RECORDER_PT: [lambda path: archive(path, "recorder_17/data.pkl", "recorder_17/data/0")],
    Format.TENSORRT: [statistics_folder],
}


@pytest.mark.parametrize(("kind", "number"), [(kind, n) for kind, made in SAMPLES.items() for n in range(len(made))])
def test_a_format_is_told_by_content_whatever_the_suffix(tmp_path: Path, kind: Format, number: int) -> None:
    assert sniff(SAMPLES[kind][number](tmp_path / "trace.pdf")) is kind


@pytest.mark.parametrize("before", range(8150, 8210, 3))
def test_a_key_is_found_wherever_it_stands(tmp_path: Path, before: int) -> None:
    assert sniff(put(tmp_path / "a", b"{" + b" " * before + b'"load_history": []}')) is Format.LOAD_HISTORY


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"   ",
        b"hello",
        b"{}",
        b'{"choices": [{"text": "{\\"routed_experts\\": 1}"}]}',  # a text that speaks of routing
        b'{"text": ["routed_experts", "logical_count"]}',
        b"PK\x03\x04 and no more",
        pickle.dumps({"logical_count": 1}),
    ],
)
def test_anything_else_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"trace\.json: holds no routing in a known format; what is read are"):
        sniff(path)


def test_other_archives_and_folders_and_missing_files_are_refused(tmp_path: Path) -> None:
    for path in (archive(tmp_path / "a.npz", "experts.npy", "data.pkl"), tmp_path):
        with pytest.raises(InputError, match="holds no routing"):
            sniff(path)
    with pytest.raises(InputError, match="none: cannot be read"):
        sniff(tmp_path / "none")


def test_little_of_a_large_file_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "large"
    for start in (b'{"logical_count": ', npy_bytes(EXPERTS), b"{", b"?"):
        with path.open("wb") as file:
            file.write(start)
            file.truncate(1 << 34)  # sparse: 16 GB that take no room
        with little_memory():
            if start in (b"{", b"?"):
                with pytest.raises(InputError):
                    sniff(path)
            else:
                sniff(path)


# vLLM


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2"])
@pytest.mark.parametrize("place", ["response", "choices", "outputs"])
def test_a_vllm_response(tmp_path: Path, dtype: str, place: str) -> None:
    held = {"routed_experts": encoded(EXPERTS.astype(dtype))}
    response = {"prompt_token_ids": [5, 6]} | (held if place == "response" else {place: [held]})
    (found,) = good(write(tmp_path / "a.json", response), Format.VLLM)
    assert (found.experts == EXPERTS).all()
    assert (found.prompt_tokens, found.layers) == (2, None)


@pytest.mark.parametrize(
    ("more", "choice", "prompt"),
    [
        ({}, {}, 0),
        ({"prompt_token_ids": None}, {}, 0),
        ({"usage": {"prompt_tokens": 4}}, {}, 4),
        ({"usage": {"prompt_tokens": 9}}, {}, 6),  # more prompt than was recorded
        ({"usage": {"prompt_tokens": 4, "completion_tokens": 3}}, {}, 4),  # 4 + 3 - 1 = 6: nothing is missing
        ({"usage": {"prompt_tokens": 20, "completion_tokens": 3}}, {}, 4),  # 16 of the prompt's 20 were cached
        ({"usage": {"prompt_tokens": 20, "completion_tokens": 30}}, {}, 0),
        ({"usage": {"prompt_tokens": 1}, "prompt_token_ids": [1, 2, 3]}, {}, 3),
        ({"prompt_token_ids": [1, 2, 3]}, {"prompt_token_ids": [1]}, 1),
        ({"prompt_token_ids": [0] * 20}, {"token_ids": [1, 2, 3, 4]}, 3),
        ({"prompt_token_ids": [0] * 6}, {"token_ids": []}, 6),
    ],
)
def test_what_of_a_vllm_response_is_prompt(tmp_path: Path, more: Any, choice: Any, prompt: int) -> None:
    response = more | {"choices": [choice | {"routed_experts": encoded(EXPERTS)}]}
    (found,) = good(write(tmp_path / "a.json", response), Format.VLLM)
    assert found.prompt_tokens == prompt


def test_choices_responses_and_lines_are_requests_in_order(tmp_path: Path) -> None:
    first, second, third = (EXPERTS[:tokens] for tokens in (2, 3, 4))
    one = {
        "choices": [{"routed_experts": encoded(first)}, {"routed_experts": encoded(second)}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 4},  # the outputs of both together
    }
    two = {"routed_experts": encoded(third)}
    files = [write(tmp_path / "lines", one, two), write(tmp_path / "list", [one, two])]
    (tmp_path / "pretty").write_text(json.dumps([one, two], indent=1))
    (tmp_path / "gaps").write_bytes(b"\xef\xbb\xbf" + as_json(one) + b"\r\n\n" + as_json(two) + b"\n\n")
    for path in (*files, tmp_path / "pretty", tmp_path / "gaps"):
        found = good(path, Format.VLLM)
        assert [len(request.experts) for request in found] == [2, 3, 4]
        assert [request.prompt_tokens for request in found] == [1, 1, 0]


def test_a_bad_response_does_not_take_its_neighbours_along(tmp_path: Path) -> None:
    fine = {"routed_experts": encoded(EXPERTS)}
    path = write(tmp_path / "a", fine, {"choices": [fine, {"routed_experts": None}, 7]}, [], fine)
    path.write_bytes(path.read_bytes() + b"\n{not json\n")
    assert [isinstance(value, Request) for value in read_requests(path, Format.VLLM, None)] == [1, 1, 0, 0, 0, 1, 0]
    assert faults(path, Format.VLLM) == [
        "line 2: choices[1]: routed_experts is null, not base64 text",
        "line 2: choices[2]: not a JSON object",
        "line 3: not a JSON object",
        "line 5: not JSON",
    ]


NPY_FAULTS = {
    "not an array": (b"abc", "has no .npy header"),
    "flat": (npy_bytes(EXPERTS[0]), r"has shape (4, 3), not [token, layer, top_k]"),
    "floats": (npy_bytes(EXPERTS.astype("<f4")), "holds float32 values, not integers"),
    "empty": (npy_bytes(EXPERTS[:0]), "is empty, or of an impossible shape"),
    "cut": (npy_bytes(EXPERTS)[:-1], "declares 72 bytes and holds 71"),
    "too long": (npy_bytes(EXPERTS) + b"!", "declares 72 bytes and holds 73"),
    "huge": (npy_header("'|u1'", f"({2**20}, {2**20}, 8)"), f"declares {2**43} bytes and holds 0"),
    "negative": (npy_header("'|u1'", "(-2, -3, 1)") + b"123456", "impossible shape"),
    "beyond": (npy_header("'|u1'", f"({10**400}, 1, 1)"), "impossible shape"),
    "object": (npy_header("'|O'", "(1, 1, 1)") + b"N.", "never unpickled"),
}


@pytest.mark.parametrize("name", NPY_FAULTS)
def test_a_faulty_array_is_one_sentence(tmp_path: Path, name: str) -> None:
    content, said = NPY_FAULTS[name]
    (tmp_path / "a.npy").write_bytes(content)
    response = {"outputs": [{"routed_experts": base64.b64encode(content).decode()}]}
    (bare,) = faults(tmp_path / "a.npy", Format.NPY)
    (inside,) = faults(write(tmp_path / "a.json", response), Format.VLLM)
    assert said in bare
    assert said in inside
    assert inside.startswith("line 1: outputs[0]: routed_experts ")


@pytest.mark.parametrize("text", [7, None, "AAA", "AA=A", "Ä", "AAAA\n", "!AAA"])
def test_only_strict_base64_text_is_decoded(tmp_path: Path, text: Any) -> None:
    assert "base64" in faults(write(tmp_path / "a", {"routed_experts": text}), Format.VLLM)[0]
    assert "base64" in faults(write(tmp_path / "b", {"meta_info": {"routed_experts": text}}), Format.SGLANG)[0]


def test_a_bare_array_is_all_output(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(EXPERTS.astype(np.uint16)))
    (found,) = good(tmp_path / "a.npy", Format.NPY)
    assert (found.experts == EXPERTS).all()
    assert found.prompt_tokens == 0


# SGLang


@pytest.mark.parametrize(
    ("model", "meta", "shape", "prompt"),
    [
        (SMALL, {"prompt_tokens": 5, "completion_tokens": 2}, (6, 4, 3), 5),
        (LAYERED, {"prompt_tokens": 5, "completion_tokens": 2}, (6, 4, 3), 5),
        (LAYERED, {}, (6, 4, 3), 0),  # 24 rows: 4 MoE layers, not 5 layers
        (LAYERED, {"prompt_tokens": 4}, (6, 4, 3), 4),
        (LAYERED, {"prompt_tokens": 10, "completion_tokens": 3}, (6, 4, 3), 4),  # 12 tokens, 6 of them cached
        (SMALL, {"prompt_tokens": 10, "completion_tokens": 3}, (12, 2, 3), 10),  # nothing is known of the layers
        (Model("twelve", 8, 0, 3, 12), {"prompt_tokens": 5, "completion_tokens": 2}, (2, 12, 3), 1),
        (Model("two", 8, 0, 3, 2), {"prompt_tokens": 5, "completion_tokens": 2}, (6, 4, 3), 5),  # not 12 of 6 tokens
        (Model("seven", 8, 0, 3, 7), {"prompt_tokens": 5, "completion_tokens": 2}, (6, 4, 3), 5),
        (load_model("deepseek-v3"), None, (2, 58, 8), 0),
    ],
)
def test_a_sglang_response(tmp_path: Path, model: Model, meta: Any, shape: Any, prompt: int) -> None:
    held = EXPERTS if meta is not None else np.arange(2 * 58 * 8)
    (found,) = good(write(tmp_path / "a", sglang(held, **(meta or {}))), Format.SGLANG, model)
    assert found.experts.shape == shape
    assert (found.experts.ravel() == held.ravel()).all()
    assert found.prompt_tokens == prompt


def test_sglang_needs_a_top_k(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", sglang(EXPERTS))
    with pytest.raises(InputError, match=r"a\.json: its expert ids are flat, .* give it, or the model"):
        list(read_requests(path, Format.SGLANG, None))


@pytest.mark.parametrize(
    ("response", "said"),
    [
        ({"meta_info": None}, "routed_experts is null"),
        ({"text": "a"}, "routed_experts is null"),
        (sglang(EXPERTS[:0]), "its 0 bytes are no int32 numbers"),
        (sglang(EXPERTS.ravel()[:-1]), "its 71 numbers are no rows of 3"),
        (sglang(EXPERTS), "24 rows of top-3, which do not divide into tokens or the layers of small; name the model"),
        (sglang(EXPERTS, prompt_tokens=9, completion_tokens=9), "do not divide into 17 tokens"),
        (sglang(EXPERTS, prompt_tokens=-1), "prompt_tokens is another number"),
        (sglang(EXPERTS, prompt_tokens=True), "prompt_tokens is true or false"),
        (sglang(EXPERTS, prompt_tokens=10**18, completion_tokens=1), "prompt_tokens is another number"),
        (sglang(EXPERTS, prompt_tokens=2**40, completion_tokens=2**40), "do not divide"),
    ],
)
def test_a_faulty_sglang_response(tmp_path: Path, response: Any, said: str) -> None:
    (fault,) = faults(write(tmp_path / "a", response), Format.SGLANG)
    assert said in fault


# Routing lines


def test_the_lines_of_a_batch_are_one_request(tmp_path: Path) -> None:
    other = EXPERTS[:2, :1] + 1
    lines = [*lines_of(other, 9), *lines_of(EXPERTS, 4)]
    lines = [lines[number] for number in (4, 2, 0, 3, 1)]  # layers of one batch apart, and in any order
    found = good(write(tmp_path / "a", *lines), Format.ROUTING_JSONL)
    assert [request.layers for request in found] == [(10, 11, 12, 13), (10,)]
    assert (found[0].experts == EXPERTS).all()
    assert (found[1].experts == other).all()
    assert [request.prompt_tokens for request in found] == [0, 0]


LINE_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no batch": ({"batch_id": None}, "line 3: has no batch_id"),
    "odd layer": ({"layer": -1}, "line 3: layer is another number"),
    "twice": ({"layer": 10}, "line 3: has layer 10 of its batch a second time"),
    "shape": (
        {"topk_experts": [[1, 2, 3]]},
        "line 3: topk_experts is (1, 3) where another layer of its batch is (6, 3)",
    ),
    "ragged": ({"topk_experts": [[1, 2], [3]]}, "line 3: topk_experts has lists of different lengths"),
    "flat": ({"topk_experts": [1, 2]}, "line 3: topk_experts is no [token, top_k] of expert ids"),
    "large": ({"topk_experts": [[1, 2, 65536]] * 6}, "line 3: topk_experts is no [token, top_k] of expert ids"),
    "larger": (
        {"topk_experts": [[1, 2, 10**30]] * 6},
        "line 3: topk_experts is empty, or holds numbers beyond 64 bits",
    ),
    "negative": ({"topk_experts": [[1, 2, -1]] * 6}, "line 3: topk_experts is no [token, top_k] of expert ids"),
    "float": ({"topk_experts": [[1, 2, 0.5]] * 6}, "line 3: topk_experts is no [token, top_k] of expert ids"),
    "text": ({"topk_experts": [[1, 2, "3"]] * 6}, "line 3: topk_experts holds text, not numbers alone"),
    "missing": ({"topk_experts": None}, "line 3: topk_experts is null, not a list"),
    "empty": ({"topk_experts": []}, "line 3: topk_experts is empty"),
}


@pytest.mark.parametrize("name", LINE_FAULTS)
def test_a_faulty_line_spoils_its_batch_alone(tmp_path: Path, name: str) -> None:
    change, said = LINE_FAULTS[name]
    lines = [*lines_of(EXPERTS, 0), *lines_of(EXPERTS, 1)]
    lines[2] |= change
    path = write(tmp_path / "a", *lines)
    (fault,) = faults(path, Format.ROUTING_JSONL)
    assert fault.startswith(said)
    kept = [value for value in read_requests(path, Format.ROUTING_JSONL, None) if isinstance(value, Request)]
    without_place = said.startswith(("line 3: has no", "line 3: layer is"))  # nobody knows whose line it was
    assert [request.layers for request in kept] == [(10, 11, 13)] * without_place + [(10, 11, 12, 13)]


# All of them


def test_one_request_is_the_same_in_every_format(tmp_path: Path) -> None:
    (tmp_path / "npy").write_bytes(npy_bytes(EXPERTS))
    files = [
        tmp_path / "npy",
        write(tmp_path / "vllm", {"choices": [{"routed_experts": encoded(EXPERTS)}]}),
        write(tmp_path / "sglang", sglang(EXPERTS)),
        write(tmp_path / "lines", *lines_of(EXPERTS)),
    ]
    for path in files:
        (found,) = good(path, sniff(path), LAYERED)
        assert (found.experts == EXPERTS).all()
        told = find_files([str(path)])
        assert convert(told, tmp_path / f"{path.name}-native", LAYERED, False, lambda share: None) == (1, ())
        layers = list(found.layers or range(1, 5))
        native = find_files([str(tmp_path / f"{path.name}-native")])
        direct, back = (read_traces(each, LAYERED, layers) for each in (told, native))
        assert (direct.experts == back.experts).all()
        assert (direct.phase == back.phase).all()


@pytest.mark.parametrize("kind", [Format.COUNTS_NPZ, Format.TENSORRT, Format.LOGICAL_COUNT, Format.NPZ])
def test_counts_are_no_requests(tmp_path: Path, kind: Format) -> None:
    with pytest.raises(InputError, match=f"a: format {kind} does not say what each token chose"):
        read_requests(tmp_path / "a", kind, SMALL)


@pytest.mark.parametrize("kind", [Format.NPY, Format.VLLM, Format.SGLANG, Format.ROUTING_JSONL])
def test_a_file_that_is_not_there(tmp_path: Path, kind: Format) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            list(read_requests(path, kind, SMALL))


def test_nothing_is_ever_unpickled(tmp_path: Path) -> None:
    content = pickled_npy(tmp_path / "harm")
    (tmp_path / "a.npy").write_bytes(content)
    path = write(tmp_path / "a", {"routed_experts": base64.b64encode(content).decode()})
    assert "never unpickled" in faults(tmp_path / "a.npy", Format.NPY)[0]
    assert "never unpickled" in faults(path, Format.VLLM)[0]
    assert not (tmp_path / "harm").exists()


WHOLE: dict[Format, bytes] = {
    Format.NPY: npy_bytes(EXPERTS),
    Format.VLLM: as_json(
        {"prompt_token_ids": [1], "usage": {"prompt_tokens": 1}, "choices": [{"routed_experts": encoded(EXPERTS)}]}
    ),
    Format.SGLANG: as_json(sglang(EXPERTS, prompt_tokens=5, completion_tokens=2)),
    Format.ROUTING_JSONL: b"\n".join(map(as_json, lines_of(EXPERTS))),
}


@st.composite
def hostile(draw: st.DrawFn, kind: Format) -> bytes:
    """A file of a format, damaged in its bytes, in its JSON, or in the array it holds."""
    way = draw(st.integers(0, 2))
    if kind is Format.NPY:
        return draw(damaged(WHOLE[kind]) if way == 0 else lying_npy())
    if way == 0:
        return draw(damaged(WHOLE[kind]))
    if way == 1 and kind is Format.VLLM:
        array = draw(lying_npy() | damaged(WHOLE[Format.NPY]))
        return as_json({"choices": [{"routed_experts": base64.b64encode(array).decode()}] * 2})
    lines = [json.loads(line) for line in WHOLE[kind].splitlines()]
    at = draw(st.integers(0, len(lines) - 1))
    lines[at] = draw(replaced(lines[at]))
    return b"\n".join(map(as_json, lines))


@pytest.mark.parametrize("kind", WHOLE)
def test_hostile_files_are_read_or_refused_in_a_line(tmp_path_factory: pytest.TempPathFactory, kind: Format) -> None:
    path = tmp_path_factory.getbasetemp() / f"hostile-{kind}"

    @given(hostile(kind), st.sampled_from([SMALL, LAYERED]))
    def check(content: bytes, model: Model) -> None:
        path.write_bytes(content)
        with little_memory():
            for value in read_requests(path, kind, model):
                sound(value)
            try:
                assert sniff(path) in Format
            except InputError as error:
                one_line(error)

    check()
