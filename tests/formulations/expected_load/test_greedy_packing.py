"""The greedy over arrays is the rival's greedy, which other comparisons rest on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import cost

from formulations.expected_load.greedy_packing import greedy_counts, greedy_slots
from formulations.expected_load.replication import ReplicaBudget, counts_for_loads
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.problem import Problem
from optimizer.experiments.rivals.eplb import eplb


@st.composite
def layers(draw: st.DrawFn) -> tuple[list[int], int, int]:
    """Loads of experts, devices, and slots of each that the experts can fill."""
    loads = draw(st.lists(st.integers(0, 50), min_size=1, max_size=12))
    devices = draw(st.integers(1, 6))
    depth = draw(st.integers(-(-len(loads) // devices), len(loads)))
    return loads, devices, depth


@given(layers())
def test_it_holds_the_same_experts_on_each_device_as_the_rival(drawn: tuple[list[int], int, int]) -> None:
    """Small loads give many ties, and full devices, where an expert must make way."""
    loads, devices, depth = drawn
    problem = Problem(Model("drawn", len(loads), 0, 1), Mesh(1, devices, depth), cost(), np.array([loads]), None)
    slots = greedy_slots(np.array(loads, dtype=np.float64), devices, depth)
    assert np.sort(slots, axis=1).tolist() == np.sort(eplb(problem).slots, axis=1).tolist()


@given(layers())
def test_its_counts_have_the_least_heaviest_replica(drawn: tuple[list[int], int, int]) -> None:
    loads, devices, depth = drawn
    load = np.array(loads, dtype=np.float64)
    counts = greedy_counts(load, devices * depth, devices)
    best = counts_for_loads(load, ReplicaBudget.of(len(load), devices * depth, devices))
    assert counts.sum() == devices * depth
    assert counts.max() <= devices
    assert (load / counts).max() == best.objective


def test_slots_that_only_doubles_could_fill_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be filled"):
        greedy_slots(np.ones(2), 2, 3)
