"""EPLB as its README describes it, in plain Python, doubles on a device included; slow, and independent of our code."""

import numpy as np

from formulations.kit.arrays import Floats, Ints


def packing(weight: Floats, packs: int) -> list[list[int]]:
    """The items of each pack: the heaviest first, each to the lightest pack that has room for an equal number."""
    held: list[list[int]] = [[] for _ in range(packs)]
    load = [0.0] * packs
    for item in np.argsort(-weight, kind="stable").tolist():
        pack = min((p for p in range(packs) if len(held[p]) < len(weight) // packs), key=load.__getitem__)
        held[pack].append(item)
        load[pack] += float(weight[item])
    return held


def replicas(load: Floats, slots: int) -> Ints:
    """The expert of each replica, `[slot]`: every one once, then one more of the heaviest per replica."""
    found, counts = list(range(len(load))), np.ones(len(load))
    for _ in range(slots - len(load)):
        found.append(int(np.argmax(load / counts)))
        counts[found[-1]] += 1
    return np.array(found)


def plain_eplb(load: Floats, slots: int, groups: int, nodes: int, devices: int) -> Ints:
    """The expert of each slot, `[device, slot]`, by the hierarchical policy; one group and one node give the global
    one. load `[expert]`; slots of all devices."""
    members = np.arange(len(load)).reshape(groups, -1)
    rows = []
    for held in packing(load.reshape(groups, -1).sum(axis=1), nodes):
        ids = members[held].ravel()
        own = replicas(load[ids], slots // nodes)
        weight = load[ids] / np.bincount(own)
        rows += [ids[own[items]] for items in packing(weight[own], devices // nodes)]
    return np.array(rows)
