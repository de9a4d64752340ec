"""The steps of optimisation: no run is made twice, no plan goes below the bound, and each rung shows its step."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiment_row import ROW
from random_problems import cost, request_experts, write_request

from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.presets import load_hardware
from optimizer.errors import InputError
from optimizer.experiments.optimisation_steps import runs
from optimizer.experiments.optimisation_steps.ladder import Rung, in_order, ladder
from optimizer.experiments.optimisation_steps.run_experiment import StepsRequest, experiment
from optimizer.experiments.optimisation_steps.runs import (
    FACTORS,
    FUNCTIONAL,
    METHODS,
    OPTIMIZED,
    POLICIES,
    StepCase,
    Terms,
    places,
)
from optimizer.experiments.optimisation_steps.settings import StepSetting, settings_of
from optimizer.experiments.optimisation_steps.step_row import Place, StepJournal, StepRow
from optimizer.interrupts import Cancel
from optimizer.planning.candidates import seeds_and_formulation
from optimizer.planning.capacity_choice import Limited
from optimizer.planning.options import SolveOptions
from optimizer.planning.portfolio import Portfolio
from optimizer.report.experiment import verdicts
from optimizer.routing.policies import price_us
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.simulator import Simulation, simulate
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import Source, TraceInput, TraceSource, open_source

MESH, MODEL = Mesh(2, 2, 3), Model("drawn", 7, 1, 2)
TERMS = Terms(60.0, 200, 0)
NAMED = TraceInput(batch_tokens=24)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with twelve small requests."""
    rng, folder = np.random.default_rng(7), tmp_path_factory.mktemp("traces")
    for number in range(12):
        write_request(folder / f"r{number}.npz", request_experts(rng, 20, 3, 7, 2))
    return folder


@pytest.fixture(scope="module", autouse=True)
def fewer_batches() -> Any:
    """Sources draw 32 batches for each set, so that the tests are quick."""
    sets = TraceSource.sets
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TraceSource, "sets", lambda source, layer: sets(source, layer, (32,) * 3))
        yield


def source_of(corpus: Path, **more: Any) -> Source:
    """The source of layer 1 of the corpus, with gate weights and candidates."""
    named = replace(NAMED, traces=[str(corpus)], extras=True, **more)
    return open_source(named, [1], MODEL, MESH, lambda share: None)


def run_all(corpus: Path, path: Path, **names: Any) -> list[StepRow]:
    """The rows of the experiment on the corpus, and on further data sets by name, with its journal at `path`."""
    asked = StepsRequest([1], ModelChoice(routed_experts=7, shared_experts=1), MESH, cost(), TERMS)
    sets = {"one": replace(NAMED, traces=[str(corpus)]), **names}
    return experiment(sets, asked, StepJournal(path), lambda stage, share: None)[0]


@pytest.fixture(scope="module")
def made(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[StepRow], Path]:
    """The rows of one experiment, and the file that holds them."""
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    return run_all(corpus, path), path


def figures(row: StepRow) -> dict[str, Any]:
    """All columns that two runs of the same planning share."""
    return row.model_dump(exclude={"seconds", "version"})


# Settings


def test_the_routed_experts_alone_have_as_few_slots_as_hold_them_and_no_replicas(corpus: Path) -> None:
    source = source_of(corpus)
    routed, everything = settings_of(source, 1, MESH, cost())
    assert routed.problem.mesh == Mesh(2, 2, 2)
    assert everything.problem.mesh == MESH
    assert (routed.problem.model.experts, everything.problem.model.experts) == (7, 8)
    assert routed.problem.most_replicas == 7
    for part, whole in zip(routed.sets, source.sets(1), strict=True):
        assert (part.experts == whole.experts[:, :, :2]).all()
        assert (whole.experts[:, :, 2] == 7).all()
        assert (part.source_row == whole.source_row).all()
    assert (routed.problem.load == everything.problem.load[:, :7]).all()
    for candidate in seeds_and_formulation(routed.problem, TERMS.effort(), lambda *_: None):
        assert sorted(candidate.placement.slots[candidate.placement.slots >= 0].tolist()) == list(range(7))


def test_what_does_not_fit_is_said(corpus: Path) -> None:
    with pytest.raises(InputError, match="do not fit in 4 slots"):
        list(settings_of(source_of(corpus), 1, Mesh(2, 2, 1), cost()))


def test_a_digest_is_of_all_that_figures_follow_from(corpus: Path) -> None:
    def digests(mesh: Mesh = MESH, hardware: Cost | None = None, **more: Any) -> set[str]:
        return {setting.digest for setting in settings_of(source_of(corpus, **more), 1, mesh, hardware or cost())}

    assert digests() == digests()
    changed = [digests(Mesh(2, 2, 4)), digests(hardware=cost(per_expert=True)), digests(seed=1)]
    assert len(set.union(digests(), *changed)) == 7  # the routed experts do not know of more slots


def test_the_functional_op_has_no_bound(corpus: Path) -> None:
    setting = next(iter(settings_of(source_of(corpus), 1, MESH, replace(cost(), moe_op="functional"))))
    assert setting.bound is None


# Runs


def test_every_method_is_judged_in_all_ways_in_both_settings(made: tuple[list[StepRow], Path]) -> None:
    rows, path = made
    assert {len(row) for row in map(str.split, path.read_text().splitlines())} == {1}
    places_of = {(row.setting, row.method, row.policy, row.capacity_factor) for row in rows if row.moe_op == OPTIMIZED}
    for setting in ("routed", "all"):
        for method in METHODS:
            assert {(setting, method, policy, factor) for policy in POLICIES for factor in FACTORS} <= places_of
    (first,) = [row for row in rows if row.moe_op == FUNCTIONAL]
    assert (first.setting, first.method, first.policy) == ("routed", "sequential", "even-source")
    assert [row for of_block in StepJournal(path).blocks.values() for row in of_block] == rows


def test_figures_are_the_simulators(made: tuple[list[StepRow], Path], corpus: Path) -> None:
    for setting in settings_of(source_of(corpus), 1, MESH, cost()):
        problem, test = setting.problem, setting.sets.test
        found = {each.method: each for each in seeds_and_formulation(problem, TERMS.effort(), lambda *_: None)}
        rows = [row for row in made[0] if row.setting == setting.name and row.method in ("sequential", "greedy")]
        assert len(rows) > 2 * len(FACTORS)
        for row in rows:
            hardware = replace(problem.cost, moe_op=FUNCTIONAL if row.moe_op == FUNCTIONAL else OPTIMIZED)
            if row.policy == "optimal" or row.capacity_factor is not None:
                continue
            about = (problem.model, problem.mesh, hardware, Conditions(row.policy))
            report = simulate(found[row.method].placement, test, *about)
            assert row.latency_us == pytest.approx(report.latency_us.mean())
            assert (row.latency_p50_us, row.latency_p99_us) == pytest.approx(np.percentile(report.latency_us, [50, 99]))
            assert (row.imbalance_p50, row.imbalance_p99) == pytest.approx(np.percentile(report.imbalance, [50, 99]))
            assert row.tiles == pytest.approx(report.tiles.mean())
            assert (row.batches, row.tokens, row.rerouted, row.selection_rerouted) == (32, 24, None, 0)
            chosen_by = simulate(found[row.method].placement, setting.sets.selection, *about)
            assert row.selection_us == pytest.approx(chosen_by.latency_us.mean())


def test_capacities_are_judged_as_simulate_judges_them(made: tuple[list[StepRow], Path], corpus: Path) -> None:
    _, setting = settings_of(source_of(corpus), 1, MESH, cost())
    problem = setting.problem
    found = {each.method: each for each in seeds_and_formulation(problem, TERMS.effort(), lambda *_: None)}
    guess = Portfolio.of(problem, setting.sets, SolveOptions(routings=("even-source",))).guess
    wanted = [row for row in made[0] if (row.setting, row.method, row.policy) == ("all", "greedy", "even-source")]
    for row in wanted:
        if row.capacity_factor is not None:
            conditions = Conditions("even-source", capacity_factor=row.capacity_factor)
            about = (problem.model, problem.mesh, problem.cost, conditions)
            simulation = Simulation(found["greedy"].placement, *about, guess=guess)
            simulation.feed(setting.sets.test)
            report = simulation.report()
            what = report.rerouting
            assert what is not None
            assert row.latency_us == pytest.approx(report.latency_us.mean())
            shares = what.share(what.rerouted), what.share(what.over), what.kept.mean()
            assert (row.rerouted, row.over_capacity, row.gate_weight_kept) == pytest.approx(shares)
            assert (row.bound_us, row.gap) == (None, None)
    assert max(row.rerouted or 0 for row in wanted) > 0


def test_bounds_are_not_beaten_and_gaps_are_from_them(made: tuple[list[StepRow], Path]) -> None:
    rows = [row for row in made[0] if row.bound_us is not None]
    assert {row.setting for row in rows} == {"routed", "all"}
    assert all(row.capacity_factor is None and row.moe_op == OPTIMIZED for row in rows)
    for row in rows:
        assert None not in (row.bound_us, row.bound_p50_us, row.bound_p99_us, row.gap)
        assert row.gap == pytest.approx(row.latency_us / (row.bound_us or 0) - 1)
        assert (row.gap or 0) > -1e-9
        assert (row.bound_p50_us or 0) <= row.latency_p50_us * (1 + 1e-9)
        assert (row.bound_p99_us or 0) <= row.latency_p99_us * (1 + 1e-9)


def test_without_replicas_no_policy_differs_but_for_its_price(made: tuple[list[StepRow], Path]) -> None:
    price = {policy: price_us(cost(), policy) for policy in POLICIES}
    assert sorted(price.values()) == [0, 100, 100]
    for method in METHODS[:-1]:
        rows = [row for row in made[0] if (row.setting, row.method, row.moe_op) == ("routed", method, OPTIMIZED)]
        found = {(row.capacity_factor, round(row.latency_us - price[row.policy], 6), row.rerouted) for row in rows}
        assert len(found) == len(FACTORS)


def test_nothing_is_run_twice(made: tuple[list[StepRow], Path], corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("run again")

    monkeypatch.setattr(runs, "_made", never)
    assert run_all(corpus, made[1]) == made[0]
    with pytest.raises(AssertionError, match="run again"):
        run_all(corpus, made[1], two=replace(NAMED, traces=[str(corpus)]))


def test_a_run_that_was_killed_ends_as_if_it_had_not_been(
    made: tuple[list[StepRow], Path], corpus: Path, tmp_path: Path
) -> None:
    rows, whole = made
    content, path = whole.read_bytes(), tmp_path / "rows.csv"
    for share in (0.0, 0.3, 0.97):
        path.write_bytes(content[: int(share * len(content))])
        kept = [
            of_block for of_block in StepJournal(path).blocks.values() if {*places_in(of_block)} <= {*map_of(of_block)}
        ]
        again = run_all(corpus, path)
        assert [figures(row) for row in again] == [figures(row) for row in rows]
        assert all(row in again for of_block in kept for row in of_block)
        assert sorted(map(str, map(figures, written(path)))) == sorted(map(str, map(figures, rows)))


def places_in(rows: list[StepRow]) -> list[Place]:
    """The policies and capacities that the plan of these rows should be judged under."""
    return places(runs.Op(rows[0].moe_op, rows[0].method))


def map_of(rows: list[StepRow]) -> list[Place]:
    """The policies and capacities of the rows."""
    return [row.place for row in rows]


def written(path: Path) -> list[StepRow]:
    """All rows of a file."""
    return [row for of_block in StepJournal(path).blocks.values() for row in of_block]


def test_a_plan_whose_rows_are_not_all_there_is_made_anew(
    made: tuple[list[StepRow], Path], corpus: Path, tmp_path: Path
) -> None:
    """Rows of two searches are not mixed; rows of the search that was there are known by their number of tiles, 0."""
    rows, path = made[0], tmp_path / "rows.csv"
    journal = StepJournal(path)
    for of_block in StepJournal(made[1]).blocks.values():
        marked = [row.model_copy(update={"tiles": 0.0}) for row in of_block]
        journal.put(marked[:-1] if marked[0].method == "search" else marked)
    again = run_all(corpus, path)
    assert {row.method for row in again if row.tiles > 0} == {"search"}
    assert not any(row.tiles == 0 for row in again if row.method == "search")
    assert len(again) == len(rows)


def test_a_search_that_is_interrupted_leaves_no_row(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> None:
        arguments[2].cancel.ask()

    monkeypatch.setattr(Portfolio, "search", interrupted)
    monkeypatch.setattr("optimizer.experiments.optimisation_steps.run_experiment.compile_all", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        run_all(corpus, tmp_path / "rows.csv")
    assert {row.method for row in written(tmp_path / "rows.csv")} == {*METHODS} - {"search"}


def test_another_seed_is_another_run(corpus: Path) -> None:
    setting: StepSetting = next(iter(settings_of(source_of(corpus), 1, MESH, cost())))
    op = runs.Op(OPTIMIZED, "search")
    blocks = {
        StepCase("one", 1, setting, Terms(*terms)).block(op) for terms in [(9.0, 5, 0), (9.0, 5, 1), (9.0, None, 0)]
    }
    assert len(blocks) == 3


def test_hardware_without_a_functional_op_begins_with_the_other(corpus: Path) -> None:
    hardware = Cost("h800", load_hardware("h800"))
    setting = next(iter(settings_of(source_of(corpus), 1, MESH, hardware)))
    assert {op.moe_op for op in StepCase("one", 1, setting, TERMS).ops} == {OPTIMIZED}


def test_a_suited_capacity_is_judged_if_one_helps(
    monkeypatch: pytest.MonkeyPatch, corpus: Path, tmp_path: Path
) -> None:
    def helps(portfolio: Portfolio, most: float, cancel: Cancel) -> Limited:
        assert most == runs.MOST_REROUTED
        return Limited(
            "even-source", portfolio.pools["even-source"].placements[0], 0.1 * 7
        )  # as floats have it, not 0.7

    monkeypatch.setattr(runs, "limited", helps)
    rows = [row for row in run_all(corpus, tmp_path / "rows.csv") if row.capacity_factor == 0.7]
    assert [(row.setting, row.method, row.policy) for row in rows] == [
        (name, "search", "even-source") for name in ("routed", "all")
    ]


# The ladder


def row(setting: str, method: str, policy: str, selection: float, test: float, **more: Any) -> StepRow:
    """A row with these latencies on selection and test batches, and with the bounds of its setting."""
    told = {"setting": setting, "method": method, "policy": policy, "selection_us": selection, "latency_p50_us": test,
            "latency_p99_us": 2 * test, "experts": 8 + (setting == "all"), "slots": 8 if setting == "routed" else 12,
            "bound_p50_us": None if more.get("capacity_factor") else 5, "layer": 3,
            "bound_p99_us": None if more.get("capacity_factor") else 6}  # fmt: skip
    return StepRow(**(ROW.model_dump() | told | more))


def layer(number: int = 3, most: float = 0.01) -> list[StepRow]:
    """The rows of a layer in which test batches would choose another row than selection batches in every step."""
    limits = {"capacity_factor": 2.0, "rerouted": 0.005, "over_capacity": 0.001, "gate_weight_kept": 0.99}
    found = [
        row("routed", "sequential", "even-source", 90, 100, moe_op=FUNCTIONAL, bound_p50_us=None, bound_p99_us=None),
        *(row("routed", "sequential", policy, 70, 80) for policy in POLICIES),
        *(row("routed", "greedy", policy, 60, 63) for policy in POLICIES),
        *(row("routed", "search", policy, 61, 62) for policy in POLICIES),
        row(
            "routed",
            "search",
            "even-source",
            1,
            1,
            capacity_factor=9.0,
            rerouted=0,
            over_capacity=0,
            gate_weight_kept=1,
        ),
        row("all", "sequential", "even-source", 65, 66),
        row("all", "greedy", "even-source", 40, 45),
        row("all", "search", "even-source", 41, 44),
        row("all", "greedy", "optimal", 30, 50),
        row("all", "search", "optimal", 31, 29),
        row("all", "search", "least-loaded", 2, 2),
        row("all", "search", "even-source", 20, 25, selection_rerouted=most, **limits),
        row("all", "greedy", "even-source", 21, 24, selection_rerouted=0, **limits),
        row("all", "search", "optimal", 3, 3, selection_rerouted=0.0101, **limits),
    ]
    return [each.model_copy(update={"layer": number}) for each in found]


def said(rungs: list[Rung]) -> list[tuple[float, float, dict[str, int]]]:
    """The latencies of each rung, and what was chosen for it."""
    return [(rung.p50, rung.p99, rung.chosen) for rung in rungs]


def test_each_step_stands_on_what_the_selection_batches_choose() -> None:
    rungs = ladder(layer())
    assert said(rungs) == [
        (100, 200, {"sequential, even-source": 1}),
        (80, 160, {"sequential, even-source": 1}),
        (63, 126, {"greedy, even-source": 1}),
        (45, 90, {"greedy, even-source": 1}),
        (50, 100, {"greedy, optimal": 1}),
        (25, 50, {"search, even-source, 2": 1}),
        (5, 6, {}),
    ]
    assert [rung.helps for rung in rungs] == [True, True, True, True, False, True, True]
    assert [rung.to_last for rung in rungs[1:3]] == pytest.approx([160 / 200 - 1, 126 / 160 - 1])
    assert rungs[-1].to_last == pytest.approx(6 / 90 - 1)  # the capacity's plan is not one that it bounds
    assert (rungs[5].rerouted, rungs[5].kept) == pytest.approx((0.006, 0.99))
    assert [rung.bound for rung in rungs] == [False] * 6 + [True]
    assert in_order(layer()).latency_p50_us == 66


def test_the_verdict_names_the_step_that_reaches_the_least_and_the_one_that_wins_most() -> None:
    """The last step is not always the best: where all capacities reroute too much, an earlier one is."""
    (said,) = verdicts(layer())
    limited = "'capacity, at most 1% rerouted'"
    assert said.endswith(
        f"from 200.0 us to 50.0 us in p99, reached by {limited}. "
        f"The step that wins most is {limited}, 50.0% of what was there before it."
    )
    (said,) = verdicts([each for each in layer() if each.selection_rerouted > 0.01 or each.capacity_factor is None])
    assert "from 200.0 us to 90.0 us in p99, reached by '9 with replicas in 12 slots, even routing'" in said


def test_figures_of_several_layers_are_means() -> None:
    other = [each.model_copy(update={"latency_p99_us": each.latency_p99_us + 10}) for each in layer(5, most=0.02)]
    found = ladder([*layer(), *other])
    assert [rung.p99 for rung in found[:4]] == [205, 165, 131, 95]
    assert found[5].chosen == {"search, even-source, 2": 1, "greedy, even-source, 2": 1}
    assert found[5].p99 == (50 + 48 + 10) / 2
    assert found[5].kept == pytest.approx(0.99)


def test_where_every_capacity_reroutes_too_much_the_step_before_stands() -> None:
    rows = [each for each in layer() if each.selection_rerouted > 0.01 or each.capacity_factor is None]
    before, last = ladder(rows)[4:6]
    assert (last.p99, last.chosen, last.rerouted) == (before.p99, before.chosen, None)
    assert not last.helps


def test_what_is_not_known_is_no_rung() -> None:
    rows = [each.model_copy(update={"bound_p50_us": None}) for each in layer() if each.moe_op != FUNCTIONAL]
    rungs = ladder(rows)
    assert len(rungs) == 5
    assert rungs[0].to_last is None
    assert not any(rung.bound for rung in rungs)
