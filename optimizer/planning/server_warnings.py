"""What a server will do with a plan that it can load, where that is not what the plan is for."""

import numpy as np

from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.exchange.formats import Format
from optimizer.exchange.server_placement import ServerPlacement
from optimizer.exchange.tt_metal import receiving
from optimizer.planning.plan_file import Plan
from optimizer.routing.servers.abilities import SERVERS
from optimizer.routing.servers.sglang import NONE, near_copy

SERVER_OF = {"vllm-json": "vllm", "tt-metal-yaml": "tt-metal"}
"""The servers of formats that have another name than their server."""

WEIGHTS = "weights"


def warnings_of(plan: Plan, form: Format, placement: ServerPlacement, weighted: bool) -> list[str]:
    """What the user should know before the server loads the file, in a sentence each."""
    found = []
    server = SERVERS.get(SERVER_OF.get(form.name, form.name))
    if server is not None and not server.runs(plan.policy):
        runs = " or ".join((*server.policies, *server.otherwise))
        found.append(f"the plan is for the policy {plan.policy}, but {form.title} runs {runs}; plan for this server")
    elif server is None and not (weighted and plan.policy == WEIGHTS) and plan.policy != "even-source":
        found.append(
            f"the file does not hold the plan's policy, {plan.policy}; {form.title} chooses replicas by itself"
        )
    if form.name == "sglang":
        found += _collapse(plan, placement)
    if placement.dispatch is not None:
        unused = int((placement.physical_to_logical >= 0).sum() - receiving(placement.dispatch).sum())
        found += [f"{unused} replicas get no tokens by these tables, which so do not hold them"] if unused else []
    if form.name in ("vllm", "vllm-json"):
        found.append("no released vLLM loads this file: it is the format of a proposed change")
    return found


def _collapse(plan: Plan, placement: ServerPlacement) -> list[str]:
    """How often SGLang leaves a rank one replica alone of an expert that has several."""
    network = Network(plan.mesh, tokens="device", links="nodes")
    settled, several = 0, 0
    for layer in sorted(plan.layers):
        if layer not in placement.layers:
            continue
        by_rank = placement.row(layer).reshape(plan.mesh.devices, -1)
        start, slot = Placement(by_rank).replicas(placement.experts)
        near = near_copy(start, slot, network, by_rank.shape[1])[:, np.diff(start) > 1]
        settled += int((near != NONE).sum())
        several += near.size
    if not settled:
        return []
    return [
        "with an all-to-all back end SGLang leaves each rank only the replica on its own GPU or else node (mesh row): "
        f"that settles {100 * settled / several:.0f} % of the choices between replicas"
    ]
