"""Servers' expert logs: a fast pass for the usual lines and the library for the others, which must agree."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_files import as_json, damaged, little_memory, replaced, sound
from hypothesis import given
from hypothesis import strategies as st
from random_problems import request_experts

from formulations.kit.arrays import Ints
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.traces.convert import convert
from optimizer.traces.corpus import find_files, read_traces
from optimizer.traces.formats.expert_log import read_expert_log
from optimizer.traces.formats.log_scan import META, OTHER, ROUTE, hash_of, scanned
from optimizer.traces.formats.request import BadRequestError, Request
from optimizer.traces.formats.sniff import Format, sniff

HEAD = {"type": "meta", "model_id": "some/moe", "vllm_version": "0.15.1", "layers_logged": [0], "top_k": 3}
EXPERTS = request_experts(np.random.default_rng(3), 6, 2, 8, 3)
WEIGHTS = np.random.default_rng(4).random((6, 2, 3)).astype(np.float32)


def route(request: Any, token: int, layer: int, ids: Ints, weights: Any = None) -> dict[str, Any]:
    line = {"type": "route", "req_id": request, "token_idx": token, "layer": layer, "topk_ids": ids.tolist()}
    return line if weights is None else line | {"topk_weights": weights.tolist()}


def routes(request: Any, experts: Ints, weights: Any = None, first: int = 0) -> list[dict[str, Any]]:
    return [
        route(request, token, 10 + layer, row, None if weights is None else weights[token - first, layer])
        for token, rows in enumerate(experts, first)
        for layer, row in enumerate(rows)
    ]


def write(path: Path, *lines: Any) -> Path:
    path.write_bytes(b"\n".join(as_json(line) for line in lines))
    return path


def good(path: Path, extras: bool = False) -> list[Request]:
    found = []
    for request in read_expert_log(path, extras):
        assert isinstance(request, Request), str(request)
        found.append(request)
    return found


def faults(path: Path) -> list[str]:
    return [str(found) for found in read_expert_log(path, True) if isinstance(found, BadRequestError)]


def test_a_log_of_a_profile_run_that_counts_tokens_anew(tmp_path: Path) -> None:
    """A report: 4,000 equal rows, then others, of one request whose token_idx starts again every 500 rows."""
    rows = np.concatenate(
        [np.tile([43, 5, 7, 58], (400, 1)), request_experts(np.random.default_rng(1), 150, 1, 60, 4)[:, 0]]
    )
    lines = [route("r1", number % 50, 0, row, np.full(4, 0.1)) for number, row in enumerate(rows)]
    path = write(tmp_path / "log.jsonl", HEAD | {"top_k": 4}, *lines)
    assert sniff(path) is Format.EXPERT_LOG
    (found,) = good(path, extras=True)
    assert (found.experts[:, 0] == rows).all()
    assert (found.prompt_tokens, found.layers) == (0, (0,))
    assert found.weights is not None
    assert (found.weights == np.float32(0.1)).all()
    assert found.remark.startswith(
        "token_idx comes again in 1 of 1 req_ids of the log: what follows is read as the next"
    )
    trace = read_traces(find_files([str(path)]), Model("m", 60, 0, 4), [0])
    assert trace.warnings == (found.remark,)


def test_requests_are_told_apart_and_tokens_put_in_order(tmp_path: Path) -> None:
    """Requests run at the same time, so their lines are mixed, and those of a token may come in any order."""
    lines = [*routes("b", EXPERTS, WEIGHTS), *routes("a", EXPERTS[::-1], WEIGHTS[::-1], 100)]
    order = np.random.default_rng(0).permutation(len(lines))
    first, second = good(write(tmp_path / "a", HEAD, *(lines[place] for place in order)), extras=True)
    names = [str(lines[place]["req_id"]) for place in order]
    if names[0] == "a":
        first, second = second, first
    assert first.layers == second.layers == (10, 11)
    assert (first.experts == EXPERTS).all()
    assert (second.experts == EXPERTS[::-1]).all()
    assert first.weights is not None
    assert second.weights is not None
    assert (first.weights == WEIGHTS).all()
    assert (second.weights == WEIGHTS[::-1]).all()
    assert first.remark == ""


def test_stretches_of_different_lengths_stay_apart(tmp_path: Path) -> None:
    parts = [EXPERTS, EXPERTS[::-1][:3], EXPERTS[1:]]
    (found,) = good(write(tmp_path / "a", *(line for part in parts for line in routes("r", part))))
    assert (found.experts == np.concatenate(parts)).all()


def test_a_token_that_lacks_a_layer_is_not_recorded(tmp_path: Path) -> None:
    """As the last one of a log that was cut off."""
    path = write(tmp_path / "a", *routes("r", EXPERTS)[:-1])
    trace = read_traces(find_files([str(path)]), Model("m", 8, 0, 3), [10])
    assert trace.recorded is not None
    assert trace.recorded.tolist() == [True] * 5 + [False]


def test_weights_that_only_some_lines_have_are_left_out(tmp_path: Path) -> None:
    lines = routes("r", EXPERTS, WEIGHTS)
    del lines[4]["topk_weights"]
    (found,) = good(write(tmp_path / "a", *lines), extras=True)
    assert found.weights is None
    assert good(tmp_path / "a")[0].weights is None


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "type": ({"type": "step"}, "line 3: has type 'step', which is neither route nor meta"),
    "no request": ({"req_id": None}, "line 3: lacks a req_id, token_idx or layer"),
    "no token": ({"token_idx": None}, "line 3: lacks a req_id"),
    "negative token": ({"token_idx": -1}, "line 3: token_idx is another number"),
    "odd layer": ({"layer": 1.5}, "line 3: layer is another number"),
    "fewer": ({"topk_ids": [1, 2]}, "line 3: topk_ids has 2 experts, but the first line has 3"),
    "text": ({"topk_ids": [1, 2, "3"]}, "line 3: topk_ids holds text"),
    "large": ({"topk_ids": [1, 2, 65536]}, "line 3: topk_ids is no list of expert ids from 0 to 65535"),
    "negative": ({"topk_ids": [1, 2, -1]}, "line 3: topk_ids is no list of expert ids"),
    "nested": ({"topk_ids": [[1, 2, 3]]}, "line 3: topk_ids is no list of expert ids"),
    "missing": ({"topk_ids": None}, "line 3: topk_ids is null"),
    "weights": ({"topk_weights": [0.5]}, r"line 3: topk_weights is (1,), but topk_ids (3,)"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_line_is_named(tmp_path: Path, name: str) -> None:
    change, said = FAULTS[name]
    lines = [HEAD, *routes("r", EXPERTS, WEIGHTS)]
    lines[2] |= change
    (fault,) = faults(write(tmp_path / "a", *lines))
    assert fault.startswith(said)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        list(read_expert_log(tmp_path / "none"))


def test_long_logs_are_read_in_pieces(tmp_path: Path) -> None:
    experts = request_experts(np.random.default_rng(5), 2000, 2, 300, 3)
    (found,) = good(write(tmp_path / "a", HEAD, *routes("r", experts)))
    assert (found.experts == experts).all()
    (tmp_path / "b").write_bytes(b"\n" * (1 << 21) + b"x" * (1 << 21))
    with little_memory():
        assert faults(tmp_path / "b") == [f"line {(1 << 21) + 1}: not JSON"]


LINES = st.sampled_from(
    [
        '{"type":"route","req_id":"a","token_idx":7,"layer":3,"topk_ids":[1,2],"topk_weights":[0.25,1e-3]}',
        '{ "topk_ids" : [ 0 , 255 ], "x": null, "y": true, "layer": 0, "z": "text", "token_idx": 12, "req_id": "" }',
        '{"type":"route","req_id":"b","token_idx":0,"layer":1,"topk_ids":[1],"n":-1.5e7,"topk_weights":[12345.678]}',
        '{"type":"meta","model":"m"}',
        '{"req_id":"a\\u0041","token_idx":1,"layer":1,"topk_ids":[1]}',
    ]
)


@given(LINES.flatmap(lambda line: damaged(line.encode())) | LINES.map(str.encode))
def test_whatever_the_fast_pass_takes_the_library_reads_alike(line: bytes) -> None:
    """The library is the oracle: a line that it refuses, or reads otherwise, must be left to it."""
    line = line.replace(b"\n", b" ")
    found = scanned(line, True)
    if found.kind[0] not in (ROUTE, META):
        return
    value = json.loads(line)
    if found.kind[0] == META:
        assert value["type"] == "meta"
        return
    assert value.get("type", "route") == "route"
    assert found.request[0] == hash_of(value["req_id"].encode())
    assert (found.token[0], found.layer[0]) == (value["token_idx"], value["layer"])
    assert found.ids[0, : found.length[0, 0]].tolist() == value["topk_ids"]
    weights = found.weights[0, : found.length[0, 1]]
    assert weights.tolist() == np.array(value.get("topk_weights", []), dtype=np.float32).tolist()


def test_usual_lines_take_the_fast_pass() -> None:
    text = "\n".join([json.dumps(HEAD), json.dumps(route("r", 1, 2, EXPERTS[0, 0], WEIGHTS[0, 0].astype(float))), "{}"])
    assert scanned(text.encode(), True).kind.tolist() == [META, ROUTE, OTHER]


def test_convert_keeps_what_a_log_says(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.jsonl", HEAD, *routes("a", EXPERTS), *routes("b", EXPERTS[:4]), *routes("c", EXPERTS)[:-1]
    )
    files, model = find_files([str(path)]), Model("m", 8, 0, 3)
    assert convert(files, tmp_path / "native", None, False, lambda share: None)[0] == 3
    direct, native = (read_traces(found, model, [11]) for found in (files, find_files([str(tmp_path / "native")])))
    for name in ("experts", "offsets", "phase", "recorded"):
        assert (getattr(direct, name) == getattr(native, name)).all()


WHOLE = b"\n".join(map(as_json, [HEAD, *routes("r", EXPERTS[:3], WEIGHTS), *routes("s", EXPERTS[:2])]))


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """A log that is damaged in its bytes, or in a value."""
    if draw(st.booleans()):
        return draw(damaged(WHOLE))
    lines = [json.loads(line) for line in WHOLE.splitlines()]
    at = draw(st.integers(0, len(lines) - 1))
    lines[at] = draw(replaced(lines[at]))
    return b"\n".join(map(as_json, lines))


def test_hostile_logs_are_read_or_refused_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "hostile"

    @given(hostile())
    def check(content: bytes) -> None:
        path.write_bytes(content)
        with little_memory():
            for value in read_expert_log(path, extras=True):
                sound(value)

    check()
