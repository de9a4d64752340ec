"""How fast exact routing and the policies are, and how good their approximations: hops, margins, next experts.

Usage: python benchmarks/routing.py. The case is layer 12 of the built-in trace with the greedy placement, on one core.
"""

import time
from functools import partial

import numpy as np
import plain_routing
from measure import rate
from speed import MESH, home_problem

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.domain.problem import Problem
from optimizer.routing import policies
from optimizer.routing.capacity import Coactivation
from optimizer.routing.context import RoutingContext
from optimizer.routing.least_peak import Graph, graph, least_peak, scratch_for
from optimizer.routing.optimal import optimal
from optimizer.search.seeds.greedy import greedy
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.simulator import Simulation, simulate
from optimizer.traces.batches import Batches, Sets
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import TraceInput, open_source

FEW = 16  # batches for the general solvers, which are slow
LAYER = 12


def context_of(problem: Problem, tile: int) -> RoutingContext:
    """The greedy placement in the form that policies read; tile: the tokens of a unit of load."""
    return RoutingContext.of(
        greedy(problem), problem.model, Network.of(MESH, problem.cost.preset.network), tile, 16, None
    )


@kernel
def peaks(units: Ints, replicas: Graph, devices: int) -> Ints:
    """The least peak device load of each batch, `[batch]`, for units `[batch, expert]`."""
    found = np.empty(len(units), dtype=np.int64)
    flow, load = np.zeros(len(replicas.device_of), dtype=np.int64), np.zeros(devices, dtype=np.int64)
    scratch = scratch_for(devices)
    for batch in range(len(units)):
        found[batch] = least_peak(units[batch], replicas, flow, load, scratch)
    return found


def exact_peak(problem: Problem, test: Batches) -> None:
    """Print the microseconds per batch of finding the least peak, ours and those of general max-flow solvers.

    Raises AssertionError where they disagree.
    """
    context = context_of(problem, 1)
    replicas = graph(context.start, context.slot, MESH.devices, MESH.slots_per_device)
    load = test.load(problem.model.experts).astype(np.int64)
    print(f"{'least peak, us a batch':28}{'moeplan':>10}{'ortools':>10}{'scipy':>10}")
    for name, units in (("tokens", load), ("tiles", problem.cost.tiles(load))):
        ours = peaks(units, replicas, MESH.devices)
        took = [1e6 / rate(len(units), partial(peaks, units, replicas, MESH.devices))]
        for feasible in (plain_routing.ortools_feasible, plain_routing.scipy_feasible):
            theirs = partial(plain_routing.least_peaks, units[:FEW], replicas, MESH.devices, feasible)
            if theirs() != ours[:FEW].tolist():
                raise AssertionError("max-flow and path reversal disagree")
            took.append(1e6 / rate(FEW, theirs))
        print(f"{name:28}{took[0]:10.1f}{took[1]:10.0f}{took[2]:10.0f}")


def whole_policies(problem: Problem, test: Batches) -> None:
    """Print the million pairs per second that each policy routes: alone, and within a simulation with all figures."""
    print(f"\n{'policy, M pairs/s':28}{'routing':>10}{'simulated':>10}")
    for unit in ("tokens", "tiles"):
        context = context_of(problem, 32 if unit == "tiles" else 1)
        for name, policy in policies.POLICIES.items():
            if unit == "tiles" and name not in ("least-loaded", "optimal", "capacity-fill"):
                continue
            conditions = Conditions(name, "tiles" if unit == "tiles" else "tokens")
            work = test.experts.size / 1e6
            alone = rate(work, partial(policy, test.experts, test.source_row, context))
            whole = rate(work, partial(simulate, greedy(problem), test, problem.model, MESH, problem.cost, conditions))
            print(f"{name + ' (' + unit + ')':28}{alone:10.1f}{whole:10.1f}")


def ten_thousand(problem: Problem) -> None:
    """Print the time of simulating all policies in one pass over 10,000 batches, which are drawn on the way."""
    source = open_source(TraceInput(), [LAYER], ModelChoice(), MESH, lambda share: None)
    started = time.perf_counter()
    simulations = [
        Simulation(greedy(problem), problem.model, MESH, problem.cost, Conditions(name)) for name in policies.POLICIES
    ]
    for chunk in source.stream(LAYER, True, 10_000):
        for simulation in simulations:
            simulation.feed(chunk)
    reports = [simulation.report() for simulation in simulations]
    print(f"\n10,000 batches x {len(reports)} policies: {time.perf_counter() - started:.1f} s")


def hops_above_fewest(problem: Problem, test: Batches) -> None:
    """Print how many hops `optimal` takes above a min-cost flow with the same peak, and the time of that flow."""
    context = context_of(problem, 1)
    replicas = graph(context.start, context.slot, MESH.devices, MESH.slots_per_device)
    few = test.part(0, FEW)
    chosen = optimal(few.experts, few.source_row, context)
    load = few.load(problem.model.experts).astype(np.int64)
    peak = peaks(load, replicas, MESH.devices)
    ours = context.distance[few.source_row[..., None], context.device_of[chosen]].sum(axis=(1, 2))
    started = time.perf_counter()
    fewest = [
        plain_routing.fewest_hops(pair_counts(few, batch, problem.model), replicas, context.distance, int(peak[batch]))
        for batch in range(FEW)
    ]
    took = (time.perf_counter() - started) / FEW
    above = ours / np.array(fewest) - 1
    print(f"\nhops of optimal above the fewest at its peak: mean {above.mean():.2%}, worst {above.max():.2%}; "
          f"min-cost flow takes {took * 1e3:.1f} ms a batch")  # fmt: skip


def pair_counts(batches: Batches, batch: int, model: Model) -> Ints:
    """The number of pairs of one batch by expert and source row, `[expert, row]`."""
    count = np.zeros((model.experts, MESH.rows), dtype=np.int64)
    np.add.at(count, (batches.experts[batch], batches.source_row[batch][:, None]), 1)
    return count


def margins(problem: Problem, sets: Sets) -> None:
    """Print the mean latency of `least-loaded` on selection batches by its margin."""
    print("\nleast-loaded, mean latency by margin, us")
    for unit, tried in (("tokens", (0, 1, 2, 4, 8, 16)), ("tiles", (0, 1, 2, 3))):
        found = []
        for margin in tried:
            policies.MARGINS = {True: margin, False: margin}
            conditions = Conditions("least-loaded", "tiles" if unit == "tiles" else "tokens")
            report = simulate(greedy(problem), sets.selection, problem.model, MESH, problem.cost, conditions)
            found.append(f"{margin}: {report.latency_us.mean():.1f}")
        print(f"{unit}: {', '.join(found)}")


def next_experts(problem: Problem) -> None:
    """Print how often the estimated next expert is the recorded one, and how often one of the recorded next eight."""
    source = open_source(TraceInput(extras=True), [LAYER], ModelChoice(), MESH, lambda share: None)
    sets, model = source.sets(LAYER), problem.model
    guess = Coactivation.of(sets.train, model)
    few = sets.test.part(0, FEW)
    assert few.candidates is not None
    chosen = few.experts[..., : model.top_k].reshape(-1, model.top_k).astype(int)
    recorded = few.candidates[..., model.top_k :].reshape(len(chosen), -1)
    score: Floats = guess.log_share + guess.log_lift[chosen].sum(axis=1)
    np.put_along_axis(score, chosen, -np.inf, axis=1)
    best = score.argmax(axis=1)
    first, any_of_8 = (recorded[:, 0] == best).mean(), (recorded[:, :8] == best[:, None]).any(axis=1).mean()
    chance = 1 / (model.routed_experts - model.top_k)
    print(f"\nestimated next expert: the recorded one for {first:.1%} of tokens (by chance {chance:.1%}), "
          f"among the recorded next eight for {any_of_8:.1%}")  # fmt: skip


if __name__ == "__main__":
    problem, sets = home_problem()
    exact_peak(problem, sets.test)
    whole_policies(problem, sets.test)
    ten_thousand(problem)
    hops_above_fewest(problem, sets.test)
    next_experts(problem)
    margins(problem, sets)
