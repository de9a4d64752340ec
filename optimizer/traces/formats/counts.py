"""Traces that only count: how often each expert was chosen, by recorded step (DOMAIN section 4)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Bools, Ints
from optimizer.domain.arrays import fitting, frozen
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.traces.formats import count_documents, recorder, recorder_passes, tensorrt, vllm_load
from optimizer.traces.formats.layer_axis import numbered
from optimizer.traces.formats.raw_counts import RawCounts, WholeNumbers
from optimizer.traces.formats.sniff import COUNTS_ONLY, Format
from optimizer.traces.formats.steps import empty_steps
from optimizer.traces.formats.untrusted import UnusableError


@dataclass(frozen=True, eq=False)
class Counts:
    """How many token-expert pairs went to each expert.

    load `[step, layer, expert]` int64, where a step is whatever the file counts separately: a forward pass, a
    window, a shard, or everything; layers: the model layer id of each entry of the layer axis; tokens `[step]` int64
    and top_k are None where the file does not say them; names: one for each step, or none at all; source: where the
    counts came from, in words; notes: sentences on what was summed, rounded or left out, and on what looks wrong. The
    arrays are copied and read-only. Raises ValueError for shapes that do not fit together and for negative counts.
    """

    load: Ints
    layers: tuple[int, ...]
    tokens: Ints | None
    top_k: int | None
    names: tuple[str, ...]
    source: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        steps, layers, _ = self.load.shape
        if layers != len(self.layers) or len(self.names) not in (0, steps):
            raise ValueError("load, layers and names of counts do not fit together")
        if self.tokens is not None and self.tokens.shape != (steps,):
            raise ValueError("load and tokens of counts do not fit together")
        object.__setattr__(self, "load", frozen(fitting("counts", self.load, np.int64)))
        if self.tokens is not None:
            object.__setattr__(self, "tokens", frozen(fitting("tokens", self.tokens, np.int64)))

    @property
    def counted_layers(self) -> tuple[int, ...]:
        """The ids of the layers in which anything was counted, which dense layers are not."""
        return tuple(layer for layer, load in zip(self.layers, self.load.max(axis=(0, 2)), strict=True) if load)


@dataclass(frozen=True)
class CountsReading:
    """How files of counts are read: first_moe_layer and model number their layers where they do not say it themselves,
    as `layer_axis.numbered` does; scale is what all counts are multiplied by, None for whole numbers."""

    first_moe_layer: int | None = None
    model: Model | None = None
    scale: float | None = None


READERS: dict[Format, Callable[[Path, WholeNumbers], RawCounts]] = {
    Format.COUNTS_NPZ: count_documents.archive,
    Format.LOGICAL_COUNT: count_documents.logical_count,
    Format.LOAD_HISTORY: count_documents.load_history,
    Format.COUNT_LIST: count_documents.count_list,
    Format.VLLM_LOAD: vllm_load.read_load,
    Format.RECORDER_PT: recorder.read_steps,
    Format.RECORDER_PASSES: lambda path, whole: recorder_passes.read_passes([path], whole),
    Format.TENSORRT: lambda path, whole: tensorrt.read_statistics(path),
}
"""The reader of each format of counts, of which one file or folder is a whole."""


def read_counts(path: Path, kind: Format, reading: CountsReading | None = None) -> Counts:
    """Read one file or folder of counts.

    Raises InputError for whatever keeps the counts from being used, and for a format that is not of counts.
    """
    if kind not in COUNTS_ONLY:
        raise InputError(f"{path}: format {kind} holds requests, not counts; name counts, or give it as a trace")
    how = reading or CountsReading()
    return numbered_counts(raw_counts(path, kind, how.scale), path, how)


def raw_counts(path: Path, kind: Format, scale: float | None = None) -> RawCounts:
    """Read one file or folder of counts, whose layers are not numbered yet. Raises InputError as `read_counts` does."""
    return _read(path, lambda whole: READERS[kind](path, whole), scale)


def raw_passes(paths: Sequence[Path], scale: float | None = None) -> RawCounts:
    """Read the files of a run of SGLang's recorder per pass, one or more for each rank, as one recording. Raises
    InputError as `read_counts` does."""
    where = paths[0] if len(paths) == 1 else paths[0].parent
    return _read(where, lambda whole: recorder_passes.read_passes(paths, whole), scale)


def _read(path: Path, read: Callable[[WholeNumbers], RawCounts], scale: float | None) -> RawCounts:
    """What a reader finds at a path, without steps in which nothing is counted."""
    whole = WholeNumbers(scale)
    try:
        found = read(whole)
        counted: Bools = found.load.max(axis=(1, 2), initial=0) > 0
        if not counted.any():
            raise UnusableError("every count is zero")
    except UnusableError as error:
        remedy = "" if error.field else "; record it again, or name another file"
        raise InputError(f"{path}: {error}{remedy}", error.field) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a file that you may read") from None
    return _with_counted_steps(found, counted, whole.notes)


def _with_counted_steps(found: RawCounts, counted: Bools, notes: tuple[str, ...]) -> RawCounts:
    """What was found without the steps in which nothing was counted, `counted [step]`, and with further notes."""
    return RawCounts(
        found.load if counted.all() else found.load[counted],
        found.layers,
        None if found.tokens is None else found.tokens[counted],
        found.top_k,
        tuple(name for name, there in zip(found.names, counted, strict=True) if there) if found.names else (),
        (*empty_steps(int((~counted).sum()), len(counted)), *found.notes, *notes),
    )


def numbered_counts(found: RawCounts, path: Path, reading: CountsReading) -> Counts:
    """The counts that were found at a path, with their layers numbered; an axis that begins with layers without any
    count (dense layers) is numbered from 0. Raises InputError for an axis that can be read in two ways."""
    load, layers = found.load, found.layers
    if layers is None:
        dense_seen = not load[:, 0].any()
        layers = numbered(load.shape[1], dense_seen, reading.model, reading.first_moe_layer)
    if len(set(layers)) < len(layers):
        raise InputError(f"{path}: layers names a layer twice; record it again, or name another file")
    source = f"{len(load)} steps of {path.name}"
    return Counts(load, tuple(layers), found.tokens, found.top_k, found.names, source, found.notes)


def step_counts(counts: Counts, layer: int) -> Ints:
    """Take one layer's counts from the steps in which anything was counted, `[step, expert]`.

    Raises InputError for a layer that is not there, and for one in which nothing was counted.
    """
    if layer not in counts.layers:
        raise InputError(
            f"layer {layer} is not in {counts.source}, which has {counts.layers[0]}..{counts.layers[-1]}", "layer"
        )
    load = counts.load[:, counts.layers.index(layer)]
    counted: Ints = load[load.sum(axis=1) > 0]
    if not len(counted):
        raise InputError(f"{counts.source} counts nothing in layer {layer}; name another layer", "layer")
    return counted
