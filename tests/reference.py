"""Slow and obvious oracles: one token, one hop, one subset at a time. They share no code with what they check."""

from collections import Counter, defaultdict
from fractions import Fraction
from itertools import combinations, product
from typing import Any

Slots = list[list[int]]
Chosen = list[list[tuple[int, int]]]  # per token, per choice: (device, slot)


def replicas(slots: Slots, expert: int) -> list[tuple[int, int]]:
    """Where an expert's replicas are, in device order."""
    return [(d, s) for d, row in enumerate(slots) for s, e in enumerate(row) if e == expert]


def route(slots: Slots, tokens: list[list[int]], policy: str) -> Chosen:
    """Choose a replica for each pair of one batch, token by token."""
    seen: Counter[int] = Counter()
    load: Counter[int] = Counter()
    chosen: Chosen = []
    for experts in tokens:
        chosen.append([])
        for expert in experts:
            there = replicas(slots, expert)
            if policy == "primary":
                pick = there[0]
            elif policy == "even":
                pick = there[seen[expert] % len(there)]
            else:
                pick = min(there, key=lambda place: (load[place[0]], place))
            seen[expert] += 1
            load[pick[0]] += 1
            chosen[-1].append(pick)
    return chosen


def ring_path(rows: int, start: int, end: int) -> list[tuple[list[tuple[str, int]], Fraction]]:
    """The shortest ways round a ring, as lists of directed edges, with the share of a message that each carries."""
    up = [("up", (start + step) % rows) for step in range((end - start) % rows)]
    down = [("down", (start - step) % rows) for step in range((start - end) % rows)]
    if not up:
        return []
    if len(up) == len(down):
        return [(up, Fraction(1, 2)), (down, Fraction(1, 2))]
    return [(min(up, down, key=len), Fraction(1))]


def simulate_batch(
    slots: Slots,
    tokens: list[list[int]],
    source: list[int],
    rows: int,
    cols: int,
    policy: str,
    per_expert: bool = False,
) -> dict[str, Any]:
    """What one batch costs on the Wormhole constants, every packet walked along its ring hop by hop."""
    chosen = route(slots, tokens, policy)
    slot_load: Counter[tuple[int, int]] = Counter()
    out: dict[tuple[int, str, int], Fraction] = defaultdict(Fraction)
    back: dict[tuple[int, str, int], Fraction] = defaultdict(Fraction)
    hops = 0
    for home, picks in zip(source, chosen, strict=True):
        slot_load.update(picks)
        devices = sorted({device for device, _ in picks})
        for device in devices if not per_expert else [device for device, _ in picks]:
            for edges, share in ring_path(rows, device // cols, home):
                for way, row in edges:
                    back[device % cols, way, row] += share
        for col in range(cols):
            packet: dict[tuple[str, int], Fraction] = {}
            for device in devices:
                if device % cols == col:
                    for edges, share in ring_path(rows, home, device // cols):
                        for edge in edges:
                            packet[edge] = max(packet.get(edge, Fraction(0)), share)
            for (way, row), share in packet.items():
                out[col, way, row] += share
        hops += sum(min((d // cols - home) % rows, (home - d // cols) % rows) for d in devices)
    tiles = {place: -(-count // 32) for place, count in slot_load.items()}
    compute = [
        sum(117.5 + 130 * (tiles[d, s] - 1) for s in range(len(slots[d])) if (d, s) in tiles) for d in range(len(slots))
    ]
    return {
        "dispatch_us": 20.7 + float(max(out.values(), default=Fraction(0))) * 14336 / 27900,
        "compute_us": max(compute),
        "combine_us": 32.0 + float(max(back.values(), default=Fraction(0))) * 14336 / 27900,
        "device_load": [sum(slot_load[d, s] for s in range(len(slots[d]))) for d in range(len(slots))],
        "device_tiles": [sum(tiles.get((d, s), 0) for s in range(len(slots[d]))) for d in range(len(slots))],
        "hops": hops / len(tokens),
    }


def best_split_peak(load: list[int], holders: list[set[int]]) -> int:
    """Least integral peak device load over all routings of one batch: max over sets S of ceil(t(S) / |N(S)|)."""
    best = 0
    for size in range(1, len(load) + 1):
        for chosen in combinations(range(len(load)), size):
            neighbours = set().union(*(holders[e] for e in chosen))
            best = max(best, -(-sum(load[e] for e in chosen) // len(neighbours)))
    return best


def all_placements(counts: list[int], devices: int, depth: int) -> list[list[set[int]]]:
    """Every way to put count replicas of each expert on distinct devices with `depth` slots, as holders per expert."""
    choices = [[set(c) for c in combinations(range(devices), count)] for count in counts]
    found = []
    for holders in product(*choices):
        used = Counter(device for held in holders for device in held)
        if all(count <= depth for count in used.values()):
            found.append(list(holders))
    return found


def best_expected_peak(load: list[int], counts: list[int], devices: int, depth: int) -> Fraction | None:
    """Least peak expected load over all placements with these counts; None if there is none."""
    peaks = [
        max(
            sum((Fraction(load[e], counts[e]) for e in range(len(load)) if d in holders[e]), Fraction(0))
            for d in range(devices)
        )
        for holders in all_placements(counts, devices, depth)
    ]
    return min(peaks, default=None)


def count_vectors(experts: int, slots: int, devices: int) -> list[list[int]]:
    """All replica counts that use at most these slots."""
    return [list(c) for c in product(range(1, devices + 1), repeat=experts) if sum(c) <= slots]


def peak_sum(slots: Slots, loads: list[list[int]], value: list[int], usual: int) -> int:
    """Sum over batches of the peak device cost under round robin, what is above `usual` five times, from scratch."""
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
    """What co-location saves: each pair on a device, shared out over the replicas of both, rounded down."""
    count = Counter(expert for row in slots for expert in row)
    return sum(
        together[x][y] // (count[x] * count[y]) for row in slots for x, y in combinations(row, 2) if min(x, y) >= 0
    )
