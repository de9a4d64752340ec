"""What can be learned on train batches for policies that do not see the loads of the batch at hand.

Policies such as `weights` give every replica a fixed share of its expert's pairs. `learn_shares` chooses the shares so
that the sum over train batches of the peak device cost is low. Handing over parts of shares follows what slots cost, by
tiles where tiles are paid for, but ends early where several experts would have to move at once; shares by gradients
know no tiles, but come within 2 % of the optimum of `formulations.batches.fixed_shares`. So parts are handed over
from both, and the better result counts.
"""

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.placement import Placement
from optimizer.routing.context import LearnedShares
from optimizer.routing.gradient_shares import gradient_shares

# How many of the heaviest devices are kept for each batch. A transfer of a share changes the cost of two devices, so
# the heaviest of the others is always among the first three.
LEADERS = 3
# Sweeps over all pairs of replicas at most; on all traces seen so far a sweep without gain ended the search earlier.
SWEEPS = 4
# Which parts of a replica's share are offered to another replica, tried in turn; a coarse grid, not tuned.
PARTS = (1.0, 0.5, 0.25)


def learn_shares(placement: Placement, load: Ints, value: Ints) -> LearnedShares:
    """Expected loads and shares of replicas, learned on train batches.

    load `[batch, expert]`: the batches' pairs of each expert. value `[tokens + 1]` integers: what a slot costs by the
    number of its tokens. Shares start even, and once more as `gradient_shares` leaves them. Parts of them are handed
    from one replica of an expert to another as long as the peak device cost, summed over the batches, falls, so on
    these batches the shares are no worse than an even split. A replica is taken to serve its share of a batch rounded
    up, which weighted round robin keeps to within one pair.
    """
    experts, depth = load.shape[1], placement.slots.shape[1]
    even = LearnedShares.nothing(placement, experts).share.ravel()
    start, slot = placement.replicas(experts)
    smooth = np.zeros(len(even))
    smooth[slot] = gradient_shares(load, start, slot // depth, len(placement.slots))
    by_expert = np.ascontiguousarray(load.T)
    found = [share.copy() for share in (even, smooth)]
    reached = [_descend(by_expert, value, start, slot, depth, share) for share in found]
    best = found[int(np.argmin(reached))]
    return LearnedShares(load.mean(axis=0), best.reshape(placement.slots.shape))


def only_loads(placement: Placement, load: Ints) -> LearnedShares:
    """The expected loads alone, with even shares; load `[batch, expert]`."""
    return LearnedShares(load.mean(axis=0), LearnedShares.nothing(placement, load.shape[1]).share)


@kernel
def _descend(load: Ints, value: Ints, start: Ints, slot: Ints, depth: int, share: Floats) -> int:
    """Improve share `[slot]` in place by handing over parts; load `[expert, batch]`, depth slots per device.

    Returns the sum over batches of the peak device cost that is left.
    """
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
            break
    return int(peaks[0].sum())


@kernel
def _served(share: float, load: int) -> int:
    """Pairs of a batch that a replica serves: its share of the load, rounded up.

    The small term makes up for rounding errors of shares: a third of three pairs is one pair, not two.
    """
    return int(np.ceil(share * load - 1e-9))


@kernel
def _leaders(cost: Ints) -> tuple[Ints, Ints]:
    """The `LEADERS` largest costs of each batch and the devices that have them, both `[LEADERS, batch]`.

    cost `[device, batch]`. With fewer devices than `LEADERS` the places left over hold -1.
    """
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
    """By how much the sum of the batches' peaks falls if replica `giver` hands `moved` of its share to `taker`.

    load `[batch]` of their expert; peaks and holders as of `_leaders`.
    """
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
    """Hand `moved` of the share of replica `giver` to `taker`, and keep cost `[device, batch]` right."""
    for batch in range(len(load)):
        pairs = load[batch]
        cost[giver // depth, batch] -= value[_served(share[giver], pairs)]
        cost[giver // depth, batch] += value[_served(share[giver] - moved, pairs)]
        cost[taker // depth, batch] -= value[_served(share[taker], pairs)]
        cost[taker // depth, batch] += value[_served(share[taker] + moved, pairs)]
    share[giver] -= moved
    share[taker] += moved
