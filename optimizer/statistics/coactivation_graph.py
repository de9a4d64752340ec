"""Co-activation as a networkx graph.

This is a module of its own because networkx is slow to import, and the search needs `coactivation` without it.
"""

import networkx as nx
import numpy as np

from formulations.kit.arrays import Ints
from optimizer.statistics.coactivation import lift


def coactivation_graph(pairs: Ints, counts: Ints, tokens: int, least: int) -> nx.Graph:
    """A graph with experts as nodes, and an edge where at least `least` tokens chose both of two experts.

    pairs `[expert, expert]` and counts `[expert]` of `tokens` tokens, as `lift` takes them. A node has the attribute
    `count`; an edge has `weight`, the number of tokens that chose both, and `lift`, the lift of the two experts.
    """
    ratio = lift(pairs, counts, tokens)
    graph = nx.Graph()
    graph.add_nodes_from((expert, {"count": count}) for expert, count in enumerate(counts.tolist()))
    one, other = np.nonzero(np.triu(pairs >= least, 1))
    ends = zip(one.tolist(), other.tolist(), pairs[one, other].tolist(), ratio[one, other].tolist(), strict=True)
    graph.add_edges_from((x, y, {"weight": weight, "lift": above}) for x, y, weight, above in ends)
    return graph
