"""The two settings of a layer: its routed experts in as few slots as hold them, and all experts in all slots."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.problem import Constraints, Problem, make_problem
from optimizer.planning.bounds import LATENCY, Bound, bound_any
from optimizer.traces.batches import Batches, Sets
from optimizer.traces.source import Source
from optimizer.traces.trace import digest

ROUTED, ALL = "routed", "all"


@dataclass(frozen=True, eq=False)
class StepSetting:
    """What is placed, and where: ROUTED is the routed experts without replicas, ALL is all experts with replicas."""

    name: str
    problem: Problem
    sets: Sets

    @cached_property
    def digest(self) -> str:
        """A digest of everything that the figures of a plan follow from."""
        mesh, preset = self.problem.mesh, self.problem.cost.preset.model_dump_json().encode()
        arrays = [array for batches in self.sets for array in vars(batches).values() if array is not None]
        shape = np.array([mesh.rows, mesh.cols, mesh.slots_per_device, self.problem.model.routed_experts])
        return digest(shape, np.frombuffer(preset, dtype=np.uint8), *arrays)

    @cached_property
    def bound(self) -> Bound | None:
        """What the latency of no placement goes below on the test batches; None where no bound is known."""
        problem = self.problem
        bounds = bound_any(self.sets.test, problem.model, problem.mesh, problem.cost)
        return next((each for each in bounds if each.unit == LATENCY and not each.only_for), None)


def settings_of(source: Source, layer: int, mesh: Mesh, cost: Cost) -> Iterator[StepSetting]:
    """Both settings of a layer, ROUTED first. Raises InputError where the experts do not fit the slots."""
    model, sets = source.model, source.sets(layer)
    alone = replace(model, shared_experts=0)
    fewest = replace(mesh, slots_per_device=-(-model.routed_experts // mesh.devices))
    without = Sets(*(_routed(batches, model.top_k) for batches in sets))
    load = sets.train.load(model.experts)
    whole = make_problem(model, mesh, cost, load)
    part = make_problem(alone, fewest, cost, load[:, : model.routed_experts].copy(), Constraints(extra_replicas=0))
    yield StepSetting(ROUTED, part, without)
    yield StepSetting(ALL, whole, sets)


def _routed(batches: Batches, top_k: int) -> Batches:
    """The batches without the shared experts of their tokens."""
    return replace(batches, experts=batches.experts[..., :top_k])
