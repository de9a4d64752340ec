"""A placement of the hottest experts with the coldest: devices get replicas from both ends of the ranking."""

import numpy as np

from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.greedy import heaviest_first, replica_weight
from optimizer.search.seeds.packing import Packing


def pairing(problem: Problem) -> Placement:
    """Pair the hottest replicas with the coldest, after one more copy of the hottest experts.

    With two slots per device and as many experts as slots, the i-th hottest shares a device with the i-th
    coldest. Spare slots first double the hottest experts, in turn; then the ranking of replicas is dealt out from
    both ends: the hottest to all devices, then the coldest, then the hottest of what is left, each time the
    lightest replica to the heaviest device.
    """
    experts = np.flatnonzero(~problem.spread)
    ranked = experts[np.argsort(-problem.total_load[experts], kind="stable")]
    counts = np.ones(problem.model.experts, dtype=np.int64)
    counts[problem.spread] = problem.shared_replicas or 1
    room = min(problem.most_free_replicas, len(ranked) * problem.mesh.devices)
    counts[ranked] = room // len(ranked) + (np.arange(len(ranked)) < room % len(ranked))
    packing = Packing(problem, replica_weight(problem, counts))
    left = heaviest_first(problem, counts)
    hot = True
    while left:
        size = min(int(packing.has_room().sum()), len(left))
        dealt, left = (left[:size], left[size:]) if hot else (left[-size:], left[:-size])
        _deal(packing, dealt)
        hot = not hot
    return packing.placement()


def _deal(packing: Packing, hottest_first: list[int]) -> None:
    """Put one replica on each device with room, light ones on heavy devices.

    A device that holds the expert already is passed over; its replica goes to the lightest device that it fits.
    """
    roomy = np.flatnonzero(packing.has_room())
    lightest_first = roomy[np.argsort(packing.load[roomy], kind="stable")]
    clashes = []
    for expert, device in zip(hottest_first, lightest_first[: len(hottest_first)], strict=True):
        if packing.holds[expert, device]:
            clashes.append(expert)
        else:
            packing.place(expert, int(device))
    for expert in clashes:
        packing.place_lightest(expert)
