"""What a server calls: a router of the plan that it has loaded."""

from pathlib import Path

from optimizer.planning.plan_file import Plan, read_plan
from optimizer.routing.hints import HintSettings
from optimizer.runtime.router import Router


def open_router(plan: Plan | Path | str, hints: HintSettings | None = None) -> Router:
    """The router of a plan or of a plan file, which chooses replicas by what recent batches have loaded.

    Parameters
    ----------
    plan
        A plan, or the path of a plan file.
    hints
        How quickly loads are forgotten, how often hints are made anew, and how many batches late they are; None for
        what the plan says, or else the usual way.

    Returns
    -------
    Router
        For all layers of the plan. Where the plan itself is at hand, `Router.from_plan` does the same.

    Raises
    ------
    InputError
        For a file that is no plan, hardware that is unknown, and a mesh of more than 65,536 slots.

    Examples
    --------
    >>> import numpy as np
    >>> from optimizer import Hardware, Mesh, Model, Placement
    >>> machine = Hardware.of(mesh=Mesh(2, 1, 2))
    >>> own = Plan.of(Placement(np.array([[0, 1], [0, 2]])), 3, Model("tiny", 3, 0, 1), machine)
    >>> open_router(own).table(3).shape
    (2, 3)
    """
    return Router.from_plan(plan if isinstance(plan, Plan) else read_plan(Path(plan)), hints)
