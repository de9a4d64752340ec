"""Column bounds on expected peaks hold for all placements, and more work proves more."""

import numpy as np
import pytest
import reference

from formulations.expected_load.device_columns import expected_peak_bound, proven_peak
from formulations.kit.solver import Limits


@pytest.mark.parametrize("seed", range(20))
def test_no_placement_goes_below_the_bound_whatever_the_prices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    load, count = rng.integers(1, 60, 5), rng.integers(1, 3, 5)
    best = reference.best_expected_peak(load.tolist(), count.tolist(), 3, 3)
    if best is None:
        pytest.skip("there are more replicas than slots")
    bound = expected_peak_bound(load / count, count, 3, 3, float(best), Limits(5))
    assert (load.sum() / 3) * (1 - 1e-9) <= bound.peak <= float(best) * (1 + 1e-9)
    assert proven_peak(bound.price, load / count, count, 3, 3) >= bound.peak * (1 - 1e-9)
    assert proven_peak(rng.random(5), load / count, count, 3, 3) <= float(best) * (1 + 1e-9)


def test_more_linear_programs_prove_more_and_none_prove_the_mean() -> None:
    load, count = np.array([30, 26, 25, 24, 11, 3]), np.array([2, 1, 1, 1, 1, 1])
    best = reference.best_expected_peak(load.tolist(), count.tolist(), 3, 3)
    assert best is not None
    none, some = (
        expected_peak_bound(load / count, count, 3, 3, float(best), Limits(60, deterministic=work)).peak
        for work in (0, 1)
    )
    assert load.sum() / 3 * (1 - 1e-9) <= none <= some <= float(best)


def test_columns_of_more_than_three_are_refused() -> None:
    with pytest.raises(ValueError, match="4 slots per device"):
        expected_peak_bound(np.ones(4), np.ones(4, dtype=np.int64), 1, 4, 4.0, Limits(5))
