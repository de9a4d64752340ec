"""Graph partitions by Mt-KaHyPar, which is optional (the extra `partition`)."""

import importlib
from functools import cache
from typing import Any

import numpy as np

from formulations.kit.arrays import Floats, Ints

LARGEST_WEIGHT = 10_000  # of an edge; edges are whole numbers


@cache
def library() -> Any:
    """(module, its initialiser) of Mt-KaHyPar with one thread, None if it is not installed."""
    try:
        module = importlib.import_module("mtkahypar")
    except ImportError:
        return None
    return module, module.initialize(1)


def spread_apart(weight: Floats, blocks: int, seed: int) -> Ints | None:
    """Blocks `[item]` of about equal size with little weight within them; weight `[item, item]`, symmetric.

    Mt-KaHyPar keeps heavy edges within blocks, so it is given what each weight lacks to the largest. None if it is not
    installed. Same seed, same blocks.
    """
    found = library()
    if found is None or len(weight) < 2 * blocks:
        return None
    module, initialiser = found
    one, two = np.triu_indices(len(weight), 1)
    most = max(float(weight.max()), 1e-12)
    lacks = np.rint((most - weight[one, two]) / most * (LARGEST_WEIGHT - 1)).astype(np.int64) + 1
    module.set_seed(seed)
    context = initialiser.context_from_preset(module.PresetType.DETERMINISTIC)
    context.set_partitioning_parameters(blocks, 0.01, module.Objective.CUT)
    context.logging = False
    edges = list(zip(one.tolist(), two.tolist(), strict=True))
    graph = initialiser.create_graph(context, len(weight), len(edges), edges, [1] * len(weight), lacks.tolist())
    return np.array(graph.partition(context).get_partition(), dtype=np.int64)


def kept_together(edges: Ints, load: Ints, blocks: int, seed: int) -> Ints | None:
    """Blocks `[item]` of about equal load, so that edges meet few blocks; edges `[edge, item of it]`, load `[item]`.

    Minimises the connectivity metric, the blocks that an edge meets less one, summed over edges. None if Mt-KaHyPar is
    not installed. Same seed, same blocks.
    """
    found = library()
    if found is None or len(load) < 2 * blocks:
        return None
    module, initialiser = found
    share = np.maximum(load * LARGEST_WEIGHT // max(int(load.sum()), 1), 1)
    module.set_seed(seed)
    context = initialiser.context_from_preset(module.PresetType.DETERMINISTIC)
    context.set_partitioning_parameters(blocks, 0.03, module.Objective.KM1)
    context.logging = False
    graph = initialiser.create_hypergraph(
        context, len(load), len(edges), edges.tolist(), share.tolist(), [1] * len(edges)
    )
    return np.array(graph.partition(context).get_partition(), dtype=np.int64)
