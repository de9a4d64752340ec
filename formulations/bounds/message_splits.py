"""How what messages cost is charged to the experts that share them.

Two ways are known. By a `Split` alone, every expert is granted the company that it is chosen with most often, whoever
these are chosen with besides, and what one is charged less another is charged more. But two companions of an expert are
company to each other, too, so that groups with much company for one expert have little for others. Where `GroupSplit`
says how a hop is charged, gains of pairs are paid for by groups as a whole.

A group is made of the experts that share a hop of one source's messages: of a multicast, those on one side of a ring
that are as far away or farther. Let W be a symmetric matrix with nothing below zero, d and y be vectors, y not below
zero, and diag(d) + y 1' + 1 y' - W have no negative eigenvalue. Then the pairs of any group V of at most `size` experts
have sum(W[V, V]) <= sum(d[V]) + 2 |V| sum(y[V]) <= sum(price[V]), with price = d + 2 size y. An expert pays its price
once in each group that it is in, so as often as it has replicas at most. What W does not pay for of a gain is charged
to experts one by one. All of that holds for any W, d and y, also where one token uses another replica than the next: an
expert that could be with another in two groups shares a message with it in one of them.

A message half of which goes either way round a ring is the mean of one that goes the one way and one that goes the
other. The groups of both cases are valid, and so is the mean of what they are bounded by.
"""

from typing import NamedTuple

import numpy as np

from formulations.bounds.sharing import Sharing, alone, gains, largest_sums, without_own
from formulations.kit.arrays import Floats, Ints

LINES = np.array([0.5, 1.0, 2.0])
"""The lines of a split, by how steep they are beside that which is best for the mean of sources and for the replicas
that an expert has there. Links on train batches of the home case, without groups: 23.66 us with that line alone, 23.72
with three."""


class Split(NamedTuple):
    """How messages are charged to the experts that share them.

    slopes `[line, expert]`: each is a line on which an expert is charged less for each other expert in a message, and
    the line that charges it most counts. shift `[expert, expert]`: what the first is charged less, and the second more,
    for each token for which they share a message; it is what its transpose is with the other sign. None where nothing
    is shifted. by_hop: how messages are charged for each hop in place of that, where groups pay for company.
    """

    slopes: Floats
    shift: Floats | None = None
    by_hop: "tuple[GroupSplit, ...]" = ()

    @property
    def middle(self) -> Floats:
        """The line in the middle, `[expert]`."""
        line: Floats = self.slopes[len(self.slopes) // 2]
        return line

    @classmethod
    def unshifted(cls, stage: Sharing, experts: int) -> "Split":
        """The split of 1/m for each of m experts, with the lines through its values at k and k + 1 for each k."""
        k = np.arange(1, max(2, stage.most))
        return cls(np.repeat(1 / (k * (k + 1)), experts).reshape(len(k), experts))

    def least_charges(self, together: Ints, number: Ints, most: int) -> Floats:
        """What the tokens of a source are charged at least for a hop that an expert shares with the best company of so
        many others, `[number, expert]`: by the lines, or 1 / most for each token, less what the shifts take off.

        together: as of `even_slope`; most: as of `Sharing`.
        """
        chosen, shift = np.diag(together), self.shift
        company = None if shift is not None else largest_sums(without_own(together), number)
        charge = chosen / most - (0 if shift is None else largest_sums(shift * together, number))
        for slope in self.slopes:
            taken_off = slope * company if shift is None else largest_sums(gains(together, slope, shift), number)
            charge = np.maximum(charge, alone(slope, most)[0] * chosen - taken_off)
        return charge


class GroupPrices(NamedTuple):
    """Gains of pairs that groups pay for, and what they pay: within `[expert, expert]`, W above; price `[expert]`: what
    an expert pays for each group that it is in. Valid for groups up to the size that they were made for."""

    within: Floats
    price: Floats

    @classmethod
    def of(cls, within: Floats, diagonal: Floats, row: Floats, size: int) -> "GroupPrices":
        """The prices of these gains with d and y near to diagonal and row, both `[expert]`: d is raised by as much as
        the least eigenvalue is below nothing."""
        held = np.maximum((within + within.T) / 2, 0)
        np.fill_diagonal(held, 0)
        row = np.maximum(row, 0)
        paid = np.add.outer(row, row) - held
        lacks = -float(np.linalg.eigvalsh(paid + np.diag(diagonal))[0])
        rounding = 1e-9 * (1 + float(np.abs(paid).max()))
        return cls(held, np.maximum(diagonal + max(0.0, lacks + rounding) + 2 * size * row, 0))


class GroupSplit(NamedTuple):
    """How messages are charged to the experts that share a hop, if groups pay for what they gain: slope `[expert]`: of
    the line on which an expert is charged less for each other in a message; two of them are charged alike for sharing
    one."""

    slope: Floats
    prices: GroupPrices

    def least_charges(self, together: Ints, number: Ints, groups: Ints, most: int) -> Floats:
        """What the tokens of a source are charged at least for a hop that an expert shares with as many others as
        number says, in so many groups, both `[choice]`; `[choice, expert]`.

        together: as of `sharing.even_slope`; most: as of `Sharing`. Whoever would be charged less than nothing is left
        out of all messages, as others are not charged less without it.
        """
        chosen, pairs = np.diag(together), without_own(together)
        shift = (self.slope - self.slope[:, None]) / 2
        line = alone(self.slope, most)[0] * chosen - self._others(pairs * (self.slope[:, None] + shift), number)
        charge = np.maximum(line, chosen / most - self._others(pairs * shift, number))
        least: Floats = np.maximum(0, charge - np.multiply.outer(groups, self.prices.price))
        return least

    def _others(self, gain: Floats, number: Ints) -> Floats:
        """What others take off besides what groups pay for, `[choice, expert]`; gain `[expert, expert]`."""
        return largest_sums(gain - self.prices.within, number)
