"""Plans before the simulator, on traces of the user's."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from optimizer.domain.cost import Cost
from optimizer.domain.network import Network
from optimizer.errors import InputError
from optimizer.planning.options import Progress
from optimizer.planning.plan_file import Plan
from optimizer.routing.capacity import Coactivation
from optimizer.routing.policies import LEARNING
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.report import SimulationReport
from optimizer.simulation.simulator import Simulation
from optimizer.statistics.checked import checked_source
from optimizer.traces.composition import PHASES
from optimizer.traces.source import BATCHES_PER_SET, Source, TraceInput, batches_of


def judge(
    plan: Plan,
    named: TraceInput,
    cost: Cost,
    trials: Sequence[Conditions],
    batch_count: int | None,
    progress: Progress,
    wanted: Sequence[int] | None = None,
) -> tuple[dict[int, list[SimulationReport]], list[str]]:
    """Simulate layers of a plan under each of the conditions, all on the same batches.

    batch_count None: as many as a plan is judged on when it is made. wanted: the ids of the layers, None for all that
    the plan has. Returns the reports by layer, and sentences that the user should read. Batches are made up as the
    plan's were, unless something else was named. Raises InputError for layers that the plan lacks, and for one batch
    file for several layers.
    """
    layers = wanted_layers(plan, wanted, named)
    limited = any(conditions.capacity_factor is not None for conditions in trials)
    named = replace(as_planned(named, plan.layers[layers[0]].provenance), extras=limited)
    at, reading = cost.preset.network.tokens, partial(progress, "reading traces")
    source = checked_source(named, layers, plan.model, plan.mesh, reading, at)
    reports, notes = {}, [source.origin, *source.notes]
    for done, layer in enumerate(layers):
        unseen = plan.layers[layer].provenance.get("traces") == source.fingerprint(layer)
        if unseen:
            notes.append(f"layer {layer} was planned on this trace: judged on its test part alone")
        chunks = source.stream(layer, unseen, batch_count)
        expected = batch_count or (BATCHES_PER_SET if source.composition is None else batches_of(source.composition))
        simulations: list[Simulation] = []
        for chunk in chunks:
            if not simulations:
                guess = next_experts(source, layer, unseen) if limited and chunk.candidates is None else None
                simulations = _simulations(plan, layer, cost, trials, guess)
                if guess is not None and not unseen:
                    notes.append(f"layer {layer}: next experts are estimated from the very requests that are judged")
            for simulation in simulations:
                simulation.feed(chunk)
            share = simulations[0].batches / expected
            progress(f"layer {layer}", (done + share) / len(layers))
        reports[layer] = [simulation.report() for simulation in simulations]
    return reports, notes + _untaught(plan, layers, cost, trials)


def wanted_layers(plan: Plan, wanted: Sequence[int] | None, named: TraceInput) -> list[int]:
    """The layers to run, in ascending order. Raises InputError for layers that the plan lacks, and for one batch file
    for several layers."""
    if lacking := sorted(set(wanted or ()) - set(plan.layers)):
        there = ", ".join(map(str, sorted(plan.layers)))
        raise InputError(f"the plan has no layer {lacking[0]}; it has {there}", field="layer")
    layers = sorted(plan.layers if wanted is None else set(wanted))
    if named.batches is not None and len(layers) > 1:
        said = f"a batch file holds one layer, but {len(layers)} of the plan are to be run; name one, or give traces"
        raise InputError(said, field="batches")
    return layers


def _simulations(
    plan: Plan, layer: int, cost: Cost, trials: Sequence[Conditions], guess: Coactivation | None
) -> list[Simulation]:
    part = plan.layers[layer]
    return [
        Simulation(part.placement, plan.model, plan.mesh, cost, conditions, part.learned, guess, plan.before(layer))
        for conditions in trials
    ]


def next_experts(source: Source, layer: int, unseen: bool) -> Coactivation:
    """How to estimate next experts: from train batches where the test part is judged, else from all there is."""
    return Coactivation.of(source.sets(layer).train if unseen else source.everything(layer), source.model)


def _untaught(plan: Plan, of: Sequence[int], cost: Cost, trials: Sequence[Conditions]) -> list[str]:
    """Says so where a policy wants what was learned on train batches, and the plan file does not have it."""
    said, layers = [], [(layer, plan.layers[layer]) for layer in of]
    wanted = [conditions.routing for conditions in trials if conditions.routing in LEARNING]
    lacking = [str(layer) for layer, part in layers if part.learned is None]
    if wanted and lacking:
        which = f"layers {', '.join(lacking)} of the plan"
        said.append(f"{which} have no learned loads and shares: {wanted[0]} takes them as equal")
    sources = Network.of(plan.mesh, cost.preset.network).sources
    tables = {layer: None if part.learned is None else part.learned.table for layer, part in layers}
    lacking = [str(layer) for layer, table in tables.items() if table is None or table.sources != sources]
    if "table" in wanted and lacking:
        which = f"layers {', '.join(lacking)} of the plan"
        said.append(f"{which} have no dispatch table learned for {sources} sources: table takes the nearest replicas")
    return said


def as_planned(named: TraceInput, made: dict[str, Any]) -> TraceInput:
    """The named traces with the plan's seed, and with the make-up of its batches where nothing else was named.

    made: the provenance of one of the plan's layers. Raises InputError for one that no plan has.
    """
    seed, phase, users = made.get("seed", TraceInput.seed), made.get("phase"), made.get("row_users")
    whole = isinstance(users, list) and all(isinstance(number, int) for number in users)
    if not isinstance(seed, int) or seed < 0 or not (phase is None or phase in PHASES) or not (users is None or whole):
        raise InputError("layers: provenance.seed, phase or row_users of the plan is not as `moeplan solve` writes it")
    own_size = named.batch_tokens is not None or named.row_users is not None or users is None
    same_rows = named.row_users if own_size else tuple(users or ())
    return replace(named, seed=seed, phase=named.phase or phase, row_users=same_rows)
