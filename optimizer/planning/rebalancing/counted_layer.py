"""One layer of counts rebalanced: the least expected load within each of several budgets of expert weights."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.compiling import CompilationEnded, compiling_until
from formulations.kit.outcome import Outcome
from optimizer.domain.placement import Placement
from optimizer.domain.problem import MoveBudget, Problem
from optimizer.planning.options import Effort, Progress, SolveOptions
from optimizer.planning.plan_expected_load import constructed, expected_goal, expected_imbalance, searched
from optimizer.planning.rebalancing.candidates import Candidate, Candidates
from optimizer.planning.rebalancing.expected import ExpectedBound, expected_bound, formulated
from optimizer.planning.rebalancing.layer import FRESH_SHARE, UNLIMITED_SHARE
from optimizer.planning.rebalancing.relabelling import refilled, relabelled
from optimizer.planning.rebalancing.search import FINALISTS, FRESH
from optimizer.search.iterated import iterated
from optimizer.search.moves import MoveRules
from optimizer.search.retreat import EvenWalk, retreat
from optimizer.search.stop import SearchBudget
from optimizer.streams import Purpose, random_stream


@dataclass(eq=False)
class CountedCurve:
    """The placements that were found for a layer of counts.

    problem: with the steps that are planned on, `[step, expert]`, which placements are chosen by, too: counts have few
    steps. candidates: by their mean imbalance on these. budgets: ascending; outcomes: as of `LayerCurve`.
    """

    problem: Problem
    candidates: Candidates
    budgets: tuple[int, ...]
    outcomes: dict[int, Outcome[Ints]] = field(default_factory=dict)

    def at(self, most: int | None) -> tuple[Candidate, ExpectedBound | None]:
        """The best within a budget, None for no limit, and a bound for it where the layer is small."""
        best = self.candidates.best(most)
        outcome = None if most is None else self.outcomes.get(most)
        return best, None if outcome is None else expected_bound(self.problem, outcome, best.placement)


def counted_curve_of(
    problem: Problem,
    current: Placement,
    budgets: Sequence[int],
    options: SolveOptions,
    effort: Effort,
    progress: Progress,
    limited: bool = True,
) -> CountedCurve:
    """The placements found within each of the budgets and without a limit, for even split.

    problem: without a budget, its load that of the steps to plan on; current: the placement in force, valid for it.
    limited: whether a budget is what is wanted. Once the effort's cancel token is asked, the best so far is taken.
    """
    started = replace(problem, start=current, budget=None)
    candidates = Candidates(lambda each: mean_imbalance(each, problem.load), np.array([0]), current)
    curve = CountedCurve(started, candidates, tuple(sorted(set(budgets))))
    effort.cancel.heed()
    if not effort.cancel.asked:
        with suppress(CompilationEnded), compiling_until(lambda: effort.cancel.asked):
            _fill(curve, options, effort, progress, FRESH_SHARE if limited else UNLIMITED_SHARE)
    return curve


def mean_imbalance(placement: Placement, load: Ints) -> Floats:
    """Mean over steps of peak / mean expected device load, as the only figure, `[1]`; load `[step, expert]`."""
    return np.array([expected_imbalance(placement, load).mean()])


def _fill(curve: CountedCurve, options: SolveOptions, effort: Effort, progress: Progress, share: float) -> None:
    """Search: without a limit in this share of the time, from what that finds back to the budgets, then within each
    budget, the least first."""
    spent = effort.within((share if curve.budgets else 1.0) * effort.deadline.remaining())
    for placement in _afresh(curve, options, spent, progress):
        exchanged = [*relabelled(curve.candidates.current, placement, curve.problem.mesh)]
        for kept in exchanged:
            curve.candidates.add(kept)
        for kept in exchanged[1:] or exchanged:  # what was exchanged is nearer
            if curve.budgets and effort.deadline.remaining() > 0:
                for nearer in _brought_nearer(curve, kept, options):
                    curve.candidates.add(nearer)
    for number, most in enumerate(curve.budgets):
        if effort.cancel.asked:
            return
        progress(f"within {most} moves", number / len(curve.budgets))
        _within(curve, most, options, effort, len(curve.budgets) - number)


def _afresh(curve: CountedCurve, options: SolveOptions, effort: Effort, progress: Progress) -> list[Placement]:
    """The best placements that planning finds without a limit to moves, best first."""
    found = list(constructed(curve.problem, options, effort, progress))
    pool = [candidate.placement for candidate in found]
    pool += searched(curve.problem, found, options, effort, progress)
    return sorted(pool, key=lambda each: float(mean_imbalance(each, curve.problem.load)[0]))[:FRESH]


def _brought_nearer(curve: CountedCurve, start: Placement, options: SolveOptions) -> Iterator[Placement]:
    """The parts of a placement that are worth most, with no more weights to load than each budget allows."""
    problem, current = curve.problem.loose, curve.candidates.current
    rules = MoveRules.of(replace(problem, budget=MoveBudget(current, 0)))
    walk = EvenWalk.of(expected_goal(problem).state(start, problem.load))
    return retreat(walk, rules, curve.budgets, random_stream(Purpose.REBALANCE, options.seed))


def _within(curve: CountedCurve, most: int, options: SolveOptions, effort: Effort, budgets_left: int) -> None:
    """Search within a budget, in an equal part of the time that is left."""
    problem, budget = curve.problem, MoveBudget(curve.candidates.current, most)
    outcome = formulated(problem, budget, effort)
    if outcome is not None:
        curve.outcomes[most] = outcome
        kept = None if outcome.value is None else refilled(budget.current, Placement(outcome.value))
        if kept is not None and not problem.violations(kept):
            curve.candidates.add(kept)
    clock = effort.within(effort.deadline.remaining() / budgets_left).deadline
    iterations = None if effort.iterations is None else effort.iterations // len(curve.budgets)
    rng = random_stream(Purpose.REBALANCE, options.seed, most)
    rules = MoveRules.of(replace(problem, budget=budget).loose)
    start, spell = [curve.candidates.best(most).placement], SearchBudget(clock, clock.seconds, iterations)
    passed = iterated(problem.load, rules, expected_goal(problem), start, spell, rng, lambda share: None)
    for placement in deque(passed, FINALISTS):
        curve.candidates.add(placement)
