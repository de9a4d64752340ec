"""Generated traces: routing that looks like a real model's, made from a seed.

A token scores every expert by `b + (z_dataset + 0.35 z_request).V + 1.9 z_token.W` plus Gumbel noise, keeps the model's
best groups of experts and takes the top-k of what is left. `z_dataset` and `z_request` are the same for all tokens of a
data set and of a request. `z_token` is the sum of two walks along the tokens of a request, a fast one that forgets
within a few tokens and a slow one that keeps half for 46. So loads persist, as they do in real traces: recent batches
tell what comes next. The biases `b` are calibrated until the experts' shares match a target.

Source: a fit to real traces, DOMAIN section 4. The weights and the walks were fitted anew, so that tokens and loads
resemble earlier ones as much as in DeepSeek-V2-Lite's routing; `benchmarks/calibration.py` shows both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.arrays import given_away
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.streams import Purpose, derived_seed, key_of_text, random_stream
from optimizer.traces.synthetic.gate import REQUEST_RANK, TOKEN_RANK, quantile_tables, route
from optimizer.traces.synthetic.marginals import calibrate, lognormal_shares, shares_of_counts
from optimizer.traces.trace import OUTPUT, RoutingTrace

REQUESTS = 512
"""How many requests the built-in trace has: about as many as recorded corpora.

With so few, users share requests, as in batches drawn from recorded corpora: 512 users run the 102 requests of the test
set, and loads deviate from the train mean for long. Then recent batches explain .19 to .41 of these deviations (six
seeds); with 5,120 requests of these lengths they would explain .04 to .05 (two seeds), as the deviations of different
requests cancel out and chance remains. So most of the persistence is due to the number of requests.
"""
SHORTEST, LONGEST = 30, 511  # tokens of a request of the built-in trace, as of the outputs recorded from GPT-OSS-20B

TOKEN_WEIGHT = 1.9  # with this, lifts stay as they were fitted to real traces although topics weigh more
CANDIDATES = 16  # ranked experts that are written for routers of up to top-8; twice the top-k beyond
DATASET_WEIGHT = 0.9  # the shares of two data sets then differ by .35 in total variation, as of two text domains
REQUEST_WEIGHT = 0.35  # the shares of a request then differ by .20-.24 from its data set's, the slow walk included
TRAFFIC_WEIGHT = (DATASET_WEIGHT**2 + REQUEST_WEIGHT**2) ** 0.5  # requests without a data set are of any domain
SAMPLED_TOKENS = 8  # per request of a calibration sample: few, as a request's tokens resemble each other


@dataclass(frozen=True, eq=False)
class Gates:
    """The calibrated gates of some layers, float32, drawn from the seed and each layer's id alone.

    bias `[layer, expert]`; topics `[layer, REQUEST_RANK, expert]` and directions `[layer, TOKEN_RANK, expert]`: what
    a request's topic and a token's direction add to the scores, weights included but for the topic's.
    """

    model: Model
    layers: tuple[int, ...]
    seed: int
    bias: Floats
    topics: Floats
    directions: Floats


@dataclass(frozen=True, eq=False)
class Generated:
    """The routing of generated tokens.

    experts `[token, layer, k]` uint16, best first; where they were asked for, candidates `[token, layer, m]` uint16, of
    which the first k are the experts, and weights `[token, layer, k]` float16, whose sum is 1.
    """

    experts: Ints
    candidates: Ints | None
    weights: Floats | None


def builtin_trace(
    model: Model, layers: Sequence[int], seed: int, counts: Ints | None = None, extras: bool = False
) -> RoutingTrace:
    """Generate 512 requests of 30 to 511 output tokens each, which are traffic of all domains.

    Experts are chosen as often as counts `[layer, expert]` say, by default as DeepSeek-V3's; as so few requests are a
    small sample of all topics, their shares miss these by a total variation of .02. Each layer is the same whatever
    other layers are made. extras: gate weights are made too, and candidates unless a token may use no expert
    beyond its top-k. Raises InputError as `calibrated_gates` does.
    """
    lengths = random_stream(Purpose.BUILTIN_LENGTHS, seed).integers(SHORTEST, LONGEST + 1, REQUESTS)
    gates = calibrated_gates(model, layers, seed, counts)
    ranked = extras and _usable(model) > model.top_k
    generated = generate(gates, "", np.arange(REQUESTS), lengths, candidates=ranked, weights=extras)
    kind = f"like {model.name}'s" if counts is None else "whose experts are chosen as often as counted"
    return RoutingTrace(
        experts=given_away(generated.experts),
        layers=tuple(layers),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        phase=np.full(len(generated.experts), OUTPUT, dtype=np.uint8),
        source=f"built-in trace, seed {seed}: {REQUESTS} generated requests {kind}",
        weights=None if generated.weights is None else given_away(generated.weights.astype(np.float32)),
        candidates=None if generated.candidates is None else given_away(generated.candidates),
    )


def calibrated_gates(
    model: Model,
    layers: Sequence[int],
    seed: int,
    counts: Ints | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Gates:
    """Make gates whose experts are chosen as often as counts `[layer, expert]` say, by default as DeepSeek-V3's.

    The shares are those of requests without a data set; `calibrate` states how closely they are met. Raises
    InputError for a layer without experts, groups that do not fit the experts, and impossible counts.
    """
    _check(model, layers)
    if counts is not None and counts.shape != (len(layers), model.routed_experts):
        raise InputError(
            f"counts have shape {counts.shape}, not {len(layers)} layers x {model.routed_experts} experts; "
            "name the layers and the model that were counted"
        )
    single = []
    for number, layer in enumerate(layers):
        if counts is None:
            single.append(_usual_gates(model, layer, seed))
        else:
            single.append(_layer_gates(model, layer, seed, counts[number]))
        progress((number + 1) / len(layers))
    bias, topics, directions = (
        np.concatenate([getattr(gates, name) for gates in single]) for name in ("bias", "topics", "directions")
    )
    return Gates(model, tuple(layers), seed, bias, topics, directions)


def generate(
    gates: Gates, dataset: str, requests: Ints, lengths: Ints, candidates: bool = False, weights: bool = False
) -> Generated:
    """Route the tokens of requests of a data set, one request after another; requests `[request]` are their numbers.

    lengths `[request]` are in tokens. A request depends on the seed, the data set's name, its own number and the layer
    alone. A data set has a topic that all its requests share; requests without a data set are traffic of all domains,
    whose topics scatter as much as those of data sets and requests together. Candidates are the 16 best experts (2 k of
    a router with k > 8), fewer where a token may use fewer; weights are the softmax of the chosen experts' scores
    without noise. Raises InputError where there are no candidates beyond the top-k.
    """
    model, topics = gates.model, topics_of(gates.seed, dataset)
    key = derived_seed(Purpose.REQUEST_ROUTING, gates.seed, key_of_text(dataset), bits=64)
    ranks = _candidates(model) if candidates else model.top_k
    ranked, weight = routed(gates, key, topics, requests, lengths, ranks, weights)
    return Generated(
        experts=np.ascontiguousarray(ranked[..., : model.top_k]),
        candidates=ranked if candidates else None,
        weights=weight.astype(np.float16) if weights else None,
    )


def _check(model: Model, layers: Sequence[int]) -> None:
    """Raise InputError for layers without experts, and for groups that do not fit the experts and the top-k."""
    model.check_layers(layers)
    lonely = model.groups > 1 and model.routed_experts < 2 * model.groups
    if lonely or model.routed_experts % model.groups or model.top_k > _usable(model):
        raise InputError(
            f"model {model.name}: top-{model.top_k} of {model.routed_experts} experts does not fit "
            f"{model.groups_per_token} of {model.groups} equal groups of two or more",
            "top_k",
        )


def _groups(model: Model) -> tuple[int, int]:
    """How many groups there are, and how many of them a token may use."""
    return model.groups, min(model.groups, model.groups_per_token)


def _usable(model: Model) -> int:
    """How many experts are in the groups that a token may use."""
    groups, keep = _groups(model)
    return model.routed_experts // groups * keep


def _candidates(model: Model) -> int:
    """How many candidates a token has. Raises InputError where none would be beyond the top-k."""
    ranks = min(max(CANDIDATES, 2 * model.top_k), _usable(model))
    if ranks <= model.top_k:
        raise InputError(f"model {model.name}: a token may use no expert beyond its top-{model.top_k}: no candidates")
    return ranks


def topics_of(seed: int, dataset: str) -> tuple[float, Floats]:
    """How far the topics of a data set's requests scatter, and their mean `[REQUEST_RANK]`.

    The means of all named data sets are equally far from that of requests without a data set, which is 0.
    """
    if not dataset:
        return TRAFFIC_WEIGHT, np.zeros(REQUEST_RANK)
    drawn = random_stream(Purpose.DATA_SET_TOPIC, seed, key_of_text(dataset)).standard_normal(REQUEST_RANK)
    return REQUEST_WEIGHT, drawn * (DATASET_WEIGHT * REQUEST_RANK**0.5 / np.linalg.norm(drawn))


@lru_cache(maxsize=256)  # as many layers as large models have; those of a generated trace are often asked for again
def _usual_gates(model: Model, layer: int, seed: int) -> Gates:
    """The gates of a layer whose experts are chosen as often as DeepSeek-V3's."""
    return _layer_gates(model, layer, seed, None)


def _layer_gates(model: Model, layer: int, seed: int, counts: Ints | None) -> Gates:
    """Draw one layer's topics and directions, and fit its biases to counts `[expert]` or DeepSeek-V3's shares."""
    rng, experts = random_stream(Purpose.GATES, seed, layer), model.routed_experts
    topics = rng.standard_normal((1, REQUEST_RANK, experts)) / REQUEST_RANK**0.5
    directions = rng.standard_normal((1, TOKEN_RANK, experts)) * (TOKEN_WEIGHT / TOKEN_RANK**0.5)
    flat = np.zeros((1, experts), dtype=np.float32)
    drawn = Gates(model, (layer,), seed, flat, topics.astype(np.float32), directions.astype(np.float32))
    dealt = random_stream(Purpose.EXPERT_SHARES, seed, layer)
    shares = lognormal_shares(experts, dealt) if counts is None else shares_of_counts(counts, model.top_k, layer)
    key, topics_of_all = derived_seed(Purpose.CALIBRATION_ROUTING, seed, bits=64), topics_of(seed, "")

    def observe(bias: Floats, turn: int, tokens: int) -> Ints:
        requests = (turn << 32) + np.arange(tokens // SAMPLED_TOKENS + 1)
        trial = replace(drawn, bias=bias[None].astype(np.float32))
        lengths = np.full(len(requests), SAMPLED_TOKENS)
        ranked, _ = routed(trial, key, topics_of_all, requests, lengths, model.top_k, False)
        return np.bincount(ranked.ravel(), minlength=experts)

    return replace(drawn, bias=calibrate(shares, model.top_k, observe)[None].astype(np.float32))


def routed(
    gates: Gates,
    key: int,
    topics: tuple[float, Floats],
    requests: Ints,
    lengths: Ints,
    ranks: int,
    weighted: bool,
) -> tuple[Ints, Floats]:
    """Route requests: ranked experts `[token, layer, ranks]` uint16, and weights `[token, layer, k]` float32.

    topics: how far they scatter, and their mean `[REQUEST_RANK]`. The weights have no tokens unless they are wanted.
    """
    model, offsets = gates.model, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens, layers = int(offsets[-1]), len(gates.layers)
    ranked = np.empty((tokens, layers, ranks), dtype=np.uint16)
    weights = np.empty((tokens if weighted else 0, layers, model.top_k), dtype=np.float32)
    route(
        np.uint64(key),
        requests.astype(np.int64),
        offsets,
        (np.float32(topics[0]), topics[1].astype(np.float32)),
        np.array(gates.layers, dtype=np.int64),
        (gates.bias, gates.topics, gates.directions),
        quantile_tables(),
        _groups(model),
        ranked,
        weights,
    )
    return ranked, weights
