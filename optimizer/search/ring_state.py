"""A mutable placement with what it is expected to put on the links of column rings, dispatch as multicast included.

Routing is taken as *nearest*: a source's tokens go to the replica with the fewest hops. A token passes an edge if any
of its experts lies beyond; from the chance of each expert and of each pair that is

    1 - exp(-(sum of a[e] - sum over pairs of b[e, f])),  a[e] = -log(1 - P(e)),
    b[e, f] = log(1 + (P(e, f) - P(e) P(f)) / ((1 - P(e)) (1 - P(f)))),

which is exact for one or two experts, and for more if pairs explain how they depend on each other. The same formula
gives the chance that a device with several of a token's experts sends a result back. All sources are taken to ask for
the same experts, as chance decides which users' requests come to a row: what rows of train batches ask for does not
tell what these rows ask for later (correlation -.02 on the built-in trace).

What a source sends one way along a column, and what a device returns to it, are worked out anew where a replica there
comes or goes.
"""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.statistics.coactivation import pair_counts
from optimizer.traces.batches import Batches

ALMOST = 1 - 1e-6  # stands for certainty, whose logarithm is not finite
OUT, BACK, ALONE = range(3)
"""Kinds of messages: tokens sent out, results sent back, and of the results those of experts with one replica, which
routing cannot send by other links."""


class RingDemand(NamedTuple):
    """What sources ask for: tokens `[source]` per batch; chance `[expert]` that a token chooses it; a `[expert]` and
    b `[expert, expert]` of the formula in this module's docstring."""

    tokens: Floats
    chance: Floats
    a: Floats
    b: Floats

    @classmethod
    def of(cls, batches: Batches, network: Network, experts: int) -> "RingDemand":
        """The demand of these batches, in which every source asks for experts as all tokens together do."""
        number = batches.experts.shape[0] * batches.experts.shape[1]
        tokens = np.bincount(batches.source_on(network).ravel(), minlength=network.sources) / batches.count
        chance = np.bincount(batches.experts.ravel(), minlength=experts) / number
        unsure = np.minimum(chance, ALMOST)
        both = pair_counts(batches.experts, experts) / number - np.outer(chance, chance)
        together = 1 + both / np.outer(1 - unsure, 1 - unsure)
        b = np.log(np.maximum(together, 1 - ALMOST))
        np.fill_diagonal(b, 0.0)
        return cls(tokens, chance, -np.log(1 - unsure), b)


class RingState(NamedTuple):
    """A placement with what it is expected to put on links; only searches change it.

    slots `[device, slot]`; copies `[expert]`; held `[expert, device]` the devices of its replicas, only the first
    `copies` valid; nearest `[source, expert]` the device that serves it. sent `[source, column, direction, hops - 1]`
    chance that a token passes the edge, and returned `[source, device]` that the device sends a result. load
    `[3, column, direction, row]` messages per batch on each edge, of kind OUT, BACK and ALONE, with directions numbered
    as in `network`.
    """

    slots: Ints
    copies: Ints
    held: Ints
    nearest: Ints
    sent: Floats
    returned: Floats
    load: Floats
    demand: RingDemand

    @classmethod
    def of(cls, placement: Placement, demand: RingDemand, cols: int) -> "RingState":
        """The state of a valid placement; sources are the rows of a mesh with `cols` columns."""
        slots, (rows, experts) = placement.slots.astype(np.int64), (len(demand.tokens), len(demand.chance))
        held = np.full((experts, len(slots)), -1, dtype=np.int64)
        for expert in range(experts):
            devices = np.flatnonzero((slots == expert).any(axis=1))
            held[expert, : len(devices)] = devices
        rings = cls(
            slots=slots,
            copies=(held >= 0).sum(axis=1),
            held=held,
            nearest=np.empty((rows, experts), dtype=np.int64),
            sent=np.zeros((rows, cols, 2, rows // 2)),
            returned=np.zeros((rows, len(slots))),
            load=np.zeros((3, cols, 2, rows)),
            demand=demand,
        )
        _fill(rings)
        return rings

    def copy(self) -> "RingState":
        """An independent state; demand, which never changes, is shared."""
        return self._replace(
            slots=self.slots.copy(),
            copies=self.copies.copy(),
            held=self.held.copy(),
            nearest=self.nearest.copy(),
            sent=self.sent.copy(),
            returned=self.returned.copy(),
            load=self.load.copy(),
        )

    def placement(self) -> Placement:
        """The placement that the search is at now, as an object of its own that later moves do not change."""
        return Placement(self.slots.astype(np.int32))


@kernel
def _fill(rings: RingState) -> None:
    """Fill nearest, then all loads."""
    for source in range(len(rings.sent)):
        for expert in range(len(rings.copies)):
            rings.nearest[source, expert] = nearest(source, expert, rings)
    refresh(rings)


@kernel
def refresh(rings: RingState) -> None:
    """Work out all loads from scratch, as differences add up rounding errors."""
    rings.sent[:], rings.returned[:], rings.load[:] = 0, 0, 0
    for source in range(len(rings.sent)):
        for col in range(rings.sent.shape[1]):
            recount_way(source, col, 0, rings)
            recount_way(source, col, 1, rings)
        for device in range(len(rings.slots)):
            recount_results(source, device, rings)
    for expert in range(len(rings.copies)):
        if rings.copies[expert] == 1:
            carry_alone(expert, rings.held[expert, 0], 1.0, rings)


@kernel
def nearest(source: int, expert: int, rings: RingState) -> int:
    """The device that serves a source with an expert: the one with the fewest hops.

    Of two that are as far, on either side, it is the one from which the source lies upwards, so that each replica of an
    expert serves about as many sources; of two in one row it is the first.
    """
    rows, cols = rings.sent.shape[:2]
    best, least = -1, 2 * rows * len(rings.slots)
    for place in range(rings.copies[expert]):
        device = rings.held[expert, place]
        climb = (device // cols - source) % rows
        rank = (2 * min(climb, rows - climb) + (2 * climb < rows)) * len(rings.slots) + device
        if rank < least:
            best, least = device, rank
    return best


@kernel
def recount_way(source: int, col: int, direction: int, rings: RingState) -> None:
    """Work out anew what a source sends one way along a column, and put on links what that changes."""
    rows, tokens = len(rings.sent), rings.demand.tokens[source]
    found, passing = np.empty(rings.slots.shape[1] * rows, dtype=np.int64), np.zeros(rows // 2)
    _pass_edges(source, col, direction, found, passing, rings)
    for hops in range(rows // 2):
        edge = (source + hops) % rows if direction == 0 else (source - hops) % rows
        rings.load[OUT, col, direction, edge] += tokens * (passing[hops] - rings.sent[source, col, direction, hops])
        rings.sent[source, col, direction, hops] = passing[hops]


@kernel
def recount_results(source: int, device: int, rings: RingState) -> None:
    """Work out anew what a device returns to a source, and put on links what that changes."""
    chance, cols = _returns(source, device, rings), rings.sent.shape[1]
    more = rings.demand.tokens[source] * (chance - rings.returned[source, device])
    if more != 0:
        _bring_back(source, device // cols, device % cols, more, BACK, rings)
    rings.returned[source, device] = chance


@kernel
def _pass_edges(source: int, col: int, direction: int, found: Ints, passing: Floats, rings: RingState) -> None:
    """Find the chance that a token of a source passes each edge of one way, passing `[hops - 1]`.

    found `[expert]` is working memory: the experts met so far, from the far end of the way on.

    What goes to the antipode is sent half either way: an edge carries half of the tokens with a target beyond it on
    this side, and half of those with a target there or at the antipode.
    """
    rows, cols = rings.sent.shape[:2]
    a, b = rings.demand.a, rings.demand.b
    many, antipodes, nearer, all_told, chance = 0, 0, 0.0, 0.0, 0.0
    for hops in range(rows // 2, 0, -1):
        row = (source + hops) % rows if direction == 0 else (source - hops) % rows
        device, before = row * cols + col, many
        for expert in rings.slots[device]:
            if expert < 0 or rings.nearest[source, expert] != device:
                continue
            shared, shared_nearer = 0.0, 0.0
            for place in range(many):
                shared += b[expert, found[place]]
                shared_nearer += b[expert, found[place]] if place >= antipodes else 0.0
            all_told += a[expert] - shared
            nearer += a[expert] - shared_nearer if 2 * hops < rows else 0.0
            found[many] = expert
            many += 1
        if many > before:
            chance = 1 - (np.exp(-nearer) + np.exp(-all_told)) / 2
        if 2 * hops == rows:
            antipodes = many
        passing[hops - 1] = chance


@kernel
def _returns(source: int, device: int, rings: RingState) -> float:
    """Chance that a device sends a result for a token of a source over links; none is sent inside a row."""
    if device // rings.sent.shape[1] == source:
        return 0.0
    slots, total = rings.slots[device], 0.0
    for place in range(len(slots)):
        expert = slots[place]
        if expert >= 0 and rings.nearest[source, expert] == device:
            total += rings.demand.a[expert]
            for other in slots[:place]:
                if other >= 0 and rings.nearest[source, other] == device:
                    total -= rings.demand.b[expert, other]
    return float(1 - np.exp(-total))


@kernel
def _bring_back(source: int, row: int, col: int, messages: float, kind: int, rings: RingState) -> None:
    """Put results from a row to a source on links, against the way on which tokens came."""
    rows = len(rings.sent)
    climb = (row - source) % rows
    for direction in range(2):
        hops = climb if direction == 1 else rows - climb
        if 2 * hops > rows:
            continue
        share = messages / 2 if 2 * hops == rows else messages
        for step in range(hops):
            edge = (row - step) % rows if direction == 1 else (row + step) % rows
            rings.load[kind, col, direction, edge] += share


@kernel
def carry_alone(expert: int, device: int, sign: float, rings: RingState) -> None:
    """Put what all sources get from a device of an expert's only replica on links, or take it away."""
    rows, cols = rings.sent.shape[:2]
    for source in range(rows):
        if source != device // cols:
            messages = sign * rings.demand.tokens[source] * rings.demand.chance[expert]
            _bring_back(source, device // cols, device % cols, messages, ALONE, rings)


@kernel
def busiest(load: Floats) -> float:
    """About what the busiest of links with these mean loads carries in a batch, messages.

    A load varies as counts do, by the square root of its mean. The expected maximum is then about the smooth maximum
    log(mean of exp(s load)) / s, with s the square root of 2 log(links) / mean load.
    """
    number, mean, most = load.size, load.mean(), load.max()
    if mean <= 0:
        return 0.0
    sharp, total = np.sqrt(2 * np.log(number) / mean), 0.0
    for value in load.ravel():
        total += np.exp(sharp * (value - most))
    return float(most + np.log(total / number) / sharp)
