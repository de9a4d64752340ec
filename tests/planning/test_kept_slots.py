"""Devices are renumbered so that most replicas stay, and experts keep their slots, compared with trying all orders."""

from itertools import permutations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from formulations.kit.arrays import Ints
from optimizer.planning.kept_slots import renumbered, reordered


def staying(new: Ints, old: Ints) -> int:
    """How many experts of the new placement are where the old one had them, device by device."""
    return sum(len(set(one) & set(two)) for one, two in zip(new.tolist(), old.tolist(), strict=True))


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 3))
def test_no_other_order_of_devices_keeps_more(seed: int, devices: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    experts = depth + int(rng.integers(0, 4))
    new, old = (np.array([rng.permutation(experts)[:depth] for _ in range(devices)]) for _ in range(2))
    found = renumbered(new, old, 1, experts)
    assert sorted(map(sorted, found.tolist())) == sorted(map(sorted, new.tolist()))
    assert staying(found, old) == max(staying(new[list(order)], old) for order in permutations(range(devices)))


def test_devices_stay_on_their_node_and_nodes_change_places() -> None:
    old = np.array([[0, 1], [2, 3], [4, 5], [6, 7]])
    new = np.array([[6, 7], [4, 5], [0, 2], [1, 3]])
    found = renumbered(new, old, 2, 8)
    assert [set(row) for row in found[2:].tolist()] == [{4, 5}, {6, 7}]
    assert {frozenset(row) for row in found[:2].tolist()} == {frozenset({0, 2}), frozenset({1, 3})}


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 4))
def test_what_stays_on_a_device_keeps_its_slot(seed: int, devices: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    new = np.array([rng.permutation(depth + 2)[:depth] for _ in range(devices)])
    old = rng.integers(-1, depth + 2, (devices, depth))  # doubles and empty slots among them
    found = reordered(new, old)
    for ordered, given_row, before in zip(found.tolist(), new.tolist(), old.tolist(), strict=True):
        assert sorted(ordered) == sorted(given_row)
        for expert in set(given_row) & set(before):
            assert before[ordered.index(expert)] == expert
