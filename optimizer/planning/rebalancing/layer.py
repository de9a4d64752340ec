"""One layer rebalanced: the best placement within each of several budgets of expert weights that devices must load."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property

from formulations.kit.arrays import Ints
from formulations.kit.compiling import CompilationEnded, compiling_until
from formulations.kit.outcome import Outcome
from optimizer.domain.placement import Placement
from optimizer.domain.problem import MoveBudget, Problem
from optimizer.planning.candidates import SearchShare
from optimizer.planning.hint_choice import choose_hints
from optimizer.planning.options import Effort, Progress, SolveOptions, silent
from optimizer.planning.pool import LayerJudge
from optimizer.planning.rebalancing.candidates import Candidates
from optimizer.planning.rebalancing.expected import ExpectedBound, expected_bound, formulated
from optimizer.planning.rebalancing.relabelling import refilled, relabelled
from optimizer.planning.rebalancing.search import brought_nearer, planned_afresh, within_budget
from optimizer.routing.hints import HintSettings
from optimizer.routing.policies import REMEMBERING
from optimizer.search.choose import DECISIVE, LATENCIES, figures
from optimizer.search.stop import SearchBudget
from optimizer.simulation.report import SimulationReport
from optimizer.statistics.loads import PairedGain, paired_gain
from optimizer.traces.batches import Sets

FRESH_SHARE, UNLIMITED_SHARE = 0.45, 0.75
"""The share of the time for a plan without a limit to moves, where a budget is wanted and where none is: it is what is
best far from the current plan, and the end of the curve. The searches within budgets share the rest. Not tuned."""

JUDGING_SHARE = 0.1
"""The share of the time that is left for judging on test batches."""


@dataclass(frozen=True, eq=False)
class Rebalanced:
    """What a budget of expert weights to load wins in one layer.

    most: the budget, None for no limit. moves: how many weights devices must load. selection_us: what decided, on
    selection batches: `Candidates.value` times the mean of the latency figures of the placement in force. before,
    after: the placement in force and the new one, judged on the same test batches under the same policy; what the
    policy learns is learnt anew for both. expected: a bound for even split, where the layer is small.
    """

    most: int | None
    current: Placement
    placement: Placement
    moves: int
    selection_us: float
    before: SimulationReport
    after: SimulationReport
    expected: ExpectedBound | None

    @cached_property
    def gain(self) -> PairedGain:
        """The share of the mean latency on test batches that is saved, with its 95 % interval."""
        return paired_gain(self.before.latency_us, self.after.latency_us)


@dataclass(eq=False)
class LayerCurve:
    """The placements that were found for one layer, from which a budget's best is taken and judged.

    judge: the simulator that judges the layer; candidates: by their figures on selection batches (see `figures`).
    budgets: for which a search has run, ascending; outcomes: of the formulation for a budget, for small layers.
    """

    judge: LayerJudge
    candidates: Candidates
    budgets: tuple[int, ...]
    outcomes: dict[int, Outcome[Ints]] = field(default_factory=dict)
    tested: dict[bytes, SimulationReport] = field(default_factory=dict)

    @property
    def hints(self) -> HintSettings:
        """How hints are made for all that is judged."""
        return self.judge.conditions.hints

    def at(self, most: int | None) -> Rebalanced:
        """What a budget wins, None for no limit; any number, not only one of `budgets`."""
        best, current = self.candidates.best(most), self.candidates.current
        selection_us = self.candidates.value(best) * float(self.candidates.first.judged[LATENCIES].mean())
        reports = self._test(current), self._test(best.placement)
        outcome = None if most is None else self.outcomes.get(most)
        expected = None if outcome is None else expected_bound(self.judge.problem, outcome, best.placement)
        return Rebalanced(most, current, best.placement, best.moves, selection_us, *reports, expected)

    def points(self) -> list[Rebalanced]:
        """What no move, each of the budgets and no limit win."""
        return [self.at(most) for most in (0, *self.budgets, None)]

    def _test(self, placement: Placement) -> SimulationReport:
        key = placement.slots.tobytes()
        if key not in self.tested:
            self.tested[key] = self.judge.test(placement)
        return self.tested[key]


def rebalance_layer(
    problem: Problem,
    sets: Sets,
    current: Placement,
    most: int | None,
    options: SolveOptions,
    effort: Effort | None = None,
    progress: Progress = silent,
) -> Rebalanced:
    """The best placement of a layer for which devices load at most so many expert weights, None for any number.

    problem: the layer, without a budget; current: the placement in force, valid for the problem; options: with one
    routing policy, under which both placements are judged. effort: None for that of the options, from now on. Once its
    cancel token is asked, the best so far is taken, which may be the placement in force.
    """
    found = curve_of(problem, sets, current, () if most is None else (most,), options, effort, progress)
    return found.at(most)


def curve_of(
    problem: Problem,
    sets: Sets,
    current: Placement,
    budgets: Sequence[int],
    options: SolveOptions,
    effort: Effort | None = None,
    progress: Progress = silent,
    hints: HintSettings | None = None,
    limited: bool = True,
) -> LayerCurve:
    """The placements found for a layer within each of the budgets, and without a limit; parameters as of
    `rebalance_layer`.

    hints: how hints are made for a policy that chooses by them, None to choose it here, by what is best for the
    placement in force. limited: whether a budget is what is wanted, and not the plan without a limit.
    """
    effort, (policy,) = effort or options.effort(), options.routings
    started = replace(problem, start=current, budget=None)
    judge = LayerJudge(started, sets, replace(options.conditions, routing=policy))
    if policy in REMEMBERING:
        hints = hints or choose_hints(judge, current, effort.cancel)
        judge = replace(judge, conditions=replace(judge.conditions, hints=hints))
    chosen_by = Candidates(lambda each: figures(judge.selection(each)), DECISIVE[judge.goal], current)
    curve = LayerCurve(judge, chosen_by, tuple(sorted(set(budgets))))
    effort.cancel.heed()
    if not effort.cancel.asked:
        with suppress(CompilationEnded), compiling_until(lambda: effort.cancel.asked):
            _fill(curve, options, effort, progress, FRESH_SHARE if limited else UNLIMITED_SHARE)
    return curve


def _fill(curve: LayerCurve, options: SolveOptions, effort: Effort, progress: Progress, share: float) -> None:
    """Search: without a limit in this share of the time, from what that finds back to the budgets, then within each
    budget, the least first."""
    candidates, judge = curve.candidates, curve.judge
    now = effort.deadline.elapsed()
    end = now + (1 - JUDGING_SHARE) * max(effort.deadline.seconds - now, 0.0)
    until = now + (share if curve.budgets else 1.0) * (end - now)
    fresh = planned_afresh(judge.problem, judge.sets, options, effort, until, progress)
    for placement in fresh:
        exchanged = [*relabelled(candidates.current, placement, judge.problem.mesh)]
        for kept in exchanged:
            candidates.add(kept)
        for kept in exchanged[1:] or exchanged:
            if curve.budgets and not effort.cancel.asked and effort.deadline.elapsed() < end:
                for nearer in brought_nearer(judge, kept, candidates.current, curve.budgets, options):
                    candidates.add(nearer)
    for number, most in enumerate(curve.budgets):
        if effort.cancel.asked:
            return
        now = effort.deadline.elapsed()
        until = now + max(end - now, 0.0) / (len(curve.budgets) - number)
        iterations = None if effort.iterations is None else effort.iterations // len(curve.budgets)
        told = lambda stage, share: progress(f"within {most} moves", share)  # noqa: B023, E731
        spell = SearchShare(SearchBudget(effort.deadline, until, iterations), effort.seed, effort.jobs, told)
        budget = MoveBudget(candidates.current, most)
        _formulate(curve, budget, effort)
        start = candidates.best(most).placement
        for placement in within_budget(judge, budget, start, spell, options):
            candidates.add(placement)


def _formulate(curve: LayerCurve, budget: MoveBudget, effort: Effort) -> None:
    """Keep what the formulation says of a budget, and judge its placement, which knows no other constraint."""
    problem = curve.judge.problem
    outcome = formulated(problem, budget, effort)
    if outcome is None:
        return
    curve.outcomes[budget.most] = outcome
    if outcome.value is None:
        return
    found = refilled(budget.current, Placement(outcome.value))
    if not problem.violations(found):
        curve.candidates.add(found)
