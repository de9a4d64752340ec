"""The tables of `experiment`: the ladder of each data set, and one table of all methods, policies and capacities."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from statistics import fmean
from typing import Any

from rich.table import Table

from optimizer.experiments.optimisation_steps.ladder import Rung, in_order, ladder
from optimizer.experiments.optimisation_steps.runs import FACTORS, OPTIMAL, OPTIMIZED, POLICIES, SEARCH
from optimizer.experiments.optimisation_steps.step_row import StepRow
from optimizer.planning.bounds import STAGES
from optimizer.report.tables import Part, make_table

KEYS = ("setting", "experts", "slots", "moe_op", "method", "policy", "capacity_factor")
"""The columns of a `StepRow` by which runs are grouped into the lines of the summary."""

FIGURES = ("imbalance_p50", "imbalance_p99", "tiles", "latency_us", "latency_p50_us", "latency_p99_us", "bound_us",
           "gap", "rerouted", "over_capacity", "gate_weight_kept", "seconds")  # fmt: skip
"""The columns of a `StepRow` whose means are in the summary; names that end in `_us` are in microseconds."""


@dataclass(frozen=True)
class Line:
    """The mean over all data sets and layers of the runs with one setting, MoE op, method, policy and capacity factor.

    key: the value of each of `KEYS`. runs: how many runs there are. mean: the mean of each of `FIGURES`, None where no
    run has the figure.
    """

    key: dict[str, Any]
    runs: int
    mean: dict[str, float | None]

    @property
    def shown(self) -> bool:
        """Whether the line is in the table: every line without a capacity is, and of the lines with a capacity those of
        the search whose factor is one that every plan was judged with."""
        factor = self.key["capacity_factor"]
        return factor is None or (self.key["method"] == SEARCH and factor in FACTORS)

    def as_json(self) -> dict[str, Any]:
        """The line in its stable JSON form: its key, the number of its runs and its means."""
        return self.key | {"runs": self.runs} | self.mean


def summary(rows: Sequence[StepRow]) -> list[Line]:
    """The lines of the summary, in the order in which their keys first appear in the rows."""
    groups: dict[tuple[Any, ...], list[StepRow]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, key) for key in KEYS), []).append(row)
    return [
        Line(dict(zip(KEYS, key, strict=True)), len(of), {name: _mean(of, name) for name in FIGURES})
        for key, of in groups.items()
    ]


def by_dataset(rows: Sequence[StepRow]) -> list[tuple[str, list[StepRow]]]:
    """The rows of each data set, under its name."""
    return [(name, list(of_set)) for name, of_set in groupby(rows, key=lambda row: row.dataset)]


def verdicts(rows: Sequence[StepRow]) -> list[str]:
    """For each data set, from where to where the steps lead, and which of them wins most, in words."""
    return [_verdict(name, ladder(found)) for name, found in by_dataset(rows)]


def _verdict(name: str, rungs: Sequence[Rung]) -> str:
    steps = [rung for rung in rungs if not rung.bound]
    reached, gains = min(steps, key=lambda rung: rung.p99), [(rung.to_last or 0.0, rung.says) for rung in steps]
    most, wins = min(gains)
    return (
        f"{name}: from {steps[0].p99:,.1f} us to {reached.p99:,.1f} us in p99, reached by '{reached.says}'. The step "
        f"that wins most is '{wins}', {-most:.1%} of what was there before it."
    )


def parts(rows: Sequence[StepRow]) -> list[Part]:
    """The verdicts, the ladder of each data set with its sentences, and then the summary of all data sets."""
    shown: list[Part] = [*verdicts(rows)]
    for name, found in by_dataset(rows):
        shown += [ladder_table(name, found, ladder(found)), *sentences(found)]
    return [*shown, summary_table(summary(rows))]


def ladder_table(name: str, rows: Sequence[StepRow], rungs: Sequence[Rung]) -> Table:
    """The table of one data set's ladder: one row per rung, with latencies in microseconds."""
    layers = sorted({row.layer for row in rows})
    where = f"layer {layers[0]}" if len(layers) == 1 else f"mean of {len(layers)} layers"
    title = f"{name}, {where}: latency on {rows[0].batches} test batches of {rows[0].tokens} tokens after each step"
    table = Table(title=title)
    table.add_column("step")
    table.add_column("chosen (layers)" if len(layers) > 1 else "chosen")
    for column in ("p50, us", "p99, us", "p99 to last"):
        table.add_column(column, justify="right")
    table.add_column("")
    for rung in rungs:
        to_last = "" if rung.to_last is None else f"{rung.to_last:+.1%}"
        table.add_row(rung.says, _chosen(rung, len(layers)), f"{rung.p50:.1f}", f"{rung.p99:.1f}", to_last, note(rung))
    return table


def note(rung: Rung) -> str:
    """The remark in the last cell of a rung's row: whether the step lowers p99, and how much of the pairs it reroutes;
    for the bound, what its distance is measured from."""
    if rung.bound:
        return "to the best without capacity"
    said = [] if rung.helps else ["does not lower p99"]
    if rung.rerouted is not None and rung.kept is not None:
        said.append(f"{rung.rerouted:.2%} rerouted, {rung.kept:.2%} of gate weight kept")
    return "; ".join(said)


def sentences(rows: Sequence[StepRow]) -> Iterator[str]:
    """Sentences below a data set's ladder: for which plans the bound holds, and what shared experts cost, which the
    steps that place routed experts alone leave out."""
    rungs = ladder(rows)
    if any(rung.bound for rung in rungs):
        yield f"The bound holds for every plan of all experts that reroutes nothing: {STAGES}."
    begin = [in_order(list(of_layer)) for _, of_layer in groupby(rows, key=lambda row: row.layer)]
    p50, p99 = (fmean(getattr(row, f"latency_{name}_us") for row in begin) for name in ("p50", "p99"))
    experts, fewest = begin[0].experts, min(row.experts for row in rows)
    if experts > fewest:
        yield (
            f"Steps with {fewest} experts leave out what shared experts cost: all {experts} in order in "
            f"{begin[0].slots} slots, evenly routed, take {p50:.1f} us at p50 and {p99:.1f} at p99."
        )


def summary_table(lines: Sequence[Line]) -> Table:
    """The table of all data sets: a row for each plan and capacity factor under the name of its setting, with the
    routing policies side by side."""
    title = "Latency in us, p50 / p99, mean of all data sets and layers; gap, rerouted and kept with optimal routing"
    table = make_table(title, "method", ["capacity", *POLICIES, "gap", "rerouted", "kept"])
    before = ""
    for (where, method, capacity), of_plan in _side_by_side(lines).items():
        if where != before:
            table.add_section()
            table.add_row(where, style="bold")
        last = of_plan.get(OPTIMAL)
        shares = [_share(last, name) for name in ("gap", "rerouted", "gate_weight_kept")]
        table.add_row(method, capacity, *(_latency(of_plan.get(policy)) for policy in POLICIES), *shares)
        before = where
    return table


def _side_by_side(lines: Sequence[Line]) -> dict[tuple[str, str, str], dict[str, Line]]:
    """The lines that the table shows: by setting, method and capacity factor as the table prints them, and then by
    policy."""
    plans: dict[tuple[str, str, str], dict[str, Line]] = {}
    for line in lines:
        key = line.key
        if line.shown:
            method = key["method"] if key["moe_op"] == OPTIMIZED else f"{key['moe_op']} op"
            factor = "-" if key["capacity_factor"] is None else f"{key['capacity_factor']:g}"
            name = f"{key['experts']} in {key['slots']} slots", method, factor
            plans.setdefault(name, {})[key["policy"]] = line
    return plans


def _latency(line: Line | None) -> str:
    """The text of a line's p50 and p99 latency in microseconds, or a dash where there is no line."""
    return "-" if line is None else " / ".join(f"{line.mean[f'latency_{name}_us']:.1f}" for name in ("p50", "p99"))


def _share(line: Line | None, name: str) -> str:
    """The text of a line's share in per cent, or a dash where it is not known."""
    value = None if line is None else line.mean[name]
    return "-" if value is None else f"{value:.2%}"


def as_json(rows: Sequence[StepRow]) -> dict[str, Any]:
    """The ladder of each data set and all lines of the summary, in their stable JSON form."""
    ladders = {
        name: [asdict(rung) | {"helps": rung.helps} for rung in ladder(list(of_set))]
        for name, of_set in groupby(rows, key=lambda row: row.dataset)
    }
    return {"ladders": ladders, "summary": [line.as_json() for line in summary(rows)]}


def _chosen(rung: Rung, layers: int) -> str:
    """What the step of a rung chose; where there are several layers, each choice with the number of layers that made
    it."""
    if layers == 1:
        return "".join(rung.chosen)
    return "; ".join(f"{name} ({number})" for name, number in rung.chosen.items())


def _mean(rows: Sequence[StepRow], name: str) -> float | None:
    """The mean of a figure over the rows that have it, None where no row has it."""
    known = [value for row in rows if (value := getattr(row, name)) is not None]
    return fmean(known) if known else None
