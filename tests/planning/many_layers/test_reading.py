"""Layers read a few at a time, against all at once."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from random_problems import request_experts, write_request

from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.planning.many_layers import reading
from optimizer.planning.many_layers.reading import LayerReader
from optimizer.traces.batches import Sets
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import TraceInput, TraceSource, open_traces

MODEL, MESH, LAYERS = Model("drawn", 8, 1, 2), Mesh(2, 2, 4), (0, 1, 2, 3, 4)
LAYER_BYTES = 5 * 20 * 2  # requests, tokens, top-k of uint8


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five requests of five layers."""
    rng, folder = np.random.default_rng(7), tmp_path_factory.mktemp("traces")
    for number in range(5):
        write_request(folder / f"r{number}.npz", request_experts(rng, 20, len(LAYERS), 8, 2))
    return folder


class Opened:
    """What was opened, and how many of the sources are still there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.layers: list[tuple[int, ...]] = []
        self.alive: weakref.WeakSet[TraceSource] = weakref.WeakSet()
        self.most_alive = 0
        monkeypatch.setattr(reading, "open_traces", self)

    def __call__(self, named: TraceInput, layers: Any, *rest: Any) -> TraceSource:
        gc.collect()
        self.most_alive = max(self.most_alive, len(self.alive) + 1)
        self.layers.append(tuple(layers))
        source = open_traces(named, layers, *rest)
        self.alive.add(source)
        return source


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """Collections of garbage leave alone all that was there before, so that they take no time."""
    gc.collect()
    gc.freeze()
    yield Opened(monkeypatch)
    gc.unfreeze()


def few_at_once(monkeypatch: pytest.MonkeyPatch, layers: float) -> None:
    monkeypatch.setattr(reading, "SMALL_FILES", 0)
    monkeypatch.setattr(reading, "MOST_BYTES", int(layers * LAYER_BYTES))


def reader(corpus: Path, layers: tuple[int, ...] | None = LAYERS, **named: Any) -> LayerReader:
    given = TraceInput(traces=[str(corpus)], batch_tokens=24, **named)
    return LayerReader.of(given, MODEL, MESH, layers, lambda share: None)


def arrays(sets: Sets) -> list[NDArray[Any]]:
    return [array for batches in sets for array in (batches.experts, batches.source_row)]


def test_small_files_are_opened_once(corpus: Path, opened: Opened) -> None:
    read = reader(corpus)
    for layer in (3, 0, 4):
        read.source_of(layer)
    assert opened.layers == [(3, 4), LAYERS]


@pytest.mark.parametrize("fitting", [0, 2.5, 4])
def test_groups_give_what_all_at_once_does(
    corpus: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch, fitting: float
) -> None:
    whole = open_traces(TraceInput(traces=[str(corpus)], batch_tokens=24), LAYERS, MODEL, MESH, lambda share: None)
    few_at_once(monkeypatch, fitting)
    read, size = reader(corpus), max(1, int(fitting))
    for layer in LAYERS:
        source = read.source_of(layer)
        assert source.fingerprint(layer) == whole.fingerprint(layer)
        for found, expected in zip(arrays(source.sets(layer)), arrays(whole.sets(layer)), strict=True):
            assert (found == expected).all()
        del source
    groups = [LAYERS[start : start + size] for start in range(0, len(LAYERS), size)]
    assert opened.layers == [LAYERS[:1], *groups]


def test_one_group_is_held_at_a_time(corpus: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    few_at_once(monkeypatch, 2)
    read = reader(corpus)
    for layer in (*LAYERS, *LAYERS):
        read.source_of(layer)
    assert len(opened.layers) == 1 + 3 + 3
    assert opened.most_alive == 1


def test_groups_follow_the_order_in_which_layers_are_asked_for(
    corpus: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_at_once(monkeypatch, 2)
    read = reader(corpus)
    read.coming = (3, 0, 4, 2)
    for layer in read.coming:
        source = read.source_of(layer)
        assert source.fingerprint(layer) == reader(corpus, (layer,)).source_of(layer).fingerprint(layer)
    assert [layers for layers in opened.layers if len(layers) > 1] == [(3, 0), (4, 2)]
    assert read.source_of(1).trace.layers[0] == 1


def test_sources_come_in_turn(corpus: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    few_at_once(monkeypatch, 2)
    found = [layers for _, layers in reader(corpus).sources()]
    assert [sorted(layers) for layers in found] == [[0, 1], [2, 3], [4]]


def test_notes_are_said_once(corpus: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    few_at_once(monkeypatch, 1)
    read = reader(corpus, LAYERS, phase="prefill")
    for layer in LAYERS:
        read.source_of(layer)
    assert list(read.notes) == ["5 requests"]


def test_all_layers_are_those_with_experts(tmp_path: Path, rng: np.random.Generator) -> None:
    experts = request_experts(rng, 20, 4, 8, 2)
    write_request(tmp_path / "r.npz", experts)
    assert reader(tmp_path, None, first_moe_layer=3).layers == (3, 4, 5, 6)
    experts[:, 0] = 0
    write_request(tmp_path / "r.npz", experts)
    assert reader(tmp_path, None).layers == (1, 2, 3)


def test_all_layers_of_the_built_in_trace_are_the_models() -> None:
    def of(choice: Model | ModelChoice) -> LayerReader:
        return LayerReader.of(TraceInput(), choice, MESH, None, lambda share: None)

    assert of(ModelChoice(None, None, None, None)).layers == tuple(range(3, 61))
    assert of(ModelChoice("llama-4-maverick")).layers == tuple(range(1, 48, 2))
    with pytest.raises(InputError, match="how many layers drawn has is not known"):
        of(MODEL)


def test_a_batch_file_holds_one_layer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a batch file holds one layer"):
        LayerReader.of(TraceInput(batches=tmp_path / "b.npz"), MODEL, MESH, None, lambda share: None)
