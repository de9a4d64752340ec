"""Steps that are added up as they come: a long recording must keep its sums, whatever its length."""

import numpy as np
import pytest

from optimizer.traces.formats import steps
from optimizer.traces.formats.steps import Steps


@pytest.mark.parametrize("count", [0, 1, 4, 5, 8, 9, 13, 16, 17, 40])
def test_neighbouring_steps_become_one_in_their_order(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # At most four steps are kept here; the oracle adds up stretches of the length that the object says.
    monkeypatch.setattr(steps, "MOST_STEPS", 4)
    given = np.random.default_rng(count).integers(1, 9, (count, 2, 3))
    found = Steps()
    for one in given:
        found.add(one)
        found.add(0 * one)
    stretches = [given[start : start + found.together].sum(axis=0) for start in range(0, count, found.together)]
    assert found.load.tolist() == [stretch.tolist() for stretch in stretches]
    assert len(found.load) <= 4
    if count:
        assert found.notes[0] == f"{count} of {2 * count} recorded steps count nothing and were left out"
    assert (len(found.notes) == 2) == (count > 4)
