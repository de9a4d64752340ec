"""How near small layers come to a proof, where replica counts and placement of the expected load are chosen together.

Usage: python benchmarks/small_layers.py [--seconds 60] [--seeds 6] [--json]. Two published loads of 12 experts, and
log-normal loads of 32 experts on 16 devices of 3 slots, whose hottest expert has 4 to 28 times the median load with the
usual seeds. Peaks are computed anew from the placement. On one core.
"""

import json

import click
import numpy as np

from formulations.expected_load.joint_placement import JointInstance, place_jointly
from formulations.kit.arrays import Ints
from formulations.kit.solver import Limits
from optimizer.domain.placement import Placement

PUBLISHED = {
    "EPLB's example, second layer": ([20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27], 8, 2),
    "EPLB's example, first layer": ([90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86], 8, 2),
}
EXPERTS, DEVICES, SLOTS = 32, 16, 3
SIGMA, SCALE = 1.0, 1000  # of the logarithm of loads; their median


def drawn(seed: int) -> Ints:
    """Log-normal loads of 32 experts, whole numbers."""
    return np.rint(SCALE * np.random.default_rng(seed).lognormal(0, SIGMA, EXPERTS)).astype(np.int64)


def solved(name: str, load: Ints, devices: int, slots: int, seconds: float) -> dict[str, float | str]:
    """One row of the table. Raises AssertionError for an invalid placement, and one below its bound."""
    layer = JointInstance(load, np.zeros(len(load), dtype=np.bool_), 1, devices, slots)
    found = place_jointly(layer, None, Limits(seconds))
    assert found.value is not None
    assert Placement(found.value).violations(len(load), devices, slots) == []
    peak = float(layer.peak(found.value))
    assert peak >= found.lower_bound * (1 - 1e-9)
    gap = peak / found.lower_bound - 1
    return {"case": name, "peak": peak, "bound": found.lower_bound, "gap": gap, "seconds": found.runtime}


@click.command(help=__doc__)
@click.option("--seconds", default=60.0, show_default=True)
@click.option("--seeds", default=6, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(seconds: float, seeds: int, as_json: bool) -> None:
    cases = [(name, np.array(load), devices, slots) for name, (load, devices, slots) in PUBLISHED.items()]
    cases += [(f"32 experts on 16 x 3, seed {seed}", drawn(seed), DEVICES, SLOTS) for seed in range(seeds)]
    rows = [solved(*case, seconds) for case in cases]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        click.echo(f"{row['case']:32}{row['peak']:10.2f}{row['bound']:10.2f}{row['gap']:9.3%}{row['seconds']:7.1f} s")


if __name__ == "__main__":
    main()
