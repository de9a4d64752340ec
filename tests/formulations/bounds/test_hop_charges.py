"""Where the replicas of an expert may be, as far as bounds tell places apart."""

import numpy as np

from formulations.bounds.hop_charges import MOST_SETS, Reach

TWO_COLUMNS = np.repeat(np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]), 2, axis=1)
"""Three sources, each the mesh row of two devices."""


def test_a_place_takes_as_many_replicas_as_it_has_devices() -> None:
    reach = Reach.of(TWO_COLUMNS, [1])
    two, three = reach.multisets(2), reach.multisets(3)
    assert two is not None
    assert two.tolist() == [[0, 0], [0, 1], [0, 2], [1, 1], [1, 2], [2, 2]]
    assert three is not None
    assert [0, 0, 0] not in three.tolist()
    assert [0, 0, 1] in three.tolist()
    alone = Reach.of(TWO_COLUMNS[:, ::2], [1]).multisets(2)
    assert alone is not None
    assert alone.tolist() == [[0, 1], [0, 2], [1, 2]]


def test_places_are_not_tried_where_they_are_too_many() -> None:
    ring = np.abs((np.arange(64)[:, None] - np.arange(64) + 32) % 64 - 32)
    reach = Reach.of(ring, [1])
    assert MOST_SETS < 64 * 63 // 2
    assert reach.sets(2) is None
    assert reach.multisets(2) is None
    one = reach.multisets(1)
    assert one is not None
    assert len(one) == 64
