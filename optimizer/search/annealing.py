"""Simulated annealing of the batches' peaks under optimal split (Kirkpatrick, Gelatt and Vecchi, Science 220, 1983).

A short descent comes first. What peaks exceed even loads by after it is the scale of temperatures: they say which share
of that excess a move may lose. (Setting temperatures by the share of sampled moves that are accepted failed: a few
moves that change next to nothing, made to and fro, are most of what is accepted.) From there temperatures fall
geometrically with the share of the budget that is spent.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.placement import Placement
from optimizer.search.chains import Tally, cooled
from optimizer.search.checks import require
from optimizer.search.moves import MoveRules, is_legal, replacement_of, swap_of
from optimizer.search.side_by_side import SINGLE, Team
from optimizer.search.split_moves import TouchedSplit, apply, delta, forget, touched_for
from optimizer.search.split_state import LANES, SplitState, split_of, sweep
from optimizer.search.stop import SearchBudget

DRAWS = 6  # uniform random numbers that a move takes: its kind, two slots, a block, a lane, and whether it is accepted
REFRESH = 16  # moves made after which all experts are levelled, not only those near a move; a compromise: levelling
# takes time, and the rarer it is the further the peaks that are held lie above the least ones


class MoveKinds(NamedTuple):
    """Shares of the kinds of moves, added up: a uniform number below `anywhere` means a swap of any two slots, below
    `swaps` a swap with a slot on the fullest device, below `to_peak` a replica there, and else a replica elsewhere."""

    anywhere: float
    swaps: float
    to_peak: float


@dataclass(frozen=True)
class AnnealingSchedule:
    """How annealing cools, what it minimises, and which moves it draws.

    worsening: what is accepted at first with a probability of one half, as a share of the excess of peaks over even
    loads that the descent leaves; cooling: the last temperature over the first; descent: share of the budget in which
    only what improves is accepted, long enough to know the excess.

    The objective is mean + tail_weight * conditional value at risk: tail is the share of batches, worst first, whose
    mean peak counts tail_weight times what the mean of all counts (at the home case a tail term lowers p99 imbalance
    from 1.28 to 1.25).

    Kinds of moves, as shares of what is drawn: swaps_anywhere of any two slots; swaps_at_peak of a slot on the fullest
    device of some batch with any other; replicas_to_peak give a slot on that device to an expert from elsewhere; the
    rest give a slot elsewhere to an expert of that device. No measurement of these shares is recorded: more swaps
    anywhere look further, moves at the peak are the ones that lower it.

    Raises ValueError for a number out of range.
    """

    worsening: float = 0.01
    cooling: float = 0.05
    descent: float = 0.03
    tail: float = 0.1
    tail_weight: float = 1.0
    swaps_anywhere: float = 0.3
    swaps_at_peak: float = 0.3
    replicas_to_peak: float = 0.2

    def __post_init__(self) -> None:
        for name in ("worsening", "cooling", "tail"):
            value = getattr(self, name)
            require(0 < value <= 1, name, value, "above 0 and at most 1")
        require(0 <= self.descent < 1, "descent", self.descent, "a share of the budget, 0 or more and below 1")
        require(0 <= self.tail_weight < np.inf, "tail_weight", self.tail_weight, "0 or more")
        for name in ("swaps_anywhere", "swaps_at_peak", "replicas_to_peak"):
            value = getattr(self, name)
            require(0 <= value <= 1, name, value, "a share of the moves, between 0 and 1")
        total = self.kinds().to_peak
        require(total <= 1, "swaps_anywhere + swaps_at_peak + replicas_to_peak", total, "at most 1")

    def kinds(self) -> MoveKinds:
        """The shares of the kinds of moves, added up."""
        swaps = self.swaps_anywhere + self.swaps_at_peak
        return MoveKinds(self.swaps_anywhere, swaps, swaps + self.replicas_to_peak)


class Annealer:
    """A placement that is moved about at a given temperature; units `[batch, expert]`: load of each expert in tokens or
    tiles."""

    def __init__(
        self, start: Placement, units: Ints, rules: MoveRules, schedule: AnnealingSchedule, rng: np.random.Generator,
        known: Floats | None = None,
    ) -> None:  # fmt: skip
        self.split = split_of(start, units, known)
        self.tally = Tally()
        self._trial = self.split.copy()
        self._touched = touched_for(self.split)
        self.schedule = schedule
        self._rules, self._rng = rules, rng
        self.batches = len(units)
        self._first: float | None = None

    def temperature(self, share: float) -> float:
        """Zero during the descent, then from the first to the last temperature, in units of load summed over batches.

        share: of the budget that is spent.
        """
        descent = self.schedule.descent
        if share < descent:
            return 0.0
        if self._first is None:
            self._first = self.schedule.worsening * self.excess() * self.batches / np.log(2)
        fallen: float = self.schedule.cooling ** ((share - descent) / (1 - descent))
        return self._first * fallen

    def run(self, draws: int, temperature: float) -> None:
        """Draw this many moves; evaluate those that are legal and accept by Metropolis' rule.

        temperature: in units of load, summed over batches.
        """
        usual, weight = self._tail()
        parts = temperature * self.split.parts
        evaluated, made = _anneal(
            self.split, self._trial, self._touched, self._rules, self.schedule.kinds(),
            self._rng.random((draws, DRAWS)), parts, usual, weight,
        )  # fmt: skip
        self.tally.evaluated += evaluated
        self.tally.made += made
        self.tally.fruitless += evaluated == 0

    def placement(self) -> Placement:
        """The placement that the search is at now, which need not be the best that it has met."""
        return self.split.placement()

    def peaks(self) -> Floats:
        """Peak load of each batch in units, `[batch]`, an upper bound of the least."""
        return self.split.peak.T.ravel()[: self.batches] / self.split.parts

    def objective(self) -> float:
        """Mean peak plus tail_weight times the mean peak of the worst batches, in units."""
        peak = np.sort(self.peaks())
        worst = peak[-max(1, round(self.schedule.tail * len(peak))) :]
        return float(peak.mean() + self.schedule.tail_weight * worst.mean())

    def excess(self) -> float:
        """How far the objective is above the one of even loads, in units; the scale of temperatures."""
        mean_load = self.split.load.sum() / (self.split.parts * self.batches * len(self.split.slots))
        return self.objective() - (1 + self.schedule.tail_weight) * float(mean_load)

    def _tail(self) -> tuple[int, int]:
        """The peak above which batches are in the tail at present, in parts, and how many times more they count.

        Conditional value at risk is that peak + mean of what is beyond it / tail (Rockafellar and Uryasev 2000).
        """
        usual = np.quantile(self.split.peak.T.ravel()[: self.batches], 1 - self.schedule.tail)
        return int(usual), round(self.schedule.tail_weight / self.schedule.tail)


def anneal(
    start: Placement,
    units: Ints,
    rules: MoveRules,
    budget: SearchBudget,
    rng: np.random.Generator,
    schedule: AnnealingSchedule = AnnealingSchedule(),
    team: Team = SINGLE,
    progress: Callable[[float], None] = lambda share: None,
    known: Floats | None = None,
) -> Iterator[Placement]:
    """Anneal as many times at once as the team has chains, and yield what has become better, as `cooled` does.

    units `[batch, expert]`: load of each expert in tokens or tiles; known `[batch, expert]`: the loads by which a batch
    is split, None where that is its own. The temperature follows the iterations spent where
    they are limited, else the time, so that with a limit of iterations the seed alone decides.
    """
    annealers = [Annealer(start, units, rules, schedule, own, known) for own in rng.spawn(team.chains)]
    return cooled(annealers, budget, team.threads, progress)


@kernel
def _anneal(
    current: SplitState, trial: SplitState, touched: TouchedSplit, rules: MoveRules, kinds: MoveKinds,
    draws: Floats, temperature: float, usual: int, weight: int,
) -> tuple[int, int]:  # fmt: skip
    """Try one move for each row of draws `[move, DRAWS]`; returns how many were evaluated and made.

    temperature and usual in parts; weight: how many times more peaks count above usual.
    """
    evaluated = made = 0
    for number in range(len(draws)):
        move = _propose(draws[number], current, kinds)
        if not is_legal(move, current.slots, current.copies, rules):
            continue
        evaluated += 1
        limit = -temperature * np.log(draws[number, DRAWS - 1])
        _, accepted = delta(move, current, trial, touched, usual, weight, limit)
        if accepted:
            apply(current, trial, touched)
            made += 1
            if made % REFRESH == 0:
                sweep(current, 2)
                sweep(trial, 2)
        else:
            forget(current, trial, touched)
    return evaluated, made


@kernel
def _propose(draw: Floats, split: SplitState, kinds: MoveKinds) -> int:
    """A move, legal or not: mostly one that touches the fullest device of some batch.

    It is a swap, or a replica there of what is elsewhere, or a replica elsewhere of what is there.
    """
    size, depth = split.slots.size, split.slots.shape[1]
    one, other = int(draw[1] * size), int(draw[2] * size)
    if draw[0] >= kinds.anywhere:
        device = _fullest(split, int(draw[3] * len(split.units)), int(draw[4] * LANES))
        one = device * depth + one % depth
    if draw[0] < kinds.swaps:
        return swap_of(one, other, size)
    if draw[0] >= kinds.to_peak:
        one, other = other, one
    expert = max(int(split.slots[other // depth, other % depth]), 0)
    return replacement_of(one, expert, size, len(split.copies))


@kernel
def _fullest(split: SplitState, block: int, lane: int) -> int:
    """The first device that carries the peak of the batch in this block and lane."""
    load, device = split.load if len(split.ratio) == 0 else split.served, 0
    while load[block, device, lane] < split.peak[block, lane]:
        device += 1
    return device
