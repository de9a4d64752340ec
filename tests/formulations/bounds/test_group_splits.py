"""Groups of experts that share messages, and what they pay for it, against all groups that there can be."""

from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from formulations.bounds.crossings import crossings_bounds, crossings_splits
from formulations.bounds.group_relaxation import HOPS, group_splits
from formulations.bounds.message_splits import GroupPrices, GroupSplit
from formulations.bounds.sharing import Replicas, Sharing
from formulations.bounds.split_ascent import Demand
from formulations.kit.arrays import Ints

NEIGHBOURS = 20 * np.eye(6, dtype=np.int64) + 10 * sum(np.roll(np.eye(6, dtype=np.int64), by, axis=1) for by in (1, -1))
"""Tokens that chose both experts: of six, each is chosen by ten tokens with the next one, the last with the first."""

FAR = np.ones((1, 2), dtype=np.int64)  # one source, a hop from each of two devices
THREE_SLOTS = Sharing(np.ones(1), np.full(1, 2), 2)  # of a device, which share messages of two experts


def assert_paid(prices: GroupPrices, size: int) -> None:
    """Assert that any group up to the size pays for the gains of its pairs."""
    for number in range(1, size + 1):
        for group in map(list, combinations(range(len(prices.price)), number)):
            assert prices.within[np.ix_(group, group)].sum() <= prices.price[group].sum() + 1e-9


def random_together(seed: int, experts: int = 6) -> Ints:
    drawn = np.random.default_rng(seed).integers(0, 30, (3, experts, experts))
    pairs = drawn + drawn.swapaxes(1, 2)
    return np.array([of + np.diag(of.sum(axis=1)) for of in pairs])


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_groups_pay_for_all_gains_of_their_pairs(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    within = rng.normal(0, 1, (6, 6))
    prices = GroupPrices.of(within, rng.normal(0, 1, 6), rng.normal(0, 0.3, 6), size)
    assert np.all(prices.within >= np.maximum(0, (within + within.T) / 2) * ~np.eye(6, dtype=np.bool_))
    assert np.all(prices.price >= 0)
    assert_paid(prices, size)


@given(st.integers(0, 10**6))
def test_prices_are_for_groups_as_large_as_those_of_each_hop(seed: int) -> None:
    together, company = random_together(seed), np.arange(4, 0, -1).repeat(5)
    stage = Sharing(np.ones(20), company, 3)
    demand = Demand.of(together, [1] * 20, Replicas.up_to(2, 3), 2)
    found = group_splits(demand, stage, np.full(6, 1 / 6), np.zeros(6, dtype=np.int64))
    assert len(found) == 20
    assert len(set(map(id, found))) <= HOPS
    for split, others in zip(found, company, strict=True):
        assert_paid(split.prices, int(others) + 1)


def test_companions_are_company_to_each_other() -> None:
    """Three of the experts fit on either device. With both of its neighbours beside it, no expert would send a message
    of its own, and 60 would do; but then they are all on one device. Two parts of the circle leave two pairs apart."""
    ways = [{*way} for way in combinations(range(6), 3)]
    apart = [sum((each in way) != ((each + 1) % 6 in way) for each in range(6)) for way in ways]
    fewest = 60 + 10 * min(apart)
    splits, bound = crossings_splits(NEIGHBOURS[None], FAR, [THREE_SLOTS], 6)
    alone = [split._replace(by_hop=()) for split in splits]
    assert crossings_bounds(NEIGHBOURS[None], FAR, [THREE_SLOTS], 6, [(0,)], alone)[0] <= 60 + 1e-9
    assert fewest == 80
    assert 72 < bound <= 80


def test_groups_are_left_out_where_they_prove_less() -> None:
    """Splits of other batches may do harm: here all pairs are paid for as if each token had chosen all experts."""
    splits, bound = crossings_splits(NEIGHBOURS[None], FAR, [THREE_SLOTS], 6)
    dear = GroupSplit(np.full(6, 0.5), GroupPrices.of(np.full((6, 6), 100.0), np.zeros(6), np.zeros(6), 3))
    without, with_dear = (splits[0]._replace(by_hop=by_hop) for by_hop in ((), (dear,)))
    found = [
        crossings_bounds(NEIGHBOURS[None], FAR, [THREE_SLOTS], 6, [(0,)], [each])[0] for each in (without, with_dear)
    ]
    assert found[0] == found[1] < bound
