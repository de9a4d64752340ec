"""Good prices for the groups of `message_splits`, from a relaxation of all ways to form groups.

Let x[e, f] count the groups that have both e and f, on the diagonal those that have e. As a sum of outer products it
has no negative eigenvalue, and row e sums up to at most `size` times x[e, e]. Gains of pairs count while x is below the
share of sources that see both experts. They are made as large as can be by the alternating direction method of
multipliers (Boyd et al. 2011); the multipliers are the prices. The relaxation is that of Frieze and Jerrum (1997) for
parts of equal size, but experts may be in several groups or be seen by some sources alone.
"""

from typing import NamedTuple

import numpy as np

from formulations.bounds.message_splits import GroupPrices, GroupSplit
from formulations.bounds.sharing import TINY, Sharing, without_own
from formulations.bounds.split_ascent import Demand
from formulations.kit.arrays import Floats, Ints

FIRST_STEPS, STEPS, ROUNDS = 20, 8, 3
"""Steps of the method for the first hop, and for each round of a hop; between rounds slopes go half of the way to what
the company asks for that was found. On test batches of the home case (2,048 tokens) links are bounded at 101.3 us
without groups and at 105.5 so, in half of the time that 40, 15 and 4 take for as much."""

HOPS = 8
"""Hops for which groups are told apart. On longer rings those of some hop stand for the next ones, too, which are
shared by a part of them."""

WEIGHT = 0.8
"""How much a difference between the two copies of x weighs against the gain of a mean pair. With .4 and 1.2 the same
bound is 105.5 and 105.3 us."""

RARE = 0.05
"""In how many groups an expert is at least, as sources see it. Those that no source sees would pay nothing for gains
that others have by them, and those gains would be taken from all pairs. With .02 and .15 the same bound is as high and
.15 us lower."""


class _Copies(NamedTuple):
    """Where the method is, in single precision, as prices are made valid whatever they are.

    x `[expert, expert]`: the copy of x whose gains count; multiplier, alike: of its difference from the copy without
    negative eigenvalues; row `[expert]`: the multipliers of its rows.
    """

    x: Floats
    multiplier: Floats
    row: Floats

    @classmethod
    def apart(cls, experts: int) -> "_Copies":
        """Before the first step: no two of so many experts are in one group."""
        nothing = np.zeros((experts, experts), dtype=np.float32)
        return cls(nothing, nothing, np.zeros(experts, dtype=np.float32))

    def prices(self, usual: float, size: int) -> GroupPrices:
        """The prices that the multipliers say, of gains of which a usual one is as large as one here."""
        row, multiplier = usual * self.row.astype(np.float64), usual * self.multiplier.astype(np.float64)
        return GroupPrices.of(np.add.outer(row, row) - multiplier, np.diag(multiplier) - 2 * row, row, size)


class _Hop(NamedTuple):
    """The relaxation for one hop: seen and groups, both `[expert]`: the share of sources that see an expert, of those
    that see one with a single replica, and in how many groups they see it, on average over these; size: of a group at
    most."""

    seen: Floats
    groups: Floats
    size: int

    def after(self, copies: _Copies, gain: Floats, steps: int) -> _Copies:
        """Where so many steps lead to, with these gains of pairs `[expert, expert]`."""
        x, multiplier, row = copies
        for _ in range(steps):
            value, vector = np.linalg.eigh(x - multiplier / WEIGHT)
            part = vector[:, value > 0]
            lifted = (part * value[value > 0]) @ part.T + multiplier / WEIGHT
            x, row = self._gaining(lifted, gain, row)
            multiplier = WEIGHT * (lifted - x)
        return _Copies(x, multiplier, row)

    def _gaining(self, near: Floats, gain: Floats, row: Floats) -> tuple[Floats, Floats]:
        """The copy near to another that has the most gains, with rows that sum up to what groups hold, nearly, and the
        multipliers of its rows."""
        most = np.add.outer(self.seen, self.seen) / 2
        for _ in range(4):
            x = _with_gains(near - np.add.outer(row, row) / WEIGHT, gain, most)
            excess, several = x.sum(axis=1) - self.groups * (self.size - 1), (x > 0).sum(axis=1)
            row = np.maximum(0, row + WEIGHT * excess / (several + max(1.0, several.mean())))
        x = _with_gains(near - np.add.outer(row, row) / WEIGHT, gain, most)
        np.fill_diagonal(x, self.groups)
        return x, row

    def company(self, copies: _Copies, pairs: Floats) -> Floats:
        """How much company an expert has in a message where it is seen, on average, `[expert]`, if pairs `[expert,
        expert]` are chosen with it by this share of its tokens."""
        shared = np.minimum(copies.x, np.minimum.outer(self.seen, self.seen))
        found: Floats = (shared * pairs).sum(axis=1) / np.maximum(self.seen, RARE)
        return found


def _with_gains(near: Floats, gain: Floats, most: Floats) -> Floats:
    """The matrix near to another, with nothing below zero, that has the most gains, which count up to `most`."""
    x = np.maximum(0, np.where(near > most, near, np.minimum(near + gain / WEIGHT, most)))
    np.fill_diagonal(x, 0)
    return x


def group_splits(demand: Demand, stage: Sharing, slope: Floats, choice: Ints) -> tuple[GroupSplit, ...]:
    """A split for each hop in which groups pay for company, near to the best for the mean of all sources.

    slope `[expert]`: where slopes begin; choice `[expert]`: of replicas, about the best for the bound.
    """
    pairs, chosen = without_own(demand.mean), np.maximum(np.diag(demand.mean), TINY)[:, None]
    usual, found, copies = max(float(pairs.mean()), TINY), list[GroupSplit](), _Copies.apart(len(pairs))
    alike = -(-len(stage.company) // HOPS)
    for level, hop in enumerate(_hops(demand, stage, choice)):
        if level % alike:
            found.append(found[-1])
            continue
        for turn in range(ROUNDS):
            gain = (np.add.outer(slope, slope) / 2 * pairs / usual).astype(np.float32)
            copies = hop.after(copies, gain, FIRST_STEPS if level == turn == 0 else STEPS)
            k = np.clip(np.floor(hop.company(copies, pairs / chosen)) + 1, 1, max(1, stage.most - 1))
            used, slope = slope, (slope + 1 / (k * (k + 1))) / 2
        found.append(GroupSplit(used, copies.prices(usual, hop.size)))
    return tuple(found)


def _hops(demand: Demand, stage: Sharing, choice: Ints) -> list[_Hop]:
    """What experts with these choices of replicas are to the hops of a stage."""
    replicas, hops = stage.groups(demand.replicas)[choice], list[_Hop]()
    for beyond, company in zip(demand.beyond, stage.company, strict=True):
        seen = beyond[choice] / max(1, int(beyond[0]))
        groups = np.maximum(RARE, replicas * seen)
        hops.append(_Hop(seen.astype(np.float32), groups.astype(np.float32), int(company) + 1))
    return hops
