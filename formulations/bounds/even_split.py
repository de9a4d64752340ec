"""A bound on the peak of the expected load that no replica counts and no placement go below, for even split.

All slots are filled, and each replica of an expert has an equal part of its load. The mean load of a device and the
heaviest replica are bounds, too. This one also knows that a heavy replica shares its device with others, and that
light ones are few, or cost redundant slots.

It is a dual bound. Let T be a peak that is to be refuted, and S the slots of a device. A price f(x) of a replica of
load x is chosen such that the S replicas of a device whose load is at most T never cost more than 0 together. Then all
of a placement costs at most 0, whatever it is. Two families of prices are tried, for 0 < t <= T/2; by either a device
has one heavy replica at most, as two heavy ones exceed T:

- *steps*: S - 1 for x > T - t, and -1 for x < t. Beside a heavy replica all S - 1 others are lighter than t.
- *sums*: for x > T/2 the larger of x - T + (S - 1) t and 0, and -max(t - x, 0) for all others. Beside a heavy replica x
  the others y have a sum of at most T - x, so that x - T + (S - 1) t <= sum of (t - y) <= sum of max(t - y, 0).

An expert of load w with c replicas costs c f(w / c), where w / c <= T. If even the cheapest counts that add up to the
slots cost more than 0, no placement has a peak of T. The sum of counts is relaxed by a price m on slots, of either sign
(a Lagrangian bound, Fisher, Management Science 27, 1981): the sum over experts of the least c (f(w / c) + m), less m
times all slots, is a bound on the least cost for any m; it is concave in m, and its slope is the excess of slots.
Prices f of this kind are dual feasible functions (Fekete and Schepers, Mathematical Programming 91, 2001).
"""

from collections.abc import Iterator

import numpy as np

from formulations.kit.arrays import Floats, Ints

PRICES = 8
"""Values of t that are tried in each family, at even distances in the order of the loads. Not tuned."""

HALVINGS, PEAKS = 16, 6
"""Prices m of a slot that are tried, and halvings of the distance between a refuted peak and one that is not: a
compromise between a large bound and the time that it takes."""

SLOT_PRICE = 4.0
"""The largest price m of a slot, in units of T: a replica hardly costs more, or less, than the S - 1 of a price. Any
price gives a valid bound."""

TOLERANCE = 1e-9
"""What costs must exceed, in units of T, so that rounding refutes nothing: sums of hundreds of numbers near 1."""


def even_split_bound(load: Floats | Ints, devices: int, depth: int, reached: float) -> float:
    """A load that the fullest device has at least, for any replica counts and any placement with even split.

    load `[expert]`, 0 or more; devices with `depth` slots each, all of them filled; reached: the peak of some
    placement, above which nothing is to be refuted. Raises ValueError where the experts do not fit.
    """
    weights, slots = np.sort(np.asarray(load, dtype=np.float64))[::-1], devices * depth
    if not len(weights) <= slots <= len(weights) * devices:
        raise ValueError(f"{len(weights)} experts do not fill {devices} x {depth} slots")
    low, high = max(float(weights.sum()) / devices, heaviest_replica(weights, slots)), reached
    for _ in range(PEAKS):
        middle = (low + high) / 2
        if low >= high or middle <= 0:
            break
        low, high = (middle, high) if refuted(weights, devices, depth, middle) else (low, middle)
    return low


def heaviest_replica(load: Floats, slots: int) -> float:
    """The load of the heaviest replica under the counts that make it least: each further slot goes to the expert whose
    replicas are the heaviest. load `[expert]`; slots: at least one for each expert."""
    count = np.ones(len(load), dtype=np.int64)
    for _ in range(slots - len(load)):
        count[(load / count).argmax()] += 1
    return float((load / count).max())


def refuted(load: Floats, devices: int, depth: int, peak: float) -> bool:
    """Whether it is proven that no placement has a peak of at most this; load `[expert]`, descending."""
    slots, weights = devices * depth, load / peak
    count = np.arange(1, min(devices, slots - len(load) + 1) + 1)
    replica = weights[:, None] / count
    possible = replica <= 1 + TOLERANCE
    if not possible[:, -1].all():
        return True
    return any(
        _costs_more_than_nothing(np.where(possible, count * price, np.inf), count, slots)
        for price in _prices(replica, depth)
    )


def _prices(replica: Floats, depth: int) -> Iterator[Floats]:
    """The prices of each replica, `[expert, count]`; replica: its load in units of T."""
    light = np.unique(replica[:, 0][replica[:, 0] <= 0.5])
    if not len(light):
        return
    for t in light[np.unique(np.linspace(0, len(light) - 1, PRICES).astype(np.int64))]:
        yield (depth - 1.0) * (replica > 1 - t) - (replica < t)
        lightness = -np.maximum(t - replica, 0.0)
        yield np.where(replica > 0.5, np.maximum(replica - 1 + (depth - 1) * t, 0.0), lightness)


def _costs_more_than_nothing(cost: Floats, count: Ints, slots: int) -> bool:
    """Whether all counts that add up to the slots cost more than 0; cost `[expert, count]`."""
    low, high = -SLOT_PRICE, SLOT_PRICE
    for _ in range(HALVINGS):
        price = (low + high) / 2
        priced = cost + price * count
        chosen = priced.argmin(axis=1)
        if priced[np.arange(len(cost)), chosen].sum() - price * slots > TOLERANCE * slots:
            return True
        low, high = (price, high) if count[chosen].sum() > slots else (low, price)
    return False
