"""Column bounds on expected peaks, against all placements."""

import numpy as np
import pytest
import reference

from formulations.device_columns import expected_peak_bound, proven_peak
from formulations.solver import Limits


@pytest.mark.parametrize("seed", range(20))
def test_no_placement_goes_below_the_bound_whatever_the_prices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    load, count = rng.integers(1, 60, 5), rng.integers(1, 3, 5)
    best = reference.best_expected_peak(load.tolist(), count.tolist(), 3, 3)
    if best is None:  # more replicas than slots
        return
    bound = expected_peak_bound(load / count, count, 3, 3, float(best), Limits(5))
    assert (load.sum() / 3) * (1 - 1e-9) <= bound.peak <= float(best) * (1 + 1e-9)
    assert proven_peak(bound.price, load / count, count, 3, 3) >= bound.peak * (1 - 1e-9)
    assert proven_peak(rng.random(5), load / count, count, 3, 3) <= float(best) * (1 + 1e-9)
