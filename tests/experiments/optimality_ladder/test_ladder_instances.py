"""The instances of the benchmark are the same in every run, and each trace is placed on the mesh that it fits."""

from pathlib import Path

import numpy as np
import pytest

from optimizer.errors import InputError
from optimizer.experiments.optimality_ladder.ladder import (
    BATCHES,
    DEVICE_PAIRS,
    LADDER,
    LAYERS,
    LadderInstance,
    generated,
    of_trace,
    tiny,
)


def quiet(stage: str, share: float) -> None:
    """A progress function that shows nothing, but checks the share."""
    assert 0 <= share <= 1, stage


def read(path: Path, *sizes: str) -> list[LadderInstance]:
    """The instances of a trace for these mesh sizes, or for all."""
    return list(of_trace(str(path), sizes or list(LADDER), quiet))


def test_generated_instances_are_the_same_in_every_run_and_all_different() -> None:
    first, again = (list(generated(["1x8", "4x2"], quiet)) for _ in range(2))
    assert [each.digest for each in first] == [each.digest for each in again]
    assert len({each.digest for each in first}) == len(first) == 2 * LAYERS
    assert [each.name for each in first[:LAYERS]] == [f"generated layer {layer}" for layer in range(LAYERS)]


@pytest.mark.parametrize("size", [size for size in LADDER if size != "16x8"])
def test_batches_bring_as_many_pairs_to_a_device_on_every_mesh(size: str) -> None:
    for instance in generated([size], quiet):
        problem = instance.problem
        assert problem.load.shape == (BATCHES, problem.model.experts)
        assert set(problem.load.sum(axis=1)) == {DEVICE_PAIRS * problem.mesh.devices}
        assert problem.model.experts <= problem.mesh.slots


def test_the_digest_knows_loads_and_mesh() -> None:
    spare, full = tiny()
    assert spare.digest != full.digest
    assert spare.digest == tiny()[0].digest


def test_layers_of_a_trace_are_drawn_on_the_smallest_mesh_with_room(traces: Path) -> None:
    found = read(traces)
    assert [(each.name, each.size) for each in found] == [(f"traces layer {layer}", "1x8") for layer in (0, 1, 2)]
    assert not any(each.counted for each in found)
    assert [each.size for each in read(traces, "4x4", "16x8")] == ["4x4"] * 3


def test_counts_are_steps_without_tokens(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = tmp_path / "counts.npz"
    choices = np.argsort(rng.random((2, 3, 5, 40, 30)), axis=4)[..., :4]
    counts = np.stack([(choices == expert).sum(axis=(3, 4)) for expert in range(30)], axis=3)
    np.savez(path, counts=counts, tokens=np.full((2, 3), 40))
    found = read(path)
    assert [(each.name, each.size, each.counted) for each in found] == [
        (f"counts.npz layer {layer}", "4x4", True) for layer in (0, 2, 4)
    ]
    assert found[0].problem.load.shape == (6, 30)


def test_a_trace_that_fits_no_mesh_and_one_that_is_none_are_refused(traces: Path) -> None:
    with pytest.raises(InputError, match="name a larger one"):
        list(of_trace(str(traces), [], quiet))
    with pytest.raises(InputError, match="no such file"):
        read(traces / "nowhere")


def test_real_traces_take_their_places_on_the_ladder(real_traces: Path) -> None:
    assert {each.size for each in read(real_traces / "deepseek-v2-lite")} == {"4x8"}
    assert {each.size for each in read(real_traces / "glm-5.2")} == {"16x8"}
