"""A trace and counts keep arrays that nobody can change, and refuse what cannot be a trace."""

from typing import Any

import numpy as np
import pytest

from optimizer.domain.arrays import given_away
from optimizer.traces.formats.counts import Counts
from optimizer.traces.trace import RoutingTrace


def trace(**changes: Any) -> RoutingTrace:
    """Two requests of two tokens each, one of them a prompt's, in one layer; with some arrays changed."""
    arrays = {
        "experts": np.arange(8).reshape(4, 1, 2),
        "offsets": np.array([0, 2, 4]),
        "phase": np.array([0, 1, 1, 1]),
    }
    return RoutingTrace(layers=(3,), source="drawn", **(arrays | changes))


def test_the_arrays_of_the_caller_are_copied_and_stay_writeable() -> None:
    experts = np.zeros((4, 1, 2), dtype=np.uint16)
    given: dict[str, Any] = {
        "experts": experts,
        "weights": np.zeros((4, 1, 2), dtype=np.float32),
        "candidates": experts.copy(),
    }
    kept = trace(**given)
    for name, array in given.items():
        array[:] = 7
        assert (getattr(kept, name) == 0).all()
        assert not getattr(kept, name).flags.writeable


def test_a_large_array_that_is_given_away_is_not_copied() -> None:
    experts = given_away(np.zeros((4, 1, 2), dtype=np.uint8))
    assert trace(experts=experts).experts is experts


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"experts": np.full((4, 1, 2), 70_000)}, "experts hold 70000, which is outside 0..65535"),
        ({"experts": np.full((4, 1, 2), -1)}, "experts hold -1"),
        ({"candidates": np.full((4, 1, 2), 2**32)}, "candidates hold 4294967296"),
        ({"phase": np.array([0, 1, 256, 1])}, "phases be 0 or 1"),
        ({"phase": np.array([0, 1, -1, 1])}, "phase hold -1"),
        ({"offsets": np.array([0, 5, 4])}, "ascend from 0"),
        ({"offsets": np.array([1, 2, 4])}, "ascend from 0"),
    ],
)
def test_what_cannot_be_a_trace_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        trace(**changes)


def test_counts_keep_copies_and_refuse_negative_ones() -> None:
    load, tokens = np.ones((2, 1, 4), dtype=np.int64), np.ones(2, dtype=np.int64)
    counts = Counts(load, (0,), tokens, None, (), "drawn")
    load[:], tokens[:] = 5, 5
    assert counts.load.max() == 1
    assert counts.tokens is not None
    assert counts.tokens.max() == 1
    with pytest.raises(ValueError, match="counts hold -5"):
        Counts(-load, (0,), tokens, None, (), "drawn")
