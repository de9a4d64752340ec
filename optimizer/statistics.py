"""What recorded batches say of the load of each expert."""

from dataclasses import dataclass

import numpy as np

from formulations.arrays import Floats, Ints
from optimizer.mesh import Mesh
from optimizer.model import Model
from optimizer.traces.batches import Batches


@dataclass(frozen=True, eq=False)
class Statistics:
    """load `[batch, expert]` token-expert pairs; all else `[expert]` over batches, in pairs per batch.

    `share` is an expert's part of all pairs; the shared experts are included, last.
    """

    load: Ints
    mean: Floats
    std: Floats
    p95: Floats
    max: Ints
    share: Floats


def statistics(batches: Batches, model: Model) -> Statistics:
    """The load statistics of one layer's batches."""
    load = batches.load(model.experts)
    load.flags.writeable = False
    return Statistics(
        load=load,
        mean=load.mean(axis=0),
        std=load.std(axis=0),
        p95=np.percentile(load, 95, axis=0),
        max=load.max(axis=0),
        share=load.sum(axis=0) / load.sum(),
    )


def sequential_imbalance(stats: Statistics, model: Model, mesh: Mesh) -> Floats:
    """Peak / mean device load of each batch where the routed experts lie in order, without replicas, `[batch]`.

    Device d holds the consecutive experts e with e * devices // routed_experts = d; the shared experts are
    left out, as a server that places experts in order keeps them beside the routed ones on every device.
    """
    routed = stats.load[:, : model.routed_experts]
    device = np.arange(model.routed_experts) * mesh.devices // model.routed_experts
    starts = np.flatnonzero(np.diff(device, prepend=-1))
    imbalance: Floats = np.add.reduceat(routed, starts, axis=1).max(axis=1) * mesh.devices / routed.sum(axis=1)
    return imbalance


FIVE = ("mean", "p50", "p95", "p99", "max")


def five_figures(values: Floats | Ints) -> dict[str, float]:
    """mean, p50, p95, p99 and max of one figure per batch (linear interpolation between order statistics)."""
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return dict(zip(FIVE, map(float, (values.mean(), p50, p95, p99, values.max())), strict=True))
