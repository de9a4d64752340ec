"""Batches, splits and explicit batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import random_batches

from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.traces.batches import Batches, default_rows, split_batches, split_requests
from optimizer.traces.formats.batch_file import explicit_batches, read_batches


def test_source_rows_are_slot_over_users_per_row() -> None:
    assert default_rows(512, 16).tolist() == [slot // 32 for slot in range(512)]
    assert np.bincount(default_rows(10, 4)).tolist() == [3, 2, 3, 2]


@given(st.integers(3, 500), st.integers(0, 1000))
def test_splits_are_disjoint_complete_and_never_empty(requests: int, seed: int) -> None:
    parts = split_requests(requests, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(requests))
    assert min(map(len, parts)) >= 1
    assert abs(len(parts[0]) - 0.6 * requests) <= 1.5
    assert all((a == b).all() for a, b in zip(parts, split_requests(requests, seed), strict=True))


def test_too_few_requests_or_batches_cannot_be_split(rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match=r"2 usable request\(s\): at least 3"):
        split_requests(2, 0)
    with pytest.raises(InputError, match=r"2 batch\(es\): at least 3"):
        split_batches(random_batches(rng, 2, 4, Model("m", 4, 0, 2), 1))


def test_explicit_batches_are_split_in_order(rng: np.random.Generator) -> None:
    batches = random_batches(rng, 10, 4, Model("m", 9, 0, 2), 2)
    parts = split_batches(batches)
    assert [part.count for part in parts] == [6, 2, 2]
    assert (np.concatenate([part.experts for part in parts]) == batches.experts).all()


def test_weights_and_candidates_go_with_their_batches(rng: np.random.Generator) -> None:
    model = Model("m", 9, 1, 2)
    plain = random_batches(rng, 5, 4, model, 2)
    weights, candidates = rng.random((5, 4, 2)), rng.integers(0, 9, (5, 4, 4))
    batches = Batches(plain.experts, plain.source_row, weights, candidates)
    assert plain.weights is None
    assert plain.candidates is None
    assert plain.part(1, 2).weights is None
    assert plain.part(1, 2).candidates is None
    for part, start, stop in ((batches, 0, 5), (batches.part(2, 4), 2, 4)):
        assert part.weights is not None
        assert part.candidates is not None
        assert part.weights.dtype == np.float32
        assert part.candidates.dtype == np.uint16
        assert (part.weights == weights[start:stop].astype(np.float32)).all()
        assert (part.candidates == candidates[start:stop]).all()
        assert not part.weights.flags.writeable
        assert not part.candidates.flags.writeable
    assert split_batches(batches).test.weights is not None


@pytest.mark.parametrize(
    "extras",
    [
        {"weights": np.ones((5, 3, 2))},
        {"weights": np.ones((5, 4))},
        {"weights": np.ones((5, 4, 4))},  # more than a token's three experts, the shared one included
        {"candidates": np.ones((4, 4, 6), dtype=int)},
        {"candidates": np.ones((5, 4), dtype=int)},
    ],
)
def test_weights_and_candidates_must_fit_the_experts(rng: np.random.Generator, extras: dict[str, Any]) -> None:
    plain = random_batches(rng, 5, 4, Model("m", 9, 1, 2), 2)
    with pytest.raises(ValueError, match=r"do not fit|4 weights for 3 experts"):
        Batches(plain.experts, plain.source_row, **extras)


def save(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_an_explicit_file_is_read_with_and_without_rows(tmp_path: Path) -> None:
    model = Model("m", 4, 1, 2)
    experts = np.array([[[0, 1], [2, 3], [1, 0], [3, 2]]] * 3)
    path = save(tmp_path / "b.npz", experts=experts)
    batches = explicit_batches(path, *read_batches(path), model, 2)
    assert batches.experts[0].tolist() == [[0, 1, 4], [2, 3, 4], [1, 0, 4], [3, 2, 4]]
    assert batches.source_row[0].tolist() == [0, 0, 1, 1]
    path = save(tmp_path / "c.npz", experts=experts, source_row=np.full((3, 4), 1))
    assert (explicit_batches(path, *read_batches(path), model, 2).source_row == 1).all()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"expert": np.zeros((1, 1, 2))}, "experts is missing"),
        ({"experts": np.array(None, dtype=object)}, "never unpickled"),
        ({"experts": np.zeros((1, 2))}, "not integers"),
        ({"experts": np.zeros((1, 2), dtype=int)}, "not integers"),
        ({"experts": np.array([[[0, 1, 2]]])}, "top-3, but the model has top-2"),
        ({"experts": np.array([[[0, 1], [0, 4]]])}, r"id 4 in batch 0, token 1 is outside 0\.\.3"),
        ({"experts": np.array([[[0, 1], [2, 2]]])}, "batch 0, token 1 names one expert twice"),
        ({"experts": np.array([[[0, 1]]]), "source_row": np.array([[2]])}, r"2 in batch 0, token 0 is outside 0\.\.1"),
        ({"experts": np.array([[[0, 1]]]), "source_row": np.array([2])}, r"source_row is int64 \(1,\)"),
    ],
)
def test_a_fault_in_an_explicit_file_is_named(tmp_path: Path, arrays: dict[str, object], said: str) -> None:
    path = save(tmp_path / "b.npz", **arrays)
    with pytest.raises(InputError, match=said):
        explicit_batches(path, *read_batches(path), Model("m", 4, 0, 2), 2)


def test_a_missing_or_damaged_explicit_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_batches(tmp_path / "none.npz")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match=r"not a whole \.npz archive"):
        read_batches(tmp_path / "cut.npz")


def test_load_counts_pairs() -> None:
    batches = Batches(np.array([[[0, 1], [0, 2]], [[2, 1], [2, 0]]]), np.zeros((2, 2), dtype=int))
    assert batches.load(4).tolist() == [[2, 1, 1, 0], [1, 1, 2, 0]]
