"""The risk of each device, computed straight from its definition."""

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.placement import Placement


def device_risks(placement: Placement, load: Ints, z: float) -> Floats:
    """The risks `[device]`: mean + z standard deviations of a device's load over batches, with pairs split evenly."""
    counts = placement.counts(load.shape[1])
    held = [[expert for expert in device if expert >= 0] for device in placement.slots.tolist()]
    loads = np.array([sum((load[:, e] / counts[e] for e in experts), np.zeros(len(load))) for experts in held])
    risks: Floats = loads.mean(axis=1) + z * loads.std(axis=1)
    return risks
