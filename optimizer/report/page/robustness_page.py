"""The page of a plan for several data sets: every plan on every data set."""

from formulations.kit.arrays import Floats
from optimizer.planning.choose_for_datasets import EXPECTED, FIGURES, Robustness
from optimizer.report.page.from_tables import items_of
from optimizer.report.page.matrix import matrix_picture
from optimizer.report.page.parts import Picture, Section
from optimizer.report.page.skeleton import page
from optimizer.report.robustness import (
    as_microseconds,
    as_ratio,
    labels,
    latency_table,
    lines,
    on_test,
    regret_table,
)


def robustness_page(found: Robustness) -> str:
    """A page with a matrix of every plan on every data set: colours show how much slower a plan is than the data set's
    own plan, and numbers are test latencies in microseconds, or of counts expected imbalances; and both as tables."""
    tables = items_of([latency_table(found), regret_table(found)], "robust")
    sections = [Section("matrix-part", "Every plan on every data set", [matrix(found), *tables])]
    return page("moeplan: one plan for several data sets", lines(found), sections)


def matrix(found: Robustness) -> Picture:
    """The matrix of the page."""
    shown, counted = found.measure.shown, found.measure == EXPECTED
    latency, own = on_test(found, shown), found.own(shown)
    number, unit = (as_ratio, "x mean") if counted else (as_microseconds, "us")
    what = "expected imbalance of devices" if counted else f"test latency {shown}, us"
    return matrix_picture(
        title=f"Every plan on every data set: {what}",
        reads=f"Colours, and the second number: % {'higher' if counted else 'slower'} than the data set's own plan. "
        f"All on test {'steps' if counted else 'batches'}.",
        says=lines(found)[0],
        rows=labels(found),
        columns=found.datasets,
        percent=100 * (latency / own - 1),
        texts=[[number(value) for value in row] for row in latency],
        hover=_hover(found, ".4f" if counted else ",.1f", unit),
        labels=("made on", "judged on"),
    )


def _hover(found: Robustness, decimals: str, unit: str) -> list[list[str]]:
    """What pointing at a cell tells: all figures of the plan on the data set."""
    values: dict[str, Floats] = {name: on_test(found, name) for name in FIGURES}
    return [
        [
            f"made on {label}, on {dataset}: "
            + ", ".join(f"{name} {of[row, column]:{decimals}}" for name, of in values.items())
            + f" {unit}"
            for column, dataset in enumerate(found.datasets)
        ]
        for row, label in enumerate(labels(found))
    ]
