"""Tokens that were not recorded: they are known as such, said, and in no figure; the others are used as if alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_problems import request_experts, write_request

from formulations.kit.arrays import Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.statistics.summarise import SummarisedCorpus, corpus_of_files, summarise
from optimizer.traces.cache import cached
from optimizer.traces.convert import convert
from optimizer.traces.corpus import find_files, read_traces
from optimizer.traces.fingerprints import fingerprints
from optimizer.traces.memory import trace_of_requests
from optimizer.traces.source import TraceInput, open_traces
from optimizer.traces.trace import OUTPUT, PROMPT, RoutingTrace

MODEL = Model("m", 16, 0, 3)


def read(folder: Path, layers: tuple[int, ...] = (0, 1), **how: Any) -> RoutingTrace:
    return read_traces(find_files([str(folder)]), MODEL, layers, **how)


def decode_only(folder: Path, rng: np.random.Generator, requests: int = 12) -> list[Ints]:
    """Requests of 48 prompt and 17 output tokens, the last not run, of which only the last 17 rows were captured."""
    whole = []
    for number in range(requests):
        experts = request_experts(rng, 64, 2, 16, 3)
        experts[:47] = 0
        write_request(folder / f"{number}.npz", experts, 48, 17)
        whole.append(experts)
    return whole


def test_rows_of_minus_1_are_not_recorded_and_the_others_are_used(tmp_path: Path, rng: np.random.Generator) -> None:
    """A prefix cache, or padding, leaves rows of -1 in a signed type."""
    experts = request_experts(rng, 10, 2, 16, 3).astype(np.int16)
    experts[:6] = -1
    np.save(tmp_path / "a.npy", experts)
    trace = read(tmp_path)
    assert trace.recorded is not None
    assert trace.recorded.tolist() == [False] * 6 + [True] * 4
    used = trace.of_recorded()
    assert (used.experts == experts[6:]).all()
    assert used.recorded is None
    assert used.of_recorded() is used
    assert used.warnings == (
        "6 of 10 output tokens are not recorded (cached, padded or not captured): all figures are of the others",
    )


@pytest.mark.parametrize("place", [(4, 1, 2), (4, 0, 0)])
def test_a_row_that_is_partly_minus_1_is_a_fault(tmp_path: Path, rng: np.random.Generator, place: Any) -> None:
    experts = request_experts(rng, 10, 2, 16, 3).astype(np.int16)
    experts[place] = -1
    np.save(tmp_path / "a.npy", experts)
    with pytest.raises(InputError, match=f"expert id -1 among others in token 4, layer {place[1]}"):
        read(tmp_path)


def test_the_prompts_of_a_server_that_only_decodes_are_not_recorded(tmp_path: Path, rng: np.random.Generator) -> None:
    """The row of the last prompt token is the first decode step, so 17 rows of output are used."""
    whole = decode_only(tmp_path, rng)
    trace = read(tmp_path).of_recorded()
    assert np.diff(trace.offsets).tolist() == [17] * 12
    assert (trace.phase == OUTPUT).all()
    first, *others = sorted(range(12), key=str)
    assert (trace.experts[:17] == whole[first][47:]).all()
    assert (trace.experts[17:34] == whole[others[0]][47:]).all()
    assert trace.warnings[0].startswith("564 of 564 prompt tokens are not recorded")


def test_prefill_says_that_prompts_were_not_captured(tmp_path: Path, rng: np.random.Generator) -> None:
    decode_only(tmp_path, rng)
    named = TraceInput((str(tmp_path),), phase="decode", batch_tokens=8)
    source = open_traces(named, [1], MODEL, Mesh(2, 2, 4), lambda share: None)
    assert source.sets(1).train.experts.max() < 16
    named = TraceInput((str(tmp_path),), phase="prefill")
    with pytest.raises(
        InputError, match=r"12 requests have no recorded prompt token .*564 prompt tokens were not capt"
    ):
        open_traces(named, [1], MODEL, Mesh(2, 2, 4), lambda share: None)


def test_outputs_alone_cannot_be_prefilled_but_beside_prompts_they_are_noted(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    for number in range(4):
        write_request(tmp_path / f"{number}.npz", request_experts(rng, 9, 2, 16, 3), prompt=0)
    named = TraceInput((str(tmp_path),), phase="prefill", batch_tokens=8)
    with pytest.raises(InputError, match=r"4 requests have no recorded prompt token .*\(all is output\)"):
        open_traces(named, [0], MODEL, Mesh(2, 2, 4), lambda share: None)
    write_request(tmp_path / "5.npz", request_experts(rng, 9, 2, 16, 3), prompt=4)
    named = TraceInput((str(tmp_path),), phase="prefill", batch_tokens=8)
    source = open_traces(named, [0], MODEL, Mesh(2, 2, 4), lambda share: None)
    assert "4 of 5 requests have no prompt tokens: their outputs are used to prefill" in source.notes


@pytest.mark.parametrize("filler", [0, -1])
def test_a_request_without_any_recorded_token_is_left_out(
    tmp_path: Path, rng: np.random.Generator, filler: int
) -> None:
    write_request(tmp_path / "a.npz", np.full((9, 2, 3), filler, dtype=np.int16), prompt=10, output=0)
    write_request(tmp_path / "b.npz", request_experts(rng, 9, 2, 16, 3))
    trace = read(tmp_path)
    assert trace.requests == 1
    assert "no token is recorded: all ids are 0 or -1" in trace.warnings[0]


def test_zeros_of_outputs_are_no_recording_fault_of_prompts(tmp_path: Path, rng: np.random.Generator) -> None:
    experts = request_experts(rng, 9, 2, 16, 3)
    experts[5:] = 0
    write_request(tmp_path / "a.npz", experts, prompt=2)
    with pytest.raises(InputError, match="token 5 of layer 0 names one expert twice"):
        read(tmp_path)


def some_lost(rng: np.random.Generator, folder: Path, kept: Path) -> None:
    """The same requests twice: with rows of -1 here and there, and without these rows at all."""
    for number in range(9):
        experts = request_experts(rng, 40, 2, 16, 3).astype(np.int32)
        lost = rng.random(40) < number / 12
        lost[[0, 15]] = [number > 0, False]
        few = experts[~lost]
        experts[lost] = -1
        write_request(folder / f"{number}.npz", experts, prompt=16)
        write_request(kept / f"{number}.npz", few, prompt=int((~lost[:16]).sum()))


def summary_of(folder: Path) -> SummarisedCorpus:
    corpus = corpus_of_files(find_files([str(folder)]), MODEL, None, None, False)
    return summarise(corpus, 10, 20, 3, lambda share: None)


def test_all_figures_are_those_of_the_recorded_tokens(tmp_path: Path, rng: np.random.Generator) -> None:
    """The oracle is a corpus that never had the other rows."""
    some_lost(rng, tmp_path / "whole", tmp_path / "kept")
    found, wanted = summary_of(tmp_path / "whole"), summary_of(tmp_path / "kept")
    for name in ("tokens", "runs", "counts", "pairs", "repeats", "between", "inside", "batch_load"):
        assert (getattr(found.summary, name) == getattr(wanted.summary, name)).all(), name
    assert found.warnings[0].endswith(
        "are not recorded (cached, padded or not captured): all figures are of the others"
    )
    assert wanted.warnings == ()
    whole, kept = read(tmp_path / "whole"), read(tmp_path / "kept")
    assert fingerprints(whole, [0, 1]) == fingerprints(kept, [0, 1])


def test_the_cache_and_the_native_format_keep_what_is_not_recorded(tmp_path: Path, rng: np.random.Generator) -> None:
    some_lost(rng, tmp_path / "whole", tmp_path / "kept")
    files, reads = find_files([str(tmp_path / "whole")]), list[int]()

    def count_and_read() -> RoutingTrace:
        reads.append(1)
        return read_traces(files, MODEL, (0, 1))

    fresh = read(tmp_path / "whole")
    traces = [cached(tmp_path / "cache", files, MODEL, (0, 1), None, count_and_read) for _ in range(2)]
    assert len(reads) == 1
    assert convert(files, tmp_path / "native", None, False, lambda share: None) == (9, ())
    for trace in (*traces, read(tmp_path / "native")):
        assert trace.recorded is not None
        assert fresh.recorded is not None
        assert (trace.recorded == fresh.recorded).all()
        assert (trace.experts == fresh.experts).all()
        assert (trace.phase == fresh.phase).all()
    with np.load(tmp_path / "native" / "request_00000.npz") as held:
        assert held["routed_experts"].dtype == np.uint8
    with np.load(tmp_path / "native" / "request_00008.npz") as held:
        assert held["routed_experts"].dtype == np.int8


def test_weights_and_candidates_of_lost_tokens_are_not_looked_at(tmp_path: Path, rng: np.random.Generator) -> None:
    candidates, weights = request_experts(rng, 6, 2, 16, 5).astype(np.int16), rng.random((6, 2, 3))
    candidates[2], weights[2] = -1, np.nan
    write_request(tmp_path / "a.npz", candidates[..., :3], routed_weights=weights, candidate_experts=candidates)
    trace = read(tmp_path, extras=True).of_recorded()
    others = [0, 1, 3, 4, 5]
    assert trace.weights is not None
    assert trace.candidates is not None
    assert (trace.weights == weights[others].astype(np.float32)).all()
    assert (trace.candidates == candidates[others]).all()
    assert trace.phase.tolist() == [PROMPT] * 2 + [OUTPUT] * 3


def test_arrays_in_memory_may_have_rows_of_minus_1(rng: np.random.Generator) -> None:
    experts = request_experts(rng, 6, 2, 16, 3).astype(np.int16)
    experts[1] = -1
    empty = np.full_like(experts, -1)
    trace = trace_of_requests([experts, empty]).of_recorded()
    assert (trace.experts == experts[[0, 2, 3, 4, 5]]).all()
    assert trace.offsets.tolist() == [0, 5]
    experts[3, 0, 0] = -1
    with pytest.raises(InputError, match=r"expert ids lie in -1\.\."):
        trace_of_requests([experts])
