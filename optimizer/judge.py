"""A plan before the simulator, on traces of the user's."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from optimizer.cost import Cost
from optimizer.errors import InputError
from optimizer.inputs import Named, Source, open_source
from optimizer.plan import Plan
from optimizer.presets import load_hardware
from optimizer.routing.policies import POLICIES
from optimizer.simulator import SimulationReport, simulate
from optimizer.traces.batches import Batches
from optimizer.traces.composition import PHASES

Notify = Callable[[str, float], None]


def judge(
    plan: Plan, named: Named, routing: str | None, notify: Notify
) -> tuple[dict[int, SimulationReport], list[str]]:
    """Simulate every layer of a plan; returns the reports by layer, and sentences that the user should read.

    Batches are made up as the plan's were, unless something else was named; routing None is the plan's policy. Raises
    InputError for an unknown policy, or for one batch file where the plan has several layers.
    """
    policy = plan.policy if routing is None else routing
    if policy not in POLICIES:
        raise InputError(f"--routing '{policy}' is not known; there are {', '.join(POLICIES)}")
    if named.batches is not None and len(plan.layers) > 1:
        raise InputError(f"--batches holds one layer, but the plan has {len(plan.layers)}; give TRACES instead")
    layers = sorted(plan.layers)
    named = _as_planned(named, plan.layers[layers[0]].provenance)
    source = open_source(named, layers, plan.model, plan.mesh, lambda share: notify("reading traces", share))
    cost = Cost(plan.hardware, load_hardware(plan.hardware))
    reports, notes = {}, [source.origin, *source.notes]
    for done, layer in enumerate(layers):
        notify(f"layer {layer}", done / len(layers))
        batches, said = _unseen(plan, source, layer)
        reports[layer] = simulate(plan.layers[layer].placement, batches, plan.model.experts, plan.mesh, cost, policy)
        notes += said
    return reports, notes


def _as_planned(named: Named, made: dict[str, Any]) -> Named:
    """The plan's seed, and its batches' make-up where nothing else was named."""
    seed, phase, users = made.get("seed", Named.seed), made.get("phase"), made.get("row_users")
    whole = isinstance(users, list) and all(isinstance(number, int) for number in users)
    if not isinstance(seed, int) or seed < 0 or not (phase is None or phase in PHASES) or not (users is None or whole):
        raise InputError("layers: provenance.seed, phase or row_users of the plan is not as `moeplan solve` writes it")
    own_size = named.batch_tokens is not None or named.row_users is not None or users is None
    same_rows = named.row_users if own_size else tuple(users or ())
    return replace(named, seed=seed, phase=named.phase or phase, row_users=same_rows)


def _unseen(plan: Plan, source: Source, layer: int) -> tuple[Batches, list[str]]:
    """All batches, or the test ones where the plan was made from this very source."""
    if plan.layers[layer].provenance.get("traces") == source.fingerprint(layer):
        return source.sets(layer)[2], [f"layer {layer} was planned on this trace: judged on its test part alone"]
    return source.everything(layer), []
