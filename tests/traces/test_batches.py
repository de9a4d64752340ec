"""Batches, splits and explicit batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import random_batches

from formulations.kit.arrays import Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.network import Network, TokensAt
from optimizer.errors import InputError
from optimizer.traces.batches import Batches, default_rows, split_batches, split_requests, with_shared
from optimizer.traces.formats.batch_file import explicit_batches, read_batches

TWO_ROWS, SIX_RANKS = Network(Mesh(2, 3, 2)), Network(Mesh(2, 3, 2), "device", "nodes")


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
    weights, candidates = rng.random((5, 4, 2)), rng.permuted(np.tile(np.arange(9), (5, 4, 1)), axis=2)[..., :4]
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
    batches = explicit_batches(path, read_batches(path), model, TWO_ROWS)
    assert batches.experts[0].tolist() == [[0, 1, 4], [2, 3, 4], [1, 0, 4], [3, 2, 4]]
    assert batches.source_row[0].tolist() == [0, 0, 1, 1]
    path = save(tmp_path / "c.npz", experts=experts, source_row=np.full((3, 4), 1))
    assert (explicit_batches(path, read_batches(path), model, TWO_ROWS).source_row == 1).all()


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
        ({"experts": np.array([[[0, 1]]]), "source": np.array([[0, 1]])}, r"source is int64 \(1, 2\), not .* \(1, 1\)"),
        ({"experts": np.array([[[0, 1]]]), "source": np.array([[0.5]])}, "source holds float64 values, not integers"),
    ],
)
def test_a_fault_in_an_explicit_file_is_named(tmp_path: Path, arrays: dict[str, object], said: str) -> None:
    path = save(tmp_path / "b.npz", **arrays)
    with pytest.raises(InputError, match=said):
        explicit_batches(path, read_batches(path), Model("m", 4, 0, 2), TWO_ROWS)


FOUR_TOKENS = np.array([[[0, 1], [2, 3], [1, 0], [3, 2]]] * 3)


def explicit(path: Path, network: Network, **arrays: list[int]) -> Batches:
    """The batches of a file of three batches, each of whose tokens have these rows or sources."""
    save(path / "b.npz", experts=FOUR_TOKENS, **{name: np.array([of] * 3) for name, of in arrays.items()})
    return explicit_batches(path / "b.npz", read_batches(path / "b.npz"), Model("m", 4, 0, 2), network)


def test_a_source_names_the_rank_where_ranks_send_and_the_row_where_rows_do(tmp_path: Path) -> None:
    ranks = explicit(tmp_path, SIX_RANKS, source=[5, 0, 3, 1])
    assert ranks.source_row[0].tolist() == [1, 0, 1, 0]
    assert ranks.source_on(SIX_RANKS)[0].tolist() == [5, 0, 3, 1]
    assert ranks.source_on(TWO_ROWS)[0].tolist() == [1, 0, 1, 0]
    rows = explicit(tmp_path, TWO_ROWS, source=[1, 0, 1, 0])
    assert rows.source is None
    assert rows.source_on(TWO_ROWS)[0].tolist() == rows.source_row[0].tolist() == [1, 0, 1, 0]


def test_tokens_are_dealt_out_to_the_devices_of_their_row_only_where_their_rank_is_unknown(tmp_path: Path) -> None:
    row = [1, 0, 1, 1]
    assert explicit(tmp_path, SIX_RANKS, source_row=row).source_on(SIX_RANKS)[0].tolist() == [3, 0, 4, 5]
    assert explicit(tmp_path, SIX_RANKS, source_row=row, source=[3, 2, 3, 3]).source_on(SIX_RANKS)[0].tolist() == [
        3, 2, 3, 3
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("tokens", "arrays", "said"),
    [
        ("device", {"source": [0, 6, 0, 0]}, r"source: 6 in batch 0, token 1 is outside 0\.\.5$"),
        ("device", {"source": [0, 0, -1, 0]}, r"source: -1 in batch 0, token 2 is outside 0\.\.5$"),
        ("row", {"source": [0, 0, 0, 2]}, r"source: 2 in batch 0, token 3 is outside 0\.\.1$"),
        ("device", {"source": [0, 4, 0, 0], "source_row": [0, 0, 0, 0]}, "source 4 in batch 0, token 1 is in row 1, but"
         " its source_row is 0$"),
        ("row", {"source": [0, 0, 1, 0], "source_row": [0, 0, 0, 0]}, "source 1 in batch 0, token 2 is in row 1, but"),
        ("device", {"source": [0, 0, 0, 0], "source_row": [0, 7, 0, 0]}, "source_row: 7 in batch 0, token 1"),
    ],
)  # fmt: skip
def test_sources_that_cannot_be_are_refused_in_one_line(
    tmp_path: Path, tokens: TokensAt, arrays: dict[str, list[int]], said: str
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        explicit(tmp_path, Network(Mesh(2, 3, 2), tokens), **arrays)
    assert caught.value.field == "batches"
    assert "\n" not in str(caught.value)


def test_known_sources_stay_with_their_batches_and_are_checked_against_each_network() -> None:
    """Also where they did not come from a file, as kernels that count by source do not check."""
    experts, rows = np.repeat(IDS, 4, axis=0), np.array([[0, 1]] * 4)
    batches = Batches(experts, rows, source=np.array([[0, 3], [1, 4], [2, 5], [0, 0]]))
    assert batches.part(1, 3).source_on(SIX_RANKS).tolist() == [[1, 4], [2, 5]]
    with pytest.raises(InputError, match="source 0 of batch 3, token 1 is not in its source_row 1"):
        batches.source_on(SIX_RANKS)
    with pytest.raises(InputError, match=r"sources are up to 4, but the mesh has 0\.\.3"):
        batches.part(0, 2).source_on(Network(Mesh(2, 2, 2), "device", "nodes"))
    with pytest.raises(ValueError, match="sources hold -1"):
        Batches(experts, rows, source=rows - 1)
    with pytest.raises(ValueError, match=r"source \(4, 1\) do not fit"):
        Batches(experts, rows, source=rows[:, :1])


def test_a_missing_or_damaged_explicit_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_batches(tmp_path / "none.npz")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match=r"not a whole \.npz archive"):
        read_batches(tmp_path / "cut.npz")


def test_load_counts_pairs() -> None:
    batches = Batches(np.array([[[0, 1], [0, 2]], [[2, 1], [2, 0]]]), np.zeros((2, 2), dtype=int))
    assert batches.load(4).tolist() == [[2, 1, 1, 0], [1, 1, 2, 0]]


IDS = np.array([[[0, 1], [2, 3]]])
ROWS = np.zeros((1, 2), dtype=int)


def changed(array: Ints, place: tuple[int, ...], value: int) -> Ints:
    """A copy of an array in which one entry is another."""
    changed = array.copy()
    changed[place] = value
    return changed


@pytest.mark.parametrize("beyond", [-1, 70_000, 2**32])
def test_ids_that_a_cast_would_turn_into_others_are_refused(beyond: int) -> None:
    wrong = changed(IDS, (0, 1, 0), beyond)
    with pytest.raises(ValueError, match=f"experts hold {beyond}, which is outside 0..65535"):
        Batches(wrong, ROWS)
    with pytest.raises(ValueError, match=f"experts hold {beyond}"):
        with_shared(wrong, Model("m", 4, 1, 2))
    with pytest.raises(ValueError, match=f"candidates hold {beyond}"):
        Batches(IDS, ROWS, candidates=wrong)


@pytest.mark.parametrize("beyond", [-1, 2**31, 2**32])
def test_rows_that_a_cast_would_turn_into_others_are_refused(beyond: int) -> None:
    with pytest.raises(ValueError, match=f"source rows hold {beyond}, which is outside 0.."):
        Batches(IDS, changed(ROWS, (0, 1), beyond))


def test_ids_and_rows_must_be_integers() -> None:
    with pytest.raises(ValueError, match="experts must be integers, not float64"):
        Batches(IDS.astype(float), ROWS)
    with pytest.raises(ValueError, match="source rows must be integers, not bool"):
        Batches(IDS, ROWS.astype(bool))


def test_a_token_names_each_expert_once() -> None:
    doubled = changed(IDS, (0, 1, 0), 3)
    with pytest.raises(ValueError, match="token 1 of batch 0 names one expert twice among its experts"):
        Batches(doubled, ROWS)
    with pytest.raises(ValueError, match="token 1 of batch 0 names one expert twice among its candidates"):
        Batches(IDS, ROWS, candidates=doubled)


def test_the_arrays_of_the_caller_are_copied_and_stay_writeable() -> None:
    experts, rows = IDS.astype(np.uint16), ROWS.astype(np.int32)
    weights, candidates = np.ones((1, 2, 2), dtype=np.float32), experts.copy()
    batches = Batches(experts, rows, weights, candidates)
    experts[:], rows[:], weights[:], candidates[:] = 9, 9, 9, 9
    assert batches.experts.tolist() == batches.candidates.tolist() == IDS.tolist()  # type: ignore[union-attr]
    assert batches.source_row.max() == 0
    assert (batches.weights == 1).all()  # type: ignore[union-attr]
    for array in (batches.experts, batches.source_row, batches.weights, batches.candidates):
        assert array is not None
        assert not array.flags.writeable


def test_a_part_shares_the_memory_of_the_whole() -> None:
    batches = Batches(np.repeat(IDS, 4, axis=0), np.repeat(ROWS, 4, axis=0))
    assert np.shares_memory(batches.part(1, 3).experts, batches.experts)
