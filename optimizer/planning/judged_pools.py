"""The candidates for one layer under each routing policy, and under which policies each is worth judging."""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf
from typing import Self

from formulations.kit.arrays import Ints
from optimizer.domain.link_paths import LinkPaths
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.errors import InputError
from optimizer.planning.candidates import FLEXIBILITY, Candidate
from optimizer.planning.convergence import Convergence
from optimizer.planning.few_users import TIE_USERS, batches_of_few_users
from optimizer.planning.hint_choice import HINTING, choose_hints
from optimizer.planning.options import Effort, SolveOptions
from optimizer.planning.pool import FOLLOWING, MOST_TIED, NEAR, SPLITTING, CandidatePool, Judged, LayerJudge
from optimizer.planning.pool_trails import convergence_of
from optimizer.routing.capacity import Coactivation
from optimizer.routing.policies import REMEMBERING
from optimizer.search.arrangement import arrange, demand_of
from optimizer.search.choose import WITHOUT_P99
from optimizer.search.rule_loads import BY_NEARNESS
from optimizer.search.seeds.flexibility import flexibility
from optimizer.search.seeds.partition import partition
from optimizer.search.stop import Deadline, SearchBudget
from optimizer.search.trail import Trail
from optimizer.streams import Purpose, derived_seed, random_stream
from optimizer.traces.batches import Sets
from optimizer.traces.source import BATCHES_PER_SET

WELL_PLACED = ("pairing", "risk", "steps", "formulation")
"""Seeds that are worth judging under policies that do not follow the load of the batch, besides greedy."""

FLEXIBLE = ("start", "risk", FLEXIBILITY)
"""Seeds that are worth judging under policies that follow loads."""

FIRST = ("start", FLEXIBILITY)
"""Seeds that are judged even where time is short: what a user gave, and where searches for policies that follow loads
begin, which win most."""

SHARED_FACTORS = (1.5, 2.0, 3.0)
"""How many times as many replicas shared experts get, to try, as constructions give them where a plan may choose: where
each of them has a device's mean load, as many replicas as rows leave those devices no room for anything else."""

LAST_ARRANGING = 0.5
"""Seconds for arranging the best placement after the end was asked for: of the 3 s after which the plan is written,
little enough, and at 128 devices enough for most of what arranging gains."""

ARRANGING = 0.02
"""The share of the time limit that one arrangement may take, of some twenty. All its moves take .26 s at 128 devices,
and seconds at thousands, where it cools down faster. Not tuned."""

TIE_BATCHES = 256  # batches on which ties are broken; as many users in all as requests of large sets

JUDGED_AGAIN = MOST_TIED * TIE_BATCHES / BATCHES_PER_SET
"""How many judgements of a candidate on usual batches take as long as breaking the ties of a policy."""


@dataclass(frozen=True, eq=False)
class JudgedPools:
    """One pool for each policy that is to be chosen from, and what planning was asked for; remarks: what formulations
    proved or changed while the pools were filled, in sentences; trails: how searches converged meanwhile."""

    problem: Problem
    sets: Sets
    options: SolveOptions
    pools: dict[str, CandidatePool]
    remarks: list[str] = field(default_factory=list)
    trails: list[Trail] = field(default_factory=list)

    @classmethod
    def of(cls, problem: Problem, sets: Sets, options: SolveOptions) -> Self:
        """A pool for each policy of the options, and no candidate yet."""
        judges = {
            name: LayerJudge(problem, sets, replace(options.conditions, routing=name)) for name in options.routings
        }
        return cls(problem, sets, options, {name: CandidatePool(judge) for name, judge in judges.items()})

    def judge_of(self, method: str) -> LayerJudge:
        """The first policy's judge, or for the seed that is good where loads are followed the first such policy's."""
        following = self._following if method == FLEXIBILITY else []
        return self.pools[following[0] if following else next(iter(self.pools))].judge

    def offer_seeds(self, found: list[Candidate], effort: Effort, until: float = inf) -> None:
        """Judge the seeds that are good for each policy, arranged where it looks at distances.

        A given start and the most flexible seed come first and in any case, the others until the clock reads `until`
        seconds. Seeds that the user named are judged under all policies, in any case.
        """
        named = set(self.options.seeds or ())
        for candidate in sorted(found, key=lambda candidate: candidate.method not in {*FIRST, *named}):
            if candidate.method in named:
                self._offer([candidate.placement], set(self.pools), effort)
                self._offer([candidate.placement], NEAR, effort, arranged=True)
                continue
            if candidate.method not in FIRST and is_late(effort, until):
                return
            if candidate.method in WELL_PLACED:
                self._offer([candidate.placement], set(self.pools) - {*NEAR}, effort)
            if candidate.method == "start":
                self._offer([candidate.placement], NEAR, effort, needed=True)
            near = {*FOLLOWING} if candidate.method in FLEXIBLE else set()
            near |= {"nearest", "near-source", "table"} if candidate.method in WELL_PLACED else set()
            self._offer([candidate.placement], near, effort, arranged=True)

    def offer_as_it_is(self, placement: Placement, effort: Effort) -> None:
        """Judge a placement under all policies, with its devices where they are."""
        self._offer([placement], set(self.pools), effort)

    def _offer_shared(self, effort: Effort, until: float) -> None:
        """Judge flexible seeds with other numbers of replicas of shared experts, where a plan may choose them: in any
        case one that treats them like routed experts, and others until the clock reads `until` seconds."""
        problem, fixed = self.problem, self.problem.shared_replicas
        named = self.options.seeds is None or FLEXIBILITY in self.options.seeds
        if not problem.free_shared or fixed is None or not self._following or not named or effort.cancel.asked:
            return
        room = min((problem.mesh.slots - problem.model.routed_experts) // problem.model.shared_experts,
                   problem.mesh.devices)  # fmt: skip
        counts = sorted({min(round(factor * fixed), room) for factor in SHARED_FACTORS} - {fixed})
        self._offer([flexibility(problem.loose)], FOLLOWING, effort, arranged=True)
        for count in counts:
            if not is_late(effort, until):
                tried = replace(problem, shared_replicas=count, any_shared=False)
                self._offer([flexibility(tried)], FOLLOWING, effort, arranged=True)

    def _offer_rows_together(self, effort: Effort, until: float) -> None:
        """The seed that keeps tokens in few rows, where any policy looks at distances, there is time for it, its
        library is installed, and the user names no seeds."""
        near = {*NEAR} & set(self.pools)
        enough = effort.iterations is not None or effort.deadline.seconds >= self.options.shares.partition_from
        if not (near and enough) or self.options.seeds is not None or effort.cancel.asked or is_late(effort, until):
            return
        found = partition(self.problem, self.sets.train, derived_seed(Purpose.PARTITION, effort.seed))
        if found is not None:
            self._offer([found], NEAR, effort, arranged=True)

    def fall_back(self, found: list[Candidate]) -> None:
        """Where an early end has left no candidate, judge greedy's seed, or the last that there is, under the first
        policy alone: other policies may be long in compiling."""
        if self.candidates == 0:
            best = next((candidate for candidate in found if candidate.method == "greedy"), found[-1])
            self.pools[next(iter(self.pools))].add(best.placement)

    def _break_ties(self, effort: Effort) -> None:
        """Judge the candidates that are nearly the best on selection batches of few users, for policies that gain by
        it."""
        if effort.cancel.asked:
            return
        for users in sorted({TIE_USERS[name] for name, pool in self.pools.items() if name in TIE_USERS}):
            rng = random_stream(Purpose.TIES, effort.seed)
            few = batches_of_few_users(self.sets.selection, rng, users, TIE_BATCHES)
            for name, pool in self.pools.items():
                if TIE_USERS.get(name) == users and pool.placements and not effort.cancel.asked:
                    pool.break_ties(few)

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

    def tell_hints(self, effort: Effort) -> None:
        """Choose how hints are made for the best candidate of each policy that chooses by them, and judge by that."""
        told = set(self.pools) & {*REMEMBERING}
        for name in told:
            pool = self.pools[name]
            seconds = inf if effort.iterations is not None else HINTING * effort.deadline.seconds / len(told)
            hints = choose_hints(pool.judge, pool.placements[pool.best()], effort.cancel, seconds)
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
    def convergence(self) -> Convergence:
        """How the pools were filled, and what searches passed."""
        return convergence_of(self.pools, self.trails)

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

    @property
    def least_latency(self) -> float:
        """The mean of the latency figures, p99 left out, of the best candidate of all policies, in microseconds;
        infinite where there is none."""
        return min((self._latency(name) for name, pool in self.pools.items() if pool.placements), default=inf)

    def _latency(self, policy: str) -> float:
        """The mean of the latency figures, p99 left out, of a policy's best candidate, in microseconds."""
        pool = self.pools[policy]
        return float(pool.judged[pool.best()][WITHOUT_P99].mean())

    def _offer(
        self,
        placements: Sequence[Placement],
        routings: Collection[str],
        effort: Effort,
        arranged: bool = False,
        needed: bool = False,
    ) -> None:
        """Judge placements under these of the policies, with devices exchanged for the network first if `arranged`; as
        many at once as there are jobs, but pools keep them in the order in which they are given here.

        Once the end is asked for, the first placement alone is judged, and only where it is `needed`, because it is the
        best of a search, or where nothing has been judged yet, and then under one policy.
        """
        names = [name for name in self.pools if name in routings]
        if not names or not placements:
            return

        def left_out(number: int, name: str) -> bool:
            wanted = needed if self.candidates else name == names[0]
            return effort.cancel.asked and not (number == 0 and wanted)

        def placed(number: int) -> Placement:
            untouched = not arranged or left_out(number, names[0])
            return placements[number] if untouched else self._arranged(placements[number], effort)

        def judged(number: int, name: str) -> Judged | None:
            return None if left_out(number, name) else self.pools[name].judged_now(ready[number])

        with ThreadPoolExecutor(effort.jobs) as threads:
            ready = list(threads.map(placed, range(len(placements))))
            tasks = [(number, name) for number in range(len(ready)) for name in names]
            for (number, name), found in zip(tasks, [*threads.map(judged, *zip(*tasks, strict=True))], strict=True):
                if found is not None:
                    self.pools[name].keep(ready[number], found)

    def _arranged(self, placement: Placement, effort: Effort) -> Placement:
        """The placement with devices exchanged for the sake of the network, if any policy looks at distances.

        Where time is up, what is found is worth a moment more.
        """
        if not {*NEAR, *BY_NEARNESS} & set(self.pools):
            return placement
        problem, (demand, link_paths) = self.problem, self._travel
        most = max(LAST_ARRANGING, ARRANGING * effort.deadline.seconds)
        seconds = LAST_ARRANGING if effort.cancel.asked else min(most, effort.deadline.remaining() + 1)
        budget = SearchBudget(Deadline(seconds), seconds, effort.iterations)
        rng = random_stream(Purpose.ARRANGEMENT, effort.seed)
        kept = problem.spread & (placement.counts(problem.model.experts) == problem.shared_replicas)
        return arrange(placement, demand, link_paths, kept, problem.mesh.cols, budget, rng)


def is_late(effort: Effort, until: float) -> bool:
    """Whether the clock reads more than `until` seconds, where it decides what is done."""
    return effort.iterations is None and effort.deadline.elapsed() > until
