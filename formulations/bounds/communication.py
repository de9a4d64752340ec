"""Bounds that no placement goes below: copies of tokens, and the hops that they travel, each message by itself."""

import numpy as np

from formulations.bounds.crossings import crossings_splits
from formulations.bounds.sharing import Sharing
from formulations.kit.arrays import Ints


def copies_bound(together: Ints, devices: int, slots_per_device: int) -> float:
    """A lower bound on the (token, device) copies that serve all tokens, for any one placement.

    together `[expert, expert]`: tokens that chose both experts; on the diagonal, those that chose the expert. The bound
    is the larger of two: the knapsack of `crossings`, with one hop to every device, and all pairs less the largest
    entries off the diagonal, one for each pair of slots on one device. The latter holds because m experts of a token on
    one device save m - 1 copies, no more than the m (m - 1) / 2 pairs of experts, each of which occupies a pair of
    slots.
    """
    chosen, pairs = np.diag(together), np.sort(together[np.triu_indices(len(together), 1)])[::-1]
    saved = pairs[: devices * slots_per_device * (slots_per_device - 1) // 2].sum()
    anywhere = np.ones((1, devices), dtype=np.int64)
    knapsack = hops_bound(together[None], anywhere, slots_per_device, devices * slots_per_device)
    return max(float(chosen.sum() - saved), knapsack)


def hops_bound(together: Ints, distance: Ints, slots_per_device: int, slots: int) -> float:
    """A lower bound on the hops of all tokens to the devices that serve them, for any one placement in these slots.

    together, distance and slots are as of `crossings_bounds`, and so is what it raises.
    """
    levels = int(distance.max())
    alone = Sharing(np.ones(levels), np.full(levels, slots_per_device - 1), slots_per_device, on_device=True)
    return crossings_splits(together, distance, [alone], slots)[1]
