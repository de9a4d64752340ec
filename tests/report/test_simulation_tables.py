"""The tables of `simulate`: which figures they leave out."""

import numpy as np
import pytest

from optimizer import Conditions, Hardware, Mesh, Model, Placement, Plan, simulate
from optimizer.report.simulation import one_policy, side_by_side


@pytest.mark.parametrize(("hardware", "tiles"), [("h100", False), ("tt-wormhole-quad-galaxy", True)])
def test_tiles_are_shown_where_they_are_paid_for(hardware: str, tiles: bool, rng: np.random.Generator) -> None:
    machine = Hardware.of(hardware, mesh=Mesh(2, 2, 2))
    plan = Plan.of(Placement(np.arange(8).reshape(4, 2)), 0, Model("eight", 8, 0, 2), machine)
    batches = np.argsort(rng.random((3, 16, 8)), axis=2)[:, :, :2]
    reports = simulate(plan, batches, [Conditions("primary"), Conditions("nearest")]).reports[0]
    table = side_by_side(reports, 0)
    assert ("tiles" in [str(column.header) for column in table.columns]) is tiles
    assert len({len(list(column.cells)) for column in table.columns}) == 1
    assert ("tiles" in list(one_policy(reports[0], 0).columns[0].cells)) is tiles
