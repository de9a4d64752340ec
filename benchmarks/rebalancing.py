"""What few moves win where traffic has changed: a plan of one data set, rebalanced to another.

Usage: python benchmarks/rebalancing.py BEFORE AFTER [--layer 12] [--mesh 4x8] [--seconds 60]
       [--routing hint-device,even-source,vllm] [--out FILE.json]

A layer is planned on BEFORE for each policy, and rebalanced to AFTER with 5, 10, 25 and 50 % of its slots as budgets
and without a limit. Beside that curve stands a plan that is made of AFTER afresh in as many seconds: its latency on the
same test batches, and how many weights devices would load for it as it is and with devices exchanged. Printed are
tables; the file has the curves.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from optimizer import Hardware, Plan, SolveOptions, open_traces, plan_layer, rebalance
from optimizer.api.results import PlannedLayer
from optimizer.files import write_whole
from optimizer.planning.plan_layer import LayerSolution
from optimizer.planning.rebalancing.relabelling import relabelled

HARDWARE = "tt-wormhole-galaxy"


def planned(folder: Path, layer: int, mesh: str, options: SolveOptions, start: Plan | None = None) -> PlannedLayer:
    """A layer planned on a data set."""
    hardware = Hardware.of(HARDWARE, mesh, 3)
    return plan_layer(open_traces(folder), layer, hardware=hardware, options=options, start=start)


def latency(found: PlannedLayer) -> dict[str, float]:
    """Mean and 99th percentile of the chosen plan on test batches, in microseconds."""
    assert isinstance(found.solution, LayerSolution)
    values = found.solution.chosen.report.latency_us
    return {"mean": float(values.mean()), "p99": float(np.percentile(values, 99))}


def case(before: Path, after: Path, layer: int, mesh: str, options: SolveOptions) -> dict[str, Any]:
    """The curve of one policy, and the fresh plan."""
    plan = planned(before, layer, mesh, options).plan
    found = rebalance(plan, open_traces(after), options=options)
    fresh = planned(after, layer, mesh, options)
    print(found, flush=True)
    current, *exchanged = relabelled(plan.layers[layer].placement, fresh.placement, plan.mesh)
    moves = [each.weights_to_load(plan.layers[layer].placement) for each in (current, *exchanged)]
    said = {"latency_us": latency(fresh), "moves": moves[0], "moves_with_devices_exchanged": moves[-1]}
    print(f"planned afresh: {said}", flush=True)
    figures = found.as_json()
    del figures["chunks"]
    return figures | {"fresh": said}


def main() -> None:
    """Plan, rebalance and write the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--layer", type=int, default=12)
    parser.add_argument("--mesh", default="4x8")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--routing", default="hint-device,even-source,vllm")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = {}
    for policy in given.routing.split(","):
        options = SolveOptions(given.seconds, routings=(policy,))
        found[policy] = case(given.before, given.after, given.layer, given.mesh, options)
    if given.out is not None:
        asked = {"layer": given.layer, "mesh": given.mesh, "seconds": given.seconds, "hardware": HARDWARE}
        asked |= {"before": given.before.name, "after": given.after.name}
        write_whole(given.out, json.dumps(asked | {"policies": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
