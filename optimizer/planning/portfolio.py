"""Which searches run for which routing policies, in what share of the time, and which of their results is best."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.link_paths import LinkPaths
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.errors import InputError
from optimizer.planning.candidates import (
    FINALISTS,
    FLEXIBILITY,
    SEARCHES,
    Candidate,
    Effort,
    Notify,
    SearchShare,
    shorten,
    split_at_best,
    split_evenly,
)
from optimizer.routing.capacity import Coactivation
from optimizer.routing.context import LearnedShares
from optimizer.routing.learned_shares import learn
from optimizer.routing.policies import TAUGHT
from optimizer.search.arrangement import arrange, demand_of
from optimizer.search.choose import DECISIVE, LATENCIES, SelectionGoal, choose, figures
from optimizer.search.latency import prices_of
from optimizer.search.multistart import latency_goal, slot_value
from optimizer.search.ring_state import RingDemand
from optimizer.search.seeds.partition import partition
from optimizer.search.split_state import exact_peaks
from optimizer.search.stop import Deadline, SearchBudget
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.report import SimulationReport
from optimizer.simulation.simulator import simulate
from optimizer.traces.batches import Batches, Sets

AUTO = ("even", "nearest", "optimal")
"""What is tried where no policy is named: the best that needs to know nothing but counts, or a table, or all loads."""

SPLITTING = ("capacity-fill", "least-loaded", "optimal")
NEAR = ("nearest", *SPLITTING)
"""Policies that follow the load of the batch, and those that look at distances."""

LATENCY_SHARE = 0.9  # of the time for routing that follows the load, for the search that looks at links as well
ABOVE_FLOOR = 0.02  # share of batches in which a device may have a tile too much, for links to be what is left to win
EVEN_SHARE = 0.3  # of the time of all searches for the one for even routing, where another runs as well
PARTITION_FROM = 20.0  # seconds: it takes one, which a short search spends better
WELL_PLACED = ("pairing", "risk", "steps", "formulation")  # seeds that are worth judging, besides greedy
FLEXIBLE = ("start", "risk", FLEXIBILITY)  # those that are where policies follow the load of the batch


@dataclass(frozen=True)
class LayerJudge:
    """The simulator with one layer's batches and conditions."""

    problem: Problem
    sets: Sets
    conditions: Conditions

    def test(self, placement: Placement) -> SimulationReport:
        """On the test batches."""
        return self.on(placement, self.sets.test)

    def selection(self, placement: Placement) -> SimulationReport:
        """On the selection batches."""
        return self.on(placement, self.sets.selection)

    @property
    def goal(self) -> SelectionGoal:
        """What candidates are chosen by: tokens are balanced for their own sake where they are counted on purpose."""
        unit, paid = self.conditions.unit, self.problem.cost.unit
        if self.conditions.routing not in SPLITTING:
            return SelectionGoal.LATENCY_AND_BALANCE
        if unit == "tokens" and paid == "tiles":
            return SelectionGoal.BALANCE
        return SelectionGoal.LATENCY if (unit or paid) == "tiles" else SelectionGoal.LATENCY_AND_BALANCE

    def on(self, placement: Placement, batches: Batches) -> SimulationReport:
        """On any batches."""
        problem, taught = self.problem, self.taught(placement)
        return simulate(placement, batches, problem.model, problem.mesh, problem.cost, self.conditions, taught)

    def taught(self, placement: Placement) -> LearnedShares | None:
        """What train batches teach the policy, if it learns."""
        problem = self.problem
        return learn(placement, problem.load, slot_value(problem)) if self.conditions.routing in TAUGHT else None


@dataclass
class CandidatePool:
    """Candidates of one routing policy, and their figures on the selection batches; the first is what to beat.

    least_traffic: what `SimulationReport.most_row_traffic` is for the best of all that were offered.
    """

    judge: LayerJudge
    placements: list[Placement] = field(default_factory=list)
    judged: list[Floats] = field(default_factory=list)
    least_traffic: float = np.inf

    def add(self, placement: Placement) -> None:
        """LayerJudge one more; it is a candidate unless more pairs come to a row from others than may."""
        report = self.judge.selection(placement)
        self.least_traffic = min(self.least_traffic, report.most_row_traffic)
        if report.most_row_traffic <= self.judge.problem.most_row_traffic:
            judged = figures(report)  # before anything is kept: Ctrl-C may come meanwhile
            self.placements.append(placement)
            self.judged.append(judged)

    def latency(self, placement: Placement) -> float:
        """The mean of its figures of latency on the selection batches."""
        return float(figures(self.judge.selection(placement))[LATENCIES].mean())

    def best(self) -> int:
        """The index of the chosen one."""
        return choose(self.judged, 0, self.judge.goal)

    def ranked(self) -> list[Placement]:
        """The chosen one, then the others by what decides."""
        best, decisive = self.best(), DECISIVE[self.judge.goal]
        rest = [index for index in range(len(self.judged)) if index != best]
        rest.sort(key=lambda index: float(self.judged[index][decisive].mean()))
        return [self.placements[index] for index in (best, *rest)]


@dataclass(frozen=True, eq=False)
class Portfolio:
    """One pool for each policy that is to be chosen from."""

    problem: Problem
    sets: Sets
    pools: dict[str, CandidatePool]

    @classmethod
    def of(cls, problem: Problem, sets: Sets, conditions: Conditions, routings: Sequence[str]) -> "Portfolio":
        """Without candidates; under these conditions but for their routing."""
        judges = {name: LayerJudge(problem, sets, replace(conditions, routing=name)) for name in routings}
        return cls(problem, sets, {name: CandidatePool(judge) for name, judge in judges.items()})

    def judge_of(self, method: str) -> LayerJudge:
        """The first policy's, or for the seed that only splitting makes good the first that splits, if there is one."""
        splitting = [name for name in SPLITTING if name in self.pools and method == FLEXIBILITY]
        return self.pools[splitting[0] if splitting else next(iter(self.pools))].judge

    def search(self, found: list[Candidate], effort: Effort, until: float, notify: Notify) -> None:
        """Fill the pools: seeds, arranged seeds, then what searches find, so that test batches can be judged under
        all policies before so many seconds on the clock."""
        greedy = next(candidate.placement for candidate in found if candidate.method == "greedy")
        self._offer(greedy, tuple(self.pools))
        until -= self._finish_seconds(greedy, effort)
        self.offer_seeds(found, effort)
        self._offer_rows_together(effort)
        for placement in self._split_evenly(found, effort, until, notify):
            self._offer(placement, set(self.pools) - {*NEAR})
            self._offer(self._arranged(placement, effort), NEAR)
        for placement in self._shortened(effort, until, notify):
            self._offer(placement, SPLITTING)
        for placement in self._split_at_best(found, effort, until, notify):
            self._offer(self._arranged(placement, effort), SPLITTING)

    def offer_seeds(self, found: list[Candidate], effort: Effort) -> None:
        """LayerJudge the seeds that are good for each policy, arranged where it looks at distances."""
        for candidate in found:
            if candidate.method in WELL_PLACED:
                self._offer(candidate.placement, set(self.pools) - {*NEAR})
            if candidate.method == "start":
                self._offer(candidate.placement, NEAR)
            near = {*SPLITTING} if candidate.method in FLEXIBLE else set()
            near |= {"nearest"} if candidate.method in WELL_PLACED else set()
            if near & set(self.pools):
                self._offer(self._arranged(candidate.placement, effort), near)

    def _offer_rows_together(self, effort: Effort) -> None:
        """The seed that keeps tokens in few rows, where any policy looks at distances, there is time for it, and its
        library is installed."""
        near = {*NEAR} & set(self.pools)
        in_time = effort.iterations is not None or effort.deadline.seconds >= PARTITION_FROM
        found = partition(self.problem, self.sets.train, effort.seed) if near and in_time else None
        if found is not None:
            self._offer(self._arranged(found, effort), NEAR)

    def _finish_seconds(self, placement: Placement, effort: Effort) -> float:
        """How long finalists take, and the test batches at the end, from doing the like for a placement, once all that
        it needs is compiled."""
        self._arranged(placement, effort)
        for pool in self.pools.values():
            pool.judge.on(placement, self.sets.selection.part(0, 1))
        started = time.monotonic()
        arranged = self._arranged(placement, effort)
        exchanged = time.monotonic()
        self._offer(arranged, SPLITTING)
        judged = time.monotonic()
        self._offer(arranged, ["nearest"])
        once = time.monotonic() - exchanged
        return FINALISTS * (judged - started) + 2 * once

    def fall_back(self, found: list[Candidate]) -> None:
        """Where an interruption has left no candidate, judge greedy's, or the last seed that there is."""
        if self.candidates == 0:
            best = next((candidate for candidate in found if candidate.method == "greedy"), found[-1])
            self._offer(best.placement, tuple(self.pools))

    def settle(self) -> None:
        """Leave the policies that have candidates. Raises InputError where the limit to traffic leaves none."""
        least = min(self.pools, key=lambda name: self.pools[name].least_traffic)
        traffic, tried = self.pools[least].least_traffic, ", ".join(self.pools)
        for name in [name for name, pool in self.pools.items() if not pool.placements]:
            del self.pools[name]
        if not self.pools:
            raise InputError(
                f"--max-row-traffic {self.problem.most_row_traffic:g} is in conflict with {self.problem.room} and "
                f"--routing {tried}: of all placements tried the best lets {traffic:.1f} pairs per batch come "
                f"to a row from others, with routing {least}; allow more traffic or more replicas"
            )

    def chosen(self) -> str:
        """The policy whose best candidate has the least latency."""
        latencies = {name: float(pool.judged[pool.best()][LATENCIES].mean()) for name, pool in self.pools.items()}
        return min(latencies, key=lambda name: latencies[name])

    @cached_property
    def guess(self) -> Coactivation:
        """How to tell a token's next expert where none is recorded."""
        return Coactivation.of(self.sets.train, self.problem.model)

    @cached_property
    def _travel(self) -> tuple[Ints, LinkPaths]:
        """Which sources ask for which experts, and the ways from devices to sources."""
        problem = self.problem
        network = problem.network
        link_paths = LinkPaths.of(network, problem.cost.combine_message_us(network.remote))
        return demand_of(self.sets.train, network, problem.model.experts), link_paths

    @property
    def candidates(self) -> int:
        """How many were judged."""
        return sum(len(pool.placements) for pool in self.pools.values())

    def _offer(self, placement: Placement, routings: Sequence[str] | set[str]) -> None:
        for name in routings:
            if name in self.pools:
                self.pools[name].add(placement)

    def _arranged(self, placement: Placement, effort: Effort) -> Placement:
        """With devices exchanged for the sake of the network, if any policy looks at distances."""
        if not {*NEAR} & set(self.pools):
            return placement
        problem, (demand, link_paths) = self.problem, self._travel
        deadline = Deadline(effort.deadline.remaining() + 1)  # what is found is worth a moment more
        budget = SearchBudget(deadline, deadline.seconds, effort.iterations)
        rng = np.random.default_rng(effort.seed)
        return arrange(placement, demand, link_paths, problem.spread, problem.mesh.cols, budget, rng)

    def _split_evenly(
        self, found: list[Candidate], effort: Effort, until: float, notify: Notify
    ) -> Iterator[Placement]:
        search, share = SEARCHES[effort.search][0], self._even_share(effort)
        if search is None or share == 0:
            return iter(())
        goal, now = latency_goal(self.problem, self.sets.train), effort.deadline.elapsed()
        spell = _spell(effort, now + share * max(until - now, 0.0), share, notify)
        return split_evenly(self.problem, goal, found, search, spell)

    def _split_at_best(self, found: list[Candidate], effort: Effort, until: float, notify: Notify) -> list[Placement]:
        search = SEARCHES[effort.search][1]
        splitting = [name for name in SPLITTING if name in self.pools]
        if search is None or not splitting:
            return []
        conditions = self.pools[splitting[0]].judge.conditions
        tiles = (conditions.unit or self.problem.cost.unit) == "tiles"
        spell = _spell(effort, until, 1 - self._even_share(effort), notify)
        return split_at_best(self.problem, found, tiles, search, spell)

    def _shortened(self, effort: Effort, until: float, notify: Notify) -> list[Placement]:
        """What a search for the latency of column rings finds from the best candidate, where links alone are left to
        win on."""
        problem, splitting = self.problem, [name for name in SPLITTING if name in self.pools]
        network = problem.network
        on_rings = network.links == "rings" and network.tokens == "row" and problem.mesh.rows > 1
        if SEARCHES[effort.search][1] != "annealing" or not splitting or not on_rings:
            return []
        pool = self.pools[splitting[0]]
        known = problem.cost.moe_op == "optimized" and not problem.cost.uses_table
        if pool.judge.goal is not SelectionGoal.LATENCY or not known or not pool.placements:
            return []
        start = pool.placements[pool.best()]
        if _above_floor(problem, start) > ABOVE_FLOOR:
            return []
        demand = RingDemand.of(self.sets.train, network, problem.model.experts)
        share, now = LATENCY_SHARE * (1 - self._even_share(effort)), effort.deadline.elapsed()
        spell = _spell(effort, now + LATENCY_SHARE * max(until - now, 0.0), share, notify)
        prices = prices_of(problem.cost, network)
        least = float(pool.judged[pool.best()][LATENCIES].mean())
        return shorten(problem, start, demand, prices, spell, lambda found: pool.latency(found) < least)

    def _even_share(self, effort: Effort) -> float:
        """What the search for even routing gets of the time and of the moves."""
        even, split = SEARCHES[effort.search]
        splitting = {*SPLITTING} & set(self.pools)
        if even is None or (split is not None and set(self.pools) == splitting):
            return 0.0
        return EVEN_SHARE if split is not None and splitting else 1.0


def _above_floor(problem: Problem, placement: Placement) -> float:
    """The share of train batches in which some device has more tiles than if all had equally many."""
    tiles = problem.cost.tiles(problem.load)
    floor = -(-tiles.sum(axis=1) // problem.mesh.devices)
    return float((exact_peaks(placement, tiles) > floor).mean())


def _spell(effort: Effort, until: float, share: float, notify: Notify) -> SearchShare:
    """Until so many seconds on the clock, or this share of the iterations."""
    iterations = None if effort.iterations is None else round(effort.iterations * share)
    return SearchShare(SearchBudget(effort.deadline, until, iterations), effort.seed, effort.jobs, notify)
