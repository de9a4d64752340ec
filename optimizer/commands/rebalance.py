"""The command `rebalance`, which makes a better plan of one that is in force by moving few experts."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import click

from optimizer.commands.declare import Argument, Option, command
from optimizer.commands.exchange import advised, placement_of
from optimizer.commands.failures import BadInput
from optimizer.commands.options import (
    NOT_NEGATIVE,
    POSITIVE,
    CostOptions,
    JsonOptions,
    ModelOptions,
    PageOptions,
    ReplicaOptions,
    SeedOptions,
    ServerOptions,
)
from optimizer.commands.output import progress, say, show, show_json
from optimizer.commands.run_options import hardware_of
from optimizer.commands.search_options import SearchOptions, solve_options
from optimizer.commands.session import session
from optimizer.commands.trace_options import BatchOptions, TraceOptions, trace_input
from optimizer.errors import InputError

if TYPE_CHECKING:
    from optimizer.planning.plan_file import Plan
    from optimizer.planning.rebalancing.budgets import MoveLimits


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
class LimitOptions:
    """The options that say how much may be moved, and how much moves must win."""

    SECTION: ClassVar[str] = "Moves"
    most_moves: Annotated[
        int | None,
        Option(
            ("--max-moves",),
            "Expert weights that devices may load, all layers together. By default any number.",
            NOT_NEGATIVE,
            "N",
            essential=True,
        ),
    ] = None
    most_bytes: Annotated[
        float | None,
        Option(
            ("--max-bytes",), "The same in bytes of weights, such as 2e9.", click.FloatRange(min=0), "B", essential=True
        ),
    ] = None
    min_gain: Annotated[
        float | None,
        Option(
            ("--min-gain",),
            "Leave the plan as it is unless mean latency falls by this share, such as 0.02 for 2 %, and the interval "
            "of the gain is above 0.",
            click.FloatRange(min=0, max=1, max_open=True),
            "SHARE",
            essential=True,
        ),
    ] = None
    layers_each: Annotated[
        int,
        Option(
            ("--layers-per-chunk",),
            "Layers whose moves share rounds and that change together, as servers take them (layer_updates_per_iter).",
            POSITIVE,
            "N",
        ),
    ] = 1
    layer: Annotated[
        str,
        Option(("--layer",), "Layers of the plan to rebalance: 12, or 12,15, or 3-60, or all.", metavar="LAYERS"),
    ] = "all"

    def limits(self) -> "MoveLimits":
        """The limits as the program's own type. Raises InputError for both of the budgets."""
        from optimizer.planning.rebalancing.budgets import MoveLimits

        return MoveLimits(self.most_moves, self.most_bytes, self.min_gain, self.layers_each)


@dataclass(frozen=True)
class RebalanceSearch:
    """The options that say for which policy, how long and by which search placements are searched."""

    SECTION: ClassVar[str] = "Search"
    PARAMETER_TABLES: ClassVar[bool] = True
    routing: Annotated[
        str | None,
        Option(
            ("--routing",),
            "Policy that the plan is rebalanced for; by default the plan's own, or where --server does not run that "
            "one, the server's.",
            essential=True,
        ),
    ] = None
    time_limit: Annotated[
        float,
        Option(
            ("--time-limit",), "Seconds for the whole command, as of solve.", click.FloatRange(min=1), essential=True
        ),
    ] = 60.0
    iterations: Annotated[
        int | None, Option(("--iterations",), "Moves that each search may evaluate, as of solve.", NOT_NEGATIVE, "N")
    ] = None
    search: Annotated[
        Literal["auto", "descent", "tabu", "annealing", "lns"],
        Option(("--search",), "Search for a plan without a limit, as of solve."),
    ] = "auto"
    jobs: Annotated[int, Option(("--jobs",), "Chains of annealing, each in a thread.", POSITIVE)] = 2

    def as_of_solve(self, policy: str) -> SearchOptions:
        """The same as options of `solve`, for one policy."""
        return SearchOptions(policy, self.time_limit, self.iterations, self.search, jobs=self.jobs)


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
    search: RebalanceSearch,
    server: ServerOptions,
    model: ModelOptions,
    cost: CostOptions,
    replicas: ReplicaOptions,
    seed: SeedOptions,
    output: RebalancedOutput,
    page: PageOptions,
    figures: JsonOptions,
) -> None:
    """Find the best plan that devices reach from CURRENT by loading few experts, and the moves to it.

    CURRENT is a plan, or any server's placement file. A plan without a limit is made first, and its devices are
    exchanged so that most experts stay. Parts of it, and searches that never leave the budget, are compared on
    selection batches; gains are of test batches. Moves come in rounds, in each of which a device sends and receives at
    most one expert. A move is an expert that a device did not hold before: vLLM counts these, and so does SGLang here,
    as experts that stay on a device keep their slot.
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
    policy = policy_of(plan, search.routing, server)
    cost = CostOptions(cost.unit or plan.unit, cost.moe_op, cost.dispatch_model, cost.price)
    options = solve_options(search.as_of_solve(policy), seed, cost, replicas.constraints(), server)
    given, layers = trace_input(traces, batches), layer_ids(limits.layer)
    with progress() as tell:
        costs = hardware_of(plan, cost).cost
        options = replace(options, time_limit=session().left(options.time_limit))
        found = run(plan, given, wanted, layers, options, costs, tell, session().cancel)
    write_plan(output.output, found.plan)
    placements = [part.placement for part in found.plan.layers.values()]
    say([*notes, *found.notes, *server.to_server().warnings(found.plan.policy, plan.model, placements)])
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


def policy_of(plan: "Plan", routing: str | None, server: ServerOptions) -> str:
    """The policy that the plan is rebalanced for. Raises InputError for one that the server does not run, and for
    several."""
    from optimizer.commands.arguments import policy_names

    on = server.to_server()
    if routing is None:
        return plan.policy if plan.policy in on.policies else on.policies[0]
    (policy,) = policy_names(routing, 1)
    on.check([policy])
    return policy
