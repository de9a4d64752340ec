"""Director: experts to devices by a relaxed linear program, rounded to whole experts (arXiv 2607.08782).

From summaries of the paper: the time of a step is the largest time of compute of a device plus the largest of its
communication. The assignment of experts to devices that makes it least is relaxed to shares of experts, solved as a
linear program, and rounded with a guarantee. No expert is copied.

Filled in, as these summaries go no further:

- An expert's time of compute is what it takes in its own slot, in the mean over train batches. A device's time of
  communication is that of all hops of its pairs, both ways, over as many links as there are for each device.
- Rounding is that of Shmoys and Tardos (An approximation algorithm for the generalized assignment problem, 1993): a
  device's shares, the longest compute first, are cut into whole slots, and experts are matched to slots that hold some
  of them, with the least communication in all. No device computes longer than the linear program's largest time and one
  expert more, and all communicate no longer together than there.
- With two or three slots on a device one expert more is much. So experts then change places, or go to empty slots, as
  long as this makes the step shorter; the paper may not do that, and without it EPLB's packing is far ahead.
- Shared experts, which the paper does not know, have their slots; their compute is part of their devices' time, and how
  their pairs travel is left out.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linear_sum_assignment
from scipy.sparse import diags_array, eye_array, hstack, kron

from formulations.kit.arrays import Floats, Ints
from formulations.kit.solver import Limits, minimise
from optimizer.domain.cost import NS_PER_US
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.experiments.rivals.one_each import OneEach, pairs_by_source, placed
from optimizer.search.seeds.packing import Packing
from optimizer.traces.batches import Batches

LIMITS = Limits(seconds=600)
"""Linear programs of layers end long before; the limit is for those that never would."""
DUST = 1e-9
"""Shares below this are rounding of the solver."""


@dataclass(frozen=True, eq=False)
class StepTimes:
    """What decides the time of a step, in microseconds.

    compute `[expert to place]`; taken `[device]`: compute of shared experts; communication `[expert to place, device]`;
    room `[device]`: slots.
    """

    compute: Floats
    taken: Floats
    communication: Floats
    room: Ints

    @classmethod
    def of(cls, problem: Problem, train: Batches) -> "StepTimes":
        """The mean times over train batches."""
        task, network, batches = OneEach.of(problem), problem.network, len(problem.load)
        counts = np.where(problem.spread, problem.shared_replicas or 1, 1)
        tokens = -(-problem.load.astype(np.int64) // counts)
        time = problem.cost.slot_ns(int(tokens.max()), problem.batch_blocks)[tokens].mean(axis=0) / NS_PER_US
        out, back = problem.cost.dispatch_message_us(network.remote), problem.cost.combine_message_us(network.remote)
        hop = (out.max() + back.max()) * problem.mesh.devices / len(network.remote)
        pairs = pairs_by_source(problem, train)[:, task.experts] / batches
        shared = Packing(problem, np.where(problem.spread, time, 0.0)).load
        return cls(time[task.experts], shared, pairs.T @ network.distance * hop, task.room)

    def step(self, share: Floats) -> float:
        """The time of a step with shares `[expert to place, device]` of experts on devices."""
        compute = self.taken + self.compute @ share
        return float(compute.max() + (self.communication * share).sum(axis=0).max())


def director(problem: Problem, train: Batches) -> Placement:
    """The placement by the linear program and rounding; train: the batches from whose sources pairs travel."""
    times = StepTimes.of(problem, train)
    return placed(problem, settled(times, rounded(times, relaxed(times))))


def relaxed(times: StepTimes, limits: Limits = LIMITS) -> Floats:
    """The shares of experts on devices with the least time of a step, `[expert to place, device]`.

    Raises RuntimeError where HiGHS does not solve the program within the limits.
    """
    experts, devices = times.communication.shape
    one, many = eye_array(devices), np.ones((1, experts))
    largest = np.zeros((devices, 2))  # the last two variables: the largest compute, the largest communication
    compute = hstack([kron(times.compute[None], one), largest - [1, 0]])
    travels = hstack([*(diags_array(row) for row in times.communication), largest - [0, 1]])
    once = hstack([kron(eye_array(experts), np.ones((1, devices))), np.zeros((experts, 2))])
    constraints = [
        LinearConstraint(once.tocsr(), 1, 1),
        LinearConstraint(hstack([kron(many, one), largest]).tocsr(), -np.inf, times.room),
        LinearConstraint(compute.tocsr(), -np.inf, -times.taken),
        LinearConstraint(travels.tocsr(), -np.inf, 0),
    ]
    cost = np.append(np.zeros(experts * devices), [1, 1])
    found = minimise(cost, constraints, np.zeros(len(cost), dtype=np.int64), Bounds(0, np.inf), limits)
    if found.x is None:
        raise RuntimeError(f"HiGHS ended the relaxed assignment with status {found.status}")
    return found.x[:-2].reshape(experts, devices)


def rounded(times: StepTimes, share: Floats) -> Ints:
    """The device of each expert `[expert to place]`, from shares `[expert to place, device]`."""
    longest = np.argsort(-times.compute, kind="stable")
    end = np.empty_like(share)
    end[longest] = share[longest].cumsum(axis=0)
    first, last = np.floor(end - share + DUST), np.ceil(end - DUST) - 1
    device = np.repeat(np.arange(len(times.room)), times.room)
    slot = np.concatenate([np.arange(room) for room in times.room])
    there = (share > DUST)[:, device] & (first[:, device] <= slot) & (slot <= last[:, device])
    elsewhere = times.communication.sum() + 1  # more than all else, for what rounding errors leave without a slot
    _, chosen = linear_sum_assignment(np.where(there, times.communication[:, device], elsewhere))
    found: Ints = device[chosen]
    return found


def settled(times: StepTimes, device_of: Ints) -> Ints:
    """Devices `[expert to place]` from which no expert of the device with the longest compute, or with the longest
    communication, can change places with another, or go to an empty slot, so that the step becomes shorter."""
    found, step = device_of.copy(), np.inf
    while True:
        tried = _changes(times, found)
        compute = times.taken + _sums(times.compute, tried, len(times.room))
        carried = times.communication[np.arange(len(found)), tried]
        steps = compute.max(axis=1) + _sums(carried, tried, len(times.room)).max(axis=1)
        best = int(np.argmin(steps))
        if steps[best] >= step:
            return found
        found, step = tried[best], steps[best]


def _changes(times: StepTimes, device_of: Ints) -> Ints:
    """The devices themselves and with one change each, `[change, expert to place]`."""
    devices = len(times.room)
    here = np.arange(len(device_of)), device_of
    compute = times.taken + np.bincount(device_of, times.compute, devices)
    busiest = compute.argmax(), np.bincount(device_of, times.communication[here], devices).argmax()
    free = np.flatnonzero(np.bincount(device_of, minlength=devices) < times.room)
    tried = [device_of]
    for expert in np.flatnonzero(np.isin(device_of, busiest)):
        for other in np.flatnonzero(device_of != device_of[expert]):
            tried.append(device_of.copy())
            tried[-1][[expert, other]] = device_of[[other, expert]]
        for device in free:
            tried.append(device_of.copy())
            tried[-1][expert] = device
    return np.array(tried)


def _sums(time: Floats, device_of: Ints, devices: int) -> Floats:
    """The sums of times by device, `[change, device]`; time `[expert]` or `[change, expert]`, devices the latter."""
    cells, each = np.arange(len(device_of))[:, None] * devices + device_of, np.broadcast_to(time, device_of.shape)
    total = np.bincount(cells.ravel(), each.ravel(), len(device_of) * devices)
    return np.asarray(total, dtype=np.float64).reshape(-1, devices)
