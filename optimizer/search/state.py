"""The only mutable placement, with the exact peak cost of every train batch and what co-location saves.

Costs are those of even split. Arrays are device-major (`[..., batch]` last), because a move changes few devices in
all batches: every step of an evaluation then runs along contiguous memory.
"""

from dataclasses import dataclass, fields

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel
from optimizer.domain.placement import Placement

TAIL_WEIGHT = 4  # without it the home case gains mean latency and loses p99; 16 gains less on all traces tried
LEADERS = 4  # devices remembered per batch, heaviest first: the peak of the untouched ones is found among them


@dataclass(eq=False)
class SearchState:
    """load `[expert, batch]` pairs; value `[most load + 1]` what a slot costs by its load; slots `[device, slot]`;
    count `[expert]`; replicas `[expert, device]` flat slots by rank, only the first `count` valid;
    part `[slot, batch]` cost of each slot; cost `[device, batch]` its sum over a device; leaders and
    leading `[LEADERS, batch]` the heaviest devices and their cost. Ids and counts are int64, loads and costs int32,
    or int64 where batches are so large that a device's cost would not fit.

    together `[expert, expert]` int64 is what two experts on one device save over all batches, if each has one replica
    (with more, tokens meet on that device only once in count * count times, and the quotient is rounded down);
    saved `[device]` int64 its sum over the pairs of a device; tail int64 `[2]`: what a usual peak is, and how many
    times more than below it each nanosecond above it counts.
    """

    load: Ints
    value: Ints
    slots: Ints
    count: Ints
    replicas: Ints
    part: Ints
    cost: Ints
    leaders: Ints
    leading: Ints
    together: Ints
    saved: Ints
    tail: Ints

    @classmethod
    def of(
        cls, placement: Placement, load: Ints, value: Ints, together: Ints, usual: int | None = None
    ) -> "SearchState":
        """The state of a valid placement; load `[batch, expert]`, value `[most load of an expert + 1]`.

        usual: the peak above which batches weigh more, None for none.
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
            load=np.ascontiguousarray(load.T, dtype=dtype),
            value=value.astype(dtype),
            slots=slots,
            count=np.diff(start).astype(np.int64),
            replicas=replicas,
            part=np.zeros((slots.size, batches), dtype=dtype),
            cost=np.zeros((len(slots), batches), dtype=dtype),
            leaders=np.zeros((leaders, batches), dtype=np.int64),
            leading=np.zeros((leaders, batches), dtype=dtype),
            together=together.astype(np.int64),
            saved=np.zeros(len(slots), dtype=np.int64),
            tail=np.array([usual or 0, 0 if usual is None else TAIL_WEIGHT]),
        )
        recompute(state.arrays())
        return state

    def arrays(self) -> tuple[Ints, ...]:
        """Everything, in the order in which the kernels take it."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def placement(self) -> Placement:
        """The current placement."""
        return Placement(self.slots)

    @property
    def objective(self) -> int:
        """Sum over batches of the peak device cost, its tail weighted, less what co-location saves."""
        peak = self.leading[0].astype(np.int64)
        above = np.maximum(peak - self.tail[0], 0)
        return int((peak + self.tail[1] * above).sum() - self.saved.sum())


@kernel
def recompute(state: tuple[Ints, ...]) -> None:
    """Fill part, cost and saved (all zero so far), leaders and leading from slots, count and replicas."""
    load, value, slots, count, replicas, part, cost, leaders, leading, together, saved, _ = state
    for expert in range(len(count)):
        for rank in range(count[expert]):
            fill_part(load[expert], value, count[expert], rank, part[replicas[expert, rank]])
    for slot in range(len(part)):
        for batch in range(part.shape[1]):
            cost[slot // slots.shape[1], batch] += part[slot, batch]
    for device in range(len(slots)):
        for one in range(slots.shape[1]):
            for two in range(one):
                x, y = slots[device, one], slots[device, two]
                if x >= 0 and y >= 0:
                    saved[device] += together[x, y] // (count[x] * count[y])
    find_leaders(cost, leaders, leading)


@kernel
def fill_part(load: Ints, value: Ints, count: int, rank: int, out: Ints) -> None:
    """Cost of the replica of this rank in each batch: round robin gives it ceil((load - rank) / count) tokens."""
    for batch in range(len(load)):
        out[batch] = value[(load[batch] + count - 1 - rank) // count]


@kernel
def find_leaders(cost: Ints, leaders: Ints, leading: Ints) -> None:
    """The heaviest devices of each batch, heaviest first, the lowest number on a tie."""
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
