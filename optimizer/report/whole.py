"""The table of `solve` for a plan with several layers."""

from typing import Any

import numpy as np
from rich.table import Table

from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.report.tables import Part, make_table

EXPECTED = {"mean": "mean", "worst step": "max"}  # the columns of expected load, and their names in a plan file
STATISTICS = ("mean", "p50", "p99")
COLUMNS = ("imbalance p50", "p99", "latency p50, us", "p99, us", "tiles (mean)", "mean above bound")


def parts(plan: Plan) -> list[Part]:
    """One table of all layers: of latency on batches, or of the expected load where the plan was made on that alone."""
    counted = any("expected_imbalance" in part.quality for part in plan.layers.values())
    return [expected_table(plan) if counted else layers_table(plan)]


def expected_table(plan: Plan) -> Table:
    """A table with one row per layer and one for the mean over layers: peak / mean device load in expectation, as a
    mean over the steps that the plan is judged on and in the worst of them."""
    table = make_table(
        f"{len(plan.layers)} layers, imbalance of the expected load, even split", "layer", list(EXPECTED)
    )
    found = {layer: part.quality["expected_imbalance"] for layer, part in sorted(plan.layers.items())}
    for layer, quality in found.items():
        table.add_row(str(layer), *(f"{quality[name]:.4f}" for name in EXPECTED.values()))
    table.add_section()
    means = [np.mean([quality[name] for quality in found.values()]) for name in EXPECTED.values()]
    table.add_row("mean", *(f"{value:.4f}" for value in means), style="bold")
    return table


def layers_table(plan: Plan) -> Table:
    """A table with one row per layer, and a last row with the latency of all layers together, in microseconds."""
    table = make_table(_title(plan), "layer", COLUMNS)
    table.add_column("planned by")
    for layer, part in sorted(plan.layers.items()):
        table.add_row(str(layer), *_cells(part), part.provenance["method"])
    latency = total(plan)
    table.add_section()
    table.add_row("all", "", "", f"{latency['p50']:.1f}", f"{latency['p99']:.1f}", "", "", "", style="bold")
    return table


def total(plan: Plan) -> dict[str, float]:
    """The mean, p50 and p99 of the layers' latencies in microseconds, each summed over the layers."""
    parts = [part.quality["latency_us"] for part in plan.layers.values()]
    return {name: float(np.sum([latency[name] for latency in parts])) for name in STATISTICS}


def as_json(plan: Plan) -> dict[str, Any]:
    """The figures of all layers in their stable JSON form, and the sums of their latencies where every layer has
    one."""
    layers = {
        str(layer): {"method": part.provenance["method"], **part.quality, "bounds": part.bounds}
        for layer, part in sorted(plan.layers.items())
    }
    timed = all("latency_us" in part.quality for part in plan.layers.values())
    return {"routing": plan.policy, "layers": layers} | ({"total_latency_us": total(plan)} if timed else {})


def _title(plan: Plan) -> str:
    """The title of the table: how many layers, which routing policy, and on what the plan was judged."""
    made = next(iter(plan.layers.values())).provenance
    return (
        f"{len(plan.layers)} layers, routing {plan.policy}, on {made['test_batches']} test batches of "
        f"{made['batch_tokens']} tokens each"
    )


def _cells(part: LayerPlan) -> list[str]:
    """The figures of one layer's row, in the order of `COLUMNS`; a dash stands for a figure that the plan does not
    have."""
    quality, bound = part.quality, part.bounds.get("latency_us")
    tiles = quality.get("tiles", {}).get("mean")
    above = None if bound is None else bound["gap_to_any_placement"]
    return [
        *(f"{quality['imbalance'][name]:.3f}" for name in ("p50", "p99")),
        *(f"{quality['latency_us'][name]:.1f}" for name in ("p50", "p99")),
        "-" if tiles is None else f"{tiles:.2f}",
        "-" if above is None else f"{above:.2%}",
    ]
