"""Candidates for one layer near the placement in force: a fresh plan brought nearer, and searches within a budget."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

from optimizer.domain.placement import Placement
from optimizer.domain.problem import MoveBudget, Problem
from optimizer.planning.candidates import SEARCHES, Candidate, SearchShare, seeds_and_formulation, split_at_best
from optimizer.planning.learning import known_loads
from optimizer.planning.options import Effort, Progress, SolveOptions
from optimizer.planning.pool import FOLLOWING, LayerJudge
from optimizer.planning.portfolio import Portfolio
from optimizer.planning.rule_candidates import by_rule
from optimizer.planning.so_far import told_so_far
from optimizer.search.iterated import iterated
from optimizer.search.moves import MoveRules
from optimizer.search.multistart import latency_goal
from optimizer.search.retreat import EvenWalk, SplitWalk, Walked, retreat
from optimizer.search.rule_loads import RULES
from optimizer.search.split_state import split_of
from optimizer.streams import Purpose, random_stream
from optimizer.traces.batches import Batches, Sets

FRESH = 2
"""Fresh plans that are brought nearer to the placement in force: the best, and the next that may be nearer."""

FINALISTS = 4
"""Placements of a search within a budget that are judged, its last ones; a compromise with the time that it takes."""

WALKED = 128
"""Batches by which a walk compares its steps: with all of them it takes as long as a search. Not tuned."""


def planned_afresh(
    problem: Problem, sets: Sets, options: SolveOptions, effort: Effort, until: float, progress: Progress
) -> list[Placement]:
    """What planning finds without a limit to moves, for the one policy of the options, best first, before the clock
    reads `until` seconds."""
    portfolio = Portfolio.of(problem, sets, options)
    found = list(seeds_and_formulation(problem, effort, progress, options.shares))
    if not effort.cancel.asked:
        portfolio.search(found, effort, until, told_so_far(progress, portfolio, effort.deadline))
    portfolio.fall_back(found)
    portfolio.settle()
    return portfolio.pools[options.routings[0]].ranked()[:FRESH]


def brought_nearer(
    judge: LayerJudge, fresh: Placement, current: Placement, stops: Sequence[int], options: SolveOptions
) -> Iterator[Placement]:
    """The parts of a fresh plan that are worth most, with no more weights to load than each of the stops allows, the
    largest stop first."""
    problem = judge.problem.loose
    rules = MoveRules.of(replace(problem, budget=MoveBudget(current, 0)))
    walk = _walk(judge, problem, fresh, options)
    yield from retreat(walk, rules, stops, random_stream(Purpose.REBALANCE, options.seed))


def _walk(judge: LayerJudge, problem: Problem, start: Placement, options: SolveOptions) -> Walked:
    """A walk whose objective is nearest to what the judge's policy does."""
    policy, train = judge.conditions.routing, _every(judge.sets.train)
    few = replace(problem, load=train.load(problem.model.experts))
    if policy in FOLLOWING:
        return SplitWalk.of(split_of(start, judge.levelled(few.load), known_loads(few, policy)))
    goal = latency_goal(few, train, options.descent)
    return EvenWalk.of(goal.state(start, few.load, goal.usual_peak(few.load, [start])))


def _every(batches: Batches) -> Batches:
    """At most `WALKED` of the batches, at even distances."""
    step = -(-batches.count // WALKED)
    return Batches(batches.experts[::step], batches.source_row[::step])


def within_budget(
    judge: LayerJudge, budget: MoveBudget, start: Placement, spell: SearchShare, options: SolveOptions
) -> list[Placement]:
    """The last placements that a search passes from a start within the budget, which it never leaves."""
    problem, policy = replace(judge.problem, budget=budget), judge.conditions.routing
    if policy in FOLLOWING:
        known = known_loads(problem, policy)
        asked = SEARCHES[options.search][1] or "annealing", spell, options
        return split_at_best(problem.loose, start, judge.levelled(problem.load), known, *asked)
    if policy in RULES:
        found = [Candidate("start", start, 0.0)]
        return [*deque(by_rule(policy, problem, judge.sets.train, found, options.descent, spell), FINALISTS)]
    rng = random_stream(Purpose.REBALANCE, options.seed, budget.most)
    goal, rules = latency_goal(problem, judge.sets.train, options.descent), MoveRules.of(problem.loose)
    told = lambda share: spell.progress("descent", share)  # noqa: E731
    passed = iterated(problem.load, rules, goal, [start], spell.budget, rng, told, spell.team)
    return [*deque(passed, FINALISTS)]
