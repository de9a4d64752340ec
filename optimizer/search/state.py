"""The mutable placement of searches under even split or a server's rule, with the peak cost of every train batch.

It also holds what co-location of experts saves. Arrays are device-major (`[..., batch]` last), because a move changes
few devices in all batches: every step of an evaluation then runs along contiguous memory.
"""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel
from optimizer.domain.placement import Placement
from optimizer.search.rule_loads import RuleLoads

TAIL_WEIGHT = 4  # without it the home case gains mean latency and loses p99; 16 gains less on all traces tried
LEADERS = 4  # devices remembered per batch: the peak of those that a move leaves alone is mostly found among them; more
# take longer after each move that is made, fewer mean a scan of all devices more often; no measurement is recorded


class SearchState(NamedTuple):
    """A placement and its cost under even split or a rule; only searches change it, by `moves.apply`.

    load `[expert, batch]` pairs; value `[most load + 1]` what a slot costs by its load; slots `[device, slot]`;
    copies `[expert]`; replicas `[expert, device]` flat slots by rank, only the first `copies` valid;
    part `[slot, batch]` cost of each slot; cost `[device, batch]` its sum over a device; leaders and
    leading `[LEADERS, batch]` the heaviest devices and their cost. Ids and counts are int64, loads and costs int32,
    or int64 where batches are so large that a device's cost would not fit.

    together `[expert, expert]` int64 is what two experts on one device save over all batches, if each has one replica
    (with more, tokens meet on that device only once in copies * copies times, and the quotient is rounded down);
    saved `[device]` int64 its sum over the pairs of a device; tail int64 `[2]`: the usual peak, and how many times more
    than a unit of cost below it each unit above it counts; rule the loads of replicas under a server's rule.
    """

    load: Ints
    value: Ints
    slots: Ints
    copies: Ints
    replicas: Ints
    part: Ints
    cost: Ints
    leaders: Ints
    leading: Ints
    together: Ints
    saved: Ints
    tail: Ints
    rule: RuleLoads

    @classmethod
    def of(
        cls,
        placement: Placement,
        load: Ints,
        value: Ints,
        together: Ints,
        usual: int | None = None,
        tail_weight: int = TAIL_WEIGHT,
        rule: RuleLoads | None = None,
    ) -> "SearchState":
        """The state of a valid placement; load `[batch, expert]`, value `[most load of an expert + 1]`.

        usual: the peak above which cost counts `tail_weight` times more; without one, no batch has a tail. rule: the
        loads under a server's rule in the same batches, None for an even split.
        """
        batches, experts = load.shape
        slots = placement.slots.astype(np.int64)
        start, slot = placement.replicas(experts)
        replicas = np.full((experts, len(slots)), -1, dtype=np.int64)
        for expert in range(experts):
            replicas[expert, : start[expert + 1] - start[expert]] = slot[start[expert] : start[expert + 1]]
        leaders = min(LEADERS, len(slots))
        dtype = np.int32 if int(value.max()) * slots.shape[1] <= np.iinfo(np.int32).max else np.int64
        state = cls(
            load=np.array(load.T, dtype=dtype, order="C"),  # copied: kernels are compiled anew for read-only arrays
            value=value.astype(dtype),
            slots=slots,
            copies=np.diff(start).astype(np.int64),
            replicas=replicas,
            part=np.zeros((slots.size, batches), dtype=dtype),
            cost=np.zeros((len(slots), batches), dtype=dtype),
            leaders=np.zeros((leaders, batches), dtype=np.int64),
            leading=np.zeros((leaders, batches), dtype=dtype),
            together=together.astype(np.int64),
            saved=np.zeros(len(slots), dtype=np.int64),
            tail=np.array([usual or 0, 0 if usual is None else tail_weight]),
            rule=rule or RuleLoads.even(experts, batches),
        )
        recompute(state)
        return state

    def placement(self) -> Placement:
        """The placement that the search is at now, as an object of its own that later moves do not change."""
        return Placement(self.slots)

    @property
    def objective(self) -> int:
        """Sum over batches of the peak device cost, its tail weighted, less what co-location saves."""
        peak = self.leading[0].astype(np.int64)
        above = np.maximum(peak - self.tail[0], 0)
        return int((peak + self.tail[1] * above).sum() - self.saved.sum())


@kernel
def recompute(state: SearchState) -> None:
    """Fill part, cost and saved (all zero so far), leaders and leading from slots, copies and replicas."""
    slots, copies, replicas, part, cost = state.slots, state.copies, state.replicas, state.part, state.cost
    for expert in range(len(copies)):
        for rank in range(copies[expert]):
            fill_part(expert, replicas[expert], copies[expert], rank, state, part[replicas[expert, rank]])
    for slot in range(len(part)):
        for batch in range(part.shape[1]):
            cost[slot // slots.shape[1], batch] += part[slot, batch]
    for device in range(len(slots)):
        for one in range(slots.shape[1]):
            for two in range(one):
                x, y = slots[device, one], slots[device, two]
                if x >= 0 and y >= 0:
                    state.saved[device] += state.together[x, y] // (copies[x] * copies[y])
    find_leaders(cost, state.leaders, state.leading)


@kernel
def fill_part(expert: int, listed: Ints, copies: int, rank: int, state: SearchState, out: Ints) -> None:
    """Cost of the replica of this rank in each batch, out `[batch]`.

    listed: the slots of the expert's replicas, ascending, of which the first `copies` are valid. An even split is round
    robin, which gives a replica ceil((load - rank) / copies) tokens.
    """
    load, value, first = state.load[expert], state.value, state.rule.first
    if len(state.rule.by_row) > 0:
        fill_near(expert, listed, copies, rank, state, out)
    elif copies < first.shape[1] and first[expert, copies] >= 0:
        ranked = state.rule.ranked[first[expert, copies] + rank]
        for batch in range(len(out)):
            out[batch] = value[ranked[batch]]
    else:
        for batch in range(len(out)):
            out[batch] = value[(load[batch] + copies - 1 - rank) // copies]


@kernel
def fill_near(expert: int, listed: Ints, copies: int, rank: int, state: SearchState, out: Ints) -> None:
    """As `fill_part`, where a source uses a near copy if it has one: that on its own device, else the first in its own
    row, unless all are in that row and sources have devices of their own. The others' pairs are split evenly."""
    rule, depth = state.rule, state.slots.shape[1]
    by_row, by_source, source_of = rule.by_row, rule.by_source, rule.source_of
    cols, value, load = len(state.slots) // len(by_row), state.value, state.load[expert]
    device = listed[rank] // depth
    row = device // cols
    near_in_row = len(by_source) == 0 or listed[0] // depth // cols != listed[copies - 1] // depth // cols
    first_in_row = near_in_row and (rank == 0 or listed[rank - 1] // depth // cols != row)
    for batch in range(len(out)):
        out[batch] = load[batch]
    before = -1
    for place in range(copies):
        there = listed[place] // depth
        if near_in_row and there // cols != before:
            before = there // cols
            for batch in range(len(out)):
                out[batch] -= by_row[before, expert, batch]
        elif not near_in_row and source_of[there] >= 0:
            for batch in range(len(out)):
                out[batch] -= by_source[source_of[there], expert, batch]
    for batch in range(len(out)):
        out[batch] = (out[batch] + copies - 1 - rank) // copies
    if first_in_row:
        for batch in range(len(out)):
            out[batch] += by_row[row, expert, batch]
        for place in range(copies):
            there = listed[place] // depth
            if there // cols == row and source_of[there] >= 0:
                for batch in range(len(out)):
                    out[batch] -= by_source[source_of[there], expert, batch]
    if source_of[device] >= 0:
        for batch in range(len(out)):
            out[batch] += by_source[source_of[device], expert, batch]
    for batch in range(len(out)):
        out[batch] = value[out[batch]]


@kernel
def find_leaders(cost: Ints, leaders: Ints, leading: Ints) -> None:
    """Find the heaviest devices of each batch, heaviest first, the lowest number on a tie."""
    last = len(leaders) - 1
    for place in range(last + 1):
        for batch in range(cost.shape[1]):
            leading[place, batch] = -1
    for device in range(len(cost)):
        for batch in range(cost.shape[1]):
            weight = cost[device, batch]
            if weight > leading[last, batch]:
                place = last
                while place > 0 and weight > leading[place - 1, batch]:
                    leading[place, batch] = leading[place - 1, batch]
                    leaders[place, batch] = leaders[place - 1, batch]
                    place -= 1
                leading[place, batch] = weight
                leaders[place, batch] = device
