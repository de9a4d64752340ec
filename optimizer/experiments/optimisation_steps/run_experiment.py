"""Running the experiment: all data sets and layers in turn, each setting of a layer as a case."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.errors import InputError
from optimizer.experiments.optimisation_steps.runs import StepCase, Terms, compile_all, rows_of
from optimizer.experiments.optimisation_steps.settings import settings_of
from optimizer.experiments.optimisation_steps.step_row import StepJournal, StepRow
from optimizer.planning.many_layers.reading import LayerReader
from optimizer.planning.options import Progress
from optimizer.traces.counted_source import open_counts
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import TraceInput


@dataclass(frozen=True)
class StepsRequest:
    """What is to be run on each data set.

    layers: model layers, None for all; choice: what is known of the model; mesh, cost: the machine; terms: what each
    planning may spend.
    """

    layers: Sequence[int] | None
    choice: ModelChoice
    mesh: Mesh
    cost: Cost
    terms: Terms


def experiment(
    datasets: Mapping[str, TraceInput], asked: StepsRequest, journal: StepJournal, notify: Progress
) -> tuple[list[StepRow], list[str]]:
    """The rows of all runs, and sentences that the user should read. What the journal has is not run again.

    Raises InputError for a data set that cannot be used, before anything is run where its files show that already.
    """
    readers = {name: _reader(name, named, asked, notify) for name, named in datasets.items()}
    total = sum(len(reader.layers) for reader in readers.values())
    rows: list[StepRow] = []
    notes: list[str] = []
    compiled, done = False, 0
    for name in datasets:
        reader = readers.pop(name)  # a reader holds layers in memory, so each goes when its data set is done
        for layer in reader.layers:
            for case in _cases(reader, name, layer, asked):
                if not compiled and case.missing(journal):
                    compile_all(case, notify)
                    compiled = True
                rows += rows_of(case, journal, _told(notify, case, done / total))
            done += 1
            source = reader.source_of(layer)
            notes += [f"{name}: {note}" for note in (source.origin, *source.notes, *asked.cost.notes(reader.model))]
    return rows, list(dict.fromkeys(notes))


def _reader(name: str, named: TraceInput, asked: StepsRequest, notify: Progress) -> LayerReader:
    """The reader of a data set, with gate weights and candidates, which capacities need."""
    if open_counts(named, asked.choice) is not None:
        raise InputError(f"{name}: experiment needs token traces: with counts alone there is nothing to route")
    reading = lambda share: notify(f"reading {name}", share)  # noqa: E731
    return LayerReader.of(replace(named, extras=True), asked.choice, asked.mesh, asked.layers, reading)


def _cases(reader: LayerReader, name: str, layer: int, asked: StepsRequest) -> Iterator[StepCase]:
    """A case for each setting of a layer."""
    for setting in settings_of(reader.source_of(layer), layer, asked.mesh, asked.cost.for_model(reader.model)):
        yield StepCase(name, layer, setting, asked.terms)


def _told(notify: Progress, case: StepCase, share: float) -> Progress:
    """A progress function for the stages of one case, which tells the share of all cases that is done instead."""
    where = f"{case.dataset}, layer {case.layer}, {case.setting.name}"
    return lambda stage, _: notify(f"{where}: {stage}", share)
