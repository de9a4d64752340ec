"""Generators of routing in plain numpy that share nothing with the product's, for `testbed.py`.

A token scores each expert by the logarithm of the expert's share, what its request's topic adds, what its own direction
adds, and Gumbel noise; it takes the best eight. Directions persist from token to token, and shares may drift from one
request to the next. The product's generator weighs topics and directions, too, but with one kind of marginals, which it
calibrates, one rank and strength of topics, and groups of experts; here these things differ from recipe to recipe.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Floats, Ints

EXPERTS, TOP_K = 256, 8
DIRECTION_RANK = 12  # dimensions of a token's direction
SHORTEST, LONGEST = 30, 255  # tokens of a request
LEAST = np.float32(1e-30)  # added to what a logarithm is taken of, which may be zero
CHUNK = 1 << 14  # tokens that are scored at once, so that scores take 16 MB

Marginal = Callable[[np.random.Generator], Floats]
"""Draws weights `[domain, expert]` of how often experts are chosen; a request belongs to one of the domains."""


@dataclass(frozen=True)
class Recipe:
    """How one generator differs from another.

    marginal: how often experts are chosen; topic: standard deviation of what a request's topic adds to scores, in
    natural logarithms, and rank: the dimensions of topics; token: the same of what a token's direction adds, and kept:
    what a direction keeps of the one before; drift: standard deviation of what the logarithm of an expert's share
    changes by from the first request to plan on to the last.
    """

    marginal: Marginal
    topic: float
    rank: int
    token: float = 1.0
    kept: float = 0.8
    drift: float = 0.0


@dataclass(frozen=True, eq=False)
class Requests:
    """Requests one after another: experts `[token, TOP_K]` uint16, lengths `[request]` in tokens."""

    experts: Ints
    lengths: Ints

    @property
    def starts(self) -> Ints:
        """The first token of each request, `[request]`."""
        found: Ints = np.cumsum(self.lengths) - self.lengths
        return found


def log_normal(sigma: float, stretch: float = 1.0) -> Marginal:
    """Log-normal weights; logarithms above one sigma are stretched beyond it, for a heavier tail."""

    def draw(rng: np.random.Generator) -> Floats:
        normal = rng.standard_normal((1, EXPERTS))
        return np.exp(sigma * (normal + (stretch - 1) * np.maximum(normal - 1, 0)))

    return draw


def power_law(exponent: float, offset: float = 1.0) -> Marginal:
    """Weights that fall by a power of the rank, counted from `offset`."""
    return lambda rng: rng.permutation((np.arange(EXPERTS) + offset) ** -exponent)[None]


def nearly_uniform(sigma: float, hot: int, times: float) -> Marginal:
    """Weights that differ little, but for some hot experts that weigh `times` as much as others."""

    def draw(rng: np.random.Generator) -> Floats:
        weight = np.exp(sigma * rng.standard_normal((1, EXPERTS)))
        weight[:, rng.choice(EXPERTS, hot, replace=False)] *= times
        return weight

    return draw


def like_deepseek(rng: np.random.Generator) -> Floats:
    """Weights through measured order statistics of DeepSeek-V3's experts, times the mean: 5.6, 4.9, 4.1 (4th) and 3.25
    (8th), with a log-normal body of sigma .6; straight in between, on axes of logarithms."""
    rank = (1, 2, 4, 8, 32, 128, 224, 256)
    times = (5.6, 4.9, 4.1, 3.25, 1.7, 0.8, 0.4, 0.15)
    curve = np.exp(np.interp(np.log(np.arange(EXPERTS) + 1), np.log(rank), np.log(times)))
    return rng.permutation(curve)[None]


def counted(path: Path, layer: int) -> Marginal:
    """Weights that are recorded counts of a layer, `[domain, shard, layer, expert]`, a domain each, in a random order
    of experts."""

    def draw(rng: np.random.Generator) -> Floats:
        with np.load(path) as file:
            counts = file["counts"][:, :, file["layers"].tolist().index(layer)].sum(axis=1)
        weight: Floats = (counts / counts.sum(axis=1, keepdims=True))[:, rng.permutation(EXPERTS)]
        return weight

    return draw


@dataclass(frozen=True, eq=False)
class Router:
    """What a recipe draws once: bias `[domain, expert]`, topics `[rank, expert]`, directions `[DIRECTION_RANK, expert]`
    and drift `[expert]`, all in natural logarithms."""

    recipe: Recipe
    bias: Floats
    topics: Floats
    directions: Floats
    drift: Floats

    @classmethod
    def of(cls, recipe: Recipe, rng: np.random.Generator) -> "Router":
        """Draw the router of a recipe."""
        topics = rng.standard_normal((recipe.rank, EXPERTS)) * recipe.topic / recipe.rank**0.5
        directions = rng.standard_normal((DIRECTION_RANK, EXPERTS)) * recipe.token / DIRECTION_RANK**0.5
        drift = rng.standard_normal(EXPERTS) * recipe.drift
        return cls(recipe, np.log(recipe.marginal(rng)), topics, directions, drift)

    def requests(self, when: Floats, rng: np.random.Generator) -> Requests:
        """Route one request for each moment `[request]`; from 0 to 1 is the time of the requests to plan on."""
        lengths = rng.integers(SHORTEST, LONGEST + 1, len(when))
        base = self.bias[rng.integers(len(self.bias), size=len(when))] + when[:, None] * self.drift
        base += rng.standard_normal((len(when), self.recipe.rank)) @ self.topics
        of = np.repeat(np.arange(len(when)), lengths)
        walk = self._directions(lengths, rng)
        chosen = np.empty((len(of), TOP_K), dtype=np.uint16)
        for start in range(0, len(of), CHUNK):
            part = slice(start, start + CHUNK)
            score = (base[of[part]] + walk[part] @ self.directions).astype(np.float32)
            score -= np.log(rng.standard_exponential(score.shape, dtype=np.float32) + LEAST)  # Gumbel noise
            chosen[part] = np.argpartition(score, -TOP_K, axis=1)[:, -TOP_K:]
        return Requests(chosen, lengths)

    def _directions(self, lengths: Ints, rng: np.random.Generator) -> Floats:
        """The directions of all tokens, `[token, DIRECTION_RANK]`: of each request an autoregressive walk."""
        kept, steps = self.recipe.kept, int(lengths.max())
        walk = rng.standard_normal((len(lengths), steps, DIRECTION_RANK))
        for step in range(1, steps):
            walk[:, step] = kept * walk[:, step - 1] + (1 - kept**2) ** 0.5 * walk[:, step]
        return walk[np.arange(steps) < lengths[:, None]]


def distinct_users(requests: Requests, users: int, steps: int, rng: np.random.Generator) -> Ints:
    """Decode steps of users of whom no two run the same request at once: which token each decodes, `[step, user]`.

    A user walks through a request, from a random token of the first one, and then takes the one that has been idle for
    longest. There must be more requests than users.
    """
    order = rng.permutation(len(requests.lengths))
    running, idle = order[:users], deque(order[users:].tolist())
    place = rng.integers(requests.lengths[running])
    found = np.empty((steps, users), dtype=np.int64)
    for step in range(steps):
        for user in np.flatnonzero(place == requests.lengths[running]).tolist():
            idle.append(int(running[user]))
            running[user], place[user] = idle.popleft(), 0
        found[step] = requests.starts[running] + place
        place += 1
    return found
