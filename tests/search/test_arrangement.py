"""Devices that change places: loads of links equal those of every path, and changes equal those of counting again."""

from collections import defaultdict
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_layers import WIRINGS, Case, Links, TokensAt, case
from random_problems import random_batches, random_placement
from reference import replicas
from reference_traffic import Load, all_holders, homeward, hops, link_order, sender

from formulations.kit.arrays import Ints
from optimizer.domain.link_paths import UNITS, LinkPaths
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.search.arrangement import SCALE, ArrangementState, apply, arrange, delta, demand_of, energy
from optimizer.search.stop import Deadline, SearchBudget
from optimizer.traces.batches import Batches

cases_of = st.builds(
    case, st.integers(0, 10**6), st.sampled_from([(2, 2), (3, 2), (4, 3), (5, 2), (1, 4)]), st.integers(1, 3)
)


def loads(drawn: Case, wiring: tuple[TokensAt, Links], slots: Ints, demand: Ints) -> list[Fraction]:
    """How busy each link is, by adding up what every message puts on each link of its path."""
    wires = drawn.wires(wiring)
    total: Load = defaultdict(Fraction)
    for source, held in enumerate(all_holders(wires)):
        for expert, tokens in enumerate(demand[source].tolist()):
            devices = [device for device, _ in replicas(slots.tolist(), expert)]
            far = {device: hops(wires, held, device) for device in devices}
            near = [device for device in devices if far[device] == min(far.values())]
            for device in near:
                path: Load = homeward(wires, device, sender(wires, held, device))
                for link, share in path.items():
                    total[link] += 2 * UNITS * share * (tokens // len(near))
    return [total[link] for link in link_order(wires)]


def drawn_demand(drawn: Case, network: Network, seed: int) -> Ints:
    """Random demand `[source, expert]`, none from some of the sources."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 50, (network.sources, drawn.model.experts)) * rng.integers(0, 2, (network.sources, 1))


@given(cases_of, st.sampled_from(WIRINGS), st.integers(0, 10**6))
def test_loads_are_those_of_every_path(drawn: Case, wiring: tuple[TokensAt, Links], seed: int) -> None:
    network = drawn.network(wiring)
    demand = drawn_demand(drawn, network, seed)
    state = ArrangementState.of(drawn.placement, demand, LinkPaths.of(network))
    assert state.load.tolist() == loads(drawn, wiring, drawn.placement.slots, demand)


@pytest.mark.parametrize("wiring", [("row", "rings"), ("device", "rings"), ("device", "nodes")])
def test_exchanges_change_the_energy_as_counting_again_says(wiring: tuple[TokensAt, Links]) -> None:
    drawn = case(7, (4, 3), 3)
    network = drawn.network(wiring)
    demand, link_paths = drawn_demand(drawn, network, 1) + 1, LinkPaths.of(network)
    state, rng = ArrangementState.of(drawn.placement, demand, link_paths), np.random.default_rng(0)
    trial = state.load.copy()
    for step in range(300):
        pair = tuple(rng.choice(12, 2, replace=False).tolist())
        before = energy(state.load)
        untouched = [array.copy() for array in state]
        change = delta(pair, state, link_paths, trial)
        assert all((was == now).all() for was, now in zip(untouched, state, strict=True))
        if step % 3:
            continue
        apply(pair, state, trial)
        slots = untouched[0].copy()
        slots[list(pair)] = slots[list(pair)[::-1]]
        assert (state.slots == slots).all()
        again = ArrangementState.of(Placement(slots.astype(np.int32)), demand, link_paths)
        assert (state.load == again.load).all()
        assert energy(again.load) - before == change
        for held, kept, count in zip(again.held, state.held, again.replicas, strict=True):
            assert sorted(held[:count]) == sorted(kept[:count])


def arranged(
    seed: int, iterations: int | None = None, spread: bool = True
) -> tuple[Placement, Placement, Network, Ints]:
    """A layer with a shared expert in each row: its placement before and after `arrange`, network and demand."""
    rng, model, mesh = np.random.default_rng(3), Model("m", 16, 1, 2), Mesh(4, 2, 3)
    batches, network = random_batches(rng, 4, 40, model, mesh.rows), Network(mesh)
    placement = random_placement(rng, model.experts, mesh)
    demand = demand_of(batches, network, model.experts)
    keep = np.arange(model.experts) == (16 if spread else -1)
    budget = SearchBudget(Deadline(60), 60, iterations)
    found = arrange(placement, demand, LinkPaths.of(network), keep, 2, budget, np.random.default_rng(seed))
    return placement, found, network, demand


def of_rows(placement: Placement, expert: int) -> list[int]:
    """How many replicas an expert has in each of four rows."""
    held: list[int] = (placement.slots == expert).reshape(4, -1).sum(axis=1).tolist()
    return held


def test_arranging_keeps_who_shares_a_device_and_lowers_the_energy() -> None:
    placement, found, network, demand = arranged(0)
    sets = [sorted(map(tuple, np.sort(each.slots, axis=1).tolist())) for each in (placement, found)]
    assert sets[0] == sets[1]
    assert found.violations(17, 8, 3) == []
    assert of_rows(found, 16) == of_rows(placement, 16)
    link_paths = LinkPaths.of(network)
    before, after = (energy(ArrangementState.of(each, demand, link_paths).load) for each in (placement, found))
    assert after < 0.9 * before


def test_the_seed_decides_and_no_moves_leave_the_placement() -> None:
    first, again, other = (arranged(seed, 100)[1] for seed in (1, 1, 2))
    assert (first.slots == again.slots).all()
    assert (first.slots != other.slots).any()
    placement, found, *_ = arranged(0, iterations=0)
    assert (placement.slots == found.slots).all()


def test_demand_counts_tokens_of_each_source_per_batch() -> None:
    experts = np.array([[[0, 1], [1, 2], [1, 0]], [[0, 2], [2, 1], [0, 1]]])
    batches = Batches(experts, np.array([[0, 0, 1], [0, 1, 1]]))
    mesh = Mesh(2, 1, 3)
    expected = np.array([[2, 2, 2], [2, 3, 1]]) * SCALE // 2
    assert demand_of(batches, Network(mesh), 3).tolist() == expected.tolist()
    by_device = replace(Network(Mesh(2, 2, 3)), tokens="device")
    assert demand_of(batches, by_device, 3).sum() == expected.sum()


def test_one_device_has_nothing_to_arrange() -> None:
    network, placement = Network(Mesh(1, 1, 2)), Placement(np.array([[0, 1]], dtype=np.int32))
    budget = SearchBudget(Deadline(60), 60)
    demand, spread = np.array([[5, 5]]), np.zeros(2, dtype=np.bool_)
    found = arrange(placement, demand, LinkPaths.of(network), spread, 1, budget, np.random.default_rng(0))
    assert found is placement
