"""What a user may ask of planning, checked once; and what one search run makes of it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from optimizer.domain.problem import Constraints
from optimizer.errors import InputError
from optimizer.interrupts import Cancel
from optimizer.planning.portfolio_shares import USUAL, PortfolioShares
from optimizer.routing.context import Unit
from optimizer.routing.policies import check_policy
from optimizer.search.annealing import AnnealingSchedule
from optimizer.search.latency import LatencySchedule
from optimizer.search.multistart import DescentWeights
from optimizer.search.neighbourhood import NeighbourhoodSettings
from optimizer.search.stop import Deadline
from optimizer.search.tabu import TabuMemory
from optimizer.simulation.conditions import Conditions

Progress = Callable[[str, float], None]
"""Is told the stage that planning is at, and the share of it that is done, 0 to 1."""

SearchName = Literal["auto", "descent", "tabu", "annealing", "lns"]

AUTO = ("even-source", "near-source", "nearest", "hint-device", "optimal")
"""The policies that are tried where none is named: one for servers that know the counts of replicas alone, one for
those that know hops besides, one for those that read a table, one for those that are told of recent loads, and one for
those that know all loads, at its price."""

BY_TOKENS = ("partition", "rows")
SEEDS = ("sequential", "random", "pairing", "greedy", "risk", "steps", "flexibility", *BY_TOKENS)
"""The constructions that searches begin from, those that look at tokens last; the others look at loads alone."""

SEARCH_PARAMETERS = ("annealing", "tabu", "descent", "latency", "neighbourhood", "shares")
"""The fields of `SolveOptions` that hold search parameters; each is a table of a TOML file."""

JOBS = 2  # the cores of the smallest machine that this is meant for
COOL = AnnealingSchedule(worsening=0.003)
"""The annealing of a placement that is good already (the flexibility seed): with .01 some of that is lost again."""

MEMORY = TabuMemory()
"""The memory of the tabu search where none is asked for."""


def silent(stage: str, share: float) -> None:
    """A progress callable for when nobody watches."""


@dataclass(frozen=True)
class Effort:
    """What one planning may spend: until the deadline, which carries the cancel token, or until `iterations` moves are
    evaluated if that comes first.

    seed: of all random choices; search: which search runs; jobs: threads that a search may use.
    """

    deadline: Deadline
    seed: int = 0
    iterations: int | None = None
    search: SearchName = "auto"
    jobs: int = JOBS

    @property
    def cancel(self) -> Cancel:
        """The token that ends the searches early."""
        return self.deadline.cancel

    def within(self, seconds: float) -> "Effort":
        """The same with so many seconds from now on."""
        return replace(self, deadline=Deadline(seconds, cancel=self.cancel))


@dataclass(frozen=True)
class SolveOptions:
    """What a user may ask of planning.

    time_limit: seconds of wall clock for the whole run.
    seed: of all random choices; the same seed and iterations give the same plan.
    iterations: moves that the searches may evaluate, None for no limit but the time's.
    jobs: how many things run at once: threads of a layer's search, or processes that plan layers. The number of threads
        changes no plan where iterations are limited.
    search: which search runs; "auto" takes the one that suits each routing policy.
    seeds: names of constructions, of `SEEDS`, that are made, shown, and judged under every policy; greedy, which all
        others have to beat, is always among them. None for the usual ones, each under the policies that it suits. What
        "rows" comes to depends on the time that it gets, also where iterations are limited.
    routings: names of the routing policies of which the best is chosen.
    unit: what policies count loads in, None for what the hardware's compute cost counts.
    constraints: what every placement must keep to.
    max_rerouted: share of pairs, 0 to 1, that may go to another expert than the token's own; a capacity factor is then
        chosen with the plan. None for no rerouting.
    annealing, tabu, descent, latency, neighbourhood: parameters of the searches.
    shares: how the time is shared out among the searches.

    Raises InputError, which names the field, for a value that no planning can take.
    """

    time_limit: float = 60.0
    seed: int = 0
    iterations: int | None = None
    jobs: int = JOBS
    search: SearchName = "auto"
    seeds: tuple[str, ...] | None = None
    routings: tuple[str, ...] = AUTO
    unit: Unit | None = None
    constraints: Constraints = field(default_factory=Constraints)
    max_rerouted: float | None = None
    annealing: AnnealingSchedule = COOL
    tabu: TabuMemory = MEMORY
    descent: DescentWeights = field(default_factory=DescentWeights)
    latency: LatencySchedule = field(default_factory=LatencySchedule)
    neighbourhood: NeighbourhoodSettings = field(default_factory=NeighbourhoodSettings)
    shares: PortfolioShares = USUAL

    def __post_init__(self) -> None:
        _require(self.time_limit > 0, "time_limit", f"a time limit is more than 0 seconds, not {self.time_limit}")
        _require(0 <= self.seed < 1 << 64, "seed", f"a seed lies in 0..2^64-1, not at {self.seed}")
        _require(self.iterations is None or self.iterations >= 0, "iterations", "iterations are not negative")
        _require(self.jobs >= 1, "jobs", f"at least one job runs at once, not {self.jobs}")
        searches, units = get_args(SearchName), get_args(Unit)
        _require(self.search in searches, "search", f"'{self.search}' is no search; there are {', '.join(searches)}")
        for name in self.seeds or ():
            _require(name in SEEDS, "seeds", f"'{name}' is no seed; there are {', '.join(SEEDS)}")
        _require(self.seeds is None or len(self.seeds) > 0, "seeds", "at least one seed is needed")
        _require(bool(self.routings), "routings", "at least one routing policy is needed")
        for name in self.routings:
            check_policy(name, "routings")
        _require(self.unit is None or self.unit in units, "unit", f"loads are counted in {' or '.join(units)}")
        share = self.max_rerouted
        _require(share is None or 0 <= share <= 1, "max_rerouted", f"a share of pairs lies in 0..1, not at {share}")

    def effort(self, cancel: Cancel | None = None, started: float | None = None) -> Effort:
        """What one planning may spend, by a clock that starts now or at `started`, a reading of time.monotonic."""
        deadline = Deadline(self.time_limit, cancel=cancel or Cancel())
        if started is not None:
            deadline.started = started
        return Effort(deadline, self.seed, self.iterations, self.search, self.jobs)

    @property
    def conditions(self) -> Conditions:
        """Under what layers are simulated, but for the routing policy."""
        return Conditions(unit=self.unit)


def _require(holds: bool, name: str, message: str) -> None:
    if not holds:
        raise InputError(message, field=name)
