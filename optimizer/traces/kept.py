"""What is kept of a request: the layers that were asked for, checked."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.arrays import first_double
from optimizer.domain.model import Model
from optimizer.traces.formats.npz import CANDIDATES, EXPERTS, WEIGHTS, layer_ids
from optimizer.traces.formats.request import BadRequestError, Request

Array = TypeVar("Array", Ints, Floats)


class KeptLayers(NamedTuple):
    """The layers of a request that are kept.

    experts `[token, layer, k]` in the smallest unsigned type; weights `[token, layer, k]` float32 and candidates
    `[token, layer, m > k]` uint16, which are None where they are not recorded or were not read.
    """

    experts: Ints
    weights: Floats | None
    candidates: Ints | None


def kept_layers(request: Request, model: Model, layers: Sequence[int], first: int | None) -> KeptLayers:
    """Take and check the layers of a request that are asked for. Raises BadRequestError for a fault in these layers."""
    if request.experts.shape[2] != model.top_k:
        raise BadRequestError(f"{EXPERTS} has top-{request.experts.shape[2]}, not top-{model.top_k}")
    held = request.layers or layer_ids(request.experts, model, first)
    missing = [layer for layer in layers if layer not in held]
    if missing:
        raise BadRequestError(f"holds layers {held[0]}..{held[-1]}, not layer {missing[0]}")
    places, routed, weights = [held.index(layer) for layer in layers], model.routed_experts, request.weights
    smallest = np.uint8 if routed <= 256 else np.uint16
    experts = _checked_ids(EXPERTS, _chosen(request.experts, places), routed, layers, smallest)
    if weights is not None:
        weights = _checked_weights(_chosen(weights, places), layers)
    candidates = request.candidates
    if candidates is not None:
        candidates = _checked_ids(CANDIDATES, _chosen(candidates, places), routed, layers, np.uint16)
    return KeptLayers(experts, weights, candidates)


def joined(parts: Sequence[KeptLayers]) -> tuple[KeptLayers, tuple[str, ...]]:
    """Join the tokens of one or more requests, one after another.

    An array that only some requests have is left out, and a sentence says so. Every token keeps as many candidates as
    the request with the fewest has.
    """
    weights = [part.weights for part in parts if part.weights is not None]
    candidates = [part.candidates for part in parts if part.candidates is not None]
    fewest = min((ranked.shape[2] for ranked in candidates), default=0)
    whole = KeptLayers(
        np.concatenate([part.experts for part in parts]),
        np.concatenate(weights) if len(weights) == len(parts) else None,
        np.concatenate([ranked[..., :fewest] for ranked in candidates]) if len(candidates) == len(parts) else None,
    )
    having = ((WEIGHTS, len(weights)), (CANDIDATES, len(candidates)))
    return whole, tuple(
        f"{len(parts) - number} of {len(parts)} requests have no {name}, so those of the others are not used"
        for name, number in having
        if 0 < number < len(parts)
    )


def _chosen(array: Array, places: list[int]) -> Array:
    """Take entries of the layer axis; neighbouring entries are taken as a slice, which copies nothing."""
    together = places == list(range(places[0], places[0] + len(places)))
    return array[:, places[0] : places[-1] + 1] if together else array[:, places]


def _checked_ids(name: str, ids: Ints, routed: int, layers: Sequence[int], dtype: npt.DTypeLike) -> Ints:
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= routed:
        raise BadRequestError(f"{name} has expert id {low if low < 0 else high}, outside 0..{routed - 1}")
    small: Ints = np.ascontiguousarray(ids, dtype=dtype)
    token, layer = first_double(small, routed)
    if token >= 0:
        raise BadRequestError(f"token {token} of layer {layers[layer]} names one expert twice in {name}")
    return small


def _checked_weights(weights: Floats, layers: Sequence[int]) -> Floats:
    with np.errstate(all="ignore"):  # what overflows here is refused below
        small: Floats = weights.astype(np.float32)
    bad = ~((small >= 0) & (small < np.inf))
    if bad.any():
        token, layer, choice = np.argwhere(bad)[0]
        found = weights[token, layer, choice]
        raise BadRequestError(
            f"token {token} of layer {layers[layer]} has {found} in {WEIGHTS}, not a finite number of at least 0"
        )
    return small
