"""A climb for SGLang's static table, which is dealt out at random from all that the placement says.

Nearly any move changes what all ranks draw for all later experts, so nothing can be told from increments: each trial
deals the whole table anew, by SGLang's own generators, and keeps the move unless the peaks of the batches got worse.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Bools, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.routing.servers.sglang import find_near, generators_after, nodes_of, walk
from optimizer.search.moves import MoveRules, decode, is_legal, propose
from optimizer.search.side_by_side import SINGLE, Team, side_by_side
from optimizer.search.stop import SearchBudget

SWAPS = 0.7  # of random moves; the others give a slot to another expert. Not tuned
CHUNK = 20  # trials between looks at the clock: .1 s where a trial takes longest, with 128 ranks


class Dealing(NamedTuple):
    """What the loads under a dealt table follow from, besides the placement.

    demand `[source, expert, batch]` pairs; value `[tokens + 1]` what a slot costs by its load; generators
    `[source, WORDS + 1]` of the ranks before this layer; own and node `[source, device]`: the rank's GPU and its node.
    """

    demand: Ints
    value: Ints
    generators: Ints
    own: Bools
    node: Bools

    @classmethod
    def of(
        cls,
        demand: Ints,
        value: Ints,
        network: Network,
        slots_per_device: int,
        layers_before: tuple[Placement | None, ...],
    ) -> "Dealing":
        """The dealing on a network, after the layers before; the other parameters are the fields of their names."""
        shape = network.mesh.devices, slots_per_device
        generators = generators_after(network, demand.shape[1], shape, layers_before)
        own, node = nodes_of(network)
        return cls(demand, value.astype(np.int64), generators, own, node)

    def cost(self, placement: Placement) -> int:
        """The sum over batches of the peak device cost."""
        slots = placement.slots.astype(np.int64)
        return int(dealt_cost(slots, placement.counts(self.demand.shape[1]), self))


class _Climb:
    """A climb from a placement, and the cost of where it is."""

    def __init__(self, start: Placement, dealing: Dealing, rules: MoveRules, rng: np.random.Generator) -> None:
        self._dealing, self._rules, self._rng = dealing, rules, rng
        self.slots, self.copies = start.slots.astype(np.int64), start.counts(dealing.demand.shape[1])
        self.cost = self._shown = dealing.cost(start)

    def advance(self, most: int, share: float) -> int:
        """Try this number of moves."""
        self.cost = _climb(self.slots, self.copies, self._dealing, self._rules, most, self.cost, self._rng)
        return max(most, 1)

    def follow(self, other: "_Climb") -> None:
        """Go on from where a better climb is."""
        if other.cost < self.cost:
            self.slots[:], self.copies[:], self.cost = other.slots, other.copies, other.cost
            self._shown = other.cost

    def reached(self) -> float:
        """The cost of where the climb is."""
        return self.cost

    def passed(self, over: bool) -> list[Placement]:
        """Where the climb is, if it has come there by itself and that is better than before."""
        if self.cost >= self._shown:
            return []
        self._shown = self.cost
        return [Placement(self.slots)]


def climb_dealt(
    start: Placement,
    dealing: Dealing,
    rules: MoveRules,
    budget: SearchBudget,
    rng: np.random.Generator,
    team: Team = SINGLE,
) -> Iterator[Placement]:
    """Yield each placement of less cost than the one before at which climbs are whenever `side_by_side` looks; then all
    go on from the best of them."""
    climbs = [_Climb(start, dealing, rules, own) for own in rng.spawn(team.chains)]

    def meet() -> None:
        best = min(climbs, key=lambda climb: climb.cost)
        for climb in climbs:
            climb.follow(best)

    return side_by_side(climbs, budget, team.threads, CHUNK, meet=meet)


@kernel
def dealt_cost(slots: Ints, copies: Ints, dealing: Dealing) -> int:
    """What `Dealing.cost` gives, for slots `[device, slot]` and copies `[expert]`."""
    devices, depth = slots.shape
    demand, value = dealing.demand, dealing.value
    start, slot = listed(slots, copies)
    near = find_near(start, slot // depth, slot, dealing.own, dealing.node)
    table = walk(dealing.generators.copy(), start, slot, near)
    load = np.zeros((devices * depth, demand.shape[2]), dtype=np.int64)
    for source in range(len(demand)):
        for expert in range(len(copies)):
            row = load[table[source, expert]]
            for batch in range(len(row)):
                row[batch] += demand[source, expert, batch]
    peak, one = np.zeros(demand.shape[2], dtype=np.int64), np.zeros(demand.shape[2], dtype=np.int64)
    for device in range(devices):
        one[:] = 0
        for place in range(device * depth, device * depth + depth):
            for batch in range(len(one)):
                one[batch] += value[load[place, batch]]
        for batch in range(len(one)):
            peak[batch] = max(peak[batch], one[batch])
    return int(peak.sum())


@kernel
def listed(slots: Ints, copies: Ints) -> tuple[Ints, Ints]:
    """What `Placement.replicas` gives, of slots `[device, slot]` and copies `[expert]`."""
    start = np.zeros(len(copies) + 1, dtype=np.int32)
    for expert in range(len(copies)):
        start[expert + 1] = start[expert] + copies[expert]
    slot, filled = np.empty(start[-1], dtype=np.int32), start[:-1].copy()
    for place in range(slots.size):
        expert = slots[place // slots.shape[1], place % slots.shape[1]]
        if expert >= 0:
            slot[filled[expert]] = place
            filled[expert] += 1
    return start, slot


@kernel
def _climb(
    slots: Ints, copies: Ints, dealing: Dealing, rules: MoveRules, trials: int, least: int, rng: np.random.Generator
) -> int:
    """Try random moves on slots and copies, in place, and keep those that do not raise the cost, which is returned."""
    depth = slots.shape[1]
    for _ in range(trials):
        move = propose(rng.random(3), slots, len(copies), SWAPS)
        if not is_legal(move, slots, copies, rules):
            continue
        a, b, x, y = decode(move, slots, len(copies))
        slots[a // depth, a % depth] = y
        if b >= 0:
            slots[b // depth, b % depth] = x
        else:
            copies[y] += 1
            if x >= 0:
                copies[x] -= 1
        found = dealt_cost(slots, copies, dealing)
        if found <= least:
            least = found
            continue
        slots[a // depth, a % depth] = x
        if b >= 0:
            slots[b // depth, b % depth] = y
        else:
            copies[y] -= 1
            if x >= 0:
                copies[x] += 1
    return least
