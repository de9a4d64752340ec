"""What recorded batches say of the load of each expert."""

from dataclasses import dataclass

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.mesh import Mesh
from optimizer.statistics.coactivation import lift
from optimizer.statistics.drift import dataset_drift, phase_drift
from optimizer.statistics.summary import CorpusSummary


def sequential_imbalance(routed_load: Ints, mesh: Mesh) -> Floats:
    """Peak / mean device load of each batch where the routed experts lie in order, without replicas, `[batch]`.

    routed_load `[batch, expert]`. Device d holds the consecutive experts e with e * devices // experts = d; the shared
    ones are left out, as a server that places experts in order keeps them beside the routed ones on every device.
    """
    experts = routed_load.shape[1]
    device = np.arange(experts) * mesh.devices // experts
    starts = np.flatnonzero(np.diff(device, prepend=-1))
    peak = np.add.reduceat(routed_load, starts, axis=1).max(axis=1)
    imbalance: Floats = peak * mesh.devices / routed_load.sum(axis=1)
    return imbalance


FIVE = ("mean", "p50", "p95", "p99", "max")


def five_figures(values: Floats | Ints) -> dict[str, float]:
    """mean, p50, p95, p99 and max of one figure per batch (linear interpolation between order statistics)."""
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return dict(zip(FIVE, map(float, (values.mean(), p50, p95, p99, values.max())), strict=True))


RESAMPLES, STRETCH = 400, 32
INTERVAL = ("mean", "p50", "p95", "p99")


def confidence(figures: dict[str, Floats | Ints]) -> dict[str, dict[str, tuple[float, float]]]:
    """95 % bootstrap intervals of mean, p50, p95 and p99 of figures per batch, `[batch]` each.

    Stretches of consecutive batches are drawn (circular block bootstrap, Politis and Romano 1992), as neighbours share
    most of their requests; single batches would make the intervals too narrow. The largest value has none: no resample
    exceeds it. The draws are the same in every run.
    """
    batches = len(next(iter(figures.values())))
    stretch = max(1, min(STRETCH, batches // 8))
    starts = np.random.default_rng(batches).integers(batches, size=(RESAMPLES, -(-batches // stretch)))
    drawn = ((starts[:, :, None] + np.arange(stretch)) % batches).reshape(RESAMPLES, -1)[:, :batches]
    return {name: _interval(np.asarray(values)[drawn]) for name, values in figures.items()}


def _interval(resampled: Floats | Ints) -> dict[str, tuple[float, float]]:
    """For values `[resample, batch]`."""
    found = [resampled.mean(axis=1), *np.percentile(resampled, [50, 95, 99], axis=1)]
    bounds = [np.percentile(values, [2.5, 97.5]) for values in found]
    return {name: (float(low), float(high)) for name, (low, high) in zip(INTERVAL, bounds, strict=True)}


HOTTEST = 32
LIFT_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True, eq=False)
class LoadFigures:
    """Routed experts' loads over batches, all `[expert]` in tokens per batch; covariance `[expert, expert]`.

    `burstiness` as of `batch_burstiness`.
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
    """What a corpus says of one layer's routed experts, over all data sets and both phases.

    counts `[expert]` tokens that chose an expert; gini, top_share and hottest (over mean) of the counts;
    request_burstiness and window_burstiness `[expert]`; overlap: share of a token's choices that the token before it
    made too, chance_overlap: the same of two tokens drawn at random; lift_quantiles `[quantile]` at `LIFT_QUANTILES`;
    dataset_drift `[dataset, dataset]` and phase_drift: total variation; load: over batches, None without any.
    A figure that the corpus cannot tell is nan.
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
    """All figures of one entry of the layer axis."""
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
    """The figures of batch loads `[batch, expert]` of the routed experts, the shared ones left out."""
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
    """Covariance over batches of experts' loads `[batch, expert]`, `[expert, expert]`; std squared on the diagonal."""
    centred = load - load.mean(axis=0)
    product: Floats = centred.T @ centred / len(load)
    return product


def batch_burstiness(routed_load: Ints, top_k: int) -> Floats:
    """Variance of experts' batch loads over that of independent tokens (binomial), `[expert]`.

    routed_load `[batch, expert]` of the routed experts alone; a batch's tokens are its pairs / top_k. nan where an
    expert was chosen by none or by all.
    """
    tokens = routed_load.sum(axis=1, keepdims=True) / top_k
    share = routed_load.sum(axis=0) / max(tokens.sum(), 1)
    squares = ((routed_load - tokens * share) ** 2).sum(axis=0)
    return _over_chance(squares, tokens.sum() * share * (1 - share))


def request_burstiness(summary: CorpusSummary, layer: int) -> Floats:
    """Spread of an expert's share between requests over that of tokens shuffled among requests, `[expert]`.

    Spread is Pearson's: the sum over runs of (c - t p)^2 / t, p being the expert's share of the tokens of the phase.
    1: requests are alike; it grows with the length of requests that differ. nan where nothing can vary.
    """
    counts = summary.counts[:, :, layer].sum(axis=0)
    tokens, runs = summary.tokens.sum(axis=0)[:, None], summary.runs[:, None]
    squares = summary.between[:, layer] - counts * counts / np.maximum(tokens, 1)
    share = counts / np.maximum(tokens, 1)
    chance = np.maximum(runs - 1, 0) * share * (tokens - counts) / np.maximum(tokens - 1, 1)
    return _over_chance(squares.sum(axis=0), chance.sum(axis=0))


def window_burstiness(summary: CorpusSummary, layer: int) -> Floats:
    """Variance of an expert's tokens in windows of 32 over that of each run's tokens shuffled, `[expert]`.

    1: a request's tokens choose in no order; more: an expert comes in stretches. nan where nothing can vary.
    """
    return _over_chance(summary.inside[:, layer].sum(axis=0), summary.inside_chance[:, layer].sum(axis=0))


def _over_chance(seen: Floats, chance: Floats) -> Floats:
    ratio: Floats = np.divide(seen, chance, out=np.full(chance.shape, np.nan), where=chance > 0)
    return ratio


def lift_quantiles(lifts: Floats) -> Floats:
    """Quantiles of the lift over all pairs of experts that were chosen at all, `[quantile]` for `[expert, expert]`."""
    pairs = lifts[np.triu_indices(len(lifts), 1)]
    known = pairs[~np.isnan(pairs)]
    found: Floats = np.quantile(known, LIFT_QUANTILES) if len(known) else np.full(len(LIFT_QUANTILES), np.nan)
    return found


def gini(counts: Ints) -> Floats:
    """Gini coefficient of counts, `[...]` for `[..., expert]`: 0 if all are equal, towards 1 if one has everything."""
    experts = counts.shape[-1]
    rank = 2 * np.arange(experts) - experts + 1
    with np.errstate(invalid="ignore"):
        found: Floats = (np.sort(counts, axis=-1) * rank).sum(axis=-1) / (experts * counts.sum(axis=-1))
    return found


def top_share(counts: Ints, hottest: int = HOTTEST) -> Floats:
    """Share of all counts that the hottest experts have, `[...]` for `[..., expert]`."""
    with np.errstate(invalid="ignore"):
        share: Floats = np.sort(counts, axis=-1)[..., -hottest:].sum(axis=-1) / counts.sum(axis=-1)
    return share


def hottest_over_mean(counts: Ints) -> Floats:
    """The largest count over the mean one, `[...]` for `[..., expert]`."""
    with np.errstate(invalid="ignore"):
        ratio: Floats = counts.max(axis=-1) / counts.mean(axis=-1)
    return ratio
