"""Annealing of latency on column rings: what links carry and how long devices work, at once.

Links count by what `ring_state` expects of them, devices by the least peak in tiles of each train batch, which is kept
up to date as in `annealing`. It begins at a placement that is good in tiles: few moves lower a peak then, so the links
are asked first, and the split is levelled again only for moves that they allow. Three slots that change experts in a
circle were tried besides swaps, and gained nothing at equal numbers of iterations.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Bools, Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.cost import NS_PER_US, Cost
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.search import ring_moves, split_moves
from optimizer.search.chains import Tally, cooled
from optimizer.search.moves import NO_LIMIT, is_legal
from optimizer.search.ring_moves import communication
from optimizer.search.ring_state import RingDemand, RingState, refresh
from optimizer.search.split_state import SplitState, split_of, sweep
from optimizer.search.stop import SearchBudget

DRAWS = 4  # uniform random numbers that a move takes
SWAPS = 0.8  # of the moves; the others give a slot to the expert of another
HOT, COLD = 4e-4, 1e-5  # temperatures at first and at last, as shares of what communication takes
REFRESH = 16  # moves made after which all experts are levelled and loads of links added up anew
TAIL = 3  # times that a tile more of a batch counts
SLACK = 8  # that part of a tile is rounding: held peaks are up to .1 of a unit above the least
MARGIN, STEEP = 3, 2  # peaks less than a third of a tile below the next count so: other batches may reach it


class LatencyPrices(NamedTuple):
    """Microseconds: message `[3]` on the busiest link of each kind as of `ring_state`, and tile: one more on the device
    with the longest work in all batches."""

    message: Floats
    tile: float


def prices_of(cost: Cost, network: Network) -> LatencyPrices:
    """What the cost model asks; a tile more counts several times, as those of a few batches decide the tail."""
    out, back = (float(each(network.remote)[0]) for each in (cost.dispatch_message_us, cost.combine_message_us))
    return LatencyPrices(np.array([out, back, back]), TAIL * cost.tile_ns[1] / NS_PER_US)


class LatencyAnnealer:
    """A placement that is moved about at a given temperature.

    tiles `[batch, expert]`: load of each expert; spread `[expert]`: experts whose replicas keep their number and their
    rows; cols: devices of a mesh row; most: replicas of all experts together.
    """

    def __init__(
        self,
        start: Placement,
        tiles: Ints,
        demand: RingDemand,
        prices: LatencyPrices,
        spread: Bools,
        cols: int,
        rng: np.random.Generator,
        most: int = NO_LIMIT,
    ) -> None:
        self.split, self.rings = split_of(start, tiles), RingState.of(start, demand, cols)
        self.tally = Tally()
        self.prices = prices
        self._trials = self.split.copy(), self.rings.copy()
        self._touched = split_moves.touched_for(self.split), ring_moves.touched_for(self.rings)
        self._spread, self._cols, self._most, self._rng = spread, cols, most, rng
        self._batches, self._needed = len(tiles), tiles.max(axis=0)
        self._scale = communication(self.rings, prices.message)

    def temperature(self, share: float) -> float:
        """Falls geometrically, microseconds."""
        heat: float = self._scale * HOT * (COLD / HOT) ** share
        return heat

    def run(self, draws: int, temperature: float) -> None:
        """Draw so many moves; evaluate those that are legal and accept by Metropolis' rule."""
        tile = self.prices.tile / self._batches
        evaluated, made = _anneal(
            self.split, self._trials[0], self._touched[0], self.rings, self._trials[1], self._touched[1],
            self.prices.message, tile, self._needed, self._spread, self._cols, self._most,
            self._rng.random((draws, DRAWS)), temperature,
        )  # fmt: skip
        self.tally.evaluated += evaluated
        self.tally.made += made
        self.tally.fruitless += evaluated == 0

    def placement(self) -> Placement:
        """The current one."""
        return self.split.placement()

    def objective(self) -> float:
        """Microseconds, up to a constant, and times `TAIL` where devices are busy."""
        work = _work(self.split.peak, self.split.parts) / self._batches
        return communication(self.rings, self.prices.message) + self.prices.tile * work


def anneal_latency(
    start: Placement,
    tiles: Ints,
    demand: RingDemand,
    prices: LatencyPrices,
    spread: Bools,
    cols: int,
    budget: SearchBudget,
    rng: np.random.Generator,
    chains: int = 1,
    most: int = NO_LIMIT,
    progress: Callable[[float], None] = lambda share: None,
) -> Iterator[Placement]:
    """Anneal `chains` times at once, each in a thread, and yield what has become better, as `cooled` does.

    What is taken is as of `LatencyAnnealer`. With a limit of iterations the seed alone decides.
    """
    common = start, tiles, demand, prices, spread, cols
    return cooled([LatencyAnnealer(*common, own, most) for own in rng.spawn(chains)], budget, progress)


@kernel
def _anneal(
    split: SplitState, split_trial: SplitState, split_touched: split_moves.TouchedSplit,
    rings: RingState, rings_trial: RingState, rings_touched: ring_moves.TouchedRings,
    message: Floats, tile: float, needed: Ints, spread: Bools, cols: int, most: int, draws: Floats, temperature: float,
) -> tuple[int, int]:  # fmt: skip
    evaluated = made = 0
    now, work = communication(rings, message), _work(split.peak, split.parts)
    for number in range(len(draws)):
        move = _propose(draws[number], split.slots, len(split.copies))
        if not is_legal(move, split.slots, split.copies, spread, cols, most) or _wanted(move, split, needed):
            continue
        evaluated += 1
        limit = -temperature * np.log(draws[number, DRAWS - 1])
        then = ring_moves.delta(move, rings, rings_trial, rings_touched, message)
        if then - now > limit:
            ring_moves.forget(rings, rings_trial, rings_touched)
            continue
        split_moves.delta(move, split, split_trial, split_touched, 0, 0, np.inf)
        worked = _work(split_trial.peak, split.parts)
        if then - now + tile * (worked - work) > limit:
            ring_moves.forget(rings, rings_trial, rings_touched)
            split_moves.forget(split, split_trial, split_touched)
            continue
        ring_moves.apply(rings, rings_trial, rings_touched)
        split_moves.apply(split, split_trial, split_touched)
        now, work = then, worked
        made += 1
        if made % REFRESH == 0:
            sweep(split, 2)
            sweep(split_trial, 2)
            refresh(rings)
            refresh(rings_trial)
            now, work = communication(rings, message), _work(split.peak, split.parts)
    return evaluated, made


@kernel
def _propose(draw: Floats, slots: Ints, experts: int) -> int:
    """A move, legal or not: a swap of two slots, or a replica in one of them of the expert in the other."""
    one, other = int(draw[1] * slots.size), int(draw[2] * slots.size)
    if draw[0] < SWAPS:
        return min(one, other) * slots.size + max(one, other)
    return slots.size * slots.size + one * experts + max(int(slots.ravel()[other]), 0)


@kernel
def _wanted(move: int, split: SplitState, needed: Ints) -> bool:
    """Whether a move takes a replica away that some batch has a tile for: two in one slot take longer than in two."""
    size, depth = split.slots.size, split.slots.shape[1]
    slot = (move - size * size) // len(split.copies)
    expert = split.slots[slot // depth, slot % depth] if move >= size * size else -1
    return bool(expert >= 0 and split.copies[expert] <= needed[expert])


@kernel
def _work(peak: Ints, parts: int) -> float:
    """Peaks of all batches in tiles, as they are served, and what those that are nearly one more count besides."""
    total = 0
    for held in peak.ravel():
        tiles = -((parts // SLACK - held) // parts)
        total += tiles * parts + STEEP * max(0, parts // MARGIN - (tiles * parts - held))
    return total / parts
