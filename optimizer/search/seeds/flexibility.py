"""Replicas placed so that load can flow: the sparse expander of process-flexibility theory.

Devices are the plants of that theory and experts its products; a replica is a link from one to the other. Jordan and
Graves (Management Science 41, 1995) found that a few links do nearly as well as all if they form one long chain, as a
closed group of plants cannot give work to other plants. Chou, Chua, Teo and Zheng (Operations Research 59, 2011) show
that the reason is expansion: every set of products has many plants. So here replicas join devices that were not joined
before, and where all are joined, those that are farthest apart: no two experts share more than one device as long as
that is possible, and cycles are long. All devices get about equally many replicas of experts that have others, and are
filled up with experts that have no other replica, hot with cold.

On the home mesh the mean least peak of unseen batches is 1.078 times the mean load at 512 tokens and 1.031 at 2048,
where the greedy seed leaves 1.256 and 1.169, and the risk seed 1.248 and 1.167. In tiles the mean least peak is 2.00,
3.00, 4.00 and 6.00 at 128, 512, 1024 and 2048 tokens, where greedy leaves 3.00, 3.00, 4.03 and 6.99.
"""

from collections.abc import Iterator

import numpy as np

from formulations.kit.arrays import Bools, Ints
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.greedy import heaviest_first, replica_weight
from optimizer.search.seeds.packing import Packing
from optimizer.search.seeds.risk import risk_counts
from optimizer.search.split_state import exact_peaks

EMPHASES = (0.9, 1.0, 1.1, 1.2, 1.4)  # powers of the load by which replicas are handed out; 1 is EPLB's rule; which
# is best is not known beforehand
JUDGED = 64  # batches by which one of the placements is chosen; more take longer, fewer choose by chance


def flexibility(problem: Problem) -> Placement:
    """A placement of replicas on a sparse expander, the best of several counts and orders of placing.

    The best has the least mean peak under optimal split on some train batches. Hot experts may get more or fewer
    replicas than by EPLB's rule. The first to be placed are the experts with most replicas, those with the lightest
    replicas, or the hottest.
    """
    load = problem.load[:: -(-len(problem.load) // JUDGED)]  # neighbours share most of their requests
    return min(_woven(problem), key=lambda placement: float(exact_peaks(placement, load).mean()))


def _woven(problem: Problem) -> Iterator[Placement]:
    """The placements of all emphases and orders."""
    for emphasis in EMPHASES:
        counts = risk_counts(problem, problem.total_load.astype(np.float64) ** emphasis)
        each = replica_weight(problem, counts)
        for key in ((each, -counts), (each,), (-problem.total_load,)):
            yield woven(problem, counts, np.lexsort(key))


def woven(problem: Problem, counts: Ints, order: Ints) -> Placement:
    """One placement with these counts `[expert]`, its replicated experts placed in this order `[expert]`."""
    packing = Packing(problem, replica_weight(problem, counts))
    web = _Web(packing, problem)
    for expert in order[(counts[order] > 1) & ~problem.spread[order]].tolist():
        for _ in range(counts[expert]):
            web.place(packing, expert)
    for expert in heaviest_first(problem, counts):
        if counts[expert] == 1:
            packing.place_lightest(expert)
    return packing.placement()


class _Web:
    """Which devices can pass load on to which.

    joined `[device, device]`: the same expert has replicas on both; yielding `[device]`: how many replicas on a device
    can pass load to replicas elsewhere, less the spread experts there, which are too hot to do so.
    """

    def __init__(self, packing: Packing, problem: Problem) -> None:
        held = packing.holds[problem.spread]
        self.joined: Bools = np.any(held[:, :, None] & held[:, None], axis=0)
        self.yielding: Ints = -held.sum(axis=0)

    def place(self, packing: Packing, expert: int) -> None:
        """Put a replica on the device farthest from the expert's others.

        Of several as far it is one where few replicas can pass load on, and of these the lightest.
        """
        fits = packing.fits(expert)
        if not fits.any():
            packing.place_lightest(expert)
            return
        others = packing.holds[expert].copy()
        device = int(np.lexsort((packing.load, self.yielding, -self._steps(others), ~fits))[0])
        packing.place(expert, device)
        self.joined[others, device] = self.joined[device, others] = True
        self.yielding[device] += 1

    def _steps(self, start: Bools) -> Ints:
        """Steps over joined devices from any of `start` to each device, `[device]`.

        A device that none leads to has the number of devices.
        """
        steps, reached, front = np.full(len(start), len(start)), start.copy(), start
        for step in range(len(start)):
            steps[front] = step
            front = self.joined[front].any(axis=0) & ~reached
            if not front.any():
                break
            reached |= front
        return steps
