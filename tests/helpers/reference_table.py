"""The cost of a dispatch table, batch by batch and pair by pair. It shares no code with what it checks."""

from collections import Counter

Table = list[list[int]]  # the flat slot of each source and expert
Counts = list[list[list[int]]]  # pairs by batch, source and expert


def peaks(table: Table, counts: Counts, value: list[int], devices: int, depth: int) -> list[int]:
    """The cost of the dearest device of each batch; value: what a slot costs by its tokens."""
    found = []
    for batch in counts:
        tokens: Counter[int] = Counter()
        for row, pairs in zip(table, batch, strict=True):
            for slot, number in zip(row, pairs, strict=True):
                tokens[slot] += number
        costs = [sum(value[tokens[device * depth + slot]] for slot in range(depth)) for device in range(devices)]
        found.append(max(costs))
    return found


def total_cost(
    table: Table,
    counts: Counts,
    value: list[int],
    travel: list[list[int]],
    depth: int,
    usual: int = 0,
    tail_weight: int = 0,
) -> int:
    """The sum of peaks, of what they have above `usual` times the tail weight, and of what all pairs cost on their way;
    travel by source and device."""
    devices = len(travel[0])
    peak = peaks(table, counts, value, devices, depth)
    way = sum(
        pairs * travel[source][table[source][expert] // depth]
        for batch in counts
        for source, row in enumerate(batch)
        for expert, pairs in enumerate(row)
    )
    return sum(peak) + tail_weight * sum(max(each - usual, 0) for each in peak) + way
