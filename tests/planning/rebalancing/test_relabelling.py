"""Devices and slots of a new placement renamed so that few weights are loaded."""

from itertools import permutations, product

import numpy as np
import pytest
from random_problems import random_placement

from optimizer.domain.mesh import Mesh
from optimizer.domain.placement import EMPTY, Placement
from optimizer.planning.rebalancing.relabelling import refilled, relabelled, with_slots_kept

SEEDS = range(12)
SQUARE = Mesh(2, 2, 3)


def loaded(current: Placement, target: Placement) -> int:
    """The oracle: weights that devices must load, counted one by one."""
    return sum(
        expert != EMPTY and expert not in current.slots[device]
        for device, held in enumerate(target.slots.tolist())
        for expert in held
    )


def pair(seed: int, mesh: Mesh = SQUARE, experts: int = 9) -> tuple[Placement, Placement]:
    rng = np.random.default_rng(seed)
    return random_placement(rng, experts, mesh), random_placement(rng, experts, mesh)


@pytest.mark.parametrize("seed", SEEDS)
def test_weights_are_counted_by_device(seed: int) -> None:
    current, target = pair(seed)
    assert target.weights_to_load(current) == loaded(current, target)
    assert current.weights_to_load(current) == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_experts_that_stay_keep_their_slots(seed: int) -> None:
    current, target = pair(seed)
    kept = with_slots_kept(current, target)
    assert [sorted(row) for row in kept.slots.tolist()] == [sorted(row) for row in target.slots.tolist()]
    for device, before in enumerate(current.slots.tolist()):
        stay = [slot for slot, expert in enumerate(before) if expert != EMPTY and expert in target.slots[device]]
        assert [kept.slots[device, slot] for slot in stay] == [before[slot] for slot in stay]
    by_slot = (kept.slots != current.slots) & (kept.slots != EMPTY)
    assert by_slot.sum() == loaded(current, target)  # a server that counts by slot finds no move more


@pytest.mark.parametrize("seed", SEEDS)
def test_no_exchange_of_devices_loads_fewer_weights(seed: int) -> None:
    current, target = pair(seed)
    mesh = Mesh(2, 2, 3)
    found = [*relabelled(current, target, mesh)]  # fewer than three where exchanges are the same
    assert loaded(current, found[0]) == loaded(current, target)
    every = [loaded(current, Placement(target.slots[list(order)])) for order in permutations(range(4))]
    assert loaded(current, found[-1]) == min(every)


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_stay_together_where_they_are_exchanged_as_a_whole(seed: int) -> None:
    mesh = Mesh(3, 2, 2)
    current, target = pair(seed, mesh, 8)
    found = [*relabelled(current, target, mesh)]
    rows = [{frozenset(device) for device in row} for row in target.slots.reshape(3, 2, 2).tolist()]
    together = [
        placement
        for placement in found
        if all({frozenset(device) for device in row} in rows for row in placement.slots.reshape(3, 2, 2).tolist())
    ]
    by_rows = [
        loaded(current, Placement(np.concatenate([target.slots.reshape(3, 2, 2)[row][list(way)]
                                                  for row, way in zip(order, ways, strict=True)])))
        for order in permutations(range(3))
        for ways in product([(0, 1), (1, 0)], repeat=3)
    ]  # fmt: skip
    assert min(loaded(current, placement) for placement in together) == min(by_rows)
    assert loaded(current, found[-1]) <= min(by_rows)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_slot_is_emptied(seed: int) -> None:
    current, target = pair(seed)
    emptied = np.where(np.random.default_rng(seed).random(target.slots.shape) < 0.3, EMPTY, target.slots)
    full = refilled(current, Placement(emptied))
    assert not ((full.slots == EMPTY) & (current.slots != EMPTY)).any()
    assert not [fault for fault in full.violations(9, 4, 3) if "twice" in fault]
    assert loaded(current, full) == loaded(current, Placement(emptied))


def test_a_placement_with_its_devices_exchanged_costs_nothing() -> None:
    current, _ = pair(0)
    exchanged = Placement(current.slots[[2, 0, 3, 1]][:, ::-1])
    *_, freely = relabelled(current, exchanged, Mesh(2, 2, 3))
    assert freely.slots.tolist() == current.slots.tolist()
