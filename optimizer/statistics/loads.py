"""Figures of the loads of experts: how uneven they are, how much they vary and whether more than by chance."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.mesh import Mesh
from optimizer.statistics.coactivation import lift
from optimizer.statistics.drift import dataset_drift, phase_drift
from optimizer.statistics.summary import CorpusSummary
from optimizer.streams import Purpose, random_stream


def sequential_imbalance(routed_load: Ints, mesh: Mesh) -> Floats:
    """Peak over mean device load if routed experts lie in order of their ids, without replicas, `[batch]`.

    routed_load `[batch, expert]` pairs. Device d holds the consecutive experts e with e * devices // experts = d.
    Shared experts are left out, as a server that places experts in this way keeps them on every device.
    """
    experts = routed_load.shape[1]
    device = np.arange(experts) * mesh.devices // experts
    starts = np.flatnonzero(np.diff(device, prepend=-1))
    peak = np.add.reduceat(routed_load, starts, axis=1).max(axis=1)
    imbalance: Floats = peak * mesh.devices / routed_load.sum(axis=1)
    return imbalance


FIVE = ("mean", "p50", "p95", "p99", "max")


def five_figures(values: Floats | Ints) -> dict[str, float]:
    """Mean, p50, p95, p99 and maximum of values `[batch]`; percentiles are interpolated between neighbouring values."""
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return dict(zip(FIVE, map(float, (values.mean(), p50, p95, p99, values.max())), strict=True))


# Resamples of a bootstrap: a compromise, as the ends of a 95 % interval then rest on the ten most extreme resamples.
RESAMPLES = 400
# Consecutive batches that a bootstrap draws together. Batches that are near one another share most of their requests; a
# compromise between covering a request's life and having many stretches to draw from; not tuned.
STRETCH = 32
INTERVAL = ("mean", "p50", "p95", "p99")


def confidence(figures: dict[str, Floats | Ints]) -> dict[str, dict[str, tuple[float, float]]]:
    """95 % bootstrap intervals of mean, p50, p95 and p99 of several figures, each given as `[batch]`.

    Stretches of consecutive batches are drawn (circular block bootstrap, Politis and Romano 1992), because neighbouring
    batches share most of their requests: drawing single batches would make the intervals too narrow. There is no
    interval for the maximum, as no resample can exceed it. The draws are the same in every run.
    """
    drawn = drawn_batches(len(next(iter(figures.values()))))
    return {name: _interval(values[drawn]) for name, values in figures.items()}


class PairedGain(NamedTuple):
    """The share of a mean that is saved, such as 0.1 where 100 us become 90, and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


def paired_gain(before: Floats, after: Floats) -> PairedGain:
    """What the mean falls by from before to after, both `[batch]` of the same batches in the order of time.

    The interval is of the bootstrap that `confidence` describes, with the same stretches of batches drawn for both, so
    that what makes a batch slow under either does not widen it.
    """
    drawn = drawn_batches(len(before))
    resampled = 1 - after[drawn].mean(axis=1) / before[drawn].mean(axis=1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return PairedGain(float(1 - after.mean() / before.mean()), float(low), float(high))


def drawn_batches(batches: int) -> Ints:
    """The numbers of the batches of each resample, `[resample, batch]`."""
    stretch = max(1, min(STRETCH, batches // 8))
    starts = random_stream(Purpose.BOOTSTRAP, batches).integers(batches, size=(RESAMPLES, -(-batches // stretch)))
    drawn: Ints = ((starts[:, :, None] + np.arange(stretch)) % batches).reshape(RESAMPLES, -1)[:, :batches]
    return drawn


def _interval(resampled: Floats | Ints) -> dict[str, tuple[float, float]]:
    """The 95 % interval of each of `INTERVAL` over resamples; resampled `[resample, batch]`."""
    found = [resampled.mean(axis=1), *np.percentile(resampled, [50, 95, 99], axis=1)]
    bounds = [np.percentile(values, [2.5, 97.5]) for values in found]
    return {name: (float(low), float(high)) for name, (low, high) in zip(INTERVAL, bounds, strict=True)}


HOTTEST = 32  # how many experts `top_share` counts: an eighth of the 256 routed experts of DeepSeek-V3
LIFT_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True, eq=False)
class LoadFigures:
    """How the loads of routed experts vary over batches.

    mean, std, p95, p99 and max `[expert]`: tokens per batch. burstiness `[expert]`: see `batch_burstiness`. covariance
    `[expert, expert]`: of tokens per batch.
    """

    mean: Floats
    std: Floats
    p95: Floats
    p99: Floats
    max: Ints
    burstiness: Floats
    covariance: Floats


@dataclass(frozen=True, eq=False)
class LayerFigures:
    """Figures of one layer's routed experts over all data sets, prompts and outputs; nan for a figure that is unknown.

    counts `[expert]`: the tokens that chose each expert, of `tokens` in all. gini, top_share and hottest: see `gini`,
    `top_share` and `hottest_over_mean`, of the counts. request_burstiness and window_burstiness `[expert]`: see the
    functions of these names. overlap: the share of a token's choices that the token before it in the same request made
    too. chance_overlap: that share for two tokens drawn at random. lift_quantiles `[quantile]`: quantiles of the lift
    of pairs of experts at `LIFT_QUANTILES`. dataset_drift `[dataset, dataset]` and phase_drift (prompts against
    outputs): total variation. load: figures over batches, None if there are no batches.
    """

    tokens: int
    counts: Ints
    gini: float
    top_share: float
    hottest: float
    request_burstiness: Floats
    window_burstiness: Floats
    overlap: float
    chance_overlap: float
    lift_quantiles: Floats
    dataset_drift: Floats
    phase_drift: float
    load: LoadFigures | None


def layer_figures(summary: CorpusSummary, layer: int) -> LayerFigures:
    """All figures of a layer; `layer` is its place on the summary's layer axis, not its id in the model."""
    counts, tokens = summary.counts[:, :, layer].sum(axis=(0, 1)), int(summary.tokens.sum())
    neighbours = summary.top_k * (tokens - int(summary.runs.sum()))
    batches = summary.batch_load[layer]
    return LayerFigures(
        tokens=tokens,
        counts=counts,
        gini=float(gini(counts)),
        top_share=float(top_share(counts)),
        hottest=float(hottest_over_mean(counts)),
        request_burstiness=request_burstiness(summary, layer),
        window_burstiness=window_burstiness(summary, layer),
        overlap=int(summary.repeats[:, layer].sum()) / neighbours if neighbours else np.nan,
        chance_overlap=float(((counts / tokens) ** 2).sum()) / summary.top_k,
        lift_quantiles=lift_quantiles(lift(summary.pairs[layer], counts, tokens)),
        dataset_drift=dataset_drift(summary)[:, :, layer],
        phase_drift=float(phase_drift(summary)[layer]),
        load=load_figures(batches, summary.top_k) if len(batches) else None,
    )


def load_figures(routed_load: Ints, top_k: int) -> LoadFigures:
    """The figures of routed_load `[batch, expert]` in pairs, where shared experts are left out."""
    p95, p99 = np.percentile(routed_load, [95, 99], axis=0)
    return LoadFigures(
        mean=routed_load.mean(axis=0),
        std=routed_load.std(axis=0),
        p95=p95,
        p99=p99,
        max=routed_load.max(axis=0),
        burstiness=batch_burstiness(routed_load, top_k),
        covariance=covariance(routed_load),
    )


def covariance(load: Ints) -> Floats:
    """Covariance over batches of the loads of every two experts, `[expert, expert]`, for load `[batch, expert]`."""
    centred = load - load.mean(axis=0)
    product: Floats = centred.T @ centred / len(load)
    return product


def batch_burstiness(routed_load: Ints, top_k: int) -> Floats:
    """The variance of an expert's load over batches, divided by what independent tokens would have, `[expert]`.

    routed_load `[batch, expert]` of the routed experts alone; a batch has as many tokens as pairs / top_k. The load of
    an expert that independent tokens choose is binomial. The figure is nan if no token or every token chose the expert.
    """
    tokens = routed_load.sum(axis=1, keepdims=True) / top_k
    share = routed_load.sum(axis=0) / max(tokens.sum(), 1)
    squares = ((routed_load - tokens * share) ** 2).sum(axis=0)
    return _over_chance(squares, tokens.sum() * share * (1 - share))


def request_burstiness(summary: CorpusSummary, layer: int) -> Floats:
    """How much an expert's share varies between requests, divided by what shuffled tokens would give, `[expert]`.

    The variation is Pearson's: the sum over runs of (c - t p)^2 / t, where c of a run's t tokens chose the expert and p
    is the expert's share of all tokens of the phase (see `CorpusSummary`). The figure is 1 if requests do not differ;
    if they do, it grows with their length. It is nan where nothing can vary.
    """
    counts = summary.counts[:, :, layer].sum(axis=0)
    tokens, runs = summary.tokens.sum(axis=0)[:, None], summary.runs[:, None]
    squares = summary.between[:, layer] - counts * counts / np.maximum(tokens, 1)
    share = counts / np.maximum(tokens, 1)
    chance = np.maximum(runs - 1, 0) * share * (tokens - counts) / np.maximum(tokens - 1, 1)
    return _over_chance(squares.sum(axis=0), chance.sum(axis=0))


def window_burstiness(summary: CorpusSummary, layer: int) -> Floats:
    """The variance of an expert's tokens in windows of 32, divided by what shuffled tokens would give, `[expert]`.

    The tokens of each run are shuffled within the run. The figure is 1 if the tokens of a request choose the expert
    independently of one another, and more if the expert is chosen in stretches. It is nan where nothing can vary.
    """
    return _over_chance(summary.inside[:, layer].sum(axis=0), summary.inside_chance[:, layer].sum(axis=0))


def _over_chance(seen: Floats, chance: Floats) -> Floats:
    """seen / chance, both `[expert]`; nan where chance is 0."""
    ratio: Floats = np.divide(seen, chance, out=np.full(chance.shape, np.nan), where=chance > 0)
    return ratio


def lift_quantiles(lifts: Floats) -> Floats:
    """Quantiles of lifts `[expert, expert]` over all pairs of experts that were chosen, `[quantile]`."""
    pairs = lifts[np.triu_indices(len(lifts), 1)]
    known = pairs[~np.isnan(pairs)]
    found: Floats = np.quantile(known, LIFT_QUANTILES) if len(known) else np.full(len(LIFT_QUANTILES), np.nan)
    return found


def gini(counts: Ints) -> Floats:
    """Gini coefficient of counts `[..., expert]`, `[...]`: 0 if all are equal, near 1 if one expert has everything."""
    experts = counts.shape[-1]
    rank = 2 * np.arange(experts) - experts + 1
    with np.errstate(invalid="ignore"):
        found: Floats = (np.sort(counts, axis=-1) * rank).sum(axis=-1) / (experts * counts.sum(axis=-1))
    return found


def top_share(counts: Ints, hottest: int = HOTTEST) -> Floats:
    """The share of all counts `[..., expert]` that the `hottest` experts with the highest counts have, `[...]`."""
    with np.errstate(invalid="ignore"):
        share: Floats = np.sort(counts, axis=-1)[..., -hottest:].sum(axis=-1) / counts.sum(axis=-1)
    return share


def hottest_over_mean(counts: Ints) -> Floats:
    """The largest count divided by the mean count, `[...]` for counts `[..., expert]`."""
    with np.errstate(invalid="ignore"):
        ratio: Floats = counts.max(axis=-1) / counts.mean(axis=-1)
    return ratio
