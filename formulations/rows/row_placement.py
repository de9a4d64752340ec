"""Which experts have replicas in one mesh row, and on which of its devices, over sampled batches.

Everything outside the row is fixed: who is there, and what the experts that are not in the pool bring there. Pool
experts are routed at will, batch by batch, to their replicas in the row and outside (second stage), and the peak of a
batch is that of *all* devices. So the objective is what a real routing reaches, and that of the whole layer with
optimal routing is no worse; where it falls, the layer gets better. The bound holds for every placement of the row from
this pool with these fixed loads, fractional routing included.

The model sees the row as groups of devices, each a device of its own with as many slots and times the peak as it has
devices. One group is a relaxation that a second solves at 24 slots and 64 batches; as many groups as devices are the
exact model, for small rows only. At home size (16 x 8 x 3, pools of 27 to 35, 64 batches) the exact model has the same
linear relaxation, but takes 6-8 s for it, and after 60 s its bound is still that and its best placement half as bad
again as the one to start from. CP-SAT on whole pairs, with that start as hint, is worse than it after 10 s, and after
60 s where descent is after a third of one; its bound is the floor. Columns of triples of experts change nothing:
devices are alike, so the relaxation may put every triple on each of them to an eighth, and sees one group. So answers
come from descent with exact peaks (`row_descent`), bounds from one group: gaps of .4 to 1.4 % after 2 s.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint
from scipy.sparse import coo_array

from formulations.kit.arrays import Floats, Ints
from formulations.kit.outcome import Outcome, SolveStatus
from formulations.kit.solver import Limits, MilpAnswer, minimise
from formulations.rows.mesh_row import MeshRow
from formulations.rows.row_descent import descend_row, fill, first_slots
from formulations.rows.row_split import tail_mean

PROVEN = 1e-6  # relative gap from which on `Outcome` takes a value for optimal
DESCENT_SHARE = 0.5  # of the time, at most, for descent before the model
LARGEST_MODEL = 6000  # flows in the row; with more, the relaxation by itself takes the seconds that there are


def place_row(row: MeshRow, hint: Ints | None, limits: Limits) -> Outcome[Ints]:
    """Minimise the tail mean of the peaks; slots `[device, slot]` of pool experts, -1 = empty.

    hint: slots to start from, such as those of now; what is found is no worse. Objective and bound are in the unit of
    load. Raises ValueError for a hint that is not valid. Half of the time at most goes to descent from the hint, with
    moves in an order drawn with the seed; then the model is solved with 1, 2, 4, ... groups until the bound meets the
    objective, models are too large or time is up. The first call ever compiles the kernels, within its time.
    """
    clock = limits.clock()
    if len(row.bound_to_row) > row.devices * row.slots_per_device:
        return Outcome(None, None, np.inf, SolveStatus.INFEASIBLE, clock.elapsed())
    if hint is not None and (wrong := row.violations(hint)):
        raise ValueError(f"hint: {'; '.join(wrong)}")
    small, rng = row.compact(), np.random.default_rng(limits.seed)
    slots = first_slots(small) if hint is None else hint
    slots = descend_row(small, slots, rng, clock.part(DESCENT_SHARE))
    bound = float(tail_mean(small.split().floor, row.level))
    for model in _models(small):
        worth, left = small.worth(slots), clock.left()
        if worth <= bound * (1 + PROVEN) or left <= 0:
            break
        answer = model.solve(replace(limits, seconds=left))
        bound = max(bound, answer.lower_bound)
        slots = min(slots, model.extract(answer, slots), key=small.worth)
    worth = small.worth(slots)
    status = SolveStatus.OPTIMAL if worth - bound <= PROVEN * abs(worth) else SolveStatus.FEASIBLE
    return Outcome(slots, worth, min(bound, worth), status, clock.elapsed())


def _models(row: MeshRow) -> Iterator["_Model"]:
    """The models with 1, 2, 4, ... groups up to one for each device, but for those too large."""
    groups = 1
    while groups * row.load.size <= LARGEST_MODEL or groups == 1:
        yield _Model.of(row, groups)
        if groups == row.devices:
            return
        groups = min(2 * groups, row.devices)


_Side = Ints | Floats | float
_Term = tuple[Ints, Ints, Ints | Floats | int]  # row, variable, value


class _Variables(NamedTuple):
    """Numbers of the variables: on `[expert, group]`, a replica is there; peak `[batch]`; inside `[batch, expert,
    group]` and outside `[batch, pair]`, the pairs served there, a pair being an expert and an outside device it is on;
    tail `[1]`, the peak from which batches are in the tail, and beyond `[batch]`, what is above it."""

    on: Ints
    peak: Ints
    inside: Ints
    outside: Ints
    tail: Ints
    beyond: Ints


@dataclass(frozen=True, eq=False)
class _Model:
    """The row as groups of devices; pair `[pair, 2]` an expert and an outside device it is on."""

    row: MeshRow
    groups: list[Ints]
    pair: Ints
    numbers: _Variables

    @classmethod
    def of(cls, row: MeshRow, groups: int) -> "_Model":
        (batches, experts), pair = row.load.shape, np.argwhere(row.elsewhere)
        shapes = [(experts, groups), (batches,), (batches, experts, groups), (batches, len(pair)), (1,), (batches,)]
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
        parts = np.split(np.arange(ends[-1]), ends[:-1])
        numbers = _Variables(*(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)))
        return cls(row, np.array_split(np.arange(row.devices), groups), pair, numbers)

    def solve(self, limits: Limits) -> MilpAnswer:
        """Minimise the tail mean of the peaks: tail + mean of beyond / (1 - level) (Rockafellar and Uryasev 2000)."""
        v, bounds = self.numbers, self._bounds()
        cost = np.zeros(len(bounds.lb))
        cost[v.tail], cost[v.beyond] = 1, 1 / ((1 - self.row.level) * len(v.beyond))
        families = [
            self._slots_suffice(),
            self._nobody_is_lost(),
            self._all_is_served(),
            self._served_where_held(),
            self._peak_covers_row(),
            self._peak_covers_outside(),
            self._tail_covers_peaks(),
        ]
        integral = np.zeros(len(cost), dtype=np.int64)
        integral[v.on] = 1
        return minimise(cost, families, integral, bounds, limits)

    def _bounds(self) -> Bounds:
        """With equal groups the heaviest expert that needs the row is in the first one: renumbering changes no peak."""
        v = self.numbers
        low, high = np.zeros(v.beyond[-1] + 1), np.full(v.beyond[-1] + 1, np.inf)
        high[v.on], low[v.peak] = 1, self.row.split().floor
        needed = self.row.bound_to_row
        if len(needed) and self.row.devices % len(self.groups) == 0:
            low[v.on[needed[self.row.load[:, needed].sum(axis=0).argmax()], 0]] = 1
        return Bounds(low, high)

    def _slots_suffice(self) -> LinearConstraint:
        on = self.numbers.on
        room = np.array([len(group) * self.row.slots_per_device for group in self.groups])
        return self._rows([(np.arange(len(room)), on, 1)], -np.inf, room)

    def _nobody_is_lost(self) -> LinearConstraint:
        """An expert without a replica outside has one in the row."""
        on = self.numbers.on[self.row.bound_to_row]
        return self._rows([(np.arange(len(on))[:, None], on, 1)], np.ones(len(on)), np.inf)

    def _all_is_served(self) -> LinearConstraint:
        v, number = self.numbers, np.arange(self.row.load.size).reshape(self.row.load.shape)
        terms: list[_Term] = [(number[:, :, None], v.inside, 1), (number[:, self.pair[:, 0]], v.outside, 1)]
        return self._rows(terms, self.row.load.ravel(), self.row.load.ravel())

    def _served_where_held(self) -> LinearConstraint:
        v, number = self.numbers, np.arange(self.numbers.inside.size).reshape(self.numbers.inside.shape)
        terms: list[_Term] = [(number, v.inside, 1), (number, v.on[None], -self.row.load[:, :, None])]
        return self._rows(terms, -np.inf, np.zeros(number.size))

    def _peak_covers_row(self) -> LinearConstraint:
        v, sizes = self.numbers, np.array([len(group) for group in self.groups])
        number = np.arange(len(v.peak) * len(sizes)).reshape(-1, len(sizes))
        terms: list[_Term] = [(number[:, None], v.inside, -1), (number, v.peak[:, None], sizes)]
        return self._rows(terms, np.zeros(number.size), np.inf)

    def _peak_covers_outside(self) -> LinearConstraint:
        v, number = self.numbers, np.arange(self.row.fixed.size).reshape(self.row.fixed.shape)
        terms: list[_Term] = [(number[:, self.pair[:, 1]], v.outside, -1), (number, v.peak[:, None], 1)]
        return self._rows(terms, self.row.fixed.ravel(), np.inf)

    def _tail_covers_peaks(self) -> LinearConstraint:
        v, number = self.numbers, np.arange(len(self.numbers.peak))
        terms: list[_Term] = [(number, v.tail, 1), (number, v.beyond, 1), (number, v.peak, -1)]
        return self._rows(terms, np.zeros(len(number)), np.inf)

    def _rows(self, terms: list[_Term], low: _Side, high: _Side) -> LinearConstraint:
        """Rows low <= sum of value * variable <= high, from (row, variable, value) of any shapes that fit."""
        parts = [[part.ravel() for part in np.broadcast_arrays(*term)] for term in terms]
        row, column, value = (np.concatenate(part) for part in zip(*parts, strict=True))
        rows = next(np.size(side) for side in (low, high) if np.ndim(side))
        shape = (rows, int(self.numbers.beyond[-1]) + 1)
        return LinearConstraint(coo_array((value, (row, column)), shape=shape).tocsr(), low, high)

    def extract(self, answer: MilpAnswer, known: Ints) -> Ints:
        """The experts HiGHS put in each group, the heaviest first to the least loaded device; known if there are none.

        One device holds an expert once, and a group no more experts than slots, so that all of them find room.
        """
        if answer.x is None:
            return known
        on = answer.x[self.numbers.on] > 0.5
        heavy = np.argsort(-self.row.load.sum(axis=0), kind="stable")
        return fill(self.row, [(int(e), self.groups[g]) for e in heavy for g in np.flatnonzero(on[e])])
