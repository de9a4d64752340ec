"""What can be done about a layer's cost, from the cheapest step on, and what each comes to."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from optimizer.domain.placement import Placement
from optimizer.simulation.report import SimulationReport
from optimizer.statistics.paired import Gain, gain_of_mean, gain_of_p99

WORTH = 0.02
"""The least gain of mean latency that counts as worth a deployment: published dispatch and combine times are reproduced
to several per cent (`benchmarks/published.py`), so a smaller one may be the model's. Not tuned."""

NEAR = 0.8
"""The part of the best gain from which a cheaper step suffices; a compromise, not tuned."""

Kind = Literal["placement", "redundant experts", "tables", "hints", "optimal routing", "capacity"]
RELEASED: tuple[Kind, ...] = ("placement", "redundant experts")
"""The steps that need nothing of a server but a placement."""


@dataclass(frozen=True, eq=False)
class Lever:
    """One step, judged on the test batches beside the present placement, whose report is `before`.

    extra: replicas beyond one of each expert; slots: of a device. runs: whether the server runs it as released.
    rerouted: the share of pairs that go to other experts than the token's own, which changes what the model says.
    """

    kind: Kind
    extra: int
    slots: int
    policy: str
    runs: bool
    placement: Placement
    report: SimulationReport
    before: SimulationReport

    @cached_property
    def mean(self) -> Gain:
        """The gain of mean latency."""
        return gain_of_mean(self.before.latency_us, self.report.latency_us)

    @cached_property
    def p99(self) -> Gain:
        """The gain of the latency that 99 % of batches keep to."""
        return gain_of_p99(self.before.latency_us, self.report.latency_us)

    @property
    def rerouted(self) -> float:
        """The share of pairs that are rerouted, or served over capacity."""
        limit = self.report.rerouting
        return 0.0 if limit is None else limit.share(limit.rerouted + limit.over)

    @property
    def worth(self) -> bool:
        """Whether it gains enough, and surely."""
        return self.mean.sure and self.mean.share >= WORTH


def sufficient(levers: Sequence[Lever]) -> Lever | None:
    """The first of the levers, which come from the cheapest on, that gains nearly as much as the best that the server
    runs and that reroutes nothing; None where none is worth it."""
    ready = [lever for lever in levers if lever.runs and lever.worth and lever.kind != "capacity"]
    best = max((lever.mean.share for lever in ready), default=0.0)
    return next((lever for lever in ready if lever.mean.share >= NEAR * best), None)


def beyond(levers: Sequence[Lever]) -> Lever | None:
    """What would gain most of all that the server does not run as released and that reroutes nothing, where that is
    worth it and more than what it runs; None otherwise."""
    ready = max((lever.mean.share for lever in levers if lever.runs), default=0.0)
    exact = [lever for lever in levers if not lever.runs and lever.kind != "capacity"]
    others = [lever for lever in exact if lever.worth and lever.mean.share > ready]
    return max(others, key=lambda lever: lever.mean.share, default=None)


def at_a_price(levers: Sequence[Lever]) -> Lever | None:
    """The capacity, where it is worth it and gains more than all that reroutes nothing; None otherwise."""
    others = max((lever.mean.share for lever in levers if lever.kind != "capacity"), default=0.0)
    limits = [lever for lever in levers if lever.kind == "capacity" and lever.worth and lever.mean.share > others]
    return max(limits, key=lambda lever: lever.mean.share, default=None)
