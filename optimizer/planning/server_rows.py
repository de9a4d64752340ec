"""What a server puts into the slots of a layer where no file says anything."""

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.mesh import Mesh


def server_row(server: str, experts: int, slots_per_rank: int, mesh: Mesh) -> Ints:
    """The experts of a layer's slots as a server would fill them by itself, `[slot]` int32.

    SGLang, vLLM, vllm-ascend and EPLB have experts in order and then the first ones again: slot p holds p modulo the
    number of experts. TensorRT-LLM begins each rank with its own part of the experts and goes on in order. RTP-LLM
    gives each rank its own part and then the first experts of the next rank of its node (a mesh row), where the
    redundant ones can be dealt out evenly, and else does as SGLang. OmniInfer has no redundant experts by itself; each
    rank has its own part here, and goes on in order. Slots of a rank are distinct experts in all of these, as there are
    no more of them than experts.
    """
    ranks = mesh.devices
    rank, place = np.divmod(np.arange(ranks * slots_per_rank), slots_per_rank)
    own, redundant = experts // ranks, ranks * slots_per_rank - experts
    if server in ("tensorrt-llm", "omniinfer"):
        found = (rank * experts // ranks + place) % experts
    elif (
        server == "rtp-llm"
        and mesh.cols > 1
        and experts % ranks == 0
        and redundant % ranks == 0
        and slots_per_rank <= 2 * own
    ):
        following = rank // mesh.cols * mesh.cols + (rank + 1) % mesh.cols
        found = np.where(place < own, rank * own + place, following * own + place - own)
    else:
        found = np.arange(ranks * slots_per_rank) % experts
    return found.astype(np.int32)
