"""Which experts have replicas in one mesh row, and on which of its devices, over sampled batches.

Everything outside the row is fixed: which experts are there, and the load of experts that are not in the pool. Pool
experts are routed at will, batch by batch, to their replicas in the row and outside (second stage), and the peak of a
batch is taken over *all* devices. So a real routing reaches the objective, and the whole layer with optimal routing is
no worse. Where the objective falls, the layer gets better. The bound holds for every placement of the row from
this pool with these fixed loads, fractional routing included.

Variables: which experts are in which group of devices, the pairs served in each group and on each outside device, the
peak of each batch, and the start of the tail and what is beyond. Constraints: slots suffice, no expert is lost, all
pairs are served and only where there are replicas, peaks cover groups and outside devices, and the tail covers peaks.
The objective is the tail mean; the experts of a group are then put on its devices, the heaviest first.

The model sees the row as groups of devices. A group is one large device: n devices give it n times the slots and n
times the peak. One group is a relaxation that takes a second at 24 slots and 64 batches; as many groups as devices are
the exact model, for small rows only. On 16 x 8 devices of 3 slots (pools of 27 to 35 experts, 64 batches) the exact
model has the same linear relaxation, but takes 6-8 s for it. After 60 s its bound is still that one, and its best
placement is half as bad again as the one to start from. CP-SAT on whole pairs, with that start as hint, is worse than
the start after 10 s, and after 60 s it is where descent is after a third of a second; its bound is the floor. Columns
of triples of experts change nothing: no device differs from another, so the relaxation may put an eighth of every
triple on each of them, which is one group again. So answers come from descent with exact peaks (`row_descent`) and
bounds from one group: gaps of .4 to 1.4 % after 2 s.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint
from scipy.sparse import coo_array

from formulations.kit.arrays import Floats, Ints
from formulations.kit.outcome import PROVEN, Outcome, SolveStatus
from formulations.kit.solver import Limits, MilpAnswer, minimise
from formulations.rows.mesh_row import MeshRow
from formulations.rows.row_descent import descend_row, fill, first_slots
from formulations.rows.row_split import tail_mean

DESCENT_SHARE = 0.5  # of the time, at most, is for descent before the model; a compromise between answer and bound
LARGEST_MODEL = 6000  # flows in the row; with more of them the relaxation alone takes more than a few seconds


def place_row(row: MeshRow, hint: Ints | None, limits: Limits) -> Outcome[Ints]:
    """Minimise the tail mean of the peaks; slots `[device, slot]` of pool experts, -1 = empty.

    hint: slots to start from, such as the present ones; the answer is no worse. Objective and bound are in the unit of
    load. Raises ValueError for a hint that is not valid. Half of the time at most goes to descent from the hint, with
    moves in an order drawn with the seed; then the model is solved with 1, 2, 4, ... groups until the bound meets the
    objective, models are too large or time is up. The first call compiles the kernels, and its time
    counts that.
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
    """The models with 1, 2, 4, ... groups up to one for each device, except those that are too large."""
    groups = 1
    while groups * row.load.size <= LARGEST_MODEL or groups == 1:
        yield _Model.of(row, groups)
        if groups == row.devices:
            return
        groups = min(2 * groups, row.devices)


_Side = Ints | Floats | float


class _Term(NamedTuple):
    """A summand of constraints: value * variable in a row, in arrays whose shapes broadcast against each other."""

    row: Ints
    variable: Ints
    value: Ints | Floats | int


class _Variables(NamedTuple):
    """Numbers of the variables.

    on `[expert, group]`: a replica is there; peak `[batch]`; inside `[batch, expert, group]` and outside `[batch,
    pair]`: the load served there, where a pair is an expert and an outside device it is on; tail `[1]`: the peak from
    which on batches are in the tail; beyond `[batch]`: how far a batch's peak is above that.
    """

    on: Ints
    peak: Ints
    inside: Ints
    outside: Ints
    tail: Ints
    beyond: Ints


@dataclass(frozen=True, eq=False)
class _Model:
    """The row as groups of devices; pair `[pair, 2]` lists an expert and an outside device it is on."""

    row: MeshRow
    groups: list[Ints]
    pair: Ints
    numbers: _Variables

    @classmethod
    def of(cls, row: MeshRow, groups: int) -> "_Model":
        """The model with this number of groups, of devices as equal in number as possible."""
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
            self._no_expert_is_lost(),
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
        """The range of every variable: `on` is 0 or 1, and peaks begin at the floor.

        Where groups are equal, the heaviest expert that needs the row is put into the first one. That loses nothing, as
        renumbering groups changes no peak.
        """
        v = self.numbers
        low, high = np.zeros(v.beyond[-1] + 1), np.full(v.beyond[-1] + 1, np.inf)
        high[v.on], low[v.peak] = 1, self.row.split().floor
        needed = self.row.bound_to_row
        if len(needed) and self.row.devices % len(self.groups) == 0:
            low[v.on[needed[self.row.load[:, needed].sum(axis=0).argmax()], 0]] = 1
        return Bounds(low, high)

    def _slots_suffice(self) -> LinearConstraint:
        """A group holds no more replicas than its devices have slots."""
        on = self.numbers.on
        room = np.array([len(group) * self.row.slots_per_device for group in self.groups])
        return self._rows([_Term(np.arange(len(room)), on, 1)], -np.inf, room)

    def _no_expert_is_lost(self) -> LinearConstraint:
        """An expert without a replica outside has at least one in the row."""
        on = self.numbers.on[self.row.bound_to_row]
        return self._rows([_Term(np.arange(len(on))[:, None], on, 1)], np.ones(len(on)), np.inf)

    def _all_is_served(self) -> LinearConstraint:
        """In every batch the load of an expert is served, in the row or outside."""
        v, number = self.numbers, np.arange(self.row.load.size).reshape(self.row.load.shape)
        terms = [_Term(number[:, :, None], v.inside, 1), _Term(number[:, self.pair[:, 0]], v.outside, 1)]
        return self._rows(terms, self.row.load.ravel(), self.row.load.ravel())

    def _served_where_held(self) -> LinearConstraint:
        """A group serves an expert only if it holds it."""
        v, number = self.numbers, np.arange(self.numbers.inside.size).reshape(self.numbers.inside.shape)
        terms = [_Term(number, v.inside, 1), _Term(number, v.on[None], -self.row.load[:, :, None])]
        return self._rows(terms, -np.inf, np.zeros(number.size))

    def _peak_covers_row(self) -> LinearConstraint:
        """The load of a group is at most the peak times its number of devices."""
        v, sizes = self.numbers, np.array([len(group) for group in self.groups])
        number = np.arange(len(v.peak) * len(sizes)).reshape(-1, len(sizes))
        terms = [_Term(number[:, None], v.inside, -1), _Term(number, v.peak[:, None], sizes)]
        return self._rows(terms, np.zeros(number.size), np.inf)

    def _peak_covers_outside(self) -> LinearConstraint:
        """The load of an outside device, fixed and from the pool, is at most the peak."""
        v, number = self.numbers, np.arange(self.row.fixed.size).reshape(self.row.fixed.shape)
        terms = [_Term(number[:, self.pair[:, 1]], v.outside, -1), _Term(number, v.peak[:, None], 1)]
        return self._rows(terms, self.row.fixed.ravel(), np.inf)

    def _tail_covers_peaks(self) -> LinearConstraint:
        """The peak of a batch is at most the tail's start plus what is beyond it."""
        v, number = self.numbers, np.arange(len(self.numbers.peak))
        terms = [_Term(number, v.tail, 1), _Term(number, v.beyond, 1), _Term(number, v.peak, -1)]
        return self._rows(terms, np.zeros(len(number)), np.inf)

    def _rows(self, terms: list[_Term], low: _Side, high: _Side) -> LinearConstraint:
        """The constraints low <= sum of the terms <= high, one for each row number."""
        fitted = [np.broadcast_arrays(term.row, term.variable, term.value) for term in terms]
        row, column, value = (np.concatenate([arrays[part].ravel() for arrays in fitted]) for part in range(3))
        rows = next(np.size(side) for side in (low, high) if np.ndim(side))
        shape = (rows, int(self.numbers.beyond[-1]) + 1)
        return LinearConstraint(coo_array((value, (row, column)), shape=shape).tocsr(), low, high)

    def extract(self, answer: MilpAnswer, known: Ints) -> Ints:
        """The experts of each group in the solution, the heaviest first on the least loaded device; or the known slots.

        A group holds no more experts than it has slots, so that all of them find room.
        """
        if answer.x is None:
            return known
        on = answer.x[self.numbers.on] > 0.5
        heavy = np.argsort(-self.row.load.sum(axis=0), kind="stable")
        return fill(self.row, [(int(e), self.groups[g]) for e in heavy for g in np.flatnonzero(on[e])])
