"""The tables and sentences of `solve` for a layer that is planned on tokens."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.table import Table

from optimizer.planning.bounds import IMBALANCE
from optimizer.planning.plan_layer import LayerSolution, MethodResult
from optimizer.report.bounds import gap_table
from optimizer.report.tables import Part, make_table
from optimizer.report.verdict import Verdict
from optimizer.routing.policies import TILE_AWARE
from optimizer.simulation.report import Rerouting


def parts(solution: LayerSolution, layer: int) -> list[Part]:
    """The verdict, the table of methods, the gaps to the bounds, what chance leaves, what a capacity means where the
    plan has one, how seeds by exact models were made and what such models proved, and a sentence on what the
    formulation proved and how the search went."""
    shown: list[Part] = [Verdict.of(solution).sentence(), solution_table(solution, layer)]
    gaps = [gap for gap in solution.gaps if gap.unit != IMBALANCE or not balances_tiles(solution)]
    shown += [gap_table(gaps)] if gaps else []
    chance = solution.chance
    shown += [] if chance is None else [chance.in_words(solution.chosen.report.routing)]
    shown += break_even(solution.searched)
    rerouting = solution.chosen.report.rerouting
    shown += [] if rerouting is None else [rerouted(rerouting)]
    shown += [f"Seed {row.method}: {row.says}." for row in solution.rows if row.says]
    shown += solution.remarks
    return [*shown, proof(solution)]


def solution_table(solution: LayerSolution, layer: int) -> Table:
    """A table with one row per method, for the search one per routing policy, all judged on the test batches; latencies
    are in microseconds, and the row of the plan is bold. Columns that do not matter to the plan are left out: imbalance
    in tokens where its policy balances tiles, and tiles where compute does not count them."""
    report = solution.rows[0].report
    title = f"Layer {layer} on {len(report.hops)} test batches of {report.tokens} tokens"
    imbalance, tiles = not balances_tiles(solution), solution.unit == "tiles"
    columns = ["imbalance p50", "p99"] * imbalance + ["latency p50, us", "p99, us"] + ["tiles (mean)"] * tiles
    table = make_table(title, "method", [])
    table.add_column("routing")
    for column in (*columns, "planned in, s"):
        table.add_column(column, justify="right")
    for row in solution.rows:
        table.add_row(*_solution_cells(row, imbalance, tiles), style="bold" if row is solution.chosen else None)
    return table


def balances_tiles(solution: LayerSolution) -> bool:
    """Whether the plan's policy levels the tiles of devices, so that it does not matter how their tokens are spread."""
    report = solution.chosen.report
    return report.unit == "tiles" and report.routing in TILE_AWARE


def _solution_cells(row: MethodResult, imbalance: bool, tiles: bool) -> list[str]:
    """The cells of one method's row in the table of methods, with imbalance and tiles if these are wanted."""
    spread = np.percentile(row.report.imbalance, [50, 99]) if imbalance else ()
    latency = np.percentile(row.report.latency_us, [50, 99])
    return [
        row.method,
        row.report.routing,
        *(f"{value:.3f}" for value in spread),
        *(f"{value:.1f}" for value in latency),
        *([f"{row.report.tiles.mean():.2f}"] if tiles else []),
        f"{row.seconds:.3f}" if row.seconds < 1 else f"{row.seconds:.1f}",
    ]


def break_even(searched: Mapping[str, MethodResult]) -> list[str]:
    """A sentence for each policy that makes batches wait for its decision: how long they wait, and below which price
    the policy has the least p99 latency of all policies of which a plan was searched; none where one alone was."""
    if len(searched) < 2:
        return []
    p99 = {name: float(np.percentile(row.report.latency_us, 99)) for name, row in searched.items()}
    said = []
    for name, price in {name: row.report.price_us for name, row in searched.items()}.items():
        rival = min((other for other in p99 if other != name), key=lambda other: p99[other])
        worth = price + p99[rival] - p99[name]
        if price > 0:
            where = f"worth it here below {worth:.1f} us" if worth > 0 else "not worth it here at any price"
            said.append(f"{name} holds every batch up for {price:g} us, which its latency contains; {where}, in p99.")
    return said


def proof(solution: LayerSolution) -> str:
    """Sentences that say what the formulation proved, when the first complete plan was there, how many candidates were
    compared, and whether an interrupt has left out the bounds of the placement."""
    own_left_out = solution.gaps and all(gap.this_placement is None for gap in solution.gaps)
    return (
        f"{_formulated(solution)}. First complete plan after {solution.first_result:.1f} s; {solution.candidates} "
        "candidates compared." + (" Interrupted before the bounds of its own routing." if own_left_out else "")
    )


def _formulated(solution: LayerSolution) -> str:
    """A phrase that says what the formulation proved and how far its peak is from its bound, or that an interrupt came
    before it."""
    outcome = solution.outcome
    if outcome is None:
        return "Interrupted before the formulation"
    proved = f"Formulation of the expected load, {holds_for(solution)}: {outcome.status}"
    return proved if outcome.objective is None else f"{proved}, peak within {outcome.gap:.2%} of its bound"


def rerouted(what: Rerouting) -> str:
    """Sentences that say what the capacity of the plan means: how many pairs go to another expert, and how much gate
    weight is kept."""
    said = what.summary()
    return (
        f"Capacity factor {what.capacity_factor:g}: a replica takes {what.capacity} pairs; {said['rerouted']:.2%} of "
        f"all go to another expert ({said['next_expert']}), {said['gate_weight_kept']:.2%} of the gate weight is kept "
        f"({said['gate_weights']}). No bound is known where pairs are rerouted."
    )


def holds_for(solution: LayerSolution) -> str:
    """A phrase that says among which replica counts the formulation could choose, and so for which counts its bound
    holds."""
    return "any counts" if solution.free_counts else "greedy's counts"


def as_json(solution: LayerSolution) -> dict[str, Any]:
    """The figures of the tables as a dictionary in a stable JSON form: the verdict, one entry per method, the bounds,
    what the formulation proved (None where an early end came before it), and how the search went."""
    outcome = solution.outcome
    return {
        "verdict": Verdict.of(solution).as_json(),
        "rows": [{"method": row.method, "seconds": row.seconds, **row.report.summary()} for row in solution.rows],
        "bounds": {gap.unit: gap.summary() for gap in solution.gaps},
        "chance": None if solution.chance is None else asdict(solution.chance),
        "formulation": None
        if outcome is None
        else {
            "status": str(outcome.status),
            "expected_peak": outcome.objective,
            "lower_bound": outcome.lower_bound,
            "for": holds_for(solution),
        },
        "candidates": solution.candidates,
        "first_result_seconds": solution.first_result,
    }
