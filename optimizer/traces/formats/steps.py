"""Steps of counts that are added up as they come, so that a long recording takes no more memory than a short one."""

import numpy as np

from formulations.kit.arrays import Ints

MOST_STEPS = 1024
"""Steps that are kept: ten for the worst hundredth, as batches have; of DeepSeek-V3 they take 120 MB."""


class Steps:
    """Counts `[layer, expert]` of one step after another; from `MOST_STEPS` on neighbouring steps become one."""

    def __init__(self) -> None:
        """Nothing is counted yet."""
        self._kept: list[Ints] = []
        self._in_last = 0
        self.together = 1
        self.empty = 0

    def add(self, counts: Ints) -> None:
        """Add the counts of the next step, `[layer, expert]` int64; a step without any count is left out."""
        if not counts.any():
            self.empty += 1
            return
        if self._in_last:
            self._kept[-1] += counts
        else:
            if len(self._kept) == MOST_STEPS:
                self._kept = [one + other for one, other in zip(self._kept[::2], self._kept[1::2], strict=True)]
                self.together *= 2
                self._in_last = 0
            self._kept.append(counts.copy())
        self._in_last = (self._in_last + 1) % self.together

    @property
    def load(self) -> Ints:
        """All counts, `[step, layer, expert]` int64, empty where nothing was counted."""
        return np.stack(self._kept) if self._kept else np.zeros((0, 0, 0), dtype=np.int64)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on steps that were left out or became one."""
        together = f"every {self.together} recorded steps were added up to one"
        return (*empty_steps(self.empty, self.empty + self._in_all), *([together] if self.together > 1 else []))

    @property
    def _in_all(self) -> int:
        return len(self._kept) * self.together - (self.together - self._in_last if self._in_last else 0)


def empty_steps(empty: int, steps: int) -> tuple[str, ...]:
    """A sentence on steps in which nothing was counted, if there are any."""
    return (f"{empty} of {steps} recorded steps count nothing and were left out",) if empty else ()
