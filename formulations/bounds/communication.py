"""Bounds that no placement goes below: copies of tokens, and the hops that they travel.

A token is sent once to every device that serves any of its experts. Where m of its experts are on one device, each of
them bears 1/m of that copy and of its hops. So the hops of all tokens are the sum, over tokens and experts, of hops /
m, and copies are the same sum with one hop to every device. Everything here follows from two facts about an expert with
n replicas:

1. *Company.* Its replicas share their devices with at most n * (slots_per_device - 1) other experts. Let c tokens have
   chosen it, and let P be the (token, other expert) pairs that are served on the same device as it. P is at most the
   number of tokens that also chose one of the other experts, summed over those that are chosen with it most often. As
   1/m is convex, the line through its values at k and k + 1 is below it at all whole m, so sum 1/m >= (2 k c - P) / (k
   (k + 1)), for each k.
2. *Reach.* No device has more than K_h sources within h hops, so the replicas have at most n K_h of them; tokens of all
   other sources travel farther than h, for each h.

The least cost of an expert thus depends on n alone, and all n sum up to the number of slots at most. That is a knapsack
over replica counts, which is solved exactly. The bounds hold for one placement of all batches and for any routing by
which every pair is served by a replica of its expert, even if the routing differs from token to token.
"""

import numpy as np

from formulations.kit.arrays import Floats, Ints


def copies_bound(together: Ints, devices: int, slots_per_device: int) -> float:
    """A lower bound on the (token, device) copies that serve all tokens, for any one placement.

    together `[expert, expert]`: tokens that chose both experts; on the diagonal, those that chose the expert. The bound
    is the larger of two: the knapsack of this module, and all pairs less the largest entries off the diagonal, one for
    each pair of slots on one device. The latter holds because m experts of a token on one device save m - 1 copies, no
    more than the m (m - 1) / 2 pairs of experts, each of which occupies a pair of slots.
    """
    chosen, pairs = np.diag(together), np.sort(together[np.triu_indices(len(together), 1)])[::-1]
    saved = pairs[: devices * slots_per_device * (slots_per_device - 1) // 2].sum()
    anywhere = np.ones((1, devices), dtype=np.int64)
    knapsack = hops_bound(together[None], anywhere, slots_per_device, devices * slots_per_device)
    return max(float(chosen.sum() - saved), knapsack)


def hops_bound(together: Ints, distance: Ints, slots_per_device: int, slots: int) -> float:
    """A lower bound on the hops of all tokens to the devices that serve them, for any one placement in these slots.

    together `[source, expert, expert]`: tokens of each source that chose both experts, on the diagonal those that chose
    the expert; distance `[source, device]` hops. The bound stays valid if experts are left out of `together`, even if
    their slots are counted in `slots`.
    Raises ValueError with fewer slots than experts.
    """
    experts, spare = together.shape[1], slots - together.shape[1]
    if spare < 0:
        raise ValueError(f"{experts} experts do not fit in {slots} slots")
    chosen = np.diagonal(together, axis1=1, axis2=2)
    friends = _friends(together, chosen)
    within = [int((distance <= far).sum(axis=0).max()) for far in range(int(distance.max()))]
    cost = []
    for count in range(1, min(distance.shape[1], 1 + spare) + 1):
        company = min(count * (slots_per_device - 1), experts - 1)
        cost.append(_least_hops(_shares(chosen, friends[company], slots_per_device), within, count))
    return _least_sum(np.array(cost), spare)


def _friends(together: Ints, chosen: Ints) -> Ints:
    """(token, other expert) pairs with the most frequent other experts, `[number of them, source, expert]`."""
    others = together - chosen[:, :, None] * np.eye(together.shape[1], dtype=together.dtype)
    ranked = np.sort(np.moveaxis(others, 2, 0), axis=0)[::-1]
    return np.concatenate([np.zeros_like(ranked[:1]), ranked[:-1].cumsum(axis=0)])


def _shares(chosen: Ints, friends: Ints, slots_per_device: int) -> Floats:
    """The least sum of 1/m over the tokens of each source that chose an expert, `[source, expert]`, by fact 1."""
    pairs = np.minimum(friends, (slots_per_device - 1) * chosen)
    share: Floats = chosen - pairs / 2.0
    for k in range(2, slots_per_device):
        share = np.maximum(share, (2 * k * chosen - pairs) / (k * (k + 1)))
    return share


def _least_hops(share: Floats, within: list[int], count: int) -> Floats:
    """The least hops of the tokens of each expert to `count` replicas, `[expert]`, by fact 2.

    share `[source, expert]` by fact 1; within lists K_h for h = 0, 1, ...
    """
    heaviest = np.concatenate([np.zeros_like(share[:1]), np.sort(share, axis=0)[::-1].cumsum(axis=0)])
    hops: Floats = sum(
        (heaviest[-1] - heaviest[min(count * near, len(share))] for near in within), np.zeros(share.shape[1])
    )
    return hops


def _least_sum(cost: Floats, spare: int) -> float:
    """Least sum over experts of cost `[count - 1, expert]` at counts that add up to at most `spare` more than one each.

    This is a dynamic program: best[s] is the least sum for the experts so far if s replicas are spared for them.
    """
    best = np.zeros(spare + 1)
    for of_expert in cost.T:
        tried = np.full((len(of_expert), spare + 1), np.inf)
        for more, value in enumerate(of_expert):
            tried[more, more:] = best[: spare + 1 - more] + value
        best = tried.min(axis=0)
    return float(best[-1])
