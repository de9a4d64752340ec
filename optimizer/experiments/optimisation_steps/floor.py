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
    """A lower bound on latency from the bounds that `bound_any` finds; None where it finds none on compute.

    bounds: of batches of `tokens` tokens each, under the conditions of `bound_any`.

    Every batch takes at least the bound on its compute, and the fixed times of dispatch and combine, so the sum holds
    for percentiles too. On rings each result travels alone, so that at best all hops spread evenly over all links. The
    bound on hops is one on the mean over batches, so that it adds to the mean alone. Dispatch multicasts, and nothing
    more is known of it.
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
