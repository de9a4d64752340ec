"""METRO: routing that balances activated experts, not tokens (Yu, Ma et al., arXiv 2512.09277)."""

import numpy as np

from formulations.kit.arrays import Ints
from formulations.kit.kernels import kernel
from optimizer.routing.context import RoutingContext
from optimizer.routing.least_peak import Graph, graph, least_peak, scratch_for
from optimizer.simulation.simulator import Simulation
from optimizer.traces.batches import Batches

METRO = "metro"


class MetroSimulation(Simulation):
    """The simulator with METRO as its policy; the conditions name METRO only so that the report does."""

    @property
    def routing_us(self) -> float:
        """The price of METRO's routing, which must know which experts the whole batch activates."""
        return self.cost.routing_us(METRO, "batch")

    def _chosen(self, batches: Batches, source: Ints) -> Ints:
        return metro(batches.experts, source, self._context, self.model.routed_experts)


def metro(experts: Ints, source: Ints, context: RoutingContext, routed: int) -> Ints:
    """The replica that serves each pair, `[batch, token, k]` flat slots, such that the device with the most activated
    experts has as few as possible.

    experts: `[batch, token, k]`; source: `[batch, token]`. Every routed expert (ids below `routed`) of a batch is
    activated once, as all its pairs go to one replica. The paper finds the optimum by max-flow, and a greedy rule that
    comes close; this is the optimum. The paper knows no replicated shared experts: here their pairs go to the nearest
    replica, and each replica that is used counts as activated.
    """
    used = np.unique(context.nearest_slot[:, routed:]).astype(np.int32)
    held = context.slot[: context.start[routed]]
    start = np.concatenate([context.start[: routed + 1], len(held) + 1 + np.arange(len(used))]).astype(np.int32)
    depth = len(context.device_of) // context.devices
    replicas = graph(start, np.concatenate([held, used]), context.devices, depth)
    return _metro(experts, source, replicas, context.nearest_slot, routed, context.devices)


@kernel
def _metro(experts: Ints, source: Ints, replicas: Graph, nearest: Ints, routed: int, devices: int) -> Ints:
    """Do the work of `metro`. In `replicas` each used replica of a shared expert is an expert of its own, from `routed`
    on."""
    batches, tokens, k = experts.shape
    chosen = np.empty((batches, tokens, k), dtype=np.int32)
    active = np.ones(len(replicas.start) - 1, dtype=np.int64)
    only = np.empty(routed, dtype=np.int32)
    flow = np.empty(len(replicas.device_of), dtype=np.int64)
    load = np.empty(devices, dtype=np.int64)
    scratch = scratch_for(devices)
    for batch in range(batches):
        active[:routed] = 0
        for expert in experts[batch].ravel():
            if expert < routed:
                active[expert] = 1
        least_peak(active, replicas, flow, load, scratch)
        for expert in range(routed):
            for place in replicas.slot[replicas.start[expert] : replicas.start[expert + 1]]:
                if flow[place] > 0:
                    only[expert] = place
        for token in range(tokens):
            for choice in range(k):
                expert = experts[batch, token, choice]
                chosen[batch, token, choice] = (
                    only[expert] if expert < routed else nearest[source[batch, token], expert]
                )
    return chosen
