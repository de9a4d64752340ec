"""A watch of counts without tokens: what it counts and remembers, and what it decides by."""

import json
from pathlib import Path

import numpy as np
import pytest
from watched import LATER, small_plan, watcher_of, write_requests

from optimizer.planning.plan_file import read_plan
from optimizer.planning.watching.window import LEAST_TEST_STEPS, OLDER

ENOUGH = (1 + OLDER) * LEAST_TEST_STEPS


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return small_plan(tmp_path / "plan.json")


def write_steps(folder: Path, numbers: range, rng: np.random.Generator, each: int = 1) -> None:
    """Write a file for each of these numbers with so many steps, in which experts 4 and 5 get most."""
    folder.mkdir(exist_ok=True)
    for number in numbers:
        load = rng.poisson([20, 20, 20, 20, 200, 200, 20, 20], (each, 3, 8))
        (folder / f"c{number:04}.json").write_text(json.dumps({"logical_count": load.tolist()}))


def counted(folder: Path) -> np.ndarray:
    """The counts of layer 1 in all files, `[step, expert]`."""
    files = sorted(folder.glob("c*.json"))
    return np.concatenate([np.array(json.loads(file.read_text())["logical_count"])[:, 1] for file in files])


def peak(slots: np.ndarray, load: np.ndarray) -> float:
    """Mean over steps of peak / mean device load under even split; load `[step, expert]`."""
    share = load / np.bincount(slots.ravel(), minlength=8)
    device = share[:, slots].sum(axis=2)
    return float((device.max(axis=1) / device.mean(axis=1)).mean())


def test_a_plan_is_replaced_where_the_newest_steps_say_that_it_pays(
    plan: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    folder, old = tmp_path / "traces", read_plan(plan).layers[1].placement
    write_steps(folder, range(ENOUGH // 4), rng, each=4)
    look = watcher_of(folder, plan).look(LATER)
    assert (look.decision, look.why, look.kind, look.requests) == ("written", "", "steps", ENOUGH)
    assert (look.tested, look.planned) == (LEAST_TEST_STEPS, ENOUGH - LEAST_TEST_STEPS)
    new, newest = read_plan(plan).layers[1].placement, counted(folder)[-LEAST_TEST_STEPS:]
    assert 0 < new.weights_to_load(old) <= 2
    assert look.found is not None
    gain = look.found.asked.gain
    assert gain.mean == pytest.approx(1 - peak(new.slots, newest) / peak(old.slots, newest), abs=1e-3)
    assert gain.low > 0


def test_too_few_steps_are_waited_for_and_nothing_is_counted_twice(
    plan: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    folder = tmp_path / "traces"
    write_steps(folder, range(ENOUGH - 1), rng)
    look = watcher_of(folder, plan).look(LATER)
    assert (look.decision, look.requests) == ("waiting", ENOUGH - 1)
    again = watcher_of(folder, plan)
    assert again.look(LATER).requests == 0
    assert again.state.loads.requests == len(again.state.window.requests) == ENOUGH - 1
    shares = again.state.loads.total[0] / again.state.loads.total[0].sum()
    assert shares == pytest.approx(counted(folder).sum(axis=0) / counted(folder).sum(), abs=0.02)


def test_a_watch_of_counts_takes_no_requests_also_after_a_restart(
    plan: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    folder = tmp_path / "traces"
    write_steps(folder, range(2), rng)
    watcher_of(folder, plan).look(LATER)
    write_requests(folder, range(1), rng)
    look = watcher_of(folder, plan).look(LATER)
    assert (look.requests, look.kind) == (0, "steps")
    assert "holds requests with their tokens, but this watch takes counts" in look.bad["r0000.npz"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"logical_count": [[[1, 2, 3]] * 3]}, "counts 3 experts, not 8"),
        ({"logical_count": [[[0] * 8] * 3]}, "every count is zero"),
        ({"logical_count": [[[1] * 8] * 3][:0]}, ""),
        ({"logical_count": "x"}, ""),
    ],
)
def test_counts_that_cannot_be_used_are_named(plan: Path, tmp_path: Path, content: object, said: str) -> None:
    folder = tmp_path / "traces"
    folder.mkdir()
    (folder / "bad.json").write_text(json.dumps(content))
    look = watcher_of(folder, plan).look(LATER)
    assert look.requests == 0
    assert said in look.bad["bad.json"]
    assert str(tmp_path) not in look.bad["bad.json"]


def test_steps_in_which_a_layer_counted_nothing_are_left_out(plan: Path, tmp_path: Path) -> None:
    folder = tmp_path / "traces"
    folder.mkdir()
    load = np.full((5, 3, 8), 10)
    load[2, 1] = 0
    (folder / "c.json").write_text(json.dumps({"logical_count": load.tolist()}))
    watcher = watcher_of(folder, plan)
    assert watcher.look(LATER).requests == 4


def test_a_folder_of_both_kinds_takes_what_comes_first(plan: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    folder = tmp_path / "traces"
    write_requests(folder, range(2), rng)
    assert watcher_of(folder, plan).look(LATER).kind == "requests"
