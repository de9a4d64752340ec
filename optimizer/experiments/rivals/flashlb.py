"""FlashLB, the balancer of vllm-ascend (pull requests 3042 and 6477 of vllm-project/vllm-ascend)."""

from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.risk_tree import risk_tree


def flashlb(problem: Problem) -> Placement:
    """FlashLB's tree search over replica counts, each packed by risk. Our own planning starts from it too, under the
    rules of servers."""
    return risk_tree(problem)
