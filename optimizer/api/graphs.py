"""The function that gives a layer's co-activation as a graph of networkx."""

from functools import partial

import networkx as nx
import numpy as np

from optimizer.api.traces import Traces, choice_of, opened
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.planning.options import Progress, silent
from optimizer.statistics.checked import checked_source
from optimizer.statistics.coactivation import pair_counts
from optimizer.statistics.coactivation_graph import coactivation_graph
from optimizer.traces.counted_source import open_counts
from optimizer.traces.infer import ModelChoice

ONE_DEVICE = Mesh(1, 1, 1)  # co-activation is of tokens alone, whatever mesh they run on


def coactivation(
    traces: Traces,
    layer: int,
    model: Model | ModelChoice | str | None = None,
    least: int = 1,
    progress: Progress = silent,
) -> nx.Graph:
    """Which routed experts the same tokens choose, in the batches that a layer would be planned on.

    The seeds `rows` and `partition` begin with the same pairs: experts that are chosen together in near devices.

    Parameters
    ----------
    traces
        What `open_traces` gives, or what it takes, such as paths.
    layer
        The id of the layer in the model.
    model
        The model; None for what the traces show.
    least
        How many tokens must have chosen both of two experts, so that there is an edge.
    progress
        A callable that is told the stage and the share of it that is done, 0 to 1.

    Returns
    -------
    networkx.Graph
        A node for each expert id with the attribute `count`, the tokens that chose it; an edge's `weight` is the
        number of tokens that chose both experts, and its `lift` how many times as often that is as by chance.

    Raises
    ------
    InputError
        For counts without tokens, which do not say what is chosen together, and for traces without the layer.

    Examples
    --------
    >>> batches = np.array([[[0, 1], [0, 1], [2, 3], [2, 3]]] * 5)
    >>> sorted(coactivation(batches, 0).edges(data="weight"))
    [(0, 1, 6), (2, 3, 6)]
    """
    given, known = opened(traces), choice_of(model)
    if open_counts(given, known) is not None:
        raise InputError("co-activation needs token traces: counts do not say what is chosen together", "traces")
    source = checked_source(given, [layer], known, ONE_DEVICE, partial(progress, "reading traces"))
    chosen = source.sets(layer).train.experts[..., : source.model.top_k]
    counts = np.bincount(chosen.ravel(), minlength=source.model.routed_experts)
    pairs = pair_counts(chosen, source.model.routed_experts)
    return coactivation_graph(pairs, counts, chosen.shape[0] * chosen.shape[1], least)
