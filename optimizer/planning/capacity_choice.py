"""How small the replicas' capacity may be while few pairs go to other experts than those of the token's choice."""

from dataclasses import replace
from typing import NamedTuple

from optimizer.domain.placement import Placement
from optimizer.interrupts import Cancel
from optimizer.planning.portfolio import Portfolio
from optimizer.search.choose import LATENCIES, figures
from optimizer.simulation.report import SimulationReport
from optimizer.simulation.simulator import Simulation
from optimizer.traces.batches import Batches

STEP = 0.05  # between capacity factors that are tried; a compromise between fineness and time, not tuned
MOST_STEPS = 200  # factors up to 10; a larger capacity is hardly a limit any more
LOOKED_AT = 128  # selection batches that candidates are compared on; a compromise between time and noise, not tuned
TRIED = 3  # best candidates of each policy; a compromise, not tuned


class Limited(NamedTuple):
    """A candidate with the capacity factor that suits it."""

    routing: str
    placement: Placement
    capacity_factor: float


def limited(portfolio: Portfolio, most: float, cancel: Cancel) -> Limited | None:
    """The candidate and capacity factor with the least latency, of those that reroute at most this share of pairs, if
    that is less than without a capacity.

    most: the share of pairs, 0 to 1. The fewer pairs a replica takes the more are rerouted, so each candidate's factor
    is the least that is allowed. None where none is allowed, or faster. Judged on selection batches; once the token is
    asked, no further candidate is looked at.
    """
    found: dict[Limited, float] = {}
    few = portfolio.sets.selection.part(0, LOOKED_AT)
    for routing, pool in portfolio.pools.items():
        for placement in pool.ranked()[:TRIED]:
            if cancel.asked:
                break
            steps = _least_steps(portfolio, routing, placement, few, most)
            if steps is None:
                continue
            trial = Limited(routing, placement, STEP * steps)
            report = run(portfolio, trial, few)
            if report.most_row_traffic <= portfolio.problem.most_row_traffic:
                found[trial] = _latency(report)
    best = min(found, key=lambda trial: found[trial], default=None)
    unlimited = portfolio.pools[portfolio.chosen()]
    plain = _latency(unlimited.judge.on(unlimited.placements[unlimited.best()], few))
    return best if best is not None and found[best] < plain else None


def run(portfolio: Portfolio, trial: Limited, batches: Batches) -> SimulationReport:
    """Simulate a candidate with its capacity."""
    judge, problem = portfolio.pools[trial.routing].judge, portfolio.problem
    conditions = replace(judge.conditions, capacity_factor=trial.capacity_factor)
    guess = portfolio.guess if batches.candidates is None else None
    learned = judge.learned(trial.placement)
    known = learned, guess, problem.layers_before
    simulation = Simulation(trial.placement, problem.model, problem.mesh, problem.cost, conditions, *known)
    simulation.feed(batches)
    return simulation.report()


def _least_steps(portfolio: Portfolio, routing: str, placement: Placement, batches: Batches, most: float) -> int | None:
    """The least number of steps at which few enough pairs are rerouted, by bisection; None if there is none."""
    low, high = 0, MOST_STEPS
    if _share(run(portfolio, Limited(routing, placement, STEP * high), batches)) > most:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        enough = _share(run(portfolio, Limited(routing, placement, STEP * middle), batches)) <= most
        low, high = (low, middle) if enough else (middle, high)
    return high


def _latency(report: SimulationReport) -> float:
    return float(figures(report)[LATENCIES].mean())


def _share(report: SimulationReport) -> float:
    """Rerouted pairs, and those that had to be served over capacity, which would be too if there were room."""
    assert report.rerouting is not None
    return report.rerouting.share(report.rerouting.rerouted + report.rerouting.over)
