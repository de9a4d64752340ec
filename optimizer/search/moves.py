"""The two moves of local search, `swap` and `replace`: which are legal, what one would change, and making the change.

A move is a number, so that a search can draw one, count through all of them and keep a list of them in an array. With
`size` slots in all, a number below size * size swaps the contents of slot number // size and slot number % size. A
number from there on gives slot (number - size * size) // experts to expert (number - size * size) % experts: that
expert gains a replica and the former owner of the slot loses one. `decode` is the one place that takes numbers apart;
`swap_of` and `replacement_of` make them. An empty slot is swapped like any other, and is given to an expert as long as
the replicas stay within their limit; no move empties a slot.

What a move changes depends on what is to be least: `even_moves` knows the peaks under even split, `split_moves` those
under optimal split, and `ring_moves` the loads of links. In all three `delta` never changes the current state, and
`apply` never judges a move.
"""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem

NO_LIMIT = 1 << 62  # stands for no limit to a number of replicas or weights; far above any number of slots

ANYWHERE = np.zeros((0, 0), dtype=np.bool_)  # what devices hold where it does not matter


class MoveRules(NamedTuple):
    """What legal moves have to respect.

    spread `[expert]`: experts whose number of replicas is fixed and whose replicas stay in their mesh rows; cols:
    devices of a mesh row; most: the largest number of replicas of all experts together. held `[device, expert]`: what
    devices hold in the placement in force; most_loaded: how many experts they may hold besides. A placement beyond that
    number may only come nearer.
    """

    spread: Bools
    cols: int
    most: int = NO_LIMIT
    held: Bools = ANYWHERE
    most_loaded: int = NO_LIMIT

    @classmethod
    def of(cls, problem: Problem) -> "MoveRules":
        """The rules that keep a valid placement of this problem valid."""
        rules = cls(problem.spread, problem.mesh.cols, problem.most_replicas)
        if problem.budget is None:
            return rules
        held = problem.budget.current.held(problem.model.experts)
        return rules._replace(held=held, most_loaded=problem.budget.most)

    def near_enough(self, placement: Placement) -> bool:
        """Whether devices would have to load no more weights than they may."""
        if self.most_loaded == NO_LIMIT:
            return True
        return int((placement.held(self.held.shape[1]) & ~self.held).sum()) <= self.most_loaded


class Move(NamedTuple):
    """A move taken apart: slots a and b, numbered over all devices, b = -1 for a replacement; the expert x that leaves
    slot a, for b if there is one, and the expert y that comes to a; -1 stands for an empty slot."""

    a: int
    b: int
    x: int
    y: int


@kernel
def decode(move: int, slots: Ints, experts: int) -> Move:
    """Take a move number apart; slots `[device, slot]`, experts: their number."""
    depth, size = slots.shape[1], slots.size
    if move < size * size:
        a, b = move // size, move % size
        y = slots[b // depth, b % depth]
    else:
        a, b = (move - size * size) // experts, -1
        y = (move - size * size) % experts
    return Move(a, b, slots[a // depth, a % depth], y)


@kernel
def swap_of(one: int, other: int, size: int) -> int:
    """The number of the swap of two slots out of `size`, the way round that may be legal."""
    return min(one, other) * size + max(one, other)


@kernel
def replacement_of(slot: int, expert: int, size: int, experts: int) -> int:
    """The number of the move that gives a slot out of `size` to an expert."""
    return size * size + slot * experts + expert


@kernel
def propose(draw: Floats, slots: Ints, experts: int, swaps: float) -> int:
    """A random move, legal or not: a swap of two slots, or a replica in one slot of the expert in another.

    draw: three uniform numbers or more; swaps: the probability of a swap.
    """
    depth, size = slots.shape[1], slots.size
    one, other = int(draw[1] * size), int(draw[2] * size)
    if draw[0] < swaps:
        return swap_of(one, other, size)
    return replacement_of(one, max(int(slots[other // depth, other % depth]), 0), size, experts)


@kernel
def holds(slots: Ints, device: int, expert: int) -> bool:
    """Whether a device holds a replica of this expert."""
    for slot in range(slots.shape[1]):
        if slots[device, slot] == expert:
            return True
    return False


@kernel
def is_legal(move: int, slots: Ints, copies: Ints, rules: MoveRules) -> bool:
    """Whether a move changes anything, keeps the placement valid, and respects the rules.

    slots `[device, slot]`; copies `[expert]`. Of the two numbers that stand for one swap only the lower is legal.
    """
    devices, depth = slots.shape
    a, b, x, y = decode(move, slots, len(copies))
    at_a, at_b = a // depth, b // depth
    if b < 0:
        if x == y or rules.spread[y] or copies[y] == devices or holds(slots, at_a, y):
            return False
        if x < 0 and int(copies.sum()) >= rules.most:
            return False
        if x >= 0 and (copies[x] <= 1 or rules.spread[x]):
            return False
        return is_near_enough(a, b, x, y, slots, rules)
    if a >= b or at_a == at_b or x == y:
        return False
    pinned = (x >= 0 and rules.spread[x]) or (y >= 0 and rules.spread[y])
    if pinned and at_a // rules.cols != at_b // rules.cols:
        return False
    if (x >= 0 and holds(slots, at_b, x)) or (y >= 0 and holds(slots, at_a, y)):
        return False
    return is_near_enough(a, b, x, y, slots, rules)


@kernel
def is_near_enough(a: int, b: int, x: int, y: int, slots: Ints, rules: MoveRules) -> bool:
    """Whether devices have to load few enough weights after a move, or at least fewer than before it; see `Move`.

    All weights are counted anew: that takes less time than what a search needs to evaluate a move.
    """
    if rules.most_loaded == NO_LIMIT:
        return True
    depth, more = slots.shape[1], 0
    at_a, at_b = a // depth, b // depth
    more += is_new(at_a, y, rules.held) - is_new(at_a, x, rules.held)
    if b >= 0:
        more += is_new(at_b, x, rules.held) - is_new(at_b, y, rules.held)
    if more < 0:
        return True
    loaded = 0
    for device in range(len(slots)):
        for slot in range(depth):
            loaded += is_new(device, slots[device, slot], rules.held)
    return bool(loaded + more <= rules.most_loaded)


@kernel
def is_new(device: int, expert: int, held: Bools) -> int:
    """1 for an expert that a device does not hold in the placement in force, else 0; expert -1 is an empty slot."""
    return 0 if expert < 0 or held[device, expert] else 1
