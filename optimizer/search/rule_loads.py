"""What a fixed rule gives each replica of an expert, for searches that need it for every list of replicas.

The rules are those of servers, and round robin inside each source. Two kinds of rule can be told without replaying
tokens. By *rank*: which copy a pair goes to depends on the number of copies, and on nothing else of the placement, so
one table of loads by expert, number of copies and rank says it exactly (round robin, vLLM, TensorRT-LLM, vllm-ascend,
SGLang without an all-to-all back end). By *nearness*: a source that has a near copy uses it, and the others use any
(SGLang). What they draw is taken as an even split here.
"""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.routing.context import RoutingContext
from optimizer.routing.policies import POLICIES
from optimizer.traces.batches import Batches

BY_RANK = ("even-source", "vllm", "sglang-rows", "tensorrt-llm", "vllm-ascend")
"""Policies that choose a copy by its rank and the number of copies."""

BY_NEARNESS = ("sglang-static", "sglang-dynamic")
"""Policies by which a source uses a near copy, where it has one."""

RULES = (*BY_RANK, *BY_NEARNESS)
"""All policies whose loads can be told for searches."""

PAIRS_AT_ONCE = 1 << 22  # routed at a time, which bounds the memory: 16 MB of slots; not tuned


class RuleLoads(NamedTuple):
    """The loads of single replicas under a rule, in the batches that a search looks at.

    ranked `[row, batch]` and first `[expert, copies]`: where an expert has so many copies, the one of rank r gets the
    pairs in row first + r; -1, and numbers of copies beyond the table, stand for an even split.
    by_row `[row, expert, batch]`: pairs that come from the sources of each mesh row, for rules that look for a near
    copy; no rows for others. by_source `[source, expert, batch]`: pairs of each source, where a source has a device of
    its own, which source_of `[device]` tells, -1 for none; without sources where a source is a whole mesh row.
    """

    first: Ints
    ranked: Ints
    by_row: Ints
    by_source: Ints
    source_of: Ints

    @classmethod
    def even(cls, experts: int, batches: int) -> "RuleLoads":
        """Loads that are split evenly."""
        nowhere = np.zeros((0, experts, batches), dtype=np.int32)
        return cls(
            np.full((experts, 1), -1, dtype=np.int64),
            np.zeros((0, batches), dtype=np.int32),
            nowhere,
            nowhere,
            np.full(1, -1, dtype=np.int64),
        )

    @classmethod
    def of(cls, policy: str, batches: Batches, model: Model, network: Network, most: int) -> "RuleLoads":
        """The loads of one of `RULES` in these batches. most: the largest number of copies in a table by rank."""
        even = cls.even(model.experts, batches.count)
        if policy in BY_NEARNESS:
            return _near(even, batches, network)
        first = np.full((model.experts, most + 1), -1, dtype=np.int64)
        tables, rows = [even.ranked], 0
        for copies in range(2, most + 1):  # one copy has all pairs
            first[:, copies] = rows + np.arange(model.experts) * copies
            tables.append(_ranked(policy, batches, model, network, copies))
            rows += len(tables[-1])
        return even._replace(first=first, ranked=np.concatenate(tables))


def _ranked(policy: str, batches: Batches, model: Model, network: Network, copies: int) -> Ints:
    """The pairs of each copy, `[expert * copies + rank, batch]` int32, where all experts have so many copies."""
    experts = model.experts
    everywhere = Placement(np.tile(np.arange(experts), (copies, 1)))
    context = RoutingContext.of(everywhere, model, network, 1, 1, None)
    step = max(1, PAIRS_AT_ONCE // (batches.tokens * batches.experts.shape[2]))
    found = np.empty((experts * copies, batches.count), dtype=np.int32)
    for begin in range(0, batches.count, step):
        part = batches.part(begin, begin + step)
        chosen = POLICIES[policy](part.experts, network.source(part.source_row), context)
        rank, expert = np.divmod(chosen, experts)
        found[:, begin : begin + step] = _counted(expert * copies + rank, experts * copies)
    return found


def _near(even: RuleLoads, batches: Batches, network: Network) -> RuleLoads:
    """The loads by mesh row, and by source where sources have devices of their own."""
    experts, mesh = even.by_row.shape[1], network.mesh
    by_source = demand_by_source(batches, network, experts)
    by_row = np.zeros((mesh.rows, *by_source.shape[1:]), dtype=np.int32)
    np.add.at(by_row, network.home_row, by_source)
    source_of = np.full(mesh.devices, -1, dtype=np.int64)
    if network.tokens == "row":
        return even._replace(by_row=by_row, source_of=source_of)
    source, device = np.nonzero(network.distance == 0)
    source_of[device] = source
    return even._replace(by_row=by_row, by_source=by_source, source_of=source_of)


def demand_by_source(batches: Batches, network: Network, experts: int) -> Ints:
    """The pairs of each source, `[source, expert, batch]` int32."""
    step = max(1, PAIRS_AT_ONCE // (batches.tokens * batches.experts.shape[2]))
    found = np.empty((network.sources * experts, batches.count), dtype=np.int32)
    for begin in range(0, batches.count, step):
        part = batches.part(begin, begin + step)
        source = network.source(part.source_row)[:, :, None]
        found[:, begin : begin + step] = _counted(source * experts + part.experts, len(found))
    return found.reshape(network.sources, experts, batches.count)


def _counted(found: Ints, kinds: int) -> Ints:
    """How often each of so many numbers is in each batch, `[number, batch]`, of found `[batch, token, k]`."""
    batch = np.arange(len(found), dtype=np.int64)[:, None, None] * kinds
    return np.bincount((batch + found).ravel(), minlength=len(found) * kinds).reshape(len(found), kinds).T
