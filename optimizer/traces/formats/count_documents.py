"""Counts as JSON documents and as `.npz` archives."""

from itertools import islice
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.errors import InputError
from optimizer.traces.formats.json_scan import whole_list
from optimizer.traces.formats.raw_counts import RawCounts, WholeNumbers
from optimizer.traces.formats.untrusted import (
    BYTE_ORDER_MARK,
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


def logical_count(path: Path, whole: WholeNumbers) -> RawCounts:
    """Read `{"logical_count": [step][layer][expert] or [layer][expert]}`."""
    return RawCounts(
        in_steps(array_from_lists(_document(path).get("logical_count"), "logical_count"), "logical_count", whole)
    )


def count_list(path: Path, whole: WholeNumbers) -> RawCounts:
    """Read a bare `[layer][expert]`, as LMDeploy writes it. Raises InputError for a file that cannot be opened."""
    try:
        text = path.read_bytes().removeprefix(BYTE_ORDER_MARK)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a file that you may read") from None
    listed = whole_list(text)
    if listed is None:
        values = [value for _, value in json_values(path)]
        if any(isinstance(value, UnusableError) for value in values):
            raise UnusableError("is not JSON")
        listed = array_from_lists(values, "the list")
    return RawCounts(in_steps(listed, "the list", whole))


def load_history(path: Path, whole: WholeNumbers) -> RawCounts:
    """Read `{"load_history": [{"logical_expert_load": [layer][expert]}, ...]}`, an entry a step."""
    history = _document(path).get("load_history")
    if not isinstance(history, list) or not history:
        raise UnusableError("load_history is empty, or no list")
    loads: list[Array] = []
    for step, entry in enumerate(history):
        name = f"load_history[{step}].logical_expert_load"
        load = array_from_lists(entry.get("logical_expert_load") if isinstance(entry, dict) else None, name)
        if load.ndim != 2 or load.shape != (*loads, load)[0].shape:
            raise UnusableError(f"{name} has shape {load.shape}, not [layer, expert] like the others")
        loads.append(load)
    return RawCounts(in_steps(np.stack(loads), "load_history", whole))


def archive(path: Path, whole: WholeNumbers) -> RawCounts:
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
    ids = counts_from(held["layers"], "layers").tolist() if "layers" in held else None
    names = tuple(name for name in _texts(held["domains"]) for _ in range(shards)) if "domains" in held else ()
    load = whole.counts(held["counts"], "counts").reshape(-1, layers, experts)
    return RawCounts(load, ids, tokens, _top_k(load, tokens), names)


def in_steps(load: Array, field: str, whole: WholeNumbers) -> Ints:
    """Check a load with or without the axis of steps, and return it as `[step, layer, expert]`."""
    if load.ndim not in (2, 3):
        raise UnusableError(f"{field} has shape {load.shape}, not [step, layer, expert] or [layer, expert]")
    return whole.counts(load, field).reshape(-1, *load.shape[-2:])


def _document(path: Path) -> dict[str, object]:
    """The one JSON object of a file."""
    values = [value for _, value in islice(json_values(path), 2)]
    if len(values) != 1 or not isinstance(values[0], dict):
        raise UnusableError("is not one JSON object")
    return values[0]


def _texts(array: Array) -> list[str]:
    """The texts of an array. Raises UnusableError for letters that cannot be printed, and for what is no Unicode."""
    try:
        texts: list[str] = array.tolist()
    except (ValueError, SystemError):  # numpy raises the latter for letters beyond Unicode
        texts = ["\n"]
    if not all(map(str.isprintable, texts)):
        raise UnusableError("domains holds what is no printable text")
    return texts


def _top_k(load: Ints, tokens: Ints | None) -> int | None:
    """How many experts every token chose in every layer; None where that is not known or not everywhere the same."""
    if tokens is None:
        return None
    pairs = load.sum(axis=2)
    top_k = int(pairs.max()) // max(int(tokens.max()), 1)
    return top_k if top_k and (pairs == top_k * tokens[:, None]).all() else None
