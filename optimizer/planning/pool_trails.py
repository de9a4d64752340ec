"""What pools of candidates and the trails of searches tell of how planning a layer converged."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from optimizer.planning.convergence import Convergence
from optimizer.planning.pool import CandidatePool
from optimizer.search.choose import LATENCIES, choose
from optimizer.search.trail import Trail


def convergence_of(pools: Mapping[str, CandidatePool], trails: Sequence[Trail]) -> Convergence:
    """How the pools of policies were filled, and what searches passed that had time to evaluate moves."""
    candidates = tuple(_of_pool(name, pool) for name, pool in pools.items() if pool.judged)
    return Convergence(candidates, tuple(_named(trail.thinned() for trail in trails if trail.spent)))


def _of_pool(name: str, pool: CandidatePool) -> Trail:
    """What would be chosen of the first candidates, for each number of them at which the choice changes."""
    trail, last = Trail(name, spent=len(pool.judged)), -1
    for number in range(1, len(pool.judged) + 1):
        chosen = choose(pool.judged[:number], 0, pool.judge.goal)
        if chosen != last:
            trail.after.append(number)
            trail.best.append(float(pool.judged[chosen][LATENCIES][0]))
            last = chosen
    return trail.thinned()


def _named(trails: Iterable[Trail]) -> list[Trail]:
    """Trails under names of their own: further ones of a name, such as those of chains, get a number."""
    seen: Counter[str] = Counter()
    found = []
    for trail in trails:
        seen[trail.name] += 1
        number = seen[trail.name]
        name = trail.name if number == 1 else f"{trail.name} ({number})"
        found.append(Trail(name, trail.after, trail.best, trail.spent))
    return found
