"""Traces that only count: how often each expert was chosen, by recorded step (DOMAIN section 4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.arrays import fitting, frozen
from optimizer.errors import InputError
from optimizer.traces.formats import recorder, tensorrt
from optimizer.traces.formats.sniff import COUNTS_ONLY, Format
from optimizer.traces.formats.untrusted import (
    INTEGERS,
    NUMBERS,
    TEXT,
    Array,
    UnusableError,
    array_from_lists,
    arrays_from_npz,
    counts_from,
    json_values,
)


@dataclass(frozen=True, eq=False)
class Counts:
    """How many token-expert pairs went to each expert.

    load `[step, layer, expert]` int64, where a step is whatever the file counts separately: a forward pass, a
    window, a shard, or everything; layers: the model layer id of each entry of the layer axis; tokens `[step]` int64
    and top_k are None where the file does not say them; names: one for each step, or none at all; source: where the
    counts came from, in words. The arrays are copied
    and read-only. Raises ValueError for shapes that do not fit together and for negative counts.
    """

    load: Ints
    layers: tuple[int, ...]
    tokens: Ints | None
    top_k: int | None
    names: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        steps, layers, _ = self.load.shape
        if layers != len(self.layers) or len(self.names) not in (0, steps):
            raise ValueError("load, layers and names of counts do not fit together")
        if self.tokens is not None and self.tokens.shape != (steps,):
            raise ValueError("load and tokens of counts do not fit together")
        object.__setattr__(self, "load", frozen(fitting("counts", self.load, np.int64)))
        if self.tokens is not None:
            object.__setattr__(self, "tokens", frozen(fitting("tokens", self.tokens, np.int64)))


def read_counts(path: Path, kind: Format, first_layer: int) -> Counts:
    """Read a file or folder of counts; its layers are numbered from `first_layer` on where it does not say.

    A layer axis that begins with layers without any count (dense layers) is numbered from 0. Raises InputError
    for whatever keeps the counts from being used, and for a format that is not of counts.
    """
    if kind not in COUNTS_ONLY:
        raise InputError(f"{path}: format {kind} holds requests, not counts; name counts, or give it as a trace")
    try:
        match kind:
            case Format.COUNTS_NPZ:
                return _from_archive(path, first_layer)
            case Format.TENSORRT:
                return _from_tensorrt(path)
            case Format.RECORDER_PT:
                load = recorder.read_logical_count(path)
            case Format.LOGICAL_COUNT:
                load = array_from_lists(_document(path).get("logical_count"), "logical_count")
            case _:
                load = _history(_document(path))
        return _made(path, _steps(load, kind), first_layer)
    except UnusableError as error:
        raise InputError(f"{path}: {error}; record it again, or name another file") from None


def _document(path: Path) -> dict[str, object]:
    """The one JSON object of a file."""
    values = [value for _, value in islice(json_values(path), 2)]
    if len(values) != 1 or not isinstance(values[0], dict):
        raise UnusableError("is not one JSON object")
    return values[0]


def _steps(load: Array, kind: Format) -> Ints:
    """Check a load with or without the axis of steps, and return it as `[step, layer, expert]`."""
    field = "load_history" if kind is Format.LOAD_HISTORY else "logical_count"
    if load.ndim not in (2, 3):
        raise UnusableError(f"{field} has shape {load.shape}, not [step, layer, expert] or [layer, expert]")
    return counts_from(load, field).reshape(-1, *load.shape[-2:])


def _history(document: dict[str, object]) -> Array:
    """Stack the entries of a load history into `[step, layer, expert]`."""
    history = document.get("load_history")
    if not isinstance(history, list) or not history:
        raise UnusableError("load_history is empty, or no list")
    loads: list[Array] = []
    for step, entry in enumerate(history):
        name = f"load_history[{step}].logical_expert_load"
        load = array_from_lists(entry.get("logical_expert_load") if isinstance(entry, dict) else None, name)
        if load.ndim != 2 or load.shape != (*loads, load)[0].shape:
            raise UnusableError(f"{name} has shape {load.shape}, not [layer, expert] like the others")
        loads.append(load)
    return np.stack(loads)


def _from_archive(path: Path, first_layer: int) -> Counts:
    """Read an archive of `counts [domain, shard, layer, expert]` and, if present, tokens, domains and layers.

    `tokens [domain, shard]` says how many tokens were counted, `domains` names the first axis, and `layers` holds the
    model layer ids. Every shard becomes a step.
    """
    wanted = {"counts": NUMBERS, "tokens": NUMBERS, "layers": INTEGERS, "domains": TEXT}
    held = arrays_from_npz(path, wanted)
    if "counts" not in held or held["counts"].ndim != 4:
        raise UnusableError("counts is missing, or not [domain, shard, layer, expert]")
    domains, shards, layers, experts = held["counts"].shape
    for name, shape in (("tokens", (domains, shards)), ("layers", (layers,)), ("domains", (domains,))):
        if name in held and held[name].shape != shape:
            raise UnusableError(f"{name} has shape {held[name].shape}, not {shape} as counts has")
    tokens = counts_from(held["tokens"], "tokens").ravel() if "tokens" in held else None
    ids = counts_from(held["layers"], "layers").tolist() if "layers" in held else first_layer
    names = [name for name in _texts(held["domains"]) for _ in range(shards)] if "domains" in held else ()
    load = counts_from(held["counts"], "counts").reshape(-1, layers, experts)
    return _made(path, load, ids, tokens, _top_k(load, tokens), names)


def _texts(array: Array) -> list[str]:
    """The texts of an array. Raises UnusableError for letters that cannot be printed, and for what is no Unicode."""
    try:
        texts: list[str] = array.tolist()
    except (ValueError, SystemError):  # numpy raises the latter for letters beyond Unicode
        texts = ["\n"]
    if not all(map(str.isprintable, texts)):
        raise UnusableError("domains holds what is no printable text")
    return texts


def _from_tensorrt(path: Path) -> Counts:
    """Read TensorRT-LLM's folder, in which every iteration becomes a step."""
    read = tensorrt.read_statistics(path)
    names = [f"iteration {iteration}" for iteration in read.iterations]
    return _made(path, read.load, read.layers, None, read.top_k, names)


def _made(
    path: Path,
    load: Ints,
    layers: Sequence[int] | int,
    tokens: Ints | None = None,
    top_k: int | None = None,
    names: Sequence[str] = (),
) -> Counts:
    """Make the counts of a file from its load `[step, layer, expert]`; layers are the layers' ids, or the first id."""
    if not load.any():
        raise UnusableError("every count is zero")
    if isinstance(layers, int):
        first = layers if load[:, 0].any() else 0
        layers = range(first, first + load.shape[1])
    if len(set(layers)) < len(layers):
        raise UnusableError("layers names a layer twice")
    return Counts(load, tuple(layers), tokens, top_k, tuple(names), f"{len(load)} steps of {path.name}")


def _top_k(load: Ints, tokens: Ints | None) -> int | None:
    """How many experts every token chose in every layer; None where that is not known or not everywhere the same."""
    if tokens is None:
        return None
    pairs = load.sum(axis=2)
    top_k = int(pairs.max()) // max(int(tokens.max()), 1)
    return top_k if top_k and (pairs == top_k * tokens[:, None]).all() else None


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
