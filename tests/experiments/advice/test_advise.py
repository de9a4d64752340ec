"""The advice on a layer: what is there now, where its time goes, and what each step comes to."""

import json
from pathlib import Path

import numpy as np
import pytest
from random_problems import cost, random_placement, small_problem

from optimizer.domain.hardware import Hardware
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.placement import Placement
from optimizer.domain.problem import make_problem
from optimizer.errors import InputError
from optimizer.experiments.advice.advise import AdviceRequest, advise
from optimizer.experiments.advice.parts import CostParts
from optimizer.experiments.advice.present import default_present, extra_of, read_present, room_for
from optimizer.experiments.advice.study import Advice
from optimizer.interrupts import Cancel
from optimizer.planning.bounds import bound_any
from optimizer.planning.options import SolveOptions
from optimizer.planning.plan_file import Plan, write_plan
from optimizer.report.advice import as_json, parts, verdict
from optimizer.routing.servers.abilities import ANY, SERVERS
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.simulator import simulate
from optimizer.traces.source import TraceInput

pytestmark = pytest.mark.usefixtures("few_batches")

MODEL = Model("drawn", 8, 0, 2)
VLLM = SERVERS["vllm"]


@pytest.mark.parametrize("seed", range(6))
def test_the_parts_add_up_to_the_latency_and_none_is_negative(seed: int) -> None:
    problem, sets = small_problem(seed)
    placement = random_placement(np.random.default_rng(seed), problem.model.experts, problem.mesh)
    report = simulate(placement, sets.test, problem.model, problem.mesh, problem.cost, Conditions("even-source"))
    bounds = bound_any(sets.test, problem.model, problem.mesh, problem.cost)
    found = CostParts.of(report, bounds, problem.cost)
    assert found.latency == pytest.approx(report.latency_us.mean())
    assert min(found.routing, found.communication, found.work, found.expected) >= 0
    assert found.chance >= -0.05 * found.latency  # whole half messages are rounded where means are timed
    assert 1 <= found.expected_imbalance <= found.imbalance + 1e-9


def test_equal_devices_in_every_batch_have_no_imbalance_to_tell_of() -> None:
    problem, sets = small_problem(1, rows=1, cols=2, slots=3, routed=3, shared=0)
    placement = Placement(np.array([[0, 1, 2], [0, 1, 2]]))
    report = simulate(placement, sets.test, problem.model, problem.mesh, problem.cost, Conditions("even-ideal"))
    found = CostParts.of(report, [], problem.cost)
    assert found.expected_imbalance < 1.1


def test_a_server_fills_its_slots_in_order_and_begins_again() -> None:
    problem = make_problem(MODEL, Mesh(1, 4, 3), cost(), np.ones((2, 8), dtype=np.int32))
    present = default_present(problem, VLLM)
    assert present.placement.slots.ravel().tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3]
    assert present.policy == "vllm"
    assert extra_of(present.placement, problem) == 4
    bare = default_present(problem, ANY)
    assert sorted(bare.placement.slots[bare.placement.slots >= 0].tolist()) == list(range(8))


@pytest.mark.parametrize(("extra", "slots", "found"), [(1, 3, 4), (4, 3, 4), (5, 4, 8)])
def test_redundant_experts_are_rounded_up_to_whole_slots(extra: int, slots: int, found: int) -> None:
    mesh, there = room_for(VLLM, MODEL, Mesh(1, 4, 2), extra)
    assert (mesh.slots_per_device, there) == (slots, found)
    mesh, there = room_for(ANY, MODEL, Mesh(1, 4, 3), extra)
    assert there == extra


def test_the_present_placement_is_read_from_a_plan_and_from_a_servers_file(tmp_path: Path) -> None:
    slots = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 0], [1, 2, 3]])
    plan = Plan.of(Placement(slots), 1, MODEL, Hardware.of(mesh="2x2", slots_per_device=3))
    write_plan(tmp_path / "plan.json", plan)
    present = read_present(tmp_path / "plan.json", 1, MODEL, Mesh(2, 2, 9), ANY)
    assert (present.placement.slots == slots).all()
    assert present.mesh(Mesh(2, 2, 9)) == Mesh(2, 2, 3)
    assert read_present(tmp_path / "plan.json", 1, MODEL, Mesh(2, 2, 3), VLLM).policy == "vllm"
    file = tmp_path / "location.json"
    file.write_text(json.dumps({"physical_to_logical_map": [slots.ravel().tolist()] * 3}))
    assert (read_present(file, 1, MODEL, Mesh(2, 2, 3), SERVERS["sglang"]).placement.slots == slots).all()


@pytest.mark.parametrize(
    ("layer", "mesh", "said"),
    [(7, Mesh(2, 2, 3), "has no layer 7"), (1, Mesh(1, 3, 3), "for 4 devices, not for the 3"), (1, None, "expert")],
)
def test_a_present_placement_that_does_not_fit_is_refused(
    tmp_path: Path, layer: int, mesh: Mesh | None, said: str
) -> None:
    slots = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 0], [1, 2, 3]])
    plan = Plan.of(Placement(slots), 1, MODEL, Hardware.of(mesh="2x2", slots_per_device=3))
    write_plan(tmp_path / "plan.json", plan)
    model = MODEL if mesh else Model("larger", 9, 0, 2)
    with pytest.raises(InputError, match=said) as caught:
        read_present(tmp_path / "plan.json", layer, model, mesh or Mesh(2, 2, 3), ANY)
    assert caught.value.field == "placement"
    assert "plan.json: " in str(caught.value)


def advice_on(traces: Path, server: str, cancel: Cancel | None = None, sizes: tuple[int, ...] = ()) -> Advice:
    """The advice on layer 1 of some traces, each step being planned by few moves."""
    machine = Hardware.of("h800", mesh="2x2", slots_per_device=3)
    asked = AdviceRequest(1, None, sizes, SERVERS[server])
    named = TraceInput(traces=[str(traces)], batch_tokens=24)
    options = SolveOptions(1e5, iterations=300)
    return advise(named, asked, MODEL, machine.mesh, machine.cost, options, cancel=cancel)[0]


def test_every_step_is_judged_on_the_same_batches_as_the_present(traces: Path) -> None:
    found = advice_on(traces, "vllm", sizes=(8,))
    assert found.levers[0].kind == "placement"
    kinds = [lever.kind for lever in found.levers]
    assert {"tables", "hints", "optimal routing"} <= set(kinds)
    assert kinds.index("redundant experts") < kinds.index("tables")
    for lever in found.levers:
        assert lever.report.batches == found.report.batches
        assert lever.mean.share == pytest.approx(1 - lever.report.latency_us.mean() / found.report.latency_us.mean())
        assert lever.runs == (lever.kind in ("placement", "redundant experts"))
        assert lever.placement.violations(8, 4, lever.slots) == []
    optimal = next(lever for lever in found.levers if lever.kind == "optimal routing")
    assert optimal.report.price_us > 0
    assert found.floor is not None
    assert found.floor <= min(lever.report.latency_us.mean() for lever in found.levers if lever.slots == found.slots)
    assert [judged.tokens for judged in found.sizes] == [8]
    page = parts(found)
    assert page[0] == verdict(found)
    figures = json.loads(json.dumps(as_json(found)))
    assert [step["step"] for step in figures["steps"]] == kinds
    assert sum(figures["present"]["parts_us"].values()) == pytest.approx(figures["present"]["latency_us"]["mean"])


def test_an_end_that_was_asked_for_leaves_out_what_was_not_tried(traces: Path) -> None:
    cancel = Cancel()
    cancel.ask()
    found = advice_on(traces, "vllm", cancel)
    assert found.levers == []
    assert found.left_out[0] == "placement"
    assert "Not tried, as the time was up: placement, " in verdict(found)


def test_where_no_expert_can_have_a_second_replica_there_is_no_gain(traces: Path) -> None:
    """One device holds all experts in any case, so that no step is tried."""
    machine = Hardware.of("h800", mesh="1x1", slots_per_device=8)
    named, options = TraceInput(traces=[str(traces)], batch_tokens=24), SolveOptions(1e5, iterations=50)
    asked = AdviceRequest(1, None, (), VLLM)
    found, _ = advise(named, asked, MODEL, machine.mesh, machine.cost, options)
    assert found.levers == []
    assert verdict(found).startswith("No gain to be had")
