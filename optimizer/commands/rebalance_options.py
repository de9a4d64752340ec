"""The options that `rebalance` and `watch` share: the budget of moves, and for what and how placements are searched."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import click

from optimizer.commands.declare import Option
from optimizer.commands.options import NOT_NEGATIVE, POSITIVE, CostOptions, ReplicaOptions, SeedOptions, ServerOptions
from optimizer.commands.run_options import hardware_of
from optimizer.commands.search_options import SearchOptions, solve_options

if TYPE_CHECKING:
    from optimizer.domain.cost import Cost
    from optimizer.planning.options import SolveOptions
    from optimizer.planning.plan_file import Plan
    from optimizer.planning.rebalancing.budgets import MoveLimits


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
    jobs: Annotated[int, Option(("--jobs",), "Threads that search.", POSITIVE)] = 2

    def as_of_solve(self, policy: str) -> SearchOptions:
        """The same as options of `solve`, for one policy."""
        return SearchOptions(policy, self.time_limit, self.iterations, self.search, jobs=self.jobs)


@dataclass(frozen=True)
class RebalanceSettings:
    """A bundle of all options that say for what and how placements are searched."""

    search: RebalanceSearch
    server: ServerOptions
    cost: CostOptions
    replicas: ReplicaOptions
    seed: SeedOptions

    def options(self, plan: "Plan") -> "SolveOptions":
        """What a search may do, for the one policy that the plan is rebalanced for. Raises InputError for options that
        do not fit the plan."""
        search, replicas = self.search.as_of_solve(self.policy(plan)), self.replicas.constraints()
        return solve_options(search, self.seed, self._cost(plan), replicas, self.server)

    def costs(self, plan: "Plan") -> "Cost":
        """The costs of the plan's hardware, as they were asked for."""
        return hardware_of(plan, self._cost(plan)).cost

    def _cost(self, plan: "Plan") -> CostOptions:
        return replace(self.cost, unit=self.cost.unit or plan.unit)

    def policy(self, plan: "Plan") -> str:
        """The policy that the plan is rebalanced for. Raises InputError for one that the server does not run, and for
        several."""
        from optimizer.commands.arguments import policy_names

        on = self.server.to_server()
        if self.search.routing is None:
            return plan.policy if plan.policy in on.policies else on.policies[0]
        (policy,) = policy_names(self.search.routing, 1)
        on.check([policy])
        return policy

    def warnings(self, plan: "Plan") -> list[str]:
        """What the server will do with a plan, in a sentence each."""
        placements = [part.placement for part in plan.layers.values()]
        return [*self.server.to_server().warnings(plan.policy, plan.model, placements)]
