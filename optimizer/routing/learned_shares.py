"""What can be learned on train batches for policies that know nothing of the batch at hand."""

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.placement import Placement
from optimizer.routing.context import LearnedShares

LEADERS = 3  # heaviest devices kept per batch: a transfer touches two
SWEEPS = 4  # more than are needed on any trace seen; a sweep without gain ends it
PARTS = (1.0, 0.5, 0.25)  # of a replica's share, tried in turn


def learn(placement: Placement, load: Ints, value: Ints) -> LearnedShares:
    """Expected loads and split shares, from loads `[batch, expert]` in pairs and the cost of a slot by its tokens.

    value `[tokens + 1]` integers. Shares start even; parts of them are handed from one replica of an expert to another
    as long as the peak device cost, summed over the batches, falls. A replica serves its share of each batch, rounded
    up, as weighted round robin does to within one pair. So they are no worse than an even split on these batches.
    """
    experts = load.shape[1]
    even = LearnedShares.nothing(placement, experts)
    start, slot = placement.replicas(experts)
    share = even.share.ravel().copy()
    _descend(np.ascontiguousarray(load.T), value, start, slot, placement.slots.shape[1], share)
    return LearnedShares(load.mean(axis=0), share.reshape(placement.slots.shape))


@kernel
def _descend(load: Ints, value: Ints, start: Ints, slot: Ints, depth: int, share: Floats) -> None:
    """Improve share `[slot]`; load `[expert, batch]`."""
    cost = np.zeros((len(share) // depth, load.shape[1]), dtype=np.int64)
    for expert in range(len(load)):
        for replica in range(start[expert], start[expert + 1]):
            place = slot[replica]
            for batch in range(load.shape[1]):
                cost[place // depth, batch] += value[_served(share[place], load[expert, batch])]
    peaks, holders = _leaders(cost)
    for _ in range(SWEEPS):
        improved = False
        for expert in range(len(load)):
            for giver in slot[start[expert] : start[expert + 1]]:
                for taker in slot[start[expert] : start[expert + 1]]:
                    for part in PARTS:
                        moved = share[giver] * part
                        if giver != taker and _gain(load[expert], value, giver, taker, depth, share, moved, cost, peaks,
                                                    holders) > 0:  # fmt: skip
                            _hand_over(load[expert], value, giver, taker, depth, share, moved, cost)
                            peaks, holders = _leaders(cost)
                            improved = True
                            break
        if not improved:
            return


@kernel
def _served(share: float, load: int) -> int:
    """Pairs of a batch that a replica serves; the small term keeps a third of three from being two."""
    return int(np.ceil(share * load - 1e-9))


@kernel
def _leaders(cost: Ints) -> tuple[Ints, Ints]:
    """The largest costs of each batch and their devices, `[LEADERS, batch]`, for cost `[device, batch]`."""
    peaks = np.full((LEADERS, cost.shape[1]), -1, dtype=np.int64)
    holders = np.full((LEADERS, cost.shape[1]), -1, dtype=np.int64)
    for device in range(len(cost)):
        for batch in range(cost.shape[1]):
            if cost[device, batch] > peaks[LEADERS - 1, batch]:
                place = LEADERS - 1
                while place > 0 and cost[device, batch] > peaks[place - 1, batch]:
                    peaks[place, batch], holders[place, batch] = peaks[place - 1, batch], holders[place - 1, batch]
                    place -= 1
                peaks[place, batch], holders[place, batch] = cost[device, batch], device
    return peaks, holders


@kernel
def _gain(
    load: Ints, value: Ints, giver: int, taker: int, depth: int, share: Floats, moved: float, cost: Ints, peaks: Ints,
    holders: Ints,
) -> int:  # fmt: skip
    """By how much the summed peaks fall if a part of a share is handed over."""
    one, other = giver // depth, taker // depth
    gain = 0
    for batch in range(len(load)):
        pairs = load[batch]
        less = value[_served(share[giver], pairs)] - value[_served(share[giver] - moved, pairs)]
        more = value[_served(share[taker] + moved, pairs)] - value[_served(share[taker], pairs)]
        peak = max(cost[one, batch] - less, cost[other, batch] + more)
        for place in range(LEADERS):
            if holders[place, batch] != one and holders[place, batch] != other:
                peak = max(peak, peaks[place, batch])
                break
        gain += peaks[0, batch] - peak
    return gain


@kernel
def _hand_over(
    load: Ints, value: Ints, giver: int, taker: int, depth: int, share: Floats, moved: float, cost: Ints
) -> None:  # fmt: skip
    for batch in range(len(load)):
        pairs = load[batch]
        cost[giver // depth, batch] -= value[_served(share[giver], pairs)]
        cost[giver // depth, batch] += value[_served(share[giver] - moved, pairs)]
        cost[taker // depth, batch] -= value[_served(share[taker], pairs)]
        cost[taker // depth, batch] += value[_served(share[taker] + moved, pairs)]
    share[giver] -= moved
    share[taker] += moved
