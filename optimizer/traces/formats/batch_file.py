"""Explicit batches: a file that already says which tokens share a forward pass."""

from pathlib import Path

import numpy as np

from formulations.kit.arrays import Bools, Ints
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.traces.batches import Batches, default_rows, with_shared
from optimizer.traces.formats.untrusted import INTEGERS, UnusableError, arrays_from_npz


def read_batches(path: Path) -> tuple[Ints, Ints | None]:
    """Read experts `[batch, token, top_k]` and, if there is one, source_row `[batch, token]` of a batch file.

    Raises InputError for a file that does not hold such arrays.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give an .npz with experts [batch, token, top_k]", "batches")
    try:
        arrays = arrays_from_npz(path, {"experts": INTEGERS, "source_row": INTEGERS})
    except UnusableError as error:
        raise InputError(f"{path}: {error}; give an .npz with experts [batch, token, top_k]", "batches") from None
    experts, rows = arrays.get("experts"), arrays.get("source_row")
    if experts is None or experts.ndim != 3:
        found = "missing" if experts is None else f"{experts.dtype} {experts.shape}"
        raise InputError(f"{path}: experts is {found}, not integers [batch, token, top_k]", "batches")
    if rows is not None and rows.shape != experts.shape[:2]:
        raise InputError(
            f"{path}: source_row is {rows.dtype} {rows.shape}, not integers {experts.shape[:2]}", "batches"
        )
    return experts, rows


def explicit_batches(path: Path, experts: Ints, rows: Ints | None, model: Model, mesh_rows: int) -> Batches:
    """Make the batches of a file, whose rows without source_row come from the mesh rows in equal blocks.

    Raises InputError for arrays that do not fit the model or the mesh, and names the first token at fault.
    """
    _, tokens, top_k = experts.shape
    if top_k != model.top_k:
        raise InputError(f"{path}: experts has top-{top_k}, but the model has top-{model.top_k}", "batches")
    _refuse(path, "experts: id", experts, (experts < 0) | (experts >= model.routed_experts), model.routed_experts)
    ordered = np.sort(experts, axis=2)
    doubled = (ordered[..., 1:] == ordered[..., :-1]).any(axis=2)
    if doubled.any():
        batch, token = np.argwhere(doubled)[0]
        raise InputError(f"{path}: batch {batch}, token {token} names one expert twice", "batches")
    if rows is None:
        rows = np.broadcast_to(default_rows(tokens, mesh_rows), experts.shape[:2])
    _refuse(path, "source_row:", rows, (rows < 0) | (rows >= mesh_rows), mesh_rows)
    return Batches(with_shared(experts, model), rows)


def _refuse(path: Path, what: str, values: Ints, wrong: Bools, limit: int) -> None:
    """Raise InputError for the first value that is marked as wrong, as it is outside 0..limit-1."""
    if wrong.any():
        where = tuple(np.argwhere(wrong)[0])
        raise InputError(
            f"{path}: {what} {values[where]} in batch {where[0]}, token {where[1]} is outside 0..{limit - 1}",
            "batches",
        )
