"""Which searches run for which routing policies, in what share of the time, and which of their results is best."""

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

from formulations.kit.arrays import Ints
from formulations.kit.kernels import CompilationEnded, compiling_until
from optimizer.domain.link_paths import LinkPaths
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.errors import InputError
from optimizer.interrupts import Cancel
from optimizer.planning.candidates import (
    FINALISTS,
    FLEXIBILITY,
    SEARCHES,
    Candidate,
    SearchShare,
    shorten,
    split_at_best,
    split_evenly,
)
from optimizer.planning.hint_choice import choose_hints
from optimizer.planning.learning import known_loads
from optimizer.planning.options import Effort, Progress, SolveOptions
from optimizer.planning.pool import FOLLOWING, NEAR, SPLITTING, CandidatePool, LayerJudge
from optimizer.planning.rule_candidates import by_rule
from optimizer.routing.capacity import Coactivation
from optimizer.routing.policies import REMEMBERING
from optimizer.search.arrangement import arrange, demand_of
from optimizer.search.choose import LATENCIES, SelectionGoal
from optimizer.search.latency import prices_of
from optimizer.search.multistart import latency_goal
from optimizer.search.ring_state import RingDemand
from optimizer.search.rule_loads import BY_NEARNESS, RULES
from optimizer.search.seeds.flexibility import flexibility
from optimizer.search.seeds.partition import partition
from optimizer.search.split_state import exact_peaks
from optimizer.search.stop import Deadline, SearchBudget
from optimizer.streams import Purpose, derived_seed, random_stream
from optimizer.traces.batches import Sets

ABOVE_FLOOR = 0.02
"""Share of batches in which a device may have a tile too much, if links are to be what is left to win. Where tiles can
still be won, the search for latency finds nothing that routing can use."""

WELL_PLACED = ("pairing", "risk", "steps", "formulation")
"""Seeds that are worth judging under policies that do not follow the load of the batch, besides greedy."""

FLEXIBLE = ("start", "risk", FLEXIBILITY)
"""Seeds that are worth judging under policies that follow loads."""

SHARED_FACTORS = (1.5, 2.0, 3.0)
"""How many times as many replicas shared experts get, to try, as constructions give them where a plan may choose: where
each of them has a device's mean load, as many replicas as rows leave those devices no room for anything else."""

LAST_ARRANGING = 0.5
"""Seconds for arranging the best placement after the end was asked for: of the 3 s after which the plan is written,
little enough, and at 128 devices enough for most of what arranging gains."""


@dataclass(frozen=True, eq=False)
class Portfolio:
    """One pool for each policy that is to be chosen from, and what the searches that fill them were asked for."""

    problem: Problem
    sets: Sets
    options: SolveOptions
    pools: dict[str, CandidatePool]

    @classmethod
    def of(cls, problem: Problem, sets: Sets, options: SolveOptions) -> "Portfolio":
        """A portfolio with a pool for each policy of the options, and no candidate yet."""
        judges = {
            name: LayerJudge(problem, sets, replace(options.conditions, routing=name)) for name in options.routings
        }
        return cls(problem, sets, options, {name: CandidatePool(judge) for name, judge in judges.items()})

    def judge_of(self, method: str) -> LayerJudge:
        """The first policy's judge, or for the seed that is good where loads are followed the first such policy's."""
        following = self._following if method == FLEXIBILITY else []
        return self.pools[following[0] if following else next(iter(self.pools))].judge

    def search(self, found: list[Candidate], effort: Effort, until: float, progress: Progress) -> None:
        """Fill the pools: seeds, arranged seeds, then what searches find, so that test batches can be judged under
        all policies before the clock reads `until` seconds.

        From the first candidate on the cancel token is heeded: once it is asked, searches end, of what they have found
        the best alone is judged, and no further kernel is compiled.
        """
        with suppress(CompilationEnded), compiling_until(lambda: effort.cancel.asked):
            self._fill(found, effort, until, progress)

    def _fill(self, found: list[Candidate], effort: Effort, until: float, progress: Progress) -> None:
        """Do the work of `search`."""
        greedy = next(candidate.placement for candidate in found if candidate.method == "greedy")
        self._offer([greedy], tuple(self.pools), effort)
        if self.candidates:
            effort.cancel.heed()
        until -= self._finish_seconds(greedy, effort)
        self.offer_seeds(found, effort)
        self._offer_shared(effort)
        self._offer_rows_together(effort)
        self._offer_by_rule(found, effort, until, progress)
        for placement in self._split_evenly(found, effort, until, progress):
            self._offer([placement], set(self.pools) - {*NEAR, *RULES}, effort, needed=True)
            self._offer([placement], NEAR, effort, arranged=True, needed=True)
        self._offer(self._shortened(effort, until, progress), FOLLOWING, effort, needed=True)
        self._offer(self._split_at_best(effort, until, progress), FOLLOWING, effort, arranged=True, needed=True)

    def offer_seeds(self, found: list[Candidate], effort: Effort) -> None:
        """Judge the seeds that are good for each policy, arranged where it looks at distances."""
        for candidate in found:
            if candidate.method in WELL_PLACED:
                self._offer([candidate.placement], set(self.pools) - {*NEAR}, effort)
            if candidate.method == "start":
                self._offer([candidate.placement], NEAR, effort, needed=True)
            near = {*FOLLOWING} if candidate.method in FLEXIBLE else set()
            near |= {"nearest"} if candidate.method in WELL_PLACED else set()
            self._offer([candidate.placement], near, effort, arranged=True)

    def _offer_shared(self, effort: Effort) -> None:
        """Judge flexible seeds with other numbers of replicas of shared experts, where a plan may choose them."""
        problem, fixed = self.problem, self.problem.shared_replicas
        if not problem.any_shared or fixed is None or not self._following or effort.cancel.asked:
            return
        room = min((problem.mesh.slots - problem.model.routed_experts) // problem.model.shared_experts,
                   problem.mesh.devices)  # fmt: skip
        counts = sorted({min(round(factor * fixed), room) for factor in SHARED_FACTORS} - {fixed})
        for tried in (*(replace(problem, shared_replicas=count, any_shared=False) for count in counts), problem.loose):
            self._offer([flexibility(tried)], FOLLOWING, effort, arranged=True)

    def _offer_rows_together(self, effort: Effort) -> None:
        """The seed that keeps tokens in few rows, where any policy looks at distances, there is time for it, and its
        library is installed."""
        near = {*NEAR} & set(self.pools)
        enough = effort.iterations is not None or effort.deadline.seconds >= self.options.shares.partition_from
        if not (near and enough) or effort.cancel.asked:
            return
        found = partition(self.problem, self.sets.train, derived_seed(Purpose.PARTITION, effort.seed))
        if found is not None:
            self._offer([found], NEAR, effort, arranged=True)

    def _finish_seconds(self, placement: Placement, effort: Effort) -> float:
        """How long finalists take, and the test batches at the end, from doing the like for a placement, once all that
        it needs is compiled."""
        if effort.cancel.asked:
            return 0.0
        self._arranged(placement, effort)
        for pool in self.pools.values():
            pool.judge.on(placement, self.sets.selection.part(0, 1))
        started = time.monotonic()
        arranged = self._arranged(placement, effort)
        exchanged = time.monotonic()
        self._offer([arranged], FOLLOWING, effort)
        judged = time.monotonic()
        self._offer([arranged], ["nearest"], effort)
        once = time.monotonic() - exchanged
        return FINALISTS * (judged - started) + 2 * once

    def fall_back(self, found: list[Candidate]) -> None:
        """Where an early end has left no candidate, judge greedy's seed, or the last that there is, under the first
        policy alone: other policies may be long in compiling."""
        if self.candidates == 0:
            best = next((candidate for candidate in found if candidate.method == "greedy"), found[-1])
            self.pools[next(iter(self.pools))].add(best.placement)

    def settle(self) -> None:
        """Leave the policies that have candidates. Raises InputError where the limit to traffic leaves none."""
        least = min(self.pools, key=lambda name: self.pools[name].least_traffic)
        traffic, tried = self.pools[least].least_traffic, ", ".join(self.pools)
        for name in [name for name, pool in self.pools.items() if not pool.placements]:
            del self.pools[name]
        if not self.pools:
            raise InputError(
                f"no placement lets at most {self.problem.most_row_traffic:g} pairs per batch come to a row from "
                f"others, with {self.problem.room} and routing {tried}: of all that were tried the best lets "
                f"{traffic:.1f} pairs per batch come, with routing {least}; allow more traffic or more replicas",
                field="max_row_traffic",
            )

    def tell_hints(self, cancel: Cancel) -> None:
        """Choose how hints are made for the best candidate of each policy that chooses by them, and judge by that."""
        for name in set(self.pools) & {*REMEMBERING}:
            pool = self.pools[name]
            hints = choose_hints(pool.judge, pool.placements[pool.best()], cancel)
            pool.judge = replace(pool.judge, conditions=replace(pool.judge.conditions, hints=hints))

    def chosen(self) -> str:
        """The policy whose best candidate has the least latency."""
        return min(self.pools, key=self._latency)

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
        """How many candidate placements were judged, in the pools of all policies."""
        return sum(len(pool.placements) for pool in self.pools.values())

    @property
    def _splitting(self) -> list[str]:
        """The policies that follow the load of the batch, of those that are to be chosen from."""
        return [name for name in SPLITTING if name in self.pools]

    @property
    def _following(self) -> list[str]:
        """The policies that follow loads, of those that are to be chosen from."""
        return [name for name in FOLLOWING if name in self.pools]

    @property
    def _leading(self) -> str | None:
        """Of the policies that follow loads, the one whose best candidate has the least latency."""
        judged = [name for name in self._following if self.pools[name].placements]
        return min(judged, key=self._latency, default=None)

    def _latency(self, policy: str) -> float:
        """The mean of the latency figures of a policy's best candidate, in microseconds."""
        pool = self.pools[policy]
        return float(pool.judged[pool.best()][LATENCIES].mean())

    def _offer(
        self,
        placements: Sequence[Placement],
        routings: Collection[str],
        effort: Effort,
        arranged: bool = False,
        needed: bool = False,
    ) -> None:
        """Judge placements under these of the policies, with devices exchanged for the network first if `arranged`.

        Once the end is asked for, the first placement alone is judged, and only where it is `needed`, because it is the
        best of a search, or where nothing has been judged yet.
        """
        names = [name for name in self.pools if name in routings]
        for number, placement in enumerate(placements if names else ()):
            if effort.cancel.asked and (number > 0 or not needed) and self.candidates:
                return
            placed = self._arranged(placement, effort) if arranged else placement
            for name in names:
                if effort.cancel.asked and not needed and self.candidates:
                    return
                self.pools[name].add(placed)

    def _arranged(self, placement: Placement, effort: Effort) -> Placement:
        """The placement with devices exchanged for the sake of the network, if any policy looks at distances.

        Where time is up, what is found is worth a moment more.
        """
        if not {*NEAR, *BY_NEARNESS} & set(self.pools):
            return placement
        problem, (demand, link_paths) = self.problem, self._travel
        seconds = LAST_ARRANGING if effort.cancel.asked else effort.deadline.remaining() + 1
        budget = SearchBudget(Deadline(seconds), seconds, effort.iterations)
        rng = random_stream(Purpose.ARRANGEMENT, effort.seed)
        kept = problem.spread & (placement.counts(problem.model.experts) == problem.shared_replicas)
        return arrange(placement, demand, link_paths, kept, problem.mesh.cols, budget, rng)

    def _split_evenly(
        self, found: list[Candidate], effort: Effort, until: float, progress: Progress
    ) -> Iterator[Placement]:
        search, share = SEARCHES[effort.search][0], self._even_share(effort)
        if search is None or share == 0 or set(self.pools) <= {*RULES}:
            return iter(())
        goal, now = latency_goal(self.problem, self.sets.train, self.options.descent), effort.deadline.elapsed()
        spell = _spell(effort, now + share * max(until - now, 0.0), share, progress)
        return split_evenly(self.problem.loose, goal, found, search, spell, self.options.tabu)

    def _split_at_best(self, effort: Effort, until: float, progress: Progress) -> list[Placement]:
        """What a search finds from the best candidate of the leading policy that follows loads, by the loads that this
        policy knows, and in the unit that it balances, which is tokens unless it knows the batch."""
        search, leading = SEARCHES[effort.search][1], self._leading
        if search is None or leading is None or effort.cancel.asked:
            return []
        pool = self.pools[leading]
        unit = pool.judge.conditions.unit or self.problem.cost.unit
        spell = _spell(effort, until, 1 - self._even_share(effort), progress)
        tiles, start = unit == "tiles" and leading in SPLITTING, pool.placements[pool.best()]
        known = known_loads(self.problem, leading)
        return split_at_best(self.problem.loose, start, tiles, known, search, spell, self.options)

    def _offer_by_rule(self, found: list[Candidate], effort: Effort, until: float, progress: Progress) -> None:
        """Judge what searches find whose objective is the load under a server's own rule, each for its rule alone."""
        names = [name for name in self.pools if name in RULES]
        if SEARCHES[effort.search][0] is None:
            return
        for turn, name in enumerate(names):
            now = effort.deadline.elapsed()
            others = len(names) - turn - 1 + (len(self.pools) > len(names))
            share = self._even_share(effort) / (1 + others)
            spell = _spell(effort, now + share * max(until - now, 0.0), share, progress)
            for placement in by_rule(name, self.problem, self.sets.train, found, self.options.descent, spell):
                self._offer([placement], [name], effort, needed=True)
                if name in BY_NEARNESS:
                    self._offer([placement], [name], effort, arranged=True)

    def _shortened(self, effort: Effort, until: float, progress: Progress) -> list[Placement]:
        """What a search for the latency of column rings finds from the best candidate, where links alone are left to
        win on."""
        problem, network, shares = self.problem, self.problem.network, self.options.shares
        on_rings = network.links == "rings" and network.tokens == "row" and problem.mesh.rows > 1
        leads = self._leading is not None and self._leading in SPLITTING
        if SEARCHES[effort.search][1] != "annealing" or not leads or not on_rings or effort.cancel.asked:
            return []
        pool = self.pools[self._splitting[0]]
        known = problem.cost.moe_op == "optimized" and not problem.cost.uses_table
        if pool.judge.goal is not SelectionGoal.LATENCY or not known or not pool.placements:
            return []
        start = pool.placements[pool.best()]
        if _above_floor(problem, start) > ABOVE_FLOOR:
            return []
        demand, now = RingDemand.of(self.sets.train, network, problem.model.experts), effort.deadline.elapsed()
        share, end = shares.latency * (1 - self._even_share(effort)), now + shares.latency * max(until - now, 0.0)
        least = float(pool.judged[pool.best()][LATENCIES].mean())
        return shorten(
            problem.loose,
            start,
            demand,
            prices_of(problem.cost, network),
            _spell(effort, end, share, progress),
            lambda found: pool.latency(found) < least,
            self.options,
        )

    def _even_share(self, effort: Effort) -> float:
        """What the search for even routing gets of the time and of the moves."""
        even, split = SEARCHES[effort.search]
        if even is None or (split is not None and set(self.pools) == {*self._following}):
            return 0.0
        return self.options.shares.even if split is not None and self._following else 1.0


def _above_floor(problem: Problem, placement: Placement) -> float:
    """The share of train batches in which some device has more tiles than if all had equally many."""
    tiles = problem.cost.tiles(problem.load)
    floor = -(-tiles.sum(axis=1) // problem.mesh.devices)
    return float((exact_peaks(placement, tiles) > floor).mean())


def _spell(effort: Effort, until: float, share: float, progress: Progress) -> SearchShare:
    """What a search may spend that ends when the clock reads `until` seconds, or after its share of the iterations."""
    iterations = None if effort.iterations is None else round(effort.iterations * share)
    return SearchShare(SearchBudget(effort.deadline, until, iterations), effort.seed, effort.jobs, progress)
