"""Slots of a plan that a server's file cannot leave as they are: those of shared experts, and empty ones."""

from collections.abc import Mapping

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.placement import EMPTY
from optimizer.planning.plan_file import LayerPlan, Plan


def routed_slots(plan: Plan) -> dict[int, Ints]:
    """The routed experts of each layer, `[device, slot]` int32; slots of shared experts are empty there."""
    routed = plan.model.routed_experts
    found: dict[int, Ints] = {}
    for layer, part in plan.layers.items():
        slots = part.placement.slots
        found[layer] = np.where(slots < routed, slots, EMPTY).astype(np.int32)
    return found


def packed(layers: Mapping[int, Ints]) -> dict[int, Ints]:
    """The same experts in as few slots on each device as the fullest device of all layers needs, the same number on
    all; empty slots come last."""
    width = max(1, max(int((slots != EMPTY).sum(axis=1).max()) for slots in layers.values()))
    order = {layer: np.argsort(slots == EMPTY, axis=1, kind="stable") for layer, slots in layers.items()}
    return {layer: np.take_along_axis(slots, order[layer], axis=1)[:, :width] for layer, slots in layers.items()}


def filled(slots: Ints, load: Floats) -> Ints:
    """A further replica in every empty slot of `[device, slot]`, of the expert with the largest load per replica among
    those that the device does not hold. load: expected pairs `[routed expert]`."""
    found = slots.copy()
    count = np.bincount(found[found != EMPTY], minlength=len(load))
    _fill(found, load, count)
    return found


@kernel
def _fill(slots: Ints, load: Floats, count: Ints) -> None:
    """Fill the first empty slots of all devices, then the second ones, and so on, so that all devices get hot experts.

    slots `[device, slot]` and count `[expert]`, its replicas, are changed.
    """
    devices, width = slots.shape
    for slot in range(width):
        for device in range(devices):
            if slots[device, slot] >= 0:
                continue
            best, most = -1, -1.0
            for expert in range(len(load)):
                if load[expert] / count[expert] > most and not (slots[device] == expert).any():
                    best, most = expert, load[expert] / count[expert]
            if best >= 0:
                slots[device, slot] = best
                count[best] += 1


def loads_of(part: LayerPlan, routed: int) -> Floats:
    """Expected pairs of each routed expert, `[expert]`, as the plan has learned them; all alike where it has not."""
    return np.ones(routed) if part.learned is None else np.array(part.learned.load[:routed])
