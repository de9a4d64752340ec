"""The watch itself: it looks, counts what is new, decides, and remembers what it did before it tells."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from optimizer.errors import InputError
from optimizer.interrupts import Cancel
from optimizer.planning.options import Progress, silent
from optimizer.planning.plan_file import Plan
from optimizer.planning.rebalancing.plan import RebalancedPlan
from optimizer.planning.watching.folder import CountedFile, Folder, Stamp
from optimizer.planning.watching.loads import LoadDrift
from optimizer.planning.watching.reading import Kind, Reader
from optimizer.planning.watching.replanning import Replanner, planned_loads
from optimizer.planning.watching.state import Totals, WatchState, read_state, write_state
from optimizer.statistics.loads import PairedGain
from optimizer.traces.corpus import Faults

Decision = Literal["written", "left", "waiting", "idle", "stopped", "failed"]
"""What a look came to: a new plan; the plan in force, as moves do not pay; too few unseen requests to judge by; nothing
new; a decision that was broken off; and one that could not be made, after which the watch goes on."""


@dataclass(eq=False)
class Look:
    """What one look at the folder came to.

    now: seconds since 1970. why: the reason of a failure, "" for none. files, requests: new ones that were counted;
    bad: what is wrong with files, by name, said once; vanished: files that are gone. unseen: requests since the last
    decision; tested, planned: requests by which the decision was judged, and which it was made by, selection included.
    wrong: what looks wrong in the recording, a sentence at most. found: what rebalancing came to, None without a
    decision; drift: None where the plan does not say its loads. gain: of the last decision, whenever that was. kind: of
    all that was counted, None where that is nothing; steps of counts are counted as requests are.
    """

    now: float
    decision: Decision = "idle"
    why: str = ""
    files: int = 0
    requests: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    vanished: int = 0
    unseen: int = 0
    tested: int = 0
    planned: int = 0
    wrong: tuple[str, ...] = ()
    found: RebalancedPlan | None = None
    layers: tuple[int, ...] = ()
    drift: LoadDrift | None = None
    totals: Totals = field(default_factory=Totals)
    gain: PairedGain | None = None
    kind: Kind | None = None


@dataclass
class Watcher:
    """Watches a folder for one plan. Whatever it has counted is in its state file before the next look.

    phase: of the tokens whose loads are counted, those that batches are made of.
    """

    folder: Folder
    reader: Reader
    replanner: Replanner
    state: WatchState
    phase: str

    @classmethod
    def of(cls, replanner: Replanner, plan: Plan, folder: Folder, first_moe_layer: int | None = None) -> "Watcher":
        """The watch as it was left, or a new one. Raises InputError where its state is of another model or damaged."""
        reader = Reader(folder.path, plan.model, replanner.layers, first_moe_layer)
        replanner.files.drop_unfinished()
        state = read_state(replanner.files.state, reader)
        return cls(folder, reader, replanner, state, replanner.composition(plan).phase)

    def look(self, now: float, progress: Progress = silent) -> Look:
        """Count what is new, and decide where enough of it is unseen. What cannot be done is said in the look, not
        raised. now: seconds since 1970."""
        look = Look(now, layers=self.replanner.layers)
        try:
            self._count(look, progress)
            self._decide(look, progress)
        except (InputError, OSError) as error:
            look.decision, look.why = "failed", " ".join(str(error).split())
            self.state.totals.failed += 1
        look.totals, look.gain, look.kind = self.state.totals, self.state.gain, self.state.kind
        return look

    def _count(self, look: Look, progress: Progress) -> None:
        """Count the new requests of all settled files, and write down that they were counted."""
        settled, vanished = self.folder.look(self.state.files, look.now)
        look.vanished = len(vanished)
        for number, (name, stamp) in enumerate(settled.items()):
            progress("reading traces", number / len(settled))
            if self.replanner.cancel.asked:
                break  # the next run counts the others
            self._count_file(name, stamp, look)
        look.unseen = self.state.window.unseen
        if settled or vanished:
            self._remember()

    def _count_file(self, name: str, stamp: Stamp, look: Look) -> None:
        """Count the requests of a file beyond those that were counted of it before, as of a log that grows; all of them
        where it has become smaller, so that it is another file."""
        known, state, faults = self.state.files.known(name), self.state, Faults(strict=False)
        start = 0 if known is None or stamp.size < known.stamp.size else known.requests
        new = 0
        for request in self.reader.read(name, start, state.loads.requests, faults, state.kind):
            state.kind = request.kind
            state.loads.add(request.load(self.phase, self.reader.model.routed_experts))
            state.window.add(request)
            new += 1
        if faults.seen and not new and not (self.reader.folder / name).exists():
            look.vanished += 1
            return
        fault = faults.first.removeprefix(f"{self.reader.folder / name}: ")
        if fault:
            look.bad[name] = fault
        state.files.put(name, CountedFile(stamp, start + new, fault))
        look.files += bool(new)
        look.requests += new
        state.totals.files += bool(new)
        state.totals.requests += new
        state.totals.bad_files += bool(fault)

    def _decide(self, look: Look, progress: Progress) -> None:
        """Decide where something is new and enough is unseen."""
        plan, window = self.replanner.plan(), self.state.window
        if plan.model != self.reader.model:
            raise InputError(f"{self.replanner.files.plan}: the plan is of another model now; begin the watch anew")
        planned = planned_loads(plan, self.replanner.layers)
        if planned is not None and self.state.loads.requests > 1:  # by chance is between two halves
            look.drift = self.state.loads.drift(planned)
        if not window.newest:
            look.decision = "waiting" if look.requests or look.bad else "idle"
            return
        if self.replanner.cancel.asked:
            look.decision = "stopped"
            return
        look.tested, look.planned = window.newest, len(window.requests) - window.newest
        look.wrong = self.replanner.wrong(plan, window)
        look.found = self.replanner.decide(plan, window, progress)
        if self.replanner.cancel.asked and not look.found.moves:
            look.decision = "stopped"  # what it was judged by stays unseen, for the next run
            return
        look.decision = "written" if look.found.moves else "left"
        window.decided()
        self.state.totals.written += look.decision == "written"
        self.state.totals.left += look.decision == "left"
        self.state.totals.moves += look.found.moves
        self.state.gain = look.found.asked.gain
        self._remember()

    def _remember(self) -> None:
        write_state(self.replanner.files.state, self.state)


Found = TypeVar("Found")
"""What a look gives."""


def watch(
    look: Callable[[], Found], every: float, cancel: Cancel, clock: Callable[[], float], pause: Callable[[float], None]
) -> Iterator[Found]:
    """Look every so many seconds, from the beginning of one look to that of the next, until the token is asked.

    clock: gives seconds that no change of the time of day moves; pause: waits so many seconds, or until the token is
    asked.
    """
    while not cancel.asked:
        began = clock()
        yield look()
        if not cancel.asked:
            pause(max(0.0, every - (clock() - began)))
