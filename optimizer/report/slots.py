"""The tables of `slots`: curves of all layers together, which layer gets how much of a budget, and both as CSV and
JSON."""

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from formulations.kit.arrays import Floats, Ints
from optimizer.planning.replica_curves import Figures, ReplicaCurve, SlotShares
from optimizer.report.tables import Part, make_table

ENOUGH = 1.01
"""A figure that is at most this many times its least value on the curve is as good as the least. One per cent is a
choice of ours and not tuned."""


def parts(curves: Sequence[ReplicaCurve], shares: SlotShares | None, routing: str, unit: str) -> list[Part]:
    """The table of the curves, a sentence on how many extra replicas are enough, and, where there is a budget, the
    tables of how it is shared out."""
    shown: list[Part] = [curves_table(curves, routing, unit), enough_said(curves)]
    return shown if shares is None else [*shown, shares_table(shares, unit), layers_table(shares)]


def curves_table(curves: Sequence[ReplicaCurve], routing: str, unit: str) -> Table:
    """A table with a row for each number of extra replicas: means over layers and test batches, and for several layers
    also the imbalance of the median and of the worst layer.

    routing is the policy's name, unit what the column of tiles counts; latencies are in microseconds.
    """
    layers = f"layer {curves[0].layer}" if len(curves) == 1 else f"each of {len(curves)} layers"
    batches = f"{curves[0].batches} test batches of {curves[0].tokens} tokens"
    several = len(curves) > 1
    columns = ["imbalance", *(["median layer", "worst layer"] if several else []), unit, "latency, us"]
    table = make_table(f"Extra replicas in {layers}: means over {batches}, {routing} routing", "extra", columns)
    imbalance, tiles, latency = over_layers(curves)
    for point, number in enumerate(curves[0].extra):
        spread = [np.median(imbalance[:, point]), imbalance[:, point].max()] if several else []
        cells = [f"{value:.3f}" for value in (imbalance[:, point].mean(), *spread)]
        cells += [f"{tiles[:, point].mean():.2f}", f"{latency[:, point].mean():.1f}"]
        table.add_row(str(number), *cells)
    return table


def over_layers(curves: Sequence[ReplicaCurve]) -> Figures:
    """The test figures of all layers, each as an array `[layer, point]`."""
    return Figures(*np.array([curve.test for curve in curves]).transpose(1, 0, 2))


def enough(curves: Sequence[ReplicaCurve]) -> dict[str, int]:
    """For each figure, the fewest extra replicas from which on its mean over layers stays within 1 % of its least
    value."""
    extra, found = curves[0].extra, {}
    for name, values in over_layers(curves)._asdict().items():
        found[name] = int(extra[_first_within(values.mean(axis=0))])
    return found


def _first_within(values: Floats) -> int:
    """The first place in values `[point]` from which on all values are at most `ENOUGH` times the least; the last place
    where even the last value is larger."""
    beyond = np.flatnonzero(values > ENOUGH * values.min())
    after = int(beyond[-1]) + 1 if len(beyond) else 0
    return min(after, len(values) - 1)  # the last value may be too large as well, as test figures need not fall


def enough_said(curves: Sequence[ReplicaCurve]) -> str:
    """A sentence that says from how many extra replicas on latency and imbalance stay within 1 % of their least
    values."""
    found = enough(curves)
    return (
        f"Within {ENOUGH - 1:.0%} of the least latency from {found['latency_us']} extra replicas a layer on, "
        f"of the least imbalance from {found['imbalance']} on."
    )


def shares_table(shares: SlotShares, unit: str) -> Table:
    """A table of what the budget wins where it is shared out equally and where it goes to the layers that it helps
    most: means over layers and test batches, latency in microseconds."""
    title = f"{shares.budget} extra replicas for {len(shares.curves)} layers: means over layers and test batches"
    table = make_table(title, "shared out", ["replicas", "imbalance", unit, "latency, us"])
    for name, places in (("equally", shares.equal), ("where they help most", shares.shared)):
        figures, used = shares.test(places), int(shares.curves[0].extra[places].sum())
        table.add_row(name, str(used), f"{figures.imbalance:.3f}", f"{figures.tiles:.2f}", f"{figures.latency_us:.1f}")
    return table


def layers_table(shares: SlotShares) -> Table:
    """A table that says, for each number of extra replicas, which layers get this number of the budget."""
    table = Table(title="Where they help most")
    table.add_column("extra", justify="right")
    table.add_column("layers")
    for number in sorted(set(shares.extra.values())):
        table.add_row(str(number), ranges([layer for layer, extra in shares.extra.items() if extra == number]))
    return table


def ranges(layers: Sequence[int]) -> str:
    """Layer ids as a text that `--layer` takes, such as "3-7, 9"."""
    parts: list[list[int]] = []
    for layer in sorted(layers):
        if parts and layer == parts[-1][-1] + 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def as_json(curves: Sequence[ReplicaCurve], shares: SlotShares | None, routing: str, unit: str) -> dict[str, Any]:
    """The curves of all layers on test batches and, where there is a budget, how it is shared out, in their stable JSON
    form."""
    found: dict[str, Any] = {
        "routing": routing,
        "tiles_unit": unit,
        "batches": curves[0].batches,
        "tokens": curves[0].tokens,
        "enough": enough(curves),
        "layers": {str(curve.layer): {"extra": curve.extra.tolist()} | _lists(curve.test) for curve in curves},
    }
    if shares is not None:
        found["budget"] = {
            "replicas": shares.budget,
            "equal": _means(shares, shares.equal),
            "shared": _means(shares, shares.shared),
            "extra": {str(layer): number for layer, number in shares.extra.items()},
        }
    return found


def _lists(figures: Figures) -> dict[str, list[float]]:
    """The figures of a curve as lists by their names, each with a number per point."""
    return {name: values.tolist() for name, values in figures._asdict().items()}


def _means(shares: SlotShares, places: Ints) -> dict[str, float]:
    """The extra replicas that are used where each layer stands at its point of places `[layer]`, and the means of the
    test figures over layers there."""
    used = int(shares.curves[0].extra[places].sum())
    return {"used": used} | {name: float(value) for name, value in shares.test(places)._asdict().items()}


def as_csv(curves: Sequence[ReplicaCurve], shares: SlotShares | None) -> str:
    """A CSV text with the test figures in a row for each layer and number of extra replicas.

    The column `shared` is 1 at the number that the layer gets of the budget and 0 at other numbers; without a budget it
    is empty.
    """
    out = io.StringIO(newline="")
    rows = csv.writer(out)
    rows.writerow(("layer", "extra", *Figures._fields, "shared"))
    for curve in curves:
        for point, number in enumerate(curve.extra.tolist()):
            chosen = "" if shares is None else int(number == shares.extra[curve.layer])
            rows.writerow((curve.layer, number, *(values[point] for values in curve.test), chosen))
    return out.getvalue()
