"""A plan before the simulator, on traces of the user's."""

from collections.abc import Callable
from dataclasses import replace

from optimizer.cost import Cost
from optimizer.errors import InputError
from optimizer.inputs import Named, Source, open_source
from optimizer.plan import Plan
from optimizer.presets import load_hardware
from optimizer.routing.policies import POLICIES
from optimizer.simulator import SimulationReport, simulate
from optimizer.traces.batches import Batches

Notify = Callable[[str, float], None]


def judge(
    plan: Plan, named: Named, batch_tokens: int | None, routing: str | None, notify: Notify
) -> tuple[dict[int, SimulationReport], list[str]]:
    """Simulate every layer of a plan; returns the reports by layer, and sentences that the user should read.

    batch_tokens and routing: None for the plan's own. Raises InputError for an unknown policy, or for one batch file
    where the plan has several layers.
    """
    policy = plan.policy if routing is None else routing
    if policy not in POLICIES:
        raise InputError(f"--routing '{policy}' is not known; there are {', '.join(POLICIES)}")
    if named.batches is not None and len(plan.layers) > 1:
        raise InputError(f"--batches holds one layer, but the plan has {len(plan.layers)}; give TRACES instead")
    layers = sorted(plan.layers)
    seed, tokens = _as_planned(plan)
    named = replace(named, seed=seed, batch_tokens=batch_tokens or tokens)
    source = open_source(named, layers, plan.model, plan.mesh, lambda share: notify("reading traces", share))
    cost = Cost(plan.hardware, load_hardware(plan.hardware))
    reports, notes = {}, [source.origin, *source.notes]
    for done, layer in enumerate(layers):
        notify(f"layer {layer}", done / len(layers))
        batches, said = _unseen(plan, source, layer)
        reports[layer] = simulate(plan.layers[layer].placement, batches, plan.model.experts, plan.mesh, cost, policy)
        notes += said
    return reports, notes


def _as_planned(plan: Plan) -> tuple[int, int]:
    """The seed and the batch size that the plan was made with."""
    made = next(iter(plan.layers.values())).provenance
    seed, tokens = made.get("seed", Named.seed), made.get("batch_tokens", Named.batch_tokens)
    if not (isinstance(seed, int) and seed >= 0 and isinstance(tokens, int) and tokens >= 1):
        raise InputError("layers: provenance.seed and provenance.batch_tokens of the plan must be whole numbers")
    return seed, tokens


def _unseen(plan: Plan, source: Source, layer: int) -> tuple[Batches, list[str]]:
    """All batches, or the test ones where the plan was made from this very source."""
    if plan.layers[layer].provenance.get("traces") == source.fingerprint(layer):
        return source.sets(layer)[2], [f"layer {layer} was planned on this trace: judged on its test part alone"]
    return source.everything(layer), []
