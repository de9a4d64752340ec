"""One plan for many data sets, from traces to the file."""

import itertools
import json
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
from optimizer.planning.many_layers.plan_for_datasets import BATCHES, MADE_ON, SELECTION, TEST, plan_for_datasets
from optimizer.planning.many_layers.reading import LayerReader
from optimizer.planning.many_layers.robust import DataSetsToPlan, RobustPlan, plan_robust
from optimizer.planning.many_layers.run import Run
from optimizer.planning.many_layers.settings import Settings
from optimizer.planning.many_layers.workers import Crew
from optimizer.planning.options import SolveOptions
from optimizer.planning.plan_file import read_plan
from optimizer.search.stop import Deadline
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.simulator import simulate
from optimizer.traces.datasets import DataSet
from optimizer.traces.source import TraceInput

HARDWARE = "tt-wormhole-galaxy"
MODEL, MESH = Model("small", 8, 0, 2), Mesh(2, 2, 3)
ASKED = ("--layer", "0,2", "--mesh", "2x2", "--time-limit", 60, "--iterations", 200, "--batch-tokens", 24,
         "--routing", "even-source", "--hardware", HARDWARE)  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Two data sets that like different experts."""
    rng = np.random.default_rng(3)
    for place, name in enumerate(("code", "chat")):
        for number in range(10):
            experts = request_experts(rng, 20, 3, 8, 2)
            liked = rng.random(experts.shape[:2]) < 0.7
            experts[liked] = (4 * place, 4 * place + 1)
            write_request(tmp_path / name / f"r{number}.npz", experts)
    return {name: tmp_path / name for name in ("code", "chat")}


def together(folders: dict[str, Path], weights: tuple[float, float] = (0.5, 0.5)) -> DataSetsToPlan:
    settings = Settings(
        MODEL, MESH, Cost(HARDWARE, load_hardware(HARDWARE)), SolveOptions(60, 1, 200, routings=("even-source",))
    )
    sets = [
        DataSet(name, TraceInput([str(path)], batch_tokens=24), weight)
        for (name, path), weight in zip(folders.items(), weights, strict=True)
    ]
    readers = [LayerReader.of(each.named, MODEL, MESH, (0, 2), lambda share: None, 2) for each in sets]
    return DataSetsToPlan(settings, sets, readers)


def planned(folders: dict[str, Path], criterion: Criterion = Criterion.WORST) -> RobustPlan:
    return plan_robust(Run(Crew(1), Deadline(60), lambda stage, share: None), together(folders), criterion)


def test_candidates_are_made_on_each_data_set_and_on_all_and_judged_on_all(folders: dict[str, Path]) -> None:
    task = together(folders).apart(2)
    parts = plan_for_datasets(task, Deadline(60))
    assert parts is not None
    assert [part.provenance[MADE_ON] for part in parts] == ["code", "chat", "mix"]
    cost = task.mix.settings.cost
    for part in parts:
        assert part.placement.violations(8, 4, 3) == []
        for name, sets in zip(task.names, task.sets, strict=True):
            latency = simulate(part.placement, sets.test, MODEL, MESH, cost, Conditions("even-source")).latency_us
            assert part.quality[TEST][name]["p99"] == pytest.approx(np.percentile(latency, 99))
            chosen_by = simulate(
                part.placement, sets.selection, MODEL, MESH, cost, Conditions("even-source")
            ).latency_us
            worst = np.sort(chosen_by)[-max(1, round(0.03 * len(chosen_by))) :]
            assert part.quality[SELECTION][name] == pytest.approx(worst.mean())


def test_batches_of_the_mix_come_from_all_data_sets_by_weight_and_share_no_request(folders: dict[str, Path]) -> None:
    task = together(folders, (0.75, 0.25)).apart(0)
    assert tuple(each.count for each in task.mix.sets) == BATCHES
    for part, of_sets in zip(task.mix.sets, zip(*task.sets, strict=True), strict=True):
        known = [{batch.tobytes() for batch in each.experts} for each in of_sets]
        seen = [sum(batch.tobytes() in batches for batch in part.experts) for batches in known]
        assert seen[0] > 2 * seen[1] > 0


def test_the_robust_plan_is_the_best_choice_for_the_whole_model(folders: dict[str, Path]) -> None:
    work = together(folders)
    candidates = {layer: plan_for_datasets(work.apart(layer), Deadline(60)) for layer in (0, 2)}
    scores = np.array(
        [
            [[part.quality[SELECTION][name] for name in work.names] for part in parts or []]
            for parts in candidates.values()
        ]
    )
    best = min(
        float((scores[0, choice[0]] + scores[1, choice[1]]).max())
        for choice in itertools.product(range(scores.shape[1]), repeat=2)
    )
    found = planned(folders)
    reached = [sum(part.quality[SELECTION][name] for part in found.plan.layers.values()) for name in work.names]
    assert max(reached) == pytest.approx(best)
    assert found.robustness.choices.outcome.objective == pytest.approx(best)


def test_the_same_seed_gives_the_same_plan_in_this_process_and_in_others(folders: dict[str, Path]) -> None:
    one, same = planned(folders), planned(folders)
    other = plan_robust(
        Run(Crew(2, processes=True), Deadline(60), lambda stage, share: None), together(folders), Criterion.WORST
    )
    slots = [
        {layer: part.placement.slots.tolist() for layer, part in found.plan.layers.items()}
        for found in (one, same, other)
    ]
    assert slots[0] == slots[1] == slots[2]
    assert one.robustness.summary() == other.robustness.summary()
    assert one.drift.summary() == other.drift.summary()


def solved(folders: dict[str, Path], plan: Path, *more: object) -> Any:
    named = [f"{name}={path}" for name, path in folders.items()]
    return run("solve", *named, *ASKED, "-o", plan, *more)


def test_the_command_writes_the_plan_the_own_plans_and_the_picture(folders: dict[str, Path], tmp_path: Path) -> None:
    plan, page = tmp_path / "plan.json", tmp_path / "m.html"
    result = solved(folders, plan, "--robust", "regret", "--separate", "--matrix", page, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["robustness"]["criterion"] == "regret"
    assert [each["plan"] for each in said["robustness"]["plans"]] == ["code", "chat", "mix", "robust"]
    matrix = {each["plan"]: each["latency_us"]["p99"] for each in said["robustness"]["plans"]}
    assert set(matrix["code"]) == {"code", "chat"}
    assert [each["dataset"] for each in said["robustness"]["left_out"]] == ["code", "chat"]
    assert np.shape(said["drift"]["between"]) == (2, 2)
    assert said["drift"]["between"][0][1] > said["drift"]["within"][0]
    for path in (plan, tmp_path / "plan.code.json", tmp_path / "plan.chat.json"):
        assert sorted(read_plan(path).layers) == [0, 2]
    own = read_plan(tmp_path / "plan.code.json").layers
    assert sum(part.quality[TEST]["chat"]["p99"] for part in own.values()) == pytest.approx(matrix["code"]["chat"])
    assert "code" in page.read_text()
    assert "robust (regret)" in page.read_text()


def test_names_that_would_share_a_file_are_refused_before_the_work(folders: dict[str, Path], tmp_path: Path) -> None:
    named = dict(zip(("code a", "code-a"), folders.values(), strict=True))
    said = fault(solved(named, tmp_path / "plan.json", "--separate"))
    assert "the data sets 'code a' and 'code-a' would share one file" in said
    assert list(tmp_path.glob("*.json")) == []


def test_tables_name_data_sets_and_plans(folders: dict[str, Path], tmp_path: Path) -> None:
    said = solved(folders, tmp_path / "plan.json").stdout
    for words in ("1 code", "2 chat", "mix", "robust (mean)", "chosen without it", "Slowest data set, p99"):
        assert words in said


def test_a_run_that_was_kept_goes_on_to_the_same_plan(folders: dict[str, Path], tmp_path: Path) -> None:
    plan, work = tmp_path / "plan.json", tmp_path / "work"
    assert solved(folders, plan, "--work", work).exit_code == 0
    first = plan.read_bytes()
    (work / "layer-2.json").unlink()
    assert solved(folders, plan, "--work", work, "--resume").exit_code == 0
    assert plan.read_bytes() == first
    assert solved(folders, plan, "--work", work, "--resume", "--robust", "worst").exit_code == 0
    assert "datasets" in fault(solved(folders, plan, "--work", work, "--resume", "--weights", "code=1,chat=3"))


def test_phases_are_data_sets(folders: dict[str, Path], tmp_path: Path) -> None:
    result = run("solve", folders["code"], *ASKED, "-o", tmp_path / "p.json", "--phase", "decode,prefill", "--json")
    assert result.exit_code == 0, result.output
    assert list(json.loads(result.stdout)["drift"]["datasets"]) == ["decode", "prefill"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--fast",), "--fast is for one data set"),
        (("--max-rerouted", "0.1"), "--max-rerouted is for one data set"),
        (("--weights", "code=1,poems=2"), "'poems'"),
    ],
)
def test_what_several_data_sets_exclude_is_said(
    more: tuple[str, ...], words: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    assert words in fault(solved(folders, tmp_path / "p.json", *more))


@pytest.mark.parametrize("option", [("--separate",), ("--weights", "code=1"), ("--matrix", "m.html")])
def test_what_needs_several_data_sets_says_so(option: tuple[str, ...], folders: dict[str, Path]) -> None:
    assert "several data sets" in fault(run("solve", folders["code"], *ASKED, *option))


def test_other_commands_take_one_phase(folders: dict[str, Path]) -> None:
    said = fault(run("bound", folders["code"], "--layer", 0, "--mesh", "2x2", "--phase", "decode,prefill"))
    assert "several data sets" in said
    assert "phase 'poems'" in fault(run("bound", folders["code"], "--layer", 0, "--mesh", "2x2", "--phase", "poems"))
