"""How a search converges: the best value that it has passed, against what it has spent."""

from dataclasses import dataclass, field

import numpy as np

POINTS = 40
"""Points that are kept of a search: as many as a curve needs on a screen, few enough for all searches of 58 layers."""


@dataclass
class Trail:
    """One search, and each value that was better than all before it.

    name: what searched for what. after: how many moves, or candidates, had been looked at when `best` was met; both
    lists are as long. spent: how many have been looked at in all.
    """

    name: str
    after: list[int] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    spent: int = 0

    def passed(self, after: int, value: float) -> None:
        """Note a value, which is kept if it is less than all before."""
        self.spent = max(self.spent, after)
        if not self.best or value < self.best[-1]:
            self.after.append(after)
            self.best.append(float(value))

    def thinned(self) -> "Trail":
        """The first, the last and evenly many of the other points, `POINTS` at most, with six significant digits."""
        chosen = np.unique(np.linspace(0, len(self.best) - 1, min(POINTS, len(self.best))).round().astype(int))
        after, best = ([values[place] for place in chosen] for values in (self.after, self.best))
        return Trail(self.name, after, [float(f"{value:.6g}") for value in best], self.spent)
