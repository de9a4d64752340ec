"""The value that a family gives a placement, and the optimum that it finds, are those of brute force."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import cost, random_placement
from reference import all_placements, best_expected_peak, best_split_peak, count_vectors

from formulations.kit.outcome import SolveStatus
from formulations.kit.solver import Limits
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.problem import Constraints, Problem, make_problem
from optimizer.experiments.optimality_ladder.families import FAMILIES, alone, even_peak, routed_peak, total
from optimizer.experiments.optimality_ladder.ladder import LadderInstance
from optimizer.experiments.optimality_ladder.runs import FORMULATION, LadderCase

LIMITS = Limits(20.0)


def drawn(seed: int, experts: int = 4, rows: int = 1, cols: int = 2, slots: int = 3, batches: int = 3) -> Problem:
    """A problem of routed experts alone, with bursty loads of which at least one is above 0."""
    rng = np.random.default_rng(seed)
    load = (rng.exponential(size=(batches, experts)) ** 2 * 9).astype(np.int32)
    load[0, 0] += 1
    return make_problem(Model("drawn", experts, 0, 1), Mesh(rows, cols, slots), cost(), load, Constraints("auto"))


def holders(slots: list[list[int]], experts: int) -> list[set[int]]:
    """The devices that hold each expert."""
    return [{device for device, held in enumerate(slots) if expert in held} for expert in range(experts)]


@given(seed=st.integers(0, 10**6), experts=st.integers(1, 6), cols=st.integers(1, 3))
def test_a_routed_value_is_the_mean_of_the_peaks_that_all_subsets_of_experts_force(
    seed: int, experts: int, cols: int
) -> None:
    problem = drawn(seed, experts, rows=2, cols=cols)
    placement = random_placement(np.random.default_rng(seed), experts, problem.mesh)
    held = holders(placement.slots.tolist(), experts)
    peaks = [best_split_peak(load, held) for load in problem.load.tolist()]
    assert routed_peak(problem, placement) == Fraction(sum(peaks), len(peaks))


@given(seed=st.integers(0, 10**6), experts=st.integers(1, 6), cols=st.integers(1, 3))
def test_an_even_value_is_the_mean_of_the_largest_sums_of_shares(seed: int, experts: int, cols: int) -> None:
    problem = drawn(seed, experts, rows=2, cols=cols)
    placement = random_placement(np.random.default_rng(seed), experts, problem.mesh)
    held = holders(placement.slots.tolist(), experts)
    device = np.zeros((len(problem.load), problem.mesh.devices))
    for expert, devices in enumerate(held):
        for there in devices:
            device[:, there] += problem.load[:, expert] / len(devices)
    assert float(even_peak(problem, placement)) == pytest.approx(device.max(axis=1).mean())


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_of_expected_load_holds_for_every_counts_and_placement(seed: int) -> None:
    problem = total(drawn(seed, experts=3))
    found = FAMILIES["expected"].optimum(problem, Limits(0.05))
    counts = count_vectors(3, problem.mesh.slots, problem.mesh.devices)
    peaks = [best_expected_peak(problem.load[0].tolist(), each, problem.mesh.devices, 3) for each in counts]
    best = min(peak for peak in peaks if peak is not None)
    assert found.lower_bound <= best * (1 + Fraction(1, 10**9))
    assert found.status is not SolveStatus.OPTIMAL or found.objective == pytest.approx(float(best))


@pytest.mark.parametrize("seed", range(4))
def test_the_optimum_of_batches_is_that_of_all_placements(seed: int) -> None:
    problem = drawn(seed)
    found = FAMILIES["batches"].optimum(problem, LIMITS)
    best = min(
        sum(best_split_peak(load, held) for load in problem.load.tolist())
        for counts in count_vectors(4, problem.mesh.slots, problem.mesh.devices)
        for held in all_placements(counts, problem.mesh.devices, problem.mesh.slots_per_device)
    )
    assert (found.status, found.objective) == (SolveStatus.OPTIMAL, best / len(problem.load))


@pytest.mark.parametrize("seed", range(4))
def test_the_optimum_of_replication_is_that_of_all_counts(seed: int) -> None:
    problem = alone(drawn(seed))
    found = FAMILIES["replication"].optimum(problem, LIMITS)
    sums = [(problem.load / np.array(counts)).max(axis=1).sum() for counts in count_vectors(4, 6, 6)]
    assert found.status is SolveStatus.OPTIMAL
    assert found.objective == pytest.approx(min(sums) / len(problem.load))


def test_replicas_alone_have_devices_of_their_own_in_the_same_rows() -> None:
    mesh = alone(drawn(0, rows=4, cols=2)).mesh
    assert (mesh.rows, mesh.slots, mesh.slots_per_device) == (4, 24, 1)


@given(
    seed=st.integers(0, 10**6),
    family=st.sampled_from(list(FAMILIES)),
    experts=st.integers(1, 5),
    rows=st.integers(1, 2),
    shared=st.integers(0, 1),
)
def test_no_heuristic_is_better_than_what_was_proven(
    seed: int, family: str, experts: int, rows: int, shared: int
) -> None:
    """`LadderCase` checks each placement, and its value against the bound."""
    problem = drawn(seed, experts + shared, rows)
    model = Model("drawn", experts, shared, 1)
    problem = make_problem(model, problem.mesh, problem.cost, problem.load.copy(), Constraints("auto"))
    case = LadderCase(family, LadderInstance("drawn", f"{rows}x2", problem), seed, 0.05)
    bound = case.run(FORMULATION, None).bound
    assert bound is not None
    for method in FAMILIES[family].methods:
        row = case.run(method, bound)
        assert row.value is not None
        assert row.gap == pytest.approx(row.value / bound - 1, abs=1e-9)
