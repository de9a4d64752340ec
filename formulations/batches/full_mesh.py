"""Experts to devices over sampled batches where no slot is to spare: every expert has one replica, nothing is routed.

A placement is a partition of the experts into sets of `slots_per_device`, called *columns*, and a batch's peak is the
load of its heaviest column. Since devices can be renumbered at will, a model that names them proves nothing: its linear
relaxation is the mean. A model of columns proves more:

1. A linear program over columns. Variables: which columns are chosen, and how far the peak of each batch climbs each of
   its steps. Constraints: each expert is in one column; and the peak of batch b climbs the step to v at least as far as
   columns that hold expert e and reach v are chosen, for every e. The objective is the sum of the peaks. The duals are
   prices. Their sum and the *excess* of every column, which is its cost beyond the prices of its experts, bound every
   total from below (`_priced` computes that bound from the prices alone).
2. A search, depth first. It always chooses a column for the first expert that has none, and turns back where the peaks
   so far or the sum of excesses reach the total looked for.
3. Totals just above the bound are looked for first, then larger ones, so that a search in vain gives a bound too.

With 24 experts on 8 devices and 16 batches the linear program is up to 2.5 % below the optimum, which takes .2 to 4 s
of one core in all, with its proof. CP-SAT with experts on devices (`recourse`) finds the same placement, but after 40 s
its bound is still that of each batch alone, 18 % below.
"""

from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array

from formulations.bounds.load import any_placement_bound
from formulations.kit.arrays import Bools, Floats, Ints
from formulations.kit.clock import Clock
from formulations.kit.copying import copy
from formulations.kit.kernels import kernel
from formulations.kit.outcome import Outcome, SolveStatus
from formulations.kit.solver import Limits

MOST_COLUMNS = 6000  # with more of them the linear program takes minutes
MOST_EXPERTS = 62  # a set of experts is the bits of one int64
LEVELS = 24  # steps of a batch's peak in the linear program; more make it tighter and slower, a compromise
FIRST_STEP = 0.005  # how far above the bound the first total is that is looked for, as a share of the best total
GROWTH = 1.6  # how much farther above the bound each further total is; both are compromises
NODES = 1 << 20  # columns tried between two looks at the clock, which take some tens of milliseconds
HAIR = 1e-9  # allowed for rounding errors of a sum of prices, relative to the sum of their sizes


def is_full(experts: int, devices: int, slots_per_device: int) -> bool:
    """Whether this module applies: there are as many slots as experts, and not too many columns."""
    small = experts <= MOST_EXPERTS and comb(experts, slots_per_device) <= MOST_COLUMNS
    return small and experts == devices * slots_per_device


def partition_experts(load: Ints, devices: int, known: Ints, limits: Limits) -> Outcome[Ints]:
    """Minimise the mean over batches of the peak device load; load `[batch, expert]` whole pairs.

    known: slots `[device, slot]` of a placement without empty slots. The value is a placement in the same form that is
    no worse. Objective and bound are in pairs, and the bound holds for every placement in these slots. Of the limits,
    only seconds and `cancelled` count; the answer depends on them only where they end the search.
    """
    clock, base = limits.clock(), any_placement_bound(load, devices, known.size)
    hot = np.argsort(-(load / np.maximum(base, 1)[:, None]).max(axis=0), kind="stable")
    pool = _columns(load[:, hot], known.shape[1])
    best, total = known, int(np.maximum(base, load[:, known].sum(axis=2).max(axis=1)).sum())
    proven = int(min(total, _priced(pool.below(base, total), base, devices, clock).bound))
    step = FIRST_STEP * total
    while proven < total and not clock.over():
        below = min(total, proven + max(1, int(step)))
        priced = _priced(pool.below(base, below), base, devices, clock)
        found = _search(priced, base, devices, below, clock)
        if found.slots is not None:
            best, total = hot[found.slots].astype(np.int32), found.total
        proven = max(proven, int(min(total, below, below if found.done else priced.bound)))
        step *= GROWTH
    status = SolveStatus.OPTIMAL if proven == total else SolveStatus.FEASIBLE
    return Outcome(best, total / len(load), proven / len(load), status, clock.elapsed())


class _Columns(NamedTuple):
    """All columns: members `[column, slot]`, experts in ascending order, and load `[column, batch]` pairs.

    Experts are numbered by heat here; expert 0 is the hottest. experts is their number.
    """

    members: Ints
    load: Ints
    experts: int

    def below(self, base: Ints, total: int) -> "_Columns":
        """The columns that can be part of a total below this one, if all other peaks are at their base `[batch]`."""
        kept = np.maximum(self.load, base).sum(axis=1) < total
        return _Columns(self.members[kept], self.load[kept], self.experts)


def _columns(load: Ints, slots_per_device: int) -> _Columns:
    """Every set of this number of experts, for load `[batch, expert]`."""
    members = np.array(list(combinations(range(load.shape[1]), slots_per_device)))
    return _Columns(members, load.T[members].sum(axis=1).astype(np.int64), load.shape[1])


class _Priced(NamedTuple):
    """Columns and their excess `[column]` >= 0, the cost beyond the prices of their experts.

    No total of these columns is below `least`, in parts of pairs as excesses are, nor below `bound`, in whole pairs.
    """

    columns: _Columns
    excess: Floats
    least: float
    bound: float


def _priced(columns: _Columns, base: Ints, devices: int, clock: Clock) -> _Priced:
    """Price columns by the duals of the linear program; when time is up, prices are 0 and the bound is the base.

    Let y `[step, expert]` >= 0 be prices of climbing that sum up to the step's height at most. Then the height of a
    step that is climbed is no less than the prices that the columns climbing it pay. So every total is at least the
    base plus the payments of all its columns.
    """
    if len(columns.load) == 0:
        return _Priced(columns, np.zeros(0), np.inf, np.inf)
    climbs, height = _steps(columns, base)
    climbing, price = _duals(columns, climbs, height, clock)
    climbing *= np.minimum(1, height / np.maximum(climbing.sum(axis=1), 1e-12))[:, None]
    paid = (climbs * climbing.T[columns.members].sum(axis=1)).sum(axis=1)
    excess = paid - price[columns.members].sum(axis=1)
    shift = float(excess.min())
    terms = np.concatenate([base, price, np.full(devices, shift)])
    least = float(terms.sum() - HAIR * np.abs(terms).sum())
    return _Priced(columns, excess - shift, least, float(np.ceil(least)))


class _Steps(NamedTuple):
    """climbs `[column, step]`, whether a column's load lifts its batch's peak over the step; height `[step]` pairs."""

    climbs: Bools
    height: Floats


def _steps(columns: _Columns, base: Ints) -> _Steps:
    """The steps that peaks climb above their base `[batch]`, all batches in a row, at most LEVELS of each."""
    climbs, height = [np.zeros((len(columns.load), 0), dtype=np.bool_)], [np.zeros(0)]
    for load, floor in zip(columns.load.T, base, strict=True):
        top = int(load.max(initial=0))
        if top > floor:
            peaks = np.unique(np.linspace(floor + 1, top, LEVELS).astype(np.int64))
            climbs.append(load[:, None] >= peaks)
            height.append(np.diff(peaks, prepend=floor).astype(np.float64))
    return _Steps(np.concatenate(climbs, axis=1), np.concatenate(height))


class _Duals(NamedTuple):
    """Prices of climbing `[step, expert]`, and of having an expert placed `[expert]`; 0 where time was up."""

    climbing: Floats
    placed: Floats


def _duals(columns: _Columns, climbs: Bools, height: Floats, clock: Clock) -> _Duals:
    """Solve the linear program of step 1 of this module, by HiGHS's interior points."""
    number, slots_per_device = columns.members.shape
    steps, experts = len(height), columns.experts
    column, step = np.nonzero(climbs)
    row = (step[:, None] * experts + columns.members[column]).ravel()
    climbed = np.arange(steps * experts)
    values = np.append(np.ones(len(row)), -np.ones(len(climbed)))
    places = np.append(row, climbed), np.append(column.repeat(slots_per_device), number + climbed // experts)
    holds = columns.members.ravel(), np.arange(number).repeat(slots_per_device)
    found = linprog(
        np.append(np.zeros(number), height),
        A_ub=coo_array((values, places), shape=(steps * experts, number + steps)).tocsr(),
        b_ub=np.zeros(steps * experts),
        A_eq=coo_array((np.ones(columns.members.size), holds), shape=(experts, number + steps)).tocsr(),
        b_eq=np.ones(experts),
        method="highs-ipm",
        options={"time_limit": clock.left()},
    )
    if found.x is None:
        return _Duals(np.zeros((steps, experts)), np.zeros(experts))
    climbing: Floats = np.maximum(-found.ineqlin.marginals, 0).reshape(steps, experts)
    return _Duals(climbing, found.eqlin.marginals)


class _Tree(NamedTuple):
    """The input of `_descend`: columns sorted by their first expert, then by excess.

    mask `[column]` the experts as bits, load `[column, batch]`, excess `[column]`, and start `[expert + 1]`, the first
    column whose first member is the expert.
    """

    mask: Ints
    load: Ints
    excess: Floats
    start: Ints


class _Path(NamedTuple):
    """The position of `_descend`, so that it can go on where it stopped; a level is a device to fill.

    level `[1]`; for each level the next column to try, the last, and the one taken `[level]`; before each level the
    experts placed as bits, their excess, and peak `[level, batch]`; below `[1]`, the total to stay below; best
    `[level]`, the columns of the best total found.
    """

    level: Ints
    next: Ints
    last: Ints
    taken: Ints
    placed: Ints
    excess: Floats
    peak: Ints
    below: Ints
    best: Ints


class _Found(NamedTuple):
    """Whether all has been searched; the slots `[device, slot]` of the least total, None without any; and the total."""

    done: bool
    slots: Ints | None
    total: int


def _search(priced: _Priced, base: Ints, devices: int, below: int, clock: Clock) -> _Found:
    """Look for the least total below this one, until time is up."""
    columns, tree = _in_order(priced)
    path = _first_path(tree, base, devices, below)
    done = False
    while not done and not clock.over():
        done = _descend(tree, path, priced.least, NODES)
    if path.below[0] == below:
        return _Found(done, None, below)
    return _Found(done, columns.members[path.best], int(path.below[0]))


class _Ordered(NamedTuple):
    """Columns in the order in which they are tried, and the tree of the search over them."""

    columns: _Columns
    tree: _Tree


def _in_order(priced: _Priced) -> _Ordered:
    """Sort columns by their first expert, and those of one expert by excess."""
    members, load, experts = priced.columns
    order = np.lexsort((priced.excess, members[:, 0]))
    members, load = members[order], np.ascontiguousarray(load[order])
    start = np.searchsorted(members[:, 0], np.arange(experts + 1))
    mask = (np.int64(1) << members).sum(axis=1)
    return _Ordered(_Columns(members, load, experts), _Tree(mask, load, priced.excess[order], start))


def _first_path(tree: _Tree, base: Ints, devices: int, below: int) -> _Path:
    """The path before any column is taken."""
    following, last, taken, best = (np.zeros(devices, dtype=np.int64) for _ in range(4))
    placed, excess = np.zeros(devices + 1, dtype=np.int64), np.zeros(devices + 1)
    peak = np.tile(base.astype(np.int64), (devices + 1, 1))
    path = _Path(np.zeros(1, dtype=np.int64), following, last, taken, placed, excess, peak, np.array([below]), best)
    path.next[0], path.last[0] = tree.start[0], tree.start[1]
    return path


@kernel
def _descend(tree: _Tree, path: _Path, least: float, nodes: int) -> bool:
    """Try `nodes` columns and return whether none is left. least: the bound to which excesses add."""
    level, devices = path.level[0], len(path.next)
    for _ in range(nodes):
        if level < 0:
            break
        column = path.next[level]
        if column == path.last[level] or least + path.excess[level] + tree.excess[column] > path.below[0] - 1:
            level -= 1
            continue
        path.next[level] += 1
        if path.placed[level] & tree.mask[column] or not _climb(tree, path, level, column):
            continue
        path.taken[level] = column
        if level + 1 == devices:
            path.below[0] = path.peak[devices].sum()
            copy(path.taken, path.best)
            continue
        path.placed[level + 1] = path.placed[level] | tree.mask[column]
        path.excess[level + 1] = path.excess[level] + tree.excess[column]
        first = 0
        while path.placed[level + 1] >> first & 1:
            first += 1
        level += 1
        path.next[level], path.last[level] = tree.start[first], tree.start[first + 1]
    path.level[0] = level
    return bool(level < 0)


@kernel
def _climb(tree: _Tree, path: _Path, level: int, column: int) -> bool:
    """Compute the peaks with one column more, and return whether their sum stays below the total."""
    total = 0
    for batch in range(path.peak.shape[1]):
        peak = max(path.peak[level, batch], tree.load[column, batch])
        path.peak[level + 1, batch] = peak
        total += peak
    return bool(total < path.below[0])
