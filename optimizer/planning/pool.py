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
from optimizer.search.choose import DECISIVE, LATENCIES, SelectionGoal, choose, figures
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
        return self._with_table(placement, learn_shares(placement, self.problem.load, slot_value(self.problem)))

    def _with_table(self, placement: Placement, known: LearnedShares) -> LearnedShares:
        """With a learned dispatch table where the policy uses one."""
        if self.conditions.routing != "table":
            return known
        return replace(known, table=table_for(self.problem, placement, self._source_loads))

    @cached_property
    def _source_loads(self) -> SourceLoads:
        return source_loads(self.problem, self.sets.train)


@dataclass
class CandidatePool:
    """The candidates of one routing policy, and their figures on the selection batches. The first is the one to beat.

    least_traffic: the least `SimulationReport.most_row_traffic` of all placements that were offered.
    """

    judge: LayerJudge
    placements: list[Placement] = field(default_factory=list)
    judged: list[Floats] = field(default_factory=list)
    least_traffic: float = np.inf

    def add(self, placement: Placement) -> None:
        """Judge one more placement. It becomes a candidate unless more pairs come to a row from others than may."""
        report = self.judge.selection(placement)
        self.least_traffic = min(self.least_traffic, report.most_row_traffic)
        if report.most_row_traffic <= self.judge.problem.most_row_traffic:
            self.placements.append(placement)
            self.judged.append(figures(report))

    def latency(self, placement: Placement) -> float:
        """The mean of a placement's latency figures on the selection batches, in microseconds."""
        return float(figures(self.judge.selection(placement))[LATENCIES].mean())

    def best(self) -> int:
        """The index of the candidate that is chosen."""
        return choose(self.judged, 0, self.judge.goal)

    def ranked(self) -> list[Placement]:
        """All candidates: the chosen one first, then the others by the mean of the figures that the goal looks at."""
        best, decisive = self.best(), DECISIVE[self.judge.goal]
        rest = [index for index in range(len(self.judged)) if index != best]
        rest.sort(key=lambda index: float(self.judged[index][decisive].mean()))
        return [self.placements[index] for index in (best, *rest)]
