"""Functions that judge: a plan by the simulator, a layer by its bounds, and our plan beside those of published
planners."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from optimizer.api.results import Bounded, Compared, Explained, Simulated
from optimizer.api.traces import Traces, choice_of, opened
from optimizer.domain.cost import Cost
from optimizer.domain.hardware import Hardware
from optimizer.domain.model import Model
from optimizer.domain.presets import load_hardware
from optimizer.errors import InputError
from optimizer.experiments.compare_rivals import compare as compare_planners
from optimizer.interrupts import Cancel
from optimizer.planning.bound_traces import bound_layer
from optimizer.planning.explain_plan import explain as explain_layers
from optimizer.planning.judge_plan import judge
from optimizer.planning.options import Progress, SolveOptions, silent
from optimizer.planning.plan_file import Plan
from optimizer.routing.hints import USUAL_HINTS
from optimizer.routing.servers.abilities import ANY, Server
from optimizer.simulation.conditions import Conditions
from optimizer.statistics.checked import checked_source
from optimizer.traces.counted_source import open_counts
from optimizer.traces.infer import ModelChoice


def simulate(
    plan: Plan,
    traces: Traces = (),
    conditions: Conditions | Sequence[Conditions] | None = None,
    hardware: Hardware | None = None,
    batch_count: int | None = None,
    progress: Progress = silent,
    layers: Sequence[int] | None = None,
) -> Simulated:
    """Run the layers of a plan through the token-dispatch simulator.

    All requests count, unless the plan was made from these very traces: then its test requests alone do.

    Parameters
    ----------
    plan
        A plan that was made or read, or a placement of your own as a plan, which `Plan.of` gives.
    traces
        What `open_traces` gives, or what it takes, such as paths; nothing for the built-in trace.
    conditions
        One set of conditions or several; None for the plan's own routing policy, unit and capacity.
    hardware
        Hardware whose costs replace those of the plan's hardware; its mesh must be the plan's. None for the plan's own.
    batch_count
        How many batches are simulated; None for as many as a plan is judged on when it is made.
    progress
        A callable that is told the stage and the share of it that is done, 0 to 1.
    layers
        The ids of the layers to run; None for all layers of the plan.

    Returns
    -------
    Simulated
        `reports[layer]` has one report for each of the conditions: times `[batch]` in microseconds, device loads
        `[batch, device]` in token-expert pairs, tiles and hops.

    Raises
    ------
    InputError
        For traces that do not fit the plan, layers that it lacks, and conditions that leave an expert without a
        replica.

    Examples
    --------
    >>> import numpy as np
    >>> from optimizer import Mesh, Placement
    >>> machine = Hardware.of(mesh=Mesh(1, 2, 2))
    >>> own = Plan.of(Placement(np.array([[0, 1], [2, 3]])), 0, Model("tiny", 4, 0, 1), machine)
    >>> simulate(own, np.zeros((3, 8, 1), dtype=int)).report.imbalance.tolist()
    [2.0, 2.0, 2.0]
    """
    cost = (load_cost(plan) if hardware is None else hardware.cost).for_model(plan.model)
    asked = [own_conditions(plan)] if conditions is None else conditions
    trials = [asked] if isinstance(asked, Conditions) else list(asked)
    reports, notes = judge(plan, opened(traces), cost, trials, batch_count, progress, layers)
    return Simulated(reports, (*notes, *cost.notes(plan.model)))


def load_cost(plan: Plan) -> Cost:
    """The cost model of the hardware that a plan names, with the price of routing that the plan was made with. Raises
    InputError where there is no such hardware."""
    return Cost(plan.hardware, load_hardware(plan.hardware), prices=plan.prices)


def own_conditions(plan: Plan) -> Conditions:
    """The conditions that a plan was made for: its routing policy, the unit of load that this policy counts, its
    capacity, and how its hints are made."""
    hints = plan.hints or USUAL_HINTS
    return Conditions(plan.policy, plan.unit, capacity_factor=plan.capacity_factor, hints=hints)


def bound(
    traces: Traces,
    layer: int,
    model: Model | ModelChoice | str | None = None,
    hardware: Hardware | None = None,
    seed: int = 0,
    progress: Progress = silent,
    plan: Plan | None = None,
) -> Bounded:
    """Prove what no placement of a layer can go below, on the test batches on which its plans are judged.

    Parameters
    ----------
    traces, layer, model, hardware, progress
        See `plan_layer`. For counts without tokens, the bounds are of the expected load.
    seed
        The seed by which requests are split into train, selection and test. To compare a plan with the bounds, give the
        seed of that plan's options.
    plan
        A plan whose placement of the layer is bounded, too, by what the best routing of each batch reaches, and
        explained by the experts and devices that force it; None for the bounds of any placement alone.

    Returns
    -------
    Bounded
        Lower bounds on the mean over test batches of latency, imbalance, tiles, copies of tokens, hops and the times of
        dispatch, compute and combine (microseconds), and, where they are known, on p50 and p99 too. Latency is without
        the price of routing.

    Raises
    ------
    InputError
        For traces that cannot be used, and where the experts do not fit in the slots.

    Examples
    --------
    >>> import numpy as np
    >>> chosen = np.zeros((5, 8, 1), dtype=int)
    >>> found = bound(chosen, 0, Model("tiny", 4, 0, 1), Hardware.of(mesh="2x2"))
    >>> [each.mean for each in found.bounds.bounds if each.name == "any_placement"]
    [1.0]
    """
    machine = hardware or Hardware.of()
    given, reading = replace(opened(traces), seed=seed), partial(progress, "reading traces")
    return Bounded(bound_layer(given, choice_of(model), layer, machine.mesh, machine.cost, reading, plan))


def explain(
    plan: Plan,
    traces: Traces = (),
    hardware: Hardware | None = None,
    progress: Progress = silent,
    layers: Sequence[int] | None = None,
) -> Explained:
    """Tell why the fullest devices of a plan have as much to do as they have, whatever the routing.

    All requests count, unless the plan was made from these very traces: then its test requests alone do.

    Parameters
    ----------
    plan, traces, hardware, progress, layers
        See `simulate`.

    Returns
    -------
    Explained
        For each layer certificates of the median and of the worst batch: experts that can use certain devices alone,
        and their load, which proves the peak without any solver.

    Raises
    ------
    InputError
        For traces that do not fit the plan, and layers that it lacks.

    Examples
    --------
    >>> import numpy as np
    >>> from optimizer import Mesh, Placement
    >>> machine = Hardware.of(mesh=Mesh(1, 2, 2))
    >>> own = Plan.of(Placement(np.array([[0, 1], [2, 3]])), 0, Model("tiny", 4, 0, 1), machine)
    >>> explain(own, np.zeros((3, 8, 1), dtype=int)).layers[0].certificates[0].in_words()  # doctest: +ELLIPSIS
    'Median of 3 batches, number 1: expert 0 can only use device 0: 8 tokens over 1, so some device has 8 or more...'
    """
    cost = (load_cost(plan) if hardware is None else hardware.cost).for_model(plan.model)
    found, notes = explain_layers(plan, opened(traces), cost, progress, layers)
    return Explained(found, tuple(notes))


def compare(
    traces: Traces,
    layer: int,
    model: Model | ModelChoice | str | None = None,
    hardware: Hardware | None = None,
    options: SolveOptions | None = None,
    progress: Progress = silent,
    cancel: Cancel | None = None,
    server: Server = ANY,
) -> Compared:
    """Plan a layer with every published planner and with ours, and judge all plans on the same test batches.

    Parameters
    ----------
    traces, layer, model, hardware, progress, cancel
        See `plan_layer`. Traces must hold tokens: with counts alone there is nothing to route.
    options
        The options of our plan, None for the defaults. Their time limit holds for our plan alone; the other planners
        take the time that they take.
    server
        The server whose own routing policies all plans are judged under, one of `SERVERS`; for any server each is
        judged under those that it was published with. The routings of the options should be the server's.

    Returns
    -------
    Compared
        A row for each planner and routing policy, with our own rows last.

    Raises
    ------
    InputError
        For traces that are counts, and for whatever `plan_layer` refuses.

    Examples
    --------
    >>> import numpy as np
    >>> chosen = np.random.default_rng(0).integers(0, 4, (40, 32, 1))
    >>> wanted = SolveOptions(time_limit=20, iterations=200, routings=("even-source",))
    >>> found = compare(chosen, 0, Model("tiny", 4, 0, 1), Hardware.of(mesh="2x2"), wanted)
    >>> found.comparison.rows[-1].planned.name
    'moeplan'
    """
    machine, wanted = hardware or Hardware.of(), options or SolveOptions()
    given = replace(opened(traces), seed=wanted.seed)
    if open_counts(given, choice_of(model)) is not None:
        raise InputError("a comparison needs token traces: with counts alone there is nothing to route", "traces")
    at, reading = machine.cost.preset.network.tokens, partial(progress, "reading traces")
    source = checked_source(given, [layer], choice_of(model), machine.mesh, reading, at)
    cost = machine.cost.for_model(source.model)
    found = compare_planners(source, layer, machine.mesh, cost, wanted, progress, cancel, server)
    ours = found.rows[-1].planned
    warnings = server.warnings(ours.routings[0], source.model, [ours.placement])
    return Compared(found, (source.origin, *source.notes, *cost.notes(source.model), *warnings))
