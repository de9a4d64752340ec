"""The tables of a plan for several data sets: every plan on every data set, and how far apart these
are."""

from collections.abc import Callable
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from formulations.kit.arrays import Floats
from optimizer.planning.choose_for_datasets import EXPECTED, FIGURES, Robustness
from optimizer.report.tables import Part, make_table
from optimizer.statistics.drift import Drift

WITHOUT = "chosen without it"
"""The label of the row in which each data set has the plan that was chosen without that data set."""

MOST_NAMED = 8
"""Up to this number of data sets, a row shows the name of its data set beside the number; with more, names no longer
fit beside the figures, and a reader finds them by their numbers in the table of drift."""

MANY_US = 10_000
"""The latency in microseconds from which on a table is in milliseconds: more digits would make the columns too wide."""


def parts(found: Robustness, drift: Drift) -> list[Part]:
    """The tables of drift between data sets, of latency and of regret of every plan on each data set, and a summary in
    sentences."""
    return [drift_table(drift), latency_table(found), regret_table(found), *lines(found)]


def drift_table(drift: Drift) -> Table:
    """A table of the total variation between every two data sets, as a mean over layers; on the diagonal stands that
    between a data set's own train and test requests, which differ by chance alone."""
    numbers = [str(number) for number in range(1, len(drift.names) + 1)]
    title = "How far apart are the data sets? (total variation, mean of layers; diagonal: own train and test requests)"
    table = make_table(title, "data set", numbers)
    values = drift.between.mean(axis=2)
    np.fill_diagonal(values, drift.within.mean(axis=1))
    for number, name, row in zip(numbers, drift.names, values, strict=True):
        table.add_row(f"{number} {escape(name)}", *(f"{value:.2f}" for value in row))
    return table


def latency_table(found: Robustness) -> Table:
    """A table of test latency with one row per plan, a column for each data set and one for the slowest data set; in
    milliseconds where any latency is at least `MANY_US`, otherwise in microseconds. Of counts it is expected imbalance
    instead."""
    layers, values = len(found.choices.pools.layers), on_test(found, found.measure.shown)
    if found.measure == EXPECTED:
        title = "How even is a plan on each data set? Expected peak / mean device load, even split"
        return _matrix(found, f"{title}{f', mean of {layers} layers' if layers > 1 else ''}", "worst", values, as_ratio)
    summed = f", summed over {layers} layers" if layers > 1 else ""
    unit = "ms" if values.max() >= MANY_US else "us"
    title = f"How fast is a plan on each data set? Test latency {found.measure.shown}, {unit}{summed}"
    return _matrix(found, title, "worst", values, _milliseconds if unit == "ms" else as_microseconds)


def regret_table(found: Robustness) -> Table:
    """A table of how much slower each data set is under each plan than under the plan made on that data set: one row
    per plan, in per cent of test latency."""
    shown = found.measure.shown
    latency, own = on_test(found, shown), found.own(shown)
    title = f"How much slower than under its own plan? Test latency {shown}"
    if found.measure == EXPECTED:
        title = "How much higher is the expected peak than under its own plan?"
    return _matrix(found, title, "most", latency / own - 1, _percent)


def _matrix(found: Robustness, title: str, last: str, values: Floats, shown: Callable[[float], str]) -> Table:
    """A table of values `[row, data set]`, one row for each plan; the last column has the largest value of each row,
    among the data sets that have a weight. shown: gives the text of a value."""
    numbers = [str(number) for number in range(1, len(found.datasets) + 1)]
    table = make_table(title, "plan made on", [*numbers, last])
    largest = values[:, found.choices.pools.weights > 0].max(axis=1)
    for place, (label, row) in enumerate(zip(labels(found), values, strict=True)):
        if place < len(numbers):
            label = f"{numbers[place]} {label}" if len(numbers) <= MOST_NAMED else numbers[place]
        style = "bold" if place == len(found.plans) - 1 else None
        table.add_row(escape(label), *map(shown, row), shown(largest[place]), style=style)
    return table


def labels(found: Robustness) -> list[str]:
    """The label of each row, which says on what its plan was made. Where data sets were left out of choosing, a last
    row shows each data set under the plan that was chosen without it."""
    plans = [*found.plans[:-1], f"{found.plans[-1]} ({found.choices.criterion})"]
    return [*plans, WITHOUT] if len(found.left_out) else plans


def on_test(found: Robustness, figure: str) -> Floats:
    """The test latency `[row, data set]` in microseconds for the rows that `_labels` names; figure is one of
    `FIGURES`."""
    rows = [found.of_figure(figure)]
    if len(found.left_out):
        rows.append(found.left_out[None, :, FIGURES.index(figure)])
    return np.concatenate(rows)


def as_microseconds(value: float) -> str:
    """The text of a latency in microseconds: at most five characters below `MANY_US`, so that a dozen data sets fit on
    a line."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def as_ratio(value: float) -> str:
    """The text of an imbalance."""
    return f"{value:.4f}"


def _milliseconds(value: float) -> str:
    """The text, in milliseconds, of a latency given in microseconds."""
    return f"{value / 1000:.2f}"


def _percent(share: float) -> str:
    """The text of a share in per cent with its sign: one decimal below ten per cent, none from there on."""
    return f"{share:+.1%}" if abs(share) < 0.0995 else f"{share:+.0%}"


def lines(found: Robustness) -> list[str]:
    """Sentences about the worst data set under each kind of plan, about data sets that were left out of planning, and
    about how much better than the chosen plan any other choice could be."""
    shown, counted = found.measure.shown, found.measure == EXPECTED
    worst, own = found.worst(shown), len(found.datasets)
    single = int(worst[:own].argmin())
    text, unit = (as_ratio, "") if counted else (as_microseconds, " us")
    said = [f"robust {text(worst[-1])}{unit}"]
    said += [f"made on the mix {text(worst[own])}"] if len(worst) > own + 1 else []
    said += [f"the best made on one data set {text(worst[single])} ({found.datasets[single]})"]
    outcome = found.choices.outcome
    assert outcome.objective is not None  # choosing always ends with an objective, as there is at least one candidate
    what = "Least even data set, expected imbalance" if counted else f"Slowest data set, {shown}"
    sentences = [f"{what}: {', '.join(said)}."]
    if len(found.left_out):
        loss = on_test(found, shown)[-1] / found.own(shown) - 1
        sentences.append(
            f"Left out of planning and choosing, a data set is {'less even' if counted else 'slower'} than under its "
            f"own plan by {loss.mean():.1%} on average and {loss.max():.1%} at most."
        )
    judged, gap = "steps" if counted else "batches", outcome.objective - outcome.lower_bound
    sentences.append(
        f"By {found.choices.criterion} on selection {judged} no choice among the candidates is better by more than "
        f"{text(gap) if counted else f'{gap:.1f}'}{unit}."
    )
    return sentences


def as_json(found: Robustness, drift: Drift) -> dict[str, Any]:
    """The latency and regret of all plans on all data sets, and the drift between data sets, in their stable JSON
    form."""
    return {"robustness": found.summary(), "drift": drift.summary()}
