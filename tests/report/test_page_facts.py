"""What pages show of plans, as numbers: they are those of the simulator, of plan files and of plain counting."""

import json
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from page_facts import COUNT, LAYERS, MESH, MODEL, TOKENS, small_facts, small_plan, small_request
from random_problems import cost

from optimizer.domain.mesh import Mesh
from optimizer.domain.problem import make_problem
from optimizer.errors import InputError
from optimizer.planning.judge_plan import judge
from optimizer.planning.options import silent
from optimizer.planning.plan_file import read_plan
from optimizer.report.page.facts import GREEDY, PLAN
from optimizer.report.page.gather import PageRequest, gather, hint_knowledge
from optimizer.report.page.mesh_map import FEWEST_TOGETHER, cell_grid, partners
from optimizer.routing.hints import HintSettings
from optimizer.search.seeds.greedy import greedy
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.simulator import simulate
from optimizer.traces.source import TraceInput, open_source

pytestmark = pytest.mark.usefixtures("few_batches")


def test_figures_of_the_plan_are_those_in_its_file(traces: Path, plan: Path) -> None:
    read = read_plan(plan)
    named = TraceInput(traces=[str(traces)], batch_tokens=TOKENS)
    facts = gather(PageRequest(read, cost(), named, ("even-source",)))
    (layer,) = facts.layers.values()
    assert layer.unseen
    assert "test batches" in facts.batches
    assert json.loads(json.dumps(layer.plan.report.summary())) == read.layers[1].quality
    assert [(run.owner, run.report.routing) for run in layer.runs[:2]] == [(GREEDY, "even-source"), (PLAN, read.policy)]


def test_greedy_places_by_the_train_batches_and_is_judged_on_the_test_batches(tmp_path: Path) -> None:
    """The plan says nothing of its traces here, and holds no loads."""
    asked = small_request(tmp_path)
    facts = gather(asked)
    source = open_source(asked.named, LAYERS, MODEL, MESH, lambda share: None)
    for layer, found in facts.layers.items():
        assert found.unseen
        sets = source.sets(layer)
        placement = greedy(make_problem(MODEL, MESH, cost(), sets.train.load(MODEL.experts), layer=layer))
        assert found.before.placement.slots.tolist() == placement.slots.tolist()
        (batches,) = [sets.test.part(0, COUNT)]
        for run in found.runs:
            expected = simulate(run.placement, batches, MODEL, MESH, cost(), Conditions(run.report.routing))
            assert run.report.latency_us.tolist() == expected.latency_us.tolist()


def test_with_another_placement_before_all_requests_of_other_traces_are_judged(tmp_path: Path) -> None:
    asked = small_request(tmp_path, before=("other.json", small_plan("nearest")))
    facts = gather(asked)
    reports, _ = judge(asked.plan, asked.named, asked.cost, [Conditions("hint-device")], COUNT, silent)
    for layer, found in facts.layers.items():
        assert not found.unseen
        assert found.before.report.routing == "nearest"
        assert found.plan.report.latency_us.tolist() == reports[layer][0].latency_us.tolist()
    assert "all requests" in facts.batches


def test_slots_serve_together_what_their_device_serves(tmp_path: Path) -> None:
    for found in small_facts(tmp_path).layers.values():
        for run in found.runs:
            assert run.slot_load.sum(axis=1) == pytest.approx(run.report.device_load.mean(axis=0))
            assert run.slot_tiles.sum(axis=1) == pytest.approx(run.report.device_tiles.mean(axis=0))
            assert (run.slot_load[run.placement.slots < 0] == 0).all()


def test_the_parts_of_latency_that_devices_decide_sum_to_that_of_compute(tmp_path: Path) -> None:
    run = small_facts(tmp_path).first.plan
    assert run.latency_share().sum() == pytest.approx(run.report.shares()["compute"])
    slowest = run.report.critical[:, 0]
    by_hand = [run.report.compute_us[slowest == device].sum() for device in range(MESH.devices)]
    assert run.latency_share() == pytest.approx(np.array(by_hand) / run.report.latency_us.sum())


def test_pairs_and_loads_are_counted_as_by_hand(tmp_path: Path) -> None:
    asked = small_request(tmp_path)
    found = gather(asked).first
    source = open_source(asked.named, LAYERS, MODEL, MESH, lambda share: None)
    tokens = source.sets(0).test.part(0, COUNT).experts[..., : MODEL.top_k].reshape(-1, MODEL.top_k).tolist()
    together = Counter(pair for token in tokens for pair in combinations(sorted(token), 2))
    assert all(
        found.pairs[one, other] == found.pairs[other, one] == number for (one, other), number in together.items()
    )
    assert found.pairs.sum() == 2 * sum(together.values())
    assert found.tokens == len(tokens)
    single = Counter(expert for token in tokens for expert in token)
    assert found.load.sum(axis=0).tolist() == [*(single[expert] for expert in range(8)), len(tokens)]
    named = partners(found.pairs, found.load, found.tokens)
    for expert, others in enumerate(named):
        for other, above in others:
            assert together[min(expert, int(other)), max(expert, int(other))] >= FEWEST_TOGETHER
            by_hand = found.pairs[expert, int(other)] * len(tokens) / single[expert] / single[int(other)]
            assert above == pytest.approx(by_hand, rel=0.01)
            assert above > 1


def test_hints_know_what_an_average_that_forgets_knows(rng: np.random.Generator) -> None:
    """Batch by batch: the average of what is old enough, looked at now and then."""
    load, first, settings = rng.integers(0, 50, (20, 3)), np.array([9.0, 20.0, 1.0]), HintSettings(3.0, 2, 3)
    found = hint_knowledge(load, first, settings)
    for batch in range(20):
        looked = batch - batch % 2
        average = first
        for old in range(looked - settings.lag + 1):
            average = settings.kept * average + (1 - settings.kept) * load[old]
        assert found[batch] == pytest.approx(average)


def test_each_slot_lies_in_the_block_of_its_device() -> None:
    mesh = Mesh(2, 3, 6)
    grid = cell_grid(np.arange(mesh.slots).reshape(mesh.devices, 6), mesh)
    assert grid.shape == (4, 9)  # two rows of three slots for each of 2 x 3 devices
    for row in range(4):
        for col in range(9):
            device = (row // 2) * 3 + col // 3
            assert grid[row, col] == device * 6 + (row % 2) * 3 + col % 3


def test_a_placement_before_that_does_not_fit_the_plan_is_refused(tmp_path: Path) -> None:
    plan = small_plan()
    other_mesh = replace(plan, mesh=Mesh(2, 3, 3))
    fewer = replace(plan, layers={0: plan.layers[0]})
    for before, said in ((other_mesh, "is for 2x3 devices"), (fewer, "has no layer 1")):
        with pytest.raises(InputError, match=said) as error:
            small_facts(tmp_path, before=("old.json", before))
        assert error.value.field == "before"
