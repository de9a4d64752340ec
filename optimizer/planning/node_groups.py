"""Groups of experts on nodes, the same number on each: by EPLB's packing, and levelled further."""

import numpy as np

from formulations.kit.arrays import Floats, Ints


def packed_groups(load: Floats, nodes: int) -> Ints:
    """The groups of each node, `[node, group]`, of loads `[group]`: the heaviest first, to the lightest with room.

    This is step 1 of EPLB's hierarchical policy (`balanced_packing` in deepseek-ai/EPLB `eplb.py`).
    """
    each = len(load) // nodes
    held = np.zeros((nodes, each), dtype=np.int64)
    used, node_load = np.zeros(nodes, dtype=np.int64), np.zeros(nodes)
    for group in np.argsort(-load, kind="stable"):
        node = int(np.argmin(np.where(used < each, node_load, np.inf)))
        held[node, used[node]] = group
        used[node] += 1
        node_load[node] += load[group]
    return held


def exchanged_groups(load: Floats, held: Ints) -> Ints:
    """The groups of each node, `[node, group]`, after exchanges of two groups for as long as the heaviest node gets
    lighter by one."""
    held = held.copy()
    while True:
        node_load = load[held].sum(axis=1)
        hot = int(node_load.argmax())
        change = load[held][None] - load[held[hot]][:, None, None]  # [place, node, place there]
        after = np.maximum(node_load[hot] + change, node_load[None, :, None] - change)
        after[:, hot] = np.inf
        one, node, two = np.unravel_index(int(after.argmin()), after.shape)
        if after[one, node, two] >= node_load[hot] * (1 - 1e-12):  # a gain that is not rounding
            return held
        held[hot, one], held[node, two] = held[node, two], held[hot, one]


def groups_of_nodes(slots: Ints, groups: int, nodes: int, experts: int) -> Ints | None:
    """The groups of each node `[node, group]` that a placement `[device, slot]` keeps together; None where it does not.

    A placement that keeps them has each group on one node alone, and as many on each node.
    """
    of_node = np.zeros((nodes, groups), dtype=np.bool_)
    of_node[np.arange(nodes)[:, None], slots.reshape(nodes, -1) * groups // experts] = True
    if (of_node.sum(axis=0) > 1).any() or (of_node.sum(axis=1) != groups // nodes).any():
        return None
    return np.nonzero(of_node)[1].reshape(nodes, -1)
