"""The command `advise`, which says whether anything is worth deploying."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import click

from optimizer.commands.declare import Option, command
from optimizer.commands.layer_input import LayerInput
from optimizer.commands.options import NOT_NEGATIVE, POSITIVE, JsonOptions
from optimizer.commands.output import say, show, show_json
from optimizer.commands.progress import progress
from optimizer.commands.session import session
from optimizer.commands.trace_options import TraceOptions

if TYPE_CHECKING:
    from optimizer.traces.mending import Mending


@dataclass(frozen=True)
class LogicalTraces(TraceOptions):
    """Traces of the model's own expert ids, beside the placement that is there now."""

    placement: Annotated[
        Path | None,
        Option(
            ("--placement",),
            "The plan or server's file that runs now; by default what the server does by itself. Traces of physical "
            "ids are converted first (convert --placement).",
            metavar="FILE",
            essential=True,
        ),
    ] = None

    def mending(self) -> "Mending":
        """What is left out of traces, whose ids are the model's own."""
        return TraceOptions.mending(replace(self, placement=None))


@dataclass(frozen=True)
class AdviceInput(LayerInput):
    """The options of a layer, with the placement that is there now."""

    traces: LogicalTraces


@dataclass(frozen=True)
class AdviceOptions:
    """The options that say which layer is looked at, at which sizes, and for how long."""

    SECTION: ClassVar[str] = "What to look at"
    layer: Annotated[
        int | None,
        Option(("--layer",), "Model layer to look at; by default the middle one.", NOT_NEGATIVE, "N", essential=True),
    ] = None
    sizes: Annotated[
        str | None,
        Option(
            ("--sizes",),
            "Further numbers of tokens in a batch, at which the present placement and the advice are judged.",
            metavar="TOKENS,...",
            essential=True,
        ),
    ] = None
    time_limit: Annotated[
        float,
        Option(
            ("--time-limit",),
            "Seconds for the whole command, of which each step gets a share; the first run, which compiles, may take "
            "a minute more.",
            click.FloatRange(min=1),
            essential=True,
        ),
    ] = 120.0
    iterations: Annotated[
        int | None,
        Option(("--iterations",), "Moves that the search of a step may evaluate, as in solve.", NOT_NEGATIVE, "N"),
    ] = None
    jobs: Annotated[int, Option(("--jobs",), "Threads that search.", POSITIVE)] = 2


@command(example="moeplan advise traces/ --server vllm --ep-size 32")
def advise(target: AdviceOptions, given: AdviceInput, figures: JsonOptions) -> None:
    """Say whether anything is worth it, before anything is deployed.

    What the present placement costs, and how much of that is communication, imbalance of the expected load and chance;
    what each step gives, with confidence: placing experts by load, 8 to 64 redundant experts, and, where the server
    would have to be changed, tables, hints, optimal routing with its price, and a capacity. The cheapest sufficient
    step is named first; that there is no gain to be had is an answer, too. Ctrl-C ends it with what is known so far.
    """
    from optimizer.api.advising import advise as run
    from optimizer.commands.arguments import token_counts
    from optimizer.planning.options import SolveOptions

    sizes, filled = token_counts(target.sizes), given.filled()
    traces = filled.trace_input()
    choice, machine = filled.on_devices(traces)
    asked = given.traces.placement, filled.server.to_server(), sizes
    with progress(target.time_limit) as tell:
        options = SolveOptions(
            session().left(target.time_limit), given.seed.seed, target.iterations, target.jobs, unit=given.cost.unit
        )
        found = run(traces, target.layer, choice, machine, options, *asked, tell, session().cancel)
    say(found.notes)
    if figures.as_json:
        show_json(found.as_json())
        return
    show(found.parts())
