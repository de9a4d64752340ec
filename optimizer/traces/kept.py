"""What is kept of a request: the layers that were asked for, checked."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from formulations.kit.arrays import Bools, Floats, Ints
from optimizer.domain.arrays import first_double
from optimizer.domain.model import Model
from optimizer.traces.formats.npz import CANDIDATES, EXPERTS, WEIGHTS, layer_ids
from optimizer.traces.formats.request import BadRequestError, Request

NOT_CAPTURED = f"every id in {EXPERTS} is 0, so nothing was captured"

Array = TypeVar("Array", Ints, Floats)


class KeptLayers(NamedTuple):
    """The layers of a request that are kept.

    experts `[token, layer, k]` in the smallest unsigned type; prompt_tokens: how many of the tokens come first as the
    prompt; recorded `[token]` bool, None where all tokens are recorded: the arrays are zero for the others; weights
    `[token, layer, k]` float32 and candidates `[token, layer, m > k]` uint16, which are None where they are not
    recorded or were not read.
    """

    experts: Ints
    prompt_tokens: int
    recorded: Bools | None
    weights: Floats | None
    candidates: Ints | None

    def of_recorded(self) -> tuple[Ints, int]:
        """The experts of the recorded tokens alone, and how many of these are the prompt's."""
        if self.recorded is None:
            return self.experts, self.prompt_tokens
        return self.experts[self.recorded], int(self.recorded[: self.prompt_tokens].sum())


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
    chosen = _chosen(request.experts, places)
    recorded = _recorded(chosen, request.prompt_tokens, layers)
    experts = _checked_ids(EXPERTS, chosen, recorded, routed, layers, smallest)
    if weights is not None:
        weights = _checked_weights(_chosen(weights, places), recorded, layers)
    candidates = request.candidates
    if candidates is not None:
        candidates = _checked_ids(CANDIDATES, _chosen(candidates, places), recorded, routed, layers, np.uint16)
    return KeptLayers(experts, _prompt_tokens(request.prompt_tokens, recorded), recorded, weights, candidates)


def joined(parts: Sequence[KeptLayers]) -> tuple[KeptLayers, tuple[str, ...]]:
    """Join the tokens of one or more requests, one after another; prompt_tokens is then the sum, which says little.

    An array that only some requests have is left out, and a sentence says so. Every token keeps as many candidates as
    the request with the fewest has.
    """
    weights = [part.weights for part in parts if part.weights is not None]
    candidates = [part.candidates for part in parts if part.candidates is not None]
    fewest = min((ranked.shape[2] for ranked in candidates), default=0)
    known = [np.ones(len(part.experts), dtype=bool) if part.recorded is None else part.recorded for part in parts]
    whole = KeptLayers(
        np.concatenate([part.experts for part in parts]),
        sum(part.prompt_tokens for part in parts),
        np.concatenate(known) if any(part.recorded is not None for part in parts) else None,
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


def _recorded(ids: Ints, prompt_tokens: int, layers: Sequence[int]) -> Bools | None:
    """Which tokens of `[token, layer, k]` are recorded; None where all are.

    A token is not where all its ids are -1, nor where it is of the prompt and all its ids are 0: no token can choose
    one expert k times, and a server that only decodes leaves the prompt's rows as it allocated them. Raises
    BadRequestError where a token is recorded in part, and where no token is recorded.
    """
    known: Bools = np.ones(len(ids), dtype=bool)
    if ids.dtype.kind == "i" and int(ids.min()) == -1:
        absent = ids == -1
        known = ~absent.all(axis=(1, 2))
        if (partly := absent.any(axis=(1, 2)) & known).any():
            token = int(partly.argmax())
            layer = layers[int(absent[token].any(axis=1).argmax())]
            raise BadRequestError(f"{EXPERTS} has expert id -1 among others in token {token}, layer {layer}")
    prompt = ids[:prompt_tokens]
    if ids.shape[2] > 1 and not prompt[:, 0].any(axis=1).all():
        known[:prompt_tokens] &= prompt.any(axis=(1, 2))
    if not known.any():
        raise BadRequestError("no token is recorded: all ids are 0 or -1, as where nothing was captured")
    return None if known.all() else known


def _prompt_tokens(prompt_tokens: int, recorded: Bools | None) -> int:
    """How many tokens count as prompt: where only its last one was run, that was a decode step, and counts as output.

    So it is on a server that only decodes: another has run the prompt, and the first step decodes its last token.
    """
    last = prompt_tokens - 1
    decoded = recorded is not None and last > 0 and recorded[last] and not recorded[:last].any()
    return last if decoded else prompt_tokens


def _checked_ids(
    name: str, ids: Ints, recorded: Bools | None, routed: int, layers: Sequence[int], dtype: npt.DTypeLike
) -> Ints:
    """The ids in a type, those of tokens that are not recorded as 0. Raises BadRequestError for ids that cannot be."""
    known = ids if recorded is None else ids[recorded]
    low, high = int(known.min()), int(known.max())
    if low < 0 or high >= routed:
        raise BadRequestError(f"{name} has expert id {low if low < 0 else high}, outside 0..{routed - 1}")
    small: Ints = np.ascontiguousarray(known, dtype=dtype)
    token, layer = first_double(small, routed)
    if token >= 0 and not small.any():
        raise BadRequestError(NOT_CAPTURED)
    if token >= 0:
        if recorded is not None:
            token = int(np.flatnonzero(recorded)[token])
        raise BadRequestError(f"token {token} of layer {layers[layer]} names one expert twice in {name}")
    return small if recorded is None else _spread(small, recorded)


def _checked_weights(weights: Floats, recorded: Bools | None, layers: Sequence[int]) -> Floats:
    with np.errstate(all="ignore"):  # what overflows here is refused below
        small: Floats = weights.astype(np.float32)
    if recorded is not None:
        small[~recorded] = 0
    bad = ~((small >= 0) & (small < np.inf))
    if bad.any():
        token, layer, choice = np.argwhere(bad)[0]
        found = weights[token, layer, choice]
        raise BadRequestError(
            f"token {token} of layer {layers[layer]} has {found} in {WEIGHTS}, not a finite number of at least 0"
        )
    return small


def _spread(known: Ints, recorded: Bools) -> Ints:
    """Put the ids of recorded tokens on their places among all tokens, with zeros between."""
    whole = np.zeros((len(recorded), *known.shape[1:]), dtype=known.dtype)
    whole[recorded] = known
    return whole
