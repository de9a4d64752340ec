"""CRAFT: replicas go where they help most, and where each helps less than the one before, no sharing is better."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import cost

from formulations.choice.slot_budget import share_budget
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.problem import Problem
from optimizer.experiments.rivals.craft import balances, craft


def problem_of(loads: list[int]) -> Problem:
    """A layer of routed experts with these loads on four devices of three slots."""
    return Problem(Model("drawn", len(loads), 0, 1), Mesh(1, 4, 3), cost(), np.array([loads], dtype=np.int32), None)


def test_the_uneven_layer_gets_the_replicas() -> None:
    """The one layer is level. The other's peak is 40, where the mean is 20, and 22 with a second replica: these two are
    then alone with 20 until the other devices are full, and the lightest expert, with 2, is left."""
    layers = [problem_of([10] * 8), problem_of([40, 10, 10, 5, 5, 5, 3, 2])]
    extra = np.array([0, 1])
    found = balances(layers, extra)
    assert found[:, 0].tolist() == pytest.approx([1, 0.5])
    assert found[1, 1] == pytest.approx(20 / 22)
    assert craft(found, extra, 2).tolist() == [0, 1]
    assert craft(found, extra, 0).tolist() == [0, 0]


@given(st.integers(0, 10**6), st.integers(0, 30))
def test_with_falling_gains_it_is_as_good_as_the_exact_knapsack(seed: int, budget: int) -> None:
    rng = np.random.default_rng(seed)
    gains = -np.sort(-rng.random((4, 5)), axis=1)
    balance = np.concatenate([np.zeros((4, 1)), np.cumsum(gains, axis=1)], axis=1)
    extra = np.arange(6)
    place = craft(balance, extra, budget)
    assert extra[place].sum() <= budget
    exact = share_budget(-balance, extra, budget).value
    assert exact is not None
    layers = np.arange(4)
    assert balance[layers, place].sum() == pytest.approx(balance[layers, exact].sum())


@given(st.integers(0, 10**6), st.integers(0, 60))
def test_it_keeps_the_budget_and_the_exact_knapsack_is_never_worse(seed: int, budget: int) -> None:
    rng = np.random.default_rng(seed)
    balance, extra = rng.random((4, 5)), np.array([0, 2, 5, 9, 20])
    place, exact = craft(balance, extra, budget), share_budget(-balance, extra, budget).value
    assert exact is not None
    assert extra[place].sum() <= budget
    layers = np.arange(4)
    assert balance[layers, place].sum() <= balance[layers, exact].sum() + 1e-12
