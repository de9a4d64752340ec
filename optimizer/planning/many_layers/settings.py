"""What all layers of a plan have in common."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.planning.options import SEARCH_PARAMETERS, Effort, SolveOptions
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.routing.policies import price_us
from optimizer.search.stop import Deadline


@dataclass(frozen=True)
class Settings:
    """What all layers of a plan have in common. chains: threads of one layer's search, a chain for each; of the
    options, the time limit and the number of jobs are the run's, not a layer's."""

    model: Model
    mesh: Mesh
    cost: Cost
    options: SolveOptions = field(default_factory=SolveOptions)
    chains: int = 1

    def effort(self, deadline: Deadline) -> Effort:
        """What the search for one layer may spend until this deadline."""
        options = self.options
        return Effort(deadline, options.seed, options.iterations, options.search, self.chains)

    def under(self, policy: str) -> "Settings":
        """The same settings with this routing policy alone."""
        return replace(self, options=replace(self.options, routings=(policy,)))

    def as_json(self) -> dict[str, Any]:
        """What decides on the plan but for the time, so that a run which goes on with another's layers can tell whether
        it may."""
        options, cost = self.options, self.cost
        priced: dict[str, Any] = {"hardware": cost.preset.model_dump(mode="json"), "moe_op": cost.moe_op,
                                  "prices": cost.prices}  # fmt: skip
        priced |= {"dispatch_model": cost.dispatch_model, "unit": options.unit}
        searched = {"routing": options.routings, "seed": options.seed, "iterations": options.iterations}
        searched |= {"search": options.search, "chains": self.chains} | options.constraints._asdict()
        searched |= {} if options.seeds is None else {"seeds": options.seeds}
        tuned = {name: asdict(getattr(options, name)) for name in SEARCH_PARAMETERS}
        return {"model": asdict(self.model), "mesh": asdict(self.mesh)} | priced | searched | tuned

    def plan(self, policy: str, parts: dict[int, LayerPlan]) -> Plan:
        """The plan with these layers, under this routing policy."""
        price = price_us(self.cost, policy)
        return Plan(self.model, self.mesh, self.cost.name, policy, parts, self.options.unit, price_us=price)
