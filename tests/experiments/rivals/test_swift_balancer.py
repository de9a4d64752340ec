"""SwiftBalancer: small cases worked out by hand from its rules, and what it never does."""

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from random_problems import cost, random_placement, small_problem

from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.experiments.rivals.swift_balancer import swift_balancer


def moved(loads: list[int], running: list[list[int]]) -> list[list[int]]:
    """The slots that follow running ones, with these loads of routed experts."""
    mesh = Mesh(1, len(running), len(running[0]))
    model = Model("drawn", len(loads), 0, 1)
    problem = Problem(model, mesh, cost(), np.array([loads], dtype=np.int32), None)
    return [sorted(device) for device in swift_balancer(problem, Placement(np.array(running))).slots.tolist()]


def test_the_heaviest_device_exchanges_with_the_lightest() -> None:
    """90 and 20 become 50 and 60 by 50 for 10. What came to device 1 stays there, so that nothing more can be won."""
    loads = [50, 40, 10, 10, 20, 20, 30, 20]
    assert moved(loads, [[0, 1], [2, 3], [4, 5], [6, 7]]) == [[1, 2], [0, 3], [4, 5], [6, 7]]


def test_two_devices_exchange_once() -> None:
    """60 and 6 come to 33 each by three exchanges, but there is one only: 20 for 2 gives 42 and 24."""
    assert moved([20, 20, 20, 2, 2, 2], [[0, 1, 2], [3, 4, 5]]) == [[1, 2, 3], [0, 4, 5]]


def test_replicas_beyond_the_first_are_dealt_out_anew() -> None:
    """The second replica of expert 3 becomes one of expert 0. Then 75, 40 and 75 become 75, 60 and 55 by 30 for 10; the
    first device has sent expert 0 to the last, and its exchanges with the other win nothing."""
    assert moved([90, 30, 30, 10, 30], [[0, 1], [2, 3], [4, 3]]) == [[0, 1], [2, 4], [0, 3]]


def test_what_is_level_or_does_not_become_better_stays() -> None:
    level = [[0, 1], [2, 3]]
    assert moved([50, 51, 51, 50], level) == level
    assert moved([100, 0, 1, 1], [[0, 1], [2, 3]]) == [[0, 1], [2, 3]]


@given(st.integers(0, 10**6), st.sampled_from([None, 2]))
def test_it_is_valid_never_worse_and_as_full_as_before(seed: int, replicas: int | None) -> None:
    problem, _ = small_problem(seed, rows=4, cols=2, slots=3, routed=13, shared=1, replicas=replicas)
    running = random_placement(np.random.default_rng(seed), 14, problem.mesh)
    assume(not problem.violations(running))
    found = swift_balancer(problem, running)
    assert problem.violations(found) == []
    assert (found.slots == -1).sum() == (running.slots == -1).sum()
    peak = [(problem.total_load / each.counts(14)) @ each.held(14).T for each in (found, running)]
    assert peak[0].max() <= peak[1].max()
