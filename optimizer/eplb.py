"""What a server imports in place of its own balancer: `from optimizer.eplb import rebalance_experts`.

These are the calls of `optimizer.api.eplb`, under a name of their own: numpy, numba and scipy are all that they import.
"""

from optimizer.api.eplb import VllmAscendPolicy, VllmPolicy, rebalance_experts, sglang_rebalance_experts

__all__ = ["VllmAscendPolicy", "VllmPolicy", "rebalance_experts", "sglang_rebalance_experts"]
