"""least-active keeps the most experts that a device works on as few as can be, as brute force and flows confirm."""

from collections import Counter
from dataclasses import replace
from itertools import product
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_layers import WIRINGS, Case, Links, TokensAt, cases
from random_problems import cost, small_problem
from reference_split import Holders, best_split_peak, least_feasible, ortools_carries

from formulations.kit.arrays import Ints
from optimizer.domain.cost import Cost
from optimizer.domain.presets import load_hardware
from optimizer.routing.policies import LEAST_ACTIVE, POLICIES, price_us
from optimizer.search.seeds.greedy import greedy
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.simulator import simulate

MOST_CHOICES = 3000  # choices of one replica for each expert that brute force goes through
PLENTY = 10**6  # more tokens than any batch has here
wirings = st.sampled_from(WIRINGS)


def holders(drawn: Case) -> Holders:
    """The devices that have a replica of each expert."""
    slots = drawn.placement.slots
    return [set(np.flatnonzero((slots == expert).any(axis=1)).tolist()) for expert in range(drawn.model.experts)]


def chosen_by(drawn: Case, wiring: tuple[TokensAt, Links], read_tokens: int) -> Ints:
    """The flat slots that the policy chooses where so many tokens cost no more than one."""
    source = drawn.network(wiring).source(drawn.batches.source_row)
    context = replace(drawn.context(wiring, 1, 8), read_tokens=read_tokens)
    return POLICIES[LEAST_ACTIVE](drawn.batches.experts, source, context)


def most_active(drawn: Case, chosen: Ints) -> int:
    """The most experts that a device works on in a batch; chosen `[token, k]`."""
    return max(Counter(slot // drawn.mesh.slots_per_device for slot in set(chosen.ravel().tolist())).values())


def fewest_by_brute_force(held: Holders, experts: set[int]) -> int:
    """The fewest experts on the device that has most, over all choices of one replica for each expert."""
    return min(max(Counter(chosen).values()) for chosen in product(*(sorted(held[expert]) for expert in experts)))


@given(cases(replicas=2), wirings)
def test_no_choice_of_one_replica_each_has_fewer_on_the_device_that_has_most(
    drawn: Case, wiring: tuple[TokensAt, Links]
) -> None:
    held, chosen = holders(drawn), chosen_by(drawn, wiring, PLENTY)
    for batch, experts in enumerate(drawn.batches.experts):
        used = set(experts.ravel().tolist())
        found = most_active(drawn, chosen[batch])
        assert found == least_feasible(
            ortools_carries, [int(expert in used) for expert in range(len(held))], held, drawn.mesh.devices
        )
        if np.prod([len(held[expert]) for expert in used]) <= MOST_CHOICES:
            assert found == fewest_by_brute_force(held, used)
        if len(held) <= 10:  # all sets of experts are tried, which doubles with every expert
            assert found == best_split_peak([int(expert in used) for expert in range(len(held))], held)


@given(cases(), wirings, st.integers(1, 12))
def test_an_expert_of_more_tokens_counts_as_often_as_its_weights_are_worth_reading(
    drawn: Case, wiring: tuple[TokensAt, Links], read_tokens: int
) -> None:
    chosen = chosen_by(drawn, wiring, read_tokens)
    for batch, load in enumerate(drawn.batches.load(drawn.model.experts).tolist()):
        on_device: Counter[int] = Counter()
        for slot, pairs in Counter(chosen[batch].ravel().tolist()).items():
            on_device[slot // drawn.mesh.slots_per_device] += ceil(pairs / read_tokens)
        units = [ceil(pairs / read_tokens) for pairs in load]
        assert max(on_device.values()) == least_feasible(ortools_carries, units, holders(drawn), drawn.mesh.devices)


@pytest.mark.parametrize("name", ["h800", "gb200-nvl72"])
def test_where_weights_must_be_read_anyway_no_policy_computes_faster(name: str) -> None:
    """No expert of these batches has tokens enough to multiply for longer than its weights are read."""
    problem, sets = small_problem(3)
    gpus, placement = Cost(name, load_hardware(name)), greedy(problem)
    assert sets.test.load(problem.model.experts).max() <= gpus.read_tokens
    found = {
        policy: simulate(placement, sets.test, problem.model, problem.mesh, gpus, Conditions(policy))
        for policy in POLICIES
    }
    least = found.pop(LEAST_ACTIVE)
    read_us = gpus.slot_us(np.array([1]))[0]
    assert least.compute_us.tolist() == pytest.approx((least.active * read_us).tolist())
    assert all((least.compute_us <= other.compute_us).all() for other in found.values())
    assert all((least.active <= other.active).all() for other in found.values())


def test_it_waits_for_the_loads_of_the_batch() -> None:
    assert price_us(cost(), LEAST_ACTIVE) == 100
    assert price_us(Cost("h800", load_hardware("h800")), LEAST_ACTIVE) == 116
