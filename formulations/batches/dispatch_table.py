"""A dispatch table over sampled batches: one replica for each source and expert, with the least mean and tail of peaks.

Arrays: counts `[batch, source, expert]` pairs; holders `[expert, device]`, whether a replica of the expert is there. As
a device holds an expert at most once, a table `[source, expert]` of devices names replicas. The *time* of a batch is
that of its dearest device, by what slots cost for their tokens, plus that of its busiest link, by what pairs cost on
the way; the objective is the mean time and, weighed, the mean time of the worst batches (conditional value at risk).

Exact, by CP-SAT. Variables: which replica a source and expert use, the tiles of each slot in each batch and whether it
has any, the time of the dearest device and of the busiest link, and for the tail a threshold and what times exceed it.
Constraints by family: one replica for each source and expert; tiles hold the tokens; devices and links do not exceed
the peaks; excesses cover times beyond the threshold. All costs are whole numbers, so the objective is exact.

Bound, by a linear program (HiGHS): pairs may be divided, and a slot costs what the line from 0 below its staircase
says. CP-SAT's own bound starts lower and ends higher; the larger of the two is reported.

Small cases alone: 4 sources, 8 experts on 4 devices and 8 batches take .1 to .3 s to prove. For large ones there is the
search of `optimizer.routing.learned_tables`, which ends .1 % above the optimum there, its worst of 12 cases .5 %.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from ortools.sat.python import cp_model
from scipy.optimize import Bounds, LinearConstraint
from scipy.sparse import coo_array, csr_array

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.kit.outcome import Outcome, SolveStatus
from formulations.kit.solver import Limits, minimise, run, solver_for


class SlotCost(NamedTuple):
    """What a slot costs: `first` for its first tile of `tile` tokens, `further` for each other one, `token` for each
    token. Whole numbers; with a tile of 1 and nothing but `token` costs are linear."""

    first: int
    further: int
    tile: int
    token: int

    def of(self, tokens: Ints) -> Ints:
        """The cost of slots with these tokens, in any shape."""
        tiles = -(-tokens // self.tile)
        cost: Ints = np.where(tokens > 0, self.first + self.further * (tiles - 1), 0) + self.token * tokens
        return cost

    def slope(self, most: int) -> float:
        """The largest cost per token of which up to `most` tokens never cost less."""
        tokens = np.arange(1, most + 1)
        return float((self.of(tokens) / tokens).min(initial=self.first + self.token))


@dataclass(frozen=True, eq=False)
class TableInstance:
    """counts `[batch, source, expert]`, holders `[expert, device]`, slot: what slots cost; message
    `[source, device, link]` whole numbers: how long each pair keeps links busy on its way, None for not at all; worst:
    the number of batches in the tail, whose mean counts `tail_weight` times what the mean of all counts.

    Raises ValueError for shapes that do not fit together, for an expert without a replica, and for a tail that is none.
    """

    counts: Ints
    holders: Bools
    slot: SlotCost
    message: Ints | None = None
    worst: int = 1
    tail_weight: int = 0

    def __post_init__(self) -> None:
        if self.counts.ndim != 3 or self.counts.size == 0 or self.counts.shape[2:] != self.holders.shape[:1]:
            raise ValueError(f"counts {self.counts.shape} and holders {self.holders.shape} do not fit together")
        sizes = self.counts.shape[1], self.holders.shape[1]
        if self.message is not None and self.message.shape[:2] != sizes:
            raise ValueError(f"messages are {self.message.shape}, not [source, device, link] of {sizes}")
        if not self.holders.any(axis=1).all():
            raise ValueError(f"expert {int(np.argmin(self.holders.any(axis=1)))} has no replica")
        if not (1 <= self.worst <= len(self.counts) and self.tail_weight >= 0):
            raise ValueError(f"a tail of {self.worst} batches with weight {self.tail_weight} is none")

    def times(self, table: Ints) -> Ints:
        """The time of each batch `[batch]` with a table `[source, expert]` of devices, which nothing but counting
        finds. Raises ValueError for a device that does not hold the expert."""
        if not self.holders[np.arange(len(self.holders)), table].all():
            raise ValueError("a source sends an expert to a device that does not hold it")
        goes = table[..., None] == np.arange(self.holders.shape[1])
        times: Ints = self.slot.of(np.einsum("bse,sed->bed", self.counts, goes)).sum(axis=1).max(axis=1)
        if self.message is not None:
            pairs = np.einsum("bse,sed->bsd", self.counts, goes)
            times = times + np.einsum("bsd,sdl->bl", pairs, self.message).max(axis=1)
        return times

    def total(self, table: Ints) -> int:
        """The objective times the number of batches and of worst batches, a whole number."""
        times = np.sort(self.times(table))
        return int(self.worst * times.sum() + self.tail_weight * len(times) * times[-self.worst :].sum())

    @property
    def scale(self) -> int:
        """What `total` is divided by for the objective."""
        return self.worst * len(self.counts)

    def first_table(self) -> Ints:
        """The table `[source, expert]` that sends each expert to its first device."""
        return np.tile(np.argmax(self.holders, axis=1), (self.counts.shape[1], 1))


def choose_table(instance: TableInstance, hint: Ints | None, limits: Limits) -> Outcome[Ints]:
    """A table `[source, expert]` of devices with the least mean and tail of times.

    hint: a table to start from, or None. The value is no worse than it. The bound holds for all tables on these batches
    and this placement. Raises ValueError for a hint that names a device without the expert.
    """
    clock = limits.clock()
    best = instance.first_table() if hint is None else hint
    total = instance.total(best)
    bound = divided_bound(instance, Limits(clock.left() / 2, cancelled=limits.cancelled)) * instance.scale
    model, solver = _Model(instance, best), solver_for(limits)
    status = run(solver, model.model, limits)
    if status in (SolveStatus.OPTIMAL, SolveStatus.FEASIBLE):
        found = model.table(solver)
        if (reached := instance.total(found)) < total:
            best, total = found, reached
    if status is not SolveStatus.UNKNOWN:
        bound = max(bound, ceil(solver.best_objective_bound - 0.5))
    bound = min(float(bound), float(total))
    ended = SolveStatus.OPTIMAL if bound == total else SolveStatus.FEASIBLE
    return Outcome(best, total / instance.scale, bound / instance.scale, ended, clock.elapsed())


class _Model:
    """The CP-SAT model; goes[source][expert] maps devices to whether the pairs go there."""

    def __init__(self, instance: TableInstance, hint: Ints) -> None:
        self.instance, self.model = instance, cp_model.CpModel()
        self.batches, self.sources, self.experts = instance.counts.shape
        self.devices = instance.holders.shape[1]
        self._one_replica_each()
        self.device_peak = [self._peak(f"device_{b}") for b in range(self.batches)]
        for batch in range(self.batches):
            self._devices_below_peak(batch)
        self.time: list[Any] = list(self.device_peak)
        if instance.message is not None:
            self.time = [peak + self._busiest(batch) for batch, peak in enumerate(self.device_peak)]
        self.model.minimize(self._objective())
        for source, row in enumerate(hint.tolist()):
            for expert, device in enumerate(row):
                for other, variable in self.goes[source][expert].items():
                    self.model.add_hint(variable, other == device)

    def _peak(self, name: str) -> cp_model.IntVar:
        return self.model.new_int_var(0, self._most, name)

    @property
    def _most(self) -> int:
        """No less than any batch takes: tiles for each source alone, all one after another, as are all messages."""
        counts, slot = self.instance.counts, self.instance.slot
        cost = (slot.first + slot.further) * -(-counts // slot.tile) + slot.token * counts
        slots = int(cost.sum(axis=(1, 2)).max())
        message = self.instance.message
        return slots + (0 if message is None else int(counts.sum(axis=(1, 2)).max()) * int(message.max()))

    def _one_replica_each(self) -> None:
        """A source sends its pairs of an expert to exactly one of the devices that hold it."""
        new = self.model.new_bool_var
        held = [np.flatnonzero(row).tolist() for row in self.instance.holders]
        self.goes = [
            [{d: new(f"goes_{s}_{e}_{d}") for d in held[e]} for e in range(self.experts)] for s in range(self.sources)
        ]
        for row in self.goes:
            for devices in row:
                self.model.add_exactly_one(devices.values())

    def _devices_below_peak(self, batch: int) -> None:
        """The slots of a device together cost no more than the batch's peak."""
        for device in range(self.devices):
            held = np.flatnonzero(self.instance.holders[:, device]).tolist()
            self.model.add(sum(self._slot(batch, expert, device) for expert in held) <= self.device_peak[batch])

    def _slot(self, batch: int, expert: int, device: int) -> Any:
        """The cost of a slot. Its tiles hold its tokens, and it is open where it has any tile."""
        slot, pairs = self.instance.slot, self.instance.counts[batch, :, expert].tolist()
        tokens = sum(number * self.goes[source][expert][device] for source, number in enumerate(pairs) if number)
        if not sum(pairs) or not (slot.first or slot.further):
            return slot.token * tokens
        most = -(-sum(pairs) // slot.tile)
        tiles = self.model.new_int_var(0, most, f"tiles_{batch}_{expert}_{device}")
        is_open = self.model.new_bool_var(f"open_{batch}_{expert}_{device}")
        self.model.add(slot.tile * tiles >= tokens)
        self.model.add(tiles <= most * is_open)  # decides where the first tile costs more than a further one
        self.model.add(is_open <= tiles)  # decides where it costs less
        return slot.token * tokens + slot.further * tiles + (slot.first - slot.further) * is_open

    def _busiest(self, batch: int) -> cp_model.IntVar:
        """The time of the busiest link of a batch, which no link exceeds."""
        message, peak = self.instance.message, self._peak(f"link_{batch}")
        assert message is not None
        for link in range(message.shape[2]):
            terms = [
                int(number * message[source, device, link]) * variable
                for (source, expert), number in np.ndenumerate(self.instance.counts[batch])
                for device, variable in self.goes[source][expert].items()
                if number * message[source, device, link]
            ]
            self.model.add(sum(terms) <= peak)
        return peak

    def _objective(self) -> Any:
        """The sum of times, and the tail as threshold and excesses beyond it, all times the scale of the instance."""
        worst, weight = self.instance.worst, self.instance.tail_weight
        total = worst * sum(self.time)
        if not weight:
            return total
        threshold, excess = self._peak("threshold"), [self._peak(f"excess_{b}") for b in range(self.batches)]
        for time, beyond in zip(self.time, excess, strict=True):
            self.model.add(beyond >= time - threshold)
        return total + weight * self.batches * (worst * threshold + sum(excess))

    def table(self, solver: cp_model.CpSolver) -> Ints:
        """The table that a solution chooses."""
        return np.array(
            [[next(d for d, on in devices.items() if solver.boolean_value(on)) for devices in row] for row in self.goes]
        )


def divided_bound(instance: TableInstance, limits: Limits) -> float:
    """A lower bound on the objective of any table, where pairs of a source and expert may be divided among replicas.

    A slot costs its tokens times the largest slope that its costs are never below. It is 0 where time is too short.
    """
    divided = _Divided(instance)
    constraints = [
        LinearConstraint(divided.matrix(divided.below_peaks()), -np.inf, 0),
        LinearConstraint(divided.matrix(divided.all_served()), 1, 1),
    ]
    whole = np.zeros(divided.columns, dtype=np.int64)
    answer = minimise(divided.cost(), constraints, whole, Bounds(0, np.inf), limits)
    return max(answer.lower_bound, 0.0)


Row = tuple[Ints, Floats]
"""The columns and the values of one constraint."""


class _Divided:
    """The linear program: columns are the parts of each source and expert that replicas serve, then for each batch the
    peak of devices and that of links, then the threshold, and for each batch the excess."""

    def __init__(self, instance: TableInstance) -> None:
        self.instance = instance
        self.batches, sources, _ = instance.counts.shape
        held = np.broadcast_to(instance.holders, (sources, *instance.holders.shape))
        self.source, self.expert, self.device = np.nonzero(held)
        self.parts = len(self.source)
        self.links, self.threshold = self.parts + self.batches, self.parts + 2 * self.batches
        self.columns = self.parts + 3 * self.batches + 1

    def cost(self) -> Floats:
        """The mean time, and the weighed threshold and mean excess of the tail."""
        cost, weight = np.zeros(self.columns), self.instance.tail_weight
        cost[self.parts : self.threshold] = 1 / self.batches
        cost[self.threshold] = weight
        cost[self.threshold + 1 :] = weight / self.instance.worst
        return cost

    def matrix(self, rows: list[Row]) -> csr_array:
        """The rows as a matrix over all columns."""
        row = np.repeat(np.arange(len(rows)), [len(column) for column, _ in rows])
        column, value = (np.concatenate([each[part] for each in rows]) for part in (0, 1))
        return coo_array((value, (row, column)), shape=(len(rows), self.columns)).tocsr()

    def all_served(self) -> list[Row]:
        """The parts of each source and expert."""
        experts = len(self.instance.holders)
        cell = self.source * experts + self.expert
        found = [np.flatnonzero(cell == number) for number in range(self.instance.counts.shape[1] * experts)]
        return [(parts, np.ones(len(parts))) for parts in found]

    def below_peaks(self) -> list[Row]:
        """Devices and links minus their peak, and times minus the threshold minus the excess."""
        instance, parts, rows = self.instance, np.arange(self.parts), list[Row]()
        slope = instance.slot.slope(int(instance.counts.sum(axis=1).max()))
        message = np.zeros((*instance.counts.shape[1:2], instance.holders.shape[1], 0))
        message = message if instance.message is None else instance.message
        for batch in range(self.batches):
            pairs = instance.counts[batch, self.source, self.expert]
            for device in range(instance.holders.shape[1]):
                load = slope * pairs * (self.device == device)
                rows.append((np.append(parts, self.parts + batch), np.append(load, -1.0)))
            for busy in message[self.source, self.device].T:
                rows.append((np.append(parts, self.links + batch), np.append(pairs * busy, -1.0)))
            time = np.array([self.parts + batch, self.links + batch, self.threshold, self.threshold + 1 + batch])
            rows.append((time, np.array([1.0, 1.0, -1.0, -1.0])))
        return rows
