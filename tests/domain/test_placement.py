"""Placements: immutable, with a sentence for each broken rule."""

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from random_problems import random_placement

from optimizer.domain.mesh import Mesh
from optimizer.domain.placement import Placement

GOOD = [[0, 1], [2, 0], [1, -1]]


def test_a_valid_placement_has_no_violations() -> None:
    assert Placement(np.array(GOOD)).violations(3, 3, 2) == []


@pytest.mark.parametrize(
    ("slots", "said"),
    [
        ([[0, 0], [2, 1], [1, -1]], ["expert 0 twice on device 0"]),
        ([[0, 1], [0, 1], [1, -1]], ["expert without a slot: 2"]),
        ([[0, 3], [2, 7], [1, -1]], ["id out of range: 3, 7; ids are 0..2, or -1 for an empty slot"]),
        ([[0, 1], [2, 0]], ["slot count: 2 devices x 2 slots instead of 3 x 2"]),
        ([[0, 1, -1], [2, 0, -1], [1, -1, -1]], ["slot count: 3 devices x 3 slots instead of 3 x 2"]),
        ([[-1, -1], [2, 1], [0, -1]], []),
    ],
)
def test_each_broken_rule_has_its_sentence(slots: list[list[int]], said: list[str]) -> None:
    assert Placement(np.array(slots)).violations(3, 3, 2) == said


def test_many_missing_experts_are_counted_not_listed() -> None:
    assert "and 4 more" in Placement(np.array([[0]])).violations(10, 1, 1)[0]


def test_it_keeps_its_own_read_only_copy() -> None:
    given_slots = np.array(GOOD)
    placement = Placement(given_slots)
    given_slots[0, 0] = 2
    assert placement.slots[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        placement.slots[0, 0] = 1


@pytest.mark.parametrize("wrong", [np.zeros(3, dtype=int), np.zeros((2, 2)), np.zeros((1, 2, 3), dtype=int)])
def test_an_array_of_another_kind_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\[device, slot\]"):
        Placement(wrong)


@given(st.integers(0, 10_000))
def test_replicas_are_in_slot_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    placement = random_placement(rng, 5, Mesh(2, 2, 3))
    start, slot = placement.replicas(5)
    for expert in range(5):
        expected = [d * 3 + s for d, s in reference.replicas(placement.slots.tolist(), expert)]
        assert slot[start[expert] : start[expert + 1]].tolist() == expected
        assert placement.counts(5)[expert] == len(expected)


@pytest.mark.parametrize("beyond", [-2, -(2**40), 2**31, 2**32])
def test_ids_that_a_cast_would_turn_into_others_are_refused(beyond: int) -> None:
    with pytest.raises(ValueError, match=f"slots hold {beyond}, which is outside -1"):
        Placement(np.array([[0, beyond]]))
