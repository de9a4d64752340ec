"""TensorRT-LLM's raw expert ids: a folder with `rank{r}_raw.safetensors`, `{iteration}_{layer}` -> ids `[token, k]`.

The files hold forward passes, and do not say which requests ran in them: see `read_raw_ids`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from formulations.kit.arrays import Ints
from optimizer.errors import InputError
from optimizer.traces.formats.request import BadRequestError, Request
from optimizer.traces.formats.untrusted import INTEGERS, LARGEST_ID, UnusableError

RAW = re.compile(r"rank([0-9]{1,6})_raw\.safetensors")
KEY = re.compile(r"([0-9]{1,9})_([0-9]{1,9})")
REMARK = (
    "TensorRT-LLM's raw ids do not say which requests or phases their iterations are of: each iteration of a rank "
    "counts as a request whose tokens are output and follow each other"
)


def read_raw_ids(path: Path) -> Iterator[Request | BadRequestError]:
    """Read each iteration of each rank as a request of output tokens, rank by rank, in the order of iterations.

    One iteration is in memory at a time. Raises InputError where the folder cannot be read.
    """
    try:
        files = sorted((int(found[1]), file) for file in path.iterdir() if (found := RAW.fullmatch(file.name)))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a folder that you may read") from None
    for _, file in files:
        try:
            yield from _of_rank(file)
        except UnusableError as error:
            yield BadRequestError(f"{file.name}: {error}")


def _of_rank(file: Path) -> Iterator[Request | BadRequestError]:
    """The iterations of a rank. Raises UnusableError for a file that is damaged as a whole."""
    try:
        opened = safe_open(str(file), framework="np")
    except Exception:  # safetensors raises several kinds for damaged files
        raise UnusableError("is not a whole safetensors file") from None
    with opened as held:
        layers: dict[int, dict[int, str]] = {}
        for key in held.keys():  # noqa: SIM118  (it is no dictionary)
            found = KEY.fullmatch(key)
            if not found:
                raise UnusableError(f"key {key[:40]!r} is not of the form iteration_layer")
            layers.setdefault(int(found[1]), {})[int(found[2])] = key
        for iteration, keys in sorted(layers.items()):
            try:
                request = _joined({layer: _ids(held, key) for layer, key in sorted(keys.items())})
                if len(request.experts):  # a rank may run nothing
                    yield request
            except UnusableError as error:
                yield BadRequestError(f"{file.name}: iteration {iteration}: {error}")


def _ids(held: Any, key: str) -> Ints:
    """The ids `[token, k]` of a key."""
    try:
        ids: Ints = held.get_tensor(key)
    except Exception:  # safetensors and numpy raise several kinds for foreign types
        raise UnusableError(f"{key} cannot be read") from None
    if ids.ndim != 2 or ids.dtype.kind not in INTEGERS or not ids.shape[1]:
        raise UnusableError(f"{key} is {ids.dtype.name} {ids.shape}, not integers [token, top_k]")
    if ids.min(initial=0) < -1 or ids.max(initial=0) > LARGEST_ID:
        raise UnusableError(f"{key} holds {ids.min()}..{ids.max()}, not expert ids from 0 to {LARGEST_ID}")
    return ids.astype(np.int32)


def _joined(ids: dict[int, Ints]) -> Request:
    """The request of an iteration, from the ids of its layers."""
    shapes = {array.shape for array in ids.values()}
    if len(shapes) > 1:
        raise UnusableError(f"its layers differ in tokens or top-k: {sorted(shapes)}")
    return Request(np.stack(list(ids.values()), axis=1), 0, tuple(ids), remark=REMARK)
