"""The tables of `stats`, one for each question about the traces, and their figures as JSON and as CSV files."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from formulations.kit.arrays import Floats
from optimizer.files import write_whole
from optimizer.report.tables import make_table
from optimizer.statistics.inspect_traces import Inspection
from optimizer.statistics.layer_report import LayerReport
from optimizer.statistics.loads import HOTTEST, LIFT_QUANTILES, five_figures

SHOWN = 12
"""How many experts, or pairs of experts, a table shows: those with the most tokens, as many as fit on a screen. Not
tuned; the CSV files have all."""

EXPERT_COLUMNS = ("mean", "std", "p95", "p99", "max", "burstiness")
"""The figures of an expert's load over batches that its row shows, by their names in `LayerFigures.load`."""


def tables(reports: Sequence[LayerReport]) -> list[Table]:
    """The tables of all layers together; where there is one layer only, the tables of its experts, of its pairs of
    experts and of its data sets as well."""
    found = [_uneven(reports), _bursty(reports)]
    if len(reports) == 1:
        report = reports[0]
        found.insert(0, _hot(report))
        if report.pairs is not None:
            found.append(_together(report))
        if len(report.datasets) > 1:
            found.append(_drift(report))
        if not np.isnan(report.over_time).all():
            found.append(_over_time(report))
    return found


def _hot(report: LayerReport) -> Table:
    """The table of the experts with the most pairs, in pairs per batch (or recorded step) and as shares of all
    pairs."""
    figures = report.figures
    assert figures.load is not None
    title = f"Which experts of layer {report.layer} are hot? Pairs per {report.unit}, {len(report.load)} of them"
    table = make_table(title, "expert", [*EXPERT_COLUMNS, "share"])
    for expert in np.argsort(-figures.counts, kind="stable")[:SHOWN]:
        cells = [_shown(getattr(figures.load, name)[expert]) for name in EXPERT_COLUMNS]
        table.add_row(str(expert), *cells, f"{figures.counts[expert] / figures.counts.sum():.2%}")
    return table


def _uneven(reports: Sequence[LayerReport]) -> Table:
    """The table of how unevenly the load lies on the experts: one row per layer."""
    columns = ["tokens", "hottest / mean", f"top {HOTTEST} share", "Gini", "imbalance p50", "p99"]
    table = make_table("How uneven is it? (imbalance: experts in order, no replicas)", "layer", columns)
    for report in reports:
        figures, imbalance = report.figures, five_figures(report.imbalance)
        values = (figures.hottest, figures.top_share, figures.gini, imbalance["p50"], imbalance["p99"])
        table.add_row(str(report.layer), f"{figures.tokens:,}", *map(_shown, values))
    return table


def _bursty(reports: Sequence[LayerReport]) -> Table:
    """The table of how much more the load varies than by chance, and how it differs between requests: one row per
    layer."""
    columns = ["batches", "requests", "in requests", "overlap", "by chance", "prompt vs output", "lift p50", "p99"]
    table = make_table("How bursty is it? (variance over chance, mean of experts)", "layer", columns)
    for report in reports:
        table.add_row(str(report.layer), *map(_shown, _burst_figures(report)))
    return table


def _burst_figures(report: LayerReport) -> tuple[float, ...]:
    """The figures of a layer's row in the table of bursts, in the order of its columns; nan where one is not known."""
    figures = report.figures
    load = figures.load.burstiness if figures.load is not None else np.array([np.nan])
    means = [_mean(values) for values in (load, figures.request_burstiness, figures.window_burstiness)]
    median, high = (figures.lift_quantiles[LIFT_QUANTILES.index(quantile)] for quantile in (0.5, 0.99))
    return (*means, figures.overlap, figures.chance_overlap, figures.phase_drift, float(median), float(high))


def _together(report: LayerReport) -> Table:
    """The table of the pairs of experts that the most tokens choose together."""
    assert report.pairs is not None
    assert report.lift is not None
    table = make_table("Which experts do tokens choose together?", "experts", ["tokens", "share of tokens", "lift"])
    one, other = np.triu_indices(len(report.pairs), 1)
    for place in np.argsort(-report.pairs[one, other], kind="stable")[:SHOWN]:
        x, y = one[place], other[place]
        share = report.pairs[x, y] / report.figures.tokens
        table.add_row(f"{x}, {y}", f"{report.pairs[x, y]:,}", f"{share:.2%}", _shown(report.lift[x, y]))
    return table


def _drift(report: LayerReport) -> Table:
    """The table of the total variation between every two data sets of one layer."""
    numbers = [str(number) for number in range(1, len(report.datasets) + 1)]
    table = make_table("How far apart are the data sets? (total variation)", "data set", numbers)
    for place, name in enumerate(report.datasets):
        table.add_row(f"{numbers[place]} {name}", *(_shown(value) for value in report.figures.dataset_drift[place]))
    return table


def _over_time(report: LayerReport) -> Table:
    """The table of how far the loads of one layer drift from the first to the last request of each data set."""
    title = "How far does traffic drift? (total variation between first and last tenth)"
    table = make_table(title, "data set", ["drift", "by chance"])
    for name, values in zip(report.datasets, report.over_time, strict=True):
        table.add_row(name, *map(_shown, values))
    return table


def as_json(found: Inspection) -> dict[str, Any]:
    """What was found in its stable JSON form; a figure that cannot be known is None."""
    return {
        "layers": {str(report.layer): _layer_json(report) for report in found.reports},
        "looks_wrong": [each.summary() for each in found.suspicions],
        "recorded": {str(each.layer): each.summary() for each in found.recorded},
    }


def _layer_json(report: LayerReport) -> dict[str, Any]:
    """The figures of one layer in their stable JSON form."""
    figures = report.figures
    return {
        "tokens": figures.tokens,
        "batches": len(report.load),
        "batch": report.unit,
        "gini": _known(figures.gini),
        f"top_{HOTTEST}_share": _known(figures.top_share),
        "hottest_over_mean": _known(figures.hottest),
        "sequential_imbalance": five_figures(report.imbalance),
        "overlap": _known(figures.overlap),
        "chance_overlap": _known(figures.chance_overlap),
        "lift_quantiles": {str(q): _known(v) for q, v in zip(LIFT_QUANTILES, figures.lift_quantiles, strict=True)},
        "prompt_vs_output": _known(figures.phase_drift),
        "datasets": list(report.datasets),
        "dataset_drift": [[_known(value) for value in row] for row in figures.dataset_drift],
        "drift_over_time": [
            {"first_to_last_tenth": _known(drift), "by_chance": _known(chance)} for drift, chance in report.over_time
        ],
        "experts": [dict(zip(_EXPERT_KEYS, row, strict=True)) for row in _expert_rows(report)],
    }


_EXPERT_KEYS = ("expert", "tokens", "share", *EXPERT_COLUMNS, "request_burstiness", "window_burstiness")


def _expert_rows(report: LayerReport) -> list[list[Any]]:
    """One row per expert of a layer, with the values that `_EXPERT_KEYS` names."""
    figures = report.figures
    assert figures.load is not None
    total = max(int(figures.counts.sum()), 1)
    columns = [getattr(figures.load, name) for name in EXPERT_COLUMNS]
    columns += [figures.request_burstiness, figures.window_burstiness]
    return [
        [expert, int(count), int(count) / total, *(_known(column[expert]) for column in columns)]
        for expert, count in enumerate(figures.counts)
    ]


def write_csv(folder: Path, reports: Sequence[LayerReport]) -> list[Path]:
    """Write layers.csv, experts.csv, pairs.csv (with lift and covariance), drift.csv and drift_over_time.csv into a
    folder, each whole or not at all, and give their paths. Raises OSError where a file cannot be written."""
    burst = ("burstiness", "request_burstiness", "window_burstiness", "overlap", "chance_overlap", "prompt_vs_output")
    head = ("layer", "tokens", "hottest_over_mean", f"top_{HOTTEST}_share", "gini", "imbalance_p50", "imbalance_p99")
    written = {
        "layers.csv": _text([(*head, *burst, "lift_p50", "lift_p99"), *map(_layer_row, reports)]),
        "experts.csv": _text(
            [("layer", *_EXPERT_KEYS), *([r.layer, *row] for r in reports for row in _expert_rows(r))]
        ),
        "pairs.csv": _text(
            [("layer", "expert", "other", "tokens", "lift", "covariance"), *(row for r in reports for row in _pairs(r))]
        ),
        "drift.csv": _text(
            [("layer", "dataset", "other", "total_variation"), *(row for r in reports for row in _drifts(r))]
        ),
        "drift_over_time.csv": _text(
            [
                ("layer", "dataset", "first_to_last_tenth", "by_chance"),
                *(
                    [r.layer, name, *map(_known, values)]
                    for r in reports
                    for name, values in zip(r.datasets, r.over_time, strict=True)
                ),
            ]
        ),
    }
    for name, text in written.items():
        write_whole(folder / name, text)
    return [folder / name for name in written]


def _layer_row(report: LayerReport) -> list[Any]:
    """The row of one layer in layers.csv."""
    figures, imbalance = report.figures, five_figures(report.imbalance)
    uneven = [figures.hottest, figures.top_share, figures.gini, imbalance["p50"], imbalance["p99"]]
    return [report.layer, figures.tokens, *(_known(value) for value in (*uneven, *_burst_figures(report)))]


def _pairs(report: LayerReport) -> Iterable[list[Any]]:
    """The rows of one layer in pairs.csv, one for every two experts; none where only counts are known."""
    if report.pairs is None or report.lift is None or report.figures.load is None:
        return
    covariance = report.figures.load.covariance
    for x, y in zip(*np.triu_indices(len(report.pairs), 1), strict=True):
        yield [report.layer, x, y, report.pairs[x, y], _known(report.lift[x, y]), covariance[x, y]]


def _drifts(report: LayerReport) -> Iterable[list[Any]]:
    """The rows of one layer in drift.csv, one for every two data sets in either order."""
    for one, row in zip(report.datasets, report.figures.dataset_drift, strict=True):
        for other, value in zip(report.datasets, row, strict=True):
            yield [report.layer, one, other, _known(value)]


def _text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows of cells as the text of a CSV file."""
    out = io.StringIO(newline="")
    csv.writer(out).writerows(rows)
    return out.getvalue()


def _mean(values: Floats) -> float:
    """The mean of the values that are known, nan where none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _known(value: float) -> float | None:
    """The value for JSON and CSV, with None for nan."""
    return None if math.isnan(value) else float(value)


def _shown(value: float) -> str:
    """The text of a value in a table, with a dash for nan."""
    return "-" if math.isnan(value) else f"{value:.2f}" if value < 1000 else f"{value:,.0f}"
