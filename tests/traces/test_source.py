"""From what was named to batches: all at once or a few at a time, with weights and candidates or without."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import random_batches, request_experts, write_request

from formulations.kit.arrays import Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.traces import corpus
from optimizer.traces.batches import Batches
from optimizer.traces.composition import CHUNK, PHASES, Composition
from optimizer.traces.counted_source import open_counts, synthesised
from optimizer.traces.formats.sniff import Format, sniff
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import BATCHES_PER_SET, BatchSource, Source, TraceInput, batches_of, open_source
from optimizer.traces.trace import digest

MODEL, MESH = Model("m", 8, 1, 3), Mesh(2, 2, 3)


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Twelve requests with gate weights and candidates."""
    for number in range(12):
        candidates = request_experts(rng, 9 + number, 2, 8, 5)
        more: dict[str, Any] = {"routed_weights": rng.random((9 + number, 2, 3)), "candidate_experts": candidates}
        write_request(tmp_path / "t" / f"{number}.npz", candidates[..., :3], prompt=4, **more)
    return tmp_path / "t"


def opened(named: TraceInput) -> Source:
    return open_source(named, [1], MODEL, MESH, lambda share: None)


def content(batches: list[Batches]) -> tuple[Ints, ...]:
    """The arrays that batches have, of one batch after another."""
    names = ("experts", "source_row", "weights", "candidates")
    return tuple(
        np.concatenate([getattr(part, name) for part in batches])
        for name in names
        if getattr(batches[0], name) is not None
    )


def same(one: list[Batches], other: list[Batches]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(content(one), content(other), strict=True))


@pytest.mark.parametrize("phase", PHASES)
def test_a_stream_has_the_batches_of_its_set(folder: Path, phase: str) -> None:
    source = opened(TraceInput([str(folder)], phase=phase, batch_tokens=6, extras=True, seed=3))
    for test_only, whole in ((True, source.sets(1).test), (False, source.everything(1))):
        parts = list(source.stream(1, test_only))
        assert [part.count for part in parts] == [CHUNK] * (BATCHES_PER_SET // CHUNK)
        assert same(parts, [whole])
        assert sum(part.count for part in source.stream(1, test_only, 300)) == 300
    assert sum(part.count for part in source.stream(1, True, 3000)) == 3000


@pytest.mark.parametrize(
    ("tokens", "batches"), [(512, 1024), (2048, 1024), (2049, 1023), (4096, 512), (16384, 128), (65536, 128)]
)
def test_large_batches_are_fewer(tokens: int, batches: int) -> None:
    """A set of a thousand batches of 16,384 tokens took longer to judge than the whole time limit of a search."""
    assert batches_of(Composition("decode", (tokens,))) == batches


def test_a_longer_stream_goes_on_from_a_shorter_one(folder: Path) -> None:
    source = opened(TraceInput([str(folder)], batch_tokens=6))
    longer = content(list(source.stream(1, True, 500)))
    assert all((a[:200] == b).all() for a, b in zip(longer, content(list(source.stream(1, True, 200))), strict=True))


@given(st.integers(3, 400), st.booleans(), st.data())
def test_the_batches_of_a_file_are_streamed_as_far_as_they_go(count: int, test_only: bool, data: st.DataObject) -> None:
    source = BatchSource(MODEL, random_batches(np.random.default_rng(count), count, 2, MODEL, 2), "batches of b.npz")
    whole = source.sets(0).test if test_only else source.batches
    assert same(list(source.stream(0, test_only)), [whole])
    asked = data.draw(st.integers(1, whole.count))
    parts = list(source.stream(0, test_only, asked))
    assert max(part.count for part in parts) <= CHUNK
    assert same(parts, [whole.part(0, asked)])
    with pytest.raises(InputError, match=rf"b\.npz hold {whole.count} .*fewer than the {whole.count + 1} "):
        source.stream(0, test_only, whole.count + 1)


def test_weights_and_candidates_come_only_where_they_are_asked_for(folder: Path, tmp_path: Path) -> None:
    prints = set()
    for cache in (None, tmp_path / "cache"):
        for extras in (False, True):
            source = opened(TraceInput([str(folder)], batch_tokens=6, cache=cache, extras=extras))
            for batches in (*source.sets(1), *source.stream(1, False, 200)):
                assert (batches.weights is not None) == (batches.candidates is not None) == extras
                if batches.candidates is not None:
                    assert (batches.candidates[..., :3] == batches.experts[..., :3]).all()
            prints.add((source.fingerprint(1), digest(source.sets(1).test.experts)))
    assert len(prints) == 1


def test_the_builtin_trace_has_the_same_batches_with_weights_and_candidates() -> None:
    plain, rich = (opened(TraceInput(batch_tokens=6, extras=extras)).sets(1).test for extras in (False, True))
    assert (plain.experts == rich.experts).all()
    assert plain.weights is None
    assert plain.candidates is None
    assert rich.weights is not None
    assert rich.candidates is not None
    assert rich.weights.shape == (BATCHES_PER_SET, 6, 3)


def test_synthesised_requests_have_weights_and_candidates_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "counts.npz", counts=np.array([[[[9, 8, 7, 6, 5, 4, 3, 2]]]]))
    for extras in (False, True):
        named = TraceInput([str(tmp_path / "counts.npz")], batch_tokens=6, extras=extras)
        counted = open_counts(named, ModelChoice(top_k=3))
        assert counted is not None
        batches = synthesised(*counted, 0, named, MESH).sets(0).test
        assert (batches.weights is not None) == (batches.candidates is not None) == extras


def test_files_are_looked_into_once_however_often_their_input_is_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Path] = []

    def counting(path: Path) -> Format:
        looked.append(path)
        return sniff(path)

    monkeypatch.setattr(corpus, "sniff", counting)
    named = TraceInput([str(folder)], batch_tokens=6)
    assert len(named.files) == 12
    for changed in (replace(named, phase="prefill"), replace(named, traces=[str(folder / "0.npz")]), named):
        assert {file.path for file in changed.files} <= {file.path for file in named.files}
        opened(changed)
    assert sorted(looked) == sorted(folder.iterdir())
    assert named == replace(named)
