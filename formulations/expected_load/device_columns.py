"""A bound on the peak expected load of placements with given counts: column generation over what a device may hold.

A device holds a set of at most `slots_per_device` distinct experts, a *column*. Give every expert a price per replica.
Over all devices the prices sum up to sum(count * price), so some device holds a column worth at least a 1/devices part
of that. The lightest column with at least this worth bounds the peak from below, whatever the prices are. Prices are
thus a certificate, and `proven_peak` checks it by enumeration, without a solver. Good prices are the duals of a linear
program: it covers all replicas by columns below some peak, and its duals prove that it cannot where it cannot. Columns
are added as they are needed (Gilmore and Gomory, Operations Research 9, 1961).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_matrix

from formulations.kit.arrays import Floats, Ints
from formulations.kit.clock import Clock
from formulations.kit.kernels import kernel
from formulations.kit.solver import Limits

MOST_DEPTH = 3  # slots per device, as all columns are enumerated: 2.8 million of three out of 257 experts
CLOSE = 1e-6  # relative: a bound as near to the known peak as this already proves it (`kit.outcome.PROVEN`)
PROGRAMS = 20  # linear programs for each deterministic unit; a bound at full size needs 10 to 60
NEAR, FARTHER = 1e-4, 8  # the first step down from the known peak, relative, and how much longer each further step is
ROUNDING = 1e-9  # relative: prices are floats, and a column worth a rounding error less than its part must count


class PeakBound(NamedTuple):
    """A peak that no placement goes below, in units of weight, and the prices `[expert]` that prove it."""

    peak: float
    price: Floats


@dataclass
class _Effort:
    """What may still be spent: time on a clock, and linear programs where the limit is deterministic."""

    clock: Clock
    programs: float

    @classmethod
    def of(cls, limits: Limits) -> "_Effort":
        """All that these limits allow, from now on."""
        programs = math.inf if limits.deterministic is None else PROGRAMS * limits.deterministic
        return cls(limits.clock(), programs)

    def spent(self) -> bool:
        """Whether nothing is left, so that the search is to stop."""
        return self.programs <= 0 or self.clock.over()


def expected_peak_bound(
    weight: Floats, count: Ints, devices: int, slots_per_device: int, known: float, limits: Limits
) -> PeakBound:
    """A lower bound on the peak of the devices' weight sums, with its proof.

    weight `[expert]` load of one replica, count `[expert]` replicas of each, on distinct devices; known: the peak of
    some placement. The search for prices begins just below it, so that an optimal placement is proven at once; then it
    goes down in growing steps, and bisects. At the limits the answer is the best bound so far; a deterministic limit
    counts linear programs. Raises ValueError unless there are 1, 2 or 3 slots per device.
    """
    if not 1 <= slots_per_device <= MOST_DEPTH:
        raise ValueError(f"{slots_per_device} slots per device: columns of 1 to {MOST_DEPTH} experts are known")
    effort = _Effort.of(limits)
    price: Floats = np.asarray(weight, dtype=np.float64)
    low, high = proven_peak(price, weight, count, devices, slots_per_device), known
    tried, reach = known * (1 - CLOSE), NEAR
    columns: Ints = np.empty((0, MOST_DEPTH), dtype=np.int64)
    while low < high * (1 - CLOSE) and not effort.spent():
        found, columns = _prices(tried, weight, count, devices, slots_per_device, columns, effort)
        if found is None:  # columns cover all replicas, so that no bound is as high as this peak
            high = tried
        elif (proven := proven_peak(found, weight, count, devices, slots_per_device)) > low:
            low, price = proven, found
        tried, reach = max((low + high) / 2, high - known * reach), reach * FARTHER
    return PeakBound(min(low, known), price)


def proven_peak(price: Floats, weight: Floats, count: Ints, devices: int, slots_per_device: int) -> float:
    """The peak that prices `[expert]` prove: the weight of the lightest column worth an equal part of all prices.

    Raises ValueError for a negative price.
    """
    if (price < 0).any():
        raise ValueError("a price is negative")
    part = float(price @ count) / devices
    padded = np.append(price, 0.0), np.append(weight, 0.0)  # a slot may be empty
    return float(_lightest_worth(*padded, part * (1 - ROUNDING), slots_per_device))


@kernel
def _lightest_worth(price: Floats, weight: Floats, part: float, depth: int) -> float:
    """The least weight of at most `depth` distinct experts worth `part`; the last entry is an empty slot."""
    empty = len(price) - 1
    best = np.inf
    for one in range(empty + 1):
        for two in range(one, empty + 1) if depth > 1 else range(empty, empty + 1):
            if two == one and one != empty:
                continue
            pair = weight[one] + weight[two]
            if pair >= best:
                continue
            for three in range(two, empty + 1) if depth > 2 else range(empty, empty + 1):
                if three == two and two != empty:
                    continue
                if price[one] + price[two] + price[three] >= part and pair + weight[three] < best:
                    best = pair + weight[three]
    return best


@kernel
def _dearest(price: Floats, weight: Floats, peak: float, depth: int) -> tuple[Floats, Ints]:
    """For each expert the dearest column of weight `peak` at most whose first member it is.

    Returns worth `[expert]`, -1 for none, and members `[expert, 3]`. The arrays given end with the empty slot.
    """
    empty = len(price) - 1
    worth = np.full(empty, -1.0)
    members = np.full((empty, 3), empty, dtype=np.int64)
    for one in range(empty):
        for two in range(one + 1, empty + 1) if depth > 1 else range(empty, empty + 1):
            if weight[one] + weight[two] > peak:
                continue
            for three in range(two + 1, empty + 1) if depth > 2 and two < empty else range(empty, empty + 1):
                value = price[one] + price[two] + price[three]
                if value > worth[one] and weight[one] + weight[two] + weight[three] <= peak:
                    worth[one] = value
                    members[one] = one, two, three
    return worth, members


class _Attempt(NamedTuple):
    """The price `[expert]` that refutes a peak, None where columns reach it, and all columns `[column, 3]` seen."""

    price: Floats | None
    columns: Ints


def _prices(
    peak: float, weight: Floats, count: Ints, devices: int, depth: int, known: Ints, effort: _Effort
) -> _Attempt:
    """Prices which show that columns up to this peak do not cover all replicas, if that is so.

    known `[column, 3]`: columns to begin with. Once nothing is left to spend, the prices of that moment are returned:
    any prices prove some bound.
    """
    price: Floats = np.ones(len(weight))
    columns = known[np.append(weight, 0.0)[known].sum(axis=1) <= peak * (1 + ROUNDING)]
    while True:
        if len(columns):
            missing, price = _cover(columns, count, devices)
            effort.programs -= 1
            if missing <= ROUNDING * count.sum():
                return _Attempt(None, columns)
        worth, members = _dearest(np.append(price, 0.0), np.append(weight, 0.0), peak * (1 + ROUNDING), depth)
        if float(price @ count) > devices * worth.max() * (1 + ROUNDING) or effort.spent():
            return _Attempt(price, columns)
        columns = np.concatenate([columns, members[worth >= 0]])


class _Cover(NamedTuple):
    """The number of replicas left out, and price `[expert]`, by how much it grows with one replica more of each."""

    missing: float
    price: Floats


def _cover(columns: Ints, count: Ints, devices: int) -> _Cover:
    """The fractional cover of all replicas by `devices` columns `[column, 3]` that leaves out fewest.

    Variables: how often each column is taken, and how many replicas of each expert are left out. Constraints: every
    expert's replicas are in columns or left out; columns are as many as devices at most. The objective is the sum left
    out, and the prices are the duals of the first family.
    """
    experts, number = len(count), len(columns)
    expert, column = columns.ravel(), np.repeat(np.arange(number), columns.shape[1])
    held = expert < experts
    rows = np.concatenate([expert[held], np.arange(experts), np.full(number, experts)])
    places = np.concatenate([column[held], number + np.arange(experts), np.arange(number)])
    values = np.concatenate([-np.ones(held.sum() + experts), np.ones(number)])
    found = linprog(
        np.append(np.zeros(number), np.ones(experts)),
        A_ub=csr_matrix((values, (rows, places)), shape=(experts + 1, number + experts)),
        b_ub=np.append(-count.astype(float), devices),
        method="highs",
    )
    return _Cover(float(found.fun), np.maximum(-found.ineqlin.marginals[:experts], 0.0))
