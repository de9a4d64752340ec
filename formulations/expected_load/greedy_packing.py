"""EPLB's greedy over plain arrays: replicas for the heaviest expert, and the heaviest replica to the lightest device.

It is what planned placements are compared with (deepseek-ai/EPLB, `eplb.py`), except that no device holds an expert
twice, which serves nothing.
"""

import numpy as np

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.kit.kernels import kernel


@kernel
def greedy_counts(load: Floats, slots: int, most: int) -> Ints:
    """Replicas of each expert, `[expert]`: one more to the largest load per replica until all slots are used.

    load `[expert]`; no expert gets more than `most`. There must be at least one slot for each expert, and no more than
    `most` for each.
    """
    counts = np.ones(len(load), dtype=np.int64)
    for _ in range(slots - len(load)):
        best, heaviest = -1, -1.0
        for expert in range(len(load)):
            if counts[expert] < most and load[expert] / counts[expert] > heaviest:
                best, heaviest = expert, load[expert] / counts[expert]
        counts[best] += 1
    return counts


def greedy_slots(load: Floats, devices: int, depth: int) -> Ints:
    """The placement `[device, slot]` int64, all slots filled, of loads `[expert]` on devices of `depth` slots.

    Raises ValueError where the experts do not fit, or would have to be on a device twice.
    """
    if not len(load) <= devices * depth <= len(load) * devices:
        raise ValueError(f"{devices} x {depth} slots cannot be filled with {len(load)} experts, each once on a device")
    counts = greedy_counts(load, devices * depth, devices)
    weight = load / counts
    return _packed(weight, counts, np.argsort(-weight, kind="stable"), devices, depth)


@kernel
def _packed(weight: Floats, counts: Ints, order: Ints, devices: int, depth: int) -> Ints:
    """Put the replicas of the experts, in this order, on the lightest devices with room that do not hold them yet."""
    slots = np.full((devices, depth), -1, dtype=np.int64)
    used, device_load = np.zeros(devices, dtype=np.int64), np.zeros(devices)
    holds = np.zeros((len(weight), devices), dtype=np.bool_)
    for expert in order:
        for _ in range(counts[expert]):
            best = -1
            for device in range(devices):
                lighter = best < 0 or device_load[device] < device_load[best]
                if lighter and used[device] < depth and not holds[expert, device]:
                    best = device
            if best < 0:
                best = _made_way(expert, slots, used, device_load, holds, weight)
            slots[best, used[best]] = expert
            used[best] += 1
            holds[expert, best] = True
            device_load[best] += weight[expert]
    return slots


@kernel
def _made_way(expert: int, slots: Ints, used: Ints, device_load: Floats, holds: Bools, weight: Floats) -> int:
    """A device with room that does not hold the expert, where all with room hold it: another expert moves to those.

    A full device without this expert holds one expert more than a device with room can share with it.
    """
    depth = slots.shape[1]
    roomy = np.argmax(used < depth)
    donor = np.argmin(holds[expert])
    for place in range(depth):
        moved = slots[donor, place]
        if not holds[moved, roomy]:
            slots[roomy, used[roomy]] = moved
            slots[donor, place] = slots[donor, depth - 1]
            slots[donor, depth - 1] = -1
            used[roomy] += 1
            used[donor] -= 1
            holds[moved, roomy], holds[moved, donor] = True, False
            device_load[roomy] += weight[moved]
            device_load[donor] -= weight[moved]
            return int(donor)
    return -1
