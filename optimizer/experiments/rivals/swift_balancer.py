"""SwiftBalancer: from a running placement by few moves (vllm-ascend, `policy_swift_balancer.py`).

From its code, read for what it does and written anew:

1. A placement with a peak below 1.01 times the mean load stays as it is.
2. The first replica of each expert, by slot and then by device, stays where it is. The other replicas are dealt out
   anew: as many as before, each for the expert with the most load per replica.
3. These go, the heaviest first, each to the lightest device with one of their slots that does not hold the expert, but
   no device sends another more than one expert. Slots that are left get the heaviest experts that their device lacks.
4. Up to 100 times the heaviest device exchanges an expert with another device, the lightest that wins enough: 1 % of
   the mean load. Of all exchanges of the two the one with the least load of the heavier is made. Devices that have
   exchanged or sent an expert to each other do so no more, and an expert that has come to a device stays.
5. The result is taken if its peak is lower than before.

Filled in: shared experts with a fixed number of replicas, which it does not know, stay. Between equal choices the
expert with the lower id comes first.
"""

from dataclasses import dataclass, replace

import numpy as np

from formulations.kit.arrays import Bools, Floats, Ints
from optimizer.domain.placement import EMPTY, Placement
from optimizer.domain.problem import Problem
from optimizer.search.seeds.greedy import greedy_counts

LEVEL, WORTH = 1.01, 0.01
"""Below which imbalance nothing is done, and the least gain of an exchange as a part of the mean load."""
MOST_EXCHANGES = 100
BETWEEN = 1  # how many experts a device sends to another


@dataclass(eq=False)
class Shift:
    """A placement on its way.

    load `[expert]`: expected; fixed `[expert]`: what stays; on, came `[expert, device]`: which device holds an expert,
    and to which it has come; sent `[device, device]`: how many experts the one sends to the other; room `[device]`:
    slots of replicas that are still to be dealt out.
    """

    load: Ints
    fixed: Bools
    on: Bools
    came: Bools
    sent: Ints
    room: Ints

    @property
    def weight(self) -> Floats:
        """The load of one replica of each expert, `[expert]`."""
        weight: Floats = self.load / self.on.sum(axis=1)
        return weight

    @property
    def device_load(self) -> Floats:
        """The load of each device, `[device]`."""
        load: Floats = self.weight @ self.on
        return load

    def give(self, expert: int, home: int, device: int) -> None:
        """Put a replica of an expert, whose first one is at home, on a device."""
        self.on[expert, device] = self.came[expert, device] = True
        self.sent[home, device] += 1
        self.room[device] -= 1

    def exchange(self, expert: int, device: int, other_expert: int, other: int) -> None:
        """Let two devices exchange an expert each."""
        for moved, start, end in ((expert, device, other), (other_expert, other, device)):
            self.on[moved, start], self.on[moved, end] = False, True
            self.came[moved, end] = True
            self.sent[start, end] += 1


def swift_balancer(problem: Problem, running: Placement) -> Placement:
    """The placement that follows a running one."""
    experts = problem.model.experts
    before = Shift(problem.total_load, problem.spread, running.held(experts).T, *_nothing_moved(problem))
    peak, mean = before.device_load.max(), before.device_load.mean()
    if peak < LEVEL * mean:
        return running
    first = _first_replicas(running, experts)
    kept = np.zeros_like(before.on)
    kept[np.arange(experts), first] = True
    kept[problem.spread] = before.on[problem.spread]
    shift = replace(before, on=kept, room=(before.on & ~kept).sum(axis=0))
    _deal(shift, problem, first)
    for _ in range(MOST_EXCHANGES):
        if not _exchanged(shift, WORTH * mean):
            break
    return _in_slots(shift.on, running) if shift.device_load.max() < peak else running


def _nothing_moved(problem: Problem) -> tuple[Bools, Ints, Ints]:
    """The last three fields of a `Shift` at its start."""
    devices = problem.mesh.devices
    came = np.zeros((problem.model.experts, devices), dtype=np.bool_)
    return came, np.zeros((devices, devices), dtype=np.int64), np.zeros(devices, dtype=np.int64)


def _first_replicas(running: Placement, experts: int) -> Ints:
    """The device of each expert's first replica `[expert]`, by slot and then by device."""
    in_turn = running.slots.T.ravel()
    filled = np.flatnonzero(in_turn != EMPTY)
    _, first = np.unique(in_turn[filled], return_index=True)
    device: Ints = filled[first] % len(running.slots)
    return device


def _deal(shift: Shift, problem: Problem, home: Ints) -> None:
    """Steps 2 and 3; home `[expert]`: where the first replicas are."""
    counts = greedy_counts(replace(problem, extra_replicas=int(shift.room.sum())))
    weight = problem.total_load / counts
    load, heaviest_first = weight @ shift.on, np.argsort(-weight, kind="stable")
    for expert in np.repeat(heaviest_first, np.where(problem.spread, 0, counts - 1)[heaviest_first]).tolist():
        open_to_it = (shift.room > 0) & ~shift.on[expert] & (shift.sent[home[expert]] < BETWEEN)
        if open_to_it.any():
            device = int(np.argmin(np.where(open_to_it, load, np.inf)))
            shift.give(expert, int(home[expert]), device)
            load[device] += weight[expert]
    for device in np.repeat(np.arange(len(shift.room)), shift.room).tolist():
        lacks = ~shift.on[:, device] & ~shift.fixed
        expert = int(np.argmax(np.where(lacks, shift.weight, -1.0)))
        shift.give(expert, int(home[expert]), device)


def _exchanged(shift: Shift, worth: float) -> bool:
    """Make the exchange of step 4, if there is any that lowers the heaviest device's load enough."""
    load, weight = shift.device_load, shift.weight
    order = np.argsort(load, kind="stable")
    hot = int(order[-1])
    movable = ~shift.came & ~shift.fixed[:, None]
    for other in order[:-1]:
        if max(shift.sent[hot, other], shift.sent[other, hot]) >= BETWEEN:
            continue
        mine = np.flatnonzero(shift.on[:, hot] & ~shift.on[:, other] & movable[:, hot])
        theirs = np.flatnonzero(shift.on[:, other] & ~shift.on[:, hot] & movable[:, other])
        if len(mine) == 0 or len(theirs) == 0:
            continue
        passed = weight[mine][:, None] - weight[theirs]
        peak = np.maximum(load[hot] - passed, load[other] + passed)
        one, two = np.unravel_index(np.argmin(peak), peak.shape)
        if peak[one, two] < load[hot] and load[hot] - peak[one, two] >= worth:
            shift.exchange(int(mine[one]), hot, int(theirs[two]), int(other))
            return True
    return False


def _in_slots(on: Bools, running: Placement) -> Placement:
    """A placement of which device holds what, in which replicas that stay keep their slots."""
    slots = running.slots.copy()
    for device, held in enumerate(slots):
        leaves = (held != EMPTY) & ~on[held, device]
        held[leaves] = np.setdiff1d(np.flatnonzero(on[:, device]), held)
    return Placement(slots)
