"""Plans before the simulator: which batches they are judged on, and that all conditions meet the same ones."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_problems import WORMHOLE, cost, random_placement, request_experts, write_request, write_traces

from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.planning.judge_plan import judge
from optimizer.planning.options import SolveOptions, silent
from optimizer.planning.plan_file import Plan, read_plan, write_plan
from optimizer.planning.plan_layer import plan_tokens
from optimizer.routing.capacity import Coactivation
from optimizer.routing.hints import USUAL_HINTS
from optimizer.routing.policies import LEARNING, POLICIES
from optimizer.routing.tables import DispatchTable
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.report import SimulationReport
from optimizer.simulation.simulator import Simulation, simulate
from optimizer.traces.batches import Batches
from optimizer.traces.source import TraceInput, open_source

pytestmark = pytest.mark.usefixtures("few_batches")

MODEL, MESH, LAYER = Model("small", 8, 0, 2), Mesh(3, 2, 3), 1
TOKENS, COUNT = 24, 12


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Requests that plans are made from."""
    return write_traces(tmp_path_factory.mktemp("planned") / "traces", np.random.default_rng(7))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Requests that no plan was made from."""
    rng, folder = np.random.default_rng(99), tmp_path_factory.mktemp("others")
    for number in range(9):
        write_request(folder / f"r{number}.npz", request_experts(rng, 30, 3, 8, 2))
    return folder


@pytest.fixture
def ranked(tmp_path: Path) -> Path:
    """Requests with candidates and gate weights."""
    rng = np.random.default_rng(98)
    for number in range(9):
        order = request_experts(rng, 30, 3, 8, 6)
        weights = rng.random((30, 3, 2)).astype(np.float16)
        path = tmp_path / "ranked" / f"r{number}.npz"
        write_request(path, order[..., :2], candidate_experts=order, routed_weights=weights)
    return tmp_path / "ranked"


def named(folder: Path, **more: Any) -> TraceInput:
    """A folder of requests."""
    return TraceInput(traces=(str(folder),), **more)


@cache
def planned(folder: Path, policy: str = "even-source", **more: Any) -> Plan:
    """A plan of one layer, of little effort, made once."""
    source = open_source(named(folder, batch_tokens=TOKENS, **more), [LAYER], MODEL, MESH, lambda share: None)
    options = SolveOptions(60, more.get("seed", 0), 200, routings=(policy,))
    return plan_tokens(source, LAYER, MESH, cost(), options).plan


def judged(
    plan: Plan, given: TraceInput, *trials: Conditions, count: int | None = COUNT
) -> tuple[list[SimulationReport], list[str]]:
    """The reports of the one layer, and the notes."""
    reports, notes = judge(plan, given, cost(), trials, count, silent)
    return reports[LAYER], notes


def same(one: SimulationReport, other: SimulationReport) -> bool:
    """Two reports say the same."""
    return bool(
        one.summary() == other.summary()
        and (one.latency_us == other.latency_us).all()
        and (one.device_load == other.device_load).all()
    )


def alone(plan: Plan, batches: Batches, conditions: Conditions) -> SimulationReport:
    """One simulation of the plan's layer."""
    part = plan.layers[LAYER]
    return simulate(part.placement, batches, MODEL, MESH, cost(), conditions, part.learned, (None,) * LAYER)


def source_of(folder: Path, **more: Any) -> Any:
    """Batches as judge makes them up."""
    return open_source(named(folder, batch_tokens=TOKENS, **more), [LAYER], MODEL, MESH, lambda share: None)


def test_all_conditions_are_run_on_the_same_batches(traces: Path, others: Path) -> None:
    plan = planned(traces)
    trials = [Conditions(policy) for policy in POLICIES] + [Conditions(slow={0: 2.0}), Conditions(timing="overlap")]
    reports, notes = judged(plan, named(others), *trials)
    (batches,) = source_of(others).stream(LAYER, False, COUNT)
    for conditions, report in zip(trials, reports, strict=True):
        assert report.batches == COUNT
        assert same(report, alone(plan, batches, conditions))
    assert not any("test part" in note for note in notes)


def test_a_plan_is_judged_on_the_test_part_of_the_trace_that_it_was_made_from(traces: Path, others: Path) -> None:
    plan = planned(traces)
    (report,), notes = judged(plan, named(traces), Conditions(), count=None)
    assert f"layer {LAYER} was planned on this trace: judged on its test part alone" in notes
    assert same(report, alone(plan, source_of(traces).sets(LAYER).test, Conditions()))
    (report,), notes = judged(plan, named(others), Conditions(), count=None)
    assert same(report, alone(plan, source_of(others).everything(LAYER), Conditions()))


@pytest.mark.parametrize("policy", ["even-source", "sglang-static", "hint-device", *LEARNING])
def test_a_plan_that_is_read_back_keeps_the_quality_that_it_states(traces: Path, policy: str, tmp_path: Path) -> None:
    plan = planned(traces, policy)
    write_plan(tmp_path / "plan.json", plan)
    read = read_plan(tmp_path / "plan.json")
    conditions = Conditions(policy, hints=read.hints or USUAL_HINTS)
    (report,), _ = judged(read, named(traces), conditions, count=None)
    assert report.summary() == read.layers[LAYER].quality


def test_batches_are_made_up_as_the_plans_were_unless_something_else_is_named(traces: Path, others: Path) -> None:
    plan = planned(traces, phase="prefill", row_users=(3, 4, 5), seed=5)
    source = open_source(
        named(others, phase="prefill", row_users=(3, 4, 5), seed=5), [LAYER], MODEL, MESH, lambda share: None
    )
    (batches,) = source.stream(LAYER, False, COUNT)
    (report,), _ = judged(plan, named(others), Conditions())
    assert same(report, alone(plan, batches, Conditions()))
    (smaller,), _ = judged(plan, named(others, batch_tokens=6), Conditions())
    assert (report.tokens, smaller.tokens) == (12, 6)


def test_a_layer_is_judged_behind_the_layers_that_the_plan_has_before_it(traces: Path, others: Path) -> None:
    """SGLang's generators have walked over layer 0, too, when they come to layer 1: as it is where the plan has it."""
    plan = planned(traces)
    part = plan.layers[LAYER]
    placements = [random_placement(np.random.default_rng(seed), 8, MESH) for seed in range(8)]
    (batches,), conditions = source_of(others).stream(LAYER, False, COUNT), Conditions("sglang-static")
    tables = set()
    for before in placements:
        whole = replace(plan, layers={0: replace(part, placement=before), LAYER: part})
        reports, _ = judge(whole, named(others), cost(), [conditions], COUNT, silent)
        known = simulate(part.placement, batches, MODEL, MESH, cost(), conditions, None, (before,))
        assert same(reports[LAYER][0], known)
        tables.add(known.device_load.tobytes())
    assert len(tables) > 1


@pytest.mark.parametrize("count", [1, 130, 300])
def test_as_many_batches_are_run_as_are_asked_for(traces: Path, others: Path, count: int) -> None:
    (report,), _ = judged(planned(traces), named(others), Conditions(), count=count)
    assert report.batches == count


def test_recorded_candidates_and_weights_are_used_where_there_are_any(traces: Path, ranked: Path) -> None:
    plan, limited = planned(traces), Conditions(capacity_factor=1.0)
    reports, _ = judged(plan, named(ranked), limited, Conditions(), replace(limited, drop=True))
    (batches,) = source_of(ranked, extras=True).stream(LAYER, False, COUNT)
    assert batches.candidates is not None
    assert batches.weights is not None
    for conditions, report in zip((limited, Conditions(), replace(limited, drop=True)), reports, strict=True):
        assert same(report, alone(plan, batches, conditions))
    rerouting = reports[0].rerouting
    assert rerouting is not None
    assert rerouting.summary()["next_expert"] == rerouting.summary()["gate_weights"] == "recorded"
    assert reports[1].rerouting is None


def test_next_experts_are_estimated_from_requests_that_are_not_judged(traces: Path, others: Path) -> None:
    plan, limited = planned(traces), Conditions(capacity_factor=1.0)
    for folder, test_only in ((traces, True), (others, False)):
        (report,), notes = judged(plan, named(folder), limited)
        source = source_of(folder)
        seen = source.sets(LAYER).train if test_only else source.everything(LAYER)
        guess = Coactivation.of(seen, MODEL)
        assert any("very requests" in note for note in notes) is not test_only
        expected = Simulation(plan.layers[LAYER].placement, MODEL, MESH, cost(), limited, None, guess)
        for chunk in source.stream(LAYER, test_only, COUNT):
            expected.feed(chunk)
        assert same(report, expected.report())
        assert report.rerouting is not None
        assert report.rerouting.summary()["next_expert"] == report.rerouting.summary()["gate_weights"] == "estimated"


def batch_file(path: Path, rows: bool = True) -> Path:
    """Thirty batches of 24 tokens."""
    experts = request_experts(np.random.default_rng(4), 30 * TOKENS, 1, 8, 2).reshape(30, TOKENS, 2)
    np.savez(path, experts=experts)
    return path


def test_a_batch_file_is_judged_whole_or_as_far_as_is_asked(traces: Path, tmp_path: Path) -> None:
    plan, file = planned(traces), batch_file(tmp_path / "b.npz")
    assert judged(plan, TraceInput(batches=file), Conditions(), count=None)[0][0].batches == 30
    assert judged(plan, TraceInput(batches=file), Conditions(), count=7)[0][0].batches == 7
    with pytest.raises(InputError, match=r"30 batches of b\.npz hold 30 batches, fewer than the 31 "):
        judged(plan, TraceInput(batches=file), Conditions(), count=31)
    two = replace(plan, layers={1: plan.layers[1], 2: plan.layers[1]})
    with pytest.raises(InputError, match="a batch file holds one layer, but 2 of the plan"):
        judge(two, TraceInput(batches=file), cost(), [Conditions()], None, silent)


def test_every_layer_of_a_plan_has_its_own_batches_and_progress_is_told(traces: Path, others: Path) -> None:
    plan, told = planned(traces), []
    two = replace(plan, layers={2: plan.layers[1], 1: plan.layers[1]})
    reports, _ = judge(two, named(others), cost(), [Conditions()], COUNT, lambda *said: told.append(said))
    assert list(reports) == [1, 2]
    assert reports[1][0].latency_us.tolist() != reports[2][0].latency_us.tolist()
    shares = [share for stage, share in told if stage != "reading traces"]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_a_policy_that_lacks_what_train_batches_taught_is_named(traces: Path, others: Path) -> None:
    plan = planned(traces)
    bare = replace(plan, layers={LAYER: replace(plan.layers[LAYER], learned=None)})
    said = "layers 1 of the plan have no learned loads and shares: weights takes them as equal"
    assert said in judged(bare, named(others), Conditions("even-source"), Conditions("weights"))[1]
    assert not any("learned" in note for note in judged(bare, named(others), Conditions("even-source"))[1])
    assert not any("learned" in note for note in judged(plan, named(others), Conditions("weights"))[1])


def test_a_table_that_was_not_learned_for_these_sources_is_named_and_the_nearest_taken(
    traces: Path, others: Path
) -> None:
    said = f"layers 1 of the plan have no dispatch table learned for {MESH.rows} sources: table takes the nearest"
    plan, trials = planned(traces), (Conditions("nearest"), Conditions("table"))
    (near, table), notes = judged(plan, named(others), *trials)
    assert any(said in note for note in notes)
    assert near.latency_us.tolist() == table.latency_us.tolist()
    taught = planned(traces, "table")
    assert not any("dispatch table" in note for note in judged(taught, named(others), *trials)[1])
    assert not any("dispatch table" in note for note in judged(plan, named(others), Conditions("weights"))[1])
    learned = taught.layers[LAYER].learned
    assert learned is not None
    assert learned.table is not None
    for_more = replace(learned, table=DispatchTable(learned.table.placement, np.tile(learned.table.replica, (2, 1))))
    other = replace(taught, layers={LAYER: replace(taught.layers[LAYER], learned=for_more)})
    assert any(said in note for note in judged(other, named(others), *trials)[1])


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"seed": "x"}, {"phase": "sleep"}, {"row_users": [1, "x"]}])
def test_a_provenance_that_no_solve_wrote_is_refused(traces: Path, wrong: dict[str, Any]) -> None:
    plan = planned(traces)
    part = replace(plan.layers[LAYER], provenance=plan.layers[LAYER].provenance | wrong)
    with pytest.raises(InputError, match="provenance"):
        judged(replace(plan, layers={LAYER: part}), named(traces), Conditions())


def test_a_dead_device_with_the_only_replica_is_an_error_that_names_it(traces: Path) -> None:
    plan = planned(traces)
    slots = plan.layers[LAYER].placement.slots
    dead = tuple(np.flatnonzero((slots == 3).any(axis=1)).tolist())
    with pytest.raises(InputError, match=r"expert \d.* would have no replica left if"):
        judged(plan, named(traces), Conditions(dead=dead))
    assert plan.hardware == WORMHOLE
