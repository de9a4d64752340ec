"""Candidates for a server's own rule: what a search finds whose objective is the load that the rule brings."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.planning.candidates import Candidate, SearchShare
from optimizer.search.dealt_copies import Dealing, climb_dealt
from optimizer.search.iterated import iterated
from optimizer.search.moves import MoveRules
from optimizer.search.multistart import DescentGoal, DescentWeights, latency_goal
from optimizer.search.rule_loads import RULES, RuleLoads, demand_by_source
from optimizer.search.seeds.risk_tree import risk_tree
from optimizer.search.stop import SearchBudget
from optimizer.streams import Purpose, random_stream
from optimizer.traces.batches import Batches

STARTS = ("start", "greedy", "risk", "pairing", "steps", "formulation")
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

USERS = 64
"""Places whose tokens make up a batch that a search looks at. Of 16, 32, 64, 128 and all it is the best or nearly so on
V2-Lite and GPT-OSS with two seeds each: with all, searches fit the train requests, and end worse than FlashLB's on
others."""

UNTIL_DEALT = 0.25
"""The share of the time that descents have before a climb for a dealt table; with .5 the 16 x 8 mesh ends worse."""


def by_rule(
    policy: str, problem: Problem, train: Batches, found: list[Candidate], weights: DescentWeights, spell: SearchShare
) -> Iterator[Placement]:
    """What a search for one of `RULES` passes, from the found candidates and FlashLB's, which comes first.

    Where a plan may give shared experts any number of replicas, it also starts from FlashLB's with the number that it
    gives them as if they were routed, and changes the number.
    """
    starts = [candidate.placement for method in STARTS for candidate in found if candidate.method == method]
    trees = [risk_tree(problem)] if problem.loose is problem else [risk_tree(problem), risk_tree(problem.loose)]
    yield from trees
    starts, problem = starts + trees, problem.loose
    few = _every(train, max(-(-train.experts.size // MOST_PAIRS), -(-train.count * problem.mesh.devices // MOST_CELLS)))
    rng = random_stream(Purpose.RULE_SEARCH, spell.seed, RULES.index(policy))
    few = batches_of_few_users(few, rng)
    most = max(int(start.counts(problem.model.experts)[~problem.spread].max()) for start in starts) + 1
    rule = RuleLoads.of(policy, few, problem.model, problem.network, most)
    load = few.load(problem.model.experts)
    goal = replace(latency_goal(replace(problem, load=load), few, weights), rule=rule)
    told = lambda share: spell.progress("descent", share)  # noqa: E731
    first = _first_part(spell.budget) if policy == "sglang-static" else spell.budget
    for placement in iterated(load, MoveRules.of(problem), goal, starts, first, rng, told):
        starts.append(placement)
        yield placement
    if policy == "sglang-static":
        dealing = _dealing(problem, few, goal)
        yield from climb_dealt(min(starts, key=dealing.cost), dealing, MoveRules.of(problem), spell.budget, rng)


def batches_of_few_users(batches: Batches, rng: np.random.Generator, users: int = USERS) -> Batches:
    """As many batches of as many tokens, in each of which the tokens of some `users` places take all places.

    A token stands for the tokens that come from its place in a stretch of batches, one batch after another, which are
    of one request, or of few, as batches are in the order of time. So every batch has other requests, as the batches
    that a plan will meet have, and a search learns how loads vary from request to request.
    """
    count, tokens = batches.source_row.shape
    stretch, token = max(1, tokens // users), np.arange(tokens)
    begin = rng.integers(0, max(1, count - stretch + 1), count)
    chosen = rng.integers(0, stretch, (count, -(-tokens // stretch)))
    place = np.minimum(token // stretch * stretch + chosen[:, token // stretch], tokens - 1)
    batch = (begin[:, None] + token % stretch) % count
    return Batches(batches.experts[batch, place], batches.source_row)


def _every(batches: Batches, step: int) -> Batches:
    """Every so many-th of the batches."""
    return Batches(batches.experts[::step], batches.source_row[::step])


def _first_part(budget: SearchBudget) -> SearchBudget:
    """The share `UNTIL_DEALT` of what is left of a budget; what it spends of iterations comes off the whole."""
    now = budget.deadline.elapsed()
    iterations = None if budget.iterations is None else round(UNTIL_DEALT * budget.iterations)
    if budget.iterations is not None and iterations is not None:
        budget.iterations -= iterations
    return SearchBudget(budget.deadline, now + UNTIL_DEALT * max(budget.seconds - now, 0.0), iterations)


def _dealing(problem: Problem, batches: Batches, goal: DescentGoal) -> Dealing:
    """What a dealt table's loads follow from, in some of these batches."""
    network, experts = problem.network, problem.model.experts
    most = max(16, MOST_DEALT // (network.sources * experts))
    few = _every(batches, -(-batches.count // most))
    demand = demand_by_source(few, network, experts)
    return Dealing.of(demand, goal.value, network, problem.mesh.slots_per_device, problem.layers_before)
