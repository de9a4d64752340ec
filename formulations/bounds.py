"""What no placement can beat."""

import numpy as np

from formulations.arrays import Ints


def mean_load_bound(load: Ints, devices: int) -> Ints:
    """Least integral peak device load of each batch, as every device takes at least its share.

    load `[batch, expert]` token-expert pairs; returns `[batch]`. Holds for any placement and routing.
    """
    bound: Ints = -(-load.sum(axis=1) // devices)
    return bound


def hottest_expert_bound(load: Ints, counts: Ints) -> Ints:
    """Peak device load of each batch forced by one expert: max over experts of ceil(load / replicas).

    load `[batch, expert]`, counts `[expert]` replicas; returns `[batch]`. Holds for these counts, any
    devices, any routing, as the replicas of one expert are on distinct devices.
    """
    bound: Ints = (-(-load // counts)).max(axis=1)
    return bound


def slot_budget_bound(load: Ints, slots: int) -> Ints:
    """Least peak L of each batch for which enough slots exist: sum over experts of max(1, ceil(t / L)) <= slots.

    load `[batch, expert]`, `slots` in the whole mesh (at least one per expert); returns `[batch]`. Holds for
    any placement, even one made for that batch alone: a replica serves at most L tokens, so an expert with t
    tokens needs ceil(t / L) of them, and every expert needs one.
    Raises ValueError with fewer slots than experts.
    """
    if slots < load.shape[1]:
        raise ValueError(f"{load.shape[1]} experts do not fit in {slots} slots")
    high = load.max(axis=1).astype(np.int64)
    low = np.minimum(high, 1)
    while np.any(low < high):
        middle = (low + high) // 2
        needed = np.maximum(1, -(-load // np.maximum(middle, 1)[:, None])).sum(axis=1)
        fits = needed <= slots
        high = np.where(fits, middle, high)
        low = np.where(fits, low, middle + 1)
    bound: Ints = low
    return bound


def any_placement_bound(load: Ints, devices: int, slots: int) -> Ints:
    """The strongest of the bounds here that holds for any placement and routing, `[batch]`."""
    bound: Ints = np.maximum(mean_load_bound(load, devices), slot_budget_bound(load, slots))
    return bound
