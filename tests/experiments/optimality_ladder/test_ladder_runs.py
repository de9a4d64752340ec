"""Runs of the benchmark are made once, their answers are checked, and their figures are summed up."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from formulations.bounds.load import any_placement_bound
from formulations.kit.arrays import Ints
from formulations.kit.outcome import Outcome, SolveStatus
from formulations.kit.solver import Limits
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.experiments.optimality_ladder.families import FAMILIES, even_peak
from optimizer.experiments.optimality_ladder.ladder import LadderInstance, generated, tiny
from optimizer.experiments.optimality_ladder.ladder_row import LadderJournal, LadderRow
from optimizer.experiments.optimality_ladder.methods import METHODS
from optimizer.experiments.optimality_ladder.runs import (
    FORMULATION,
    LadderCase,
    WrongAnswerError,
    run_all,
)
from optimizer.experiments.program_version import program_version
from optimizer.planning.options import Effort
from optimizer.report.benchmark import as_json, figures
from optimizer.search.stop import Deadline

SPARE, FULL = tiny()
BOTH = ("expected", "batches")


def run(path: Path, families: tuple[str, ...] = BOTH, limit: float = 0.2, seed: int = 0) -> list[LadderRow]:
    """The rows of all runs on the two tiny instances, with their journal at `path`."""
    return run_all(families, [SPARE, FULL], seed, limit, LadderJournal(path), lambda stage, share: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[LadderRow], str]:
    """The rows of all runs, and the text of the file that holds them."""
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    return run(path), path.read_text()


def test_every_method_is_run_on_every_case_once_and_never_again(
    made: tuple[list[LadderRow], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, text = made
    (tmp_path / "rows.csv").write_text(text)
    assert len({row.block for row in rows}) == len(rows) == 2 * sum(1 + len(FAMILIES[name].methods) for name in BOTH)

    def never(problem: Problem, effort: Effort) -> Placement:
        raise AssertionError("run again")

    for name in BOTH:
        for method in FAMILIES[name].methods:
            monkeypatch.setitem(FAMILIES[name].methods, method, never)
    assert run(tmp_path / "rows.csv") == rows
    with pytest.raises(AssertionError, match="run again"):
        run(tmp_path / "rows.csv", limit=0.3)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No methods that would use their time up, so that a limit can be given that no proof comes near."""
    for name in BOTH:
        methods = {method: FAMILIES[name].methods[method] for method in ("greedy", "random")}
        monkeypatch.setitem(FAMILIES, name, replace(FAMILIES[name], methods=methods))


@pytest.mark.usefixtures("quick")
def test_a_run_that_was_ended_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows = run(path, limit=60)
    lines = path.read_text().splitlines(keepends=True)
    for number in (1, 5, len(lines) - 1):
        path.write_text("".join(lines[:number]))
        again = run(path, limit=60)
        assert again[: number - 1] == rows[: number - 1]
        assert [(row.block, row.value, row.bound) for row in again] == [
            (row.block, row.value, row.bound) for row in rows
        ]
        assert len(path.read_text().splitlines()) == len(lines)


def test_the_same_seed_finds_the_same_values_and_another_seed_others() -> None:
    case = LadderCase("batches", FULL, 1, 5.0)
    for method in FAMILIES["batches"].methods:
        assert case.run(method, None).value == case.run(method, None).value
    values = [LadderCase("batches", FULL, seed, 5.0).run("random", None).value for seed in range(8)]
    assert len(set(values)) > 1


def test_steps_without_tokens_are_no_batches_to_route(tmp_path: Path) -> None:
    counted = LadderInstance("steps", "1x2", SPARE.problem, counted=True)
    rows = run_all(tuple(FAMILIES), [counted], 0, 0.2, LadderJournal(tmp_path / "r.csv"), lambda *_: None)
    assert {row.family for row in rows} == {"expected", "replication"}


@pytest.mark.usefixtures("quick")
def test_the_formulation_of_a_tiny_case_is_optimal_and_others_know_it(tmp_path: Path) -> None:
    rows = run(tmp_path / "rows.csv", ("batches",), limit=60)
    best = {row.instance: row for row in rows if row.method == FORMULATION}
    assert {row.status for row in best.values()} == {SolveStatus.OPTIMAL}
    for row in rows:
        assert row.bound == best[row.instance].value
        assert row.value is not None
        assert (row.status is SolveStatus.OPTIMAL) == (row.value == row.bound) == (row.gap == 0)


def test_a_placement_that_breaks_a_rule_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Placement(np.zeros((2, 3), dtype=np.int32))
    monkeypatch.setitem(FAMILIES["batches"].methods, "greedy", lambda problem, effort: broken)
    with pytest.raises(WrongAnswerError, match="greedy on 4 experts, 1x2, batches: expert without a slot: 1, 2, 3"):
        LadderCase("batches", SPARE, 0, 5.0).run("greedy", None)


def test_a_value_below_the_bound_is_an_error() -> None:
    case = LadderCase("batches", SPARE, 0, 5.0)
    value = case.run("greedy", None).value
    assert value is not None
    assert case.run("greedy", value).status is SolveStatus.OPTIMAL
    with pytest.raises(WrongAnswerError, match="below the bound"):
        case.run("greedy", value + 0.5)


def test_a_formulation_that_finds_nothing_leaves_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(problem: Problem, limits: Limits) -> Outcome[Ints]:
        return Outcome(None, None, 3.0, SolveStatus.UNKNOWN, 0.0)

    monkeypatch.setitem(FAMILIES, "batches", replace(FAMILIES["batches"], optimum=nothing))
    row = LadderCase("batches", SPARE, 0, 5.0).run(FORMULATION, None)
    assert (row.value, row.gap, row.bound, row.status) == (None, None, 3.0, SolveStatus.UNKNOWN)
    assert [(each.mean_gap, each.optimal) for each in figures([row])] == [(None, 0.0)]


def test_one_descent_more_is_never_worse() -> None:
    for instance in (SPARE, FULL):
        effort = Effort(Deadline(5.0))
        one, several = (METHODS[name](instance.problem, effort) for name in ("descent", "multistart"))
        assert even_peak(instance.problem, several) <= even_peak(instance.problem, one) + 1


def test_figures_are_drawn_from_the_runs_of_a_family_a_size_and_a_method(made: tuple[list[LadderRow], str]) -> None:
    rows = made[0]
    found = as_json(rows)
    assert len(found) == sum(1 + len(FAMILIES[name].methods) for name in BOTH)
    some = [row for row in rows if (row.family, row.method) == ("batches", "random")]
    (of_these,) = [each for each in found if (each["family"], each["method"]) == ("batches", "random")]
    gaps = [row.value / row.bound - 1 for row in some if row.value is not None and row.bound]
    assert of_these["runs"] == len(some) == 2
    assert of_these["mean_gap"] == pytest.approx(sum(gaps) / 2)
    assert of_these["worst_gap"] == pytest.approx(max(gaps))
    assert of_these["optimal"] == sum(gap == 0 for gap in gaps) / 2
    assert of_these["mean_seconds"] == pytest.approx(sum(row.seconds for row in some) / 2)


def test_the_version_names_the_program() -> None:
    assert program_version().startswith("0.")


def test_methods_by_tokens_run_where_there_are_tokens(tmp_path: Path) -> None:
    (instance, *_) = generated(["1x8"], lambda stage, share: None)
    assert instance.batches is not None
    assert (instance.batches.load(instance.problem.model.experts) == instance.problem.load).all()
    case = LadderCase("batches", instance, 0, 2.0)
    assert case.methods[-1] == "rows"
    found = case.run("rows", None)
    assert found.value is not None
    assert found.value >= any_placement_bound(instance.problem.load, 8, 24).mean()
    assert "rows" not in LadderCase("expected", instance, 0, 2.0).methods
    assert "rows" not in LadderCase("batches", SPARE, 0, 2.0).methods
