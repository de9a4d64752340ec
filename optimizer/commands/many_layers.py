"""`solve` of several layers, in parallel, in one plan."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from optimizer.commands.errors import BadInput
from optimizer.commands.found import Found
from optimizer.commands.given import STARTED, cost_of, mesh_of, model_choice, named_of, progress

if TYPE_CHECKING:
    from optimizer.campaign.reading import LayerReader
    from optimizer.campaign.run import Run
    from optimizer.campaign.settings import Settings
    from optimizer.candidates import Notify
    from optimizer.model import Model
    from optimizer.plan import Plan
    from optimizer.traces.counts import Counts

WRITTEN = "The plan is written"


def solve_many(layers: list[int] | None, given: dict[str, Any]) -> Found:
    from optimizer.campaign.reading import LayerReader
    from optimizer.inputs import open_counts

    for option in ("max_rerouted", "synthesise"):
        if given[option]:
            raise BadInput(f"--{option.replace('_', '-')} is for one layer; name it with --layer")
    named, choice = named_of(given), model_choice(given)
    with progress() as notify:
        if counted := open_counts(named, choice):
            return _counted(*counted, layers, given, notify)
        reader = LayerReader.of(named, choice, mesh_of(given), layers, lambda share: notify("reading traces", share))
        return _fast(reader, given, notify) if given["fast"] else _planned(reader, given, notify)


def _planned(reader: "LayerReader", given: dict[str, Any], notify: "Notify") -> Found:
    from optimizer.campaign.whole import Whole, plan_whole
    from optimizer.report import whole as report

    settings, start = _settings(reader.model, len(reader.layers), given), _start(given)
    with _run(_asked(settings, reader.layers, start, given), given, notify) as run:
        plan = plan_whole(run, Whole(settings, reader, start))
    return Found(plan, list(reader.notes), report.as_json(plan), lambda: report.show(plan), WRITTEN)


def _counted(counts: "Counts", model: "Model", layers: list[int] | None, given: dict[str, Any],
             notify: "Notify") -> Found:  # fmt: skip
    from optimizer.campaign.counted import plan_whole_counts
    from optimizer.report import whole as report

    chosen, start = tuple(layers or counts.layers), _start(given)
    settings = _settings(model, len(chosen), given)
    with _run(_asked(settings, chosen, start, given), given, notify) as run:
        plan = plan_whole_counts(run, settings, counts, chosen, start)
    note = f"{counts.source}: counts alone, so the expected load is planned"
    return Found(plan, [note], report.as_json(plan), lambda: report.show(plan), WRITTEN)


def _fast(reader: "LayerReader", given: dict[str, Any], notify: "Notify") -> Found:
    """Group by group of layers, as they are read."""
    from dataclasses import replace

    from optimizer.fast import FastRow, fast_plan
    from optimizer.report import fast as report

    rows: list[FastRow] = []
    plans: list[Plan] = []
    notes: dict[str, None] = {}
    for source, layers in reader.sources():
        settings = _settings(reader.model, len(reader.layers), given)
        made, of_layers, said = fast_plan(
            source, layers, settings.mesh, settings.cost, settings.constraints, given["seed"], notify, given["jobs"]
        )
        plans.append(made)
        rows += of_layers
        notes |= dict.fromkeys(said)
    whole = {layer: part for plan in plans for layer, part in plan.layers.items()}
    return Found(replace(plans[0], layers=whole), list(notes), report.as_json(rows), lambda: report.show(rows), WRITTEN)


def _start(given: dict[str, Any]) -> "Plan | None":
    from optimizer.plan import read_plan

    return None if given["start"] is None else read_plan(given["start"])


def _settings(model: "Model", layers: int, given: dict[str, Any]) -> "Settings":
    from optimizer.campaign.settings import Settings
    from optimizer.commands.arguments import routings_named
    from optimizer.conditions import Conditions
    from optimizer.problem import Constraints

    return Settings(
        model,
        mesh_of(given),
        cost_of(given["hardware"], given),
        Constraints(given["shared_replicas"], given["extra_replicas"], given["max_row_traffic"]),
        Conditions(unit=given["unit"]),
        routings_named(given["routing"]),
        given["seed"],
        given["iterations"],
        given["search"],
        chains=max(1, given["jobs"] // layers),
    )


@contextmanager
def _run(asked: dict[str, Any], given: dict[str, Any], notify: "Notify") -> "Iterator[Run]":
    """Workers at the ready, and the work folder, if it is of a run that was asked for the same."""
    from optimizer.campaign.run import Run
    from optimizer.campaign.work import WorkFolder
    from optimizer.campaign.workers import Workers
    from optimizer.search.stop import Deadline

    work = None if given["work"] is None else WorkFolder.opened(given["work"], asked, given["resume"])
    with Workers(given["jobs"], given["cluster"]).ready() as crew:
        yield Run(crew, Deadline(given["time_limit"], STARTED), notify, work)


def _asked(settings: "Settings", layers: Sequence[int], start: "Plan | None", given: dict[str, Any]) -> dict[str, Any]:
    """What decides on the plan, besides the traces."""
    batches = {key: given[key] for key in ("phase", "batch_tokens", "row_users")}
    placed = (
        None if start is None else {str(layer): part.placement.slots.tolist() for layer, part in start.layers.items()}
    )
    return {"layers": list(layers), "start": placed} | batches | settings.as_json()
