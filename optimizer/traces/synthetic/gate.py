"""The gate of the trace generator as compiled code: one pass per token from scores to ranked experts.

Random bits come from splitmix64 (Steele, Lea and Flood 2014), whose n-th number is a hash of a key and n: a
request's stream has a key of its own, so that no order, chunk or neighbour can change it. Sixteen bits at a time pick
from a table of quantiles.
"""

from functools import cache
from statistics import NormalDist

import numpy as np

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.kit.kernels import kernel

REQUEST_RANK = 16
"""The dimensions of a topic, fitted to real traces (DOMAIN section 4)."""
TOKEN_RANK = 12
"""The dimensions of a token's direction, fitted too."""
MEMORY, SHARE = (0.6, 0.985), (0.8, 0.2)
"""The two walks whose sum is a token's direction: what each keeps of its last step, and its share of the variance, 1.

Fitted to real traces: with the fast walk neighbours resemble each other; with the slow one, which keeps half for 46
tokens, so do tokens that are 4, 16 and 64 apart.
"""
WALKS = len(MEMORY)
# factors of the random numbers that a walk starts with and of what it keeps and is given at each step
STARTS = tuple(np.float32(share**0.5) for share in SHARE)
KEPT = tuple(np.float32(memory) for memory in MEMORY)
FRESH = tuple(np.float32((share * (1 - memory**2)) ** 0.5) for share, memory in zip(SHARE, MEMORY, strict=True))

Scratch = tuple[Floats, Floats, Floats, Floats, Floats, Floats, Floats, Bools, Floats, Ints, Ints]

QUANTILES = 1 << 16  # one for each sixteen random bits
LANES, LANE, LANE_BITS = 4, np.uint64(QUANTILES - 1), np.uint64(16)
# splitmix64's own constants
STEP = np.uint64(0x9E3779B97F4A7C15)
FIRST_FACTOR, SECOND_FACTOR = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
FIRST_SHIFT, SECOND_SHIFT, THIRD_SHIFT = np.uint64(30), np.uint64(27), np.uint64(31)


@cache
def quantile_tables() -> tuple[Floats, Floats]:
    """Tables of the standard normal and the Gumbel distribution: quantiles at the middles of 65,536 equal parts.

    Both are `[65536]` float32.
    """
    middles = (np.arange(QUANTILES) + 0.5) / QUANTILES
    half = np.array([NormalDist().inv_cdf(share) for share in middles[: QUANTILES // 2]])
    normal = np.concatenate([half, -half[::-1]]).astype(np.float32)
    gumbel = (-np.log(-np.log(middles))).astype(np.float32)
    return normal, gumbel


@kernel
def route(
    stream: np.uint64,
    numbers: Ints,
    offsets: Ints,
    spread: tuple[np.float32, Floats],
    layers: Ints,
    gates: tuple[Floats, Floats, Floats],
    tables: tuple[Floats, Floats],
    groups: tuple[int, int],
    ranked: Ints,
    weights: Floats,
) -> None:
    """Fill ranked `[token, layer, m]` uint16, best first, and weights `[token, layer, k]` float32 unless it is empty.

    stream: key of the data set; numbers `[request]` int64; offsets `[request + 1]` int64 token ranges; spread: how far
    the requests' topics scatter, and their mean `[REQUEST_RANK]`; layers `[layer]` int64 ids, part of each stream's
    key; gates: bias `[layer, expert]`, topics `[layer, REQUEST_RANK, expert]`, directions `[layer, TOKEN_RANK,
    expert]`, spread and gates all float32; groups: how many there are, and how many a token may use.
    """
    bias, topics, directions = gates
    scatter, mean = spread
    base = np.empty(bias.shape[1], dtype=np.float32)
    topic = np.empty(REQUEST_RANK, dtype=np.float32)
    scratch = _scratch(bias.shape[1], groups, ranked.shape[2])
    for request in range(len(numbers)):
        key = _mix(stream ^ _mix(np.uint64(numbers[request])))
        _draw(key, tables[0], topic)
        for i in range(REQUEST_RANK):
            topic[i] = scatter * topic[i] + mean[i]
        start, stop = offsets[request], offsets[request + 1]
        for layer in range(len(layers)):
            own = _mix(key ^ _mix(np.uint64(layers[layer]) + STEP))
            _add_projection(bias[layer], topic, topics[layer], base)
            where = start, stop, layer
            _walk(own, where, base, directions[layer], tables, groups[1], scratch, (ranked, weights))


@kernel
def _scratch(experts: int, groups: tuple[int, int], m: int) -> Scratch:
    """Make the arrays that `_walk` works in.

    Every group is divided into parts; there are enough for the two best experts of each part of the kept groups to be
    at least m experts.
    """
    parts = (m + 2 * groups[1] - 1) // (2 * groups[1])
    padded = (experts + LANES - 1) // LANES * LANES
    return (
        np.empty((WALKS, TOKEN_RANK), dtype=np.float32),
        np.empty(TOKEN_RANK, dtype=np.float32),
        np.empty(TOKEN_RANK, dtype=np.float32),
        np.empty(experts, dtype=np.float32),
        np.empty(padded, dtype=np.float32),
        np.empty((2, groups[0], parts), dtype=np.float32),
        np.empty(groups[0], dtype=np.float32),
        np.empty(groups[0], dtype=np.bool_),
        np.empty(m, dtype=np.float32),
        np.empty(experts, dtype=np.int64),
        np.empty(m, dtype=np.int64),
    )


@kernel
def _walk(
    state: np.uint64,
    where: tuple[int, int, int],
    base: Floats,
    directions: Floats,
    tables: tuple[Floats, Floats],
    keep: int,
    scratch: Scratch,
    into: tuple[Ints, Floats],
) -> None:
    """Route one request in one layer: its tokens' direction is the sum of stationary AR(1) walks.

    where: the request's first token, the one after its last, and the layer's place; into: ranked and weights as of
    `route`, which are filled there.
    """
    start, stop, layer = where
    ranked, weights = into
    walks, direction, fresh, clean, score, leaders, strength, kept, best, listed, chosen = scratch
    normal, gumbel = tables
    for walk in range(WALKS):
        state = _draw(state, normal, fresh)
        for i in range(TOKEN_RANK):
            walks[walk, i] = STARTS[walk] * fresh[i]
    for token in range(start, stop):
        for i in range(TOKEN_RANK):
            direction[i] = walks[0, i] + walks[1, i]
        _add_projection(base, direction, directions, clean)
        state = _draw(state, gumbel, score)
        for expert in range(len(base)):
            score[expert] += clean[expert]
        _survey(score, len(base) // len(kept), leaders)
        bar = _keep_groups(leaders, keep, strength, kept)
        _rank(score, len(base) // len(kept), kept, bar, listed, best, chosen)
        for i in range(len(best)):
            ranked[token, layer, i] = chosen[i]
        if len(weights) > 0:
            _soften(clean, chosen, weights[token, layer])
        for walk in range(WALKS):
            state = _draw(state, normal, fresh)
            for i in range(TOKEN_RANK):
                walks[walk, i] = KEPT[walk] * walks[walk, i] + FRESH[walk] * fresh[i]


@kernel
def _mix(bits: np.uint64) -> np.uint64:
    """A number whose bits all depend on all bits of the state: the hash that splitmix64 makes of its counter."""
    bits = (bits ^ (bits >> FIRST_SHIFT)) * FIRST_FACTOR
    bits = (bits ^ (bits >> SECOND_SHIFT)) * SECOND_FACTOR
    return bits ^ (bits >> THIRD_SHIFT)


@kernel
def _draw(state: np.uint64, table: Floats, drawn: Floats) -> np.uint64:
    """Fill `drawn`, whose length is a multiple of four, with random entries of the table; return the next state."""
    for quad in range(len(drawn) // LANES):
        state += STEP
        bits = _mix(state)
        for lane in range(LANES):
            drawn[quad * LANES + lane] = table[np.int64(bits & LANE)]
            bits >>= LANE_BITS
    return state


@kernel
def _add_projection(base: Floats, vector: Floats, matrix: Floats, total: Floats) -> None:
    """Set total `[expert]` to base `[expert]` + vector `[rank]` times matrix `[rank, expert]`."""
    for expert in range(len(base)):
        total[expert] = base[expert]
    for i in range(len(vector)):
        factor = vector[i]
        for expert in range(len(base)):
            total[expert] += factor * matrix[i, expert]


@kernel
def _survey(score: Floats, size: int, leaders: Floats) -> None:
    """Find the best and the second best score in each part of each group of `size`; leaders `[2, group, part]`."""
    parts = leaders.shape[2]
    for group in range(leaders.shape[1]):
        for part in range(parts):
            first = second = np.float32(-np.inf)
            for expert in range(group * size + part * size // parts, group * size + (part + 1) * size // parts):
                new = score[expert]  # conditional moves: as branches these took three times as long
                lesser = new if new < first else first
                first = new if new > first else first
                second = lesser if lesser > second else second
            leaders[0, group, part] = first
            leaders[1, group, part] = second


@kernel
def _keep_groups(leaders: Floats, keep: int, strength: Floats, kept: Bools) -> np.float32:
    """Mark the groups with the largest sums of their two best scores; return a score that m of their experts reach."""
    for group in range(len(kept)):
        first = second = np.float32(-np.inf)
        for part in range(leaders.shape[2]):
            if leaders[0, group, part] > first:
                second = max(first, leaders[1, group, part])
                first = leaders[0, group, part]
            else:
                second = max(second, leaders[0, group, part])
        strength[group] = first + second
        kept[group] = False
    bar = np.float32(np.inf)
    for _ in range(keep):
        best = -1
        for group in range(len(kept)):
            if not kept[group] and (best < 0 or strength[group] > strength[best]):
                best = group
        kept[best] = True
        for part in range(leaders.shape[2]):
            bar = min(bar, leaders[1, best, part])
    return bar


@kernel
def _rank(score: Floats, size: int, kept: Bools, bar: np.float32, listed: Ints, best: Floats, chosen: Ints) -> None:
    """Rank the experts of the kept groups, best first, by inserting the few that reach the bar."""
    found, last = 0, len(best) - 1
    for group in range(len(kept)):
        if kept[group]:
            for expert in range(group * size, group * size + size):
                listed[found] = expert
                found += score[expert] >= bar
    for i in range(len(best)):
        best[i] = -np.inf
    for i in range(found):
        new, place = score[listed[i]], last
        if new > best[last]:
            while place > 0 and best[place - 1] < new:
                best[place] = best[place - 1]
                chosen[place] = chosen[place - 1]
                place -= 1
            best[place] = new
            chosen[place] = listed[i]


@kernel
def _soften(clean: Floats, chosen: Ints, weights: Floats) -> None:
    """Fill weights `[k]` with the softmax of the scores without noise over the first k of the chosen experts."""
    largest = clean[chosen[0]]
    for i in range(1, len(weights)):
        largest = max(largest, clean[chosen[i]])
    total = np.float32(0)
    for i in range(len(weights)):
        weights[i] = np.exp(clean[chosen[i]] - largest)
        total += weights[i]
    for i in range(len(weights)):
        weights[i] /= total
