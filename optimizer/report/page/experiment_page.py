"""The page of `experiment`: what each step of optimisation wins."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from optimizer.experiments.optimisation_steps.ladder import Rung, ladder
from optimizer.experiments.optimisation_steps.step_row import StepRow
from optimizer.report.experiment import ladder_table, sentences, summary, summary_table
from optimizer.report.page.from_tables import items_of
from optimizer.report.page.parts import ALL_LAYERS, Picture, Section, View, rounded
from optimizer.report.page.skeleton import page
from optimizer.report.page.theme import COLOURS, PLAN_COLOUR
from optimizer.report.page.words import percent, us


def experiment_page(rows: Sequence[StepRow]) -> str:
    """A page with the ladder of each data set as a picture and a table, and the table of all runs."""
    verdict = [_verdict(name, ladder(found)) for name, found in _sets(rows)]
    return page("moeplan: what each step of optimisation wins", verdict, experiment_sections(rows))


def experiment_sections(rows: Sequence[StepRow]) -> list[Section]:
    """The sections of the page: one for each data set, and all runs."""
    sections = []
    for place, (name, found) in enumerate(_sets(rows)):
        rungs = ladder(found)
        parts = items_of([ladder_table(name, found, rungs), *sentences(found)], f"ladder-{place}")
        picture = ladder_picture(f"steps-{place}", name, found, rungs)
        sections.append(Section(f"data-{place}", f"Data set {name}", [picture, *parts]))
    sections.append(Section("all", "All runs", items_of([summary_table(summary(rows))], "summary")))
    return sections


def _sets(rows: Sequence[StepRow]) -> list[tuple[str, list[StepRow]]]:
    """The rows of each data set, under its name."""
    return [(name, list(of_set)) for name, of_set in groupby(rows, key=lambda row: row.dataset)]


def _verdict(name: str, rungs: Sequence[Rung]) -> str:
    """From where to where the steps lead, and which of them wins most, in words."""
    steps = [rung for rung in rungs if not rung.bound]
    gains = [rung for rung in steps if rung.to_last is not None]
    best = min(gains, key=lambda rung: rung.to_last or 0.0)
    return (
        f"{name}: from {us(steps[0].p99)} us to {us(steps[-1].p99)} us in p99. The step that wins most is "
        f"'{best.says}', {percent(abs(best.to_last or 0.0))} of what was there before it."
    )


def ladder_picture(place: str, name: str, rows: Sequence[StepRow], rungs: Sequence[Rung]) -> Picture:
    """The p50 and p99 after each step; the bound comes last."""
    says = [rung.says for rung in rungs]
    figures = {"p50": [rung.p50 for rung in rungs], "p99": [rung.p99 for rung in rungs]}
    said = "; ".join(f"{rung.says} {us(rung.p99)}" for rung in rungs)
    return Picture(
        name=place,
        title=f"Latency after each step on {name}, us",
        reads=f"Each step begins with what the one above it has won; the bound holds for plans that reroute nothing. "
        f"On {rows[0].batches:,} test batches of {rows[0].tokens} tokens.",
        traces=[
            {
                "type": "bar",
                "orientation": "h",
                "name": statistic,
                "marker": {"color": colour},
                "hovertemplate": f"%{{y}}: {statistic} %{{x:,.1f}} us<extra></extra>",
            }
            for statistic, colour in (("p50", COLOURS[0]), ("p99", PLAN_COLOUR))
        ],
        layout={
            "xaxis": {"title": {"text": "latency of the layer, us"}},
            "yaxis": {"autorange": "reversed", "type": "category"},
        },
        views={
            ALL_LAYERS: View(
                [{"x": rounded(np.array(of), 6), "y": says} for of in figures.values()], f"p99, us: {said}."
            )
        },
        height=120 + 44 * len(rungs),
        wide=True,
    )
