"""Graph partitions by Mt-KaHyPar, which is optional (the extra `partition`)."""

import importlib
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from formulations.kit.arrays import Floats, Ints

LARGEST_WEIGHT = 10_000  # of an edge, as Mt-KaHyPar takes whole numbers; not tuned
EDGE_IMBALANCE, LOAD_IMBALANCE = 0.01, 0.03  # by which a block may exceed the mean, for items and for loads; not tuned


class Library(NamedTuple):
    """The module `mtkahypar`, and the initialiser that it must be called through."""

    module: Any
    initialiser: Any


@cache
def library() -> Library | None:
    """Mt-KaHyPar with one thread, so that a seed gives one partition; None if it is not installed."""
    try:
        module = importlib.import_module("mtkahypar")
    except ImportError:
        return None
    return Library(module, module.initialize(1))


def spread_apart(weight: Floats, blocks: int, seed: int) -> Ints | None:
    """Blocks `[item]` of about equal size with little weight within them; weight `[item, item]`, symmetric.

    Mt-KaHyPar keeps heavy edges within blocks, so each edge is given the difference of its weight to the largest one.
    None if it is not installed, or for fewer items than two in each block. A seed gives the same blocks every time.
    """
    found = library()
    if found is None or len(weight) < 2 * blocks:
        return None
    module, initialiser = found.module, found.initialiser
    one, two = np.triu_indices(len(weight), 1)
    most = max(float(weight.max()), 1e-12)
    lacks = np.rint((most - weight[one, two]) / most * (LARGEST_WEIGHT - 1)).astype(np.int64) + 1
    module.set_seed(seed)
    context = initialiser.context_from_preset(module.PresetType.DETERMINISTIC)
    context.set_partitioning_parameters(blocks, EDGE_IMBALANCE, module.Objective.CUT)
    context.logging = False
    edges = list(zip(one.tolist(), two.tolist(), strict=True))
    graph = initialiser.create_graph(context, len(weight), len(edges), edges, [1] * len(weight), lacks.tolist())
    return np.array(graph.partition(context).get_partition(), dtype=np.int64)


def kept_together(edges: Ints, load: Ints, blocks: int, seed: int) -> Ints | None:
    """Blocks `[item]` of about equal load, so that edges meet few blocks; edges `[edge, item of it]`, load `[item]`.

    Minimises the connectivity metric: the number of blocks that an edge meets, less one, summed over edges. None if
    Mt-KaHyPar is not installed, or for fewer items than two in each block. A seed gives the same blocks every time.
    """
    found = library()
    if found is None or len(load) < 2 * blocks:
        return None
    module, initialiser = found.module, found.initialiser
    share = np.maximum(load * LARGEST_WEIGHT // max(int(load.sum()), 1), 1)
    module.set_seed(seed)
    context = initialiser.context_from_preset(module.PresetType.DETERMINISTIC)
    context.set_partitioning_parameters(blocks, LOAD_IMBALANCE, module.Objective.KM1)
    context.logging = False
    graph = initialiser.create_hypergraph(
        context, len(load), len(edges), edges.tolist(), share.tolist(), [1] * len(edges)
    )
    return np.array(graph.partition(context).get_partition(), dtype=np.int64)
