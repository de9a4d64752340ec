"""What all steps of planning many layers share."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from optimizer.errors import OutOfTimeError
from optimizer.interrupts import Cancel
from optimizer.planning.many_layers.work import WorkFolder
from optimizer.planning.many_layers.workers import Crew
from optimizer.planning.options import Progress, silent
from optimizer.planning.plan_file import Plan
from optimizer.search.stop import Deadline

WRITING_SECONDS = 0.5  # kept for putting the plan together and writing it; generous, not measured


@dataclass
class Run:
    """A run that plans many layers: its workers, the deadline of the whole command with its cancel token, the callable
    that is told of progress, and the folder that finished layers are kept in, None for none."""

    crew: Crew
    deadline: Deadline
    progress: Progress = silent
    work: WorkFolder | None = None
    before: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.before = 0.0 if self.work is None else self.work.seconds

    @property
    def cancel(self) -> Cancel:
        """The token that ends the run early, with the layers that are finished."""
        return self.deadline.cancel

    def ended_with_nothing(self) -> BaseException:
        """What to raise where nothing is complete: after Ctrl-C nobody needs to be told why."""
        if self.cancel.asked:
            return KeyboardInterrupt()
        return OutOfTimeError(f"no layer was complete within {self.deadline.seconds:.0f} s; allow more time")

    @property
    def end(self) -> float:
        """The time by which all layers are to be planned, in seconds on the clock of `spent`."""
        return self.deadline.seconds - WRITING_SECONDS

    def finished(self, layers: Sequence[int]) -> dict[int, Plan]:
        """What was kept of these layers."""
        return {} if self.work is None else self.work.finished(layers)

    def keep(self, layer: int, plan: Plan) -> None:
        """Keep a finished layer, if there is where."""
        if self.work is not None:
            self.work.keep(layer, plan, self.spent())

    def spent(self) -> float:
        """Seconds since the command began, and what was spent before on layers that are kept."""
        return self.deadline.elapsed() + self.before
