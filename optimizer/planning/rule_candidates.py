"""Candidates for a server's own rule: what a search finds whose objective is the load that the rule brings."""

from collections.abc import Iterator
from dataclasses import replace

from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.planning.candidates import Candidate, SearchShare
from optimizer.search.iterated import iterated
from optimizer.search.moves import MoveRules
from optimizer.search.multistart import DescentWeights, latency_goal
from optimizer.search.rule_loads import RULES, RuleLoads
from optimizer.streams import Purpose, random_stream
from optimizer.traces.batches import Batches

STARTS = ("start", "greedy", "risk", "pairing", "steps", "formulation")
"""The candidates from which descents under a rule begin."""

MOST_PAIRS = 1 << 24
"""Pairs of the batches that a search looks at: all of 1,024 batches of 2,048 tokens with 8 experts each. Beyond, tables
of loads take seconds and descents learn little, as large batches are alike."""


def by_rule(
    policy: str, problem: Problem, train: Batches, found: list[Candidate], weights: DescentWeights, spell: SearchShare
) -> Iterator[Placement]:
    """What a search for one of `RULES` passes, from the found candidates."""
    starts = [candidate.placement for method in STARTS for candidate in found if candidate.method == method]
    step = -(-train.experts.size // MOST_PAIRS)
    few = Batches(train.experts[::step], train.source_row[::step])
    routed = ~problem.spread
    most = max(int(start.counts(problem.model.experts)[routed].max()) for start in starts) + 1
    rule = RuleLoads.of(policy, few, problem.model, problem.network, most)
    goal = replace(latency_goal(problem, few, weights), rule=rule)
    rng = random_stream(Purpose.RULE_SEARCH, spell.seed, RULES.index(policy))
    told = lambda share: spell.progress("descent", share)  # noqa: E731
    return iterated(problem.load[::step], MoveRules.of(problem), goal, starts, spell.budget, rng, told)
