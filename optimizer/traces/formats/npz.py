"""The native trace format: one `.npz` per request (DOMAIN section 4), read without unpickling anything."""

import math
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.model import Model
from optimizer.traces.formats.layer_axis import numbered
from optimizer.traces.formats.request import BadRequestError, Request
from optimizer.traces.formats.untrusted import INTEGERS, NUMBERS, UnusableError, arrays_from_npz

EXPERTS, WEIGHTS, CANDIDATES = "routed_experts", "routed_weights", "candidate_experts"
TOKEN_IDS = ("prompt_token_ids", "output_token_ids")


def read_request(path: Path, extras: bool = False) -> Request:
    """Read one request file, with gate weights and candidates only if `extras` are asked for.

    What its headers declare is checked before anything is allocated; of the token ids only the number is of interest.
    Raises BadRequestError for whatever keeps it from being used.
    """
    try:
        arrays = arrays_from_npz(path, {EXPERTS: INTEGERS})
        if EXPERTS not in arrays:
            raise BadRequestError(f"has no array {EXPERTS}")
        prompt, output = (math.prod(shape) if shape is not None else None for shape in _shapes(path, TOKEN_IDS))
        request = _checked_request(arrays[EXPERTS], prompt, output)
        return _with_extras(path, request) if extras else request
    except UnusableError as error:
        raise BadRequestError(str(error)) from None


def _checked_request(experts: Ints, prompt: int | None, output: int | None) -> Request:
    """The request, if its experts have as many tokens as prompt and output say; the last output token may lack."""
    if experts.ndim != 3:
        raise BadRequestError(f"routed_experts is {experts.dtype} {experts.shape}, not integers [token, layer, top_k]")
    tokens = experts.shape[0]
    if prompt is None or output is None:
        raise BadRequestError("prompt_token_ids or output_token_ids is missing, so that the phases are unknown")
    if tokens not in (prompt + output, prompt + output - 1):
        raise BadRequestError(
            f"routed_experts has {tokens} tokens, not the {prompt} prompt + {output} output tokens, or one less"
        )
    return Request(experts, min(prompt, tokens))


def _with_extras(path: Path, request: Request) -> Request:
    """Add gate weights and candidates to the request, where the file has them and they fit."""
    shape = request.experts.shape
    weights, candidates = _shapes(path, (WEIGHTS, CANDIDATES))
    if weights is not None and weights != shape:
        raise BadRequestError(f"{WEIGHTS} is {weights}, but {EXPERTS} is {shape}")
    if candidates is not None and (len(candidates) != 3 or candidates[:2] != shape[:2] or candidates[2] <= shape[2]):
        raise BadRequestError(
            f"{CANDIDATES} is {candidates}, not {shape[:2]} and more than the {shape[2]} of {EXPERTS}"
        )
    arrays = arrays_from_npz(path, {WEIGHTS: NUMBERS, CANDIDATES: INTEGERS})
    return replace(request, weights=arrays.get(WEIGHTS), candidates=arrays.get(CANDIDATES))


def layer_ids(experts: Ints, model: Model, first_moe_layer: int | None) -> tuple[int, ...]:
    """The model layer id of each entry of a request's layer axis, as `numbered` says.

    A leading layer whose ids are all zero, or not recorded, is dense. Raises InputError where the axis can be read in
    two ways.
    """
    axis = experts.shape[1]
    dense_seen = not (experts[:, 0] > 0).any() and (
        experts.shape[2] > 1 or axis in (model.layers, model.layers + model.mtp_layers)
    )
    return numbered(axis, dense_seen, model, first_moe_layer)


def read_lengths(path: Path) -> tuple[int, int]:
    """Tokens and prompt tokens of a request file, from the headers of its arrays alone.

    Raises BadRequestError for a file whose headers do not say them.
    """
    try:
        experts, prompt, output = _shapes(path, (EXPERTS, *TOKEN_IDS))
    except UnusableError as error:
        raise BadRequestError(str(error)) from None
    if not experts or prompt is None or output is None:
        raise BadRequestError("lacks routed_experts, prompt_token_ids or output_token_ids")
    prompt_tokens = math.prod(prompt)
    if experts[0] not in (prompt_tokens + math.prod(output), prompt_tokens + math.prod(output) - 1):
        raise BadRequestError(f"routed_experts has {experts[0]} tokens, which its prompt and output do not add up to")
    return experts[0], min(prompt_tokens, experts[0])


def _shapes(path: Path, names: Sequence[str]) -> list[tuple[int, ...] | None]:
    """Read the declared shapes of arrays of an archive; None stands for an array that it does not hold."""
    try:
        with zipfile.ZipFile(path) as archive:
            held = set(archive.namelist())
            return [_shape(archive, name) if f"{name}.npy" in held else None for name in names]
    except Exception:  # zipfile, zlib and numpy's header reader raise a dozen kinds for a damaged archive
        raise UnusableError("is not a whole .npz archive") from None


def _shape(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    """The shape in the header of one array; its content is not read."""
    with archive.open(f"{name}.npy") as member:
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, _ = read_header[np.lib.format.read_magic(member)](member)
    return tuple(shape)
