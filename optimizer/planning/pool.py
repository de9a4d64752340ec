"""The candidates for one layer under one routing policy, and the simulator that they are judged by."""

from dataclasses import dataclass, field

import numpy as np

from formulations.kit.arrays import Floats
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.routing.context import LearnedShares
from optimizer.routing.learned_shares import learn
from optimizer.routing.policies import TAUGHT
from optimizer.search.choose import DECISIVE, LATENCIES, SelectionGoal, choose, figures
from optimizer.search.multistart import slot_value
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.report import SimulationReport
from optimizer.simulation.simulator import simulate
from optimizer.traces.batches import Batches, Sets

SPLITTING = ("capacity-fill", "least-loaded", "optimal")
"""Policies that follow the load of the batch."""

NEAR = ("nearest", *SPLITTING)
"""Policies that look at distances."""


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
