"""The latency that no placement and no routing goes below."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.network import Network
from optimizer.planning.bounds import HOPS, TIME, Bound

SAYS = (
    "compute in the best case, and the fixed times of dispatch and combine; what links carry is bounded in means only"
)


@dataclass(frozen=True)
class Floor:
    """Lower bounds on the mean, the median and the 99th percentile over batches, microseconds."""

    mean: float
    p50: float
    p99: float


def floor(bounds: Sequence[Bound], cost: Cost, mesh: Mesh, tokens: int) -> Floor | None:
    """From the bounds of `bound_any` on batches of so many tokens, under its conditions; None without compute's.

    Compute takes its bound, and dispatch and combine at least their fixed times; so it is with each batch, and hence
    with percentiles. On rings each result travels alone, so that the bound on hops shares out over all links at best;
    as that is one on the mean, it adds to the mean alone. Of dispatch, which multicasts, no more is known.
    """
    compute = next((each for each in bounds if each.unit == TIME and not each.given), None)
    if compute is None or compute.p50 is None or compute.p99 is None:
        return None
    network = Network.of(mesh, cost.preset.network)
    idle: Ints = np.zeros((1, len(network.remote)), dtype=np.int64)
    fixed = float(cost.dispatch_us(idle, network.remote)[0] + cost.combine_us(idle, network.remote)[0])
    travel = 0.0
    if network.links == "rings":
        hops = max(each.mean for each in bounds if each.unit == HOPS and not each.given)
        messages = hops * tokens / len(network.remote)
        travel = messages * float(cost.combine_message_us(network.remote)[0])
    return Floor(compute.mean + fixed + travel, compute.p50 + fixed, compute.p99 + fixed)
