"""Director: its linear program bounds every assignment, and rounding keeps what it promises."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_problems import small_problem

from formulations.kit.arrays import Floats, Ints
from formulations.kit.solver import Limits
from optimizer.experiments.rivals.director import StepTimes, director, relaxed, rounded, settled


def shares(device_of: Ints, devices: int) -> Floats:
    """Whole experts as shares `[expert, device]`."""
    return np.eye(devices)[device_of]


def drawn(seed: int) -> StepTimes:
    """Times of six experts on three devices, where communication matters about as much as compute."""
    rng = np.random.default_rng(seed)
    compute, taken = rng.integers(1, 50, 6), rng.integers(0, 9, 3)
    return StepTimes(compute.astype(float), taken.astype(float), 20 * rng.random((6, 3)), np.full(3, 3))


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_the_relaxed_program_bounds_all_assignments_and_the_rounded_is_one(seed: int) -> None:
    times = drawn(seed)
    share = relaxed(times)
    tried = [np.array(each) for each in product(range(3), repeat=6) if max(np.bincount(each, minlength=3)) <= 3]
    best = min(times.step(shares(each, 3)) for each in tried)
    found = rounded(times, share)
    assert np.bincount(found, minlength=3).max() <= 3
    assert times.step(share) <= best + 1e-6
    assert best <= times.step(shares(found, 3)) + 1e-6


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_rounding_keeps_its_guarantee(seed: int) -> None:
    times = drawn(seed)
    share = relaxed(times)
    whole = shares(rounded(times, share), 3)
    most = (times.taken + times.compute @ share).max() + times.compute.max()
    assert (times.taken + times.compute @ whole).max() <= most + 1e-6
    assert (times.communication * whole).sum() <= (times.communication * share).sum() + 1e-6


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_no_change_of_a_settled_assignment_makes_the_step_shorter(seed: int) -> None:
    """Changes of devices that are not the busiest cannot, so that all changes may be tried here."""
    times = drawn(seed)
    start = rounded(times, relaxed(times))
    found = settled(times, start)
    tried = [found[np.array(order)] for order in (swapped(a, b) for a in range(6) for b in range(a))]
    tried += [np.where(np.arange(6) == expert, device, found) for expert in range(6) for device in range(3)]
    steps = [times.step(shares(each, 3)) for each in tried if np.bincount(each, minlength=3).max() <= 3]
    assert times.step(shares(found, 3)) <= min(times.step(shares(start, 3)), min(steps)) + 1e-9


def swapped(one: int, other: int) -> list[int]:
    """The places 0..5 with two of them exchanged."""
    places = list(range(6))
    places[one], places[other] = other, one
    return places


def test_shares_are_cut_into_slots_with_the_longest_first() -> None:
    """Two experts that are half on either device share its first slot, and so do not come to one device."""
    share = np.array([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])
    times = StepTimes(np.array([9.0, 9.0, 1.0, 1.0]), np.zeros(2), np.zeros((4, 2)), np.array([2, 2]))
    found = rounded(times, share)
    assert found[0] != found[1]
    assert found[2] != found[3]


def test_times_are_those_of_the_cost_model() -> None:
    problem, sets = small_problem(2, rows=4, cols=1, slots=2, routed=6, shared=1, tokens=70, replicas=2)
    times = StepTimes.of(problem, sets.train)
    slot = problem.cost.slot_ns(1000) / 1000
    assert times.compute == pytest.approx([slot[problem.load[:, e]].mean() for e in range(6)])
    held = [device for device in range(4) if 6 in director(problem, sets.train).slots[device]]
    assert times.taken[held] == pytest.approx(slot[35])
    assert times.taken.sum() == pytest.approx(2 * slot[35])
    assert times.communication.shape == (6, 4)
    source = sets.train.source_on(problem.network)[..., None]
    hops = problem.network.distance[source, 1] * (sets.train.experts == 3)
    network = problem.network
    message = problem.cost.dispatch_message_us(network.remote)[0] + problem.cost.combine_message_us(network.remote)[0]
    assert times.communication[3, 1] == pytest.approx(hops.sum() / 6 * message * 4 / len(network.remote))


def test_without_time_it_says_that_there_is_no_answer() -> None:
    with pytest.raises(RuntimeError, match="relaxed assignment"):
        relaxed(drawn(0), Limits(1, cancelled=lambda: True))
