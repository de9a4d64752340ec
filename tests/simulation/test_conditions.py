"""Conditions that no simulation can have are refused when they are made."""

from math import inf, nan

import pytest

from optimizer.errors import InputError
from optimizer.simulation.conditions import Conditions


@pytest.mark.parametrize("factor", [0.0, -1.0, inf, nan])
def test_factors_are_positive_numbers(factor: float) -> None:
    with pytest.raises(InputError, match=f"a capacity factor of {factor} is not") as caught:
        Conditions(capacity_factor=factor)
    assert caught.value.field == "capacity_factor"
    with pytest.raises(InputError, match=f"a factor of {factor} for device 3 is not") as caught:
        Conditions(slow={3: factor})
    assert caught.value.field == "slow"
