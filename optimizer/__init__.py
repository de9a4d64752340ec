"""moeplan: where the experts of a Mixture-of-Experts model live, and how tokens choose among their replicas.

The names below are imported when they are first used, so that `import optimizer` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optimizer.api.advising import advise as advise
    from optimizer.api.graphs import coactivation as coactivation
    from optimizer.api.judging import bound as bound
    from optimizer.api.judging import compare as compare
    from optimizer.api.judging import explain as explain
    from optimizer.api.judging import simulate as simulate
    from optimizer.api.models import ModelRun as ModelRun
    from optimizer.api.models import plan_model as plan_model
    from optimizer.api.planning import plan_expected as plan_expected
    from optimizer.api.planning import plan_layer as plan_layer
    from optimizer.api.rebalancing import rebalance as rebalance
    from optimizer.api.serving import open_router as open_router
    from optimizer.api.traces import open_traces as open_traces
    from optimizer.api.watching import WatchSettings as WatchSettings
    from optimizer.api.watching import watch as watch
    from optimizer.domain.deployment import ExpertRanks as ExpertRanks
    from optimizer.domain.deployment import with_shared_beside as with_shared_beside
    from optimizer.domain.hardware import Hardware as Hardware
    from optimizer.domain.mesh import Mesh as Mesh
    from optimizer.domain.model import Model as Model
    from optimizer.domain.placement import Placement as Placement
    from optimizer.domain.presets import load_model as load_model
    from optimizer.domain.problem import Constraints as Constraints
    from optimizer.errors import InputError as InputError
    from optimizer.interrupts import Cancel as Cancel
    from optimizer.planning.options import SolveOptions as SolveOptions
    from optimizer.planning.plan_file import Plan as Plan
    from optimizer.planning.plan_file import read_plan as read_plan
    from optimizer.planning.plan_file import write_plan as write_plan
    from optimizer.planning.rebalancing.budgets import MoveLimits as MoveLimits
    from optimizer.routing.hints import HintSettings as HintSettings
    from optimizer.routing.servers.abilities import SERVERS as SERVERS
    from optimizer.runtime.router import Router as Router
    from optimizer.simulation.conditions import Conditions as Conditions

_HOME = {
    "Cancel": "optimizer.interrupts",
    "Conditions": "optimizer.simulation.conditions",
    "Constraints": "optimizer.domain.problem",
    "ExpertRanks": "optimizer.domain.deployment",
    "Hardware": "optimizer.domain.hardware",
    "HintSettings": "optimizer.routing.hints",
    "InputError": "optimizer.errors",
    "Mesh": "optimizer.domain.mesh",
    "Model": "optimizer.domain.model",
    "ModelRun": "optimizer.api.models",
    "MoveLimits": "optimizer.planning.rebalancing.budgets",
    "Placement": "optimizer.domain.placement",
    "Plan": "optimizer.planning.plan_file",
    "Router": "optimizer.runtime.router",
    "SERVERS": "optimizer.routing.servers.abilities",
    "SolveOptions": "optimizer.planning.options",
    "WatchSettings": "optimizer.api.watching",
    "advise": "optimizer.api.advising",
    "bound": "optimizer.api.judging",
    "coactivation": "optimizer.api.graphs",
    "compare": "optimizer.api.judging",
    "explain": "optimizer.api.judging",
    "load_model": "optimizer.domain.presets",
    "open_router": "optimizer.api.serving",
    "open_traces": "optimizer.api.traces",
    "plan_expected": "optimizer.api.planning",
    "plan_layer": "optimizer.api.planning",
    "plan_model": "optimizer.api.models",
    "read_plan": "optimizer.planning.plan_file",
    "rebalance": "optimizer.api.rebalancing",
    "simulate": "optimizer.api.judging",
    "watch": "optimizer.api.watching",
    "with_shared_beside": "optimizer.domain.deployment",
    "write_plan": "optimizer.planning.plan_file",
}
"""The module that each name of the face is defined in."""

__all__ = [  # noqa: RUF022 (in the order in which a reader meets them)
    "open_traces", "plan_layer", "plan_model", "plan_expected", "simulate", "advise", "rebalance", "watch", "bound",
    "explain", "compare", "coactivation", "read_plan", "write_plan", "Plan", "Placement", "Mesh", "Model",
    "load_model", "Hardware", "ExpertRanks", "with_shared_beside", "SolveOptions", "Constraints", "Conditions",
    "MoveLimits", "WatchSettings", "SERVERS", "ModelRun", "open_router", "Router", "HintSettings", "Cancel",
    "InputError", "__version__",
]  # fmt: skip

__version__ = "0.2.0"  # the only place that says it: the package's metadata are made from this line


def __getattr__(name: str) -> Any:
    """Import a name of the face from its module (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'optimizer' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
