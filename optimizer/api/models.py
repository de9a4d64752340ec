"""The function that plans several layers in one plan: in parallel or on a cluster, for one data set or for several."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from formulations.choice.robust_choice import Criterion
from optimizer.api.results import PlannedModel
from optimizer.api.traces import Traces, choice_of, opened
from optimizer.domain.hardware import Hardware
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.interrupts import Cancel
from optimizer.planning.many_layers.count_sets import read_count_sets
from optimizer.planning.many_layers.plan_model import ModelToPlan
from optimizer.planning.many_layers.plan_model import plan_model as plan_all_layers
from optimizer.planning.many_layers.plan_model_counts import plan_model_counts
from optimizer.planning.many_layers.reading import LayerReader
from optimizer.planning.many_layers.robust import DataSetsToPlan, plan_robust
from optimizer.planning.many_layers.robust_counts import CountSets, plan_robust_counts
from optimizer.planning.many_layers.run import Run
from optimizer.planning.many_layers.settings import Settings
from optimizer.planning.many_layers.work import WorkFolder
from optimizer.planning.many_layers.workers import Workers
from optimizer.planning.options import Progress, SolveOptions, silent
from optimizer.planning.plan_expected_load import check_limits
from optimizer.planning.plan_fast import FastLayer, fast_plan
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.statistics.checked import checked_counts
from optimizer.traces.counted_source import holds_counts
from optimizer.traces.datasets import DataSet, data_sets
from optimizer.traces.formats.counts import Counts
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import TraceInput


@dataclass(frozen=True)
class ModelRun:
    """How a run of many layers is made, besides what `SolveOptions` say of each layer.

    start: a plan whose placements are one more point to start from. fast: whether to plan on expected load alone, for
    even routing. slot_budget: extra replicas of all layers together, shared out where they help most; None for as many
    in each layer as its slots hold. work: a folder that keeps finished layers; resume: whether to go on with the run
    that the folder holds. cluster: the address of a dask scheduler, None for processes on this machine.

    For several data sets, criterion is what the plan is chosen by over them, and weights are their shares in the mix,
    None for equal shares. phases: the phases that batches are made of, each of which is a data set of its own; None for
    the phase of the traces.
    """

    start: Plan | None = None
    fast: bool = False
    slot_budget: int | None = None
    work: Path | None = None
    resume: bool = False
    cluster: str | None = None
    criterion: Criterion = Criterion.MEAN
    weights: Mapping[str, float] | None = None
    phases: tuple[str, ...] | None = None


def plan_model(
    traces: Traces | Mapping[str, Traces],
    layers: Sequence[int] | None = None,
    model: Model | ModelChoice | str | None = None,
    hardware: Hardware | None = None,
    options: SolveOptions | None = None,
    run: ModelRun | None = None,
    progress: Progress = silent,
    cancel: Cancel | None = None,
) -> PlannedModel:
    """Plan several layers in one plan, which share the time and the routing policy.

    Parameters
    ----------
    traces
        What `open_traces` gives, or what it takes, such as paths. For several data sets, a mapping from the name of
        each data set to its traces.
    layers
        The ids of the layers in the model; None for all layers that the traces hold.
    model
        The model, the name of a preset, the path of a config.json, or what is known of it; None to infer it from the
        traces.
    hardware
        The mesh and its costs; None for `Hardware.of()`, which has 16 x 8 Wormhole devices.
    options
        Seconds for the whole run, seed, search, routing policies, constraints, and how many layers are planned at once;
        None for the defaults.
    run
        Where finished layers are kept, on which cluster, for which data sets; None for the defaults of `ModelRun`.
    progress
        A callable that is told the stage and the share of it that is done, 0 to 1.
    cancel
        A token that ends the run with the layers that are finished, once it is asked; None for a run to the end.

    Returns
    -------
    PlannedModel
        One plan of all layers; for several data sets also each data set's own plan.

    Raises
    ------
    InputError
        For traces, sizes or options that cannot be used; its `field` names the parameter at fault.
    OutOfTimeError
        Where no layer had a plan when the time was up.
    LostWorkerError
        Where worker processes die again and again.
    KeyboardInterrupt
        Where the run was cancelled before any layer had a plan.

    Examples
    --------
    >>> import numpy as np
    >>> from optimizer import open_traces
    >>> rng = np.random.default_rng(0)
    >>> requests = [rng.permuted(np.tile(np.arange(4), (30, 2, 1)), axis=2)[:, :, :2] for _ in range(10)]
    >>> traces = open_traces(requests, batch_tokens=16)
    >>> wanted = SolveOptions(time_limit=5, jobs=1)
    >>> found = plan_model(traces, None, Model("tiny", 4, 0, 2), Hardware.of(mesh="2x2"), wanted, ModelRun(fast=True))
    >>> sorted(found.plan.layers)
    [0, 1]
    """
    request = _Request.of(
        traces, layers, model, hardware or Hardware.of(), options or SolveOptions(), run or ModelRun()
    )
    return request.planned(progress, cancel or Cancel())


@dataclass(frozen=True)
class _Request:
    """Everything that `plan_model` was asked for, with its defaults filled in.

    traces: the opened traces of each data set by its name. named: whether the caller gave them names; otherwise there
    is one entry, whose name does not matter.
    """

    traces: Mapping[str, TraceInput]
    named: bool
    layers: Sequence[int] | None
    choice: Model | ModelChoice
    hardware: Hardware
    options: SolveOptions
    run: ModelRun

    @classmethod
    def of(
        cls,
        traces: Traces | Mapping[str, Traces],
        layers: Sequence[int] | None,
        model: Model | ModelChoice | str | None,
        hardware: Hardware,
        options: SolveOptions,
        run: ModelRun,
    ) -> "_Request":
        """The request with every trace opened, under the seed of the options."""
        named = isinstance(traces, Mapping)
        given = traces if isinstance(traces, Mapping) else {"all": traces}
        inputs = {name: replace(opened(each), seed=options.seed) for name, each in given.items()}
        return cls(inputs, named, layers, choice_of(model), hardware, options, run)

    @property
    def only(self) -> TraceInput:
        """The traces of the first data set, which is the only one where there are not several."""
        return next(iter(self.traces.values()))

    def planned(self, progress: Progress, cancel: Cancel) -> PlannedModel:
        """The plan, made for several data sets, on counts, on expected load alone or in full, as was asked for."""
        phases = self.run.phases or (self.only.phase or "decode",)
        if self.named or len(phases) > 1:
            return self._for_datasets(phases, progress, cancel)
        traces = replace(self.only, phase=phases[0])
        if (counted := checked_counts(traces, choice_of(self.choice))) is not None:
            return self._from_counts(*counted, progress, cancel)
        reading = partial(progress, "reading traces")
        reader = LayerReader.of(traces, self.choice, self.hardware.mesh, self.layers, reading)
        return self._fast(reader, progress) if self.run.fast else self._in_full(reader, progress, cancel)

    def _settings(self, model: Model, layers: int, timed: bool = True) -> Settings:
        """The settings of a run over this number of layers. Jobs that there are not enough layers for become threads of
        each layer's search. timed: whether plans are judged by times, which depend on the size of experts."""
        chains = max(1, self.options.jobs // layers)
        cost = self.hardware.cost.for_model(model) if timed else self.hardware.cost
        return Settings(model, self.hardware.mesh, cost, self.options, chains)

    def _in_full(self, reader: LayerReader, progress: Progress, cancel: Cancel) -> PlannedModel:
        """The plan of the layers on the recorded tokens of one data set; where there is a slot budget, it is shared out
        over the layers first."""
        asked = ModelToPlan(self._settings(reader.model, len(reader.layers)), reader, self.run.start)
        budget = self.run.slot_budget
        more = {"slot_budget": budget}
        with self._running(asked.settings, reader.layers, more, progress, cancel) as running:
            plan = plan_all_layers(running, asked if budget is None else asked.with_slots(running, budget))
        return PlannedModel(plan, (*reader.notes, *self.hardware.cost.notes(reader.model)))

    def _from_counts(self, counts: Counts, model: Model, progress: Progress, cancel: Cancel) -> PlannedModel:
        """The plan of the layers on counts alone, which is made for their expected load."""
        layers = tuple(self.layers or counts.counted_layers)
        model.check_layers(layers)
        settings = self._settings(model, len(layers), timed=False)
        with self._running(settings, layers, {}, progress, cancel) as running:
            plan = plan_model_counts(running, settings, counts, layers, self.run.start)
        return PlannedModel(plan, (f"{counts.source}: counts alone, so the expected load is planned", *counts.notes))

    def _fast(self, reader: LayerReader, progress: Progress) -> PlannedModel:
        """The plan of the layers on the expected load of their tokens alone, made for one group of layers after another
        as they are read."""
        layers: list[FastLayer] = []
        parts: dict[int, LayerPlan] = {}
        notes: dict[str, None] = {}
        plan: Plan | None = None
        for source, held in reader.sources():
            found = fast_plan(source, held, self.hardware.mesh, self.hardware.cost, self.options, progress)
            plan = plan or found.plan
            parts |= found.plan.layers
            layers += found.layers
            notes |= dict.fromkeys(found.notes)
        assert plan is not None  # a reader always has at least one layer, so at least one group was planned
        return PlannedModel(replace(plan, layers=parts), tuple(notes), layers)

    def _for_datasets(self, phases: tuple[str, ...], progress: Progress, cancel: Cancel) -> PlannedModel:
        """The plan that is chosen over several data sets, with each data set's own plan and figures beside it."""
        sets = data_sets(self.traces, phases, self.run.weights, self.named)
        if any(holds_counts(each.named) for each in sets):
            return self._for_counted_datasets(sets, phases, progress, cancel)
        asked = self._together(sets, progress)
        weights = {"datasets": {each.name: each.weight for each in sets}}
        with self._running(asked.settings, asked.layers, weights, progress, cancel) as running:
            found = plan_robust(running, asked, self.run.criterion)
        notes = tuple(note for reader in asked.readers for note in reader.notes)
        notes += tuple(self.hardware.cost.notes(asked.settings.model))
        return PlannedModel(found.plan, notes, datasets=found)

    def _for_counted_datasets(
        self, sets: Sequence[DataSet], phases: tuple[str, ...], progress: Progress, cancel: Cancel
    ) -> PlannedModel:
        """The plan that is chosen over several data sets of which some are counts, by the expected loads of all."""
        asked, notes = self._counted(sets, phases, partial(progress, "reading traces"))
        weights = {"datasets": {each.name: each.weight for each in sets}}
        with self._running(asked.settings, asked.layers, weights, progress, cancel) as running:
            found = plan_robust_counts(running, asked, self.run.criterion)
        return PlannedModel(found.plan, notes, datasets=found)

    def _counted(
        self, sets: Sequence[DataSet], phases: tuple[str, ...], reading: Callable[[float], None]
    ) -> tuple[CountSets, tuple[str, ...]]:
        """The counts of all data sets, those with tokens counted, and sentences that the user should read."""
        if len(phases) > 1:
            raise InputError("counts do not say which phase they are of; name each phase's as a data set", "phase")
        check_limits(self.options)
        found = read_count_sets(sets, self.choice, self.hardware.mesh, self.layers, reading)
        settings = self._settings(found.model, len(found.layers))
        names, weights = tuple(each.name for each in sets), tuple(each.weight for each in sets)
        counts = CountSets(settings, names, weights, found.counts, found.layers, self.run.start)
        return counts, found.notes

    def _together(self, sets: Sequence[DataSet], progress: Progress) -> DataSetsToPlan:
        """What is planned for several data sets: a reader of traces for each data set, all with the same model and
        layers."""
        mesh, reading = self.hardware.mesh, partial(progress, "reading traces")
        every = LayerReader.of(self._joined(sets), self.choice, mesh, self.layers, reading)
        readers = [LayerReader.of(each.named, every.model, mesh, every.layers, reading, len(sets)) for each in sets]
        return DataSetsToPlan(self._settings(every.model, len(every.layers)), sets, readers, self.run.start)

    def _joined(self, sets: Sequence[DataSet]) -> TraceInput:
        """The traces of all data sets together, from which the model and its layers are inferred; where traces are in
        memory, those of the first data set alone."""
        if any(each.named.memory is not None for each in sets):
            return sets[0].named
        paths = tuple(dict.fromkeys(path for each in sets for path in each.named.traces))
        return replace(sets[0].named, traces=paths)

    @contextmanager
    def _running(
        self, settings: Settings, layers: Sequence[int], more: dict[str, Any], progress: Progress, cancel: Cancel
    ) -> Iterator[Run]:
        """Yield a run whose workers are ready and whose work folder, if one is named, is open. Raises InputError where
        a run is to go on without a folder, or where the folder holds a run that was asked for something else.

        more: further settings that decide on the plan, by which the folder knows its run.
        """
        if self.run.resume and self.run.work is None:
            raise InputError("goes on with a run that kept its layers; name their folder as well", "resume")
        asked = self._asked(settings, layers) | more
        folder = nullcontext() if self.run.work is None else WorkFolder.opened(self.run.work, asked, self.run.resume)
        with folder as work, Workers(self.options.jobs, self.run.cluster).ready() as crew:
            yield Run(crew, self.options.effort(cancel).deadline, progress, work)

    def _asked(self, settings: Settings, layers: Sequence[int]) -> dict[str, Any]:
        """The settings that decide on the plan besides the traces, as JSON values; a work folder knows its run by
        them."""
        start, traces = self.run.start, self.only
        placed = None
        if start is not None:
            placed = {str(layer): part.placement.slots.tolist() for layer, part in start.layers.items()}
        phase = None if self.run.phases is None else ",".join(self.run.phases)
        batches = {"phase": phase, "batch_tokens": traces.batch_tokens, "row_users": traces.row_users}
        return {"layers": list(layers), "start": placed} | batches | settings.as_json()
