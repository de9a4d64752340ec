"""Shares of replicas by gradients: what no handing over of coarse parts reaches, as many experts move at once.

What is minimised is the mean over batches of the peak device load plus that of the worst twentieth of batches
(conditional value at risk), in pairs that may be divided. It is convex, but has an edge wherever another device becomes
the peak; so peaks are smoothed, at first much and then less and less. Shares follow the exponentiated gradient (Kivinen
and Warmuth, Information and Computation 132, 1997), which keeps them positive and their sum 1. They begin level: as the
mean load of devices is most even.

The tail is what keeps shares from fitting the mean of train batches alone. With the optimal shares of
`formulations.batches.fixed_shares` on DeepSeek-V2-Lite, 2,048 tokens, the mean imbalance of test batches is 1.20 with
it and 1.23 without. No blend with even or with level shares was better on both DeepSeek-V2-Lite and GPT-OSS.
"""

import numpy as np

from formulations.kit.arrays import Floats, Ints
from formulations.kit.kernels import kernel

TAIL, TAIL_WEIGHT = (
    0.05,
    1.0,
)  # the share of batches in the tail, and how much their mean peak counts beside that of all
# Steps: of 200 and 600, the further ones gain 1 % at most and take three times as long.
STEPS = 200
# How far shares go against the gradient at first and at last. 5 and .1 gain less on DeepSeek-V2-Lite.
FIRST_STEP, LAST_STEP = 2.0, 0.04
# Over which loads, in mean device loads, a peak is smoothed at first and at last: .01 is a third of a pair in 36.
WIDEST, NARROWEST = 0.05, 0.01
LEAST = 0.02  # share with which a replica begins at least, as one of 0 would stay 0; at the end, less than half is 0
LEVELLING = 100  # sweeps over all experts that make mean loads level; they converge in a few dozen


def gradient_shares(load: Ints, start: Ints, device: Ints, devices: int) -> Floats:
    """Shares of replicas `[replica]` with a low mean and tail of the peak device load.

    load `[batch, expert]` pairs; start `[expert + 1]`: the replicas of each expert, as of `Placement.replicas`; device
    `[replica]`: where each is. The shares of an expert's replicas sum to 1.
    """
    mean = load.mean(axis=0)
    share = np.maximum(_level(mean, start, device, devices), LEAST)
    _normalise(share, start)
    scaled = load / max(float(mean.sum()) / devices, 1e-12)
    _follow(scaled, start, device, devices, share)
    share[share < LEAST / 2] = 0
    _normalise(share, start)
    return share


@kernel
def _normalise(share: Floats, start: Ints) -> None:
    """Scale the shares of each expert to a sum of 1, in place."""
    for expert in range(len(start) - 1):
        share[start[expert] : start[expert + 1]] /= share[start[expert] : start[expert + 1]].sum()


@kernel
def _level(mean: Floats, start: Ints, device: Ints, devices: int) -> Floats:
    """The shares `[replica]` that make loads of devices most even, for mean `[expert]`.

    The loads of an expert's devices are filled up to one level, expert after expert, which takes the sum of squares to
    its least value.
    """
    share, filled = np.empty(len(device)), np.zeros(devices)
    for expert in range(len(mean)):
        share[start[expert] : start[expert + 1]] = 1 / (start[expert + 1] - start[expert])
        for replica in range(start[expert], start[expert + 1]):
            filled[device[replica]] += mean[expert] * share[replica]
    for _ in range(LEVELLING):
        for expert in range(len(mean)):
            first, last = start[expert], start[expert + 1]
            if last - first == 1 or mean[expert] <= 0:
                continue
            others = filled[device[first:last]] - mean[expert] * share[first:last]
            level = _water_level(np.sort(others), mean[expert])
            for replica in range(first, last):
                share[replica] = max(level - others[replica - first], 0.0) / mean[expert]
                filled[device[replica]] = others[replica - first] + mean[expert] * share[replica]
    return share


@kernel
def _water_level(ground: Floats, water: float) -> float:
    """The level that water reaches over ground of these heights, in ascending order."""
    level = ground[0] + water
    for number in range(2, len(ground) + 1):
        if ground[number - 1] >= level:
            break
        level = (water + ground[:number].sum()) / number
    return float(level)


@kernel
def _follow(load: Floats, start: Ints, device: Ints, devices: int, share: Floats) -> None:
    """Improve share `[replica]` in place; load `[batch, expert]` in mean device loads. The best shares met are kept."""
    mean, fixed = _fixed(load, start, device, devices)
    loads, best, least = np.empty((len(load), devices)), share.copy(), np.inf
    for step in range(STEPS):
        done = step / STEPS
        loads[:] = fixed
        _add(load, start, device, share, loads)
        weight, cost = _weights(loads)
        if cost < least:
            least = cost
            best[:] = share
        _soften(loads, weight, WIDEST * (NARROWEST / WIDEST) ** done)
        _step(load, mean, start, device, loads, FIRST_STEP * (LAST_STEP / FIRST_STEP) ** done, share)
    share[:] = best


@kernel
def _fixed(load: Floats, start: Ints, device: Ints, devices: int) -> tuple[Floats, Floats]:
    """The mean load of each expert `[expert]`, and the load that experts with one replica put on devices
    `[batch, device]`."""
    mean, fixed = np.zeros(load.shape[1]), np.zeros((len(load), devices))
    for batch in range(len(load)):
        for expert in range(load.shape[1]):
            mean[expert] += load[batch, expert] / len(load)
            if start[expert + 1] - start[expert] == 1:
                fixed[batch, device[start[expert]]] += load[batch, expert]
    return mean, fixed


@kernel
def _add(load: Floats, start: Ints, device: Ints, share: Floats, loads: Floats) -> None:
    """Add what experts with several replicas put on devices to loads `[batch, device]`."""
    for batch in range(len(load)):
        for expert in range(load.shape[1]):
            if start[expert + 1] - start[expert] > 1 and load[batch, expert] > 0:
                for replica in range(start[expert], start[expert + 1]):
                    loads[batch, device[replica]] += load[batch, expert] * share[replica]


@kernel
def _weights(loads: Floats) -> tuple[Floats, float]:
    """How much the peak of each batch counts `[batch]`, and the sum of all peaks times these weights."""
    batches = len(loads)
    peak = np.empty(batches)
    for batch in range(batches):
        peak[batch] = loads[batch].max()
    worst = int(np.ceil(TAIL * batches))
    weight = np.full(batches, 1 / batches)
    for batch in np.argsort(peak)[batches - worst :]:
        weight[batch] += TAIL_WEIGHT / worst
    return weight, (weight * peak).sum()


@kernel
def _soften(loads: Floats, weight: Floats, width: float) -> None:
    """Turn loads `[batch, device]` into the part of each device in its batch's smoothed peak, times the weight."""
    for batch in range(len(loads)):
        part = loads[batch]
        peak, total = part.max(), 0.0
        for device in range(len(part)):
            below = (part[device] - peak) / width
            part[device] = np.exp(below) if below > -20 else 0.0  # e^-20 is a two billionth
            total += part[device]
        part *= weight[batch] / total


@kernel
def _step(load: Floats, mean: Floats, start: Ints, device: Ints, part: Floats, length: float, share: Floats) -> None:
    """Change share `[replica]` by one step; part `[batch, device]`: by how much a peak grows with each device's load.

    The gradient is divided by an expert's mean load, so that experts with little load move as fast as others.
    """
    slope = np.zeros(len(share))
    for batch in range(len(load)):
        for expert in range(load.shape[1]):
            if start[expert + 1] - start[expert] > 1 and load[batch, expert] > 0:
                for replica in range(start[expert], start[expert + 1]):
                    slope[replica] += part[batch, device[replica]] * load[batch, expert]
    for expert in range(len(mean)):
        if start[expert + 1] - start[expert] > 1 and mean[expert] > 0:
            for replica in range(start[expert], start[expert + 1]):
                fall = min(length * slope[replica] / mean[expert], 2.0)  # no share falls to less than a seventh at once
                share[replica] = max(share[replica] * np.exp(-fall), 1e-9)
            share[start[expert] : start[expert + 1]] /= share[start[expert] : start[expert + 1]].sum()
