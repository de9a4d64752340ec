"""Which searches run for which routing policies, in what share of the time, and which of their results is best."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

from formulations.kit.compiling import CompilationEnded, compiling_until
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.planning.candidates import (
    FINALISTS,
    SEARCHES,
    Candidate,
    SearchShare,
    shorten,
    split_at_best,
    split_evenly,
)
from optimizer.planning.few_users import ON_FEW_USERS, TIE_USERS, batches_of_few_users, loads_of_various_users
from optimizer.planning.hint_choice import HINTING, LOOKED_AT, SETTINGS
from optimizer.planning.judged_pools import JUDGED_AGAIN, JudgedPools
from optimizer.planning.learning import known_loads
from optimizer.planning.options import Effort, Progress
from optimizer.planning.pool import FOLLOWING, NEAR, SHORTENING, SPLITTING
from optimizer.planning.row_polish import is_proven, polished
from optimizer.planning.rule_candidates import by_rule
from optimizer.routing.policies import FIXED, REMEMBERING
from optimizer.search.choose import LATENCIES, SelectionGoal
from optimizer.search.latency import prices_of
from optimizer.search.multistart import latency_goal
from optimizer.search.ring_state import RingDemand
from optimizer.search.rule_loads import BY_NEARNESS, RULES
from optimizer.search.split_state import exact_peaks
from optimizer.search.stop import SearchBudget
from optimizer.streams import Purpose, random_stream

ABOVE_FLOOR = 0.02
"""Share of batches in which a device may have a tile too much, if links are to be what is left to win. Where tiles can
still be won, the search for latency finds nothing that routing can use."""

AS_GOOD_UNDER = {"even-source": FIXED}
"""Policies for which the last placements are worth judging that a search for a rule finds, besides the rule's own: what
they learn takes a second for each."""


TOGETHER = 4
"""Placements of a search that are judged at once, so that threads have work where one policy judges alone. It is no
number of threads, on which pools would depend; more would be judged later, and keep more in memory. Not tuned."""


@dataclass(frozen=True, eq=False)
class Portfolio(JudgedPools):
    """The pools of all policies, and the searches that fill them."""

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
        now = effort.deadline.elapsed()
        enough = now + self.options.shares.seeds * max(until - now, 0.0)
        self._offer_shared(effort, enough)
        self.offer_seeds(found, effort, enough)
        self._offer_rows_together(effort, enough)
        self._offer_by_rule(found, effort, until, progress)
        for passed in in_groups(self._split_evenly(found, effort, until, progress)):
            placements = _worth_judging(passed, effort)
            self._offer(placements, set(self.pools) - {*NEAR, *RULES}, effort, needed=True)
            self._offer(placements, NEAR, effort, arranged=True, needed=True)
        self._offer(self._shortened(effort, until, progress), FOLLOWING, effort, needed=True)
        self._offer(self._split_at_best(effort, until, progress), FOLLOWING, effort, arranged=True, needed=True)
        self._offer(self._polished(effort, until, progress), FOLLOWING, effort)
        self._break_ties(effort)

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
        self._offer([arranged], SHORTENING, effort)  # which need it most, and may get nothing else where time is short
        once = time.monotonic() - exchanged
        hinted = time.monotonic()
        for name in {*REMEMBERING} & set(self.pools):
            self.pools[name].judge.selection(arranged)
        hints = SETTINGS * (time.monotonic() - hinted) * min(1.0, LOOKED_AT / self.sets.selection.count)
        hints = min(hints, HINTING * effort.deadline.seconds)
        tied = JUDGED_AGAIN * (judged - exchanged) if TIE_USERS.keys() & self.pools.keys() else 0.0
        return FINALISTS * (judged - started) + tied + 2 * once + hints

    def _split_evenly(
        self, found: list[Candidate], effort: Effort, until: float, progress: Progress
    ) -> Iterator[Placement]:
        search, share = SEARCHES[effort.search][0], self._even_share(effort) / (1 + len(self._rules))
        if search is None or share == 0 or not self._beyond_rules:
            return iter(())
        goal, now = latency_goal(self.problem, self.sets.train, self.options.descent), effort.deadline.elapsed()
        spell = self._spell(f"{search} for even routing", effort, now + share * max(until - now, 0.0), share, progress)
        return split_evenly(self.problem.loose, goal, found, search, spell, self.options.tabu)

    def _split_at_best(self, effort: Effort, until: float, progress: Progress) -> list[Placement]:
        """What a search finds from the best candidate of the leading policy that follows loads, by the loads that this
        policy knows, and in the units that it levels."""
        search, leading = SEARCHES[effort.search][1], self._leading
        if search is None or leading is None or effort.cancel.asked:
            return []
        if self._proven(leading):
            said = "no placement has lower peaks in any of its batches than what seeds and earlier searches found"
            self.remarks.append(f"The {search} was left out, as for {leading} {said}.")
            return []
        pool = self.pools[leading]
        start, problems, found = pool.placements[pool.best()], self._looked_at(leading), list[Placement]()
        for turn, problem in enumerate(problems):
            now, share = effort.deadline.elapsed(), (1 - self._even_share(effort)) / len(problems)
            purpose = f"{search} for {leading}{', few users' if problem is not self.problem else ''}"
            end = now + max(until - now, 0.0) / (len(problems) - turn)
            spell = self._spell(purpose, effort, end, share, progress)
            units, known = pool.judge.levelled(problem.load), known_loads(problem, leading)
            found += split_at_best(problem.loose, start, units, known, search, spell, self.options)
        return found

    def _looked_at(self, policy: str) -> list[Problem]:
        """The problems of annealing for a policy: with batches of various numbers of users where tokens are split by
        the loads of the batch; else with the train batches, and before that with batches of few users for policies
        that gain by it."""
        if policy in SPLITTING:
            return [self._various]
        if policy not in ON_FEW_USERS:
            return [self.problem]
        few = batches_of_few_users(self.sets.train, random_stream(Purpose.FEW_USERS, self.options.seed))
        return [replace(self.problem, load=few.load(self.problem.model.experts)), self.problem]

    @cached_property
    def _various(self) -> Problem:
        """The problem with batches of various numbers of users in place of the train batches."""
        rng = random_stream(Purpose.VARIOUS_USERS, self.options.seed)
        return replace(self.problem, load=loads_of_various_users(self.sets.train, self.problem.load, rng))

    def _proven(self, policy: str) -> bool:
        """Whether no placement has lower peaks than the policy's best candidate in the batches that annealing would
        look at, in the unit that the policy levels."""
        if policy not in SPLITTING or not self.pools[policy].placements:
            return False
        pool = self.pools[policy]
        return is_proven(self.problem, pool.placements[pool.best()], pool.judge.levelled(self._various.load))

    def _polished(self, effort: Effort, until: float, progress: Progress) -> list[Placement]:
        """The best candidate of the leading policy that follows loads with its rows filled by their formulation, in the
        time that searches have left over."""
        leading = self._leading
        if leading is None or effort.cancel.asked:
            return []
        pool = self.pools[leading]
        progress("rows", 0.0)
        found = polished(
            self.problem.loose, pool.placements[pool.best()], pool.judge.levelled(self.problem.load), effort, until
        )
        if found is None or not found.changed:
            return []
        self.remarks.append(f"With time left over, {found.in_words()}.")
        return [found.placement]

    def _offer_by_rule(self, found: list[Candidate], effort: Effort, until: float, progress: Progress) -> None:
        """Judge what searches find whose objective is the load under a fixed rule, each for its rule, and the last ones
        for the policies that it is as good for."""
        if SEARCHES[effort.search][0] is None:
            return
        names, even = self._rules, self._even_share(effort)
        others = self._beyond_rules
        for turn, name in enumerate(names):
            now, left = effort.deadline.elapsed(), len(names) - turn + others
            end = now + even / left * max(until - now, 0.0)
            spell = self._spell(f"descent for {name}", effort, end, even / (len(names) + others), progress)
            last: deque[Placement] = deque(maxlen=FINALISTS)
            for passed in in_groups(by_rule(name, self.problem, self.sets.train, found, self.options.descent, spell)):
                last.extend(passed)
                placements = _worth_judging(passed, effort)
                self._offer(placements, [name], effort, needed=True)
                if name in BY_NEARNESS:
                    self._offer(placements, [name], effort, arranged=True)
            self._offer([*last][::-1], AS_GOOD_UNDER.get(name, ()), effort, needed=True)

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
        part = 1.0 if self._proven(self._splitting[0]) else shares.latency
        share, end = part * (1 - self._even_share(effort)), now + part * max(until - now, 0.0)
        least = float(pool.judged[pool.best()][LATENCIES].mean())
        return shorten(
            self._various.loose,
            start,
            demand,
            prices_of(problem.cost, network),
            self._spell(f"latency search for {self._splitting[0]}", effort, end, share, progress),
            lambda found: pool.latency(found) < least,
            self.options,
        )

    def _spell(self, purpose: str, effort: Effort, until: float, share: float, progress: Progress) -> SearchShare:
        """What a search may spend that ends when the clock reads `until` seconds, or after its share of the
        iterations; purpose: what it is called where trails are shown."""
        iterations = None if effort.iterations is None else round(effort.iterations * share)
        budget = SearchBudget(effort.deadline, until, iterations, purpose, self.trails)
        return SearchShare(budget, effort.seed, effort.jobs, progress)

    @property
    def _rules(self) -> list[str]:
        """The rules that are searched for: those that are to be chosen from, or as good for what is."""
        return [name for name in RULES if {name, *AS_GOOD_UNDER.get(name, ())} & set(self.pools)]

    @property
    def _beyond_rules(self) -> bool:
        """Whether there are policies for which the searches for rules find nothing."""
        return not set(self.pools) <= {*RULES, *FIXED}

    def _even_share(self, effort: Effort) -> float:
        """What the search for even routing gets of the time and of the moves."""
        even, split = SEARCHES[effort.search]
        follows = set(self.pools) == {*self._following} and not self.pools.keys() & {*FIXED}
        if even is None or (split is not None and follows):
            return 0.0
        return self.options.shares.even if split is not None and self._following else 1.0


def in_groups(passed: Iterable[Placement]) -> Iterator[list[Placement]]:
    """What a search passes in lists of `TOGETHER`, the last of which may be shorter."""
    passed = iter(passed)
    while group := list(islice(passed, TOGETHER)):
        yield group


def _worth_judging(passed: list[Placement], effort: Effort) -> list[Placement]:
    """All of them, or the last, which is the best of a search, once the end is asked for."""
    return passed[-1:] if effort.cancel.asked else passed


def _above_floor(problem: Problem, placement: Placement) -> float:
    """The share of train batches in which some device has more tiles than if all had equally many."""
    tiles = problem.cost.tiles(problem.load)
    floor = -(-tiles.sum(axis=1) // problem.mesh.devices)
    return float((exact_peaks(placement, tiles) > floor).mean())
