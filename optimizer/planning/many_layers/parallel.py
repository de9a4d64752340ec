"""Tasks of many layers at once, each in its share of the time, kept as they end."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile
from typing import Generic, TypeVar

from optimizer.errors import LostWorkerError
from optimizer.interrupts import Cancel
from optimizer.planning.many_layers.run import Run
from optimizer.planning.many_layers.shares import TimeShares
from optimizer.search.stop import Deadline

Task = TypeVar("Task")
Part = TypeVar("Part")
TRIES = 3  # with workers that die: one may have died by chance, the third time it is the task that kills them
MOST_LATE = 300.0  # seconds that a task of a cluster may take too long: a worker may have much to compile


def in_parallel(
    run: Run,
    weights: dict[int, float],
    task: Callable[[int], Task],
    plan: Callable[[Task, Deadline], Part | None],
    keep: Callable[[int, Part], None],
    in_time: bool = False,
    tell: Callable[[Part], str] = lambda part: "",
) -> dict[int, Part]:
    """What `plan` makes of each layer's task in its share of the time, by weight; the layers of the largest weights
    begin first. Each is kept as soon as it is there; None is no result.

    Once the run's token is asked no layer begins, and those that run end with what they have come to, which counts but
    is not kept. A KeyboardInterrupt ends it at once with the layers that there are. in_time: no layer begins once time
    is up; tell: what is said of a layer that is done.
    """
    done: dict[int, Part] = {}
    for again in reversed(range(TRIES)):
        left = [layer for layer in in_order(weights) if layer not in done]
        shares = TimeShares([weights[layer] for layer in left], run.crew.size, run.end, run.spent)
        begun = takewhile(lambda layer: not in_time or run.spent() < run.end, left)
        timed = ((layer, task(layer), shares.next()) for layer in begun)
        try:
            patience = max(0.0, run.end - run.spent()) + MOST_LATE
            with closing(run.crew.results(Planning(plan, run.cancel), timed, run.cancel, patience)) as results:
                for layer, part in results:
                    if part is not None:
                        done[layer] = part
                        if not run.cancel.asked:  # else it may have ended early, and is to be planned again
                            keep(layer, part)
                    said = "" if part is None else tell(part)
                    run.progress(f"{len(done)} of {len(weights)} layers{said}", len(done) / len(weights))
            return done
        except KeyboardInterrupt:
            return done
        except LostWorkerError:
            if not again:
                raise
    return done


def in_order(weights: dict[int, float]) -> tuple[int, ...]:
    """The layers in the order in which they begin: the largest weight first."""
    return tuple(sorted(weights, key=lambda layer: (-weights[layer], layer)))


@dataclass(frozen=True)
class Planning(Generic[Task, Part]):
    """`plan` for a worker, which is given a task with its layer and its seconds; its clock starts when it begins."""

    plan: Callable[[Task, Deadline], Part | None]
    cancel: Cancel

    def __call__(self, timed: tuple[int, Task, float]) -> tuple[int, Part | None]:
        """The layer and what was made of it; None after an interruption that left nothing, as what is raised here would
        end the others, too."""
        layer, task, seconds = timed
        try:
            return layer, self.plan(task, Deadline(seconds, cancel=self.cancel))
        except KeyboardInterrupt:
            return layer, None
        finally:
            self.cancel.heed(False)  # the next task may have to be read first, which does not look at the token
