"""With two slots to a device counts decide on the peak, and prices prove what no counts reach."""

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from formulations.expected_load.replication import ReplicaBudget, counts_for_loads
from formulations.expected_load.slot_pairs import (
    PairInstance,
    Prices,
    folded_peak,
    least_paired_peak,
    paired,
    proves,
)
from formulations.kit.arrays import Ints
from formulations.kit.clock import Clock
from formulations.kit.outcome import SolveStatus

MINUTE = 60.0


@st.composite
def small(draw: st.DrawFn) -> PairInstance:
    """A layer of at most 6 experts on at most 3 devices of two slots, all of which may be filled."""
    devices = draw(st.integers(2, 3))
    experts = draw(st.integers(2, min(6, 2 * devices)))
    load = np.array(draw(st.lists(st.integers(0, 40), min_size=experts, max_size=experts)))
    most = draw(st.integers(experts, min(2 * devices, experts * devices)))
    return PairInstance(load, devices, ReplicaBudget.of(experts, most, devices))


def counts_of(instance: PairInstance) -> list[list[int]]:
    """All counts that the budget allows, or fewer in all."""
    found = reference.count_vectors(len(instance.load), 2 * instance.devices, instance.devices)
    return [list(counts) for counts in found if sum(counts) <= instance.budget.slots]


def best_of_all(instance: PairInstance) -> Fraction:
    """The least peak of all placements with all counts."""
    load = instance.load.tolist()
    found = (reference.best_expected_peak(load, counts, instance.devices, 2) for counts in counts_of(instance))
    return min(peak for peak in found if peak is not None)


def peak_of(instance: PairInstance, slots: Ints) -> Fraction:
    """The peak of a placement `[device, slot]`, added up device by device."""
    counts = np.bincount(slots[slots >= 0], minlength=len(instance.load))
    return max(
        sum((Fraction(int(instance.load[e]), int(counts[e])) for e in row if e >= 0), Fraction(0))
        for row in slots.tolist()
    )


@given(small())
def test_the_best_placement_lies_between_the_bound_and_the_counts_that_are_found(instance: PairInstance) -> None:
    outcome, best = least_paired_peak(instance, Clock.start(MINUTE)), best_of_all(instance)
    assert outcome.value is not None
    assert outcome.objective == float(folded_peak(instance, outcome.value))
    assert outcome.lower_bound <= float(best) * (1 + 1e-9)
    slots = paired(instance, outcome.value)
    if slots is not None:
        assert float(best) <= outcome.objective * (1 + 1e-12)
    if slots is not None and outcome.status is SolveStatus.OPTIMAL:
        assert outcome.objective == pytest.approx(float(best), rel=1e-6)


@given(small(), st.data())
def test_no_prices_refute_a_peak_that_some_placement_has(instance: PairInstance, data: st.DataObject) -> None:
    best = float(best_of_all(instance))
    number = data.draw(st.integers(1, 4))
    shares = st.lists(st.floats(0.3, 1), min_size=number, max_size=number)
    threshold = best * np.sort(np.array(data.draw(shares)))
    price = np.array(data.draw(st.lists(st.floats(0, 1), min_size=number, max_size=number)))
    prices = Prices(threshold, price, data.draw(st.floats(0, 1)))
    assert not proves(instance, best, prices)
    assert not proves(instance, best * 1.2, prices)


@given(small(), st.data())
def test_the_heaviest_beside_the_lightest_is_the_best_way_to_pair(instance: PairInstance, data: st.DataObject) -> None:
    counts = np.array(data.draw(st.sampled_from(counts_of(instance))))
    share = [Fraction(int(instance.load[e]), int(n)) for e, n in enumerate(counts) for _ in range(n)]
    share += [Fraction(0)] * (2 * instance.devices - len(share))
    orders = permutations(share) if len(share) <= 6 else [share, share[::-1]]
    every = (max(order[place] + order[place + 1] for place in range(0, len(order), 2)) for order in orders)
    folded = folded_peak(instance, counts)
    assert folded <= min(every)
    assert len(share) > 6 or folded == min(
        max(order[place] + order[place + 1] for place in range(0, len(order), 2)) for order in permutations(share)
    )
    slots = paired(instance, counts)
    if slots is not None:
        assert np.bincount(slots[slots >= 0], minlength=len(counts)).tolist() == counts.tolist()
        assert (slots[:, 0] != slots[:, 1]).all() or (slots[slots[:, 0] == slots[:, 1]] == -1).all()
        assert peak_of(instance, slots) == folded


def test_at_the_size_of_published_decode_the_bound_is_near_and_greedy_counts_are_not() -> None:
    """256 experts on 144 devices with 32 further replicas."""
    load = (1000 * np.random.default_rng(7).lognormal(0, 0.6, 256)).astype(np.int64)
    instance = PairInstance(load, 144, ReplicaBudget.of(256, 288, 144))
    outcome = least_paired_peak(instance, Clock.start(MINUTE))
    assert outcome.value is not None
    assert outcome.objective is not None
    greedy = counts_for_loads(load, instance.budget).value
    assert greedy is not None
    heaviest = max(float(load.sum()) / 144, float((load / greedy).max()))
    assert heaviest < outcome.lower_bound <= outcome.objective <= float(folded_peak(instance, greedy))
    assert outcome.gap < 0.01
    slots = paired(instance, outcome.value)
    assert slots is not None
    assert (slots[:, 0] != slots[:, 1]).all()
    assert float(peak_of(instance, slots)) == outcome.objective


def test_experts_that_do_not_fit_have_no_counts() -> None:
    instance = PairInstance(np.array([3, 2, 1]), 1, ReplicaBudget.of(3, 2, 1))
    assert least_paired_peak(instance, Clock.start(MINUTE)).status is SolveStatus.INFEASIBLE


def test_a_price_is_not_negative() -> None:
    instance = PairInstance(np.array([3, 2]), 2, ReplicaBudget.of(2, 4, 2))
    with pytest.raises(ValueError, match="negative"):
        proves(instance, 3.0, Prices(np.array([2.0]), np.array([-1.0]), 0.0))
