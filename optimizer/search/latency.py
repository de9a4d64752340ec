"""Annealing of latency on column rings: what links carry and how long devices work, at once.

Links count by what `ring_state` expects of them, devices by the least peak in tiles of each train batch, which is kept
up to date as in `annealing`. The search begins at a placement that is good in tiles: few moves lower a peak then, so
the links are asked first, and the split is levelled again only for moves that the links allow. Moves of three slots
that change experts in a circle were tried besides swaps, and gained nothing at equal numbers of iterations.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.cost import NS_PER_US, Cost
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.search import ring_moves, split_moves
from optimizer.search.chains import Tally, cooled
from optimizer.search.checks import require
from optimizer.search.moves import MoveRules, decode, is_legal, propose
from optimizer.search.ring_moves import communication
from optimizer.search.ring_state import RingDemand, RingState, refresh
from optimizer.search.side_by_side import SINGLE, Team
from optimizer.search.split_state import SplitState, split_of, sweep
from optimizer.search.stop import SearchBudget

DRAWS = 4  # uniform random numbers that a move takes: its kind, two slots, and whether it is accepted
REFRESH = 16  # moves made after which all experts are levelled, as in annealing, and links added up anew, as rounding
# errors build up
SLACK = 8  # 1 / SLACK of a tile is taken for rounding, as held peaks are up to .1 of a unit above the least
MARGIN, STEEP = 3, 2  # a peak closer than 1 / MARGIN of a tile to the next tile pays STEEP times what it is closer, as
# other batches may reach the next tile; a compromise; no measurement is recorded


@dataclass(frozen=True)
class LatencySchedule:
    """How the search for latency cools, and how it weighs tiles; no measurement of its values is recorded.

    hot, cold: the first and the last temperature as shares of what communication takes at the start (hotter loses the
    start, which is good in tiles; colder finds less); swaps: the share of drawn moves that are swaps, the others give a
    slot to another expert; tail: how many times its price a tile more counts, as the tiles of a few batches decide the
    tail of latencies. Raises ValueError for a number out of range.
    """

    hot: float = 4e-4
    cold: float = 1e-5
    swaps: float = 0.8
    tail: float = 3.0

    def __post_init__(self) -> None:
        require(0 < self.hot <= 1, "hot", self.hot, "above 0 and at most 1")
        require(0 < self.cold <= self.hot, "cold", self.cold, f"above 0 and at most hot, {self.hot}")
        require(0 <= self.swaps <= 1, "swaps", self.swaps, "a share of the moves, between 0 and 1")
        require(0 <= self.tail < np.inf, "tail", self.tail, "0 or more")


class LatencyPrices(NamedTuple):
    """Microseconds: message `[3]` for one on the busiest link of each kind of `ring_state`; tile for one more on the
    device with the longest work in all batches."""

    message: Floats
    tile: float


def prices_of(cost: Cost, network: Network) -> LatencyPrices:
    """What the cost model asks for a message and for a tile."""
    out, back = (float(each(network.remote)[0]) for each in (cost.dispatch_message_us, cost.combine_message_us))
    return LatencyPrices(np.array([out, back, back]), cost.tile_ns[1] / NS_PER_US)


class LatencyWork(NamedTuple):
    """What a layer asks of its devices and links: tiles `[batch, expert]` load of each expert, the demand on rings, and
    what both cost."""

    tiles: Ints
    demand: RingDemand
    prices: LatencyPrices


class Splits(NamedTuple):
    """The split of loads as it is, a trial copy in which moves are evaluated, and what a move touched there."""

    state: SplitState
    trial: SplitState
    touched: split_moves.TouchedSplit


class Rings(NamedTuple):
    """The loads of links as they are, a trial copy in which moves are evaluated, and what a move touched there."""

    state: RingState
    trial: RingState
    touched: ring_moves.TouchedRings


class LatencyAnnealer:
    """A placement that is moved about at a given temperature."""

    def __init__(
        self,
        start: Placement,
        work: LatencyWork,
        rules: MoveRules,
        schedule: LatencySchedule,
        rng: np.random.Generator,
    ) -> None:
        self.split, self.rings = split_of(start, work.tiles), RingState.of(start, work.demand, rules.cols)
        self.tally = Tally()
        self.schedule = schedule
        self._splits = Splits(self.split, self.split.copy(), split_moves.touched_for(self.split))
        self._all_rings = Rings(self.rings, self.rings.copy(), ring_moves.touched_for(self.rings))
        self._rules, self._rng = rules, rng
        self._message, self._tile = work.prices.message, schedule.tail * work.prices.tile
        self._batches, self._needed = len(work.tiles), work.tiles.max(axis=0)
        self._scale = communication(self.rings, self._message)

    def temperature(self, share: float) -> float:
        """The temperature when this share of the budget is spent, microseconds; it falls geometrically."""
        hot, cold = self.schedule.hot, self.schedule.cold
        heat: float = self._scale * hot * (cold / hot) ** share
        return heat

    def run(self, draws: int, temperature: float) -> None:
        """Draw this many moves; evaluate those that are legal and accept by Metropolis' rule."""
        evaluated, made = _anneal(
            self._splits, self._all_rings, self._message, self._tile / self._batches, self._needed, self._rules,
            self.schedule.swaps, self._rng.random((draws, DRAWS)), temperature,
        )  # fmt: skip
        self.tally.evaluated += evaluated
        self.tally.made += made
        self.tally.fruitless += evaluated == 0

    def placement(self) -> Placement:
        """The placement at which the annealer is now, which need not be the best that it has met."""
        return self.split.placement()

    def objective(self) -> float:
        """Microseconds, up to a constant; a tile counts the schedule's `tail` times."""
        work = _work(self.split.peak, self.split.parts) / self._batches
        return communication(self.rings, self._message) + self._tile * work


def anneal_latency(
    start: Placement,
    work: LatencyWork,
    rules: MoveRules,
    budget: SearchBudget,
    rng: np.random.Generator,
    schedule: LatencySchedule = LatencySchedule(),
    team: Team = SINGLE,
    progress: Callable[[float], None] = lambda share: None,
) -> Iterator[Placement]:
    """Anneal as many times at once as the team has chains, and yield what has become better, as `cooled` does.

    With a limit of iterations the seed alone decides.
    """
    annealers = [LatencyAnnealer(start, work, rules, schedule, own) for own in rng.spawn(team.chains)]
    return cooled(annealers, budget, team.threads, progress)


@kernel
def _anneal(
    splits: Splits, all_rings: Rings, message: Floats, tile: float, needed: Ints, rules: MoveRules, swaps: float,
    draws: Floats, temperature: float,
) -> tuple[int, int]:  # fmt: skip
    """Try one move for each row of draws `[move, DRAWS]`; returns how many were evaluated and made.

    message `[3]`, tile and temperature in microseconds; needed `[expert]`: the most tiles of any batch.
    """
    split, split_trial, split_touched = splits
    rings, rings_trial, rings_touched = all_rings
    evaluated = made = 0
    now, work = communication(rings, message), _work(split.peak, split.parts)
    for number in range(len(draws)):
        move = propose(draws[number], split.slots, len(split.copies), swaps)
        if not is_legal(move, split.slots, split.copies, rules) or _wanted(move, split, needed):
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
def _wanted(move: int, split: SplitState, needed: Ints) -> bool:
    """Whether a replacement takes a replica away that some batch has a tile for: two tiles in one slot take longer than
    in two slots."""
    _, b, x, _ = decode(move, split.slots, len(split.copies))
    return bool(b < 0 and x >= 0 and split.copies[x] <= needed[x])


@kernel
def _work(peak: Ints, parts: int) -> float:
    """Sum over batches of the peak in whole tiles, and a surcharge for peaks that nearly need one tile more."""
    total = 0
    for held in peak.ravel():
        tiles = -((parts // SLACK - held) // parts)
        total += tiles * parts + STEEP * max(0, parts // MARGIN - (tiles * parts - held))
    return total / parts
