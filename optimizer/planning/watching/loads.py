"""Loads that forget: what experts get, with recent requests counting most, and how far that is from the plan's."""

from dataclasses import dataclass

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.statistics.drift import total_variation

HALF_LIFE = 512.0
"""Requests after which one counts half. Long enough for stable loads, short beside a day of a server. Not tuned."""


@dataclass
class ForgettingLoads:
    """Token-expert pairs of each expert, of which each further request makes the older ones count less.

    sums `[half, layer, expert]`: of every other request and of the rest, whose difference is chance. requests: how many
    were added. The size does not grow with them.
    """

    sums: Floats
    requests: int = 0

    @classmethod
    def none(cls, layers: int, routed_experts: int) -> "ForgettingLoads":
        """Loads before the first request."""
        return cls(np.zeros((2, layers, routed_experts)))

    @property
    def total(self) -> Floats:
        """The loads of both halves, `[layer, expert]`."""
        found: Floats = self.sums.sum(axis=0)
        return found

    def add(self, counted: Ints) -> None:
        """Count one request, or one step of counts: the pairs of each expert, `[layer, expert]`."""
        self.sums *= 0.5 ** (1 / HALF_LIFE)
        self.sums[self.requests % 2] += counted
        self.requests += 1

    def drift(self, planned: Floats) -> "LoadDrift":
        """How far the loads are from those `[layer, expert]` that a plan was made for."""
        return LoadDrift(total_variation(self.total, planned), total_variation(*self.sums))


@dataclass(frozen=True, eq=False)
class LoadDrift:
    """Total variation distances of shares of the load, `[layer]`, 0 to 1: between recent loads and the plan's, and
    between two halves of the recent requests, which is more than the drift that chance brings."""

    drift: Floats
    by_chance: Floats

    @property
    def worst(self) -> int:
        """The place of the layer that has drifted most."""
        return int(self.drift.argmax())
