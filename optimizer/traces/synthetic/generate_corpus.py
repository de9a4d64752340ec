"""The corpus that `synth` writes: which model, which layers, whose shares."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.traces.counted_source import open_counts
from optimizer.traces.formats.counts import Counts, step_counts
from optimizer.traces.infer import ModelChoice, model_without_trace
from optimizer.traces.source import TraceInput
from optimizer.traces.synthetic.corpus_writer import CorpusRecipe, synthesise


def generate_corpus(
    out: Path,
    recipe: CorpusRecipe,
    choice: ModelChoice,
    layers: Sequence[int] | None,
    counts: str | None,
    progress: Callable[[float], None],
) -> None:
    """Write a corpus into folder `out`; layers None stands for all MoE layers of the model, or of the counts.

    Raises InputError for a file that holds no counts, and where the layers are not known.
    """
    counted = _counts(counts, choice)
    model = counted[1] if counted else model_without_trace(choice)
    known = counted[0].counted_layers if counted else model.moe_layer_ids
    asked = list(known) if layers is None else list(layers)
    if not asked:
        raise InputError(f"model {model.name} does not say which layers it has; name them", "layers")
    loads = np.stack([step_counts(counted[0], layer).sum(axis=0) for layer in asked]) if counted else None
    synthesise(out, model, asked, recipe, loads, progress)


def _counts(path: str | None, choice: ModelChoice) -> tuple[Counts, Model] | None:
    """The counts of a file and their model; None where no file is named."""
    if path is None:
        return None
    found = open_counts(TraceInput(traces=[path]), choice)
    if found is None:
        raise InputError(f"{path}: holds requests, not counts; give a file of counts", "counts")
    return found
