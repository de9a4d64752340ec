"""The built-in trace: routing that looks like DeepSeek-V3's, made from a seed."""

from collections.abc import Sequence

import numpy as np

from formulations.arrays import Floats, Ints
from optimizer.errors import InputError
from optimizer.model import Model
from optimizer.traces.trace import OUTPUT, RoutingTrace

REQUESTS = 5120
SHORTEST, LONGEST = 12, 36
CHUNK_REQUESTS = 128  # 4,600 tokens at most: the scores of a chunk stay near the cache

REQUEST_RANK, REQUEST_WEIGHT = 16, 0.7
TOKEN_RANK, TOKEN_WEIGHT, TOKEN_MEMORY = 12, 2.0, 0.5
BIAS_SIGMA = 0.85  # spread of expert popularity before routing flattens it


def builtin_trace(model: Model, layers: Sequence[int], seed: int) -> RoutingTrace:
    """5,120 requests of 12 to 36 output tokens each; the choices of each layer are drawn independently.

    Each token scores every expert by the expert's popularity, the request's topic, the token's own direction
    (which remembers half of its predecessor's) and Gumbel noise; it keeps the model's best groups of experts
    and takes the top-k of what is left. This gives request variation, co-activation and temporal overlap;
    the marginals are only roughly those of DeepSeek-V3. Raises InputError for a layer without experts.
    """
    first, last = model.first_moe_layer, model.layers - 1
    strange = [layer for layer in layers if model.layers and not first <= layer <= last]
    if strange:
        raise InputError(f"--layer {strange[0]} is no MoE layer of {model.name}, which are {first}..{last}")
    lengths = np.random.default_rng(seed).integers(SHORTEST, LONGEST + 1, REQUESTS)
    experts = np.stack([_layer(model, lengths, np.random.default_rng([seed, layer])) for layer in layers], axis=1)
    return RoutingTrace(
        experts=experts,
        layers=tuple(layers),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        phase=np.full(len(experts), OUTPUT, dtype=np.uint8),
        source=f"built-in trace, seed {seed}: {REQUESTS} generated requests like {model.name}'s",
    )


def _layer(model: Model, lengths: Ints, rng: np.random.Generator) -> Ints:
    """One layer's choices, `[token, k]` uint16."""
    popularity = BIAS_SIGMA * rng.standard_normal(model.routed_experts)
    topics = rng.standard_normal((REQUEST_RANK, model.routed_experts)) * (REQUEST_WEIGHT / REQUEST_RANK**0.5)
    directions = rng.standard_normal((TOKEN_RANK, model.routed_experts)) * (TOKEN_WEIGHT / TOKEN_RANK**0.5)
    parts = []
    for start in range(0, REQUESTS, CHUNK_REQUESTS):
        chunk = lengths[start : start + CHUNK_REQUESTS]
        walks = _token_walks(rng, len(chunk))[np.arange(LONGEST) < chunk[:, None]]
        request = np.repeat(rng.standard_normal((len(chunk), REQUEST_RANK)), chunk, axis=0)
        score = (popularity + request @ topics + walks @ directions).astype(np.float32)
        noise = rng.standard_exponential(score.shape, dtype=np.float32)
        score -= np.log(np.maximum(noise, np.finfo(np.float32).tiny))  # minus the log of an exponential is Gumbel
        parts.append(_choose(score, model))
    return np.concatenate(parts)


def _token_walks(rng: np.random.Generator, requests: int) -> Floats:
    """A stationary AR(1) walk of token directions in each request, `[request, position, rank]`."""
    walks = rng.standard_normal((requests, LONGEST, TOKEN_RANK))
    fresh = (1 - TOKEN_MEMORY**2) ** 0.5
    for position in range(1, LONGEST):
        walks[:, position] = TOKEN_MEMORY * walks[:, position - 1] + fresh * walks[:, position]
    return walks


def _choose(score: Floats, model: Model) -> Ints:
    """Group-limited top-k, best first, `[token, k]` uint16: groups rank by the sum of their two best scores."""
    tokens = len(score)
    if model.groups_per_token < model.groups:
        grouped = score.reshape(tokens, model.groups, -1)
        best_two = np.partition(grouped, -2, axis=2)[..., -2:].sum(axis=2)
        dropped = np.argpartition(best_two, model.groups - model.groups_per_token, axis=1)
        dropped = dropped[:, : model.groups - model.groups_per_token]
        np.put_along_axis(grouped, dropped[..., None], -np.inf, axis=1)
    top = np.argpartition(score, -model.top_k, axis=1)[:, -model.top_k :]
    rank = np.argsort(-np.take_along_axis(score, top, axis=1), axis=1)
    return np.take_along_axis(top, rank, axis=1).astype(np.uint16)
