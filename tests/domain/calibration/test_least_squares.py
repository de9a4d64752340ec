"""The fit: exact on exact times, no worse than any other constants, honest on what times do not tell."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import nnls

from formulations.kit.arrays import Floats
from optimizer.domain.calibration.design import Design
from optimizer.domain.calibration.least_squares import Fit, fit, helpful


def loss(design: Design, constants: Floats, measured: Floats) -> float:
    return float(((design.times(constants) - measured) ** 2).sum())


def bent(rng: np.random.Generator, rows: int, items: int, plain: int) -> Design:
    """A design with two speeds; some rows have fewer items than others."""
    low = rng.integers(0, 2, (rows, items)) * rng.integers(1, 4, (rows, items))
    high = (low > 0) * rng.integers(1, 30, (rows, items))
    return Design(rng.integers(0, 4, (rows, plain)).astype(float), low.astype(float), high.astype(float))


@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 4))
@example(524286, 4, 4)  # where scipy gives a constant of -2e-16
def test_plain_constants_are_those_of_scipy(seed: int, rows: int, constants: int) -> None:
    rng = np.random.default_rng(seed)
    columns = rng.integers(0, 9, (rows, constants)).astype(float)
    measured = rng.random(rows) * 100
    found = fit(Design(columns), measured, np.ones(constants))
    assert (found.constants >= 0).all()
    assert loss(Design(columns), found.constants, measured) == pytest.approx(nnls(columns, measured)[1] ** 2, abs=1e-6)


@given(st.integers(0, 2**32), st.integers(4, 12), st.integers(1, 3), st.integers(0, 1))
@example(3, 5, 3, 1)  # where one speed misses times by 2 % only, and two by what the pull to the start makes
@example(279724317, 8, 3, 0)  # where a constant is a thousand times its start
def test_exact_times_are_met_whatever_side_items_are_on(seed: int, rows: int, items: int, plain: int) -> None:
    rng = np.random.default_rng(seed)
    design = bent(rng, rows, items, plain)
    true = rng.integers(1, 50, plain + 2).astype(float)
    measured = design.times(true)
    found = fit(design, measured, np.maximum(0.01, rng.random(plain + 2) * 50))
    assert design.times(found.constants) == pytest.approx(measured, abs=1e-3)
    if not (found.unseen | found.blind | found.weak).any():
        assert (np.abs(true - found.constants) <= 0.25 * found.constants + 1e-4).all()


@given(st.integers(0, 2**32), st.integers(4, 12), st.integers(1, 3))
def test_no_other_constants_fit_better(seed: int, rows: int, items: int) -> None:
    """Unless one speed was taken for want of evidence for two, which leaves the other unseen."""
    rng = np.random.default_rng(seed)
    design = bent(rng, rows, items, 1)
    measured = np.maximum(0, design.times(np.array([5.0, 30.0, 3.0])) + rng.normal(0, 10, rows))
    found = fit(design, measured, np.array([5.0, 30.0, 3.0]))
    least = loss(design, found.constants, measured)
    if not found.unseen.any():
        for scale in (0.01, 0.1, 1):
            others = np.abs(found.constants * (1 + scale * rng.normal(0, 1, (200, 3))))
            assert least <= min(loss(design, other, measured) for other in others) + 1e-6
        assert least <= min(loss(design, other, measured) for other in rng.random((200, 3)) * 60) + 1e-6


def roofline(tokens: list[int]) -> Design:
    return Design(np.zeros((len(tokens), 0)), np.ones((len(tokens), 1)), np.array(tokens, dtype=float)[:, None])


def test_noise_alone_makes_no_second_speed() -> None:
    """All slots read: the last of them, late by chance, would else pass for the first that multiplies."""
    rng, invented = np.random.default_rng(3), 0
    design = roofline([1, 2, 4, 8, 16, 32] * 2)
    for _ in range(100):
        found = fit(design, 100 + rng.normal(0, 1, 12), np.array([90.0, 0.5]))
        invented += not found.unseen[1]
        if found.unseen[1]:
            assert found.constants[1] == pytest.approx(0.5)
            assert np.isnan(found.errors[1])
    assert invented <= 5


@pytest.mark.parametrize("tokens", [[1, 2], [1, 2, 4], [1, 4, 16, 64], [1, 4, 16, 64, 65]])
def test_few_rows_make_no_second_speed_of_noise_and_find_one_that_is_there(tokens: list[int]) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        noise = rng.normal(0, 3, len(tokens) + 1)
        assert fit(roofline(tokens), 100 + noise[:-1], np.array([90.0, 0.5])).unseen.tolist() == [False, True]
        both = roofline([*tokens, 400])
        found = fit(both, both.times(np.array([100.0, 1])) + noise, np.array([90.0, 0.5]))
        assert not found.unseen.any()
        assert found.constants == pytest.approx([100, 1], rel=0.1)


def test_a_side_without_items_keeps_its_start_as_far_as_times_allow() -> None:
    slow = fit(roofline([1, 8, 32]), np.full(3, 100.0), np.array([90.0, 7.0]))
    assert slow.constants == pytest.approx([100, 100 / 32])
    multiplying = fit(roofline([100, 200, 400]), np.array([100.0, 200, 400]), np.array([500.0, 2.0]))
    assert multiplying.unseen.tolist() == [True, False]
    assert multiplying.constants == pytest.approx([100, 1])


@pytest.mark.parametrize(("tokens", "us", "side"), [(8, 110.0, 0), (400, 380.0, 1)])
def test_slots_of_one_size_are_on_the_side_where_the_start_has_them_and_badly_told(
    tokens: int, us: float, side: int
) -> None:
    """Whether they read or multiply cannot be seen."""
    found = fit(roofline([tokens] * 3), np.full(3, us), np.array([100.0, 1]))
    assert found.constants == pytest.approx([110, 1] if side == 0 else [100, 0.95])
    assert found.unseen.tolist() == [side == 1, side == 0]
    assert found.weak.tolist() == [side == 0, side == 1]


@pytest.mark.parametrize("share", [0.0, 0.02])
def test_standard_errors_are_those_of_repeated_fits(share: float) -> None:
    """With noise of 2 us, and of 2 % of the time; they err towards too large, the less the more rows there are."""
    rng, design = np.random.default_rng(5), roofline([10, 20, 30, 40, 200, 250, 300, 350, 400, 500] * 2)
    true = design.times(np.array([100.0, 1]))
    fits = [
        fit(design, true + rng.normal(0, 1, len(true)) * (share * true if share else 2), np.ones(2)) for _ in range(200)
    ]
    spread = np.std([found.constants for found in fits], axis=0)
    stated = np.sqrt(np.mean([found.errors**2 for found in fits], axis=0))
    assert (stated / spread > 0.9).all()
    assert (stated / spread < 1.35).all()


def test_a_constant_that_rests_on_one_row_has_no_standard_error() -> None:
    found = fit(Design(np.array([[1.0, 0], [1, 0], [1, 5]])), np.array([10.0, 12, 61]), np.ones(2))
    assert found.constants == pytest.approx([11, 10])
    assert found.errors == pytest.approx([np.sqrt(2), np.nan], nan_ok=True)


def test_two_constants_in_proportion_are_named_and_stay_near_the_start() -> None:
    """All that is known of x and y is x + 2 y = 40; this has the least squares of x / 5 - 1 and y / 10 - 1 then."""
    found = fit(Design(np.array([[1.0, 2, 0], [2, 4, 0], [1, 2, 1]])), np.array([40.0, 80, 47]), np.array([5.0, 10, 1]))
    assert found.blind.tolist() == [True, True, False]
    assert found.unseen.tolist() == [False] * 3
    assert found.constants == pytest.approx([5 + 5 * 75 / 425, 10 + 10 * 300 / 425, 7])


def test_a_near_proportion_is_told_badly() -> None:
    rng = np.random.default_rng(1)
    columns = np.column_stack([np.ones(20), 100 + rng.random(20), rng.random(20)])
    found = fit(Design(columns), columns @ [1, 2, 3], np.ones(3))
    assert found.weak.tolist() == [True, True, False]
    assert not found.blind.any()


def test_constants_with_another_bend_that_fit_as_well_are_told_badly() -> None:
    """Both 10 and 4, and 19 and 3, give 76 and 138. The rows have full rank with either, so that a look at
    one of them would call its constants told."""
    low, high = np.array([[0.0, 0], [1, 3], [3, 3], [0, 0]]), np.array([[0.0, 0], [6, 13], [5, 27], [0, 0]])
    design = Design(np.array([[3.0], [0], [0], [1]]), low, high)
    measured = np.array([72.0, 76, 138, 24])
    for other in ([24.0, 10, 4], [24.0, 19, 3]):
        assert design.times(np.array(other)).tolist() == measured.tolist()
    found = fit(design, measured, np.array([20.0, 12, 4]))
    assert found.weak[:2].tolist() == [False, True]
    assert found.rival is not None
    assert sorted([found.constants[1], found.rival[1]]) == pytest.approx([10, 19])


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 4))
def test_each_helpful_row_tells_one_more_constant(seed: int, rows: int, constants: int) -> None:
    rng = np.random.default_rng(seed)
    columns = rng.integers(0, 3, (rows, constants)).astype(float)
    found: Fit = fit(Design(columns), rng.random(rows), np.ones(constants))
    possible = np.eye(constants)[rng.permutation(constants)]
    rank = np.linalg.matrix_rank(columns)
    if found.weak.any():
        return
    chosen = helpful(possible, found)
    assert len(chosen) == constants - rank
    assert np.linalg.matrix_rank(np.vstack([columns, possible[chosen]])) == constants
