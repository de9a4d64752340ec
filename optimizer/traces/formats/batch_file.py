"""Explicit batches: a file that already says which tokens share a forward pass, in the order of time."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Bools, Ints
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.errors import InputError
from optimizer.traces.batches import Batches, default_rows, with_shared
from optimizer.traces.formats.untrusted import INTEGERS, UnusableError, arrays_from_npz


class BatchArrays(NamedTuple):
    """The arrays of a batch file: experts `[batch, token, top_k]`, and source_row and source `[batch, token]` or None.

    source_row is a token's mesh row; source is what sends it: a device where each device holds tokens of its own,
    otherwise the mesh row again.
    """

    experts: Ints
    source_row: Ints | None = None
    source: Ints | None = None


def read_batches(path: Path) -> BatchArrays:
    """Read the arrays of a batch file. Raises InputError for a file that does not hold such arrays."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give an .npz with experts [batch, token, top_k]", "batches")
    try:
        arrays = arrays_from_npz(path, dict.fromkeys(BatchArrays._fields, INTEGERS))
    except UnusableError as error:
        raise InputError(f"{path}: {error}; give an .npz with experts [batch, token, top_k]", "batches") from None
    experts = arrays.get("experts")
    if experts is None or experts.ndim != 3:
        found = "missing" if experts is None else f"{experts.dtype} {experts.shape}"
        raise InputError(f"{path}: experts is {found}, not integers [batch, token, top_k]", "batches")
    for name in ("source_row", "source"):
        if name in arrays and arrays[name].shape != experts.shape[:2]:
            found = f"{arrays[name].dtype} {arrays[name].shape}"
            raise InputError(f"{path}: {name} is {found}, not integers {experts.shape[:2]}", "batches")
    return BatchArrays(experts, arrays.get("source_row"), arrays.get("source"))


def explicit_batches(path: Path, arrays: BatchArrays, model: Model, network: Network) -> Batches:
    """Make the batches of a file.

    Tokens come from the row that source_row says, or source; without both, from the mesh rows in equal blocks. Raises
    InputError for arrays that do not fit the model or the network, or each other, and names the first token at fault.
    """
    experts, top_k = arrays.experts, arrays.experts.shape[2]
    if top_k != model.top_k:
        raise InputError(f"{path}: experts has top-{top_k}, but the model has top-{model.top_k}", "batches")
    _refuse(path, "experts: id", experts, (experts < 0) | (experts >= model.routed_experts), model.routed_experts)
    ordered = np.sort(experts, axis=2)
    doubled = (ordered[..., 1:] == ordered[..., :-1]).any(axis=2)
    if doubled.any():
        batch, token = np.argwhere(doubled)[0]
        raise InputError(f"{path}: batch {batch}, token {token} names one expert twice", "batches")
    rows = _rows(path, arrays, network)
    return Batches(with_shared(experts, model), rows, source=arrays.source if network.tokens == "device" else None)


def _rows(path: Path, arrays: BatchArrays, network: Network) -> Ints:
    """The mesh row of each token, `[batch, token]`. Raises InputError where the arrays say none, or two."""
    rows, source = arrays.source_row, arrays.source
    if rows is not None:
        _refuse(path, "source_row:", rows, (rows < 0) | (rows >= network.mesh.rows), network.mesh.rows)
    if source is None:
        batches, tokens, _ = arrays.experts.shape
        return np.broadcast_to(default_rows(tokens, network.mesh.rows), (batches, tokens)) if rows is None else rows
    _refuse(path, "source:", source, (source < 0) | (source >= network.sources), network.sources)
    home: Ints = network.home_row[source]
    if rows is not None and (wrong := home != rows).any():
        where = tuple(np.argwhere(wrong)[0])
        said = f"source {source[where]} in batch {where[0]}, token {where[1]} is in row {home[where]}"
        raise InputError(f"{path}: {said}, but its source_row is {rows[where]}", "batches")
    return home


def _refuse(path: Path, what: str, values: Ints, wrong: Bools, limit: int) -> None:
    """Raise InputError for the first value that is marked as wrong, as it is outside 0..limit-1."""
    if wrong.any():
        where = tuple(np.argwhere(wrong)[0])
        raise InputError(
            f"{path}: {what} {values[where]} in batch {where[0]}, token {where[1]} is outside 0..{limit - 1}",
            "batches",
        )
