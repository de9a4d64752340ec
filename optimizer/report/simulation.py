"""The tables and sentences of `simulate` and `sweep`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from optimizer.report.figure_names import name_of
from optimizer.report.tables import Part, make_table
from optimizer.simulation.report import FIGURES, PER_TOKEN, STAGES, SimulationReport
from optimizer.statistics.loads import FIVE, five_figures


def parts(reports: Sequence[SimulationReport], layer: int) -> list[Part]:
    """For one policy its table with sentences about it, for several policies one table with them side by side."""
    if len(reports) > 1:
        return [side_by_side(reports, layer)]
    return [one_policy(reports[0], layer), *lines(reports[0])]


def one_policy(report: SimulationReport, layer: int) -> Table:
    """A table of mean, p50, p95, p99 and maximum of every figure over batches, with the 95 % intervals of mean and p99;
    figures per token have no intervals."""
    table = make_table(_title(report, layer), "per batch", [*FIVE, "95 % of mean", "95 % of p99"])
    intervals = report.confidence()
    for name in (name for name in FIGURES if name != "tiles" or _in_tiles(report)):
        figures = five_figures(getattr(report, name))
        spans = (_span(intervals[name][key]) for key in ("mean", "p99"))
        table.add_row(name_of(name), *(_number(figures[key]) for key in FIVE), *spans)
    for name in PER_TOKEN:
        figures = five_figures(report.per_token(name))
        table.add_row(name_of(f"{name}_per_token"), *(_number(figures[key]) for key in FIVE), "", "")
    return table


def side_by_side(reports: Sequence[SimulationReport], layer: int) -> Table:
    """A table of one layer with one row per policy, times in microseconds; the policy with the least p99 latency is
    bold."""
    first = reports[0]
    tiles = _in_tiles(first)
    columns = ["latency p50", "p99", "95 % of p99", *STAGES, "imbalance p99", *["tiles"] * tiles, "hops"]
    title = (
        f"Layer {layer}: {_batches(first)}, {model_line(first)}; times in us, means where nothing else is said, hops "
        "per token"
    )
    table = make_table(title, "routing", columns)
    best = min(reports, key=lambda report: float(np.percentile(report.latency_us, 99)))
    for report in reports:
        table.add_row(*_policy_cells(report, tiles), style="bold" if report is best else None)
    return table


def _in_tiles(report: SimulationReport) -> bool:
    """Whether the hardware pays for whole tiles, of which a GPU has none: its tiles are the tokens of a device."""
    return bool((report.device_tiles != report.device_load).any())


def _policy_cells(report: SimulationReport, tiles: bool) -> list[str]:
    """The cells of one policy's row in the table of policies; tiles: whether there is a column of tiles."""
    p50, p99 = np.percentile(report.latency_us, [50, 99])
    means = [f"{getattr(report, f'{name}_us').mean():.1f}" for name in STAGES]
    return [
        report.routing,
        f"{p50:.1f}",
        f"{p99:.1f}",
        _span(report.confidence()["latency_us"]["p99"]),
        *means,
        f"{np.percentile(report.imbalance, 99):.3f}",
        *[f"{report.tiles.mean():.2f}"] * tiles,
        f"{report.hops.mean():.2f}",
    ]


def sweep_table(reports: Sequence[SimulationReport], layer: int) -> Table:
    """A table of one layer with one row per capacity factor: latency in microseconds, and the shares of pairs that are
    rerouted, dropped and served over capacity."""
    first = reports[0]
    columns = ["pairs per replica", "latency p50, us", "p99, us", "rerouted", "gate weight kept", "dropped",
               "over capacity"]  # fmt: skip
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
