"""What train batches teach the routing policies of one layer's plan."""

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.cost import NS_PER_US
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.routing.context import RoutingContext
from optimizer.routing.forecast import Forecast, recall
from optimizer.routing.hints import USUAL_HINTS
from optimizer.routing.learned_shares import only_loads
from optimizer.routing.learned_tables import SourceLoads, learn_table
from optimizer.routing.policies import FIXED, REMEMBERING
from optimizer.routing.tables import DispatchTable
from optimizer.search.multistart import slot_value
from optimizer.traces.batches import Batches

# How much more the busiest link carries than the mean of all links, for the price of a hop. Of 0, 1, 2 and 4, 2 has the
# least mean latency on most of the built-in trace, DeepSeek-V2-Lite and GPT-OSS.
BUSIEST = 2


def source_loads(problem: Problem, train: Batches) -> SourceLoads:
    """How many pairs each source of the problem's network has of each expert in each train batch."""
    network = problem.network
    source = train.source_on(network)
    return SourceLoads.of(train.experts, source, network.sources, problem.model.experts)


def table_for(problem: Problem, placement: Placement, loads: SourceLoads) -> DispatchTable:
    """The dispatch table that the train batches' pairs by source teach, for this placement."""
    known = only_loads(placement, problem.load)
    nearest = RoutingContext.of(placement, problem.model, problem.network, 1, 1, known).nearest_slot
    return learn_table(placement, loads, slot_value(problem), hop_ns(problem), nearest)


def known_loads(problem: Problem, policy: str) -> Floats | None:
    """By which loads a policy splits the train batches, `[batch, expert]`: None for those of the batch itself.

    Fixed shares and tables know the mean, hints on experts an average of the batches before. A policy that is told of
    devices alone levels what each source itself has in the batch, which is nearest to a split by the batch's loads.
    """
    mean = problem.load.mean(axis=0)
    if policy in FIXED:
        return np.broadcast_to(mean, problem.load.shape)
    if policy not in REMEMBERING or policy == "hint-device":
        return None
    known, forecast = np.empty(problem.load.shape), Forecast.of(mean, USUAL_HINTS.lag)
    for batch, load in enumerate(problem.load):
        known[batch] = forecast.average
        recall(*forecast, USUAL_HINTS.kept, load)
    return known


def hop_ns(problem: Problem) -> Ints:
    """What a pair costs on its way from a source to a device and back, `[source, device]` whole nanoseconds.

    Each hop keeps one of the links busy, and the busiest link decides: a hop costs a message each way, divided by the
    number of links, times `BUSIEST`.
    """
    network = problem.network
    message = (
        problem.cost.dispatch_message_us(network.remote).max() + problem.cost.combine_message_us(network.remote).max()
    )
    price = BUSIEST * NS_PER_US * message / len(network.remote)
    hops: Ints = np.rint(network.distance * price).astype(np.int64)
    return hops
