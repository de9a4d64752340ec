"""Candidates for a fixed rule, such as a server's: what a search finds whose objective is the load that it brings."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import isqrt

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.planning.candidates import Candidate, SearchShare
from optimizer.planning.few_users import batches_of_few_users
from optimizer.search.dealt_copies import Dealing, climb_dealt
from optimizer.search.iterated import iterated
from optimizer.search.moves import MoveRules
from optimizer.search.multistart import DescentWeights, latency_goal, slot_value
from optimizer.search.rule_loads import RULES, RuleLoads, demand_by_source
from optimizer.search.seeds.risk_tree import risk_tree
from optimizer.search.stop import SearchBudget
from optimizer.streams import Purpose, random_stream
from optimizer.traces.batches import Batches

STARTS = ("start", "greedy", "risk", "pairing", "steps", "rows", "partition", "formulation")
"""The candidates from which descents under a rule begin, besides FlashLB's."""

MOST_PAIRS = 1 << 24
"""Pairs of the batches that a search looks at: all of 1,024 batches of 2,048 tokens with 8 experts each. Beyond, tables
of loads take seconds and descents learn little, as large batches are alike."""

MOST_CELLS = 1 << 13
"""Devices times batches that a search looks at: 256 batches on 32 devices, 64 on 128. With four times as many, 20 s
are too short for the first descents at 2,048 tokens, and what they find is no better."""

MOST_DEALT = 1 << 19
"""Sources times experts times batches that a climb for a dealt table adds up in a trial, about .3 ms; 16 batches at
least. Not tuned."""

MOST_TABLE = 1 << 24
"""Entries of the table of loads by copies, which grow with the square of the copies: 64 MB. Experts with more copies,
as the hottest have hundreds on 2,048 devices, count as split evenly, which rules come near with so many."""

FIXED_SHARED = 0.5
"""The share of the time of descents for those that keep the number of shared replicas. Not tuned."""

TREE = 0.25
"""The share of the time that FlashLB's search may take, which it needs a tenth of on a hundred devices. Not tuned."""

UNTIL_DEALT = 0.25
"""The share of the time that descents have before a climb for a dealt table; with .5 the 16 x 8 mesh ends worse."""


def by_rule(
    policy: str, problem: Problem, train: Batches, found: list[Candidate], weights: DescentWeights, spell: SearchShare
) -> Iterator[Placement]:
    """What a search for one of `RULES` passes, from the found candidates and FlashLB's, which comes first. Where the
    problem has a budget of moves, searches begin at the found candidates alone.

    Where a plan may give shared experts any number of replicas, that number is kept in the first half of the descents
    and may change in the second, which also begin from what FlashLB does with shared experts as if they were routed.
    """
    free = problem.loose is not problem
    starts = [candidate.placement for method in STARTS for candidate in found if candidate.method == method]
    if problem.budget is None:
        starts.append(risk_tree(problem, _ending(spell.budget)))
        yield starts[-1]
    rng = random_stream(Purpose.RULE_SEARCH, spell.seed, RULES.index(policy))
    few = _every(train, max(-(-train.experts.size // MOST_PAIRS), -(-train.count * problem.mesh.devices // MOST_CELLS)))
    few = batches_of_few_users(few, rng)
    descents = _first_part(spell.budget, UNTIL_DEALT) if policy == "sglang-static" else spell.budget
    fixed = replace(spell, budget=_first_part(descents, FIXED_SHARED) if free else descents)
    descents.purpose += ", any shared replicas" if free else ""
    for placement in _descents(policy, problem, few, starts, weights, fixed, rng):
        starts.append(placement)
        yield placement
    if free:
        if problem.budget is None:
            starts.append(risk_tree(problem.loose, _ending(spell.budget)))
            yield starts[-1]
        loose = replace(spell, budget=descents)
        for placement in _descents(policy, problem.loose, few, [*starts], weights, loose, rng):
            starts.append(placement)
            yield placement
    if policy == "sglang-static":
        dealing = _dealing(problem, few, slot_value(problem, weights.token_ns))
        best, rules = min(starts, key=dealing.cost), MoveRules.of(problem.loose)
        spell.budget.purpose = f"climb for {policy}"
        yield from climb_dealt(best, dealing, rules, spell.budget, rng, spell.team)


def _ending(budget: SearchBudget) -> Callable[[], bool]:
    """Whether FlashLB's search has had its share of what is left of a budget now, which decides where time does."""
    until = budget.deadline.elapsed() + TREE * max(budget.seconds - budget.deadline.elapsed(), 0.0)
    return lambda: budget.over or (budget.iterations is None and budget.deadline.elapsed() > until)


def _descents(
    policy: str,
    problem: Problem,
    few: Batches,
    starts: list[Placement],
    weights: DescentWeights,
    spell: SearchShare,
    rng: np.random.Generator,
) -> Iterator[Placement]:
    """What iterated descents pass whose objective is the load under the rule in these batches."""
    most = max(int(start.counts(problem.model.experts)[~problem.spread].max()) for start in starts) + 1
    most = min(most, max(2, isqrt(2 * MOST_TABLE // (problem.model.experts * few.count))))
    rule, load = RuleLoads.of(policy, few, problem.model, problem.network, most), few.load(problem.model.experts)
    goal = replace(latency_goal(replace(problem, load=load), few, weights), rule=rule)
    told = lambda share: spell.progress("descent", share)  # noqa: E731
    return iterated(load, MoveRules.of(problem), goal, starts, spell.budget, rng, told, spell.team)


def _every(batches: Batches, step: int) -> Batches:
    """Every so many-th of the batches."""
    return Batches(batches.experts[::step], batches.source_row[::step])


def _first_part(budget: SearchBudget, share: float) -> SearchBudget:
    """A share of what is left of a budget; what it may spend of iterations comes off the whole."""
    now = budget.deadline.elapsed()
    iterations = None if budget.iterations is None else round(share * budget.iterations)
    if budget.iterations is not None:
        budget.iterations -= iterations or 0
    return replace(budget, seconds=now + share * max(budget.seconds - now, 0.0), iterations=iterations)


def _dealing(problem: Problem, batches: Batches, value: Ints) -> Dealing:
    """What a dealt table's loads follow from, in some of these batches; value: as of `Dealing`."""
    network, experts = problem.network, problem.model.experts
    most = max(16, MOST_DEALT // (network.sources * experts))
    few = _every(batches, -(-batches.count // most))
    demand = demand_by_source(few, network, experts)
    return Dealing.of(demand, value, network, problem.mesh.slots_per_device, problem.layers_before)
