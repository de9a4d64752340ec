"""The plan and the placement before it on several data sets."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from optimizer.planning.options import Progress
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.report.page.facts import PLAN, DatasetFigures, PlanFacts
from optimizer.report.page.gather import gather
from optimizer.report.page.matrix import matrix_picture
from optimizer.report.page.parts import Picture
from optimizer.report.page.request import PageRequest
from optimizer.report.page.words import us
from optimizer.statistics.loads import FIVE
from optimizer.traces.source import TraceInput


def with_datasets(
    facts: PlanFacts, asked: PageRequest, named: Mapping[str, TraceInput], progress: Progress
) -> PlanFacts:
    """The facts with the figures of each data set, on which both placements are judged under their own policies."""
    first = facts.first.before.report
    parts = {layer: LayerPlan(each.before.placement) for layer, each in facts.layers.items()}
    old = Plan(asked.plan.model, first.network.mesh, asked.plan.hardware, first.routing, parts)
    figures = []
    for name, traces in named.items():
        alone = replace(asked, named=traces, routings=(), curves=False, before=(facts.before, old))
        found = gather(alone, progress)
        old_sum, new_sum = ({each: found.summed(which, each) for each in FIVE} for which in ("before", "plan"))
        figures.append(DatasetFigures(name, old_sum, new_sum, found.batches))
    return replace(facts, datasets=tuple(figures))


def datasets_picture(facts: PlanFacts) -> Picture:
    """The p99 of both placements on each data set."""
    names = [each.name for each in facts.datasets]
    p99 = np.array([[getattr(each, which)["p99"] for each in facts.datasets] for which in ("before", "plan")])
    mean = np.array([[getattr(each, which)["mean"] for each in facts.datasets] for which in ("before", "plan")])
    rows = [facts.before, PLAN]
    hover = [
        [
            f"{row} on {set_of.name}: mean {us(mean[place, at])} us, p99 {us(p99[place, at])} us, {set_of.batches}"
            for at, set_of in enumerate(facts.datasets)
        ]
        for place, row in enumerate(rows)
    ]
    said = "; ".join(f"{each.name}: {each.batches}" for each in facts.datasets)
    worst = int((p99[1] / p99[0]).argmax())
    return matrix_picture(
        title="Both placements on each data set: latency p99, us",
        reads="The second number, and the colour: % above the placement before on the same data set. Unless the plan "
        "was made from a data set alone, all of its requests are judged, also those that were planned on. "
        f"{said}.",
        says=f"The plan stands worst on {names[worst]}, with {us(float(p99[1, worst]))} us in p99 where "
        f"{facts.before} has {us(float(p99[0, worst]))} us.",
        rows=rows,
        columns=names,
        percent=100 * (p99 / p99[0] - 1),
        texts=[[us(value) for value in row] for row in p99.tolist()],
        hover=hover,
        labels=("placement", "judged on"),
    )
