"""The counts of several data sets, of some of which tokens are recorded, which are then counted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.planning.many_layers.reading import LayerReader
from optimizer.planning.options import JOBS
from optimizer.planning.plan_fast import TOKENS, group_loads
from optimizer.traces.counted_source import holds_counts, open_counts
from optimizer.traces.datasets import DataSet
from optimizer.traces.formats.counts import Counts
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import TraceSource, model_of


@dataclass(frozen=True, eq=False)
class ReadCountSets:
    """What was read of several data sets: the counts of each, the model and the layers of all, and sentences that the
    user should read."""

    counts: tuple[Counts, ...]
    model: Model
    layers: tuple[int, ...]
    notes: tuple[str, ...]


MOST_GROUPS = 10
"""Groups of requests, each of which becomes a step: two of them are then kept for judging. Not tuned."""


def read_count_sets(
    sets: Sequence[DataSet],
    choice: Model | ModelChoice,
    mesh: Mesh,
    layers: Sequence[int] | None,
    progress: Callable[[float], None],
) -> ReadCountSets:
    """Read the data sets, as counts where they are counts, and by counting their tokens where they are not.

    choice: what is known of the model, which data sets with tokens may complete; layers: None for all that every data
    set counts. Raises InputError as the readers do, for explicit batches, and where no layer is in all data sets.
    """
    tokens = [each for each in sets if not holds_counts(each.named)]
    known = _known(choice, tokens)
    found: dict[str, Counts] = {}
    model: Model | None = None
    notes: dict[str, None] = {}
    for each in sets:
        counted = open_counts(each.named, known)
        if counted is not None:
            found[each.name], model = counted[0], model or counted[1]
            said = (f"{counted[0].source}: counts alone, so the expected load is planned", *counted[0].notes)
        else:
            reader = LayerReader.of(each.named, known, mesh, layers, progress, len(sets))
            found[each.name] = counts_of_traces(reader)
            said = (*reader.notes, "its tokens were counted, as there are only counts of another data set")
        notes |= dict.fromkeys(f"{each.name}: {note}" for note in said)
    assert model is not None  # at least one data set holds counts
    return ReadCountSets(tuple(found.values()), model, _layers(list(found.values()), layers), tuple(notes))


def _known(choice: Model | ModelChoice, tokens: Sequence[DataSet]) -> Model | ModelChoice:
    """What is known of the model, with the top-k that the recorded tokens of the first such data set show."""
    if isinstance(choice, Model) or choice.name or not tokens:
        return choice
    shown = model_of(tokens[0].named, choice)
    return replace(choice, top_k=shown.top_k) if shown.name == "custom" else shown


def _layers(counts: Sequence[Counts], layers: Sequence[int] | None) -> tuple[int, ...]:
    """The layers that are planned: those named, or those that every data set counts."""
    if layers is not None:
        return tuple(layers)
    common = [layer for layer in counts[0].counted_layers if all(layer in other.counted_layers for other in counts)]
    if not common:
        ranges = ", ".join(f"{each.layers[0]}..{each.layers[-1]} ({each.source})" for each in counts)
        raise InputError(f"no layer is counted in all data sets: {ranges}; say where their layers begin", "layers")
    return tuple(common)


def counts_of_traces(reader: LayerReader, jobs: int = JOBS) -> Counts:
    """The expected loads of the reader's layers, with a step for each group of requests.

    Tokens count as batches are made of them, by the phase that was asked for; every step is of the same weight.
    """
    layers: list[int] = []
    parts: list[Ints] = []
    for source, held in reader.sources():
        groups = _groups(source)
        parts.append(np.rint(TOKENS * group_loads(source, held, groups, jobs)).astype(np.int64))
        layers += held
    load = np.concatenate(parts, axis=1)
    name = f"{len(load)} groups of requests"
    return Counts(load, tuple(layers), np.full(len(load), TOKENS), reader.model.top_k, (), name)


def _groups(source: TraceSource) -> Sequence[Ints]:
    """Groups of requests that follow one another, each with tokens in it."""
    requests = np.arange(source.trace.requests)
    there = requests[np.diff(source.trace.offsets) > 0]
    return np.array_split(there, min(MOST_GROUPS, len(there)))
