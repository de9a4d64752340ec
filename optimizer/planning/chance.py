"""What chance leaves to any placement under a policy that does not look at the batch: an estimate, not a bound.

Such a policy sends a replica its share of whatever a batch asks for, so that device loads differ from batch to batch
even where their means are equal. Which replicas share a device decides how much they differ: replicas that are busy at
different times make up for one another. The estimate grants every replica the company that suits it best:

1. Each slot's load, divided by the mean device load of its batch, has a variance over batches, and covariances with
   other slots. A slot adds to the variance of its device its own variance and its covariances with the S - 1 other
   slots there. The sum is the least with the S - 1 least covariances of all that the slot has.
2. So the variance of device loads, averaged over D devices, is at least the sum of these over slots, divided by D. That
   much is exact; it can be reached where the best company of all slots can be had at once.
3. The peak of D normal variables with that variance, sigma squared, and a constant sum is the mean load and
   sigma / sqrt(1 - 1 / D) * E(the largest of D standard normal variables). Loads lean to the right of the normal curve,
   and so their peaks are higher; with unequal variances they are higher, too.

Published peaks of balanced devices agree: 1 + 2.6 / sqrt(m) with m pairs a device on 128 devices follows with sigma =
1 / sqrt(m), as E is 2.62.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.integrate import quad
from scipy.special import ndtr

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.placement import Placement
from optimizer.planning.pool import LayerJudge
from optimizer.routing.policies import INFORMATION
from optimizer.simulation.simulator import Simulation
from optimizer.traces.batches import Batches

MOST_BATCHES = 256
"""Batches that the variances are taken from, evenly chosen: a standard error of 4 % of the deviation, and tenths of a
second at 2,048 tokens."""

BLOCK = 512
"""Slots whose covariances are held at a time, with 8,192 slots 32 MB. Not tuned."""


@dataclass(frozen=True)
class Chance:
    """Mean peak / mean load over test batches. reached: of the plan. with_even_means: if its devices had equal loads in
    the mean of these batches, and differed from it as they do. least: what chance leaves to any placement with the
    plan's replica counts under its policy, estimated from below."""

    reached: float
    with_even_means: float
    least: float

    def in_words(self, routing: str) -> str:
        """The three figures in a sentence."""
        return (
            f"Chance leaves any placement with these replica counts an imbalance of about {self.least:.3f} under "
            f"{routing} (an estimate, rather too low); the plan has {self.reached:.3f}, and would have "
            f"{self.with_even_means:.3f} if its devices' mean loads were even."
        )


def chance_of(judge: LayerJudge, placement: Placement) -> Chance | None:
    """What chance does to a placement on test batches; None for policies that know the batch or loads before it, where
    pairs are rerouted, and for a single batch or device."""
    conditions, problem, test = judge.conditions, judge.problem, _some(judge.sets.test)
    if INFORMATION[conditions.routing] not in ("none", "own") or conditions.capacity_factor is not None:
        return None
    if test.count < 2 or problem.mesh.devices < 2:
        return None
    fixed = conditions, judge.learned(placement), None, problem.layers_before
    load = Simulation(placement, problem.model, problem.mesh, problem.cost, *fixed).slot_loads(test)
    return of_slots(load, problem.mesh.devices)


def of_slots(load: Ints, devices: int) -> Chance:
    """What chance does to slot loads `[batch, slot]`, as many slots on each of the devices; two or more batches and
    devices."""
    relative = load * (devices / load.sum(axis=1))[:, None]
    of_device = relative.reshape(len(load), devices, -1).sum(axis=2)
    even = of_device - of_device.mean(axis=0) + 1
    variance = _least_variance(relative - relative.mean(axis=0), load.shape[1] // devices)
    sigma = (max(variance, 0.0) / (devices - 1)) ** 0.5
    reached, evened = (float(each.max(axis=1).mean()) for each in (of_device, even))
    return Chance(reached, evened, 1 + sigma * largest_normal(devices))


def largest_normal(number: int) -> float:
    """The mean of the largest of so many independent standard normal variables.

    Their curve is written out, as `scipy.stats`, which has it, takes half a second to import.
    """
    height = number / math.sqrt(2 * math.pi)
    mean, _ = quad(lambda x: x * height * math.exp(-x * x / 2) * ndtr(x) ** (number - 1), -10, 10)
    return float(mean)


def _least_variance(centred: Floats, slots: int) -> float:
    """The least sum over devices of the variance of their load, by the best company of each slot alone.

    centred `[batch, slot]`: differences from each slot's mean; slots: how many a device has.
    """
    total, batches = 0.0, len(centred)
    for first in range(0, centred.shape[1], BLOCK):
        block = centred[:, first : first + BLOCK]
        together = block.T @ centred / (batches - 1)
        own = np.arange(block.shape[1]), np.arange(first, first + block.shape[1])
        total += float(together[own].sum())
        together[own] = np.inf
        if slots > 1:
            total += float(np.partition(together, slots - 2, axis=1)[:, : slots - 1].sum())
    return total


def _some(batches: Batches) -> Batches:
    """At most `MOST_BATCHES` of the batches, evenly chosen."""
    step = -(-batches.count // MOST_BATCHES)
    source = None if batches.source is None else batches.source[::step]
    return Batches(batches.experts[::step], batches.source_row[::step], source=source)
