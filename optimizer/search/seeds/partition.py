"""A placement of experts that tokens choose together in the same mesh rows, and there in different columns."""

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.rows.partition import kept_together
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.greedy import greedy_counts, heaviest_first, replica_weight
from optimizer.search.seeds.packing import Packing
from optimizer.statistics.coactivation import pair_counts
from optimizer.traces.batches import Batches

TOKENS = 4096  # tokens whose choices are hyperedges; four times as many take four times as long and leave 1.5 % fewer
# rows per token


def partition(problem: Problem, train: Batches, seed: int) -> Placement | None:
    """A placement that keeps tokens in few rows, or None.

    Each expert gets a home row by partition of the tokens' hyperedges. Then replicas are placed, the heaviest first,
    each in the row whose experts are chosen with it oftenest, and there in the column whose experts are chosen with it
    least. Rows and devices that would be above the mean load are passed over, as long as there are others. It is None
    where Mt-KaHyPar is not installed, or there are too many rows for the experts. On the home mesh tokens meet 6.7 rows
    instead of 7.1 under even split, and 23 hops instead of 30 under optimal split; the exchange of devices
    (`search.arrangement`) finds both for greedy's placement too.
    """
    free = np.flatnonzero(~problem.spread)
    home = kept_together(_hyperedges(problem, train), problem.total_load[free], problem.mesh.rows, seed)
    if home is None:
        return None
    counts = greedy_counts(problem)
    share = pair_counts(train.experts, problem.model.experts) / np.outer(counts, counts)
    drawn = np.stack([share[:, free[home == row]].sum(axis=1) for row in range(problem.mesh.rows)], axis=1)
    drawn[free, home] = np.inf
    packing = Packing(problem, replica_weight(problem, counts))
    columns = _columns(packing, problem)
    for expert in heaviest_first(problem, counts):
        if packing.fits(expert).any():
            device = _device(packing, expert, drawn[expert], share[expert] @ columns, problem)
            packing.place(expert, device)
            columns[expert, device % problem.mesh.cols] += 1
        else:
            packing.place_lightest(expert)
            columns = _columns(packing, problem)
    return packing.placement()


def _columns(packing: Packing, problem: Problem) -> Floats:
    """How many replicas of each expert lie in each mesh column, `[expert, col]`."""
    found: Floats = packing.holds.reshape(len(packing.holds), -1, problem.mesh.cols).sum(axis=1, dtype=np.float64)
    return found


def _hyperedges(problem: Problem, train: Batches) -> Ints:
    """The free experts of some tokens, evenly drawn from all, `[token, k]` places among the free ones."""
    tokens = train.experts.reshape(-1, train.experts.shape[2])
    some = tokens[np.linspace(0, len(tokens) - 1, min(TOKENS, len(tokens))).astype(np.int64)]
    place = np.cumsum(~problem.spread) - 1
    edges: Ints = place[some[~problem.spread[some]].reshape(len(some), -1)]
    return edges


def _device(packing: Packing, expert: int, drawn: Floats, met: Floats, problem: Problem) -> int:
    """Where to put a replica that fits somewhere.

    drawn `[row]` and met `[col]`: how often the row's experts, and the replicas in the column, are chosen with it.
    """
    mesh, load = problem.mesh, packing.load + packing.weight[expert]
    row, col = np.divmod(np.arange(mesh.devices), mesh.cols)
    mean = float(problem.total_load.sum()) / mesh.devices
    held = np.bincount(row, packing.holds[expert])
    full = np.bincount(row, packing.load) + packing.weight[expert] > mean * mesh.cols
    heavy = load > mean
    by_device = np.where(heavy, load, met[col]), heavy
    by_row = -drawn[row], full[row], held[row]
    return int(np.lexsort((*by_device, *by_row, ~packing.fits(expert)))[0])
