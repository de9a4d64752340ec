"""Placements for servers' calls keep every rule, are no worse than EPLB's greedy, and change little where they may."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulations.expected_load.greedy_packing import greedy_slots
from formulations.kit.arrays import Floats, Ints
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.presets import load_hardware
from optimizer.domain.problem import Problem
from optimizer.errors import InputError
from optimizer.experiments.rivals.eplb import eplb, eplb_by_groups, nodes
from optimizer.planning.level_slots import peak_of
from optimizer.planning.node_groups import exchanged_groups, groups_of_nodes, packed_groups
from optimizer.planning.plan_arrays import EqualDevices, plan_array


@st.composite
def layers(draw: st.DrawFn) -> tuple[Floats, EqualDevices]:
    """Loads and devices that fit each other, with groups on nodes or without."""
    node_count = draw(st.integers(1, 3))
    groups = node_count * draw(st.integers(1, 3)) if node_count > 1 else 1
    experts = groups * draw(st.integers(1, 6))
    per_node, own = draw(st.integers(1, 5)), experts // node_count
    depth = draw(st.integers(-(-own // per_node), own))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    load = rng.integers(0, draw(st.sampled_from([3, 1000])), experts).astype(np.float64)
    return load, EqualDevices(experts, per_node * node_count, depth, groups, node_count)


def check(slots: Ints, devices: EqualDevices) -> None:
    """Every slot filled, every expert present, none twice on a device, each group on one node, as many on each."""
    assert slots.shape == (devices.devices, devices.depth)
    assert sorted(set(slots.ravel().tolist())) == list(range(devices.experts))
    assert all(len(set(row)) == devices.depth for row in slots.tolist())
    assert groups_of_nodes(slots, devices.groups, devices.nodes, devices.experts) is not None


def greedy_peak(load: Floats, devices: EqualDevices) -> float:
    """The peak of the rival: by groups where these matter, with a node of as many mesh rows as it plans with."""
    model = Model("drawn", devices.experts, 0, 1, groups=devices.groups)
    mesh = Mesh(devices.nodes, devices.devices // devices.nodes, devices.depth)
    problem = Problem(model, mesh, Cost("h800", load_hardware("h800")), load[None].astype(np.int64), None)
    assert devices.nodes == 1 or nodes(problem) == devices.nodes
    return peak_of(load, (eplb if devices.nodes == 1 else eplb_by_groups)(problem).slots.astype(np.int64))


@given(layers())
def test_every_placement_is_valid_and_no_worse_than_the_greedy(drawn: tuple[Floats, EqualDevices]) -> None:
    load, devices = drawn
    slots = plan_array(load, devices)
    check(slots, devices)
    assert peak_of(load, slots) <= greedy_peak(load, devices) * (1 + 1e-12)
    assert (plan_array(load, devices) == slots).all()


@given(layers(), st.integers(0, 10**6))
def test_so_is_every_placement_that_comes_of_an_old_one(drawn: tuple[Floats, EqualDevices], seed: int) -> None:
    """Old ones are of other loads, or random ids, which break every rule."""
    load, devices = drawn
    rng = np.random.default_rng(seed)
    old = plan_array(rng.exponential(size=len(load)), devices)
    if rng.random() < 0.3:
        old = rng.integers(-1, devices.experts, old.shape)
    slots = plan_array(load, devices, old)
    check(slots, devices)
    assert peak_of(load, slots) <= greedy_peak(load, devices) * (1 + 1e-12)


def test_loads_that_are_the_same_change_nothing() -> None:
    load, devices = np.random.default_rng(0).lognormal(size=64), EqualDevices(64, 8, 9)
    old = plan_array(load, devices)
    assert (plan_array(load, devices, old) == old).all()


@pytest.mark.parametrize("devices", [EqualDevices(64, 8, 9), EqualDevices(64, 16, 5, 8, 2)])
def test_with_the_old_placement_far_fewer_slots_change(devices: EqualDevices) -> None:
    rng = np.random.default_rng(1)
    load = rng.lognormal(0, 0.5, devices.experts)
    old, later = plan_array(load, devices), load * rng.lognormal(0, 0.1, devices.experts)
    kept, anew = plan_array(later, devices, old), plan_array(later, devices)
    assert (kept != old).mean() < 0.6 * (anew != old).mean()


def test_it_comes_close_to_the_mean_where_the_greedy_does_not() -> None:
    load = np.random.default_rng(2).lognormal(0, 0.6, 256)
    mean = load.sum() / 128
    slots = plan_array(load, EqualDevices(256, 128, 3))
    assert peak_of(load, slots) < 1.006 * mean
    assert peak_of(load, greedy_slots(load, 128, 3)) > 1.02 * mean


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4))
def test_exchanging_groups_never_makes_the_heaviest_node_heavier(seed: int, node_count: int, each: int) -> None:
    load = np.random.default_rng(seed).exponential(size=node_count * each)
    packed = packed_groups(load, node_count)
    held = exchanged_groups(load, packed)
    assert sorted(held.ravel().tolist()) == list(range(len(load)))
    assert load[held].sum(axis=1).max() <= load[packed].sum(axis=1).max()


def test_groups_that_are_apart_are_seen() -> None:
    assert groups_of_nodes(np.array([[0, 1], [2, 3]]), 2, 2, 4) is not None
    assert groups_of_nodes(np.array([[0, 2], [1, 3]]), 2, 2, 4) is None


@pytest.mark.parametrize(
    ("words", "field", "said"),
    [
        ((8, 7, 1, 1, 7), "num_replicas", "fewer than the 8 experts"),
        ((8, 9, 1, 1, 2), "num_replicas", "no multiple"),
        ((2, 6, 1, 1, 2), "num_replicas", "twice on a device"),
        ((8, 12, 4, 4, 2), "num_gpus", "no multiple of the 4 nodes"),
        ((8, 12, 3, 3, 3), "num_groups", "does not divide 8 experts"),
        ((8, 12, 1, 1, 0), "num_gpus", "at least 1"),
        ((8, 12, 1, 0, 2), "num_nodes", "at least 1"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(words: tuple[int, int, int, int, int], field: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        EqualDevices.of(*words)
    assert caught.value.field == field
    assert field in str(caught.value)
