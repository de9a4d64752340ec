"""The command `rebalance`, which makes a better plan of one that is in force by moving few experts."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import click

from optimizer.commands.declare import Argument, Option, command
from optimizer.commands.exchange import advised, placement_of
from optimizer.commands.failures import BadInput
from optimizer.commands.options import JsonOptions, ModelOptions, PageOptions
from optimizer.commands.output import progress, say, show, show_json
from optimizer.commands.rebalance_options import LimitOptions, RebalanceSettings
from optimizer.commands.session import session
from optimizer.commands.trace_options import BatchOptions, TraceOptions, trace_input
from optimizer.errors import InputError

if TYPE_CHECKING:
    from optimizer.planning.plan_file import Plan


@dataclass(frozen=True)
class CurrentOptions:
    """The argument that names what is in force, and the options that say what a server's file does not."""

    SECTION: ClassVar[str] = "Where CURRENT is a server's file"
    current: Annotated[Path, Argument("CURRENT")]
    origin: Annotated[
        str | None, Option(("--from",), "Its format, where its content does not tell: vllm-json, rtp-llm, ...")
    ] = None
    hardware: Annotated[
        str | None, Option(("--hardware",), "As of import: a hardware preset, or a TOML file like one.")
    ] = None
    mesh: Annotated[str | None, Option(("--mesh",), "As of import: nodes x devices of each.", metavar="RxC")] = None
    merge_doubles: Annotated[
        bool, Option(("--merge-doubles",), "Take the second copy of an expert on one rank as an empty slot.")
    ] = False

    def read(self, model: ModelOptions, first_moe_layer: int | None) -> "tuple[Plan, list[str]]":
        """The plan in force, and notes on what was inferred. Raises BadInput and InputError for a file that is neither
        a plan nor a server's, and for options that it leaves no room for."""
        from optimizer.exchange.formats import PLAN, formats_of
        from optimizer.planning.import_plan import ImportSettings, import_plan
        from optimizer.planning.plan_file import read_plan

        if self.origin is None and formats_of(self.current) in ([], [PLAN]):
            read = read_plan(self.current)
            self._refuse_for_plans(model)
            return read, []
        settings = ImportSettings(model.choice(), first_moe_layer, self.hardware, self.mesh, self.merge_doubles)
        placement = placement_of(self.current, self.origin, model)
        try:
            return import_plan(placement, settings)
        except InputError as error:
            raise advised(InputError(f"{self.current}: {error}", error.field)) from None

    def _refuse_for_plans(self, model: ModelOptions) -> None:
        """Raise BadInput where an option says what a plan says itself."""
        for name, value in (vars(self) | vars(model)).items():
            if name != "current" and value not in (None, False):
                raise BadInput(
                    f"--{name.replace('_', '-')} is for a server's file; {self.current} is a plan, which says it"
                )


@dataclass(frozen=True)
class RebalancedOutput:
    """The option that says where the plan is written; by default not where `solve` writes the plan in force."""

    SECTION: ClassVar[str] = "Output"
    output: Annotated[Path, Option(("-o", "--output"), "Where the plan is written.", essential=True)] = Path(
        "rebalanced.json"
    )


@command(example="moeplan rebalance plan.json traces/ --max-moves 24 -o rebalanced.json")
def rebalance(
    current: CurrentOptions,
    traces: TraceOptions,
    batches: BatchOptions,
    limits: LimitOptions,
    how: RebalanceSettings,
    model: ModelOptions,
    output: RebalancedOutput,
    page: PageOptions,
    figures: JsonOptions,
) -> None:
    """Find the best plan that devices reach from CURRENT by loading few experts, and the moves to it.

    CURRENT is a plan, or any server's placement file. A plan without a limit is made first, and its devices are
    exchanged so that most experts stay. Parts of it, and searches that never leave the budget, are compared on
    selection batches; gains are of test batches. Moves come in rounds, in each of which a device sends and receives at
    most one expert. A move is an expert that a device did not hold before: vLLM counts these, and so does SGLang here,
    as experts that stay on a device keep their slot. Of counts without tokens, gains are of the expected load's peak.
    """
    from optimizer.api.rebalancing import rebalance as run
    from optimizer.commands.arguments import layer_ids
    from optimizer.files import check_writable, write_whole
    from optimizer.planning.plan_file import write_plan

    check_writable(output.output, "output")
    if page.html is not None:
        check_writable(page.html, "html")
    wanted = limits.limits()
    plan, notes = current.read(model, traces.first_moe_layer)
    options, costs = how.options(plan), how.costs(plan)
    given, layers = trace_input(traces, batches), layer_ids(limits.layer)
    with progress() as tell:
        options = replace(options, time_limit=session().left(options.time_limit))
        found = run(plan, given, wanted, layers, options, costs, tell, session().cancel)
    write_plan(output.output, found.plan)
    say([*notes, *found.notes, *how.warnings(found.plan)])
    if page.html is not None:
        from optimizer.report.page.moves_page import moves_page

        write_whole(page.html, moves_page(found.found, found.notes))
    if figures.as_json:
        show_json({"plan": str(output.output), **found.as_json()})
        return
    show(found.parts())
    click.echo(f"The plan is written to {output.output}; the moves are in the output of --json.")
    if page.html is not None:
        click.echo(f"The page is written to {page.html}.")
