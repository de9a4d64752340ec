"""The options that `simulate` and `sweep` share: which plan is run, and under what conditions."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from optimizer.commands.declare import Argument, Option
from optimizer.commands.options import POSITIVE, CostOptions

if TYPE_CHECKING:
    from optimizer.domain.hardware import Hardware
    from optimizer.planning.plan_file import Plan
    from optimizer.simulation.conditions import Conditions


@dataclass(frozen=True)
class PlanArgument:
    """The argument that names the plan file."""

    SECTION: ClassVar[str] = "Plan"
    plan: Annotated[Path, Argument("PLAN")]


@dataclass(frozen=True)
class RunOptions:
    """The options that say under what conditions a plan is run."""

    SECTION: ClassVar[str] = "Conditions"
    batch_count: Annotated[
        int | None,
        Option(
            ("--batch-count",),
            "Batches to simulate, in bounded memory; by default 1024, or all of a batch file.",
            POSITIVE,
            "N",
            essential=True,
        ),
    ] = None
    timing: Annotated[
        Literal["barrier", "overlap"],
        Option(("--timing",), "Dispatch, compute and combine one after another, or each token as soon as it can."),
    ] = "barrier"
    drop: Annotated[
        bool, Option(("--drop",), "Drop pairs that find no room, instead of serving them over capacity.")
    ] = False
    slow: Annotated[
        str | None,
        Option(("--slow",), "Devices that compute slower, by these factors.", metavar="DEVICE=FACTOR,..."),
    ] = None
    dead: Annotated[str | None, Option(("--dead",), "Devices whose replicas are gone.", metavar="DEVICE,...")] = None

    def conditions(self, plan: "Plan", cost: CostOptions) -> "Conditions":
        """The conditions that a plan runs under, with the defaults for routing policy and capacity. Raises InputError
        for devices that are not written as the options ask."""
        from optimizer.commands.arguments import dead_devices, slow_devices
        from optimizer.routing.hints import USUAL_HINTS
        from optimizer.simulation.conditions import Conditions

        return Conditions(
            unit=cost.unit or plan.unit,
            hints=plan.hints or USUAL_HINTS,
            timing=self.timing,
            drop=self.drop,
            slow=slow_devices(self.slow),
            dead=dead_devices(self.dead),
        )


def hardware_of(plan: "Plan", cost: CostOptions) -> "Hardware":
    """The hardware that a plan names, with the plan's mesh and price of routing, and the MoE op, dispatch model and
    prices that were asked for."""
    from optimizer.domain.hardware import Hardware

    prices = plan.prices | cost.prices()
    return Hardware.of(plan.hardware, plan.mesh, None, cost.moe_op, cost.dispatch_model, prices)
