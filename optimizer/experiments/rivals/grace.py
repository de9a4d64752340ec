"""GRACE+: groups of experts, copies near demand, and quotas that level loads and add copies on their way
(`docs/grace-source-replication-algorithm.md` of spacecat2002/sglang-sc-eplb).

From its document, after the groups of `grace_groups`:

1. Each source gets copies of the experts that it asks for most and does not have.
2. All pairs of a source and an expert begin where they stay local, else at the expert's home. Then the least threshold
   is sought to which all devices can be brought: from the heaviest device on, the largest amounts go to devices below
   the threshold that hold the expert or have a slot for it, where a copy is made then. At this threshold that is done
   once more, and amounts go first where they become local, then where least comes from elsewhere. Where this ends above
   the threshold, the first way is kept.

The quotas that result are for the batch whose loads they were made from. Here they are made from the train batches, to
find the copies, and routing is that of our policies: `weights` keeps shares that level the train batches, `optimal`
finds for each batch what the quotas are sought for, the least peak and then few hops.

Filled in: half of the slots that are left are for copies of the first kind, for the greatest demands of all sources; a
source is a mesh row where tokens are on all devices of their row, and the copy goes to the lightest of these. The
threshold is sought down to a thousandth of the mean. Shared experts are part of their devices' loads and stay.
"""

from dataclasses import dataclass, replace

import numpy as np

from formulations.kit.arrays import Bools, Ints
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.experiments.rivals.grace_groups import grouped
from optimizer.experiments.rivals.one_each import OneEach, pairs_by_source
from optimizer.search.seeds.packing import Packing
from optimizer.traces.batches import Batches

LOCAL_PART = 2
"""One in so many of the slots that are left is for copies near demand."""
FINE = 1000  # a threshold is sought to this part of the mean


@dataclass(eq=False)
class Quotas:
    """Who serves what; experts are those to place.

    pairs `[device, source, expert]`: quotas; load `[device]`: all that a device serves; arrives `[device]`: what it
    serves of sources whose own it is not; holds `[expert, device]`; spare `[device]`: empty slots; local
    `[source, device]`: whether a device is a source's own.
    """

    pairs: Ints
    load: Ints
    arrives: Ints
    holds: Bools
    spare: Ints
    local: Bools

    def copy(self) -> "Quotas":
        """The same quotas, to go on from."""
        changing = ("pairs", "load", "arrives", "holds", "spare")
        return replace(self, **{name: getattr(self, name).copy() for name in changing})

    def move(self, source: int, expert: int, over: int, target: int, amount: int) -> None:
        """Let another device serve an amount of what a device serves, with a new copy if it needs one."""
        for device, change in ((over, -amount), (target, amount)):
            self.pairs[device, source, expert] += change
            self.load[device] += change
            self.arrives[device] += 0 if self.local[source, device] else change
        self.spare[target] -= not self.holds[expert, target]
        self.holds[expert, target] = True


def grace(problem: Problem, train: Batches) -> Placement:
    """The placement with all copies; slots that no quota asks for stay empty."""
    task = OneEach.of(problem)
    scale = problem.shared_replicas or 1
    demand = pairs_by_source(problem, train)[:, task.experts] * scale
    local = problem.network.distance == problem.network.distance.min(axis=1, keepdims=True)
    home = grouped(problem, train)
    holds = home[:, None] == np.arange(problem.mesh.devices)
    spare = task.room - holds.sum(axis=0)
    copy_near_demand(demand, holds, spare, local, task)
    found = levelled(started(demand, home, holds, spare, local, task.taken))
    packing = Packing(problem, np.zeros(problem.model.experts))
    for place, device in np.argwhere(found.holds):
        packing.place(int(task.experts[place]), int(device))
    return packing.placement()


def copy_near_demand(demand: Ints, holds: Bools, spare: Ints, local: Bools, task: OneEach) -> None:
    """Step 1, in place: holds `[expert, device]` and spare `[device]`, for demand `[source, expert]`."""
    left, load = int(spare.sum()) // LOCAL_PART, task.taken + task.load @ holds
    for cell in np.argsort(-demand.ravel(), kind="stable"):
        source, expert = divmod(int(cell), demand.shape[1])
        fits = local[source] & (spare > 0)
        if left == 0 or demand[source, expert] == 0:
            return
        if (holds[expert] & local[source]).any() or not fits.any():
            continue
        device = int(np.argmin(np.where(fits, load, np.iinfo(np.int64).max)))
        holds[expert, device] = True
        load[device] += demand[source, expert]
        spare[device] -= 1
        left -= 1


def started(demand: Ints, home: Ints, holds: Bools, spare: Ints, local: Bools, taken: Ints) -> Quotas:
    """The quotas with which step 2 begins: all to the first local replica, else to the home `[expert]`.

    demand `[source, expert]`; taken `[device]`: what devices serve beside; the others as of `Quotas`.
    """
    near = holds & local[:, None]
    device = np.where(near.any(axis=2), near.argmax(axis=2), home)
    pairs = np.where(device == np.arange(len(spare))[:, None, None], demand, 0)
    arrives = (pairs.sum(axis=2) * ~local.T).sum(axis=1)
    return Quotas(pairs, taken + pairs.sum(axis=(1, 2)), arrives, holds, spare, local)


def levelled(start: Quotas) -> Quotas:
    """The quotas of step 2."""
    load, best = start.load, start
    low, high = -(-int(load.sum()) // len(load)), int(load.max())
    tried = low
    while low < high:
        found = exported(start, tried, near_first=False)
        if found is None:
            low = tried + 1
        else:
            best, high = found, tried
        if high - low <= load.mean() / FINE:
            break
        tried = (low + high) // 2
    return exported(start, high, near_first=True) or best


def exported(start: Quotas, threshold: int, near_first: bool) -> Quotas | None:
    """The quotas with all devices brought to a threshold; None where this way does not lead there."""
    found = start.copy()
    for over in np.argsort(-start.load, kind="stable"):
        while found.load[over] > threshold:
            if not _export(found, int(over), threshold, near_first):
                return None
    return found


def _export(quotas: Quotas, over: int, threshold: int, near_first: bool) -> bool:
    """Let one amount go from a device, in place, and say whether there was any to go."""
    load, local = quotas.load, quotas.local
    source, expert = np.nonzero(quotas.pairs[over])
    roomy = np.flatnonzero(load < threshold)
    new = ~quotas.holds[np.ix_(expert, roomy)]
    cell, place = np.nonzero(~new | (quotas.spare[roomy] > 0))
    if len(cell) == 0:
        return False
    source, expert, target, new = source[cell], expert[cell], roomy[place], new[cell, place]
    amount = np.minimum(quotas.pairs[over, source, expert], threshold - load[target])
    amount = np.minimum(amount, load[over] - threshold)
    farther = local[source, over].astype(np.int64) - local[source, target]
    by: tuple[Ints | Bools, ...] = (farther, new, -amount)
    if near_first:
        by = (new, -amount, quotas.arrives[target] + np.where(local[source, target], 0, amount), farther)
    best = np.lexsort((target, source, expert, *by))[0]
    quotas.move(int(source[best]), int(expert[best]), over, int(target[best]), int(amount[best]))
    return True
