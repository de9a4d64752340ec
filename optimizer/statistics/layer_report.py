"""The report on one layer, made from what is known of it: requests, explicit batches, or counts alone."""

from dataclasses import dataclass

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.statistics.coactivation import lift, pair_counts
from optimizer.statistics.drift import drift_matrix, drift_of_steps, drift_over_time
from optimizer.statistics.loads import (
    LIFT_QUANTILES,
    LayerFigures,
    gini,
    hottest_over_mean,
    layer_figures,
    lift_quantiles,
    load_figures,
    sequential_imbalance,
    top_share,
)
from optimizer.statistics.summarise import SummarisedCorpus
from optimizer.traces.batches import Batches
from optimizer.traces.formats.counts import Counts, step_counts


@dataclass(frozen=True, eq=False)
class LayerReport:
    """The statistics of one layer.

    load `[batch, expert]`: the routed experts' pairs in each batch or recorded step. imbalance `[batch]`: peak over
    mean device load if the experts lie in order of their ids, without replicas. pairs and lift `[expert, expert]`: see
    `coactivation`; None if only counts are known. datasets: the names for the axes of `figures.dataset_drift`. unit:
    what a batch is, in words. over_time `[dataset, 2]`: see `drift_over_time`.
    """

    layer: int
    figures: LayerFigures
    load: Ints
    imbalance: Floats
    pairs: Ints | None
    lift: Floats | None
    datasets: tuple[str, ...]
    unit: str
    over_time: Floats


def report_of_corpus(found: SummarisedCorpus, layer: int, mesh: Mesh, users: int) -> LayerReport:
    """The report on one layer of a summarised corpus, whose batches are decode steps of `users` users."""
    place = found.layers.index(layer)
    figures, load = layer_figures(found.summary, place), found.summary.batch_load[place]
    pairs = found.summary.pairs[place]
    return LayerReport(
        layer=layer,
        figures=figures,
        load=load,
        imbalance=sequential_imbalance(load, mesh),
        pairs=pairs,
        lift=lift(pairs, figures.counts, figures.tokens),
        datasets=found.datasets,
        unit=f"decode step of {users} users",
        over_time=drift_over_time(found.day[:, :, place]),
    )


def report_of_batches(batches: Batches, model: Model, layer: int, mesh: Mesh) -> LayerReport:
    """The report on one layer of explicit batches.

    Figures that compare requests, prompts with outputs, or data sets are nan, as it is not known which token is whose.
    """
    load = batches.load(model.experts)[:, : model.routed_experts]
    tokens = batches.count * batches.tokens
    pairs = pair_counts(batches.experts[..., : model.top_k], model.routed_experts)
    above = lift(pairs, load.sum(axis=0), tokens)
    figures = _figures_of_load(load, model.top_k, tokens, lift_quantiles(above), np.zeros((1, 1)))
    imbalance = sequential_imbalance(load, mesh)
    unit, over_time = f"batch of {batches.tokens} tokens", drift_of_steps(load)[None]
    return LayerReport(layer, figures, load, imbalance, pairs, above, ("batches",), unit, over_time)


def report_of_counts(counts: Counts, model: Model, layer: int, mesh: Mesh) -> LayerReport:
    """The report on one layer of counts, where a recorded step stands for a batch.

    Pairs of experts are not known. Raises InputError if the counts do not have the layer.
    """
    load = step_counts(counts, layer)
    names = tuple(dict.fromkeys(counts.names)) or ("all",)
    owner = np.array([names.index(name) for name in counts.names] or [0] * len(counts.load))
    whole = counts.load[:, counts.layers.index(layer)]
    by_name = np.stack([whole[owner == place].sum(axis=0) for place in range(len(names))])
    tokens = int(load.sum()) // model.top_k
    figures = _figures_of_load(load, model.top_k, tokens, np.full(len(LIFT_QUANTILES), np.nan), drift_matrix(by_name))
    imbalance = sequential_imbalance(load, mesh)
    over_time = np.stack([drift_of_steps(whole[owner == place]) for place in range(len(names))])
    return LayerReport(layer, figures, load, imbalance, None, None, names, "recorded step", over_time)


def _figures_of_load(load: Ints, top_k: int, tokens: int, lifts: Floats, drift: Floats) -> LayerFigures:
    """The figures that follow from load `[batch, expert]` of all `tokens` tokens; figures that do not follow are nan.

    lifts `[quantile]` and drift `[dataset, dataset]` are taken as they are.
    """
    counts = load.sum(axis=0)
    unknown = np.full(len(counts), np.nan)
    return LayerFigures(
        tokens=tokens,
        counts=counts,
        gini=float(gini(counts)),
        top_share=float(top_share(counts)),
        hottest=float(hottest_over_mean(counts)),
        request_burstiness=unknown,
        window_burstiness=unknown,
        overlap=np.nan,
        chance_overlap=float(((counts / max(tokens, 1)) ** 2).sum()) / top_k,
        lift_quantiles=lifts,
        dataset_drift=drift,
        phase_drift=np.nan,
        load=load_figures(load, top_k),
    )
