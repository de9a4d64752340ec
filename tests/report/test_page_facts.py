"""What pages show of plans, as numbers: they are those of the simulator, of plan files and of plain counting."""

import json
from base64 import b64decode
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from page_facts import COUNT, LAYERS, MESH, MODEL, TOKENS, small_facts, small_plan, small_request
from random_problems import cost, write_traces

from formulations.kit.arrays import Floats
from optimizer.domain.mesh import Mesh
from optimizer.domain.network import Network
from optimizer.domain.presets import load_hardware, names
from optimizer.domain.problem import make_problem
from optimizer.errors import InputError
from optimizer.planning.judge_plan import judge
from optimizer.planning.options import silent
from optimizer.planning.plan_file import read_plan
from optimizer.report.figure_names import name_of
from optimizer.report.page.curves import curve_items
from optimizer.report.page.datasets import datasets_picture, with_datasets
from optimizer.report.page.experts import LIFT_STEPS, MOST_DOUBLINGS, in_bytes, row_order
from optimizer.report.page.facts import GREEDY, PLAN
from optimizer.report.page.gather import gather
from optimizer.report.page.hint_knowledge import hint_knowledge
from optimizer.report.page.layers import bounds_table
from optimizer.report.page.links import critical_table, link_rows
from optimizer.report.page.mesh_map import FEWEST_TOGETHER, cell_grid, partners
from optimizer.report.page.parts import Picture
from optimizer.report.page.request import PageRequest
from optimizer.report.page.verdict import verdict
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


@pytest.mark.parametrize(
    ("policy", "greedys"),
    [("vllm", "vllm"), ("sglang-rows", "sglang-rows"), ("nearest", "even-source"), ("hint", "even-source")],
)
def test_eplbs_placement_has_the_servers_rule_where_the_plan_is_for_one(
    policy: str, greedys: str, traces: Path, plan: Path
) -> None:
    asked = PageRequest(replace(read_plan(plan), policy=policy), cost(), TraceInput(traces=[str(traces)]))
    assert asked.greedy_routing == greedys


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


def test_every_link_has_a_place_of_its_own_in_the_row_of_its_ring_or_port() -> None:
    for hardware in names("hardware"):
        preset = load_hardware(hardware)
        network = Network.of(Mesh(4, 3, 2), preset.network)
        rows, places = link_rows(network)
        assert (places >= 0).any(axis=0).all()
        assert sorted(places[places >= 0].tolist()) == list(range(len(network.remote)))
        for name, row in zip(rows, places, strict=True):
            words = [network.link_name(link) for link in row[row >= 0].tolist()]
            if network.links == "rings":
                line, number, way = name.split()
                starts = [int(word.split()[3]) for word in words]
                ends = [int(word.split()[-1]) for word in words]
                assert all(word.startswith(f"{line} {number},") for word in words)
                step = 1 if way == "up" else -1
                assert ends == [(start + step) % len(words) for start in starts]
            else:
                assert {word.split(", ")[1] for word in words} == {name.split(",")[0]}


def test_experts_stand_in_the_order_of_their_first_device() -> None:
    slots = np.array([[4, -1], [0, 5], [2, 4], [1, 3], [3, 0], [5, 2]])  # three rows of two devices; 5 is a shared one
    order, rows = row_order(slots, 5, 2)
    assert order.tolist() == [4, 0, 2, 1, 3]
    assert rows.tolist() == [0, 0, 1, 1, 1]


def test_lifts_in_bytes_are_those_that_were_put_in() -> None:
    lifts = np.array([[np.nan, 2.0, 0.0, np.nan], [2.0, np.nan, 100.0, 0.3], [0, 100, np.nan, 1.5], [9, 0.3, 1.5, 1]])
    steps = np.frombuffer(b64decode(in_bytes(lifts)), dtype=np.int8)
    seen = 2.0 ** (steps / LIFT_STEPS)
    expected = [2, 2.0**-MOST_DOUBLINGS, 1, 2.0**MOST_DOUBLINGS, 0.3, 1.5]
    assert seen == pytest.approx(np.array(expected), rel=2 ** (0.5 / LIFT_STEPS) - 1)


def test_one_layer_is_judged_with_capacities_and_fewer_replicas(tmp_path: Path) -> None:
    plan = small_plan()
    slow = replace(plan.layers[1], quality={"latency_us": {"p99": 9.0}})
    asked = small_request(tmp_path, replace(plan, layers=plan.layers | {1: slow}), curves=True)
    facts = gather(asked)
    found = facts.layers[1]
    assert [each.capacities == () for each in facts.layers.values()] == [True, False, True]
    assert found.capacities[0].latency_us.tolist() == found.plan.report.latency_us.tolist()
    factors = [each.rerouting.capacity_factor for each in found.capacities if each.rerouting is not None]
    assert factors == [2.0, 1.5, 1.25, 1.1, 1.0]
    assert found.replicas is not None
    assert found.replicas.extra[0] == 0
    names = [item.name for item in curve_items(facts) if isinstance(item, Picture)]
    assert names == ["replicas-latency", "replicas-imbalance", "capacity"]


def test_each_data_set_is_judged_by_itself(tmp_path: Path) -> None:
    asked = small_request(tmp_path, routings=())
    facts = gather(asked)
    others = replace(asked.named, traces=[str(write_traces(tmp_path / "others", np.random.default_rng(8)))])
    found = with_datasets(facts, asked, {"same": asked.named, "other": others}, silent)
    assert [each.name for each in found.datasets] == ["same", "other"]
    alone = replace(asked, named=others, before=("x", small_plan("even-source")))
    assert found.datasets[1].plan["p99"] == gather(alone).summed("plan", "p99")
    picture = datasets_picture(found)
    (view,) = picture.views.values()
    p99 = [found.datasets[1].before["p99"], found.datasets[1].plan["p99"]]
    assert view.traces[0]["z"][1][1] == pytest.approx(100 * (p99[1] / p99[0] - 1), rel=1e-3)


def test_tables_of_bounds_are_those_of_the_plan_file(traces: Path, plan: Path) -> None:
    read = read_plan(plan)
    facts = gather(PageRequest(read, cost(), TraceInput(traces=[str(traces)], batch_tokens=TOKENS)))
    rows = {row[0]: row for row in bounds_table(facts).views["1"]}
    for unit, found in read.layers[1].bounds.items():
        row = rows[name_of(unit)]
        assert float(row[1].replace(",", "")) == pytest.approx(found["reached"], abs=0.05)
        assert row[5] == f"{found['gap_to_any_placement']:.1%}"


def test_critical_shares_are_those_of_the_simulator(tmp_path: Path) -> None:
    facts = small_facts(tmp_path)
    rows = critical_table(facts).views["0"]
    often = facts.first.plan.report.often()
    assert rows[4][:3] == [facts.first.plan.name, "slowest device",
                           f"{often['device'][0]['id']}: {often['device'][0]['share']:.1%}"]  # fmt: skip


def test_the_verdict_tells_the_gap_to_the_bound_on_latency_and_else_on_compute(traces: Path, plan: Path) -> None:
    read = read_plan(plan)
    facts = gather(PageRequest(read, cost(), TraceInput(traces=[str(traces)], batch_tokens=TOKENS)))
    bounds = read.layers[1].bounds
    assert f"Its mean latency is {bounds['latency_us']['gap_to_any_placement']:.1%} above" in " ".join(verdict(facts))
    older = replace(read.layers[1], bounds={name: bounds[name] for name in bounds if name != "latency_us"})
    said = " ".join(verdict(replace(facts, plan=replace(read, layers={1: older}))))
    assert f"Its compute time is {bounds['compute_us']['gap_to_any_placement']:.1%} above" in said
    none = replace(read.layers[1], bounds={})
    assert "no bound on its latency" in " ".join(verdict(replace(facts, plan=replace(read, layers={1: none}))))


def test_the_verdict_says_where_the_difference_in_p99_may_be_chance(traces: Path, plan: Path) -> None:
    facts = gather(PageRequest(read_plan(plan), cost(), TraceInput(traces=[str(traces)], batch_tokens=TOKENS)))
    shown, rng = facts.first, np.random.default_rng(0)
    noise = rng.exponential(50.0, (2, shown.plan.report.batches))

    def said_of(before: Floats, after: Floats, *, layers: int) -> str:
        """The verdict's first sentence where compute takes longer by these microseconds, `[batch]`, in each layer."""
        runs = [
            replace(shown.plan, report=replace(shown.plan.report, compute_us=shown.plan.report.compute_us + more))
            for more in (before, after)
        ]
        layer = replace(shown, before=runs[0], plan=runs[1])
        several = {number: replace(layer, layer=number) for number in range(layers)}
        whole = replace(facts.plan, layers=dict.fromkeys(several, facts.plan.layers[shown.layer]))
        return verdict(replace(facts, plan=whole, layers=several))[0]

    assert "us), which may be chance;" in said_of(*noise, layers=1)
    assert "chance" not in said_of(noise[0] + 20.0, noise[0], layers=1)
    assert "3 layers together: " in said_of(*noise, layers=3)
    assert "us), which may be chance;" in said_of(*noise, layers=3)
    assert "chance" not in said_of(noise[0] + 20.0, noise[0], layers=3)
