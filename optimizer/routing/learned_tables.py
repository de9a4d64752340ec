"""Dispatch tables that are learned on train batches, for the policy `table`.

`learn_table` chooses a replica for each source and expert so that, summed over train batches, the peak device cost is
low, above all that of the batches whose peak is high. What a slot costs by its tokens is given, so where tiles are paid
for, an expert that expects 20 tokens begins one tile and not two. A small price per hop keeps pairs near.

1. Two tables to start from: the nearest replicas, and the level one, which gives the pairs of one source and expert
   after the other, those with most pairs first, to the device with the least load so far. The cheaper one is taken.
2. Descent: the pairs of a source and expert go to another replica wherever the sum falls.
3. Annealing with the same moves, and descent again. Descent alone ends where some pairs would have to move at once:
   6 to 10 % above the optimum of `formulations.batches.dispatch_table` on small cases, and then .1 to .7 %.

All increments are exact, in whole nanoseconds over all train batches.
"""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.placement import Placement
from optimizer.routing.tables import DispatchTable
from optimizer.streams import Purpose, random_stream

# How many of the dearest devices are kept for each batch. A move changes the cost of two devices, so the dearest of the
# others is always among the first three.
LEADERS = 3
TAIL_WEIGHT = 4  # how many times more a nanosecond counts above the usual peak, the same as for placements (search)
SWEEPS = 20  # over all sources and experts at most; on all traces seen so far a sweep without gain came earlier
ANNEALED = 40_000_000  # entries that annealing may look at, in about half a second; more gain 1 % at most
BESIDE_ENTRIES = 20  # what a move costs besides its entries, counted in entries; a rough measure of the kernel
# Temperatures of annealing as parts of the objective: at first a loss of 3 % is often made, at last hardly any.
HOTTEST, COLDEST = 3e-2, 1e-6


class SourceLoads(NamedTuple):
    """How many pairs each source has of each expert in each batch; only what is not 0 is kept.

    A source and an expert make the cell source * experts + expert. Its entries are those from first[cell] up to
    first[cell + 1]: batch `[entry]` and pairs `[entry]`, both int32; first is int64.
    """

    first: Ints
    batch: Ints
    pairs: Ints
    sources: int
    experts: int
    batches: int

    @classmethod
    def of(cls, chosen: Ints, source: Ints, sources: int, experts: int) -> "SourceLoads":
        """Count the pairs of chosen `[batch, token, k]`, ids below `experts`, by their source `[batch, token]`."""
        return cls(*_count(chosen, source, sources, experts), sources, experts, len(chosen))

    @property
    def totals(self) -> Ints:
        """The pairs of each cell over all batches, `[cell]` int64."""
        return np.diff(np.append(0, np.cumsum(self.pairs, dtype=np.int64))[self.first])


class TableGoal(NamedTuple):
    """What a table is to make least, in nanoseconds over all batches.

    value `[tokens + 1]` int64: what a slot costs by its tokens; usual: the peak above which a batch's cost counts
    `tail_weight` times more; travel `[source, device]` int64: what each pair costs on its way.
    """

    value: Ints
    usual: int
    tail_weight: int
    travel: Ints


class TableState(NamedTuple):
    """A table and what it costs on train batches; only `make_move` changes it.

    table `[source, expert]` int32 flat slots; depth: slots per device; tokens `[slot, batch]` int32; cost
    `[batch, device]` int64; peaks and holders `[batch, LEADERS]` int64: the largest costs of each batch, falling, and
    the devices that have them, -1 where there are fewer devices.
    """

    table: Ints
    depth: int
    tokens: Ints
    cost: Ints
    peaks: Ints
    holders: Ints


def learn_table(
    placement: Placement, loads: SourceLoads, value: Ints, travel: Ints, nearest: Ints, seed: int = 0
) -> DispatchTable:
    """A dispatch table with a low sum of peak device costs over train batches.

    value `[tokens + 1]` int64: what a slot costs by its tokens, for at least as many as an expert has in a batch;
    travel `[source, device]` int64: what a pair costs on its way, in the same unit; nearest `[source, expert]`: a table
    of flat slots to start from. The same arguments give the same table, which costs no more than the nearest one.
    """
    start, slot = placement.replicas(loads.experts)
    depth, slots, totals = placement.slots.shape[1], placement.slots.size, loads.totals
    hottest_first = np.argsort(-totals, kind="stable")
    level = _level(hottest_first, totals, start, slot, depth, slots // depth, loads.sources)
    plain = TableGoal(value, 0, 0, travel)
    starts = [state_of(table.astype(np.int32), loads, plain, slots, depth) for table in (nearest, level)]
    goal = plain._replace(usual=min(int(np.median(state.peaks[:, 0])) for state in starts), tail_weight=TAIL_WEIGHT)
    state = min(starts, key=lambda state: objective(state, goal, totals))
    free = hottest_first[np.diff(start)[hottest_first % loads.experts] > 1]
    free = free[totals[free] > 0]
    if len(free):
        _descend(state, loads, goal, start, slot, free)
        best, least = state.table.copy(), objective(state, goal, totals)
        entries = float((loads.first[free + 1] - loads.first[free]).mean())
        draws = random_stream(Purpose.DISPATCH_TABLE, seed).random((round(ANNEALED / (entries + BESIDE_ENTRIES)), 3))
        _anneal(state, loads, goal, start, slot, free, draws, HOTTEST * least, COLDEST * least)
        _descend(state, loads, goal, start, slot, free)
        if objective(state, goal, totals) > least:
            return DispatchTable(placement, best)
    return DispatchTable(placement, state.table)


def objective(state: TableState, goal: TableGoal, totals: Ints) -> int:
    """The sum over batches of the weighed peak cost, and what all pairs cost on their way; totals `[cell]` pairs."""
    peak = state.peaks[:, 0]
    above = goal.tail_weight * np.maximum(peak - goal.usual, 0)
    source = np.arange(len(state.table))[:, None]
    travelled = totals.reshape(state.table.shape) * goal.travel[source, state.table // state.depth]
    return int((peak + above).sum() + travelled.sum())


@kernel
def _count(chosen: Ints, source: Ints, sources: int, experts: int) -> tuple[Ints, Ints, Ints]:
    """The arrays of `SourceLoads`: one pass counts the entries of each cell, the next one fills them."""
    batches, tokens, k = chosen.shape
    first = np.zeros(sources * experts + 1, dtype=np.int64)
    seen = np.full(sources * experts, -1, dtype=np.int64)
    for batch in range(batches):
        for token in range(tokens):
            for choice in range(k):
                cell = source[batch, token] * experts + chosen[batch, token, choice]
                if seen[cell] != batch:
                    seen[cell] = batch
                    first[cell + 1] += 1
    for cell in range(sources * experts):
        first[cell + 1] += first[cell]
    where, pairs = np.empty(first[-1], dtype=np.int32), np.zeros(first[-1], dtype=np.int32)
    last = first[:-1] - 1
    seen[:] = -1
    for batch in range(batches):
        for token in range(tokens):
            for choice in range(k):
                cell = source[batch, token] * experts + chosen[batch, token, choice]
                if seen[cell] != batch:
                    seen[cell] = batch
                    last[cell] += 1
                    where[last[cell]] = batch
                pairs[last[cell]] += 1
    return first, where, pairs


@kernel
def _level(
    order: Ints, totals: Ints, start: Ints, slot: Ints, depth: int, devices: int, sources: int
) -> Ints:  # fmt: skip
    """The table that gives cells in this order to the device with the least load so far, `[source, expert]`."""
    experts = len(start) - 1
    table, taken = np.empty((sources, experts), dtype=np.int32), np.zeros(devices, dtype=np.int64)
    for cell in order:
        expert = cell % experts
        best = slot[start[expert]]
        for replica in range(start[expert] + 1, start[expert + 1]):
            if taken[slot[replica] // depth] < taken[best // depth]:
                best = slot[replica]
        table[cell // experts, expert] = best
        taken[best // depth] += totals[cell]
    return table


@kernel
def state_of(table: Ints, loads: SourceLoads, goal: TableGoal, slots: int, depth: int) -> TableState:
    """The state of a table `[source, expert]` int32, which it keeps; slots: on all devices together."""
    tokens = np.zeros((slots, loads.batches), dtype=np.int32)
    for cell in range(loads.sources * loads.experts):
        place = table[cell // loads.experts, cell % loads.experts]
        for entry in range(loads.first[cell], loads.first[cell + 1]):
            tokens[place, loads.batch[entry]] += loads.pairs[entry]
    cost = np.zeros((loads.batches, slots // depth), dtype=np.int64)
    for place in range(slots):
        for batch in range(loads.batches):
            cost[batch, place // depth] += goal.value[tokens[place, batch]]
    peaks = np.empty((loads.batches, LEADERS), dtype=np.int64)
    holders = np.empty((loads.batches, LEADERS), dtype=np.int64)
    for batch in range(loads.batches):
        _lead(cost[batch], peaks[batch], holders[batch])
    return TableState(table, depth, tokens, cost, peaks, holders)


@kernel
def _lead(cost: Ints, peaks: Ints, holders: Ints) -> None:
    """Set peaks and holders `[LEADERS]` of one batch from its cost `[device]`."""
    peaks[:] = -1
    holders[:] = -1
    for device in range(len(cost)):
        if cost[device] > peaks[LEADERS - 1]:
            place = LEADERS - 1
            while place > 0 and cost[device] > peaks[place - 1]:
                peaks[place], holders[place] = peaks[place - 1], holders[place - 1]
                place -= 1
            peaks[place], holders[place] = cost[device], device


@kernel
def gain_of(state: TableState, loads: SourceLoads, goal: TableGoal, cell: int, place: int) -> int:
    """By how much the objective falls if the pairs of a cell go to another flat slot of their expert."""
    source, expert = cell // loads.experts, cell % loads.experts
    left = state.table[source, expert]
    one, other = left // state.depth, place // state.depth
    gain, moved = 0, 0
    for entry in range(loads.first[cell], loads.first[cell + 1]):
        batch, pairs = loads.batch[entry], loads.pairs[entry]
        moved += pairs
        there, here = state.tokens[left, batch], state.tokens[place, batch]
        less = state.cost[batch, one] - goal.value[there] + goal.value[there - pairs]
        more = state.cost[batch, other] - goal.value[here] + goal.value[here + pairs]
        peak = max(less, more)
        for leader in range(LEADERS):
            if state.holders[batch, leader] != one and state.holders[batch, leader] != other:
                peak = max(peak, state.peaks[batch, leader])
                break
        before = state.peaks[batch, 0]
        above = max(before - goal.usual, 0) - max(peak - goal.usual, 0)
        gain += before - peak + goal.tail_weight * above
    return int(gain + moved * (goal.travel[source, one] - goal.travel[source, other]))


@kernel
def make_move(state: TableState, loads: SourceLoads, goal: TableGoal, cell: int, place: int) -> None:
    """Send the pairs of a cell to another flat slot of their expert, and keep the state right."""
    source, expert = cell // loads.experts, cell % loads.experts
    left = state.table[source, expert]
    one, other = left // state.depth, place // state.depth
    for entry in range(loads.first[cell], loads.first[cell + 1]):
        batch, pairs = loads.batch[entry], loads.pairs[entry]
        there, here = state.tokens[left, batch], state.tokens[place, batch]
        state.cost[batch, one] += goal.value[there - pairs] - goal.value[there]
        state.cost[batch, other] += goal.value[here + pairs] - goal.value[here]
        state.tokens[left, batch] -= pairs
        state.tokens[place, batch] += pairs
        if _leading(state, batch, one) or _leading(state, batch, other):
            _lead(state.cost[batch], state.peaks[batch], state.holders[batch])
    state.table[source, expert] = place


@kernel
def _leading(state: TableState, batch: int, device: int) -> bool:
    """Whether a device, whose cost has changed, was or may have become one of the dearest of a batch."""
    if state.cost[batch, device] >= state.peaks[batch, LEADERS - 1]:
        return True
    for leader in range(LEADERS):
        if state.holders[batch, leader] == device:
            return True
    return False


@kernel
def _descend(state: TableState, loads: SourceLoads, goal: TableGoal, start: Ints, slot: Ints, cells: Ints) -> None:
    """Make the best move of one cell after the other, until none of them gains anything."""
    vain = 0
    for _ in range(SWEEPS):
        for cell in cells:
            expert = cell % loads.experts
            best, most = -1, 0
            for place in slot[start[expert] : start[expert + 1]]:
                if place != state.table[cell // loads.experts, expert]:
                    gain = gain_of(state, loads, goal, cell, place)
                    if gain > most:
                        best, most = place, gain
            vain += 1
            if best >= 0:
                make_move(state, loads, goal, cell, best)
                vain = 0
            if vain >= len(cells):
                return


@kernel
def _anneal(
    state: TableState, loads: SourceLoads, goal: TableGoal, start: Ints, slot: Ints, cells: Ints, draws: Floats,
    hottest: float, coldest: float,
) -> None:  # fmt: skip
    """Try one move for each row of draws `[move, 3]`: its cell, its replica, and how large a loss is accepted.

    The temperature falls from hottest to coldest by equal factors.
    """
    cooling = (coldest / hottest) ** (1 / max(len(draws), 1))
    temperature = hottest
    for draw in draws:
        temperature *= cooling
        cell = cells[int(draw[0] * len(cells))]
        expert = cell % loads.experts
        place = slot[start[expert] + int(draw[1] * (start[expert + 1] - start[expert]))]
        if place != state.table[cell // loads.experts, expert]:
            loss = -gain_of(state, loads, goal, cell, place)
            if loss <= 0 or draw[2] < np.exp(-loss / temperature):
                make_move(state, loads, goal, cell, place)
