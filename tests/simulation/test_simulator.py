"""The simulator equals a token-by-token oracle, conserves pairs, and refuses what does not fit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_layers import WIRINGS, Case, Links, TokensAt, as_tokens, case, cases, learned, rows_of, wired
from random_problems import cost, random_batches, random_placement
from reference_hints import HINT_ORACLES
from reference_layer import Hardware, simulate_batch
from reference_routing import ORACLES, limit, weights_by_rank
from reference_traffic import holders

from formulations.kit.arrays import Ints
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.domain.presets import load_hardware, load_model, names
from optimizer.errors import InputError
from optimizer.routing.capacity import Coactivation
from optimizer.routing.context import LearnedShares, capacity_of
from optimizer.routing.policies import LEAST_ACTIVE, POLICIES, REMEMBERING
from optimizer.simulation import simulator
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.report import SimulationReport
from optimizer.simulation.simulator import Simulation, simulate
from optimizer.statistics.loads import FIVE
from optimizer.traces.batches import Batches

ROW_RINGS: tuple[TokensAt, Links] = ("row", "rings")
policies = st.sampled_from(sorted(POLICIES))
messages = st.sampled_from(["device", "expert"])


def run(drawn: Case, cost: Cost, conditions: Conditions) -> SimulationReport:
    """The report of the simulator on a case."""
    known = drawn.learned, drawn.layers_before
    return simulate(drawn.placement, drawn.batches, drawn.model, drawn.mesh, cost, conditions, *known)


def unit_of(cost: Cost, conditions: Conditions) -> int:
    """How many tokens make up one unit of load."""
    return cost.tile_tokens if (conditions.unit or cost.unit) == "tiles" else 1


def places(drawn: Case, cost: Cost, conditions: Conditions, batch: int) -> list[list[Any]]:
    """(device, slot) of each pair by the oracle; policies whose choice is not unique are asked for their own choice."""
    wiring = cost.preset.network.tokens, cost.preset.network.links
    replicas = sum(expert >= 0 for expert in drawn.placement.slots.ravel().tolist())
    capacity = capacity_of(conditions.capacity_factor or 1.5, drawn.batches.tokens, drawn.model, replicas)
    tile = unit_of(cost, conditions)
    if conditions.routing in ("optimal", LEAST_ACTIVE):
        network = drawn.network(wiring)
        unit_ns = cost.tile_ns if (conditions.unit or cost.unit) == "tiles" else (1, 1)
        plain, message_us = drawn.context(wiring, tile, capacity), cost.combine_message_us(network.remote)
        context = replace(plain, unit_ns=unit_ns, message_us=message_us, read_tokens=cost.read_tokens)
        chosen = POLICIES[conditions.routing](drawn.batches.experts, network.source(drawn.batches.source_row), context)
        depth = drawn.mesh.slots_per_device
        return [[divmod(slot, depth) for slot in token] for token in chosen[batch].tolist()]
    layer, tokens = drawn.layer(wiring, tile, capacity), as_tokens(drawn.batches.experts[batch])
    held = holders(layer.wires, rows_of(drawn.batches, batch))
    if conditions.routing in REMEMBERING:
        before = [as_tokens(drawn.batches.experts[earlier]) for earlier in range(batch)]
        there = [holders(layer.wires, rows_of(drawn.batches, earlier)) for earlier in range(batch)]
        run_of_batches = [*before, tokens], [*there, held], conditions.hints
        picked: list[list[Any]] = list(HINT_ORACLES[conditions.routing](layer, *run_of_batches)[-1])
    else:
        picked = list(ORACLES[conditions.routing](layer, tokens, held))
    if conditions.capacity_factor is None:
        return picked
    ranked, weight = as_candidates(drawn, batch), [weights_by_rank(drawn.model.top_k)] * len(tokens)
    rest = limit(layer, picked, tokens, held, drawn.model.routed_experts, ranked, weight, conditions.drop)
    return list(rest.places)


def as_candidates(drawn: Case, batch: int) -> Any:
    """The ranking of a token of the batch as recorded, whatever expert of it overflows."""
    assert drawn.batches.candidates is not None
    ranked = as_tokens(drawn.batches.candidates[batch])
    return lambda token, own: ranked[token]


def equals_the_oracle(drawn: Case, cost: Cost, conditions: Conditions) -> None:
    """Assert that all figures of a run are those of the oracle, which sees no replicas on dead devices."""
    report = run(drawn, cost, conditions)
    slots = drawn.placement.slots.copy()
    slots[list(conditions.dead)] = -1
    left = replace(drawn, placement=Placement(slots))
    preset = cost.preset
    hardware = Hardware(preset, cost.moe_op == "functional", cost.dispatch_model == "table", conditions.slow)
    wires = drawn.wires((preset.network.tokens, preset.network.links))
    for batch in range(drawn.batches.count):
        where, rows = places(left, cost, conditions, batch), rows_of(drawn.batches, batch)
        for name, value in simulate_batch(hardware, wires, slots.tolist(), where, rows).items():
            assert getattr(report, name)[batch].tolist() == pytest.approx(value, abs=1e-6), name


@given(cases(), st.sampled_from(WIRINGS), policies, messages, messages, st.sampled_from([None, "tokens", "tiles"]))
def test_simulator_equals_the_oracle(
    drawn: Case, wiring: tuple[TokensAt, Links], policy: str, back: str, out: str, unit: Any
) -> None:
    equals_the_oracle(drawn, wired(wiring, back, out), Conditions(policy, unit))


@given(cases(), policies, st.sampled_from(["row", "column", "device"]), st.sampled_from(["optimized", "functional"]),
       st.sampled_from(["link", "table"]))  # fmt: skip
def test_the_functional_op_and_the_table_model_equal_the_oracle(
    drawn: Case, policy: str, tokens: TokensAt, op: Any, model: Any
) -> None:
    equals_the_oracle(drawn, wired((tokens, "rings"), moe_op=op, dispatch_model=model), Conditions(policy))


@pytest.mark.parametrize("name", names("hardware"))
@settings(max_examples=15)
@given(drawn=cases(), policy=policies)
def test_every_hardware_preset_equals_the_oracle(name: str, drawn: Case, policy: str) -> None:
    equals_the_oracle(drawn, Cost(name, load_hardware(name)), Conditions(policy))


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_the_home_mesh_equals_the_oracle(policy: str) -> None:
    """DeepSeek-V3 on 16 x 8 devices of 3 slots."""
    rng, model, mesh = np.random.default_rng(5), load_model("deepseek-v3"), Mesh(16, 8, 3)
    batches, placement = random_batches(rng, 1, 64, model, 16), random_placement(rng, 257, mesh)
    drawn = Case(model, mesh, placement, batches, learned(rng, placement, 257))
    equals_the_oracle(drawn, cost(), Conditions(policy))


@given(cases(), st.integers(0, 10**6), st.sampled_from(WIRINGS), policies)
def test_slow_and_dead_devices_equal_the_oracle(
    drawn: Case, seed: int, wiring: tuple[TokensAt, Links], policy: str
) -> None:
    rng, devices = np.random.default_rng(seed), drawn.mesh.devices
    slow = {int(device): float(rng.choice([1.5, 3.0])) for device in rng.permutation(devices)[: devices // 2]}
    dead = tuple(rng.permutation(devices)[: int(rng.integers(0, 2 + devices // 4))].tolist())
    conditions = Conditions(policy, slow=slow, dead=dead)
    left = {e for device, row in enumerate(drawn.placement.slots.tolist()) if device not in dead for e in row}
    lost = [expert for expert in range(drawn.model.experts) if expert not in left]
    assume(not lost)
    equals_the_oracle(drawn, wired(wiring), conditions)


@pytest.mark.parametrize(
    ("dead", "said"),
    [
        ((0,), r"^expert 0 would have no replica left if devices 0 were dead; "),
        ((1, 2), r"^expert 1 and 1 more would have no replica left if devices 1, 2 were dead; "),
    ],
)
def test_devices_with_the_only_replica_of_an_expert_cannot_be_dead(dead: tuple[int, ...], said: str) -> None:
    token, row = np.zeros((1, 1, 1), dtype=int), np.zeros((1, 1), dtype=int)
    with pytest.raises(InputError, match=said) as caught:
        run_by_hand([[0], [1], [2]], token, row, Mesh(3, 1, 1), Conditions(dead=dead))
    assert caught.value.field == "dead"


def ranked(drawn: Case, seed: int) -> Case:
    """The case with all routed experts as candidates, of which those of the token come first."""
    rng, batches, model = np.random.default_rng(seed), drawn.batches, drawn.model
    order = rng.random((2, batches.tokens, model.routed_experts)) + 1
    np.put_along_axis(order, batches.experts[..., : model.top_k].astype(int), 0, axis=2)
    return replace(drawn, batches=Batches(batches.experts, batches.source_row, None, np.argsort(order, axis=2)))


@given(cases(), st.integers(0, 10**6), st.sampled_from(WIRINGS), st.sampled_from(sorted(ORACLES)), st.booleans(),
       st.sampled_from([0.5, 1.0, 1.5, 3.0]))  # fmt: skip
def test_limited_replicas_equal_the_oracle(
    plain: Case, seed: int, wiring: tuple[TokensAt, Links], policy: str, drop: bool, factor: float
) -> None:
    drawn, conditions = ranked(plain, seed), Conditions(policy, capacity_factor=factor, drop=drop)
    equals_the_oracle(drawn, wired(wiring), conditions)
    rerouting = run(drawn, wired(wiring), conditions).rerouting
    assert rerouting is not None
    assert rerouting.routed_pairs == drawn.batches.tokens * drawn.model.top_k
    assert (rerouting.next_estimated, rerouting.weights_estimated) == (False, True)


@given(cases(), policies, st.booleans())
def test_every_pair_is_served_once_or_counted_as_dropped(plain: Case, policy: str, drop: bool) -> None:
    drawn = ranked(plain, 1)
    for factor in (None, 1.0):
        report = run(drawn, wired(ROW_RINGS), Conditions(policy, capacity_factor=factor, drop=drop))
        dropped = 0 if report.rerouting is None else report.rerouting.dropped
        pairs = drawn.batches.experts[0].size
        assert (report.device_load.sum(axis=1) + dropped == pairs).all()
        assert (report.device_tiles.sum(axis=1) >= -(-(pairs - dropped) // 32)).all()


def same(one: SimulationReport, other: SimulationReport) -> None:
    """Assert that two reports do not differ."""
    for name in ("latency_us", "device_load", "device_tiles", "spread", "critical", "out", "back"):
        assert (getattr(one, name) == getattr(other, name)).all(), name
    assert one.summary() == other.summary()


def many(seed: int = 3, batches: int = 7) -> Case:
    """A case of several batches with candidates."""
    rng = np.random.default_rng(seed)
    model, mesh = Model("m", 40, 1, 6), Mesh(4, 4, 3)
    drawn = random_batches(rng, batches, 64, model, mesh.rows)
    order = np.argsort(rng.random((batches, 64, 40)), axis=2)
    with_candidates = Batches(drawn.experts, drawn.source_row, rng.random((batches, 64, 6)), order)
    placement = random_placement(rng, 41, mesh)
    return Case(model, mesh, placement, with_candidates, LearnedShares.nothing(placement, 41))


CONDITIONS = [Conditions(policy) for policy in sorted(POLICIES)]
CONDITIONS += [Conditions("even-source", capacity_factor=1.0), Conditions("nearest", capacity_factor=1.0, drop=True)]
CONDITIONS += [Conditions("optimal", timing="overlap"), Conditions("even-source", slow={3: 2.0})]


@pytest.mark.parametrize("conditions", CONDITIONS, ids=str)
def test_the_report_does_not_depend_on_how_many_pairs_are_routed_at_a_time(
    conditions: Conditions, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = many()
    whole = run(drawn, wired(ROW_RINGS), conditions)
    for pairs in (1, 64 * 7 * 2, 64 * 7 * 3 + 5):
        monkeypatch.setattr(simulator, "CHUNK_PAIRS", pairs)
        same(whole, run(drawn, wired(ROW_RINGS), conditions))


@pytest.mark.parametrize("conditions", CONDITIONS, ids=str)
def test_a_simulation_fed_in_pieces_is_that_of_all_batches(conditions: Conditions) -> None:
    drawn = many()
    pieces = Simulation(drawn.placement, drawn.model, drawn.mesh, wired(ROW_RINGS), conditions)
    for first, last in ((0, 1), (1, 5), (5, 7)):
        pieces.feed(drawn.batches.part(first, last))
        assert pieces.batches == last
    same(run(drawn, wired(ROW_RINGS), conditions), pieces.report())


def test_recorded_candidates_come_before_a_guess() -> None:
    drawn, conditions = many(), Conditions(capacity_factor=1.0)
    guess = Coactivation.of(drawn.batches, drawn.model)
    guessing = Simulation(drawn.placement, drawn.model, drawn.mesh, wired(ROW_RINGS), conditions, guess=guess)
    guessing.feed(drawn.batches)
    same(run(drawn, wired(ROW_RINGS), conditions), guessing.report())


def test_batches_of_another_size_are_refused_and_so_is_a_report_of_none() -> None:
    drawn = many()
    simulation = Simulation(drawn.placement, drawn.model, drawn.mesh, wired(ROW_RINGS), Conditions())
    with pytest.raises(ValueError, match="no batches"):
        simulation.report()
    simulation.feed(drawn.batches)
    shorter = Batches(drawn.batches.experts[:, :60], drawn.batches.source_row[:, :60])
    with pytest.raises(ValueError, match="batches of 60 tokens after batches of 64"):
        simulation.feed(shorter)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(InputError, match="'nearst' is not a known policy; there are primary, even-ideal,") as caught:
        run(many(), wired(ROW_RINGS), Conditions("nearst"))
    assert caught.value.field == "routing"


@pytest.mark.parametrize(("dead", "slow"), [((4,), {}), ((-1,), {}), ((), {4: 2.0})])
def test_devices_outside_the_mesh_are_refused(dead: tuple[int, ...], slow: dict[int, float]) -> None:
    drawn = case(1, (2, 2), 2)
    with pytest.raises(InputError, match=r"^there is no device (-1|4); the mesh has devices 0\.\.3$") as caught:
        run(drawn, wired(ROW_RINGS), Conditions(dead=dead, slow=slow))
    assert caught.value.field == ("dead" if dead else "slow")


def unchecked(experts: Any, rows: Any, candidates: Any = None) -> Batches:
    """One batch of any ids, as if it came from somewhere that did not check them."""
    data = Batches(np.zeros((1, 2, 1), dtype=int), np.zeros((1, 2), dtype=int))
    named = {"experts": experts, "source_row": rows} | ({} if candidates is None else {"candidates": candidates})
    for name, ids in named.items():
        object.__setattr__(data, name, np.array([ids], dtype=np.int32 if name == "source_row" else np.uint16))
    return data


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize(
    ("batches", "said"),
    [
        (unchecked([[0], [3]], [0, 0]), r"^the batches' expert ids are 0\.\.3, but model hand has 0\.\.2$"),
        (unchecked([[65535], [1]], [0, 0]), r"expert ids are 1\.\.65535, but model hand has 0\.\.2"),
        (unchecked([[0], [1]], [0, 3]), r"source rows are 0\.\.3, but the mesh has 0\.\.2"),
        (unchecked([[0], [1]], [-1, 0]), r"source rows are -1\.\.0, but the mesh has 0\.\.2"),
        (unchecked([[0], [1]], [0, 0], [[1, 3], [0, 2]]), r"candidate experts are 0\.\.3, but model hand has"),
    ],
)
def test_batches_that_do_not_fit_the_model_or_the_mesh_are_refused(policy: str, batches: Batches, said: str) -> None:
    """Kernels do not check indices, so such a batch would be read and written outside their arrays."""
    mesh, placement = Mesh(3, 1, 1), Placement(np.array([[0], [1], [2]]))
    simulation = Simulation(placement, Model("hand", 3, 0, 1), mesh, wired(ROW_RINGS), Conditions(policy))
    with pytest.raises(InputError, match=said) as caught:
        simulation.feed(batches)
    assert (caught.value.field, simulation.batches) == ("batches", 0)


def run_by_hand(
    slots: list[list[int]], experts: Ints, rows: Ints, mesh: Mesh, conditions: Conditions
) -> SimulationReport:
    """A hand-made layer on the default hardware, all experts routed."""
    model = Model("hand", int(np.max(slots)) + 1, 0, 1)
    return simulate(Placement(np.array(slots)), Batches(experts, rows), model, mesh, cost(), conditions)


def test_even_splits_to_within_one_token() -> None:
    experts, rows = np.zeros((1, 11, 1), dtype=int), np.zeros((1, 11), dtype=int)
    assert run_by_hand([[0], [0], [0]], experts, rows, Mesh(3, 1, 1), Conditions()).device_load.tolist() == [[4, 4, 3]]


def test_a_replica_in_the_own_row_costs_no_hop_and_the_antipode_splits() -> None:
    token, rows = np.array([[[0, 2]]]), np.zeros((1, 1), dtype=int)
    report = run_by_hand([[0], [1], [2], [3]], token, rows, Mesh(4, 1, 1), Conditions())
    assert report.hops.tolist() == [2.0]
    assert report.dispatch_us[0] == pytest.approx(20.7 + 0.5 * 14336 / 27900)


def test_an_invalid_placement_is_refused() -> None:
    experts, rows = np.zeros((1, 1, 1), dtype=int), np.zeros((1, 1), dtype=int)
    with pytest.raises(ValueError, match="expert 0 twice on device 0"):
        run_by_hand([[0, 0]], experts, rows, Mesh(1, 1, 2), Conditions())


def test_a_report_says_under_what_it_was_made() -> None:
    drawn = case(1, (2, 2), 2)
    report = run(drawn, wired(ROW_RINGS, moe_op="functional", dispatch_model="table"), Conditions("hash", "tokens"))
    assert (report.routing, report.unit, report.moe_op) == ("hash", "tokens", "functional")
    assert (report.dispatch_model, report.timing, report.tokens) == ("table", "barrier", drawn.batches.tokens)
    assert report.network == Network(drawn.mesh, "row", "rings", 0.79)
    assert run(drawn, wired(("device", "nodes")), Conditions()).unit == "tokens"
    assert run(drawn, wired(ROW_RINGS), Conditions()).unit == "tiles"


def test_summary_has_five_statistics_of_seven_figures() -> None:
    summary = run(many(batches=5), cost(), Conditions()).summary()
    assert (summary["batches"], summary["tokens"], summary["routing"]) == (5, 64, "even-source")
    for name in ("latency_us", "dispatch_us", "compute_us", "combine_us", "imbalance", "tiles", "hops"):
        figures = summary[name]
        assert isinstance(figures, dict)
        assert tuple(figures) == FIVE
        assert figures["p50"] <= figures["p95"] <= figures["p99"] <= figures["max"]
