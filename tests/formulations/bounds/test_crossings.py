"""How messages are split among the experts that share them, so that bounds on what hops cost are large and valid."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from formulations.bounds.crossings import crossings_bounds, crossings_splits
from formulations.bounds.message_splits import Split
from formulations.bounds.sharing import Replicas, Sharing, alone
from formulations.bounds.split_ascent import Demand, mean_tilts

HUB = np.array([[40, 10, 10, 10, 10], [10, 10, 0, 0, 0], [10, 0, 10, 0, 0], [10, 0, 0, 10, 0], [10, 0, 0, 0, 10]])
"""Tokens that chose both experts: 40 chose the first one, and ten each of them one of the others."""

FAR = np.ones((1, 3), dtype=np.int64)  # one source, a hop from each of three devices
TWO_SLOTS = Sharing(np.ones(1), np.ones(1, dtype=np.int64), 2)  # of a device, so that an expert has one for company


def test_what_two_experts_share_is_charged_once() -> None:
    """Two replicas of the first expert have company of two others, so that 20 tokens send one message and 20 send two.
    If each expert is granted the company of the first, and the first that of two, 50 messages seem to do."""
    unshifted = Split.unshifted(TWO_SLOTS, len(HUB))
    assert crossings_bounds(HUB[None], FAR, [TWO_SLOTS], 6, [(0,)], [unshifted]) == [50.0]
    splits, bound = crossings_splits(HUB[None], FAR, [TWO_SLOTS], 6)
    assert 57 < bound <= 60
    assert crossings_bounds(HUB[None], FAR, [TWO_SLOTS], 6, [(0,)], splits) == [bound]


def test_what_one_expert_is_charged_less_another_is_charged_more() -> None:
    demand = Demand.of(HUB[None], [0], Replicas.up_to(2, 3), 1)
    (tilt,) = mean_tilts(demand, [TWO_SLOTS])
    assert tilt.shift.any()
    assert np.array_equal(tilt.shift, -tilt.shift.T)


@given(st.integers(0, 10**6), st.integers(1, 9))
def test_no_line_is_above_what_an_expert_is_charged(seed: int, most: int) -> None:
    slope = np.random.default_rng(seed).uniform(0, 0.5, 5)
    first, meet = alone(slope, most)
    m = np.arange(1, most + 1)
    line = first[:, None] - np.multiply.outer(slope, m - 1)
    assert np.all(line <= 1 / m + 1e-12)
    assert np.allclose(line[np.arange(5), meet], 1 / (1 + meet))


@given(st.integers(1, 500), st.integers(1, 500))
def test_choices_of_replicas_leave_no_number_out(most: int, enough: int) -> None:
    replicas = Replicas.up_to(most, enough)
    assert replicas.least[0] == 1
    assert replicas.most[-1] == most
    assert np.array_equal(replicas.least[1:], replicas.most[:-1] + 1)
    assert np.all(replicas.least <= replicas.most)
