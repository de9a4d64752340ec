"""The points of layers of which there are counts alone: judged by the expected load of devices under even split."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from formulations.kit.arrays import Floats, Ints
from optimizer import __version__
from optimizer.domain.cost import Cost
from optimizer.domain.placement import Placement
from optimizer.domain.problem import make_problem
from optimizer.errors import InputError
from optimizer.planning.bounds import IMBALANCE, Gap, bound_steps, gaps
from optimizer.planning.choose_for_datasets import EXPECTED, Measure
from optimizer.planning.options import Effort, Progress, SolveOptions
from optimizer.planning.plan_expected_load import check_limits, expected_imbalance, split_steps, step_loads
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.planning.rebalancing.counted_layer import counted_curve_of
from optimizer.planning.rebalancing.layer_work import check_current
from optimizer.planning.rebalancing.points import LayerPoint
from optimizer.routing.context import LearnedShares
from optimizer.routing.hints import HintSettings
from optimizer.routing.learned_shares import only_loads
from optimizer.routing.policies import FIXED
from optimizer.traces.formats.counts import Counts
from optimizer.traces.source import BATCH_TOKENS


@dataclass(frozen=True, eq=False)
class CountedWork:
    """The points of layers of counts. counts: of steps in which all of these layers counted something, so that their
    figures can be added up step by step. tested: of these steps the last ones, by which alone is judged; None for every
    fifth."""

    current: Plan
    cost: Cost
    options: SolveOptions
    counts: Counts
    tested: int | None = None

    @classmethod
    def of(
        cls, current: Plan, cost: Cost, options: SolveOptions, counts: Counts, layers: Sequence[int]
    ) -> "CountedWork":
        """The work for these layers. Raises InputError for a layer that the counts lack, for options that counts
        cannot serve, and for a policy that needs tokens."""
        check_limits(options)
        if (policy := options.routings[0]) in FIXED:
            said = f"'{policy}' is learned from tokens, which counts do not have; name another policy"
            raise InputError(said, "routings")
        return cls(current, cost, options, common_steps(counts, layers))

    @property
    def measure(self) -> Measure:
        """Peak / mean expected device load."""
        return EXPECTED

    @property
    def hints(self) -> HintSettings | None:
        """As the plan in force has them: counts do not say how loads change from batch to batch."""
        return self.current.hints

    def points(
        self, layer: int, grid: Sequence[int], limited: bool, effort: Effort, progress: Progress
    ) -> list[LayerPoint]:
        """The points of one layer for each budget of the grid, as the protocol `LayerWork` asks for them."""
        current = self.current
        train, test, unseen = self._split(step_loads(self.counts, layer, current.model))
        problem = make_problem(current.model, current.mesh, self.cost, train, self.options.constraints, layer)
        check_current(problem, current, layer)
        placement = current.layers[layer].placement
        curve = counted_curve_of(problem, placement, grid, self.options, effort, progress, limited)
        made = self._provenance() | {"train_steps": len(train), "test_steps": len(test), "unseen_test_steps": unseen}
        found = []
        for most in (0, *grid, None):
            best, bound = curve.at(most)
            judged = expected_imbalance(best.placement, test)
            known = gaps(bound_steps(test, current.mesh), {IMBALANCE: float(judged.mean())})
            part = self._part(layer, best.placement, train, judged, known, made)
            found.append(LayerPoint(most, best.moves, part, float(best.judged[0]), judged, float(judged.mean()), bound))
        return found

    def _split(self, load: Ints) -> tuple[Ints, Ints, bool]:
        """Steps to plan on and to judge by, and whether they differ."""
        if self.tested is None:
            return split_steps(load)
        return load[: -self.tested], load[-self.tested :], True

    def _part(
        self, layer: int, placement: Placement, train: Ints, judged: Floats, known: list[Gap], made: dict[str, Any]
    ) -> LayerPlan:
        """The layer for the plan file. Its loads are of a batch as large as the plan's were, or of a usual one."""
        old = self.current.layers[layer].learned
        model = self.current.model
        pairs = BATCH_TOKENS * (model.top_k + model.shared_experts) if old is None else float(old.load.sum())
        loads = only_loads(placement, train)
        learned = LearnedShares(loads.load * (pairs / loads.load.sum()), loads.share)
        quality = {"expected_imbalance": {"mean": float(judged.mean()), "max": float(judged.max())}}
        return LayerPlan(placement, quality, {gap.unit: gap.summary() for gap in known}, made, learned)

    def _provenance(self) -> dict[str, Any]:
        return {
            "moeplan": __version__, "method": "rebalance", "seed": self.options.seed, "origin": self.counts.source,
        }  # fmt: skip


def common_steps(counts: Counts, layers: Sequence[int]) -> Counts:
    """The counts of the steps in which all of these layers counted something. Raises InputError for a layer that the
    counts lack, and where there is no such step."""
    if lacking := sorted(set(layers) - set(counts.layers)):
        has = f"{counts.layers[0]}..{counts.layers[-1]}"
        raise InputError(f"layer {lacking[0]} is not in {counts.source}, which has {has}", "layer")
    places = [counts.layers.index(layer) for layer in layers]
    kept = (counts.load[:, places].sum(axis=2) > 0).all(axis=1)
    if not kept.any():
        said = f"{counts.source}: no step counts something in all of layers {', '.join(map(str, layers))}; name fewer"
        raise InputError(said, "layer")
    names = tuple(name for name, there in zip(counts.names, kept, strict=True) if there) if counts.names else ()
    tokens = None if counts.tokens is None else counts.tokens[kept]
    return replace(counts, load=counts.load[kept], tokens=tokens, names=names)
