"""The candidates for one layer under one routing policy, and the simulator that they are judged by."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.planning.learning import source_loads, table_for
from optimizer.routing.context import LearnedShares
from optimizer.routing.learned_shares import learn_shares, only_loads
from optimizer.routing.learned_tables import SourceLoads
from optimizer.routing.policies import FIXED, LEARNING, LEAST_ACTIVE, REMEMBERING
from optimizer.search.choose import DECISIVE, LATENCIES, SelectionGoal, figures, nearly_best
from optimizer.search.multistart import slot_value
from optimizer.search.rule_loads import RULES
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.report import SimulationReport
from optimizer.simulation.simulator import simulate
from optimizer.traces.batches import Batches, Sets

SPLITTING = ("capacity-fill", "least-loaded", "optimal", LEAST_ACTIVE)
"""Policies that follow the load of the batch."""

FOLLOWING = (*SPLITTING, *REMEMBERING, *FIXED)
"""Policies that split an expert as loads ask, those of the batch, of the batches before or of the train batches."""

NEAR = ("nearest", "near-source", *SPLITTING, "hint-device", "table")
"""Policies that look at distances."""

SHORTENING = ("nearest", "near-source")
"""Policies that save hops and level no loads, so that they may be less balanced than what they are compared with."""

MOST_TAUGHT, LEAST_TAUGHT = 1 << 22, 16
"""Pairs of replicas of one expert times train batches from which shares are learned, and the fewest batches: all 1,024
on 128 devices; on 512 devices a fifth of them, as all would take 11 s. Not tuned."""

TIE = 0.015
"""How much worse than the best on selection batches, as a share, candidates may be that count as equally good. On
V2-Lite (seed 1, 512 tokens, `hint-device`) eight lie so near each other, and from 887 to 1,120 us on test batches."""

MOST_TIED = 8  # candidates of a tie that are judged again, the best ones; few, as judging some policies takes seconds


@dataclass(frozen=True)
class LayerJudge:
    """The simulator with one layer's batches, and the conditions under which it runs."""

    problem: Problem
    sets: Sets
    conditions: Conditions

    def test(self, placement: Placement) -> SimulationReport:
        """Simulate a placement on the test batches."""
        return self.on(placement, self.sets.test)

    def selection(self, placement: Placement) -> SimulationReport:
        """Simulate a placement on the selection batches."""
        return self.on(placement, self.sets.selection)

    @property
    def goal(self) -> SelectionGoal:
        """What candidates are chosen by. Where the user has loads counted in tokens although tiles are paid for,
        balance is wanted for its own sake. Where tiles are paid for, policies that save hops may lose balance, as
        tokens that begin no further tile cost nothing; and so may the policy that levels experts and no tokens."""
        unit, paid = self.conditions.unit, self.problem.cost.unit
        if self.conditions.routing == LEAST_ACTIVE:
            return SelectionGoal.LATENCY
        if self.conditions.routing in RULES:
            return SelectionGoal.BOTH
        if self.conditions.routing in SHORTENING:
            return SelectionGoal.LATENCY if paid == "tiles" else SelectionGoal.LATENCY_AND_BALANCE
        if self.conditions.routing not in SPLITTING:
            return SelectionGoal.LATENCY_AND_BALANCE
        if unit == "tokens" and paid == "tiles":
            return SelectionGoal.BALANCE
        return SelectionGoal.LATENCY if (unit or paid) == "tiles" else SelectionGoal.LATENCY_AND_BALANCE

    def levelled(self, load: Ints) -> Ints:
        """Loads `[batch, expert]` of tokens in the units that the policy levels, in the same shape: tiles only where it
        knows the batch, as others level tokens."""
        cost, routing = self.problem.cost, self.conditions.routing
        if routing == LEAST_ACTIVE:
            return -(-load // cost.read_tokens)
        in_tiles = (self.conditions.unit or cost.unit) == "tiles" and routing in SPLITTING
        return cost.tiles(load) if in_tiles else load

    def on(self, placement: Placement, batches: Batches) -> SimulationReport:
        """Simulate a placement on any batches."""
        problem, learned = self.problem, self.learned(placement)
        hardware, before = (problem.mesh, problem.cost), problem.layers_before
        return simulate(placement, batches, problem.model, *hardware, self.conditions, learned, before)

    def learned(self, placement: Placement) -> LearnedShares | None:
        """What train batches teach the policy, if it learns."""
        if self.conditions.routing not in LEARNING:
            return None
        if self.conditions.routing == "weights":
            return self.taught(placement)
        return self._with_table(placement, only_loads(placement, self.problem.load))

    def taught(self, placement: Placement) -> LearnedShares:
        """What a plan keeps of what train batches teach: loads, shares, and the table of the policy that uses one."""
        work = int((placement.counts(self.problem.model.experts).astype(np.int64) ** 2).sum())
        step = -(-len(self.problem.load) // max(LEAST_TAUGHT, MOST_TAUGHT // work))
        return self._with_table(placement, learn_shares(placement, self.problem.load[::step], slot_value(self.problem)))

    def _with_table(self, placement: Placement, known: LearnedShares) -> LearnedShares:
        """With a learned dispatch table where the policy uses one."""
        if self.conditions.routing != "table":
            return known
        return replace(known, table=table_for(self.problem, placement, self._source_loads))

    @cached_property
    def _source_loads(self) -> SourceLoads:
        return source_loads(self.problem, self.sets.train)


@dataclass(frozen=True, eq=False)
class Judged:
    """A placement's figures on the selection batches, and its `SimulationReport.most_row_traffic`."""

    figures: Floats
    row_traffic: float


@dataclass
class CandidatePool:
    """The candidates of one routing policy, and their figures on the selection batches. The first is the one to beat.

    least_traffic: the least `SimulationReport.most_row_traffic` of all placements that were offered. on_few_users: by
    index the figures of candidates that were judged once more because they are nearly the best.
    """

    judge: LayerJudge
    placements: list[Placement] = field(default_factory=list)
    judged: list[Floats] = field(default_factory=list)
    least_traffic: float = np.inf
    on_few_users: dict[int, Floats] = field(default_factory=dict)

    def add(self, placement: Placement) -> None:
        """Judge one more placement, and keep it."""
        self.keep(placement, self.judged_now(placement))

    def judged_now(self, placement: Placement) -> Judged:
        """What selection batches say of a placement; any threads may ask at once."""
        report = self.judge.selection(placement)
        return Judged(figures(report), report.most_row_traffic)

    def keep(self, placement: Placement, judged: Judged) -> None:
        """Make a placement a candidate, unless more pairs come to a row from others than may."""
        self.least_traffic = min(self.least_traffic, judged.row_traffic)
        if judged.row_traffic <= self.judge.problem.most_row_traffic:
            self.placements.append(placement)
            self.judged.append(judged.figures)

    def latency(self, placement: Placement) -> float:
        """The mean of a placement's latency figures on the selection batches, in microseconds."""
        return float(figures(self.judge.selection(placement))[LATENCIES].mean())

    def best(self) -> int:
        """The index of the candidate that is chosen: the best on selection batches, or, once `break_ties` has judged
        those that are nearly as good, the one of them that is best on these and on batches of few users together."""
        tied = self._tied()
        if not all(index in self.on_few_users for index in tied):
            return tied[0]
        usual, few, decisive, first = self.judged, self.on_few_users, DECISIVE[self.judge.goal], tied[0]
        to_first = {index: usual[index] / usual[first] + few[index] / few[first] for index in tied}
        return min(tied, key=lambda index: float(to_first[index][decisive].mean()))

    def break_ties(self, few_users: Batches) -> None:
        """Judge candidates that are nearly the best on batches of few users, too.

        Batches of many users hold all selection requests at once, and so all are alike. What meets other requests well
        shows where each batch has a few of them.
        """
        tied = self._tied()
        for index in tied if len(tied) > 1 else ():
            if index not in self.on_few_users:
                self.on_few_users[index] = figures(self.judge.on(self.placements[index], few_users))

    def _tied(self) -> list[int]:
        """The indices of the candidates that are nearly the best, the best first."""
        return nearly_best(self.judged, 0, self.judge.goal, TIE)[:MOST_TIED]

    def ranked(self) -> list[Placement]:
        """All candidates: the chosen one first, then the others by the mean of the figures that the goal looks at."""
        best, decisive = self.best(), DECISIVE[self.judge.goal]
        rest = [index for index in range(len(self.judged)) if index != best]
        rest.sort(key=lambda index: float(self.judged[index][decisive].mean()))
        return [self.placements[index] for index in (best, *rest)]
