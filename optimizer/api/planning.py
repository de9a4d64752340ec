"""Functions that plan one layer: on recorded tokens, or on counts alone."""

from dataclasses import replace
from functools import partial

from optimizer.api.results import PlannedLayer
from optimizer.api.traces import Traces, choice_of, opened
from optimizer.domain.hardware import Hardware
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.interrupts import Cancel
from optimizer.planning.compile_ahead import compiled_ahead
from optimizer.planning.options import Progress, SolveOptions, silent
from optimizer.planning.plan_expected_load import plan_counts
from optimizer.planning.plan_file import Plan
from optimizer.planning.plan_layer import plan_tokens
from optimizer.statistics.checked import checked_counts, checked_source
from optimizer.traces.counted_source import open_counts, synthesised
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import Source


def plan_layer(
    traces: Traces,
    layer: int,
    model: Model | ModelChoice | str | None = None,
    hardware: Hardware | None = None,
    options: SolveOptions | None = None,
    start: Plan | None = None,
    progress: Progress = silent,
    cancel: Cancel | None = None,
) -> PlannedLayer:
    """Plan one layer on recorded tokens: replica counts, placement and routing policy together.

    Requests are split into train, selection and test requests: the layer is planned on the first, the plan is chosen on
    the second, and all reported figures are of the third. Counts without tokens are handed on to `plan_expected`.

    Parameters
    ----------
    traces
        What `open_traces` gives, or what it takes, such as paths.
    layer
        The id of the layer in the model, counted from 0 with dense layers included.
    model
        The model, the name of a preset, the path of a config.json, or what is known of it; None to infer it from the
        traces.
    hardware
        The mesh and its costs; None for `Hardware.of()`, which has 16 x 8 Wormhole devices.
    options
        Time limit in seconds, seed, search, routing policies and constraints; None for the defaults.
    start
        A plan whose placement of the layer is one more point to start from; None for no such plan.
    progress
        A callable that is told the stage and the share of it that is done, 0 to 1.
    cancel
        A token that ends the search with the best plan so far, once it is asked; None for a search to the end.

    Returns
    -------
    PlannedLayer
        The plan, its `placement` (`slots [device, slot]` of expert ids, -1 for an empty slot), and the figures of all
        methods on the test batches.

    Raises
    ------
    InputError
        For traces, sizes or options that cannot be used; its `field` names the parameter at fault.

    Examples
    --------
    >>> import numpy as np
    >>> chosen = np.random.default_rng(0).integers(0, 4, (40, 32, 1))
    >>> options = SolveOptions(time_limit=20, iterations=200, routings=("even-source",))
    >>> found = plan_layer(chosen, 0, Model("tiny", 4, 0, 1), Hardware.of(mesh="2x2"), options)
    >>> sorted(set(found.placement.slots.ravel().tolist()))  # more replicas, in the empty slots, would take longer
    [-1, 0, 1, 2, 3]
    """
    given, wanted, machine = opened(traces), options or SolveOptions(), hardware or Hardware.of()
    effort = wanted.effort(cancel)
    given = replace(given, seed=wanted.seed, extras=wanted.max_rerouted is not None)
    counted = open_counts(given, choice_of(model))
    if counted is None and given.synthesise:
        raise InputError("tokens are made from counts alone; give a file of counts", "synthesise")
    if counted is not None and not given.synthesise:
        return plan_expected(given, layer, model, machine, wanted, start, progress, cancel)
    if counted is not None:
        source: Source = synthesised(*counted, layer, given, machine.mesh)
    else:
        at, reading = machine.cost.preset.network.tokens, partial(progress, "reading traces")
        source = checked_source(given, [layer], choice_of(model), machine.mesh, reading, at)
    cost = machine.cost.for_model(source.model)
    with compiled_ahead(source.model, machine.mesh, cost, wanted):
        found = plan_tokens(source, layer, machine.mesh, cost, wanted, effort, progress, start)
    return PlannedLayer(layer, found.plan, found.solution, (*found.notes, *cost.notes(source.model)))


def plan_expected(
    counts: Traces,
    layer: int,
    model: Model | ModelChoice | str | None = None,
    hardware: Hardware | None = None,
    options: SolveOptions | None = None,
    start: Plan | None = None,
    progress: Progress = silent,
    cancel: Cancel | None = None,
) -> PlannedLayer:
    """Plan one layer on counts: on the expected load of the devices alone, as everything else needs tokens.

    Parameters
    ----------
    counts
        What `open_traces` gives for a file of counts, or `Counts` in memory.
    layer, model, hardware, options, start, progress, cancel
        See `plan_layer`.

    Returns
    -------
    PlannedLayer
        The plan, which is for even routing, and the expected imbalance (peak / mean device load) of every method on
        steps that nothing was planned on, or, where there are too few steps for that, on all steps.

    Raises
    ------
    InputError
        For traces that are no counts, for an unknown top-k, and for whatever `plan_layer` refuses.

    Examples
    --------
    >>> import numpy as np
    >>> from optimizer.traces.formats.counts import Counts
    >>> counted = Counts(np.array([[[90, 30, 20, 10]]]), (0,), None, 1, (), "by hand")
    >>> wanted = SolveOptions(time_limit=20, iterations=200)
    >>> found = plan_expected(counted, 0, Model("tiny", 4, 0, 1), Hardware.of(mesh="2x2"), wanted)
    >>> float(found.solution.chosen.imbalance.mean()) < 1.1
    True
    """
    given, wanted, machine = opened(counts), options or SolveOptions(), hardware or Hardware.of()
    counted = checked_counts(given, choice_of(model))
    if counted is None:
        raise InputError("these traces hold tokens, not counts; plan them by `plan_layer`", "counts")
    found = plan_counts(counted, layer, machine.mesh, machine.cost, wanted, wanted.effort(cancel), progress, start)
    return PlannedLayer(layer, found.plan, found.solution, tuple(found.notes))
