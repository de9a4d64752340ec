"""Tokens or tiles of one batch to the replicas of a given placement: the least peak device load, and what forces it.

Arrays: load `[expert]` token-expert pairs; holders `[expert, device]`, whether a replica of the expert is there. With
t(S) the load of a set S of experts and N(S) the devices that hold any of them, no routing takes the peak below
t(S) / |N(S)|, and the largest such ratio is reached (max-flow min-cut); rounded up where loads are whole units. The set
with that ratio is the certificate, which `proven_bound` checks without any solver.
"""

import time
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import numpy as np
from ortools.graph.python import max_flow
from scipy.optimize import linprog
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.kit.outcome import Outcome, SolveStatus
from formulations.kit.solver import Limits

MOST_UNITS = 1 << 50  # of a batch: far from the 64 bits in which flows are counted
SHOWN = 8  # experts or devices that a sentence lists


@dataclass(frozen=True)
class CriticalSet:
    """Experts that can only use these devices, with `total` tokens or tiles in all, as unit says."""

    experts: tuple[int, ...]
    devices: tuple[int, ...]
    total: int
    unit: str

    @property
    def bound(self) -> Fraction:
        """The mean load of the devices if they serve nothing else: t(S) / |N(S)|."""
        return Fraction(self.total, len(self.devices))

    def in_words(self) -> str:
        """The certificate as a sentence."""
        experts, devices = _listed("expert", self.experts), _listed("device", self.devices)
        return f"{experts} can only use {devices}: {self.total} {self.unit} over {len(self.devices)}"


def _listed(noun: str, ids: tuple[int, ...]) -> str:
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return f"{noun}{'s' if len(ids) > 1 else ''} {', '.join(map(str, ids[:SHOWN]))}{more}"


@dataclass(frozen=True, eq=False)
class ReplicaSplit:
    """units `[expert, device]`: what each replica serves, in tokens (parts of them from `route_fractions`) or tiles;
    critical: why no split has a lower peak."""

    units: Ints | Floats
    critical: CriticalSet


def holders_of(slots: Ints, experts: int) -> Bools:
    """Where replicas are, `[expert, device]`, for slots `[device, slot]` with -1 = empty."""
    holders = np.zeros((experts, len(slots)), dtype=np.bool_)
    device, slot = np.nonzero(slots >= 0)
    holders[slots[device, slot], device] = True
    return holders


def tiles_of(load: Ints, tile: int) -> Ints:
    """Tiles of so many tokens that loads fill, any shape."""
    tiles: Ints = -(-load // tile)
    return tiles


def proven_bound(critical: CriticalSet, load: Ints, holders: Bools) -> Fraction:
    """The peak that a certificate proves, t(S) / |N(S)|, from load and holders alone; load is in its unit.

    Raises ValueError where it names no set of experts, other devices than hold them, or another load than theirs.
    """
    experts = sorted(set(critical.experts))
    if len(experts) != len(critical.experts) or not experts or not 0 <= experts[0] <= experts[-1] < len(load):
        raise ValueError(f"{critical.experts} is no set of experts 0..{len(load) - 1}")
    devices = [device for device in range(holders.shape[1]) if any(holders[expert, device] for expert in experts)]
    if devices != sorted(critical.devices):
        raise ValueError(f"experts {experts} can use devices {devices}, not {critical.devices}")
    total = sum(int(load[expert]) for expert in experts)
    if total != critical.total:
        raise ValueError(f"experts {experts} have {total} {critical.unit}, not {critical.total}")
    return Fraction(total, len(devices))


def route_tokens(load: Ints, holders: Bools) -> Outcome[ReplicaSplit]:
    """Least peak for whole tokens, by max-flow. Infeasible where an expert with load has no replica."""
    return _route_units(load, holders, "tokens")


def route_tiles(load: Ints, holders: Bools, tile: int) -> Outcome[ReplicaSplit]:
    """Least peak in tiles of so many tokens, by max-flow.

    The replicas of an expert with t tokens fill at least ceil(t / tile) tiles between them, and no more if all but one
    replica fill theirs. So tiles are units like any others (unit semi-matching: Harvey, Ladner, Lovasz and Tamir,
    J. Algorithms 59, 2006).
    """
    return _route_units(tiles_of(load, tile), holders, "tiles")


def least_peaks(units: Ints, holders: Bools, unit: str) -> tuple[Ints, list[CriticalSet]]:
    """The least peak of every batch, `[batch]`, and what forces each; units `[batch, expert]`.

    Raises ValueError where an expert with load has no replica.
    """
    critical = [_least_peak(of_batch, holders, unit)[1] for of_batch in units]
    return np.array([ceil(each.bound) for each in critical], dtype=np.int64), critical


def _route_units(units: Ints, holders: Bools, unit: str) -> Outcome[ReplicaSplit]:
    started = time.monotonic()
    if _homeless(units, holders):
        return Outcome(None, None, np.inf, SolveStatus.INFEASIBLE, time.monotonic() - started)
    split, critical = _least_peak(units, holders, unit)
    peak, runtime = float(split.sum(axis=0).max()), time.monotonic() - started
    return Outcome(ReplicaSplit(split, critical), peak, float(ceil(critical.bound)), SolveStatus.OPTIMAL, runtime)


def _homeless(units: Ints, holders: Bools) -> bool:
    """Whether an expert with load has no replica."""
    return bool(((units > 0) & ~holders.any(axis=1)).any())


def _served(units: Ints, holders: Bools) -> Bools:
    """The experts with load, `[expert]`; where there is none at all, those with replicas."""
    return (units > 0) | (holders.any(axis=1) & ~units.any())


def _least_peak(units: Ints, holders: Bools, unit: str) -> tuple[Ints, CriticalSet]:
    """A split `[expert, device]` with the least peak, and the set that forces it.

    Newton's method, not halving, as each peak that is too low leaves a min cut, and with it a better one:

    1. try the ratio of the best set known, at first of all experts, rounded up;
    2. where devices cannot take all at this peak, the experts on the source's side of the cut have a larger ratio.
    """
    if _homeless(units, holders):
        raise ValueError("an expert with load has no replica")
    if int(units.sum(dtype=object)) > MOST_UNITS:
        raise ValueError(f"more than {MOST_UNITS} units are too many for a flow")
    critical = _tightest(np.flatnonzero(_served(units, holders)), units, holders, unit)
    while True:
        split, cut = _pour(units, holders, ceil(critical.bound))
        if len(cut) == 0:
            return split, critical
        critical = _tightest(cut, units, holders, unit)


def _pour(units: Ints, holders: Bools, peak: int) -> tuple[Ints, Ints]:
    """What devices take at this peak, `[expert, device]`, and the experts on the source's side of the min cut.

    There are none where devices take everything.
    """
    experts, devices = holders.shape
    expert, device = np.nonzero(holders)
    source, sink = experts + devices, experts + devices + 1
    tail = np.concatenate([np.full(experts, source), expert, np.arange(experts, source)])
    head = np.concatenate([np.arange(experts), experts + device, np.full(devices, sink)])
    capacity = np.concatenate([units, units[expert], np.full(devices, peak)]).astype(np.int64)
    solver = max_flow.SimpleMaxFlow()
    arcs = solver.add_arcs_with_capacity(tail, head, capacity)
    if solver.solve(source, sink) != solver.OPTIMAL:
        raise ValueError("the flow could not be solved")
    split = np.zeros(holders.shape, dtype=np.int64)
    split[expert, device] = solver.flows(arcs[experts : experts + len(expert)])
    if solver.optimal_flow() == units.sum():
        return split, np.empty(0, dtype=np.int64)
    side = np.array(solver.get_source_side_min_cut())
    return split, np.sort(side[side < experts])


def _tightest(experts: Ints, units: Ints, holders: Bools, unit: str) -> CriticalSet:
    """Of the parts of a set of experts that share no device, the one with the largest ratio, the smallest of equals."""
    expert, device = np.nonzero(holders[experts])
    nodes = len(experts) + holders.shape[1]
    links = coo_array((np.ones(len(expert)), (expert, len(experts) + device)), shape=(nodes, nodes))
    part = connected_components(links, directed=False)[1][: len(experts)]
    found = [_set_of(experts[part == number], units, holders, unit) for number in np.unique(part)]
    return max(found, key=lambda each: (each.bound, -len(each.experts)))


def _set_of(experts: Ints, units: Ints, holders: Bools, unit: str) -> CriticalSet:
    devices = np.flatnonzero(holders[experts].any(axis=0))
    return CriticalSet(tuple(experts.tolist()), tuple(devices.tolist()), int(units[experts].sum()), unit)


def route_fractions(load: Ints, holders: Bools, limits: Limits) -> Outcome[ReplicaSplit]:
    """Least peak where tokens may be divided: a linear program, of which HiGHS gives the dual, too.

    Infeasible where an expert with load has no replica. The bound is the ratio of the critical set, in whole numbers,
    and owes nothing to the solver's tolerances.
    """
    started = time.monotonic()
    if _homeless(load, holders):
        return Outcome(None, None, np.inf, SolveStatus.INFEASIBLE, time.monotonic() - started)
    expert, device = np.nonzero(holders)
    devices = holders.shape[1]
    found = linprog(
        np.append(np.zeros(len(expert)), 1.0),
        A_ub=_with_peak(device, devices, -1.0),
        b_ub=np.zeros(devices),
        A_eq=_with_peak(expert, len(load), 0.0),
        b_eq=load,
        method="highs",
        options={"time_limit": 0.0 if limits.cancelled() else max(limits.seconds, 0.0)},
    )
    runtime = time.monotonic() - started
    if found.x is None:
        return Outcome(None, None, float(load.sum()) / devices, SolveStatus.UNKNOWN, runtime)
    split = np.zeros(holders.shape)
    split[expert, device] = found.x[:-1].clip(min=0)
    critical = _from_dual(-found.ineqlin.marginals, load, holders)
    peak, bound = float(split.sum(axis=0).max()), float(critical.bound)
    return Outcome(ReplicaSplit(split, critical), max(peak, bound), bound, SolveStatus.OPTIMAL, runtime)


def _with_peak(row: Ints, rows: int, value: float) -> coo_array:
    """One row per expert or device with a 1 for each of its arcs, and `value` for the peak, the last variable."""
    arcs = len(row)
    values = np.append(np.ones(arcs), np.full(rows, value))
    places = np.append(row, np.arange(rows)), np.append(np.arange(arcs), np.full(rows, arcs))
    return coo_array((values, places), shape=(rows, arcs + 1)).tocsr()


def _from_dual(price: Floats, load: Ints, holders: Bools) -> CriticalSet:
    """The critical set, from the dual prices of devices' loads `[device]`, which sum up to 1.

    The dual's objective is the sum of load times the least price among an expert's devices, which is the integral over
    a level of the load of experts whose devices are all dearer than the level; and the number of such devices has the
    integral 1. So at some level the ratio of the two is no less than the objective; all levels are tried.
    """
    found = []
    for level in np.unique(price):
        inside = ~holders[:, price < level].any(axis=1) & _served(load, holders)
        if inside.any():
            found.append(_tightest(np.flatnonzero(inside), load, holders, "tokens"))
    return max(found, key=lambda each: each.bound)
