"""One plan for several data sets of counts, from files to the plan: prefill and decode are often dumped as such."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_problems import request_experts, write_request
from running_commands import fault, run

from formulations.choice.robust_choice import Criterion
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.presets import load_hardware
from optimizer.errors import InputError
from optimizer.planning.choose_for_datasets import EXPECTED
from optimizer.planning.many_layers.count_sets import read_count_sets
from optimizer.planning.many_layers.plan_for_datasets import MADE_ON
from optimizer.planning.many_layers.robust_counts import (
    CountSets,
    mixed_steps,
    plan_counts_for_datasets,
    plan_robust_counts,
)
from optimizer.planning.many_layers.run import Run
from optimizer.planning.many_layers.settings import Settings
from optimizer.planning.many_layers.workers import Crew
from optimizer.planning.options import SolveOptions
from optimizer.planning.plan_expected_load import STEP_PAIRS, expected_imbalance
from optimizer.planning.plan_file import read_plan
from optimizer.search.stop import Deadline
from optimizer.traces.datasets import DataSet
from optimizer.traces.formats.counts import Counts
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import TraceInput

HARDWARE = "tt-wormhole-galaxy"
MODEL, MESH = Model("small", 16, 0, 2), Mesh(2, 2, 6)
SHORT = ("--mesh", "2x2", "--slots", 6, "--time-limit", 60, "--iterations", 100, "--hardware", HARDWARE)


def phases(folder: Path) -> dict[str, Path]:
    """Counts of two layers and 16 experts for two phases with other hot experts, each in a file of its own."""
    rng, paths = np.random.default_rng(5), {}
    for phase in ("prefill", "decode"):
        paths[phase] = folder / f"{phase}.json"
        paths[phase].write_text(json.dumps({"logical_count": rng.integers(1, 100, (2, 16)).tolist()}))
    return paths


def sets_of(loads: dict[str, Any], layers: tuple[int, ...] = (0, 1)) -> CountSets:
    settings = Settings(MODEL, MESH, Cost(HARDWARE, load_hardware(HARDWARE)), SolveOptions(60, 1, 100))
    counts = tuple(Counts(load, (0, 1), None, 2, (), name) for name, load in loads.items())
    return CountSets(settings, tuple(loads), (1 / len(loads),) * len(loads), counts, layers)


def test_counts_of_phases_are_planned_as_data_sets(tmp_path: Path) -> None:
    # "name requests, not counts" was all that there was to say of such dumps.
    paths, plan, page = phases(tmp_path), tmp_path / "plan.json", tmp_path / "page.html"
    named = [f"{name}={path}" for name, path in paths.items()]
    asked = ("solve", *named, "--layer", "all", "--top-k", 2, *SHORT, "--robust", "worst", "-o", plan)
    result = run(*asked, "--separate", "--matrix", page, "--json")
    assert result.exit_code == 0, result.output
    assert "counts alone, so the expected load is planned" in result.stderr
    found = json.loads(result.stdout)["robustness"]
    worst = {each["plan"]: each["worst"]["mean"] for each in found["plans"]}
    assert worst["robust"] <= min(worst.values())
    slots = {layer: part.placement for layer, part in read_plan(plan).layers.items()}
    for name, path in paths.items():
        load = np.array(json.loads(path.read_text())["logical_count"])
        figures = [float(expected_imbalance(slots[layer], load[[layer]])[0]) for layer in range(2)]
        said = found["plans"][-1]["expected_imbalance"]["mean"][name]
        assert said == pytest.approx(np.mean(figures), rel=1e-3)
        assert run("validate", tmp_path / f"plan.{name}.json").exit_code == 0
    assert "expected imbalance of devices" in page.read_text()
    tables = run(*asked).stdout
    assert "How even is a plan on each data set?" in tables
    assert "Least even data set, expected imbalance: robust " in tables


def test_candidates_are_made_on_each_data_set_and_on_mixes_and_judged_on_all() -> None:
    # With three data sets there is a mix without each, so that a plan can be judged on what it was not made for.
    rng = np.random.default_rng(2)
    together = sets_of({name: rng.integers(1, 99, (steps, 2, 16)) for name, steps in (("a", 1), ("b", 6), ("c", 2))})
    task = together.task(1)
    found = plan_counts_for_datasets(task, Deadline(60))
    assert found is not None
    made = Counter(part.provenance[MADE_ON] for part in found)
    assert made == {"a": 1, "b": 1, "c": 1, "mix": 2, "mix without a": 1, "mix without b": 1, "mix without c": 1}
    for part in found:
        assert part.placement.violations(16, 4, 6) == []
        for name, train, test in zip(task.names, task.train, task.test, strict=True):
            selection, figures = part.quality[EXPECTED.selection_key][name], part.quality[EXPECTED.test_key][name]
            assert selection == pytest.approx(expected_imbalance(part.placement, train).mean())
            assert figures["p50"] == pytest.approx(np.median(expected_imbalance(part.placement, test)))
    own = {part.provenance[MADE_ON]: part.quality[EXPECTED.selection_key] for part in found}
    assert own["a"]["a"] < own["b"]["a"]


@pytest.mark.parametrize(("steps", "weights"), [((1, 1), (0.75, 0.25)), ((100, 2), (0.5, 0.5)), ((3, 5), (0.0, 1.0))])
def test_a_mix_of_steps_has_the_weights_that_were_asked_for(
    steps: tuple[int, int], weights: tuple[float, float]
) -> None:
    # A data set of many steps must not outweigh one of few, and none of its steps may be forgotten.
    loads = [np.full((count, 4), 9) for count in steps]
    loads[0][:, 1], loads[1][:, 2] = 99, 99
    loads = [np.rint(load * STEP_PAIRS / load.sum(axis=1, keepdims=True)).astype(np.int32) for load in loads]
    mixed = mixed_steps(loads, weights)
    assert len(mixed) == 64
    assert mixed.sum(axis=1) == pytest.approx(np.full(64, STEP_PAIRS), abs=4)
    assert (mixed[:, 1] > mixed[:, 2]).mean() == weights[0]


def test_steps_beyond_the_share_are_added_up() -> None:
    # A hot step among many others must be seen in the mix.
    load = np.full((128, 4), STEP_PAIRS // 4, dtype=np.int32)
    load[77] = [STEP_PAIRS, 0, 0, 0]
    mixed = mixed_steps([load, load[:1]], [0.5, 0.5])
    assert (mixed[:32, 0] > STEP_PAIRS // 4).sum() == 1


@pytest.mark.parametrize(("phase", "outputs"), [("decode", True), ("prefill", False)])
def test_tokens_beside_counts_are_counted(tmp_path: Path, phase: str, outputs: bool) -> None:
    # Tokens of the phase alone, every group of requests with the same weight: the oracle counts one by one.
    rng, shares = np.random.default_rng(1), np.zeros((10, 3, 16))
    for number in range(20):
        experts = request_experts(rng, 8, 3, 16, 2)
        write_request(tmp_path / "code" / f"r{number:02}.npz", experts, 3)
        for token in range(3, 8) if outputs else range(3):
            for layer in range(3):
                for expert in experts[token, layer]:
                    shares[number // 2, layer, expert] += 1
    path = tmp_path / "chat.json"
    path.write_text(json.dumps({"logical_count": rng.integers(1, 100, (2, 16)).tolist()}))
    sets = [
        DataSet("code", TraceInput([str(tmp_path / "code")], phase=phase), 0.5),
        DataSet("chat", TraceInput([str(path)], phase=phase), 0.5),
    ]
    found = read_count_sets(sets, ModelChoice(), MESH, None, lambda share: None)
    assert (found.model.routed_experts, found.model.top_k, found.layers) == (16, 2, (0, 1))
    counted = found.counts[0].load / found.counts[0].load.sum(axis=2, keepdims=True)
    assert counted == pytest.approx(shares / shares.sum(axis=2, keepdims=True), abs=1e-5)
    assert "code: its tokens were counted, as there are only counts of another data set" in found.notes


def test_layers_are_those_that_all_data_sets_count() -> None:
    # A dense row of one file, or an MTP layer that only one has, cannot be planned for all.
    loads = {name: np.ones((1, 3, 16), dtype=np.int64) for name in "ab"}
    loads["a"][:, 0] = 0
    sets = [DataSet(name, TraceInput(memory=Counts(load, (0, 1, 2), None, 2, (), name)), 0.5) for name, load in
            loads.items()]  # fmt: skip
    assert read_count_sets(sets, MODEL, MESH, None, lambda share: None).layers == (1, 2)
    loads["b"][:, 1:] = 0
    sets[1] = DataSet("b", TraceInput(memory=Counts(loads["b"], (0, 1, 2), None, 2, (), "b")), 0.5)
    with pytest.raises(InputError, match="no layer is counted in all data sets"):
        read_count_sets(sets, MODEL, MESH, None, lambda share: None)


def test_what_counts_cannot_give_is_refused(tmp_path: Path) -> None:
    # Counts have no phases of their own, and say nothing about rows.
    named = [f"{name}={path}" for name, path in phases(tmp_path).items()]
    asked = ("solve", *named, "--layer", "all", *SHORT)
    assert "give its top-k or its model" in fault(run(*asked))
    assert "name each phase's as a data set" in fault(run(*asked, "--top-k", 2, "--phase", "decode,prefill"))
    assert "between rows needs token traces" in fault(run(*asked, "--top-k", 2, "--max-row-traffic", 9))
    assert "counts 16 experts, not 256" in fault(run(*asked, "--model", "deepseek-v3"))


def test_a_run_goes_on_with_the_layers_that_are_finished(tmp_path: Path) -> None:
    # And not with other counts.
    paths, work, plan = phases(tmp_path), tmp_path / "work", tmp_path / "plan.json"
    named = [f"{name}={path}" for name, path in paths.items()]
    asked = ("solve", *named, "--layer", "all", "--top-k", 2, *SHORT, "-o", plan, "--work", work)
    assert run(*asked).exit_code == 0
    first = read_plan(plan)
    again = run(*asked, "--resume")
    assert again.exit_code == 0, again.output
    for layer, part in read_plan(plan).layers.items():
        assert (part.placement.slots == first.layers[layer].placement.slots).all()
    paths["decode"].write_text(json.dumps({"logical_count": [[7] * 16] * 2}))
    assert "is not what the run was begun with" in fault(run(*asked, "--resume"))


def test_the_criterion_decides_over_all_layers() -> None:
    # The worst data set of the plan chosen for the worst is no worse than that of the plan chosen for the mean.
    rng = np.random.default_rng(8)
    together = sets_of({name: rng.integers(1, 99, (1, 2, 16)) for name in "ab"})
    running = Run(Crew(1), Deadline(60), lambda stage, share: None)
    worst, mean = (plan_robust_counts(running, together, each).robustness for each in (Criterion.WORST, Criterion.MEAN))
    assert worst.worst("mean")[-1] <= mean.worst("mean")[-1]
    assert worst.of_figure("mean")[-1].mean() >= mean.of_figure("mean")[-1].mean()
