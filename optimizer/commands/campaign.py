"""What `solve` gives to a run of many layers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from optimizer.commands.given import cost_of, deadline_of, mesh_of, solve_options

if TYPE_CHECKING:
    from optimizer.domain.model import Model
    from optimizer.planning.many_layers.run import Run
    from optimizer.planning.many_layers.settings import Settings
    from optimizer.planning.options import Progress
    from optimizer.planning.plan_file import Plan

WRITTEN = "The plan is written"


def settings_of(model: "Model", layers: int, given: dict[str, Any]) -> "Settings":
    from optimizer.planning.many_layers.settings import Settings

    chains = max(1, given["jobs"] // layers)
    return Settings(model, mesh_of(given), cost_of(given["hardware"], given), solve_options(given), chains)


def start_of(given: dict[str, Any]) -> "Plan | None":
    from optimizer.planning.plan_file import read_plan

    return None if given["start"] is None else read_plan(given["start"])


@contextmanager
def running(asked: dict[str, Any], given: dict[str, Any], notify: "Progress") -> "Iterator[Run]":
    """Workers at the ready, and the work folder, if it is of a run that was asked for the same."""
    from optimizer.planning.many_layers.run import Run
    from optimizer.planning.many_layers.work import WorkFolder
    from optimizer.planning.many_layers.workers import Workers

    work = None if given["work"] is None else WorkFolder.opened(given["work"], asked, given["resume"])
    with Workers(given["jobs"], given["cluster"]).ready() as crew:
        yield Run(crew, deadline_of(given), notify, work)


def asked_of(
    settings: "Settings", layers: Sequence[int], start: "Plan | None", given: dict[str, Any]
) -> dict[str, Any]:
    """What decides on the plan, besides the traces."""
    batches = {key: given[key] for key in ("phase", "batch_tokens", "row_users")}
    placed = (
        None if start is None else {str(layer): part.placement.slots.tolist() for layer, part in start.layers.items()}
    )
    return {"layers": list(layers), "start": placed} | batches | settings.as_json()
