"""Slots shared out over layers: a knapsack that takes one of several sizes for each layer.

This is the multiple-choice knapsack (Sinha and Zoltners, Operations Research 27, 1979), with the same sizes for all
layers. A dynamic program over the slots used so far solves it. Its work is layers x sizes x budget, a few million
additions for the 58 layers of a large model.
"""

import math
import time
from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.outcome import Outcome, SolveStatus


def share_budget(value: Floats, extra: Ints, budget: int) -> Outcome[Ints]:
    """One option for each layer, `[layer]`, of the least sum of values within a budget of slots.

    value `[layer, option]`: the cost of a layer with an option, in any unit, which is the unit of the objective; extra
    `[option]`: the slots that an option takes, at least 0; budget: the most slots of all layers together. Of equally
    good options the first is taken. Raises ValueError where the shapes do not fit or slots are negative.
    """
    started = time.monotonic()
    if value.ndim != 2 or value.shape[1:] != extra.shape or extra.min(initial=0) < 0 or budget < 0:
        raise ValueError(f"values {value.shape} and slots {extra.tolist()} of a budget of {budget} do not fit together")
    step = math.gcd(*map(int, extra)) or 1
    size = extra // step
    room = min(budget // step, len(value) * int(size.max(initial=0)))
    least, taken = _tables(value, size, room)
    if not np.isfinite(least[-1]):
        return Outcome(None, None, math.inf, SolveStatus.INFEASIBLE, time.monotonic() - started)
    options, left = np.zeros(len(value), dtype=np.int64), room
    for layer in reversed(range(len(value))):
        options[layer] = taken[layer, left]
        left -= size[options[layer]]
    total = float(value[np.arange(len(value)), options].sum())
    return Outcome(options, total, total, SolveStatus.OPTIMAL, time.monotonic() - started)


class _Tables(NamedTuple):
    """The dynamic program, for 0, 1, ... `room` units of slots: least `[room + 1]`, the least sum of all layers within
    these units; taken `[layer, room + 1]`, the option of a layer if these units are left for it and the layers before.
    """

    least: Floats
    taken: Ints


def _tables(value: Floats, size: Ints, room: int) -> _Tables:
    """Fill the tables layer by layer; value `[layer, option]`, size `[option]` in units of slots."""
    least, taken = np.zeros(room + 1), np.zeros((len(value), room + 1), dtype=np.int64)
    for layer, values in enumerate(value):
        sums = np.full((len(size), room + 1), np.inf)
        for option, units in enumerate(size):
            sums[option, units:] = least[: max(room + 1 - units, 0)] + values[option]
        taken[layer] = sums.argmin(axis=0)
        least = sums.min(axis=0)
    return _Tables(least, taken)
