"""The calls by which servers ask for a new placement, with the signatures and the results that they expect.

DeepSeek's `rebalance_experts`, and what SGLang, vLLM and vllm-ascend call in its place. Arrays may be numpy's, or
tensors of torch, and results are of the same kind, on the CPU. The same arrays give the same result in every process.
Where the placement before is known, few slots change. All raise InputError, in one line with the parameter's name, for
what cannot be planned.
"""

import sys
from typing import Any

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.errors import InputError
from optimizer.exchange.arrays import slots_by_expert
from optimizer.planning.level_slots import peak_of
from optimizer.planning.plan_arrays import EqualDevices, plan_array

HIERARCHICAL = "_hierarchical"  # how the names of SGLang's algorithms end that keep groups of experts on nodes
PLAIN = ("deepseek", "deepseek_vec")
AUTO = "auto"
WORTH = 0.95  # vllm-ascend changes experts only where the sum of all layers' peaks falls below this part


def rebalance_experts(
    weight: Any, num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int, old: Any = None
) -> tuple[Any, Any, Any]:
    """DeepSeek's call (`rebalance_experts` in deepseek-ai/EPLB `eplb.py`).

    Parameters
    ----------
    weight
        `[layers, experts]`, the load of each expert, in any unit.
    num_replicas
        Slots of all devices together, a multiple of num_gpus.
    num_groups, num_nodes
        Where num_nodes divides num_groups, groups of experts stay together on nodes, as many on each. Else neither
        matters.
    num_gpus
        Devices, a multiple of num_nodes where groups stay together.
    old
        `[layers, num_replicas]`, the expert of each slot now; None where that does not matter.

    Returns
    -------
    phy2log, log2phy, logcnt
        `[layers, num_replicas]`, the expert of each slot; `[layers, experts, X]`, the slots of each expert, ascending,
        then -1; `[layers, experts]`, the number of its replicas; int64.

    Raises
    ------
    InputError
        For loads that are negative or not finite, and slots that do not hold the experts, or that only an expert twice
        on a device could fill.

    Examples
    --------
    >>> phy2log, log2phy, logcnt = rebalance_experts([[4.0, 1.0, 1.0]], 4, 1, 1, 2)
    >>> phy2log.tolist(), logcnt.tolist()
    ([[0, 1, 0, 2]], [[2, 1, 1]])
    """
    table = _planned(weight, num_replicas, num_groups, num_nodes, num_gpus, old)
    log2phy, logcnt = slots_by_expert(table, _loads("weight", weight, 2).shape[1])
    return _like(weight, table), _like(weight, log2phy), _like(weight, logcnt)


def sglang_rebalance_experts(
    tokens_per_expert: Any,
    num_physical_experts: int,
    num_local_physical_experts: int,
    num_groups: int | None,
    num_nodes: int,
    algorithm: Any,
) -> tuple[Any, Any, Any]:
    """SGLang's call (`rebalance_experts` in `sglang/srt/eplb/eplb_algorithms/__init__.py`, 0.5.23).

    tokens_per_expert `[steps, layers, experts]`; algorithm: a member of SGLang's `EplbAlgorithm`, its name, or "auto".
    Of the algorithms the name decides alone whether groups of experts stay together on nodes. Returns what
    `rebalance_experts` does.
    """
    if num_local_physical_experts < 1 or num_physical_experts % num_local_physical_experts:
        raise InputError(
            f"num_physical_experts is {num_physical_experts}, which is no multiple of the "
            f"{num_local_physical_experts} slots of num_local_physical_experts",
            field="num_physical_experts",
        )
    loads = _loads("tokens_per_expert", tokens_per_expert, 3).sum(axis=0)
    groups, nodes = _groups_and_nodes(algorithm, num_groups, num_nodes)
    gpus = num_physical_experts // num_local_physical_experts
    found = rebalance_experts(loads, num_physical_experts, groups, nodes, gpus)
    phy2log, log2phy, logcnt = (_like(tokens_per_expert, each) for each in found)
    return phy2log, log2phy, logcnt


def _groups_and_nodes(algorithm: Any, num_groups: int | None, num_nodes: int) -> tuple[int, int]:
    """The groups and nodes that matter by the name of SGLang's algorithm."""
    name = str(getattr(algorithm, "name", algorithm))
    divides = num_groups is not None and num_nodes >= 1 and num_groups % num_nodes == 0
    if name.removesuffix(HIERARCHICAL) not in PLAIN and name != AUTO:
        known = ", ".join([AUTO, *PLAIN, *(each + HIERARCHICAL for each in PLAIN)])
        raise InputError(f"algorithm is {name}, which this call does not stand in for; it is for {known}", "algorithm")
    if name in PLAIN or (name == AUTO and not divides):
        return 1, 1
    if num_groups is None or not divides:
        raise InputError(
            f"num_groups is {num_groups}, but {name} places groups on nodes, and needs a multiple of the {num_nodes} "
            "nodes of num_nodes",
            field="num_groups",
        )
    return num_groups, num_nodes


class VllmPolicy:
    """vLLM's policy (`DefaultEplbPolicy` in `vllm/distributed/eplb/policy/default.py`, 0.33)."""

    @classmethod
    def rebalance_experts(
        cls,
        weight: Any,
        num_replicas: int,
        num_groups: int,
        num_nodes: int,
        num_ranks: int,
        old_global_expert_indices: Any = None,
    ) -> Any:
        """The expert of each slot, `[layers, num_replicas]` int64, for loads `[layers, experts]`.

        old_global_expert_indices: `[layers, slots]`, the expert of each slot now; it is not looked at where the number
        of slots changes, as in vLLM.
        """
        old = old_global_expert_indices
        if old is not None and np.shape(_array(old))[-1:] != (num_replicas,):
            old = None
        return _like(weight, _planned(weight, num_replicas, num_groups, num_nodes, num_ranks, old))


class VllmAscendPolicy:
    """vllm-ascend's policy (`EplbPolicy` in `vllm_ascend/eplb/core/policy/policy_abstract.py`, 0.23).

    config is taken as its policies take one, and not looked at.
    """

    def __init__(self, config: Any = None) -> None:
        self.config = config

    def rebalance_experts(self, current_expert_table: Any, expert_workload: Any) -> tuple[int, Ints, Any]:
        """Whether to change experts, 1 or 0, the layers by falling gain `[layers]`, and the new table.

        Both tables are `[layers, devices, slots]`: the expert in each slot now, and the load of each slot, -1 where it
        was not counted. The new table keeps the experts that stay on a device in their slots, as the server demands.
        """
        table = _experts("current_expert_table", current_expert_table, 3)
        workload = np.maximum(_loads("expert_workload", expert_workload, 3, least=-1.0), 0.0)
        if table.shape != workload.shape:
            raise InputError(
                f"expert_workload is of shape {workload.shape}, and current_expert_table of {table.shape}; both are "
                "[layers, devices, slots]",
                field="expert_workload",
            )
        layers, ranks, depth = table.shape
        experts = int(table.max()) + 1
        old = table.reshape(layers, -1)
        cell = np.arange(layers)[:, None] * experts + old
        absent = np.flatnonzero(np.bincount(cell.ravel(), minlength=layers * experts) == 0)
        if len(absent):
            raise InputError(
                f"current_expert_table has expert {absent[0] % experts} on no device in layer {absent[0] // experts}",
                field="current_expert_table",
            )
        load: Floats = np.bincount(cell.ravel(), workload.ravel(), layers * experts).astype(np.float64)
        load = load.reshape(layers, experts)
        found = _planned(load, ranks * depth, 1, 1, ranks, old).reshape(table.shape)
        before = workload.sum(axis=2).max(axis=1)
        after = np.array([peak_of(of_layer, slots) for of_layer, slots in zip(load, found, strict=True)])
        ratio = np.divide(after, before, out=np.ones(layers), where=before > 0)
        changed = int(after.sum() < WORTH * before.sum())
        return changed, np.argsort(ratio, kind="stable"), _like(current_expert_table, found)


def _planned(weight: Any, num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int, old: Any) -> Ints:
    """The expert of each slot, `[layers, num_replicas]` int64."""
    loads = _loads("weight", weight, 2)
    devices = EqualDevices.of(loads.shape[1], num_replicas, num_groups, num_nodes, num_gpus)
    shape = (devices.devices, devices.depth)
    before: list[Ints | None] = [None] * len(loads)
    if old is not None:
        slots = _experts("old", old, 2, least=-1)
        if int(slots.max()) >= devices.experts:
            raise InputError(f"old has the id {int(slots.max())}; there are {devices.experts} experts", field="old")
        if slots.shape != (len(loads), num_replicas):
            raise InputError(
                f"old is of shape {slots.shape} instead of [{len(loads)}, {num_replicas}], layers and num_replicas",
                field="old",
            )
        before = [row.reshape(shape) for row in slots]
    found = [plan_array(load, devices, row).ravel() for load, row in zip(loads, before, strict=True)]
    return np.array(found, dtype=np.int64).reshape(len(loads), num_replicas)


def _loads(field: str, value: Any, axes: int, least: float = 0.0) -> Floats:
    """A parameter as float64, with so many axes, finite and not below the least."""
    try:
        loads = np.asarray(_array(value), dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):  # the last of a tensor without values, as on torch's device meta
        raise InputError(f"{field} is no array of numbers", field=field) from None
    if loads.ndim != axes or loads.size == 0:
        raise InputError(
            f"{field} is of shape {loads.shape}; it must have {axes} axes, experts last, and not be empty", field=field
        )
    wrong = np.argwhere(~(np.isfinite(loads) & (loads >= least)))
    if len(wrong):
        place = ", ".join(map(str, wrong[0].tolist()))
        raise InputError(
            f"{field}[{place}] is {loads[tuple(wrong[0])]:g}; loads are finite and not negative", field=field
        )
    return loads


def _experts(field: str, value: Any, axes: int, least: int = 0) -> Ints:
    """A parameter as int64 ids with so many axes, none below the least."""
    try:
        ids = np.asarray(_array(value))
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{field} is no array of ids", field=field) from None
    if ids.ndim != axes or not np.issubdtype(ids.dtype, np.integer) or ids.size == 0:
        raise InputError(
            f"{field} is of shape {ids.shape} and type {ids.dtype}; it must hold ids of experts in {axes} axes",
            field=field,
        )
    if int(ids.min()) < least:
        raise InputError(f"{field} has the id {int(ids.min())}; the least is {least}", field=field)
    return ids.astype(np.int64)


def _array(value: Any) -> Any:
    """A torch tensor as an array of numpy; everything else as it is."""
    torch = sys.modules.get("torch")  # whoever gives a tensor has imported it
    if torch is None or not isinstance(value, torch.Tensor):
        return value
    tensor = value.detach().cpu()
    return (tensor.double() if tensor.is_floating_point() else tensor).numpy()  # numpy has no bfloat16


def _like(value: Any, array: Any) -> Any:
    """An array as a tensor where the value that was given is one."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        return array
    return torch.from_numpy(array)
