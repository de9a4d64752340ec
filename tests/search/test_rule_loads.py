"""Searches under a server's rule see the loads that the simulator sees, and their increments equal a fresh count."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_layers import WIRINGS, Links, TokensAt
from random_problems import cost, random_batches, random_placement, small_problem
from reference_sglang import near
from reference_traffic import Wires, all_holders

from formulations.kit.arrays import Ints
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.search.dealt_copies import Dealing, climb_dealt, listed
from optimizer.search.even_moves import apply, delta, scratch_for
from optimizer.search.iterated import iterated
from optimizer.search.moves import MoveRules, is_legal
from optimizer.search.multistart import DescentGoal
from optimizer.search.rule_loads import BY_NEARNESS, BY_RANK, RULES, RuleLoads, demand_by_source
from optimizer.search.seeds.greedy import greedy
from optimizer.search.state import SearchState
from optimizer.search.stop import Deadline, SearchBudget
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.simulator import simulate
from optimizer.traces.batches import Batches

MODEL = Model("small", 9, 1, 3)
wirings = st.sampled_from(WIRINGS)
meshes = st.sampled_from([Mesh(3, 2, 3), Mesh(1, 5, 3), Mesh(5, 1, 3), Mesh(2, 4, 4)])


def wired(wiring: tuple[TokensAt, Links]) -> Cost:
    """The usual costs on a network of this wiring."""
    usual = cost()
    network = usual.preset.network.model_copy(update={"tokens": wiring[0], "links": wiring[1]})
    return Cost(usual.name, usual.preset.model_copy(update={"network": network}))


def state_of(placement: Placement, load: Ints, rule: RuleLoads) -> SearchState:
    """The state in which a device costs what it has in pairs, with a tail above 20."""
    nothing = np.zeros((MODEL.experts, MODEL.experts), dtype=int)
    return SearchState.of(placement, load, np.arange(int(load.max()) + 1), nothing, 20, rule=rule)


@pytest.mark.parametrize("policy", BY_RANK)
@given(seed=st.integers(0, 10**6), mesh=meshes, most=st.integers(1, 8))
def test_a_table_by_rank_gives_each_device_what_the_simulator_counts(
    policy: str, seed: int, mesh: Mesh, most: int
) -> None:
    """Where the table reaches to the largest number of copies; beyond it, all pairs are still there."""
    rng = np.random.default_rng(seed)
    batches, placement = random_batches(rng, 3, 40, MODEL, mesh.rows), random_placement(rng, MODEL.experts, mesh)
    rule = RuleLoads.of(policy, batches, MODEL, Network.of(mesh, cost().preset.network), most)
    state = state_of(placement, batches.load(MODEL.experts), rule)
    expected = simulate(placement, batches, MODEL, mesh, cost(), Conditions(policy)).device_load
    if placement.counts(MODEL.experts).max() <= most:
        assert (expected == state.cost.T).all()
    assert (state.cost.sum(axis=0) == expected.sum(axis=1)).all()


def test_ranks_follow_the_sources_where_these_are_devices() -> None:
    mesh, wiring = Mesh(2, 3, 4), WIRINGS[-1]
    rng, policy = np.random.default_rng(0), "vllm-ascend"
    batches, placement = random_batches(rng, 3, 40, MODEL, 2), random_placement(rng, MODEL.experts, mesh)
    rule = RuleLoads.of(policy, batches, MODEL, Network.of(mesh, wired(wiring).preset.network), 6)
    expected = simulate(placement, batches, MODEL, mesh, wired(wiring), Conditions(policy)).device_load
    assert (expected == state_of(placement, batches.load(MODEL.experts), rule).cost.T).all()


def nearness(placement: Placement, batches: Batches, wires: Wires, network: Network) -> Ints:
    """Pairs of each device, `[device, batch]`: sources with a near copy use it, the rest is dealt out in turn."""
    found = np.zeros((len(placement.slots), batches.count), dtype=int)
    source = network.source(batches.source_row)
    for batch in range(batches.count):
        for expert in range(MODEL.experts):
            places = [(int(device), int(slot)) for device, slot in np.argwhere(placement.slots == expert)]
            rest = 0
            for number, home in enumerate(all_holders(wires)):
                pairs = int(((batches.experts[batch] == expert).any(axis=1) & (source[batch] == number)).sum())
                place = near(wires, places, home)
                if place is None:
                    rest += pairs
                else:
                    found[place[0], batch] += pairs
            for turn in range(rest):
                found[places[turn % len(places)][0], batch] += 1
    return found


@given(st.integers(0, 10**6), meshes, wirings)
def test_near_copies_get_what_an_oracle_counts_source_by_source(
    seed: int, mesh: Mesh, wiring: tuple[TokensAt, Links]
) -> None:
    rng = np.random.default_rng(seed)
    batches, placement = random_batches(rng, 2, 30, MODEL, mesh.rows), random_placement(rng, MODEL.experts, mesh)
    network = Network.of(mesh, wired(wiring).preset.network)
    rule = RuleLoads.of("sglang-dynamic", batches, MODEL, network, 1)
    expected = nearness(placement, batches, Wires(mesh.rows, mesh.cols, *wiring), network)
    assert (state_of(placement, batches.load(MODEL.experts), rule).cost == expected).all()


@pytest.mark.parametrize("policy", RULES)
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), mesh=meshes, wiring=wirings)
def test_every_step_of_a_random_walk_under_a_rule_is_exact(
    policy: str, seed: int, mesh: Mesh, wiring: tuple[TokensAt, Links]
) -> None:
    rng = np.random.default_rng(seed)
    batches, placement = random_batches(rng, 4, 40, MODEL, mesh.rows), random_placement(rng, MODEL.experts, mesh)
    rule = RuleLoads.of(policy, batches, MODEL, Network.of(mesh, wired(wiring).preset.network), 3)
    load = batches.load(MODEL.experts)
    state, size, made = state_of(placement, load, rule), mesh.slots, 0
    scratch, rules = scratch_for(state), MoveRules(np.zeros(MODEL.experts, dtype=np.bool_), mesh.cols)
    for move in rng.integers(size * (size + MODEL.experts), size=3000).tolist():
        if not is_legal(move, state.slots, state.copies, rules):
            continue
        expected = state.objective + delta(move, state, scratch)
        apply(move, state, scratch)
        fresh = state_of(state.placement(), load, rule)
        assert state.objective == expected == fresh.objective
        assert (state.part == fresh.part).all()
        assert (state.cost == fresh.cost).all()
        made += 1
        if made == 40:
            return
    assert made > 0


@settings(max_examples=25)
@given(st.integers(0, 10**6), meshes, wirings, st.integers(0, 2))
def test_a_dealt_table_costs_what_the_simulator_counts(
    seed: int, mesh: Mesh, wiring: tuple[TokensAt, Links], layers: int
) -> None:
    rng = np.random.default_rng(seed)
    batches, placement = random_batches(rng, 3, 40, MODEL, mesh.rows), random_placement(rng, MODEL.experts, mesh)
    network, before = Network.of(mesh, wired(wiring).preset.network), (None,) * layers
    demand = demand_by_source(batches, network, MODEL.experts)
    dealing = Dealing.of(demand, np.arange(41), network, mesh.slots_per_device, before)
    rule = Conditions("sglang-static")
    report = simulate(placement, batches, MODEL, mesh, wired(wiring), rule, layers_before=before)
    assert dealing.cost(placement) == report.device_load.max(axis=1).sum()
    replicas = placement.replicas(MODEL.experts)
    for one, other in zip(listed(placement.slots, placement.counts(MODEL.experts)), replicas, strict=True):
        assert one.tolist() == other.tolist()


@pytest.mark.parametrize("replicas", [None, "auto"])
def test_a_climb_for_a_dealt_table_gets_better_and_keeps_the_rules(replicas: str | None) -> None:
    problem, sets = small_problem(4, rows=4, cols=2, slots=3, routed=14, top_k=4, replicas=replicas)
    demand = demand_by_source(sets.train, problem.network, problem.model.experts)
    dealing = Dealing.of(demand, np.arange(71), problem.network, 3, problem.layers_before)
    start, budget = greedy(problem), SearchBudget(Deadline(60), 60, 2000)
    rng = np.random.default_rng(0)
    found = [start, *climb_dealt(start, dealing, MoveRules.of(problem), budget, rng)]
    costs = [dealing.cost(placement) for placement in found]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0]
    assert all(problem.violations(placement) == [] for placement in found)
    assert budget.iterations == 0


@pytest.mark.parametrize("policy", [BY_RANK[2], BY_NEARNESS[1]])
def test_iterated_descents_end_no_worse_than_their_starts(policy: str) -> None:
    problem, sets = small_problem(4, rows=4, cols=2, slots=3, routed=14, top_k=4)
    rule = RuleLoads.of(policy, sets.train, problem.model, problem.network, 4)
    value, nothing = np.arange(int(problem.load.max()) + 1), np.zeros((15, 15), dtype=int)
    goal, budget = DescentGoal(value, nothing, 0, rule), SearchBudget(Deadline(60), 60, 30_000)
    rng, start = np.random.default_rng(0), greedy(problem)
    found = list(iterated(problem.load, MoveRules.of(problem), goal, [start], budget, rng, lambda share: None))
    objectives = [goal.state(placement, problem.load).objective for placement in found]
    assert len(found) > 1
    assert min(objectives) <= objectives[0] < goal.state(start, problem.load).objective
    assert all(problem.violations(placement) == [] for placement in found)
