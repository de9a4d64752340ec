"""Kernels of load hints: an average of loads that forgets, and choices by the last known loads of devices."""

from typing import NamedTuple

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.copying import copy
from formulations.kit.kernels import kernel

HASH = 2654435769  # 2^32 over the golden ratio: neighbouring numbers are spread far apart by it


class Forecast(NamedTuple):
    """What is known of loads that come batch by batch, some batches late; `recall` changes it in place.

    clock `[1]` int64: batches seen. waiting `[lag, ...]` int32: the loads of the last batches, of which the average
    does not know yet. average `[...]` float64: the loads before, of which each batch keeps a part.
    """

    clock: Ints
    waiting: Ints
    average: Floats

    @classmethod
    def of(cls, start: Floats, lag: int) -> "Forecast":
        """A forecast that begins with these loads and learns of a batch once `lag` batches have begun since."""
        return cls(np.zeros(1, dtype=np.int64), np.zeros((lag, *start.shape), dtype=np.int32), start.copy())


@kernel
def recall(clock: Ints, waiting: Ints, average: Floats, kept: float, loads: Ints) -> None:
    """Take note of the loads of a batch that has run, in the shape of the average; the other arrays are a `Forecast`'s.

    The average keeps the part `kept` of itself, and the rest comes from the oldest batch that it does not know yet, if
    that is `lag` batches old.
    """
    copy(loads.ravel(), waiting[clock[0] % len(waiting)].ravel())
    clock[0] += 1
    if clock[0] >= len(waiting):
        known, oldest = average.ravel(), waiting[clock[0] % len(waiting)].ravel()
        for place in range(len(known)):  # a loop, as an expression of whole arrays would allocate one
            known[place] = kept * known[place] + (1 - kept) * oldest[place]


@kernel
def count_pairs(experts: Ints, source: Ints, counts: Ints) -> None:
    """Count the pairs of one batch into counts `[source, expert]`; experts `[token, k]`, source `[token]`."""
    counts[:] = 0
    for token in range(len(experts)):
        for expert in experts[token]:
            counts[source[token], expert] += 1


@kernel
def first_weights(sources: int, devices: int) -> Floats:
    """A number in 0..1 for each source and device, `[source, device]` float64, that tells equally loaded devices apart.

    Sources that begin with different devices do not all fill the same one.
    """
    weight = np.empty((sources, devices))
    for source in range(sources):
        for device in range(devices):
            weight[source, device] = ((source * devices + device) * HASH & 0xFFFFFFFF) / 4294967296.0
    return weight


@kernel
def to_lighter(
    experts: Ints, source: Ints, weight: Floats, start: Ints, slot: Ints, device: Ints, chosen: Ints, loads: Ints
) -> None:
    """Send each pair of one batch to the replica whose device weighs least for its source, the first of equal ones.

    experts `[token, k]`, source `[token]`; weight `[source, device]` float64 is what sources hold against devices, and
    grows by 1 for each pair that the source sends there. start, slot and device say where replicas are, as in
    `expected_split`. Fills chosen `[token, k]` int32 with flat slots and loads `[device]` int32 with pairs.
    """
    loads[:] = 0
    for token in range(len(experts)):
        own = weight[source[token]]
        for choice in range(experts.shape[1]):
            expert = experts[token, choice]
            best = start[expert]
            for replica in range(best + 1, start[expert + 1]):
                if own[device[replica]] < own[device[best]]:
                    best = replica
            own[device[best]] += 1
            loads[device[best]] += 1
            chosen[token, choice] = slot[best]
