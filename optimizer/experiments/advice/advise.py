"""The advice on one layer: the present placement judged, each step planned and judged in a share of the time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.experiments.advice.levers import Lever, sufficient
from optimizer.experiments.advice.study import Advice, LayerBatches, Study
from optimizer.interrupts import Cancel
from optimizer.planning.many_layers.reading import LayerReader
from optimizer.planning.options import Progress, SolveOptions, silent
from optimizer.routing.servers.abilities import ANY, Server
from optimizer.statistics.checked import checked_source
from optimizer.traces.counted_source import open_counts
from optimizer.traces.infer import ModelChoice
from optimizer.traces.memory import BatchArray
from optimizer.traces.source import TraceInput

LEAST_SECONDS = 1.0
"""What a step that is tried gets at least: planning takes no limit of zero."""


@dataclass(frozen=True, eq=False)
class AdviceRequest:
    """On what advice is asked for: a layer, None for the middle one of the traces; the present placement's file, None
    for what the server does by itself; further numbers of tokens in a batch."""

    layer: int | None
    placement: Path | None
    sizes: Sequence[int]
    server: Server = ANY


def advise(
    named: TraceInput,
    asked: AdviceRequest,
    choice: Model | ModelChoice,
    mesh: Mesh,
    cost: Cost,
    options: SolveOptions,
    progress: Progress = silent,
    cancel: Cancel | None = None,
) -> tuple[Advice, list[str]]:
    """Judge the present placement of a layer, and every step that could better it, on the same test batches.

    options: their time limit is for all steps together, from now on; their policies and constraints do not matter.
    Returns the advice, and sentences that the user should read. Raises InputError for counts, which hold no batches,
    and for a placement or traces that cannot be used.
    """
    if open_counts(named, choice) is not None:
        raise InputError("advice needs token traces: with counts alone there are no batches to be judged", "traces")
    named, effort = replace(named, extras=True), options.effort(cancel)
    number = _middle(named, choice, mesh) if asked.layer is None else asked.layer
    layer, notes = opened(named, number, choice, mesh, cost, progress)
    if asked.layer is None:
        notes.append(f"layer {number}, the middle one, stands for all; name another to see whether it differs")
    study = Study.begun(layer, asked.server, asked.placement, options)
    levers: list[Lever] = []
    left_out: list[str] = []
    for turn, step in enumerate(study.steps):
        if effort.cancel.asked or (levers and effort.deadline.remaining() <= 0):
            left_out.append(step.says)
            continue
        share = step.weight / sum(each.weight for each in study.steps[turn:])
        left = max(share * effort.deadline.remaining(), LEAST_SECONDS)
        told = partial(_told, progress, step.says, turn / len(study.steps))
        levers += study.tried(step, levers, left, effort.cancel, told)
    sizes = []
    for tokens in asked.sizes if not effort.cancel.asked else ():
        other, _ = opened(replace(named, batch_tokens=tokens), number, choice, mesh, cost, progress)
        sizes.append(study.at(other, sufficient(levers)))
    return study.advice(levers, sizes, tuple(left_out)), notes


def _told(progress: Progress, says: str, share: float, stage: str, _: float) -> None:
    """Tell which step planning is at, and the share of all steps that is done."""
    progress(f"{says}: {stage}", share)


def _middle(named: TraceInput, choice: Model | ModelChoice, mesh: Mesh) -> int:
    """The middle one of the layers with experts that the traces have; 0 for a batch file, which holds one layer."""
    if named.batches is not None or isinstance(named.memory, BatchArray):
        return 0
    layers = LayerReader.of(named, choice, mesh, None, lambda share: None).layers
    return layers[len(layers) // 2]


def opened(
    named: TraceInput, number: int, choice: Model | ModelChoice, mesh: Mesh, cost: Cost, progress: Progress
) -> tuple[LayerBatches, list[str]]:
    """One layer of the traces, and sentences that the user should read."""
    reading, at = partial(progress, "reading traces"), cost.preset.network.tokens
    source = checked_source(named, [number], choice, mesh, reading, at)
    own = cost.for_model(source.model)
    notes = [source.origin, *source.notes, *own.notes(source.model)]
    return LayerBatches(number, source.model, mesh, own, source.sets(number)), notes
