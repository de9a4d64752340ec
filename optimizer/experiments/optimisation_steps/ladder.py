"""The ladder of optimisation: the latency of a layer after each step, all on the same test batches."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from optimizer.experiments.optimisation_steps.runs import (
    EVEN,
    FUNCTIONAL,
    MOST_REROUTED,
    OPTIMAL,
    OPTIMIZED,
    SEQUENTIAL,
)
from optimizer.experiments.optimisation_steps.settings import ALL, ROUTED
from optimizer.experiments.optimisation_steps.step_row import StepRow


@dataclass(frozen=True)
class Step:
    """One step of optimisation.

    says: the step in words; row: picks, from all rows of one layer, the row that shows the step, or None if there is
    none; bounded: whether the bound holds for the step, as it places all experts and reroutes nothing.
    """

    says: str
    row: Callable[[Sequence[StepRow]], StepRow | None]
    bounded: bool = False


@dataclass(frozen=True)
class Rung:
    """A data set after a step; figures are means over its layers.

    p50, p99: median and 99th percentile of latency (microseconds). chosen: what was chosen on the selection batches,
    with the number of layers for which it was. to_last: p99 over that of the rung before, less 1; None for the first
    rung. rerouted: the share of pairs that are rerouted or served over capacity; kept: the share of gate weight that is
    kept; both are None without a capacity. bound: whether this is no plan but the bound for all plans of all experts
    that reroute nothing; its to_last compares with the best such rung.
    """

    says: str
    p50: float
    p99: float
    chosen: dict[str, int]
    to_last: float | None
    rerouted: float | None = None
    kept: float | None = None
    bound: bool = False

    @property
    def helps(self) -> bool:
        """Whether the step lowers p99."""
        return self.to_last is None or self.to_last < 0


def steps_of(rows: Sequence[StepRow]) -> list[Step]:
    """All steps in order, for rows of one data set with all settings, methods and policies."""
    part, whole = (next(row for row in rows if row.setting == name) for name in (ROUTED, ALL))
    return [
        Step("functional op, experts in order", lambda of: _begin(of, FUNCTIONAL)),
        Step("optimized op, same placement", lambda of: _begin(of, OPTIMIZED)),
        Step(f"{part.experts} experts placed in {part.slots} slots", _placed),
        Step(
            f"{whole.experts} with replicas in {whole.slots} slots, even routing",
            lambda of: _replicated(of, EVEN),
            bounded=True,
        ),
        Step("routing by load: optimal", lambda of: _replicated(of, OPTIMAL), bounded=True),
        Step(f"capacity, at most {MOST_REROUTED:.0%} rerouted", _limited),
    ]


def ladder(rows: Sequence[StepRow]) -> list[Rung]:
    """The rungs of one data set, the bound last. A step is left out where some layer has no row that shows it."""
    layers = [[row for row in rows if row.layer == layer] for layer in sorted({row.layer for row in rows})]
    rungs: list[Rung] = []
    bounded: list[Rung] = []
    for step in steps_of(rows):
        found = [row for of_layer in layers if (row := step.row(of_layer)) is not None]
        if len(found) == len(layers):
            rung = _rung(step.says, found, rungs)
            rungs.append(rung)
            if step.bounded:
                bounded.append(rung)
    bounds = [bound for of_layer in layers if (bound := _bound(of_layer)) is not None]
    if len(bounds) == len(layers):
        p50, p99 = (fmean(figure) for figure in zip(*bounds, strict=True))
        rungs.append(Rung("bound", p50, p99, {}, p99 / min(rung.p99 for rung in bounded) - 1, bound=True))
    return rungs


def in_order(rows: Sequence[StepRow]) -> StepRow:
    """The row, among those of one layer, of all experts in order in all slots.

    It is where steps begin that serve shared experts too; the first rungs of the ladder leave shared experts out.
    """
    return next(row for row in _plain(rows, ALL, EVEN) if row.method == SEQUENTIAL)


def _rung(says: str, found: Sequence[StepRow], before: Sequence[Rung]) -> Rung:
    """The rung of a step that these rows show, one for each layer; before: the rungs below it."""
    p50, p99 = (fmean(getattr(row, f"latency_{name}_us") for row in found) for name in ("p50", "p99"))
    chosen = Counter(_named(row) for row in found)
    limited = [row for row in found if row.rerouted is not None and row.over_capacity is not None]
    rerouted = kept = None
    if limited:
        rerouted = sum((row.rerouted or 0.0) + (row.over_capacity or 0.0) for row in limited) / len(found)
        kept = 1 - sum(1 - (row.gate_weight_kept or 0.0) for row in limited) / len(found)
    to_last = p99 / before[-1].p99 - 1 if before else None
    return Rung(says, p50, p99, dict(chosen), to_last, rerouted, kept)


def _named(row: StepRow) -> str:
    """A row's method, policy and capacity in words."""
    factor = "" if row.capacity_factor is None else f", {row.capacity_factor:g}"
    return f"{row.method}, {row.policy}{factor}"


def _plain(rows: Sequence[StepRow], setting: str, policy: str) -> list[StepRow]:
    """The rows of a setting and a policy that have no capacity, with the optimized op."""
    wanted = (setting, policy, None, OPTIMIZED)
    return [row for row in rows if (row.setting, row.policy, row.capacity_factor, row.moe_op) == wanted]


def _begin(rows: Sequence[StepRow], moe_op: str) -> StepRow | None:
    """The row of routed experts in order under one of the MoE ops, if there is one."""
    wanted = (ROUTED, SEQUENTIAL, EVEN, None, moe_op)
    return next(
        (row for row in rows if (row.setting, row.method, row.policy, row.capacity_factor, row.moe_op) == wanted), None
    )


def _placed(rows: Sequence[StepRow]) -> StepRow:
    """The best row of routed experts without replicas.

    Without replicas all policies serve in the same way, but a search has more moves for some policies than for others.
    """
    return _best([row for policy in (EVEN, OPTIMAL) for row in _plain(rows, ROUTED, policy)])


def _replicated(rows: Sequence[StepRow], policy: str) -> StepRow:
    """The best row of all experts in all slots under a policy."""
    return _best(_plain(rows, ALL, policy))


def _limited(rows: Sequence[StepRow]) -> StepRow:
    """The best row with a capacity that reroutes at most MOST_REROUTED; without one, the row of the step before."""
    capped = [row for row in rows if row.setting == ALL and row.capacity_factor is not None]
    allowed = [row for row in capped if row.selection_rerouted <= MOST_REROUTED]
    return _best(allowed) if allowed else _replicated(rows, OPTIMAL)


def _best(rows: Sequence[StepRow]) -> StepRow:
    """The row with the least latency on the selection batches, so that its figures on test batches are unbiased."""
    return min(rows, key=lambda row: row.selection_us)


def _bound(rows: Sequence[StepRow]) -> tuple[float, float] | None:
    """The bounds on median and 99th percentile of latency, for the rows of one layer; None where none is known."""
    row = _replicated(rows, OPTIMAL)
    return None if row.bound_p50_us is None or row.bound_p99_us is None else (row.bound_p50_us, row.bound_p99_us)
