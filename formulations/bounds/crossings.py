"""Bounds that no placement goes below: what the hops of all tokens cost, in all stages together.

A token is sent to every device that serves any of its experts. Where m of its experts share a message, each of them
bears 1/m of every hop that they share. So the cost of all hops is a sum over tokens and experts. Everything here
follows from two facts about an expert with n replicas:

1. *Company.* Its replicas can share a hop with at most n * company other experts, those that are near enough; with
   company alone for the tokens of one source, if they all use one replica. Let c tokens have chosen it, and let P be
   the (token, other expert) pairs that share the hop with it. P is at most the number of tokens that also chose one of
   the other experts, summed over those that are chosen with it most often. As 1/m is convex, the line through its
   values at k and k + 1 is below it at all whole m, so sum 1/m >= (2 k c - P) / (k (k + 1)), for each k.
2. *Reach.* No device has more than K_h sources within h hops, so the replicas have at most n K_h of them; tokens of all
   other sources travel farther than h, for each h.

The least cost of an expert thus depends on n alone, and all n sum up to the number of slots at most. That is a knapsack
over replica counts, which is solved exactly. The bounds hold for one placement of all batches and for any routing by
which every pair is served by a replica of its expert, even if the routing differs from token to token.

Which messages are shared: results travel alone, one from each device, so that company is what a device has in its other
slots, for every hop. A multicast along a ring passes all targets of a token in its direction; hop x is shared by those
that are x or more hops away, in the same ring and direction. Half of what goes to the antipode travels either way and
is shared with the targets on that side; so a neighbour on one side counts half as company.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from formulations.kit.arrays import Floats, Ints

MOST_CELLS = 1 << 28
"""Experts x counts x slots up to which the knapsack is solved exactly, in about half a second; not tuned."""


@dataclass(frozen=True, eq=False)
class Sharing:
    """What the messages of a stage cost, and how many of a token's experts can share one.

    cost `[level]`: of a message that travels farther than `level` hops, for its hop number level + 1. company
    `[level]`: how many other experts can share that hop with a replica, whatever the tokens are. most: how many experts
    of one token share it at most. fixed: whether each source uses one replica of an expert for all of its tokens, so
    that the company of one replica is all that they can have.
    """

    cost: Floats
    company: Ints
    most: int
    fixed: bool = False


def crossings_bounds(together: Ints, distance: Ints, sums: Sequence[Sequence[Sharing]], slots: int) -> list[float]:
    """Lower bounds on what the hops of all tokens cost, for any one placement in these slots: one for each of the sums,
    which are of the stages that each names.

    together `[source, expert, expert]`: tokens of each source that chose both experts, on the diagonal those that chose
    the expert; distance `[source, device]` hops. The stages of a sum share the counts of replicas, as one placement
    serves them all. The bound stays valid if experts are left out of `together`, even if their slots are counted in
    `slots`.
    Raises ValueError with fewer slots than experts.
    """
    spare = _spare(together.shape[1], slots)
    chosen, within = np.diagonal(together, axis1=1, axis2=2), _within(distance)
    friends = _friends(together)
    counts = range(1, _useful(distance, within, spare) + 1)
    different = {id(stage): stage for stages in sums for stage in stages}  # by identity, as a stage holds arrays
    cost = {
        number: np.array([_least_cost(chosen, friends, within, stage, count) for count in counts])
        for number, stage in different.items()
    }
    nothing = np.zeros((len(counts), together.shape[1]))
    return [_least_sum(sum((cost[id(stage)] for stage in stages), start=nothing), spare) for stages in sums]


def crossings_of_batches(load: Ints, distance: Ints, stages: Sequence[Sharing], slots: int) -> Floats:
    """A lower bound on what the hops of each batch cost, for any placement, even one for that batch alone, `[batch]`.

    load `[batch, source, expert]` pairs. Company is taken as the best there can be, as in a single batch it is near to
    that: every message is shared by `most` experts. The cost of an expert is then convex in its replicas, as the
    sources that they reach, the heaviest first, win ever less; so the replicas that win most are the best.
    Raises ValueError with fewer slots than experts.
    """
    spare, sources = _spare(load.shape[2], slots), load.shape[1]
    lightest = np.sort(load, axis=1).cumsum(axis=1, dtype=np.float64).swapaxes(1, 2)
    within = _within(distance)
    counts = np.arange(1, _useful(distance, within, spare) + 1)
    price = np.zeros((sources, len(counts)))  # of the sources that are left, by how many they are, for each count
    for level, near in enumerate(within):
        left = sources - counts * near
        of_level = sum(float(stage.cost[level]) / stage.most for stage in stages)
        price[left[left > 0] - 1, np.flatnonzero(left > 0)] += of_level
    cost = lightest @ price
    saved = -np.diff(cost, axis=2).reshape(len(load), -1)
    if spare < saved.shape[1]:
        saved = -np.partition(-saved, spare, axis=1)[:, :spare]
    least: Floats = cost[:, :, 0].sum(axis=1) - saved.sum(axis=1)
    return least


def _spare(experts: int, slots: int) -> int:
    """The slots that are left when every expert has one."""
    if slots < experts:
        raise ValueError(f"{experts} experts do not fit in {slots} slots")
    return slots - experts


def _useful(distance: Ints, within: list[int], spare: int) -> int:
    """How many replicas of an expert are of any use: with more of them, no token need travel."""
    most = min(int(distance.shape[1]), 1 + spare)
    if not within:
        return 1
    return most if within[0] == 0 else min(most, -(-len(distance) // within[0]))


def _within(distance: Ints) -> list[int]:
    """K_h for h = 0, 1, ...: how many sources lie within h hops of a device, at most; distance `[source, device]`."""
    return [int((distance <= far).sum(axis=0).max()) for far in range(int(distance.max()))]


def _friends(together: Ints) -> Ints:
    """(token, other expert) pairs with the most frequent other experts, `[source, expert, number of them]` int64.

    With 64 sources and 1,024 experts this takes half a gigabyte, so the array is sorted and summed up in its place.
    """
    found = -together.astype(np.int64)
    each = np.arange(together.shape[1])
    found[:, each, each] = 0
    found.sort(axis=2)  # the expert itself, with nothing, comes last, and by rolling first, where no others count
    sums: Ints = np.cumsum(np.roll(found, 1, axis=2), axis=2, out=found)
    return np.negative(sums, out=sums)


def _least_cost(chosen: Ints, friends: Ints, within: list[int], stage: Sharing, count: int) -> Floats:
    """The least cost of the tokens of each expert with `count` replicas, `[expert]`, by both facts.

    chosen `[source, expert]` tokens; friends: as of `_friends`; within: as of `_within`.
    """
    cost = np.zeros(chosen.shape[1])
    for near, price, company in zip(within, stage.cost, stage.company, strict=True):
        reached = count * near
        if price > 0 and reached < len(chosen):
            others = int(company) * (1 if stage.fixed else count)
            pairs = friends[:, :, min(others, friends.shape[2] - 1)]
            share = np.sort(_shares(chosen, pairs, stage.most), axis=0)
            cost += price * share[: len(share) - reached].sum(axis=0)
    return cost


def _shares(chosen: Ints, friends: Ints, most: int) -> Floats:
    """The least sum of 1/m over the tokens of each source that chose an expert, `[source, expert]`, by fact 1."""
    pairs = np.minimum(friends, (most - 1) * chosen)
    share: Floats = chosen - pairs / 2.0
    for k in range(2, most):
        share = np.maximum(share, (2 * k * chosen - pairs) / (k * (k + 1)))
    return share


def _least_sum(cost: Floats, spare: int) -> float:
    """Least sum over experts of cost `[count - 1, expert]` at counts that add up to at most `spare` more than one each.

    This is a dynamic program: best[s] is the least sum for the experts so far if s replicas are spared for them.
    """
    if cost.size * (spare + 1) > MOST_CELLS:
        return _least_hull(cost, spare)
    best = np.zeros(spare + 1)
    for of_expert in cost.T:
        tried = np.full((len(of_expert), spare + 1), np.inf)
        for more, value in enumerate(of_expert):
            tried[more, more:] = best[: spare + 1 - more] + value
        best = tried.min(axis=0)
    return float(best[-1])


def _least_hull(cost: Floats, spare: int) -> float:
    """As `_least_sum`, of the lower convex hulls of the costs of each expert: a little lower, and quick to find.

    Where costs are convex, the replicas that save most are the best. The hull of a cost is below it by no more than
    one step of the hull, and the exact least sum differs from that of the hulls in the steps of one expert.
    """
    saved = -np.diff(np.array([_hull(of_expert) for of_expert in cost.T]), axis=1).ravel()
    best = saved if spare >= len(saved) else -np.partition(-saved, spare)[:spare]
    return float(cost[0].sum() - best[best > 0].sum())


def _hull(cost: Floats) -> Floats:
    """The lower convex hull of costs at counts 1, 2, ..., `[count - 1]` (Andrew's monotone chain)."""
    corner: list[int] = []
    for place in range(len(cost)):
        while len(corner) > 1 and _above(cost, corner[-2], corner[-1], place):
            corner.pop()
        corner.append(place)
    hull: Floats = np.interp(np.arange(len(cost)), corner, cost[corner])
    return hull


def _above(cost: Floats, left: int, middle: int, right: int) -> bool:
    """Whether the middle cost is on or above the line through the other two."""
    return bool((cost[middle] - cost[left]) * (right - left) >= (cost[right] - cost[left]) * (middle - left))
