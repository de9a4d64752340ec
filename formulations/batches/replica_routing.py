"""Tokens or tiles of one batch to the replicas of a given placement: the least peak device load, and what forces it.

Arrays: load `[expert]` token-expert pairs; holders `[expert, device]`, whether a replica of the expert is there. Let
t(S) be the load of a set S of experts, and N(S) the devices that hold any of them. No routing takes the peak below
t(S) / |N(S)|, and the best one reaches the largest such ratio (max-flow min-cut), rounded up where loads are whole
units. The set with that ratio is the certificate, which `proven_bound` checks without any solver.
"""

import time
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import NamedTuple

import numpy as np
from ortools.graph.python import max_flow
from scipy.optimize import linprog
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.kit.outcome import Outcome, SolveStatus
from formulations.kit.solver import Limits

MOST_UNITS = 1 << 50  # in a batch, which is far from the 64 bits in which flows are counted
SHOWN = 8  # experts or devices that a sentence lists, so that it stays one line


@dataclass(frozen=True)
class CriticalSet:
    """Experts that can only use these devices; `total` is their load, and `unit` names it: tokens or tiles."""

    experts: tuple[int, ...]
    devices: tuple[int, ...]
    total: int
    unit: str

    @property
    def bound(self) -> Fraction:
        """The mean load t(S) / |N(S)| of the devices if they serve nothing else."""
        return Fraction(self.total, len(self.devices))

    def in_words(self) -> str:
        """The certificate as a sentence."""
        experts, devices = _listed("expert", self.experts), _listed("device", self.devices)
        return f"{experts} can only use {devices}: {self.total} {self.unit} over {len(self.devices)}"


def _listed(noun: str, ids: tuple[int, ...]) -> str:
    """The first ids after their noun, and how many more there are."""
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return f"{noun}{'s' if len(ids) > 1 else ''} {', '.join(map(str, ids[:SHOWN]))}{more}"


@dataclass(frozen=True, eq=False)
class ReplicaSplit:
    """units `[expert, device]` that each replica serves, in tokens (with fractions from `route_fractions`) or tiles;
    critical: the set of experts because of which no split has a lower peak."""

    units: Ints | Floats
    critical: CriticalSet


def holders_of(slots: Ints, experts: int) -> Bools:
    """Whether an expert has a replica on a device, `[expert, device]`, for slots `[device, slot]`, -1 = empty."""
    holders = np.zeros((experts, len(slots)), dtype=np.bool_)
    device, slot = np.nonzero(slots >= 0)
    holders[slots[device, slot], device] = True
    return holders


def tiles_of(load: Ints, tile: int) -> Ints:
    """The tiles of `tile` tokens that loads fill, in any shape; the last tile may be filled in part."""
    tiles: Ints = -(-load // tile)
    return tiles


def proven_bound(critical: CriticalSet, load: Ints, holders: Bools) -> Fraction:
    """The peak t(S) / |N(S)| that a certificate proves, from load and holders alone; load is in the certificate's unit.

    Raises ValueError where the certificate names no set of experts, wrong devices, or a wrong load.
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
    """The least peak for whole tokens, by max-flow. Infeasible where an expert with load has no replica."""
    return _route_units(load, holders, "tokens")


def route_tiles(load: Ints, holders: Bools, tile: int) -> Outcome[ReplicaSplit]:
    """The least peak in tiles of `tile` tokens, by max-flow.

    The replicas of an expert with t tokens need at least ceil(t / tile) tiles in all, and no more if all but one of
    them fill their tiles. So tiles are units like any others (unit semi-matching: Harvey, Ladner, Lovasz and Tamir, J.
    Algorithms 59, 2006).
    """
    return _route_units(tiles_of(load, tile), holders, "tiles")


class LeastPeaks(NamedTuple):
    """The least peak of each batch `[batch]` in whole units, and for each batch the set of experts that forces it."""

    peaks: Ints
    critical: list[CriticalSet]


def least_peaks(units: Ints, holders: Bools, unit: str) -> LeastPeaks:
    """The least peak of every batch with the best routing of it; units `[batch, expert]`.

    Raises ValueError where an expert with load has no replica.
    """
    critical = [_least_peak(of_batch, holders, unit).critical for of_batch in units]
    return LeastPeaks(np.array([ceil(each.bound) for each in critical], dtype=np.int64), critical)


def _route_units(units: Ints, holders: Bools, unit: str) -> Outcome[ReplicaSplit]:
    """The outcome of routing whole units, which is always proven."""
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
    """Whether an expert has load, `[expert]`; if no expert has any, whether it has a replica."""
    return (units > 0) | (holders.any(axis=1) & ~units.any())


class _WholeSplit(NamedTuple):
    """units `[expert, device]` with the least peak, and the set of experts that forces it."""

    units: Ints
    critical: CriticalSet


def _least_peak(units: Ints, holders: Bools, unit: str) -> _WholeSplit:
    """A split of whole units with the least peak.

    This is Newton's method instead of halving, since a peak that is too low leaves a min cut that names a better one:

    1. try the ratio of the best set known, rounded up; at first the set of all experts;
    2. where devices cannot take all load at this peak, the experts on the source's side of the cut have a larger ratio.
    """
    if _homeless(units, holders):
        raise ValueError("an expert with load has no replica")
    if int(units.sum(dtype=object)) > MOST_UNITS:
        raise ValueError(f"more than {MOST_UNITS} units are too many for a flow")
    critical = _tightest(np.flatnonzero(_served(units, holders)), units, holders, unit)
    while True:
        split, cut = _pour(units, holders, ceil(critical.bound))
        if len(cut) == 0:
            return _WholeSplit(split, critical)
        critical = _tightest(cut, units, holders, unit)


class _Flow(NamedTuple):
    """units `[expert, device]` that devices take, and the experts on the source's side of the min cut."""

    units: Ints
    cut: Ints


def _pour(units: Ints, holders: Bools, peak: int) -> _Flow:
    """The largest flow into devices up to this peak; the cut is empty where devices take everything.

    The network has an arc from the source to every expert (its load), from an expert to every device with a replica of
    it, and from every device to the sink (the peak).
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
        return _Flow(split, np.empty(0, dtype=np.int64))
    side = np.array(solver.get_source_side_min_cut())
    return _Flow(split, np.sort(side[side < experts]))


def _tightest(experts: Ints, units: Ints, holders: Bools, unit: str) -> CriticalSet:
    """The part of a set of experts with the largest ratio, where parts share no device; of equal ones the smallest."""
    expert, device = np.nonzero(holders[experts])
    nodes = len(experts) + holders.shape[1]
    links = coo_array((np.ones(len(expert)), (expert, len(experts) + device)), shape=(nodes, nodes))
    part = connected_components(links, directed=False)[1][: len(experts)]
    found = [_set_of(experts[part == number], units, holders, unit) for number in np.unique(part)]
    return max(found, key=lambda each: (each.bound, -len(each.experts)))


def _set_of(experts: Ints, units: Ints, holders: Bools, unit: str) -> CriticalSet:
    """The critical set that these experts make, with their devices and their load."""
    devices = np.flatnonzero(holders[experts].any(axis=0))
    return CriticalSet(tuple(experts.tolist()), tuple(devices.tolist()), int(units[experts].sum()), unit)


def route_fractions(load: Ints, holders: Bools, limits: Limits) -> Outcome[ReplicaSplit]:
    """The least peak where tokens may be divided, by a linear program.

    Variables: the load on each replica, and the peak. Constraints: the load of every expert is served, and the peak
    covers every device. The objective is the peak; HiGHS gives the dual too, which names the critical set. The bound is
    that set's ratio, in whole numbers, and owes nothing to the solver's tolerances. Infeasible where an expert with
    load has no replica.
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
    """A row for each expert or device: 1 for each of its replicas, and `value` for the peak, the last variable."""
    arcs = len(row)
    values = np.append(np.ones(arcs), np.full(rows, value))
    places = np.append(row, np.arange(rows)), np.append(np.arange(arcs), np.full(rows, arcs))
    return coo_array((values, places), shape=(rows, arcs + 1)).tocsr()


def _from_dual(price: Floats, load: Ints, holders: Bools) -> CriticalSet:
    """The critical set, from the dual prices of devices' loads `[device]`, which sum up to 1.

    The dual's objective is the sum of load times the least price among an expert's devices. That is an integral over
    levels: of the load of experts whose devices all have prices above the level. The number of devices above the level
    has the integral 1. So at some level the ratio of the two is no less than the objective; all levels are tried.
    """
    found = []
    for level in np.unique(price):
        inside = ~holders[:, price < level].any(axis=1) & _served(load, holders)
        if inside.any():
            found.append(_tightest(np.flatnonzero(inside), load, holders, "tokens"))
    return max(found, key=lambda each: each.bound)
