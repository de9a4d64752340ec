"""What planning has come to so far, for whoever watches its progress."""

from optimizer.planning.judged_pools import JudgedPools
from optimizer.planning.options import Progress, silent
from optimizer.search.stop import Deadline

P99 = 2
"""The place of the p99 latency among the figures that candidates are chosen by (`search.choose.figures`)."""


def told_so_far(progress: Progress, pools: JudgedPools, deadline: Deadline) -> Progress:
    """A progress callable that adds to each stage the best plan so far, and how many moves searches look at a second.

    Who shows stages may cut them at the first comma, where the stage's name ends.
    """
    if progress is silent:
        return progress
    began, before = deadline.elapsed(), deadline.moves
    best = _Best(pools)

    def tell(stage: str, share: float) -> None:
        seconds, moves = deadline.elapsed() - began, deadline.moves - before
        rate = f"{short(moves / seconds)} moves/s" if moves and seconds > 0 else ""
        progress(", ".join(filter(None, (stage, best.said(), rate))), share)

    return tell


class _Best:
    """The best candidate of all policies, looked for again once there is a further one."""

    def __init__(self, pools: JudgedPools) -> None:
        self.pools, self.seen, self.text = pools, 0, ""

    def said(self) -> str:
        """Its p99 latency on selection batches, in words; nothing where there is none yet."""
        if self.pools.candidates != self.seen:
            self.seen = self.pools.candidates
            found = {name: pool.judged[pool.best()] for name, pool in self.pools.pools.items() if pool.judged}
            name = min(found, key=lambda name: float(found[name][P99]))
            self.text = f"best p99 {found[name][P99]:.1f} us ({name})"
        return self.text


def short(rate: float) -> str:
    """A rate with three significant digits at most, in thousands or millions where it is large."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if rate >= size:
            return f"{rate / size:.3g}{unit}"
    return f"{rate:.3g}"
