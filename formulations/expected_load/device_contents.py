"""Counts and placement of a small layer, exactly: which contents a device may have, and how many devices have each.

Devices are alike, so a formulation with a variable for every replica and device has as many equal solutions as devices
can be renamed. Here a variable says how many devices hold a certain set of replicas, which leaves nothing to rename. A
small layer has few such sets; the column generation for larger ones is in `device_columns`, with the counts fixed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import NamedTuple

import numpy as np
from ortools.sat.python import cp_model

from formulations.kit.arrays import Ints
from formulations.kit.outcome import Outcome, SolveStatus
from formulations.kit.solver import Limits, run, solver_for

MOST_SETS = 2_500
"""Sets of replicas that are looked through, before too heavy ones are left out. 12 experts on 8 devices of 2 slots have
1,830, which takes about a second; 8 experts on 4 devices of 3 slots have 5,488, and may take a minute."""


class Share(NamedTuple):
    """An expert with so many replicas, each of which carries a whole number of load units."""

    expert: int
    copies: int
    load: int


@dataclass(frozen=True)
class Devices:
    """How many devices there are, how many replicas each holds at most, and how many all of them hold at most."""

    number: int
    slots_each: int
    most_replicas: int


def is_small(experts: int, devices: Devices) -> bool:
    """Whether the exact model of a layer of so many experts is small enough to be built."""
    shares = experts * _most_copies(experts, devices)
    sets = sum(math.comb(shares, size) for size in range(1, devices.slots_each + 1))
    return shares > 0 and sets <= MOST_SETS


def least_peak_below(load: Ints, devices: Devices, below: Fraction, limits: Limits) -> Outcome[Ints]:
    """The placement `[device, slot]` int32, -1 = empty, of least peak among those whose peak is less than `below`.

    load `[expert]` expected pairs, whole numbers of at least 0; every replica of an expert carries load / count, and
    the replicas of one expert are on distinct devices. The bound is in units of load and holds for all placements with
    a peak less than `below`; INFEASIBLE means that there is none. With a deterministic limit the seed alone decides.
    """
    clock = limits.clock()
    unit = math.lcm(*range(1, _most_copies(len(load), devices) + 1))
    most = math.ceil(below * unit) - 1
    shares = _shares(load.tolist(), devices, unit, most)
    contents = _contents(shares, devices.slots_each, most)
    model = cp_model.CpModel()
    held = [model.new_int_var(0, devices.number, "") for _ in contents]
    _counts_agree(model, shares, contents, held, devices, len(load))
    least = max(0, -(-int(load.sum()) * unit // devices.number))
    peak = _peak(model, contents, held, least, most)
    if peak is None:
        return Outcome(None, None, np.inf, SolveStatus.INFEASIBLE, clock.elapsed())
    model.minimize(peak)
    solver = solver_for(limits)
    status = run(solver, model, limits)
    if status is SolveStatus.INFEASIBLE:
        return Outcome(None, None, np.inf, status, clock.elapsed())
    bound = max(solver.best_objective_bound, least) / unit
    if status is SolveStatus.UNKNOWN:
        return Outcome(None, None, bound, status, clock.elapsed())
    slots = _placement(contents, [solver.value(each) for each in held], shares, devices)
    return Outcome(slots, solver.objective_value / unit, bound, status, clock.elapsed())


def _most_copies(experts: int, devices: Devices) -> int:
    """How many replicas an expert can have at most, as every other one has at least one."""
    room = min(devices.number * devices.slots_each, devices.most_replicas)
    return max(0, min(devices.number, room - experts + 1))


def _shares(load: Sequence[int], devices: Devices, unit: int, most: int) -> list[Share]:
    """Every expert with every number of replicas that are not too heavy by themselves."""
    copies = range(1, _most_copies(len(load), devices) + 1)
    every = (Share(expert, each, pairs * unit // each) for expert, pairs in enumerate(load) for each in copies)
    return [share for share in every if share.load <= most]


def _contents(shares: list[Share], slots: int, most: int) -> list[tuple[int, tuple[int, ...]]]:
    """What a device may hold: the load of each set of replicas of different experts, and their places in `shares`."""
    found = []
    for size in range(1, slots + 1):
        for places in combinations(range(len(shares)), size):
            total = sum(shares[place].load for place in places)
            if total <= most and len({shares[place].expert for place in places}) == size:
                found.append((total, places))
    return found


def _counts_agree(
    model: cp_model.CpModel,
    shares: list[Share],
    contents: list[tuple[int, tuple[int, ...]]],
    held: list[cp_model.IntVar],
    devices: Devices,
    experts: int,
) -> None:
    """Every expert has one number of replicas, and devices hold just so many of them."""
    chosen = [model.new_bool_var("") for _ in shares]
    on_devices: list[list[cp_model.IntVar]] = [[] for _ in shares]
    for (_, places), number in zip(contents, held, strict=True):
        for place in places:
            on_devices[place].append(number)
    for share, there, is_chosen in zip(shares, on_devices, chosen, strict=True):
        model.add(sum(there) == share.copies * is_chosen)
    for expert in range(experts):
        model.add_exactly_one(each for share, each in zip(shares, chosen, strict=True) if share.expert == expert)
    model.add(sum(share.copies * each for share, each in zip(shares, chosen, strict=True)) <= devices.most_replicas)
    model.add(sum(held) <= devices.number)


def _peak(
    model: cp_model.CpModel,
    contents: list[tuple[int, tuple[int, ...]]],
    held: list[cp_model.IntVar],
    least: int,
    most: int,
) -> cp_model.IntVar | None:
    """The largest load of any contents that a device has, at least `least`; None where even that is above `most`."""
    if least > most:
        return None
    peak = model.new_int_var(least, most, "")
    for (total, _), number in zip(contents, held, strict=True):
        if total > least:
            used = model.new_bool_var("")
            model.add(number == 0).only_enforce_if(used.negated())
            model.add(peak >= total).only_enforce_if(used)
    return peak


def _placement(
    contents: list[tuple[int, tuple[int, ...]]], held: list[int], shares: list[Share], devices: Devices
) -> Ints:
    """The slots of devices with these contents, `[device, slot]` int32."""
    slots = np.full((devices.number, devices.slots_each), -1, dtype=np.int32)
    rows = (places for (_, places), number in zip(contents, held, strict=True) for _ in range(number))
    for device, places in enumerate(rows):
        slots[device, : len(places)] = [shares[place].expert for place in places]
    return slots
