"""Whether enough was recorded: the loss that a plan has because it was made from few tokens."""

import math
from dataclasses import dataclass

import numpy as np

from optimizer.statistics.layer_report import LayerReport

LOSS = 0.8
"""The loss of a plan on the expected load is LOSS / sqrt(pairs per expert / burstiness): with so many independent
choices of each expert the relative error of its load is 1 / sqrt(of them), and the peak of a plan that follows the
errors is higher by about as much. Fitted to train and selection requests of three recorded sets by
benchmarks/recording.py: over all numbers of tokens the median is .79 for GPT-OSS-20B, 1.06 for DeepSeek-V2-Lite (of few
requests) and .73 for GLM-5.2."""

ENOUGH = 0.05
"""The loss from which on recording more is worth little: searches differ by as much from one another."""

USUAL_BURSTINESS = 20.0
"""Where it is not known how much requests differ: between the means of DeepSeek-V2-Lite (7) and GPT-OSS-20B (37)."""


@dataclass(frozen=True)
class Recorded:
    """How much of a layer was recorded.

    tokens: recorded ones; burstiness: how much more the shares of experts vary between requests (or recorded steps)
    than by chance, which is how many tokens say as much as one independent one; known: whether that was measured;
    wanted: the tokens at which the loss is `ENOUGH`; loss: what a plan loses for want of tokens, as a share of its
    peak.
    """

    layer: int
    tokens: int
    burstiness: float
    known: bool
    wanted: int
    loss: float

    @property
    def verdict(self) -> str:
        """`enough`, or how many more tokens are to be recorded, rounded to two digits."""
        lacking = self.wanted - self.tokens
        if lacking <= 0:
            return "enough"
        unit = 10 ** max(len(str(lacking)) - 2, 0)
        return f"record {-(-lacking // unit) * unit:,} more"

    def summary(self) -> dict[str, object]:
        """The stable JSON form."""
        return {
            "tokens": self.tokens,
            "burstiness": self.burstiness if self.known else None,
            "wanted_tokens": self.wanted,
            "expected_loss": self.loss,
            "enough": self.wanted <= self.tokens,
        }


def recorded(report: LayerReport, top_k: int) -> Recorded:
    """How much of a layer was recorded, by its report.

    Burstiness is that of requests, or, where no token is known, of recorded steps; it is at least 1.
    """
    figures = report.figures
    counted = report.pairs is None and figures.load is not None and len(report.load) > 1
    measured = figures.load.burstiness if counted and figures.load is not None else figures.request_burstiness
    known = not np.isnan(measured).all()
    burstiness = max(1.0, float(np.nanmean(measured))) if known else USUAL_BURSTINESS
    experts = len(figures.counts)
    wanted = math.ceil((LOSS / ENOUGH) ** 2 * burstiness * experts / top_k)
    loss = LOSS * math.sqrt(burstiness * experts / max(figures.tokens * top_k, 1))
    return Recorded(report.layer, figures.tokens, burstiness, known, wanted, loss)
