"""Streaming a corpus: summaries in one pass, the cache, and bad requests on the way."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_problems import request_experts, write_request

from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.statistics.summarise import corpus_of_files, corpus_of_trace, summarise
from optimizer.streams import Purpose, random_stream
from optimizer.traces.batches import Batches
from optimizer.traces.cache import cached
from optimizer.traces.composition import Composition, sample_batches
from optimizer.traces.corpus import find_files, read_traces
from optimizer.traces.formats.npz import read_lengths
from optimizer.traces.formats.request import BadRequestError
from optimizer.traces.trace import RoutingTrace

MODEL = Model("m", 8, 0, 3)


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    for number in range(9):
        name = f"{'law' if number % 2 else 'code'}/r{number}.npz"
        write_request(tmp_path / "t" / name, request_experts(rng, 6 + number, 4, 8, 3), prompt=number % 4)
    return tmp_path / "t"


def trace_of(folder: Path, layers: list[int]) -> RoutingTrace:
    return read_traces(find_files([str(folder)]), MODEL, layers)


def test_one_pass_gives_the_counts_of_every_layer_and_data_set(folder: Path) -> None:
    files = find_files([str(folder)])
    found = summarise(corpus_of_files(files, MODEL, None, None, False), 10, 20, 0, lambda share: None)
    trace = trace_of(folder, [0, 1, 2, 3])
    assert (found.layers, found.datasets, found.requests) == ((0, 1, 2, 3), ("code", "law"), 9)
    for layer in range(4):
        counts = found.summary.counts[:, :, layer].sum(axis=(0, 1))
        assert counts.tolist() == np.bincount(trace.layer(layer).ravel(), minlength=8).tolist()
    assert found.summary.tokens.sum() == trace.tokens


def test_each_data_set_has_a_day_of_its_own(folder: Path) -> None:
    """The first and the last tenth of a data set's requests, in the order of their files, and of no other's."""
    found = summarise(
        corpus_of_files(find_files([str(folder)]), MODEL, (2,), None, False), 10, 20, 0, lambda share: None
    )
    for place, numbers in enumerate(([0, 2, 4, 6, 8], [1, 3, 5, 7])):
        single = [
            read_traces(find_files([str(folder / found.datasets[place] / f"r{number}.npz")]), MODEL, [2]).layer(2)
            for number in numbers
        ]
        counts = [np.bincount(chosen.ravel(), minlength=8).tolist() for chosen in single]
        expected = [counts[0], counts[1], counts[-2], counts[-1]]
        assert found.day[place, 1:, 0].tolist() == expected
        assert found.day[place, :, 0].sum(axis=0).tolist() == np.sum(counts, axis=0).tolist()


def test_batch_loads_are_those_of_sampled_decode_steps(folder: Path) -> None:
    """The same walk, once through segments in a stream, once through a trace in memory."""
    files = find_files([str(folder)])
    found = summarise(corpus_of_files(files, MODEL, (1, 3), None, False), 10, 20, 5, lambda share: None)
    trace = trace_of(folder, [1, 3])
    for place, layer in enumerate((1, 3)):
        rng = random_stream(Purpose.SUMMARY_SEGMENTS, 5)
        batches = sample_batches(trace, layer, np.arange(9), MODEL, Composition("decode", (10,)), 20, rng)
        assert isinstance(batches, Batches)
        assert found.summary.batch_load[place].tolist() == batches.load(8).tolist()


def test_a_trace_in_memory_is_a_corpus_too(folder: Path) -> None:
    files = find_files([str(folder)])
    streamed = summarise(corpus_of_files(files, MODEL, (2,), None, False), 10, 20, 5, lambda share: None)
    held = summarise(corpus_of_trace(trace_of(folder, [2]), MODEL), 10, 20, 5, lambda share: None)
    assert (streamed.summary.batch_load == held.summary.batch_load).all()
    assert (streamed.summary.pairs == held.summary.pairs).all()


def test_a_bad_request_found_on_the_way_leaves_full_batches(folder: Path, rng: np.random.Generator) -> None:
    doubled = np.tile(np.array([1, 5, 1], dtype=np.uint8), (30, 4, 1))
    write_request(folder / "code" / "bad.npz", doubled)
    (folder / "code" / "worse.npz").write_bytes(b"no archive")
    files = find_files([str(folder)])
    found = summarise(corpus_of_files(files, MODEL, None, None, False), 10, 20, 0, lambda share: None)
    assert found.requests == 9
    assert (found.summary.batch_load.sum(axis=2) == 10 * 3).all()
    assert "2 of 11 requests skipped" in found.warnings[0]
    with pytest.raises(InputError, match="strictly"):
        summarise(corpus_of_files(files, MODEL, None, None, True), 10, 20, 0, lambda share: None)


def test_a_corpus_of_bad_requests_is_refused(tmp_path: Path) -> None:
    for number in range(3):
        write_request(tmp_path / f"{number}.npz", np.array(None, dtype=object))
    files = find_files([str(tmp_path)])
    with pytest.raises(InputError, match=r"never unpickled.*3 requests, none usable"):
        summarise(corpus_of_files(files, MODEL, None, None, False), 10, 20, 0, lambda share: None)


@pytest.mark.parametrize(("prompt", "output"), [(2, 5), (2, 6), (7, 0), (0, 7)])
def test_lengths_are_read_from_headers(tmp_path: Path, rng: np.random.Generator, prompt: int, output: int) -> None:
    path = write_request(tmp_path / "a.npz", request_experts(rng, 7, 2, 8, 3), prompt, output)
    assert read_lengths(path) == (7, prompt)


def test_headers_that_do_not_fit_are_bad_requests(tmp_path: Path, rng: np.random.Generator) -> None:
    path = write_request(tmp_path / "a.npz", request_experts(rng, 7, 2, 8, 3), 2, 9)
    with pytest.raises(BadRequestError, match="do not add up"):
        read_lengths(path)
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(BadRequestError, match="not a whole"):
        read_lengths(path)


def cached_trace(folder: Path, cache: Path, reads: list[int], layers: list[int], model: Model = MODEL) -> RoutingTrace:
    files = find_files([str(folder)])

    def read() -> RoutingTrace:
        reads.append(1)
        return read_traces(files, model, layers)

    return cached(cache, files, model, layers, None, read)


def test_the_cache_knows_files_layers_and_model(folder: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    reads: list[int] = []
    cache = tmp_path / "cache"
    first = cached_trace(folder, cache, reads, [1, 2])
    again = cached_trace(folder, cache, reads, [1, 2])
    assert len(reads) == 1
    fresh = trace_of(folder, [1, 2])
    for trace in (first, again):
        assert (trace.experts == fresh.experts).all()
        assert (trace.offsets == fresh.offsets).all()
        assert (trace.phase == fresh.phase).all()
        assert (trace.layers, trace.source, trace.warnings) == (fresh.layers, fresh.source, fresh.warnings)
        assert isinstance(trace.experts, np.memmap)
    cached_trace(folder, cache, reads, [2])
    cached_trace(folder, cache, reads, [1, 2], Model("other", 9, 0, 3))
    assert len(reads) == 3
    write_request(folder / "law" / "r1.npz", request_experts(rng, 40, 4, 8, 3))
    cached_trace(folder, cache, reads, [1, 2])
    assert len(reads) == 4


def test_the_cache_keeps_weights_and_candidates_apart(tmp_path: Path, rng: np.random.Generator) -> None:
    for number in range(4):
        candidates, weights = request_experts(rng, 6, 2, 8, 5), rng.random((6, 2, 3))
        more: dict[str, Any] = {"routed_weights": weights, "candidate_experts": candidates}
        write_request(tmp_path / "t" / f"{number}.npz", candidates[..., :3], **more)
    files, reads = find_files([str(tmp_path / "t")]), list[bool]()

    def trace(extras: bool) -> RoutingTrace:
        def read() -> RoutingTrace:
            reads.append(extras)
            return read_traces(files, MODEL, [1, 0], extras=extras)

        return cached(tmp_path / "cache", files, MODEL, [1, 0], None, read, extras)

    without, first, again = trace(False), trace(True), trace(True)
    assert without.weights is None
    assert without.candidates is None
    assert trace(False).weights is None
    assert reads == [False, True]
    fresh = read_traces(files, MODEL, [1, 0], extras=True)
    assert fresh.weights is not None
    assert fresh.candidates is not None
    for found in (first, again):
        assert isinstance(found.weights, np.memmap)
        assert isinstance(found.candidates, np.memmap)
        assert (found.weights == fresh.weights).all()
        assert (found.candidates == fresh.candidates).all()
        assert (found.experts == fresh.experts).all()
    next((tmp_path / "cache").glob("*.weights.npy")).write_bytes(b"")
    assert trace(True).weights is not None
    assert reads == [False, True, True]


def test_a_damaged_cache_entry_is_read_anew(folder: Path, tmp_path: Path) -> None:
    reads: list[int] = []
    cache = tmp_path / "cache"
    cached_trace(folder, cache, reads, [1])
    for path in cache.iterdir():
        path.write_bytes(path.read_bytes()[:60])
    again = cached_trace(folder, cache, reads, [1])
    assert len(reads) == 2
    assert (again.experts == trace_of(folder, [1]).experts).all()
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="is a file; name a folder"):
        cached_trace(folder, file, reads, [1])
