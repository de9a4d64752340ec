"""Slow and obvious oracles: one token, one hop, one subset at a time. They share no code with the code under test."""

from collections import Counter
from fractions import Fraction
from itertools import combinations, product

Slots = list[list[int]]


def replicas(slots: Slots, expert: int) -> list[tuple[int, int]]:
    """The device and slot of every replica of an expert, in the order of devices."""
    return [(d, s) for d, row in enumerate(slots) for s, e in enumerate(row) if e == expert]


def best_split_peak(load: list[int], holders: list[set[int]]) -> int:
    """The least peak device load in whole pairs over all routings of one batch: max over sets S of ceil(t(S) / |N(S)|).

    t(S) is the load of the experts in S, and N(S) are the devices that hold any of them, a bit each.
    """
    sets = [(0, 0)]
    for tokens, held in zip(load, holders, strict=True):
        devices = sum(1 << device for device in held)
        sets += [(t + tokens, n | devices) for t, n in sets]
    return max((-(-t // n.bit_count()) for t, n in sets[1:]), default=0)


def all_placements(counts: list[int], devices: int, depth: int) -> list[list[set[int]]]:
    """Every way to put the replicas of experts on distinct devices with `depth` slots: the devices of each expert."""
    choices = [[set(c) for c in combinations(range(devices), count)] for count in counts]
    found = []
    for holders in product(*choices):
        used = Counter(device for held in holders for device in held)
        if all(count <= depth for count in used.values()):
            found.append(list(holders))
    return found


def best_expected_peak(load: list[int], counts: list[int], devices: int, depth: int) -> Fraction | None:
    """The least peak expected load over all placements with these counts; None if there is no such placement."""
    peaks = [
        max(
            sum((Fraction(load[e], counts[e]) for e in range(len(load)) if d in holders[e]), Fraction(0))
            for d in range(devices)
        )
        for holders in all_placements(counts, devices, depth)
    ]
    return min(peaks, default=None)


def count_vectors(experts: int, slots: int, devices: int) -> list[list[int]]:
    """All replica counts of at least one each that use no more than these slots."""
    return [list(c) for c in product(range(1, devices + 1), repeat=experts) if sum(c) <= slots]


def peak_sum(slots: Slots, loads: list[list[int]], value: list[int], usual: int) -> int:
    """The sum over batches of the peak device cost under round robin, where cost above `usual` counts five times."""
    total = 0
    for load in loads:
        cost = [0] * len(slots)
        for expert, tokens in enumerate(load):
            there = replicas(slots, expert)
            for rank, (device, _) in enumerate(there):
                cost[device] += value[len(range(rank, tokens, len(there)))]
        total += max(cost) + 4 * max(max(cost) - usual, 0)
    return total


def saved(slots: Slots, together: list[list[int]]) -> int:
    """The copies that co-location saves: of each pair on a device, its tokens over the product of both counts."""
    count = Counter(expert for row in slots for expert in row)
    return sum(
        together[x][y] // (count[x] * count[y]) for row in slots for x, y in combinations(row, 2) if min(x, y) >= 0
    )
