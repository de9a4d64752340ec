"""How many slots of each device a plan uses: all of them, or fewer where more would only take time.

Where compute is paid for by tiles, an expert with a single token takes a whole one, and a policy that does not look at
the batch gives every replica a few tokens. With more slots than the loads ask for, each further replica then takes
longer than it saves. So seeds are also judged as if devices had fewer slots, and where that is faster the layer is
planned in these, and the others stay empty.
"""

from collections.abc import Iterator
from typing import NamedTuple

from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.planning.candidates import seeds
from optimizer.planning.judged_pools import FLEXIBLE, JudgedPools, is_late
from optimizer.planning.options import Effort, Progress, SolveOptions, silent
from optimizer.routing.servers.abilities import RULES_OF_SERVERS
from optimizer.traces.batches import Sets

LOOKED_AT = 32  # selection batches that numbers of slots are compared on: a compromise of time and noise, not tuned
TRYING = 0.1
"""The share of the time limit that trials may take; all take 3 s for 1,024 experts in 9 to 12 slots of 128 devices, and
one 10 s on 2,048 devices with 8,192 tokens. Not tuned."""


class UsedSlots(NamedTuple):
    """A layer's problem on devices with as many slots as are used, and on all slots; says: why some stay empty, in
    sentences."""

    problem: Problem
    asked: Problem
    says: tuple[str, ...] = ()

    @property
    def some_are_empty(self) -> bool:
        """Whether devices have slots that are not used."""
        return self.problem is not self.asked

    @property
    def in_words(self) -> str:
        """The slots of a device that are used, like "2 slots"."""
        return _slots(self.problem.mesh.slots_per_device)

    def on_all(self, placement: Placement) -> Placement:
        """A placement in the slots that are used, with the empty ones behind them."""
        return placement.with_slots(self.asked.mesh.slots_per_device)


class Trial(NamedTuple):
    """What seeds come to in so many slots of a device: a latency in microseconds, the least of all policies."""

    problem: Problem
    latency: float

    @property
    def slots(self) -> int:
        """The slots of a device that are used."""
        return self.problem.mesh.slots_per_device


def used_slots(
    problem: Problem, sets: Sets, options: SolveOptions, effort: Effort, progress: Progress = silent
) -> UsedSlots:
    """The number of slots in which seeds have the least latency on selection batches, under the best of the policies.

    All slots are used where compute is not paid for by tiles, as no file of a GPU server leaves slots empty; where
    somebody has decided on it, by a limit that all slots keep to, a placement to begin with, or a rule of such a
    server; and where the end is asked for.
    """
    decided = problem.fills_all or problem.start is not None or problem.budget is not None
    by_tiles = problem.cost.unit == "tiles" and not {*options.routings} & RULES_OF_SERVERS
    if decided or not by_tiles or effort.cancel.asked:
        return UsedSlots(problem, problem)
    fewer = [problem.on_slots(number) for number in range(problem.least_slots, problem.mesh.slots_per_device)]
    if not fewer:
        return UsedSlots(problem, problem)
    tried = list(_tried([problem, *fewer], sets, options, effort, progress))
    best = min(tried, key=lambda trial: trial.latency)
    return UsedSlots(best.problem, problem, () if best is tried[0] else (_in_words(best, tried[0]),))


def _tried(
    problems: list[Problem], sets: Sets, options: SolveOptions, effort: Effort, progress: Progress
) -> Iterator[Trial]:
    """Judge seeds for each problem in turn, the first two in any case, the others while there is time."""
    few = sets._replace(selection=sets.selection.part(0, LOOKED_AT))
    until = effort.deadline.elapsed() + TRYING * effort.deadline.remaining()
    for number, problem in enumerate(problems):
        if number and (effort.cancel.asked or (number > 1 and is_late(effort, until))):
            return
        progress("numbers of slots", number / len(problems))
        pools = JudgedPools.of(problem, few, options)
        for seed in seeds(problem, effort.seed, FLEXIBLE):
            pools.offer_as_it_is(seed.placement, effort)
        yield Trial(problem, pools.least_latency)


def _slots(number: int) -> str:
    return f"{number} slot{'' if number == 1 else 's'}"


def _in_words(best: Trial, full: Trial) -> str:
    """A sentence for the user: how many slots of each device the plan uses, with the latencies of seeds that decided on
    it, and the option that fills all."""
    return (
        f"Each device uses {best.slots} of its {full.slots} slots: on selection batches the best seed has a latency of "
        f"{best.latency:.1f} us with them and of {full.latency:.1f} us with all, where every replica that gets a token "
        f"takes time of its own. --replicas {full.problem.mesh.slots} fills all."
    )
