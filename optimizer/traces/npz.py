"""The native trace format: one `.npz` per request (DOMAIN section 4), read without unpickling anything."""

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np

from formulations.arrays import Ints
from optimizer.model import Model
from optimizer.traces.request import BadRequestError, Request

UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)
TOKEN_IDS = ("prompt_token_ids", "output_token_ids")


def read_request(path: Path) -> Request:
    """Read one request file. Raises BadRequestError for whatever keeps it from being used."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise BadRequestError("a single array, not an .npz archive")
        with loaded as archive:
            if "routed_experts" not in archive:
                raise BadRequestError("has no array routed_experts")
            experts = archive["routed_experts"]
            lengths = [archive[key].size if key in archive else None for key in TOKEN_IDS]
    except UNREADABLE as error:
        if "allow_pickle" in str(error) and zipfile.is_zipfile(path):
            raise BadRequestError("holds a pickled object (None, perhaps), which is never unpickled") from None
        raise BadRequestError(f"not a whole .npz file ({str(error) or type(error).__name__})") from None
    return _checked_request(experts, *lengths)


def _checked_request(experts: Ints, prompt: int | None, output: int | None) -> Request:
    if experts.size == 0:
        raise BadRequestError("routed_experts is empty")
    if experts.ndim != 3 or experts.dtype.kind not in "iu":
        raise BadRequestError(f"routed_experts is {experts.dtype} {experts.shape}, not integers [token, layer, top_k]")
    tokens = experts.shape[0]
    if prompt is None or output is None:
        raise BadRequestError("prompt_token_ids or output_token_ids is missing, so that the phases are unknown")
    if tokens not in (prompt + output, prompt + output - 1):
        raise BadRequestError(
            f"routed_experts has {tokens} tokens, not the {prompt} prompt + {output} output tokens, or one less"
        )
    return Request(experts, min(prompt, tokens))


def layer_ids(experts: Ints, model: Model, first_moe_layer: int | None) -> range:
    """The model layer id of each entry of a request's layer axis.

    An axis whose leading layers are all zero (dense layers) counts absolute layers; else it starts at
    `first_moe_layer` where that is given, at the model's first MoE layer where it is as long as the model's
    MoE layers, and at 0 otherwise.
    """
    axis = experts.shape[1]
    dense_seen = not experts[:, 0].any() and (experts.shape[2] > 1 or axis == model.layers)
    if dense_seen:
        start = 0
    elif first_moe_layer is not None:
        start = first_moe_layer
    else:
        start = model.first_moe_layer if axis == model.moe_layers else 0
    return range(start, start + axis)


def read_lengths(path: Path) -> tuple[int, int]:
    """Tokens and prompt tokens of a request file, from the headers of its arrays alone.

    Raises BadRequestError for a file whose headers do not say them.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (tokens, *_), prompt, output = (_shape(archive, key) for key in ("routed_experts", *TOKEN_IDS))
    except UNREADABLE as error:
        raise BadRequestError(f"not a whole .npz request ({str(error) or type(error).__name__})") from None
    prompt_tokens = math.prod(prompt)
    if tokens not in (prompt_tokens + math.prod(output), prompt_tokens + math.prod(output) - 1):
        raise BadRequestError(f"routed_experts has {tokens} tokens, which its prompt and output do not add up to")
    return tokens, min(prompt_tokens, tokens)


def _shape(archive: zipfile.ZipFile, key: str) -> tuple[int, ...]:
    with archive.open(f"{key}.npy") as member:
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, _ = read_header[np.lib.format.read_magic(member)](member)
    return tuple(shape)
