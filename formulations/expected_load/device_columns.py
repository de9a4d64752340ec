"""What expected load no placement with given replica counts can beat: column generation over what a device may hold.

A device holds a set of at most `slots_per_device` distinct experts, a *column*. Give every expert a price per replica.
Over all devices the prices sum up to sum(count * price), so some device holds a column worth at least a 1/devices part
of that. The lightest column that is worth so much bounds the peak from below, whatever the prices: they are the
certificate, and `proven_peak` checks it by enumeration, without a solver. Good prices are the duals of the linear
program that covers all replicas by columns below some peak, where that is infeasible.
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

MOST_DEPTH = 3  # slots per device: columns are enumerated
CLOSE = 1e-6  # relative: bounds as near to the known peak as this are not improved
PROGRAMS = 20  # linear programs per deterministic unit; full size needs 10 to 60
NEAR, FARTHER = 1e-4, 8  # relative: the first step down, and how many times longer each further one is
ROUNDING = 1e-9  # relative: prices are floats, and a column worth a hair less than its part must count


class PeakBound(NamedTuple):
    """peak: no placement goes below, in units of weight; price `[expert]` proves it."""

    peak: float
    price: Floats


@dataclass
class _Effort:
    """How long to try: until the clock is over, and with a deterministic limit for so many linear programs."""

    clock: Clock
    programs: float

    @classmethod
    def of(cls, limits: Limits) -> "_Effort":
        """From now on."""
        programs = math.inf if limits.deterministic is None else PROGRAMS * limits.deterministic
        return cls(limits.clock(), programs)

    def spent(self) -> bool:
        """Whether to stop."""
        return self.programs <= 0 or self.clock.over()


def expected_peak_bound(
    weight: Floats, count: Ints, devices: int, slots_per_device: int, known: float, limits: Limits
) -> PeakBound:
    """A lower bound on the peak of the devices' weight sums, with its proof.

    weight `[expert]` load of one replica, count `[expert]` replicas of each, on distinct devices; known: the peak of
    some placement, just below which the search for prices begins, so that an optimal one is proven at once; then it
    goes down in growing steps, and bisects. Slots per device: 1, 2 or 3, or ValueError; at the limit the best bound
    so far. A deterministic limit counts linear programs.
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
        if found is None:
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
    """For each expert the dearest column up to `peak` that it is the first of: worth `[expert]`, -1 for none, and
    members `[expert, 3]`; arrays end with the empty slot."""
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


def _prices(
    peak: float, weight: Floats, count: Ints, devices: int, depth: int, known: Ints, effort: _Effort
) -> tuple[Floats | None, Ints]:
    """Prices that show that columns up to this peak do not cover all replicas, None if they do; and all columns seen.

    known `[column, 3]`: columns to begin with. At the limit they are the prices of that moment, which prove what they
    prove.
    """
    price: Floats = np.ones(len(weight))
    columns = known[np.append(weight, 0.0)[known].sum(axis=1) <= peak * (1 + ROUNDING)]
    while True:
        if len(columns):
            missing, price = _cover(columns, count, devices)
            effort.programs -= 1
            if missing <= ROUNDING * count.sum():
                return None, columns
        worth, members = _dearest(np.append(price, 0.0), np.append(weight, 0.0), peak * (1 + ROUNDING), depth)
        if float(price @ count) > devices * worth.max() * (1 + ROUNDING) or effort.spent():
            return price, columns
        columns = np.concatenate([columns, members[worth >= 0]])


def _cover(columns: Ints, count: Ints, devices: int) -> tuple[float, Floats]:
    """The least number of replicas that `devices` columns `[column, 3]` leave out, fractionally, and what one replica
    more of each expert would add to it: the prices `[expert]`."""
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
    return float(found.fun), np.maximum(-found.ineqlin.marginals[:experts], 0.0)
