"""`solve` of several layers, in parallel, in one plan."""

from typing import TYPE_CHECKING, Any

from optimizer.commands.campaign import WRITTEN, asked_of, running, settings_of, start_of
from optimizer.commands.errors import BadInput
from optimizer.commands.found import Found
from optimizer.commands.given import mesh_of, model_choice, named_of, progress

if TYPE_CHECKING:
    from optimizer.domain.model import Model
    from optimizer.planning.many_layers.reading import LayerReader
    from optimizer.planning.options import Progress
    from optimizer.planning.plan_file import Plan
    from optimizer.traces.formats.counts import Counts


def solve_many(layers: list[int] | None, given: dict[str, Any]) -> Found:
    from optimizer.planning.many_layers.reading import LayerReader
    from optimizer.traces.source import open_counts

    for option in ("max_rerouted", "synthesise"):
        if given[option]:
            raise BadInput(f"--{option.replace('_', '-')} is for one layer; name it with --layer")
    named, choice = named_of(given), model_choice(given)
    with progress() as notify:
        if counted := open_counts(named, choice):
            return _counted(*counted, layers, given, notify)
        reader = LayerReader.of(named, choice, mesh_of(given), layers, lambda share: notify("reading traces", share))
        return _fast(reader, given, notify) if given["fast"] else _planned(reader, given, notify)


def _planned(reader: "LayerReader", given: dict[str, Any], notify: "Progress") -> Found:
    from optimizer.commands.report import whole as report
    from optimizer.planning.many_layers.plan_model import ModelToPlan, plan_model

    settings, start = settings_of(reader.model, len(reader.layers), given), start_of(given)
    budget, whole = given["slot_budget"], ModelToPlan(settings, reader, start)
    asked = asked_of(settings, reader.layers, start, given) | {"slot_budget": budget}
    with running(asked, given, notify) as run:
        plan = plan_model(run, whole if budget is None else whole.with_slots(run, budget))
    return Found(plan, list(reader.notes), report.as_json(plan), lambda: report.show(plan), WRITTEN)


def _counted(counts: "Counts", model: "Model", layers: list[int] | None, given: dict[str, Any],
             notify: "Progress") -> Found:  # fmt: skip
    from optimizer.commands.report import whole as report
    from optimizer.planning.many_layers.plan_model_counts import plan_model_counts

    chosen, start = tuple(layers or counts.layers), start_of(given)
    settings = settings_of(model, len(chosen), given)
    with running(asked_of(settings, chosen, start, given), given, notify) as run:
        plan = plan_model_counts(run, settings, counts, chosen, start)
    note = f"{counts.source}: counts alone, so the expected load is planned"
    return Found(plan, [note], report.as_json(plan), lambda: report.show(plan), WRITTEN)


def _fast(reader: "LayerReader", given: dict[str, Any], notify: "Progress") -> Found:
    """Group by group of layers, as they are read."""
    from dataclasses import replace

    from optimizer.commands.report import fast as report
    from optimizer.planning.plan_fast import FastLayer, fast_plan

    rows: list[FastLayer] = []
    plans: list[Plan] = []
    notes: dict[str, None] = {}
    for source, layers in reader.sources():
        settings = settings_of(reader.model, len(reader.layers), given)
        made = fast_plan(source, layers, settings.mesh, settings.cost, settings.options, notify)
        plans.append(made.plan)
        rows += made.layers
        notes |= dict.fromkeys(made.notes)
    whole = {layer: part for plan in plans for layer, part in plan.layers.items()}
    return Found(replace(plans[0], layers=whole), list(notes), report.as_json(rows), lambda: report.show(rows), WRITTEN)
