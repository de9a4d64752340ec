"""What a plan is worth, in two sentences: beside EPLB's scheme, and beside what no plan goes below."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from formulations.kit.arrays import Floats
from optimizer.planning.bounds import LATENCY
from optimizer.planning.plan_layer import LayerSolution
from optimizer.statistics.paired import Gain, gain_of_mean, gain_of_p99

EPLB = "greedy"
"""The method that replicates and packs greedily by expected load, as EPLB does."""

CHANCE = ", which may be chance"
"""What follows a difference that other batches of the same traffic may turn round."""

SMALL = 0.0005  # shares that are printed as 0.0%


class Figure(NamedTuple):
    """A figure of latencies `[batch]`, and how far it is below that of other latencies of the same batches."""

    of: Callable[[Floats], float]
    gain: Callable[[Floats, Floats], Gain]


P99 = Figure(lambda latency: float(np.percentile(latency, 99)), gain_of_p99)
MEAN = Figure(lambda latency: float(latency.mean()), gain_of_mean)


def beside(gain: Gain, named: str) -> str:
    """How far a plan is below or above another one, which is called by this name, and whether that may be chance."""
    if abs(gain.share) < SMALL:
        return f"the same as {named}"
    side = "below" if gain.share > 0 else "above"
    return f"{abs(gain.share):.1%} {side} {named}{CHANCE if gain.may_be_chance else ''}"


@dataclass(frozen=True)
class LatencyVerdict:
    """A figure of a plan's latency on the test batches beside others, in microseconds; None for what is not known.

    eplb_us: of EPLB's scheme on the same batches; gain: how far the plan is below it, with its interval; bound_us: what
    no plan whose policy has the same price goes below.
    """

    us: float
    eplb_us: float | None
    gain: Gain | None
    bound_us: float | None

    @classmethod
    def of(cls, figure: Figure, now: Floats, before: Floats | None, bound_us: float | None) -> "LatencyVerdict":
        """The verdict on a figure of latencies `[batch]`: the plan's now, and before those of EPLB's scheme."""
        if before is None:
            return cls(figure.of(now), None, None, bound_us)
        return cls(figure.of(now), figure.of(before), figure.gain(before, now), bound_us)

    @property
    def above_bound(self) -> float | None:
        """How far the plan is above the bound at most, as a share of it."""
        return None if self.bound_us is None else self.us / self.bound_us - 1

    def beside_eplb(self, named: str) -> list[str]:
        """How far the plan is from EPLB's scheme, which is called by this name; nothing where that is not known."""
        return [] if self.gain is None else [beside(self.gain, named)]

    def bounded(self, paid: str) -> str:
        """How far the plan is from what no plan goes below; paid: what all those plans have in common, in words."""
        if self.above_bound is None:
            return "what no plan goes below is not known"
        if self.above_bound < SMALL:
            return f"as low as any plan{paid} can be"
        return f"at most {self.above_bound:.1%} above what any plan{paid} can reach"

    def as_json(self) -> dict[str, Any]:
        """What the figure is compared with, in its stable JSON form."""
        below = None if self.gain is None else self.gain.share
        shares = {"below_eplb": below, "above_bound": self.above_bound}
        chance = self.gain is not None and self.gain.may_be_chance
        return {"eplb_us": self.eplb_us, "bound_us": self.bound_us, **shares, "may_be_chance": chance}


@dataclass(frozen=True)
class Verdict:
    """The latency of a plan in its 99th percentile and in the mean; price_us: what the plan's policy takes to decide,
    which is part of all its latencies and of their bounds; eplb_routing: the policy that EPLB's scheme is judged under.
    """

    p99: LatencyVerdict
    mean: LatencyVerdict
    routing: str
    price_us: float
    eplb_routing: str | None

    @classmethod
    def of(cls, solution: LayerSolution) -> "Verdict":
        """The verdict on the chosen plan of a layer."""
        report = solution.chosen.report
        greedy = next((row.report for row in solution.seeds if row.method == EPLB), None)
        gap = next((gap for gap in solution.gaps if gap.unit == LATENCY), None)
        tail = None if gap is None else gap.tails.get("p99")
        now, before = report.latency_us, None if greedy is None else greedy.latency_us
        return cls(
            p99=LatencyVerdict.of(P99, now, before, None if tail is None else tail.bound),
            mean=LatencyVerdict.of(MEAN, now, before, None if gap is None else gap.any_placement.mean),
            routing=report.routing,
            price_us=report.price_us,
            eplb_routing=None if greedy is None else greedy.routing,
        )

    def sentence(self) -> str:
        """The plan's p99 latency, beside EPLB's scheme and beside what no plan can reach, and then the mean."""
        paid = f" that pays {self.price_us:g} us for its routing" if self.price_us else ""
        p99 = [*self.p99.beside_eplb(f"EPLB's scheme (greedy, {self.eplb_routing})"), self.p99.bounded(paid)]
        mean = [*self.mean.beside_eplb("EPLB's scheme"), self.mean.bounded(paid)]
        said = f"p99 {self.p99.us:.1f} us under {self.routing}: {'; '.join(p99)}."
        return f"{said} Mean {self.mean.us:.1f} us: {'; '.join(mean)}."

    def as_json(self) -> dict[str, Any]:
        """The verdict in its stable JSON form: figures of p99, and those of the mean in an object of its own."""
        policy = {"routing": self.routing, "price_us": self.price_us, "eplb_routing": self.eplb_routing}
        mean = {"us": self.mean.us, **self.mean.as_json()}
        return {"sentence": self.sentence(), "p99_us": self.p99.us, **policy, **self.p99.as_json(), "mean": mean}
