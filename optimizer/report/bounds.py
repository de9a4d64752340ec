"""The tables of bounds: what `bound` prints, and the gaps to the bounds that `solve` prints."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from optimizer.planning.bound_traces import LayerBounds
from optimizer.planning.bounds import LATENCY, Bound, Gap
from optimizer.planning.certificates import Certificate
from optimizer.planning.explain_plan import ExplainedLayer
from optimizer.report.figure_names import name_of
from optimizer.report.tables import Part, make_table


def parts(found: LayerBounds) -> list[Part]:
    """The table of one layer's bounds, what forces the peaks of the plan if one was given, and a sentence that says
    under which condition the bounds hold."""
    title = f"Layer {found.layer}, {found.of}: no placement in these slots goes below"
    if found.certificates:
        title += ", and no routing of the plan below its own (this_placement)"
    condition = "All hold as long as every token is served by its own experts: none dropped, none rerouted."
    priced = "Latency is without what a policy takes to decide, which is to be added."
    timed = any(bound.unit == LATENCY for bound in found.bounds)
    said = f"{condition} {priced}" if timed else condition
    return [bound_table(title, found.bounds), *certified(found.certificates), said]


def certified(found: Sequence[Certificate]) -> list[str]:
    """A sentence for each certificate."""
    return [each.in_words() for each in found]


def explained(layers: Sequence[ExplainedLayer]) -> list[Part]:
    """For each layer of a plan what its best routing cannot go below, and what forces that."""
    shown: list[Part] = []
    for each in layers:
        tokens = [certificate for certificate in each.certificates if certificate.critical.unit == "tokens"]
        reach = ", ".join(f"{found.peak / found.mean:.3f} in the {found.which} batch" for found in tokens)
        shown.append(f"Layer {each.layer}, {each.of}: with the best routing of each, peak / mean load is {reach}.")
        shown += certified(each.certificates)
    return shown


def explained_json(layers: Sequence[ExplainedLayer]) -> dict[str, Any]:
    """The certificates of all layers in their stable JSON form."""
    return {
        str(each.layer): {"of": each.of, "certificates": [found.as_json() for found in each.certificates]}
        for each in layers
    }


def bound_table(title: str, bounds: Sequence[Bound]) -> Table:
    """A table with one row per bound on the mean, p50 and p99 over batches; a dash stands where only the mean is
    bounded."""
    table = make_table(title, "bound", ["mean", "p50", "p99"])
    table.add_column("of")
    table.add_column("because")
    for each in bounds:
        figures = (each.mean, each.p50, each.p99)
        cells = ("-" if figure is None else _figure(figure) for figure in figures)
        table.add_row(each.name, *cells, name_of(each.unit), each.says)
    return table


def gap_table(gaps: Sequence[Gap]) -> Table:
    """A table of how far a plan is above the bounds for its own placement and for any placement: one row per unit, with
    means over the test batches (or, for a plan on counts, over the test steps), and rows of p50 and p99 where these are
    bounded."""
    table = make_table("What the plan reaches, and what is proven to be out of reach", "mean, if not said", ["plan"])
    for column in ("its own best routing", "gap", "any placement", "gap"):
        table.add_column(column, justify="right")
    table.add_column("by the bound")
    for gap in gaps:
        own = "-" if gap.this_placement is None else _figure(gap.this_placement.mean)
        free = _figure(gap.any_placement.mean)
        cells = (_figure(gap.reached), own, _percent(gap.to_this), free, _percent(gap.to_any))
        table.add_row(name_of(gap.unit), *cells, gap.any_placement.name)
        for name, tail in gap.tails.items():
            cells = (_figure(tail.reached), "-", "-", _figure(tail.bound), _percent(tail.gap))
            table.add_row(name_of(gap.unit, name), *cells, gap.any_placement.name)
    return table


def _figure(value: float) -> str:
    """The text of a figure: three decimals below 100, one decimal from 100 on."""
    return f"{value:.3f}" if value < 100 else f"{value:.1f}"


def _percent(ratio: float | None) -> str:
    """The text of a ratio in per cent, or a dash for None."""
    return "-" if ratio is None else f"{ratio:.2%}"


def as_json(found: LayerBounds) -> dict[str, Any]:
    """The bounds of one layer in their stable JSON form; p50 and p99 are None where only the mean is bounded."""
    given = {"certificates": [each.as_json() for each in found.certificates]} if found.certificates else {}
    return {"layer": found.layer, "of": found.of, "bounds": [asdict(each) for each in found.bounds]} | given
