"""The weights that devices load on the way from one placement to another, in rounds.

In a round each device sends at most one expert and receives at most one. Senders and receivers are the two sides of a
bipartite graph with an edge for each move, and rounds are the colours of its edges. As many rounds as the busiest
device has moves on one side are enough (Koenig 1916). Moves of a layer arrive beside what is in force, as servers do
it, so that any device which holds an expert now can send it in any round.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from formulations.kit.arrays import Bools, Ints
from optimizer.domain.placement import EMPTY, Placement


class WeightMove(NamedTuple):
    """The weights of an expert of a layer that one device sends to another, which puts them into a slot."""

    layer: int
    expert: int
    source: int
    target: int
    slot: int


@dataclass(frozen=True)
class Chunk:
    """Layers that change together, and their moves by round."""

    layers: tuple[int, ...]
    rounds: tuple[tuple[WeightMove, ...], ...]

    @property
    def most_arriving(self) -> int:
        """How many experts the device with most moves receives: weights that it must have room for beside its slots."""
        arriving = [move.target for moves in self.rounds for move in moves]
        return int(np.bincount(arriving).max(initial=0)) if arriving else 0


Placements = Mapping[int, Placement]
"""Placements by layer id."""


def chunks(before: Placements, after: Placements, distance: Ints, layers_each: int = 1) -> tuple[Chunk, ...]:
    """All moves from one placement of each layer to another, a few layers at a time; layers without moves are left out.
    Experts that stay on a device are in the same slot before and after, as `with_slots_kept` has it.

    distance `[device, device]`: from a sender to a receiver, which decides between senders where that costs no round.
    """
    moving = [layer for layer in sorted(after) if after[layer].weights_to_load(before[layer])]
    found = []
    for begin in range(0, len(moving), layers_each):
        layers = tuple(moving[begin : begin + layers_each])
        found.append(Chunk(layers, in_rounds(_moves(before, after, layers, distance), len(distance))))
    return tuple(found)


def _moves(before: Placements, after: Placements, layers: Sequence[int], distance: Ints) -> list[WeightMove]:
    """The moves of some layers, with senders that are balanced over them."""
    loads = {layer: _to_load(before[layer], after[layer]) for layer in layers}
    received = sum((np.bincount(each[:, 0], minlength=len(distance)) for each in loads.values()), np.zeros(1, np.int64))
    sent, found = np.zeros(len(distance), dtype=np.int64), []
    for layer, wanted in loads.items():
        experts = int(max(before[layer].slots.max(), after[layer].slots.max())) + 1
        holders = before[layer].held(experts)[:, wanted[:, 2]].T
        sources = senders(holders, distance[:, wanted[:, 0]].T, sent, int(received.max()))
        sent += np.bincount(sources, minlength=len(sent))
        found += [
            WeightMove(layer, int(expert), int(source), int(target), int(slot))
            for (target, slot, expert), source in zip(wanted, sources, strict=True)
        ]
    return found


def _to_load(before: Placement, after: Placement) -> Ints:
    """What devices must load, `[move, 3]`: device, slot and expert."""
    there = (after.slots[:, :, None] == before.slots[:, None, :]).any(axis=2)
    device, slot = np.nonzero(~there & (after.slots != EMPTY))
    return np.stack([device, slot, after.slots[device, slot]], axis=1)


def senders(holders: Bools, distance: Ints, sent: Ints, free: int) -> Ints:
    """Which device sends each weight, `[move]`: so that the most that any device sends is least, or at most `free`,
    and then near the receiver.

    holders `[move, device]`: who has the expert; distance `[move, device]`: how far from the receiver; sent `[device]`:
    what each sends already. A device's n-th sending costs n - free, at least 0, which makes it an assignment problem
    with a place for each sending (an optimal semi-matching: Harvey et al., J. Algorithms 59, 2006).
    """
    possible = holders.sum(axis=0)
    place = np.repeat(np.arange(len(sent)), possible)
    turn = np.arange(len(place)) - np.repeat(np.cumsum(possible) - possible, possible) + 1 + sent[place]
    farthest = int(distance.max(initial=0)) * len(holders) + 1  # all ways together are shorter than one sending costs
    cost = np.maximum(turn - free, 0)[None] * farthest + distance[:, place]
    _, chosen = linear_sum_assignment(np.where(holders[:, place], cost, np.inf))
    found: Ints = place[chosen]
    return found


def in_rounds(moves: Sequence[WeightMove], devices: int) -> tuple[tuple[WeightMove, ...], ...]:
    """The moves in as few rounds as possible: as many as the busiest device sends or receives."""
    ends = np.array([(move.source, move.target) for move in moves], dtype=np.int64).reshape(-1, 2)
    count = max((int(np.bincount(side).max()) for side in ends.T if len(side)), default=0)
    colours = _Colours.none(devices, count, ends)
    for edge in range(len(moves)):
        colours.colour(edge)
    by_round: list[list[WeightMove]] = [[] for _ in range(count)]
    for move, number in zip(moves, colours.of, strict=True):
        by_round[number].append(move)
    return tuple(map(tuple, by_round))


@dataclass(frozen=True, eq=False)
class _Colours:
    """A colour for each edge between senders and receivers: ends `[edge, 2]`, of `[edge]`, and at `[side, device,
    colour]` the edge that has a colour there; -1 for none."""

    ends: Ints
    of: Ints
    at: Ints

    @classmethod
    def none(cls, devices: int, colours: int, ends: Ints) -> "_Colours":
        return cls(ends, np.full(len(ends), -1), np.full((2, devices, colours), -1))

    def colour(self, edge: int) -> None:
        """Give an edge a colour that is free at both of its ends, where need be by exchanging two colours along the
        path that begins at its receiver; the path never comes to the edge's sender, where the first of them is free."""
        source, target = self.ends[edge]
        first = int(np.flatnonzero(self.at[0, source] < 0)[0])
        second = int(np.flatnonzero(self.at[1, target] < 0)[0])
        self._exchange(1, target, first, second)
        self._give(edge, first)

    def _exchange(self, side: int, device: int, first: int, second: int) -> None:
        """Exchange two colours along the path from a device that begins with an edge of the first."""
        path, colour = [], first
        while (edge := int(self.at[side, device, colour])) >= 0:
            path.append(edge)
            side, colour = 1 - side, second if colour == first else first
            device = int(self.ends[edge, side])
        colours = [first + second - int(self.of[edge]) for edge in path]
        for edge in path:
            self.at[[0, 1], self.ends[edge], self.of[edge]] = -1
        for edge, colour in zip(path, colours, strict=True):
            self._give(edge, colour)

    def _give(self, edge: int, colour: int) -> None:
        self.of[edge] = colour
        self.at[[0, 1], self.ends[edge], colour] = edge
