"""The command `bound`, which prints what no plan can beat."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from optimizer.commands.declare import Option, command
from optimizer.commands.layer_input import LayerInput
from optimizer.commands.options import NOT_NEGATIVE, JsonOptions
from optimizer.commands.output import say, show, show_json
from optimizer.commands.progress import progress


@dataclass(frozen=True)
class BoundTarget:
    """The options that say which layer is bounded, and of which plan."""

    SECTION: ClassVar[str] = "What to bound"
    layer: Annotated[int, Option(("--layer",), "Model layer to bound.", NOT_NEGATIVE, "N", essential=True)]
    plan: Annotated[
        Path | None,
        Option(
            ("--plan",),
            "A plan for the same model and mesh: what the best routing of its placement cannot go below, too, and "
            "which experts and devices force that.",
            metavar="PLAN",
            essential=True,
        ),
    ] = None


@command(example="moeplan bound traces/ --layer 12")
def bound(target: BoundTarget, given: LayerInput, figures: JsonOptions) -> None:
    """Print what no placement of a layer can beat, on the test batches by which `solve` judges its plans.

    Bounds are of the mean over batches and, where they can be had, of p50 and p99 too: latency, and by themselves
    imbalance, tiles, copies of tokens, hops and the times of dispatch, compute and combine. Where TRACES are counts
    without tokens, the expected load is bounded.
    """
    from optimizer.api.judging import bound as bound_layer
    from optimizer.planning.plan_file import read_plan

    plan = None if target.plan is None else read_plan(target.plan)
    given = given.filled()
    traces = given.trace_input()
    choice, machine = given.on_devices(traces)
    with progress() as tell:
        found = bound_layer(traces, target.layer, choice, machine, given.seed.seed, tell, plan)
    say(found.notes)
    if figures.as_json:
        show_json(found.as_json())
        return
    show(found.parts())
