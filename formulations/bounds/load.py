"""Bounds that no placement goes below: peak device loads.

Loads may be counted in tokens or, by `replica_routing.tiles_of`, in tiles. An expert's replicas fill at least that
number of tiles, however its tokens are shared out, so every bound here holds for tiles too. The bounds hold where every
pair is served by a replica of its own expert, and not where pairs are dropped or rerouted to other experts.
"""

from typing import NamedTuple

import numpy as np
from ortools.graph.python import max_flow

from formulations.kit.arrays import Ints

STEPS = 40  # peaks of a batch that `static_counts_bound` tells apart; more make the bound tighter and the cut larger


def mean_load_bound(load: Ints, devices: int) -> Ints:
    """The mean device load of each batch, rounded up, which the peak is never below.

    load `[batch, expert]` token-expert pairs; returns `[batch]`. Holds for any placement and routing.
    """
    bound: Ints = -(-load.sum(axis=1) // devices)
    return bound


def slot_budget_bound(load: Ints, slots: int) -> Ints:
    """The least peak L of each batch for which slots suffice: sum over experts of max(1, ceil(t / L)) <= slots.

    load `[batch, expert]`, `slots` of the whole mesh (at least one per expert); returns `[batch]`. Holds for any
    placement, even one made for that batch alone: a replica serves at most L tokens, so an expert with t tokens needs
    ceil(t / L) replicas, and every expert needs one.
    Raises ValueError with fewer slots than experts.
    """
    if slots < load.shape[1]:
        raise ValueError(f"{load.shape[1]} experts do not fit in {slots} slots")
    high = load.max(axis=1).astype(np.int64)
    low = np.minimum(high, 1)
    while np.any(low < high):
        middle = (low + high) // 2
        needed = np.maximum(1, -(-load // np.maximum(middle, 1)[:, None])).sum(axis=1)
        fits = needed <= slots
        high = np.where(fits, middle, high)
        low = np.where(fits, low, middle + 1)
    bound: Ints = low
    return bound


def any_placement_bound(load: Ints, devices: int, slots: int) -> Ints:
    """The larger of mean and slot budget, `[batch]`; it holds for any placement and routing, even one per batch."""
    bound: Ints = np.maximum(mean_load_bound(load, devices), slot_budget_bound(load, slots))
    return bound


def static_counts_bound(load: Ints, devices: int, slots: int) -> float:
    """A lower bound on the mean over batches of the peak device load, for any one placement and any routing.

    load `[batch, expert]`. Placements are relaxed to replica counts n. The peak of batch b is no less than its
    `any_placement_bound`, and no less than the largest ceil(t / n_e) over experts e. A hot expert of one batch thus
    takes slots that a hot expert of another batch lacks. The counts sum up to `slots` at most. If a price per slot
    replaces that limit, the best counts are a minimum cut ("either a peak is paid for, or each of its experts has
    enough replicas"). Whatever the price, the value of the cut less the price of all slots is a bound. The price with
    the largest bound is found where two lines meet:

    1. begin with the line of no replicas beyond one of each, and the line of as many as are of any use;
    2. at the price where the two lines meet, look for a cheaper cut, whose line replaces one of them;
    3. where there is none, that price gives the largest bound; it is rounded up, as the sum of peaks is whole.

    The result is the linear relaxation, which is near the best counts as only one constraint couples them: Newton's
    method on the Lagrangian dual (Fisher, Management Science 27, 1981); the cut is the project selection of Rhys
    (1970).
    """
    base = any_placement_bound(load, devices, slots)
    demand, spare = _demand(load, base), slots - load.shape[1]
    many, none = _Line(0, demand.replicas), _Line(int(demand.width.sum()), 0)
    if many.replicas <= spare:
        return float(base.mean())
    while True:
        scale, price = many.replicas - none.replicas, none.paid - many.paid
        found = _cheapest(demand, scale, price)
        if scale * found.paid + price * found.replicas >= scale * many.paid + price * many.replicas:
            break
        many, none = (found, none) if found.replicas > spare else (many, found)
    above = many.paid + -(-price * (many.replicas - spare) // scale)
    return float(base.sum() + above) / len(load)


class _Demand(NamedTuple):
    """The steps that peaks climb above their base, and the replicas that spare them.

    width `[step]` pairs. To stay below a step, experts need replicas: step and node `[need]`, where a node stands for
    the k-th replica of an expert; follows `[node]` is the node of the replica before it, -1 for none.
    """

    width: Ints
    step: Ints
    node: Ints
    follows: Ints

    @property
    def replicas(self) -> int:
        """How many replicas beyond one of each expert are of any use."""
        return len(self.follows)


class _Line(NamedTuple):
    """A choice of counts: the sum of the peaks above their base, and the replicas beyond one of each expert."""

    paid: int
    replicas: int


def _demand(load: Ints, base: Ints) -> _Demand:
    """The steps and needs of all batches: a peak reaches v if some expert has fewer than ceil(t / (v - 1)) replicas.

    With n replicas, fewer than that, ceil(t / n) >= v.
    """
    widths, steps, experts_of, needs_of, before = [], [], [], [], 0
    for of_batch, floor in zip(load.astype(np.int64), base.tolist(), strict=True):
        hot = np.flatnonzero(of_batch > floor)
        peaks = _peaks_above(of_batch[hot], floor)
        step, place = np.nonzero(of_batch[hot] >= peaks[:, None])
        steps.append(before + step)
        experts_of.append(hot[place])
        needs_of.append(-(-of_batch[hot[place]] // (peaks[step] - 1)))
        widths.append(np.diff(peaks, prepend=floor))
        before += len(peaks)
    width, step, experts, needs = (np.concatenate(parts) for parts in (widths, steps, experts_of, needs_of))
    most = np.ones(load.shape[1], dtype=np.int64)
    np.maximum.at(most, experts, needs)
    first = np.cumsum(most - 1) - (most - 1)  # the node of an expert's second replica
    follows = np.arange(-1, (most - 1).sum() - 1)
    follows[first[most > 1]] = -1
    return _Demand(width, step, first[experts] + needs - 2, follows)


def _peaks_above(load: Ints, floor: int) -> Ints:
    """The peaks ceil(t / n) above the floor that loads can cause, ascending; of too many, STEPS evenly drawn ones."""
    count = np.arange(1, int(load.max(initial=0)) // max(floor, 1) + 2)
    peaks = np.unique(-(-load[:, None] // count))
    peaks = peaks[peaks > floor]
    drawn = np.unique(np.linspace(0, len(peaks) - 1, min(STEPS, len(peaks))).astype(np.int64))
    return peaks[drawn]


def _cheapest(demand: _Demand, scale: int, price: int) -> _Line:
    """The counts with the least scale * paid + price * replicas.

    This is a minimum cut: steps on the source's side are not paid for, and need replicas on the same side, which are
    bought. An arc cannot be cut where a step needs a replica, or a replica the one before it.
    """
    steps, replicas = len(demand.width), demand.replicas
    source, sink, chained = steps + replicas, steps + replicas + 1, np.flatnonzero(demand.follows >= 0)
    node = np.arange(steps, source)
    tail = np.concatenate([np.full(steps, source), demand.step, node[chained], node])
    head = np.concatenate([np.arange(steps), node[demand.node], node[demand.follows[chained]], np.full(replicas, sink)])
    everything = scale * int(demand.width.sum()) + 1
    bound = np.full(len(demand.step) + len(chained), everything)
    solver = max_flow.SimpleMaxFlow()
    capacity = np.concatenate([scale * demand.width, bound, np.full(replicas, price)])
    solver.add_arcs_with_capacity(tail, head, capacity)
    if solver.solve(source, sink) != solver.OPTIMAL:
        raise ValueError(f"loads of {everything} units are too many for a flow")
    side = np.array(solver.get_source_side_min_cut())
    unpaid = side[side < steps]
    return _Line(int(demand.width.sum() - demand.width[unpaid].sum()), int(((side >= steps) & (side < source)).sum()))
