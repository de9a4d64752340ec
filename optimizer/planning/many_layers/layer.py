"""One layer of many: what a worker is given, and what it gives back. Nothing here reads files."""

import time
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from formulations.kit.arrays import Floats
from optimizer.domain.problem import Problem, check, make_problem
from optimizer.planning.bounds import bound_any, bound_compute, bound_given, gaps_of
from optimizer.planning.candidates import Candidate, seeds
from optimizer.planning.judged_pools import FLEXIBLE
from optimizer.planning.many_layers.settings import Settings
from optimizer.planning.options import Effort, silent
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.planning.plan_layer import MOST_BOUNDING, part_of
from optimizer.planning.pool import SPLITTING
from optimizer.planning.portfolio import Portfolio
from optimizer.planning.thinning import has_time_for_groups
from optimizer.planning.token_seeds import all_seeds
from optimizer.planning.used_slots import used_slots
from optimizer.planning.warm_start import started
from optimizer.search.choose import IMBALANCES, LATENCIES
from optimizer.search.stop import Deadline
from optimizer.traces.batches import Sets

EXCESS = "excess_us"
"""The figure of a surveyed layer: its latency above the least compute time of any placement, in microseconds."""

SURVEYED = 256  # selection batches that seeds are judged on; a compromise between time and noise, not tuned


@dataclass(frozen=True, eq=False)
class LayerTask:
    """A layer with its batches; start: a plan to start from; extra_replicas: of this layer, where layers differ;
    provenance as of `plan_layer.provenance_of`."""

    settings: Settings
    layer: int
    sets: Sets
    provenance: dict[str, Any]
    start: Plan | None = None
    extra_replicas: int | None = None

    def problem(self) -> Problem:
        """The layer to place, by the loads of its train batches."""
        given, constraints = self.settings, self.settings.options.constraints
        if self.extra_replicas is not None:
            constraints = constraints._replace(extra_replicas=self.extra_replicas)
        load = self.sets.train.load(given.model.experts)
        problem = make_problem(given.model, given.mesh, given.cost, load, constraints, self.layer)
        return started(problem, self.start, self.layer)

    def portfolio(self, problem: Problem, sets: Sets) -> Portfolio:
        """A portfolio without candidates for this layer's problem on these batches."""
        return Portfolio.of(problem, sets, self.settings.options)


def survey_layer(task: LayerTask) -> dict[str, LayerPlan]:
    """The best seed under each policy that has one within the limits: a complete if simple plan, judged on few
    selection batches, whose quality says how far its latency is above the least compute time of any placement."""
    problem, few, options = task.problem(), task.sets.selection.part(0, SURVEYED), task.settings.options
    effort = task.settings.effort(Deadline(0.0))
    used = used_slots(problem, task.sets, options, effort.within(inf))
    portfolio = task.portfolio(used.problem, task.sets._replace(selection=few))
    portfolio.offer_seeds(list(seeds(used.problem, options.seed, FLEXIBLE)), effort)
    compute = bound_compute(few, problem.model, problem.mesh, problem.cost)
    provenance = task.provenance | {"method": "seed", "judged_on": f"{few.count} selection batches"}
    surveyed = {}
    for routing, pool in portfolio.pools.items():
        if pool.placements:
            judged, placement = pool.judged[pool.best()], used.on_all(pool.placements[pool.best()])
            latency = float(judged[LATENCIES][0])
            quality = _quality(judged) | {EXCESS: latency - (compute.mean if compute else 0.0)}
            surveyed[routing] = LayerPlan(placement, quality, {}, provenance)
    return surveyed


def _quality(judged: Floats) -> dict[str, Any]:
    """The figures of `choose.figures`, in the form of a simulation's summary."""
    of = {"latency_us": judged[LATENCIES], "imbalance": judged[IMBALANCES]}
    return {name: dict(zip(("mean", "p50", "p99"), values.tolist(), strict=False)) for name, values in of.items()}


def plan_layer(task: LayerTask, deadline: Deadline) -> LayerPlan | None:
    """The plan of a layer by its deadline; once the deadline's token is asked, the best that was found so far, or None
    where nothing was judged yet."""
    effort, problem, test = task.settings.effort(deadline), task.problem(), task.sets.test
    used = used_slots(problem, task.sets, task.settings.options, effort)
    portfolio = task.portfolio(used.problem, task.sets)
    started = time.monotonic()
    bounds = bound_any(test, problem.model, problem.mesh, problem.cost, has_time_for_groups(effort))
    finish = MOST_BOUNDING * (time.monotonic() - started)
    found = seeds_for(used.problem, portfolio, effort)
    if effort.cancel.asked:
        return None
    portfolio.search(found, effort, deadline.seconds - finish, silent)
    if effort.cancel.asked and not portfolio.candidates:
        return None
    portfolio.settle()
    pool = portfolio.pools[portfolio.chosen()]
    placement = used.on_all(pool.placements[pool.best()])
    check(problem, placement)
    judge = replace(pool.judge, problem=problem)
    report = judge.test(placement)
    if not effort.cancel.asked:  # they take seconds, as in `optimizer.planning.plan_layer.solve`
        bounds += bound_given(test, problem.model, problem.mesh, problem.cost, placement)
    provenance = task.provenance | {"method": "search", "candidates": portfolio.candidates}
    part = part_of(judge, placement, report, gaps_of(bounds, report), provenance)
    return replace(part, convergence=portfolio.convergence)


def seeds_for(problem: Problem, portfolio: Portfolio, effort: Effort) -> list[Candidate]:
    """The candidates that a search begins from. Where all policies follow the load of the batch there is no
    formulation, as it places the expected load, unless the user names seeds."""
    options = portfolio.options
    if set(portfolio.pools) <= {*SPLITTING} and options.seeds is None:
        return list(seeds(problem, effort.seed, ("greedy", *FLEXIBLE)))
    return list(all_seeds(problem, portfolio.sets.train, options, effort, silent))
