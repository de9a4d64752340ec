"""From counts of slots to counts of experts: an expert's replicas are wherever the server put them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.traces.formats.physical import logical_counts, slot_map
from optimizer.traces.formats.untrusted import UnusableError


@st.composite
def counted_slots(draw: st.DrawFn) -> tuple[Any, Any, int]:
    """Counts `[layer, slot]`, a map in which some slots are empty and then count nothing, and the number of experts."""
    layers, slots, experts = draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(1, 6))
    rows = st.lists(st.integers(-1, experts - 1), min_size=slots, max_size=slots)
    experts_of = np.array(draw(st.lists(rows, min_size=layers, max_size=layers)))
    counts = np.array(
        draw(
            st.lists(st.lists(st.integers(0, 2**40), min_size=slots, max_size=slots), min_size=layers, max_size=layers)
        )
    )
    return np.where(experts_of < 0, 0, counts), experts_of, experts


@given(counted_slots())
def test_counts_of_slots_are_added_up_one_by_one(drawn: tuple[Any, Any, int]) -> None:
    # The oracle walks over all slots; sums go beyond 32 bits.
    physical, experts_of, experts = drawn
    slow = [[0] * experts for _ in physical]
    for layer, row in enumerate(physical.tolist()):
        for slot, count in enumerate(row):
            if experts_of[layer, slot] >= 0:
                slow[layer][experts_of[layer, slot]] += count
    assert logical_counts(physical, slot_map(experts_of, "map"), experts, "x").tolist() == slow


@pytest.mark.parametrize(
    ("physical", "experts_of", "said"),
    [
        ([[1, 2]], [[0, 1, 1]], r"x has shape \(1, 2\), but its map of slots has \(1, 3\)"),
        ([[1, 2]], [[0, 4]], "x has a map that names expert 4, but there are 3 experts"),
        ([[1, 2], [0, 7]], [[0, 1], [0, -1]], "x counts 7 in slot 1 of layer 1, which is empty"),
    ],
)
def test_counts_that_do_not_fit_the_map_are_refused(physical: Any, experts_of: Any, said: str) -> None:
    # Such counts were recorded under another map, and would be given to the wrong experts.
    with pytest.raises(UnusableError, match=said):
        logical_counts(np.array(physical), np.array(experts_of), 3, "x")


@pytest.mark.parametrize("values", [[0, 1], [[0.5]], [[-2]], [[1 << 16]]])
def test_what_is_no_map_of_slots(values: Any) -> None:
    # Ids are checked before anything is allocated by them.
    with pytest.raises(UnusableError, match="map "):
        slot_map(np.array(values), "map")
