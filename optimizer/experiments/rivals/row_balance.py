"""The search of moe-balance on a Galaxy: hot experts get one more replica, rows are balanced, then slots annealed."""

import numpy as np

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.placement import EMPTY, Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.greedy import heaviest_first, replica_weight
from optimizer.search.seeds.packing import Packing

STEPS = 400_000  # of annealing; a compromise between time and quality, not tuned
COLDEST = 1e-3  # the last temperature over the first; not tuned


def row_balance(problem: Problem, rng: np.random.Generator) -> Placement:
    """Give the hottest experts one more replica, place all replicas row by row, and anneal.

    This follows the description that moe-balance gives of its initial placements (`balance` along rows, shared replicas
    on the diagonal first) and of its annealing:

    1. The spare slots (112 on 16x8 devices of 3) give one more replica to the hottest experts.
    2. Each replica, the heaviest first, goes to the row with the least load in which it fits, and there to the lightest
       device that it fits on.
    3. Two replicas drawn at random change places by Metropolis' rule with geometric cooling, on the sum of squared
       device loads.

    No device is given an expert twice; where no row has a device for a replica, another expert makes way.
    """
    counts = copies(problem)
    weight = replica_weight(problem, counts)
    packing = Packing(problem, weight)
    for expert in heaviest_first(problem, counts):
        _place(packing, expert, problem.mesh.rows)
    slots, steps = packing.placement().slots.copy(), rng.integers(packing.slots.size, size=(STEPS, 2))
    _anneal(slots, np.append(weight, 0.0), np.append(problem.spread, False), steps, rng.random(STEPS))
    return Placement(slots)


def copies(problem: Problem) -> Ints:
    """The number of replicas of each expert, `[expert]`: experts get one more in turn, the hottest first, until the
    slots are used up; shared experts keep their number."""
    experts = np.flatnonzero(~problem.spread)
    ranked = experts[np.argsort(-problem.total_load[experts], kind="stable")]
    room = min(problem.most_free_replicas, len(ranked) * problem.mesh.devices)
    counts = np.full(problem.model.experts, problem.shared_replicas or 1)
    counts[ranked] = room // len(ranked) + (np.arange(len(ranked)) < room % len(ranked))
    return counts


def _place(packing: Packing, expert: int, rows: int) -> None:
    """Place the expert in the lightest row that has a device for it, on the lightest such device of the row."""
    fits = packing.fits(expert).reshape(rows, -1)
    if not fits.any():
        packing.place_lightest(expert)
        return
    load = packing.load.reshape(rows, -1)
    row = int(np.argmin(np.where(fits.any(axis=1), load.sum(axis=1), np.inf)))
    col = int(np.argmin(np.where(fits[row], load[row], np.inf)))
    packing.place(expert, row * load.shape[1] + col)


@kernel
def _anneal(slots: Ints, weight: Floats, fixed: Bools, steps: Ints, dice: Floats) -> None:
    """Anneal slots `[device, slot]` in place, one swap of two slots for each step.

    weight, fixed: the load of a replica, and whether it must stay, `[expert + 1]`, where the last entry is for an empty
    slot. steps: the flat slots to swap, `[step, 2]`. dice: random numbers in 0..1, `[step]`.
    """
    devices, depth = slots.shape
    load = np.zeros(devices)
    for device in range(devices):
        for held in slots[device]:
            load[device] += weight[held]
    heat = weight.mean() ** 2
    for step in range(len(steps)):
        one, other = steps[step] // depth
        first, second = slots[one, steps[step, 0] % depth], slots[other, steps[step, 1] % depth]
        if (
            one == other
            or fixed[first]
            or fixed[second]
            or _doubles(slots, one, second)
            or _doubles(slots, other, first)
        ):
            continue
        shift = weight[second] - weight[first]
        rise = 2 * shift * (load[one] - load[other] + shift)
        if rise <= 0 or dice[step] < np.exp(-rise / (heat * COLDEST ** (step / len(steps)))):
            slots[one, steps[step, 0] % depth], slots[other, steps[step, 1] % depth] = second, first
            load[one] += shift
            load[other] -= shift


@kernel
def _doubles(slots: Ints, device: int, expert: int) -> bool:
    """Whether the device holds the expert already."""
    if expert == EMPTY:
        return False
    for held in slots[device]:
        if held == expert:
            return True
    return False
