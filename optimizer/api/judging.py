"""Judging: a plan before the simulator, a layer's bounds, and our plan beside those of published planners."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from optimizer.api.results import Bounded, Compared, Simulated
from optimizer.api.traces import Traces, choice_of, opened
from optimizer.domain.cost import Cost
from optimizer.domain.hardware import Hardware
from optimizer.domain.model import Model
from optimizer.domain.presets import load_hardware
from optimizer.errors import InputError
from optimizer.experiments.compare_rivals import compare as compare_planners
from optimizer.interrupts import Cancel
from optimizer.planning.bound_traces import bound_layer
from optimizer.planning.judge_plan import judge
from optimizer.planning.options import Progress, SolveOptions, silent
from optimizer.planning.plan_file import Plan
from optimizer.simulation.conditions import Conditions
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import open_counts, open_source


def simulate(
    plan: Plan,
    traces: Traces = (),
    conditions: Conditions | Sequence[Conditions] | None = None,
    hardware: Hardware | None = None,
    batch_count: int | None = None,
    progress: Progress = silent,
) -> Simulated:
    """Run every layer of a plan through the token-dispatch simulator.

    All requests count, unless the plan was made from these very traces: then its test requests alone do.

    Parameters
    ----------
    plan
        A plan, as planned or read, or `Plan.of` a placement of your own.
    traces
        What `open_traces` gives, or paths; nothing for the built-in trace.
    conditions
        One or several; None for the plan's own routing policy, unit and capacity.
    hardware
        Costs other than those of the plan's hardware; its mesh must be the plan's.
    batch_count
        Batches to simulate; None for as many as a plan is judged on when it is made.
    progress
        Called with a stage and its share done, 0 to 1.

    Returns
    -------
    Simulated
        `reports[layer]` has one report for each of the conditions: times in microseconds, loads, tiles, hops.

    Raises
    ------
    InputError
        For traces that do not fit the plan, and conditions that leave an expert without a replica.

    Examples
    --------
    >>> import numpy as np
    >>> from optimizer import Mesh, Placement
    >>> machine = Hardware.of(mesh=Mesh(1, 2, 2))
    >>> own = Plan.of(Placement(np.array([[0, 1], [2, 3]])), 0, Model("tiny", 4, 0, 1), machine)
    >>> simulate(own, np.zeros((3, 8, 1), dtype=int)).report.imbalance.tolist()
    [2.0, 2.0, 2.0]
    """
    cost = load_cost(plan) if hardware is None else hardware.cost
    asked = [own_conditions(plan)] if conditions is None else conditions
    trials = [asked] if isinstance(asked, Conditions) else list(asked)
    reports, notes = judge(plan, opened(traces), cost, trials, batch_count, progress)
    return Simulated(reports, tuple(notes))


def load_cost(plan: Plan) -> Cost:
    """The cost model of the hardware that a plan names."""
    return Cost(plan.hardware, load_hardware(plan.hardware))


def own_conditions(plan: Plan) -> Conditions:
    """The conditions that a plan was made for: its policy, the unit in which that counts, and its capacity."""
    return Conditions(plan.policy, plan.unit, capacity_factor=plan.capacity_factor)


def bound(
    traces: Traces,
    layer: int,
    model: Model | ModelChoice | None = None,
    hardware: Hardware | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Bounded:
    """What no placement of a layer goes below, on the test batches that its plans are judged on.

    Parameters
    ----------
    traces, layer, model, hardware, progress
        As of `plan_layer`; of counts the expected load is bounded.
    seed
        The seed by which requests are split, as in the options of a plan that is compared with the bounds.

    Returns
    -------
    Bounded
        Bounds of the mean over batches and, where they hold for each batch alone, of p50 and p99.

    Raises
    ------
    InputError
        For traces that cannot be used, and experts that do not fit in the slots.

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
    return Bounded(bound_layer(given, choice_of(model), layer, machine.mesh, machine.cost, reading))


def compare(
    traces: Traces,
    layer: int,
    model: Model | ModelChoice | None = None,
    hardware: Hardware | None = None,
    options: SolveOptions | None = None,
    progress: Progress = silent,
    cancel: Cancel | None = None,
) -> Compared:
    """Plan a layer with every published planner and with ours, and judge all on the same test batches.

    Parameters
    ----------
    traces, layer, model, hardware, progress, cancel
        As of `plan_layer`; counts cannot be compared, as nothing can be routed.
    options
        For our plan; the other planners take the time that they take.

    Returns
    -------
    Compared
        A row for each planner and routing policy, ours last.

    Raises
    ------
    InputError
        For counts, and as `plan_layer` does.

    Examples
    --------
    >>> import numpy as np
    >>> chosen = np.random.default_rng(0).integers(0, 4, (40, 32, 1))
    >>> wanted = SolveOptions(time_limit=20, iterations=200, routings=("even",))
    >>> found = compare(chosen, 0, Model("tiny", 4, 0, 1), Hardware.of(mesh="2x2"), wanted)
    >>> found.comparison.rows[-1].planned.name
    'moeplan'
    """
    machine, wanted = hardware or Hardware.of(), options or SolveOptions()
    given = replace(opened(traces), seed=wanted.seed)
    if open_counts(given, choice_of(model)) is not None:
        raise InputError("a comparison needs token traces: with counts alone there is nothing to route", "traces")
    source = open_source(given, [layer], choice_of(model), machine.mesh, partial(progress, "reading traces"))
    found = compare_planners(source, layer, machine.mesh, machine.cost, wanted, progress, cancel)
    return Compared(found, (source.origin, *source.notes))
