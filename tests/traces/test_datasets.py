"""Data sets as the user names and weighs them, batches mixed from them, and how far apart they are."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
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
from optimizer.statistics.drift import Drift, routed_counts
from optimizer.traces.batches import Batches, Sets
from optimizer.traces.datasets import (
    ALL,
    MIX,
    ROBUST,
    DataSet,
    data_sets,
    datasets_of,
    mixed,
    mixes,
    phases_of,
    weights_of,
)
from optimizer.traces.source import TraceInput, TraceSource, open_source

MODEL, MESH = Model("m", 8, 1, 2), Mesh(2, 2, 3)


def datasets(named: TraceInput, phases: Sequence[str], weights: Mapping[str, float] | None = None) -> list[DataSet]:
    """The data sets of traces that are named as on the command line."""
    sets = datasets_of(named.traces)
    paths = {ALL: tuple(named.traces)} if sets is None else sets
    return data_sets({name: replace(named, traces=of) for name, of in paths.items()}, phases, weights, sets is not None)


@pytest.fixture
def folders(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Requests of three kinds, each in a folder of its own."""
    for name in ("a", "b", "c"):
        for number in range(10):
            write_request(tmp_path / name / f"{number}.npz", request_experts(rng, 9, 2, 8, 2), prompt=4)
    return tmp_path


def test_paths_of_one_name_are_joined_in_the_order_of_naming() -> None:
    found = datasets_of(["code=x/*.npz", "chat=y", "code=z=1"])
    assert found == {"code": ("x/*.npz", "z=1"), "chat": ("y",)}
    assert list(found) == ["code", "chat"]


@pytest.mark.parametrize("traces", [[], ["x"], ["x/*.npz", "y"]])
def test_plain_paths_name_no_data_set(traces: list[str]) -> None:
    assert datasets_of(traces) is None


def test_a_path_with_an_equals_sign_that_is_there_is_a_plain_one(folders: Path) -> None:
    (folders / "a").rename(folders / "lr=3")
    for path in (folders / "lr=3", folders / "lr=*"):
        assert datasets_of([str(path)]) is None
        assert datasets_of([f"a={path}"]) == {"a": (str(path),)}
    with pytest.raises(InputError, match="a plain path beside data set b=x; write NAME=PATH for all or for none"):
        datasets_of(["b=x", str(folders / "lr=3")])


@pytest.mark.parametrize(
    "text", ["=x", "a=", "=", " a=x", "a,b=x", "dir/lr=3", "a\nb=x", f"{MIX}=x", f"{ROBUST}=x", f"{MIX} without a=x"]
)
def test_what_is_neither_path_nor_data_set_is_said_in_one_line(text: str) -> None:
    with pytest.raises(InputError, match="write NAME=PATH") as fault:
        datasets_of([text])
    assert str(fault.value).startswith(text)


def test_phases_are_told_apart() -> None:
    assert phases_of(None) == ("decode",)
    assert phases_of("prefill, decode") == ("prefill", "decode")
    for text, fault in (
        ("decode,train", "'train' is not known"),
        ("mixed,mixed", "names a phase twice"),
        ("", "known"),
    ):
        with pytest.raises(InputError, match=fault):
            phases_of(text)


def test_weights_are_numbers_by_name() -> None:
    assert weights_of(None) is None
    assert weights_of("code=3, chat decode=.5") == {"code": 3, "chat decode": 0.5}
    for text in ("code", "code=", "=3", "code=x", "code=-1", "code=nan", "code=inf", "code=1,code=2", ""):
        with pytest.raises(InputError, match="like code=3,chat=1"):
            weights_of(text)


def names_and_weights(traces: list[str], phases: list[str], weights: dict[str, float] | None) -> dict[str, float]:
    found = datasets(TraceInput(traces, seed=4, batch_tokens=6), phases, weights)
    assert all((one.named.seed, one.named.batch_tokens) == (4, 6) for one in found)
    assert sum(one.weight for one in found) == pytest.approx(1)
    return {one.name: one.weight for one in found}


def test_names_and_phases_are_crossed_and_share_weights(folders: Path) -> None:
    traces, phases = [f"{name}={folders / name}" for name in "ab"], ["decode", "prefill"]
    assert names_and_weights([], ["decode"], None) == {ALL: 1}
    assert names_and_weights([], phases, {"decode": 3, "prefill": 1}) == {"decode": 0.75, "prefill": 0.25}
    assert names_and_weights(traces, ["prefill"], None) == {"a": 0.5, "b": 0.5}
    assert names_and_weights(traces, ["prefill"], {"b": 3, "a": 0}) == {"a": 0, "b": 1}
    every: dict[str, float] = {"a decode": 3, "a prefill": 1, "b decode": 6, "b prefill": 0}
    assert names_and_weights(traces, phases, every) == {name: weight / 10 for name, weight in every.items()}
    by_name = names_and_weights(traces, phases, {"a": 3, "b": 1})
    assert list(by_name.values()) == pytest.approx([0.375, 0.375, 0.125, 0.125])
    by_phase = names_and_weights(traces, phases, {"decode": 3, "prefill": 1})
    assert list(by_phase.values()) == pytest.approx([0.375, 0.125, 0.375, 0.125])
    parts = {one.name: one.named for one in datasets(TraceInput(traces), phases)}
    assert (parts["b prefill"].traces, parts["b prefill"].phase) == ((str(folders / "b"),), "prefill")


@pytest.mark.parametrize(
    ("weights", "fault"),
    [
        ({"a": 1}, "'b' has no weight; give a weight to each of a, b"),
        ({"a": 1, "b": 1, "x": 1}, "'x' is no data set; give a weight to each of a, b"),
        ({"decode": 1, "x": 1}, "'x' is no data set; give a weight to each of decode"),
        ({"a": 0, "b": 0}, "all 0"),
    ],
)
def test_weights_of_other_data_sets_are_refused(folders: Path, weights: dict[str, float], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        datasets(TraceInput([f"{name}={folders / name}" for name in "ab"]), ["decode"], weights)


def test_data_sets_have_no_file_in_common(folders: Path) -> None:
    traces = [f"a={folders / 'a'}", f"every={folders / '*' / '3.npz'}"]
    with pytest.raises(InputError, match=r"a/3\.npz: is in data set a and in every; leave it out of one of them"):
        datasets(TraceInput(traces), ["decode"])
    assert len(datasets(TraceInput([f"a={folders / 'a'}", f"a={folders / 'a' / '3.npz'}"]), ["decode", "prefill"])) == 2


def test_a_batch_file_has_no_phases() -> None:
    assert [one.name for one in datasets(TraceInput(batches=Path("b.npz")), ["decode"])] == [ALL]
    with pytest.raises(InputError, match=r"b\.npz are what they are; name one phase, not decode, prefill"):
        datasets(TraceInput(batches=Path("b.npz")), ["decode", "prefill"])


def source_of(named: TraceInput) -> TraceSource:
    found = open_source(named, [1], MODEL, MESH, lambda share: None)
    assert isinstance(found, TraceSource)
    return found


def test_every_data_set_splits_its_requests_and_its_phases_alike(folders: Path) -> None:
    """Requests are told by their first expert pair, as each has its own experts throughout."""
    for place, path in enumerate(sorted(folders.rglob("*.npz"))):
        pair = np.array([place % 8, (place + 1 + place // 8) % 8])
        write_request(path, np.broadcast_to(pair, (9, 2, 2)).astype(np.uint8), prompt=4)
    traces = [f"{name}={folders / name}" for name in "ab"]
    seen: dict[str, list[set[tuple[int, ...]]]] = {}
    for one in datasets(TraceInput(traces, batch_tokens=6), ["decode", "prefill"]):
        sets = source_of(one.named).sets(1)
        seen[one.name] = [{tuple(token[:2]) for token in part.experts.reshape(-1, 3).tolist()} for part in sets]
    for parts in seen.values():
        assert [len(part) for part in parts] == [6, 2, 2]
        assert len({*chain(*parts)}) == 10
    assert seen["a decode"] == seen["a prefill"]
    assert not {*chain(*seen["a decode"])} & {*chain(*seen["b decode"])}


NUMBER = 1000  # beyond every data set's number, as a token names each expert once


def numbered(count: int, mark: int, tokens: int = 4, **extras: Any) -> Batches:
    """Batches that can be told: every token's experts are the data set, NUMBER + the batch's number, and the last."""
    experts = np.full((count, tokens, 3), 2**16 - 1, dtype=np.uint16)
    experts[..., 0], experts[..., 1] = mark, NUMBER + np.arange(count)[:, None]
    return Batches(experts, np.full((count, tokens), mark), **extras)


def told(batches: Batches) -> tuple[Ints, Ints]:
    """The data set and number of each batch."""
    assert (batches.source_row == batches.experts[:, 0, 0][:, None]).all()
    return batches.experts[:, 0, 0], batches.experts[:, 0, 1] - NUMBER


SIZES = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 6)), min_size=1, max_size=5)


@given(SIZES.filter(lambda sizes: any(weight for _, weight in sizes)), st.integers(0, 99))
def test_a_mix_is_in_proportion_and_repeats_only_what_it_must(sizes: list[tuple[int, int]], seed: int) -> None:
    sets = [Sets(*(numbered(count, mark) for _ in range(3))) for mark, (count, _) in enumerate(sizes)]
    total = sum(weight for _, weight in sizes)
    weights = [weight / total for _, weight in sizes]
    largest = max(count for count, weight in sizes if weight)
    for part in mixed(sets, weights, seed):
        mark, number = told(part)
        assert part.count == largest
        for place, (count, _) in enumerate(sizes):
            own = number[mark == place]
            assert abs(len(own) - weights[place] * largest) < 1
            assert (np.diff(own.astype(int)) >= 0).all()
            times = np.bincount(own, minlength=count)
            assert times.max() - times.min() <= 1
            half = (mark[: largest // 2] == place).sum()
            assert abs(half - len(own) / 2) <= len(sizes)


def test_the_same_seed_mixes_the_same_batches_and_another_others() -> None:
    sets = [Sets(*(numbered(100, mark) for _ in range(3))) for mark in range(2)]
    one, again, other = (mixed(sets, [0.5, 0.5], seed) for seed in (1, 1, 2))
    assert (one.train.experts == again.train.experts).all()
    assert (one.train.experts != other.train.experts).any()
    assert (one.train.experts != one.test.experts).any()


def test_train_stays_train() -> None:
    sets = [Sets(*(numbered(5, 3 * place + part) for part in range(3))) for place in range(2)]
    for part, found in enumerate(mixed(sets, [0.3, 0.7], 0)):
        assert set(told(found)[0].tolist()) == {part, 3 + part}


def test_weights_and_candidates_are_mixed_where_all_have_them() -> None:
    ranked = [np.tile(mark + np.arange(width), (4, 4, 1)) for mark, width in ((0, 5), (1, 5), (2, 6))]
    gate = np.ones((4, 4, 2))
    plain, *rich = numbered(4, 0), *(numbered(4, n, weights=n * gate, candidates=r) for n, r in enumerate(ranked))
    both = mixed([Sets(*[rich[0]] * 3), Sets(*[rich[1]] * 3)], [0.5, 0.5], 0).train
    assert both.weights is not None
    assert both.candidates is not None
    assert (both.weights[:, 0, 0] == told(both)[0]).all()
    assert (both.candidates[:, 0, 0] == told(both)[0]).all()
    for other, weights in ((plain, False), (rich[2], True)):
        mix = mixed([Sets(*[rich[1]] * 3), Sets(*[other] * 3)], [0.5, 0.5], 0).train
        assert mix.candidates is None
        assert (mix.weights is not None) == weights


def test_mixes_are_of_all_and_of_all_but_one() -> None:
    assert mixes({"a": 1}) == {}
    assert mixes({"a": 0.7, "b": 0.3}) == {MIX: [0.7, 0.3]}
    every = mixes({"a": 0.6, "b": 0.3, "c": 0.1})
    assert list(every) == [MIX, "mix without a", "mix without b", "mix without c"]
    assert every["mix without b"] == [0.6, 0, 0.1]
    assert mixes({"a": 1, "b": 0, "c": 0})["mix without a"] == [0, 1, 1]
    sets = [Sets(*(numbered(20, mark) for _ in range(3))) for mark in range(3)]
    assert np.bincount(told(mixed(sets, every["mix without b"], 0).train)[0]).tolist() == [17, 0, 3]


def test_batches_of_different_sizes_cannot_be_mixed() -> None:
    sets = [Sets(*(numbered(4, 0, tokens) for _ in range(3))) for tokens in (4, 6)]
    with pytest.raises(InputError, match="batches of 4 and of 6 tokens cannot be mixed; give all the same"):
        mixed(sets, [0.5, 0.5], 0)


def test_drift_is_the_total_variation_of_the_routed_experts_shares(rng: np.random.Generator) -> None:
    batches = [[random_batches(rng, 3, 10, MODEL, 2) for _ in range(2)] for _ in range(6)]  # [data set and layer][part]
    train, test = (
        np.array([routed_counts(parts[turn], MODEL) for parts in batches]).reshape(3, 2, 8) for turn in range(2)
    )
    for parts, counts in zip(batches, train.reshape(6, 8), strict=True):
        chosen = [expert for token in parts[0].experts.reshape(-1, 3).tolist() for expert in token if expert < 8]
        assert counts.tolist() == [chosen.count(expert) for expert in range(8)]
    drift = Drift.of(["a", "b", "c"], [5, 9], train, test)

    def apart(one: Ints, other: Ints) -> float:
        shares = [[count / sum(counts) for count in counts] for counts in (one.tolist(), other.tolist())]
        return float(sum(abs(x - y) for x, y in zip(*shares, strict=True))) / 2

    for layer in range(2):
        for one in range(3):
            assert drift.within[one, layer] == pytest.approx(apart(train[one, layer], test[one, layer]))
            for other in range(3):
                assert drift.between[one, other, layer] == pytest.approx(apart(train[one, layer], train[other, layer]))
    said = drift.summary()
    assert said["between"][0][1] == pytest.approx(drift.between[0, 1].mean())
    assert said["within"][2] == pytest.approx(drift.within[2].mean())
    assert said["layers"]["9"]["between"][2][1] == drift.between[2, 1, 1]
