"""The placement that was in force while ids were recorded as physical ones, read from its file."""

from pathlib import Path

import numpy as np

from optimizer.planning.plan_file import read_plan
from optimizer.traces.physical import PhysicalToLogical


def read_physical_map(path: Path) -> PhysicalToLogical:
    """The experts in the slots of a plan, whose physical ids number the slots of device 0, then those of device 1, and
    so on. Raises InputError for what is no plan."""
    plan = read_plan(path)
    layers = sorted(plan.layers)
    slots = np.stack([plan.layers[layer].placement.slots.ravel() for layer in layers])
    return PhysicalToLogical(slots, tuple(layers), str(path))
