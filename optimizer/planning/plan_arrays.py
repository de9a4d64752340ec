"""One layer planned from the loads of its experts alone, as servers ask for it: every slot filled, groups of experts
kept on nodes, and few changes where the placement before is known."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from formulations.expected_load.greedy_packing import greedy_slots
from formulations.kit.arrays import Floats, Ints
from optimizer.errors import InputError
from optimizer.planning.kept_slots import renumbered, reordered
from optimizer.planning.level_slots import level, mean_or_heaviest, peak_of, settled_from
from optimizer.planning.node_groups import exchanged_groups, groups_of_nodes, packed_groups

CLOSE = 1.01  # peak / bound up to which changing few slots counts for more than a lower peak

Method = Callable[[Floats, int, int], Ints]


@dataclass(frozen=True)
class EqualDevices:
    """Devices with the same number of slots, depth, for experts in groups of equal size, each group on one node.

    With one node, groups do not matter. Raises InputError for numbers that do not fit each other, and where the slots
    could be filled only with an expert twice on a device.
    """

    experts: int
    devices: int
    depth: int
    groups: int = 1
    nodes: int = 1

    @classmethod
    def of(cls, experts: int, num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int) -> "EqualDevices":
        """In EPLB's words; as there, nodes do not matter where their number does not divide that of groups."""
        words = {"num_replicas": num_replicas, "num_groups": num_groups, "num_nodes": num_nodes, "num_gpus": num_gpus}
        for field, value in words.items():
            if value < 1:
                raise InputError(f"{field} is {value}; it must be at least 1", field=field)
        if num_replicas % num_gpus:
            message = f"num_replicas is {num_replicas}, which is no multiple of the {num_gpus} devices of num_gpus"
            raise InputError(message, field="num_replicas")
        by_nodes = num_nodes > 1 and num_groups % num_nodes == 0
        groups, nodes = (num_groups, num_nodes) if by_nodes else (1, 1)
        return cls(experts, num_gpus, num_replicas // num_gpus, groups, nodes)

    def __post_init__(self) -> None:
        if self.experts % self.groups:
            raise InputError(
                f"num_groups is {self.groups}, which does not divide {self.experts} experts", field="num_groups"
            )
        if self.devices % self.nodes:
            raise InputError(
                f"num_gpus is {self.devices}, which is no multiple of the {self.nodes} nodes of num_nodes",
                field="num_gpus",
            )
        slots, most = self.devices * self.depth, self.experts * self.devices // self.nodes
        if slots < self.experts:
            raise InputError(
                f"num_replicas is {slots}, fewer than the {self.experts} experts of weight", field="num_replicas"
            )
        if slots > most:
            raise InputError(
                f"num_replicas is {slots}: more than {most} replicas would put an expert twice on a device, as each "
                f"of {self.experts} experts has at most {self.devices // self.nodes} devices",
                field="num_replicas",
            )


def plan_array(load: Floats, devices: EqualDevices, old: Ints | None = None) -> Ints:
    """The expert of each slot, `[device, slot]` int64, for loads `[expert]`, which must be finite and not negative.

    The peak is no higher than that of EPLB's greedy without doubles. old: the placement before, `[device, slot]`; where
    changes of few of its slots come within a hundredth of what can be had, or as far as planning anew, these are made,
    and else as many experts as possible stay on their devices. All that stay keep their slots.
    """
    by_group: Floats = load.reshape(devices.groups, -1).sum(axis=1)
    packed = packed_groups(by_group, devices.nodes)
    groups = exchanged_groups(by_group, packed)
    greedy = _assembled(load, devices, packed, greedy_slots)
    heaviest_node = float(by_group[groups].sum(axis=1).max()) * devices.nodes / devices.devices
    close = min(CLOSE * max(heaviest_node, mean_or_heaviest(load, greedy)), peak_of(load, greedy))
    if old is not None and (kept := _changed(load, devices, old, close)) is not None:
        return kept
    fresh = min(_assembled(load, devices, groups, level), greedy, key=lambda slots: peak_of(load, slots))
    if old is None:
        return fresh
    if (kept := _changed(load, devices, old, peak_of(load, fresh))) is not None:
        return kept
    return reordered(renumbered(fresh, old, devices.nodes, devices.experts), old)


def _assembled(load: Floats, devices: EqualDevices, groups: Ints, method: Method) -> Ints:
    """A placement `[device, slot]` in which each node has these groups `[node, group]`, planned by the method."""
    experts, parts = np.arange(devices.experts).reshape(devices.groups, -1), []
    for of_node in groups:
        ids = experts[of_node].ravel()
        parts.append(ids[method(load[ids], devices.devices // devices.nodes, devices.depth)])
    return np.concatenate(parts)


def _changed(load: Floats, devices: EqualDevices, old: Ints, target: float) -> Ints | None:
    """The old placement with few slots changed, so that no device is above the target; None where that fails, or the
    old one breaks a rule."""
    ordered = np.sort(old, axis=1)
    whole = len(np.unique(old)) == devices.experts and ordered[:, 0].min() >= 0
    if not whole or (ordered[:, 1:] == ordered[:, :-1]).any():
        return None
    groups = groups_of_nodes(old, devices.groups, devices.nodes, devices.experts)
    if groups is None:
        return None
    experts, parts = np.arange(devices.experts).reshape(devices.groups, -1), []
    for of_node, before in zip(groups, old.reshape(devices.nodes, -1, devices.depth), strict=True):
        ids = np.sort(experts[of_node].ravel())
        parts.append(ids[settled_from(load[ids], np.searchsorted(ids, before), target)])
    found = np.concatenate(parts)
    return found if peak_of(load, found) <= target else None
