"""The tables and sentences of `simulate` and `sweep`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from optimizer.report.tables import Part, make_table
from optimizer.simulation.report import FIGURES, SimulationReport
from optimizer.statistics.loads import FIVE, five_figures


def parts(reports: Sequence[SimulationReport], layer: int) -> list[Part]:
    """For one policy its table with sentences about it, for several policies one table with them side by side."""
    if len(reports) > 1:
        return [side_by_side(reports, layer)]
    return [one_policy(reports[0], layer), *lines(reports[0])]


LABELS = {  # what a table calls each figure of a batch, by the name of the figure in a `SimulationReport`
    "latency_us": "latency, us",
    "routing_us": "routing, us",
    "dispatch_us": "dispatch, us",
    "compute_us": "compute, us",
    "combine_us": "combine, us",
    "imbalance": "imbalance (peak / mean device load)",
    "tiles": "tiles on the fullest device",
    "active": "experts that a device works on, at most",
    "hops": "hops per token",
}
PER_TOKEN = {  # what a table calls each figure of a token, by its name in `SimulationReport.per_token`
    "copies": "devices that serve a token",
    "moved": "of these not where it is",
    "rows": "mesh rows that they lie in",
    "cols": "mesh columns",
}


def one_policy(report: SimulationReport, layer: int) -> Table:
    """A table of mean, p50, p95, p99 and maximum of every figure over batches, with the 95 % intervals of mean and p99;
    figures per token have no intervals."""
    table = make_table(_title(report, layer), "per batch", [*FIVE, "95 % of mean", "95 % of p99"])
    intervals = report.confidence()
    for name in FIGURES:
        figures = five_figures(getattr(report, name))
        spans = (_span(intervals[name][key]) for key in ("mean", "p99"))
        table.add_row(LABELS[name], *(_number(figures[key]) for key in FIVE), *spans)
    for name, label in PER_TOKEN.items():
        figures = five_figures(report.per_token(name))
        table.add_row(label, *(_number(figures[key]) for key in FIVE), "", "")
    return table


def side_by_side(reports: Sequence[SimulationReport], layer: int) -> Table:
    """A table of one layer with one row per policy, times in microseconds; the policy with the least p99 latency is
    bold."""
    columns = [
        "p50, us",
        "p99, us",
        "95 % of p99",
        "price",
        "dispatch",
        "compute",
        "combine",
        "imbalance p99",
        "tiles",
        "hops",
    ]
    first = reports[0]
    title = f"Layer {layer}: {_batches(first)}, {model_line(first)}; p50 and p99 of latency, else means"
    table = make_table(title, "routing", columns)
    table.columns[0].no_wrap = True  # else a table that is too wide cuts the policies' names, which tell rows apart
    best = min(reports, key=lambda report: float(np.percentile(report.latency_us, 99)))
    for report in reports:
        table.add_row(*_policy_cells(report), style="bold" if report is best else None)
    return table


def _policy_cells(report: SimulationReport) -> list[str]:
    """The cells of one policy's row in the table of policies."""
    p50, p99 = np.percentile(report.latency_us, [50, 99])
    means = [
        f"{getattr(report, name).mean():.1f}" for name in ("routing_us", "dispatch_us", "compute_us", "combine_us")
    ]
    return [
        report.routing,
        f"{p50:.1f}",
        f"{p99:.1f}",
        _span(report.confidence()["latency_us"]["p99"]),
        *means,
        f"{np.percentile(report.imbalance, 99):.3f}",
        f"{report.tiles.mean():.2f}",
        f"{report.hops.mean():.2f}",
    ]


def sweep_table(reports: Sequence[SimulationReport], layer: int) -> Table:
    """A table of one layer with one row per capacity factor: latency in microseconds, and the shares of pairs that are
    rerouted, dropped and served over capacity."""
    first = reports[0]
    columns = [
        "pairs per replica",
        "latency p50",
        "p99, us",
        "rerouted",
        "gate weight kept",
        "dropped",
        "over capacity",
    ]
    title = f"Layer {layer}: {_batches(first)}, routing {first.routing}, {model_line(first)}; {estimates(first)}"
    table = make_table(title, "capacity factor", columns)
    for report in reports:
        assert report.rerouting is not None  # every sweep sets a capacity
        found = report.rerouting
        p50, p99 = np.percentile(report.latency_us, [50, 99])
        shares = [found.share(found.rerouted), float(found.kept.mean()), found.share(found.dropped)]
        cells = [f"{share:.2%}" for share in (*shares, found.share(found.over))]
        table.add_row(f"{found.capacity_factor:g}", str(found.capacity), f"{p50:.1f}", f"{p99:.1f}", *cells)
    return table


def lines(report: SimulationReport) -> list[str]:
    """Sentences that say which part of the latency counts how much, which devices, experts and links were critical,
    what a capacity did to the pairs, and how long work waited for devices."""
    shares = ", ".join(f"{name} {share:.0%}" for name, share in report.shares().items())
    found = [
        f"Of the latency: {shares}. {report.batches} batches; neighbours share requests, which the intervals heed."
    ]
    for name, entries in report.often().items():
        if entries:
            said = ", ".join(f"{entry.get('name', entry['id'])} ({entry['share']:.0%})" for entry in entries)
            found.append(f"Critical {name.replace('_', ' ')}, oftenest first: {said}.")
    return found + _rerouting_lines(report) + _queue_lines(report)


def _rerouting_lines(report: SimulationReport) -> list[str]:
    """A sentence that says what the capacity did to the pairs; none where there was no capacity."""
    found = report.rerouting
    if found is None:
        return []
    return [
        f"At most {found.capacity} pairs per replica (capacity factor {found.capacity_factor:g}): "
        f"{found.share(found.moved):.2%} of pairs went to another replica, {found.share(found.rerouted):.2%} to "
        f"another expert, {found.share(found.dropped):.2%} were dropped, {found.share(found.over):.2%} served "
        f"over capacity; {float(found.kept.mean()):.2%} of the gate weight kept. {estimates(report).capitalize()}."
    ]


def _queue_lines(report: SimulationReport) -> list[str]:
    """A sentence that says how long devices worked and how long work waited for them; none where timing was not
    "overlap"."""
    if report.queues is None:
        return []
    waiting, busy, idle = report.queues.waiting_us, report.queues.busy_us, report.queues.idle_us
    longest = int(waiting.argmax())
    return [
        f"Devices are busy for {busy.mean():.1f} us of a batch on average and idle for {idle.mean():.1f}; work waits "
        f"longest on device {longest}: {waiting[longest]:.1f} us summed over its jobs (mean {waiting.mean():.1f})."
    ]


def estimates(report: SimulationReport) -> str:
    """A phrase that says whether next experts and gate weights are recorded or estimated, for a report that has a
    capacity."""
    found = report.rerouting
    assert found is not None
    experts = "estimated from co-activation" if found.next_estimated else "as recorded"
    weights = "estimated by rank" if found.weights_estimated else "as recorded"
    return f"next experts {experts}, gate weights {weights}"


def _title(report: SimulationReport, layer: int) -> str:
    return f"Layer {layer}: {_batches(report)}, routing {report.routing}, {model_line(report)}"


def _batches(report: SimulationReport) -> str:
    return f"{report.batches} batches of {report.tokens} tokens"


def model_line(report: SimulationReport) -> str:
    """A phrase that names the unit of loads, the dispatch model, the MoE op and the timing by which the figures were
    made."""
    return f"loads in {report.unit}, {report.dispatch_model} dispatch, {report.moe_op} op, {report.timing}"


def _number(value: float) -> str:
    """The text of a figure: three decimals below 100, one decimal from 100 on."""
    return f"{value:.3f}" if value < 100 else f"{value:.1f}"


def _span(interval: tuple[float, float]) -> str:
    """The text of an interval, with fewer decimals the larger its upper end is."""
    digits = 2 if interval[1] < 100 else 1 if interval[1] < 1000 else 0
    return f"{interval[0]:.{digits}f}..{interval[1]:.{digits}f}"


def as_json(reports: Sequence[SimulationReport]) -> dict[str, Any]:
    """The summary of one policy, or of several policies by their names, in the stable JSON form; each summary has its
    95 % intervals and the traffic of the links."""
    full = {
        report.routing: report.summary() | {"confidence": report.confidence(), "links": report.links()}
        for report in reports
    }
    return full[reports[0].routing] if len(full) == 1 else {"policies": full}
