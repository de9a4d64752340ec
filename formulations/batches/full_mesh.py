"""Experts to devices over sampled batches where no slot is to spare: every expert has one replica, nothing is routed.

A placement is a partition of the experts into sets of `slots_per_device`, *columns*, and a batch's peak is the load of
its heaviest column. Devices are alike, so a model that knows them by name proves nothing (its linear relaxation is the
mean); one that knows columns does:

1. A linear program over columns. Each expert is in one column, and the peak of batch b climbs the step to v at least
   as far as columns that hold e and reach v are chosen, for every expert e. Its duals are prices: what a column costs
   beyond them, its *excess*, and the prices' sum bound every total from below (`_priced` adds them up itself).
2. Columns are chosen depth first, always one that holds the first expert left, as long as neither the peaks so far nor
   the sum of excesses reach the total looked for.
3. Totals just above the bound are looked for first, then larger ones, so that what was searched in vain is a bound too.

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
from formulations.kit.kernels import kernel
from formulations.kit.outcome import Outcome, SolveStatus
from formulations.kit.solver import Limits

MOST_COLUMNS = 6000  # with more the linear program takes minutes
MOST_EXPERTS = 62  # bits of a set of experts
LEVELS = 24  # steps of a batch's peak
FIRST_STEP, GROWTH = 0.005, 1.6  # how far above the bound to look first, as a share of the total, and then each time
NODES = 1 << 20  # columns tried between two looks at the clock, some tens of milliseconds
HAIR = 1e-9  # relative to the sum of prices: what rounding may do to it


def is_full(experts: int, devices: int, slots_per_device: int) -> bool:
    """Whether this module applies: as many slots as experts, and not too many columns."""
    small = experts <= MOST_EXPERTS and comb(experts, slots_per_device) <= MOST_COLUMNS
    return small and experts == devices * slots_per_device


def partition_experts(load: Ints, devices: int, known: Ints, limits: Limits) -> Outcome[Ints]:
    """Minimise the mean over batches of the peak device load; load `[batch, expert]` whole pairs.

    known: slots `[device, slot]` of a placement without empty slots. The value is a placement in the same form, no
    worse; objective and bound are in pairs, and the bound holds for every placement in these slots. The limit is in
    seconds alone; the answer depends on it only where it is reached.
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
        done, found = _search(priced, base, devices, below, clock)
        if found is not None:
            best, total = hot[found[0]].astype(np.int32), found[1]
        proven = max(proven, int(min(total, below, below if done else priced.bound)))
        step *= GROWTH
    status = SolveStatus.OPTIMAL if proven == total else SolveStatus.FEASIBLE
    return Outcome(best, total / len(load), proven / len(load), status, clock.elapsed())


class _Columns(NamedTuple):
    """members `[column, slot]` experts in ascending order, load `[column, batch]` pairs; expert 0 is the hottest."""

    members: Ints
    load: Ints
    experts: int

    def below(self, base: Ints, total: int) -> "_Columns":
        """Those that, with every other batch at its base `[batch]`, stay below a total."""
        kept = np.maximum(self.load, base).sum(axis=1) < total
        return _Columns(self.members[kept], self.load[kept], self.experts)


def _columns(load: Ints, slots_per_device: int) -> _Columns:
    members = np.array(list(combinations(range(load.shape[1]), slots_per_device)))
    return _Columns(members, load.T[members].sum(axis=1).astype(np.int64), load.shape[1])


class _Priced(NamedTuple):
    """Columns, what each costs beyond the prices of its experts, excess `[column]` >= 0; what no total of theirs is
    below, first in parts of pairs, as excesses are, then in whole ones."""

    columns: _Columns
    excess: Floats
    least: float
    bound: float


def _priced(columns: _Columns, base: Ints, devices: int, clock: Clock) -> _Priced:
    """Prices from the duals of the linear program; when time is up there are none, and the bound is the base's sum.

    With prices y `[step, expert]` >= 0 of climbing, at most the step's height in all, the height of a step that is
    climbed is no less than what columns that climb it pay. So any total is base + what all its columns pay.
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


def _steps(columns: _Columns, base: Ints) -> tuple[Bools, Floats]:
    """climbs `[column, step]`, whether a column's load lifts the peak over the step, and the heights `[step]`."""
    climbs, height = [np.zeros((len(columns.load), 0), dtype=np.bool_)], [np.zeros(0)]
    for load, floor in zip(columns.load.T, base, strict=True):
        top = int(load.max(initial=0))
        if top > floor:
            peaks = np.unique(np.linspace(floor + 1, top, LEVELS).astype(np.int64))
            climbs.append(load[:, None] >= peaks)
            height.append(np.diff(peaks, prepend=floor).astype(np.float64))
    return np.concatenate(climbs, axis=1), np.concatenate(height)


def _duals(columns: _Columns, climbs: Bools, height: Floats, clock: Clock) -> tuple[Floats, Floats]:
    """Prices of climbing `[step, expert]` and of having experts placed `[expert]`."""
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
        return np.zeros((steps, experts)), np.zeros(experts)
    climbing: Floats = np.maximum(-found.ineqlin.marginals, 0).reshape(steps, experts)
    return climbing, found.eqlin.marginals


class _Tree(NamedTuple):
    """What `_descend` reads: columns in order of their first expert, then of excess, and where each expert's begin."""

    mask: Ints
    load: Ints
    excess: Floats
    start: Ints


class _Path(NamedTuple):
    """Where `_descend` is: level `[1]`; by level: next and last column to try, the column taken, what experts are
    placed, their excess, and the peaks `[level, batch]`; below `[1]`, the total to stay below, and best `[level]`."""

    level: Ints
    next: Ints
    last: Ints
    taken: Ints
    placed: Ints
    excess: Floats
    peak: Ints
    below: Ints
    best: Ints


def _search(
    priced: _Priced, base: Ints, devices: int, below: int, clock: Clock
) -> tuple[bool, tuple[Ints, int] | None]:
    """Whether all totals below this were looked for, and the least one found with its slots."""
    columns, tree = _in_order(priced)
    path = _first_path(tree, base, devices, below)
    done = False
    while not done and not clock.over():
        done = _descend(tree, path, priced.least, NODES)
    if path.below[0] == below:
        return done, None
    return done, (columns.members[path.best], int(path.below[0]))


def _in_order(priced: _Priced) -> tuple[_Columns, _Tree]:
    """Columns in the order in which they are tried."""
    members, load, experts = priced.columns
    order = np.lexsort((priced.excess, members[:, 0]))
    members, load = members[order], np.ascontiguousarray(load[order])
    start = np.searchsorted(members[:, 0], np.arange(experts + 1))
    mask = (np.int64(1) << members).sum(axis=1)
    return _Columns(members, load, experts), _Tree(mask, load, priced.excess[order], start)


def _first_path(tree: _Tree, base: Ints, devices: int, below: int) -> _Path:
    level, following, last, taken, best = (np.zeros(size, dtype=np.int64) for size in (1, *[devices] * 4))
    placed, excess = np.zeros(devices + 1, dtype=np.int64), np.zeros(devices + 1)
    peak = np.tile(base.astype(np.int64), (devices + 1, 1))
    path = _Path(level, following, last, taken, placed, excess, peak, np.array([below]), best)
    path.next[0], path.last[0] = tree.start[0], tree.start[1]
    return path


@kernel
def _descend(tree: _Tree, path: _Path, least: float, nodes: int) -> bool:
    """Try so many columns; whether none is left. least: what a total without excess is."""
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
            path.best[:] = path.taken
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
    """Peaks with one column more; whether their sum stays below."""
    total = 0
    for batch in range(path.peak.shape[1]):
        peak = max(path.peak[level, batch], tree.load[column, batch])
        path.peak[level + 1, batch] = peak
        total += peak
    return bool(total < path.below[0])
