"""The page of `experiment`: what each step of optimisation wins."""

from collections.abc import Sequence

import numpy as np

from optimizer.experiments.optimisation_steps.ladder import Rung, ladder
from optimizer.experiments.optimisation_steps.step_row import StepRow
from optimizer.report.experiment import by_dataset, ladder_table, sentences, summary, summary_table, verdicts
from optimizer.report.page.from_tables import items_of
from optimizer.report.page.parts import ALL_LAYERS, Picture, Section, View, rounded
from optimizer.report.page.skeleton import page
from optimizer.report.page.theme import COLOURS, PLAN_COLOUR
from optimizer.report.page.words import us


def experiment_page(rows: Sequence[StepRow]) -> str:
    """A page with the ladder of each data set as a picture and a table, and the table of all runs."""
    return page("moeplan: what each step of optimisation wins", verdicts(rows), experiment_sections(rows))


def experiment_sections(rows: Sequence[StepRow]) -> list[Section]:
    """The sections of the page: one for each data set, and all runs."""
    sections = []
    for place, (name, found) in enumerate(by_dataset(rows)):
        rungs = ladder(found)
        parts = items_of([ladder_table(name, found, rungs), *sentences(found)], f"ladder-{place}")
        picture = ladder_picture(f"steps-{place}", name, found, rungs)
        sections.append(Section(f"data-{place}", f"Data set {name}", [picture, *parts]))
    sections.append(Section("all", "All runs", items_of([summary_table(summary(rows))], "summary")))
    return sections


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
            "xaxis": {"title": {"text": "latency, us"}},
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
