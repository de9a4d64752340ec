"""One more copy of the hottest experts, rows balanced, then annealing: moe-balance's search on a Galaxy."""

import numpy as np

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.placement import EMPTY, Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.greedy import heaviest_first, replica_weight
from optimizer.search.seeds.packing import Packing

STEPS = 400_000
COLDEST = 1e-3  # last temperature over the first


def row_balance(problem: Problem, rng: np.random.Generator) -> Placement:
    """One more copy of the hottest experts, placed row by row, and annealed.

    As moe-balance describes its initial placements (`balance` along rows, shared replicas on the diagonal first) and
    its annealing:

    1. the spare slots (112 on 16x8 devices of 3) give one more replica to the hottest experts;
    2. the heaviest replica first, each to the row with the least load that it fits, and there to the lightest device;
    3. random swaps of two replicas, by Metropolis' rule with geometric cooling, on the sum of squared device loads.

    No device is given an expert twice; where no row has such a device, another expert makes way.
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
    """Replicas of each expert, `[expert]`: one more of each, the hottest first, as often as slots last."""
    experts = np.flatnonzero(~problem.spread)
    ranked = experts[np.argsort(-problem.total_load[experts], kind="stable")]
    room = min(problem.most_free_replicas, len(ranked) * problem.mesh.devices)
    counts = np.full(problem.model.experts, problem.shared_replicas or 1)
    counts[ranked] = room // len(ranked) + (np.arange(len(ranked)) < room % len(ranked))
    return counts


def _place(packing: Packing, expert: int, rows: int) -> None:
    """On the lightest device that it fits in the lightest row that has one."""
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
    """Swap slots `[device, slot]`; weight and fixed `[expert + 1]`, the last for an empty slot; steps `[step, 2]` flat
    slots, dice `[step]` in 0..1."""
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
    if expert == EMPTY:
        return False
    for held in slots[device]:
        if held == expert:
            return True
    return False
