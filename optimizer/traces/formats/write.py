"""Writing the native trace format: one `.npz` per request, which `npz.py` reads."""

from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.errors import InputError
from optimizer.files import write_whole_binary
from optimizer.traces.formats.request import Request
from optimizer.traces.formats.untrusted import LARGEST_ID

Array = TypeVar("Array", Ints, Floats)


def write_request(path: Path, request: Request, request_id: int) -> None:
    """Write one request, whole or not at all; the token ids, which are unknown, are -1.

    Where the request says its layers, its arrays are laid out on layers 0 to the largest of them, with zeros for
    those that it does not hold, so that a reader counts absolute layers. Tokens that were not recorded stay rows of
    -1. Ids take one byte each where all are below 256, or below 128 beside -1. Nothing is compressed: for 256 experts
    deflating takes twenty times as long, and saves 1 % of the ids and 9 % of the weights. Raises InputError where the
    file cannot be written.
    """
    arrays: dict[str, Any] = {
        "request_id": np.int64(request_id),
        "prompt_token_ids": np.full(request.prompt_tokens, -1, dtype=np.int32),
        "output_token_ids": np.full(len(request.experts) - request.prompt_tokens, -1, dtype=np.int32),
        "routed_experts": _narrow(_absolute(request.experts, request.layers)),
    }
    if request.weights is not None:
        arrays["routed_weights"] = _absolute(request.weights, request.layers)
    if request.candidates is not None:
        arrays["candidate_experts"] = _narrow(_absolute(request.candidates, request.layers))
    try:
        write_whole_binary(path, lambda file: np.savez(file, **arrays))
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{path}: cannot be written ({reason}); name a folder with room that you may write to"
        ) from None


def _absolute(array: Array, layers: tuple[int, ...] | None) -> Array:
    """Put the entries of `[token, layer, n]` on their layers; where these are not known the array stays as it is."""
    if layers is None:
        return array
    spread = np.zeros((len(array), max(layers) + 1, array.shape[2]), dtype=array.dtype)
    spread[:, list(layers)] = array
    return spread


def _narrow(ids: Ints) -> Ints:
    """Ids in the smallest type, a signed one where tokens are not recorded; ids that no model has stay as they are."""
    low, high = int(ids.min(initial=0)), int(ids.max(initial=0))
    types = (np.uint8, np.uint16) if low == 0 else (np.int8, np.int16, np.int32)
    if low < -1 or high > LARGEST_ID:
        return ids
    return ids.astype(next(dtype for dtype in types if high <= np.iinfo(dtype).max))
