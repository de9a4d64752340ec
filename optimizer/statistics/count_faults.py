"""What looks wrong in counts: those of one rank, of several ranks added up, of padded rows, of layers and experts that
a model does not have."""

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.model import Model
from optimizer.statistics.suspicion import Suspicion, suspicions_of_loads
from optimizer.traces.formats.counts import Counts

FEWEST_COUNTS = 16
"""Counts that must have a factor in common: that so many do by accident has a chance of 1 in 65,536 for a factor of
2."""

GAP, FLAT, LAYERS_ALIKE = 1.5, 1.0, 2 / 3
"""Padded rows: the top-k hottest experts of a layer have 1.5 times what the next has (in recorded sets at most 1.2
times), lie no further apart than the next one's count, and so it is in two of three layers (in one alone, twice as
much)."""

UNEVEN = 0.5
"""A layer with less than half of what the middle one has was recorded otherwise: all layers see the same tokens, and in
recorded sets they have the same count."""

CLOSE = 0.01  # how far from a whole number a ratio of pairs to tokens may be, for tokens that were still running


def suspicions_of_counts(counts: Counts, model: Model) -> list[Suspicion]:
    """What looks wrong in counts of a model, the worst first."""
    load = counts.load.sum(axis=0)
    return [
        *_shared_expert(load, model.top_k),
        *_beyond(load, model),
        *suspicions_of_loads(load, counts.layers),
        *_too_many_pairs(counts, model),
        *_common_factor(counts.load),
        *_padded(load, model.top_k),
        *_layers(load, counts, model),
    ]


def _beyond(load: Ints, model: Model) -> list[Suspicion]:
    """Experts that the model does not have."""
    share = load[:, model.routed_experts :].sum() / max(load.sum(), 1)
    if not share:
        return []
    seen = f"{share:.0%} of all pairs are of experts {model.routed_experts} and above, which {model.name} does not have"
    remedy = f"leave out experts that do nothing with --no-op-experts {model.routed_experts}, or name the right model"
    return [Suspicion("beyond-model", seen, remedy)]


def _too_many_pairs(counts: Counts, model: Model) -> list[Suspicion]:
    """Counts that every rank has made of all tokens, added up."""
    if counts.tokens is None or not counts.tokens.sum():
        return []
    most = counts.load.sum(axis=(0, 2)).max() / (counts.tokens.sum() * model.top_k)
    times = round(float(most))
    if times < 2 or abs(most / times - 1) > CLOSE:
        return []
    seen = f"{most * model.top_k:.1f} pairs per token are {times} times the top-{model.top_k}: {times} ranks' counts"
    return [Suspicion("times-ranks", seen, f"divide the counts by {times}, or take those of one of the equal ranks")]


def _common_factor(load: Ints) -> list[Suspicion]:
    """Counts that all have a factor in common."""
    some = load[load > 0]
    factor = int(np.gcd.reduce(some)) if len(some) >= FEWEST_COUNTS else 1
    if factor < 2 or int(some.max()) < 4 * factor:
        return []
    seen = f"every count is a multiple of {factor}: equal counts of {factor} ranks may have been added up, or scaled"
    remedy = f"divide the counts by {factor} if the ranks saw the same tokens; shares of experts stay as they are"
    return [Suspicion("times-ranks", seen, remedy)]


def _padded(load: Ints, top_k: int) -> list[Suspicion]:
    """Padding tokens that were counted: all of them choose the same top-k experts."""
    ordered: Floats = -np.sort(-load[load.any(axis=1)].astype(np.float64), axis=1)
    if not len(ordered) or ordered.shape[1] < 2 * top_k + 1 or top_k < 2:
        return []
    last, following = ordered[:, top_k - 1], np.maximum(ordered[:, top_k], 1)
    flat = ordered[:, 0] - last <= FLAT * following
    gap = GAP if len(ordered) > 1 else 2 * GAP
    bad = flat & (last >= gap * following)
    if bad.mean() < LAYERS_ALIKE:
        return []
    share = float(((last - following)[bad] * top_k / ordered[bad].sum(axis=1)).mean())
    seen = f"exactly {top_k} experts of each layer share one excess, about {share:.0%} of all pairs"
    return [
        Suspicion("padding", f"{seen}: padded rows were counted", "count without padding, or record at full batches")
    ]


def _shared_expert(load: Ints, top_k: int) -> list[Suspicion]:
    """An expert that every token chooses."""
    some = load[load.any(axis=1)]
    if top_k < 2 or not len(some):
        return []
    every = (some * (top_k + 1) == some.sum(axis=1, keepdims=True)).all(axis=0)
    found = np.flatnonzero(every)
    if len(found) != 1 or some.shape[1] <= top_k + 1:
        return []
    seen = f"expert {found[0]} was chosen by every token in every layer: it is a shared one"
    return [Suspicion("shared-expert", seen, "leave its column out; shared experts are named by --shared-experts")]


def _layers(load: Ints, counts: Counts, model: Model) -> list[Suspicion]:
    """Rows of the layer axis that the model does not have, or that were recorded otherwise than the others."""
    found, rows = [], len(counts.layers)
    if model.moe_layers and rows > 1 and max(counts.layers) >= model.layers:
        held = f"layers {counts.layers[0]}..{counts.layers[-1]} are counted"
        seen = f"{held}, but {model.name} has none above {model.layers - 1}"
        remedy = "an extra last row is the MTP layer; say where the axis begins with --first-moe-layer"
        found.append(Suspicion("layer-axis", f"{seen} ({rows} rows, {model.moe_layers} MoE layers)", remedy))
    pairs = load.sum(axis=1)
    middle = float(np.median(pairs[pairs > 0])) if pairs.any() else 0.0
    low = [place for place in range(rows) if 0 < pairs[place] < UNEVEN * middle]
    if low:
        seen = f"layer {counts.layers[low[0]]} has {pairs[low[0]] / middle:.0%} of the pairs of the middle layer"
        more = f", and so have {len(low) - 1} more" if len(low) > 1 else ""
        remedy = "an MTP layer runs less often and is none of these layers; else record all layers over the same tokens"
        found.append(Suspicion("uneven-layers", seen + more, remedy))
    return found
