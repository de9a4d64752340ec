"""A small plan and a folder of traces that a watch looks at, without a search unless enough requests are there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from random_problems import request_experts, write_request

from formulations.kit.arrays import Ints
from optimizer.domain.hardware import Hardware
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.placement import Placement
from optimizer.interrupts import Cancel
from optimizer.planning.options import SolveOptions
from optimizer.planning.plan_file import LayerPlan, Plan, write_plan
from optimizer.planning.rebalancing.budgets import MoveLimits
from optimizer.planning.watching.folder import Folder
from optimizer.planning.watching.replanning import Replanner, WatchFiles
from optimizer.planning.watching.watcher import Watcher
from optimizer.report.rebalancing import as_json
from optimizer.traces.source import TraceInput

LATER = 1e12
"""A time in seconds since 1970 at which every file has not changed for long."""

MODEL = Model("small", 8, 0, 2, layers=3, first_moe_layer=0)


def small_plan(path: Path, layers: tuple[int, ...] = (1,)) -> Path:
    """A plan of layers, each with the same placement on four devices with three slots each, in a file."""
    placement = Placement(np.array([[0, 1, 2], [3, 4, 5], [6, 7, 0], [1, 2, 3]]))
    plan = Plan.of(placement, layers[0], MODEL, Hardware.of("h800", Mesh(2, 2, 3)))
    write_plan(path, replace(plan, layers={layer: LayerPlan(placement) for layer in layers}))
    return path


def watcher_of(
    folder: Path, plan: Path, cancel: Cancel | None = None, min_gain: float = 0.02, layers: tuple[int, ...] = (1,)
) -> Watcher:
    """A watch of the folder with few moves and a short search; or the one that was left beside the plan."""
    hardware = Hardware.of("h800", Mesh(2, 2, 3))
    replanner = Replanner(
        WatchFiles(plan),
        layers,
        TraceInput(batch_tokens=24),
        hardware.cost.for_model(MODEL),
        SolveOptions(time_limit=60, iterations=100, routings=("even-source",), jobs=1),
        MoveLimits(most_moves=2, min_gain=min_gain),
        as_json,
        cancel or Cancel(),
    )
    folder.mkdir(exist_ok=True)
    return Watcher.of(replanner, replanner.plan(), Folder(folder))


def skewed(rng: np.random.Generator, tokens: int = 20) -> Ints:
    """The choices of a request that needs experts 4 and 5, which `small_plan` has once and on one device, most."""
    experts = request_experts(rng, tokens, 3, 8, 2)
    often = rng.random(tokens) < 0.8
    experts[often, :, :] = [4, 5]
    return experts


def write_requests(folder: Path, numbers: range, rng: np.random.Generator) -> None:
    """Write a file for each of these numbers, each with a request of `skewed`."""
    for number in numbers:
        write_request(folder / f"r{number:04}.npz", skewed(rng))
