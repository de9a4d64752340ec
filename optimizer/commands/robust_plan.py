"""`solve` for several data sets, of any number of layers."""

from typing import TYPE_CHECKING, Any

from optimizer.commands.campaign import WRITTEN, asked_of, running, settings_of, start_of
from optimizer.commands.errors import BadInput
from optimizer.commands.found import Found
from optimizer.commands.given import mesh_of, model_choice, named_of, progress

if TYPE_CHECKING:
    from optimizer.planning.many_layers.robust import DataSetsToPlan
    from optimizer.planning.options import Progress
    from optimizer.traces.datasets import DataSet

FOR_ONE = ("max_rerouted", "synthesise", "fast", "batches")


def several(given: dict[str, Any]) -> bool:
    """Whether there is more than one data set."""
    from optimizer.traces.datasets import datasets_of, phases_of

    return datasets_of(given["traces"]) is not None or len(phases_of(given["phase"])) > 1


def solve_robustly(layers: list[int] | None, given: dict[str, Any]) -> Found:
    from formulations.choice.robust_choice import Criterion
    from optimizer.commands.report import robustness as report
    from optimizer.commands.report import whole
    from optimizer.planning.many_layers.robust import plan_robust
    from optimizer.traces.datasets import datasets, phases_of, weights_of

    for option in FOR_ONE:
        if given[option]:
            raise BadInput(f"--{option.replace('_', '-')} is for one data set; name no other")
    sets = datasets(named_of(given | {"phase": None}), phases_of(given["phase"]), weights_of(given["weights"]))
    with progress() as notify:
        together = _together(sets, layers, given, notify)
        asked = asked_of(together.settings, together.layers, together.start, given)
        asked |= {"datasets": {each.name: each.weight for each in sets}}
        with running(asked, given, notify) as run:
            found = plan_robust(run, together, Criterion(given["robust"]))

    def show() -> None:
        whole.show(found.plan)
        report.show(found.robustness, found.drift)

    figures = whole.as_json(found.plan) | report.as_json(found.robustness, found.drift)
    notes = [note for reader in together.readers for note in reader.notes]
    return Found(found.plan, notes, figures, show, WRITTEN, found.own, report.robustness_page(found.robustness))


def _together(
    sets: "list[DataSet]", layers: list[int] | None, given: dict[str, Any], notify: "Progress"
) -> "DataSetsToPlan":
    """A reader for each data set, for one model and the same layers."""
    from dataclasses import replace

    from optimizer.planning.many_layers.reading import LayerReader
    from optimizer.planning.many_layers.robust import DataSetsToPlan

    mesh, reading = mesh_of(given), lambda share: notify("reading traces", share)
    paths = tuple(dict.fromkeys(path for each in sets for path in each.named.traces))
    every = LayerReader.of(replace(sets[0].named, traces=paths), model_choice(given), mesh, layers, reading)
    readers = [LayerReader.of(each.named, every.model, mesh, every.layers, reading, len(sets)) for each in sets]
    settings = settings_of(every.model, len(every.layers), given)
    return DataSetsToPlan(settings, sets, readers, start_of(given))
