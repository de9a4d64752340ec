"""CRAFT: more replicas for the layers in which they help most (Zhao et al., arXiv 2603.28768).

From the abstract: each layer gets its own number of replicas, by an estimate of how much they better its balance, so
that the balance of all layers together is the best within a budget of memory. Layers are then replicated and placed as
by EPLB.

Filled in: the balance of a layer is the mean over the peak of expected device loads. The budget is given out step by
step, to the layer that gains most for each replica with any larger number of them; steps that gain nothing are not
made, as the paper finds that many replicas bring next to nothing.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.problem import Problem
from optimizer.experiments.rivals.eplb import eplb


def craft(balance: Floats, extra: Ints, budget: int) -> Ints:
    """Which number of extra replicas each layer gets, `[layer]`, as places in `extra [option]`, ascending from 0.

    balance `[layer, option]`: as of `balances`; budget: the most extra replicas of all layers together.
    """
    place = np.zeros(len(balance), dtype=np.int64)
    while True:
        price = extra - extra[place][:, None]
        open_to_it = (price > 0) & (price <= budget - extra[place].sum())
        gain = balance - np.take_along_axis(balance, place[:, None], axis=1)
        rate = np.where(open_to_it, gain / np.maximum(price, 1), 0.0)
        layer, option = np.unravel_index(np.argmax(rate), rate.shape)
        if rate[layer, option] <= 0:
            return place
        place[layer] = option


def balances(problems: Sequence[Problem], extra: Ints) -> Floats:
    """The mean over the peak of the expected loads of devices by EPLB, `[layer, option]`, with so many extra replicas
    `[option]`; 1 is level."""
    return np.array([[_balance(problem, int(most)) for most in extra] for problem in problems])


def _balance(problem: Problem, extra: int) -> float:
    experts = problem.model.experts
    placement = eplb(replace(problem, extra_replicas=extra))
    load = placement.held(experts) @ (problem.total_load / placement.counts(experts))
    return float(load.mean() / load.max())
