"""What all layers of a plan have in common."""

from dataclasses import asdict, dataclass, field
from typing import Any

from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.problem import Constraints
from optimizer.planning.candidates import Effort
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.search.stop import Deadline
from optimizer.simulation.conditions import Conditions


@dataclass(frozen=True)
class Settings:
    """What all layers of a plan have in common. chains: threads of one layer's search; iterations: moves that it may
    evaluate, None for no limit but the time's."""

    model: Model
    mesh: Mesh
    cost: Cost
    constraints: Constraints = field(default_factory=Constraints)
    conditions: Conditions = field(default_factory=Conditions)
    routings: tuple[str, ...] = ("even",)
    seed: int = 0
    iterations: int | None = None
    search: str = "auto"
    chains: int = 1

    def effort(self, seconds: float) -> Effort:
        """For one layer, from now on."""
        return Effort(Deadline(seconds), self.seed, self.iterations, self.search, self.chains)

    def as_json(self) -> dict[str, Any]:
        """What decides on the plan but for the time, so that a run which goes on with another's layers can tell whether
        it may."""
        cost: dict[str, Any] = {"hardware": self.cost.preset.model_dump(mode="json"), "moe_op": self.cost.moe_op}
        cost |= {"dispatch_model": self.cost.dispatch_model, "unit": self.conditions.unit}
        searched = {"routing": self.routings, "seed": self.seed, "iterations": self.iterations, "search": self.search}
        searched |= {"chains": self.chains} | self.constraints._asdict()
        return {"model": asdict(self.model), "mesh": asdict(self.mesh)} | cost | searched

    def plan(self, policy: str, parts: dict[int, LayerPlan]) -> Plan:
        """The plan with these layers."""
        return Plan(self.model, self.mesh, self.cost.name, policy, parts, self.conditions.unit)
