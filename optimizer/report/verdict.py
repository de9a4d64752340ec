"""What a plan is worth, in one sentence: beside EPLB's scheme, and beside what no plan goes below."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from optimizer.planning.bounds import LATENCY
from optimizer.planning.plan_layer import LayerSolution
from optimizer.simulation.report import SimulationReport

EPLB = "greedy"
"""The method that replicates and packs greedily by expected load, as EPLB does."""


@dataclass(frozen=True)
class Verdict:
    """The p99 latency of a plan on the test batches beside others, in microseconds; None for what is not known.

    price_us: what the plan's policy takes to decide, which is part of p99_us and of bound_us. eplb_us: of EPLB's scheme
    under the policy eplb_routing; bound_us: what no plan whose policy has this price goes below.
    """

    p99_us: float
    routing: str
    price_us: float
    eplb_us: float | None
    eplb_routing: str | None
    bound_us: float | None

    @classmethod
    def of(cls, solution: LayerSolution) -> "Verdict":
        """The verdict on the chosen plan of a layer."""
        report = solution.chosen.report
        greedy = next((row.report for row in solution.seeds if row.method == EPLB), None)
        tail = next((gap.tails.get("p99") for gap in solution.gaps if gap.unit == LATENCY), None)
        return cls(
            _p99(report),
            report.routing,
            report.price_us,
            None if greedy is None else _p99(greedy),
            None if greedy is None else greedy.routing,
            None if tail is None else tail.bound,
        )

    @property
    def below_eplb(self) -> float | None:
        """How far the plan is below EPLB's scheme, as a share of the latter's latency; negative where it is above."""
        return None if self.eplb_us is None else 1 - self.p99_us / self.eplb_us

    @property
    def above_bound(self) -> float | None:
        """How far the plan is above the bound at most, as a share of it."""
        return None if self.bound_us is None else self.p99_us / self.bound_us - 1

    def sentence(self) -> str:
        """In one sentence the plan's p99 latency, beside EPLB's scheme and beside what no plan can reach."""
        return f"p99 {self.p99_us:.1f} us under {self.routing}: {'; '.join([*self._beside_eplb(), self._bounded()])}."

    def _beside_eplb(self) -> list[str]:
        share = self.below_eplb
        if share is None:
            return []
        how = f"{abs(share):.1%} {'below' if share > 0 else 'above'}" if abs(share) >= 0.0005 else "the same as"
        return [f"{how} EPLB's scheme (greedy, {self.eplb_routing})"]

    def _bounded(self) -> str:
        if self.above_bound is None:
            return "what no plan goes below is not known"
        paid = f" that pays {self.price_us:g} us for its routing" if self.price_us else ""
        if self.above_bound < 0.0005:
            return f"as low as any plan{paid} can be"
        return f"at most {self.above_bound:.1%} above what any plan{paid} can reach"

    def as_json(self) -> dict[str, Any]:
        """The verdict in its stable JSON form."""
        shares = {"below_eplb": self.below_eplb, "above_bound": self.above_bound}
        return {"sentence": self.sentence(), **asdict(self), **shares}


def _p99(report: SimulationReport) -> float:
    return float(np.percentile(report.latency_us, 99))
