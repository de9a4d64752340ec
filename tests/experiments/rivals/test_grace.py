"""GRACE+: groups, exchanges and quotas beside counts from scratch, and the example of its document."""

from dataclasses import replace
from itertools import permutations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from random_problems import small_problem

from optimizer.experiments.rivals.grace import Quotas, copy_near_demand, exported, grace, levelled, started
from optimizer.experiments.rivals.grace_groups import HEAVIEST, Bundles, aligned, exchanged, spectral_groups
from optimizer.experiments.rivals.one_each import OneEach, pairs_by_source


def test_groups_are_the_experts_that_are_chosen_together() -> None:
    rng = np.random.default_rng(0)
    block = rng.permutation(np.repeat(np.arange(4), 3))
    together = np.where(block[:, None] == block, 50, 1) + rng.integers(0, 5, (12, 12))
    together = together + together.T
    np.fill_diagonal(together, 0)
    group = spectral_groups(together, np.full(4, 3))
    assert ((group[:, None] == group) == (block[:, None] == block)).all()


@given(st.integers(0, 10**6))
def test_groups_keep_their_sizes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    together = rng.integers(0, 3, (7, 7))
    group = spectral_groups(together + together.T, np.array([2, 3, 1, 2]))
    assert (np.bincount(group, minlength=4) <= [2, 3, 1, 2]).all()


def sent_from_scratch(bundles: Bundles, device_of: list[int]) -> int:
    """How many times tokens are sent, token by token."""
    chosen = [{device_of[place] for place in token if place >= 0} for token in bundles.places.tolist()]
    return sum(int(away[device]) for met, away in zip(chosen, bundles.away, strict=True) for device in met)


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_groups_go_to_the_devices_to_which_the_fewest_tokens_are_sent(seed: int) -> None:
    problem, sets = small_problem(seed, rows=4, cols=1, slots=3, routed=8, shared=1, replicas=1, tokens=20)
    bundles, group = Bundles.of(problem, sets.train), np.arange(8) % 4
    found = aligned(bundles, group, np.ones((4, 4), dtype=np.bool_))
    tried = [sent_from_scratch(bundles, [order[of] for of in group]) for order in permutations(range(4))]
    assert sent_from_scratch(bundles, found.tolist()) == bundles.sent(found) == min(tried)


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_exchanges_send_fewer_tokens_and_keep_sizes_and_the_limit(seed: int) -> None:
    problem, sets = small_problem(seed, rows=2, cols=2, slots=4, routed=11, shared=1, replicas=2, tokens=20)
    task, bundles = OneEach.of(problem), Bundles.of(problem, sets.train)
    start = task.dealt()
    found = exchanged(bundles, start, task)
    changed = (found != start).any()
    assert bundles.sent(found) < bundles.sent(start) if changed else bundles.sent(found) == bundles.sent(start)
    assert (np.bincount(found, minlength=4) == np.bincount(start, minlength=4)).all()
    before, after = task.device_load(start), task.device_load(found)
    assert after.max() <= max(before.max(), HEAVIEST * before.mean())


def test_a_pair_that_should_change_places_does() -> None:
    """Experts 0 and 1 are always chosen together, and so are 2 and 3; all tokens live on the third device."""
    problem, _ = small_problem(0, rows=3, cols=1, slots=2, routed=4, shared=0, top_k=2)
    places = np.array([[0, 1], [2, 3]] * 5)
    bundles = Bundles(places, np.tile([True, True, False], (10, 1)))
    task = replace(OneEach.of(problem), load=np.full(4, 10))
    found = exchanged(bundles, np.array([0, 1, 0, 1]), task)
    assert found[0] == found[1] != found[2] == found[3]


def example() -> Quotas:
    """Section 3.5 of the document: source 2 has 10 pairs of expert 0 on device 0, which is 6 above a threshold of 20.
    Device 2 has room for 4, devices 1 and 3 for 5 each, and device 1 serves 3 pairs from elsewhere already."""
    holds = np.zeros((2, 4), dtype=np.bool_)
    holds[[0, 1], [0, 1]] = True
    demand = np.array([[0, 3], [0, 0], [10, 0], [0, 0]])
    spare = np.array([0, 1, 1, 1])
    return started(demand, np.array([0, 1]), holds, spare, np.eye(4, dtype=np.bool_), np.array([16, 12, 16, 15]))


def test_quotas_of_the_documents_example() -> None:
    """Four go home to device 2, and of the devices with as much room the rest goes where less comes from elsewhere."""
    found = exported(example(), 20, near_first=True)
    assert found is not None
    assert found.pairs[:, 2, 0].tolist() == [4, 0, 4, 2]
    assert found.load.tolist() == [20, 15, 20, 17]


def test_the_largest_amounts_go_first_where_capacity_comes_first() -> None:
    found = exported(example(), 20, near_first=False)
    assert found is not None
    assert found.pairs[:, 2, 0].tolist() == [4, 5, 1, 0]
    assert exported(example(), 16, near_first=False) is None


@given(st.integers(0, 10**6))
def test_quotas_serve_all_demand_from_what_is_there_and_the_peak_never_rises(seed: int) -> None:
    rng = np.random.default_rng(seed)
    demand, home = rng.integers(0, 40, (3, 6)), rng.integers(0, 5, 6)
    holds, spare = home[:, None] == np.arange(5), rng.integers(0, 3, 5)
    local = np.arange(3)[:, None] == np.arange(5) % 3
    taken = rng.integers(0, 30, 5)
    start = started(demand, home, holds.copy(), spare.copy(), local, taken)
    found = levelled(start)
    assert (found.pairs.sum(axis=0) == demand).all()
    assert (found.load == taken + found.pairs.sum(axis=(1, 2))).all()
    assert (found.arrives == [found.pairs[d][~local[:, d]].sum() for d in range(5)]).all()
    assert (found.pairs >= 0).all()
    assert found.holds[(found.pairs > 0).any(axis=1).T].all()
    assert (found.holds.sum(axis=0) - holds.sum(axis=0) == spare - found.spare).all()
    assert (found.spare >= 0).all()
    assert found.load.max() <= start.load.max()


def test_copies_near_demand_go_to_the_sources_that_ask_most() -> None:
    """The greatest demands are those of source 0 for expert 2 and of source 1 for expert 0, which their rows lack. Half
    of the four slots are for such copies."""
    problem, _ = small_problem(0, rows=2, cols=2, slots=2, routed=4, shared=0, top_k=1)
    holds, spare = np.eye(4, dtype=np.bool_), np.array([1, 1, 1, 1])
    local = np.array([[True, True, False, False], [False, False, True, True]])
    demand = np.array([[5, 8, 30, 1], [20, 2, 9, 9]])
    task = OneEach.of(problem)
    copy_near_demand(demand, holds, spare, local, task)
    assert holds[2].tolist() in ([True, False, True, False], [False, True, True, False])
    assert holds[0, 2:].sum() == 1
    assert spare.sum() == 2


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([None, 2]))
def test_plans_are_valid_and_keep_shared_experts(seed: int, replicas: int | None) -> None:
    problem, sets = small_problem(seed, rows=2, cols=2, slots=4, routed=9, shared=1, replicas=replicas, tokens=20)
    placement = grace(problem, sets.train)
    assert problem.violations(placement) == []
    assert pairs_by_source(problem, sets.train).sum() == sets.train.experts.size
