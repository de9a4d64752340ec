"""Settling: a placement that is given is changed in few slots until no device is above a target.

Each step changes the heaviest device by the exchange of two replicas, or by one slot that goes from one expert to
another; it takes what lowers the load above the target most for each slot that changes (steepest descent).
"""

import numpy as np

from formulations.expected_load.load_annealing import Layout, fits, overload, refresh, reweigh, shift
from formulations.kit.arrays import Floats
from formulations.kit.kernels import kernel

LEAST_GAIN = 1e-12  # squared units of load; less is rounding


@kernel
def settle(layout: Layout, target: float, steps: int) -> None:
    """Lower the load above the target, in place, by this number of steps at most. Every slot that is filled stays so.

    The layout's loads should be in units of about the target. Experts keep one replica at least; spread experts are
    not looked at.
    """
    for _ in range(steps):
        hot = int(np.argmax(layout.device))
        if layout.device[hot] <= target:
            return
        gain, one, two = _best_exchange(layout, hot, target)
        more, slot, taker = _best_handing(layout, hot, target, gain)
        if max(gain, more) <= LEAST_GAIN:
            return
        if more > gain:
            layout.slots[slot] = taker
        else:
            layout.slots[one], layout.slots[two] = layout.slots[two], layout.slots[one]
        refresh(layout)


@kernel
def _best_exchange(layout: Layout, hot: int, target: float) -> tuple[float, int, int]:
    """The exchange of a slot of the hot device that lowers most overload, half of which is its gain, and the slots."""
    gain, first, second = 0.0, -1, -1
    before = overload(layout.device[hot], target)
    for one in range(hot * layout.depth, (hot + 1) * layout.depth):
        p = layout.slots[one]
        for two, q in enumerate(layout.slots):
            other, change = layout.home[two], layout.weight[q] - layout.weight[p]
            if change >= 0 or other == hot:
                continue
            less = before - overload(layout.device[hot] + change, target)
            less += overload(layout.device[other], target) - overload(layout.device[other] - change, target)
            if less / 2 > gain and fits(layout, q, hot) and fits(layout, p, other):
                gain, first, second = less / 2, one, two
    return gain, first, second


@kernel
def _best_handing(layout: Layout, hot: int, target: float, gain: float) -> tuple[float, int, int]:
    """The slot that goes to another expert with most gain, above this one: of the hot device, or to an expert on it.

    To save time, only those are worked out whose parts add up to more than the best so far; they add up exactly where
    no device holds both experts.
    """
    slot, taker = -1, -1
    relief, harm = _changed_counts(layout, target)
    for one in range(hot * layout.depth, (hot + 1) * layout.depth):
        held = layout.slots[one]
        if layout.replicas[held] > 1:
            for expert in range(len(layout.load) - 1):
                if relief[expert] - harm[held] + _own_gain(layout, one, expert, target) > gain:
                    found = _handing(layout, one, expert, target)
                    if found > gain:
                        gain, slot, taker = found, one, expert
        for two, giver in enumerate(layout.slots):
            if layout.replicas[giver] == 1 or layout.home[two] == hot:
                continue
            if relief[held] - harm[giver] + _own_gain(layout, two, held, target) > gain:
                found = _handing(layout, two, held, target)
                if found > gain:
                    gain, slot, taker = found, two, held
    return gain, slot, taker


@kernel
def _changed_counts(layout: Layout, target: float) -> tuple[Floats, Floats]:
    """How much overload is lost on its devices where an expert gets one replica more, and made where it loses one, each
    `[expert + 1]`, and 0 where it has no other."""
    relief, harm = np.zeros(len(layout.load)), np.zeros(len(layout.load))
    for expert in range(len(layout.load) - 1):
        weight, number = layout.weight[expert], layout.replicas[expert]
        relief[expert] = -reweigh(layout, expert, layout.load[expert] / (number + 1), target)
        reweigh(layout, expert, weight, target)
        if number > 1:
            harm[expert] = reweigh(layout, expert, layout.load[expert] / (number - 1), target)
            reweigh(layout, expert, weight, target)
    return relief, harm


@kernel
def _own_gain(layout: Layout, slot: int, taker: int, target: float) -> float:
    """The overload that a slot's own device loses where the slot goes to another expert, without what `harm` counts."""
    giver, load = layout.slots[slot], layout.device[layout.home[slot]]
    counted = load - layout.weight[giver] + layout.load[giver] / (layout.replicas[giver] - 1)
    after = load - layout.weight[giver] + layout.load[taker] / (layout.replicas[taker] + 1)
    return overload(counted, target) - overload(after, target)


@kernel
def _handing(layout: Layout, slot: int, taker: int, target: float) -> float:
    """How much overload is gained where a slot goes from its expert, which has others, to another; 0 if it may not."""
    giver, device, empty = layout.slots[slot], layout.home[slot], len(layout.load) - 1
    if empty in (giver, taker) or giver == taker or not fits(layout, taker, device):
        return 0.0
    light, heavy = layout.weight[giver], layout.weight[taker]
    more = reweigh(layout, giver, layout.load[giver] / (layout.replicas[giver] - 1), target)
    more += reweigh(layout, taker, layout.load[taker] / (layout.replicas[taker] + 1), target)
    change = layout.weight[taker] - layout.weight[giver]
    more += shift(layout, device, change, target)
    shift(layout, device, -change, target)
    reweigh(layout, taker, heavy, target)
    reweigh(layout, giver, light, target)
    return -more
