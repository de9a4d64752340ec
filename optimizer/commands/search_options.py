"""The options of a search, and the tables of search parameters in a `--config` file, as `SolveOptions`."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import click

from optimizer.commands.config import TABLES, unknown
from optimizer.commands.declare import Option
from optimizer.commands.failures import BadInput
from optimizer.commands.options import NOT_NEGATIVE, POSITIVE, CostOptions, SeedOptions, ServerOptions

if TYPE_CHECKING:
    from optimizer.domain.problem import Constraints
    from optimizer.planning.options import SolveOptions


@dataclass(frozen=True)
class SearchOptions:
    """The options that say how long and by which search a layer is planned, and for which routing policies."""

    SECTION: ClassVar[str] = "Search"
    PARAMETER_TABLES: ClassVar[bool] = True
    routing: Annotated[
        str,
        Option(
            ("--routing",),
            "Policy that the plan is made for and shipped with, or several to take the fastest of (comma-separated); "
            "auto: those that --server runs, or even-source,near-source,nearest,hint-device,optimal for any. See "
            "simulate --help for all.",
            essential=True,
        ),
    ] = "auto"
    time_limit: Annotated[
        float,
        Option(
            ("--time-limit",),
            "Seconds for the whole command; a limit under 5 s, or 20 s in the first run, which compiles, is overrun. "
            "What is found in a given time may differ from run to run.",
            click.FloatRange(min=1),
            essential=True,
        ),
    ] = 60.0
    iterations: Annotated[
        int | None,
        Option(
            ("--iterations",),
            "Moves that the search of a layer may evaluate. Where these end the search before the time limit does, the "
            "same seed gives the same plan.",
            NOT_NEGATIVE,
            "N",
        ),
    ] = None
    search: Annotated[
        Literal["auto", "descent", "tabu", "annealing", "lns"],
        Option(
            ("--search",),
            "Descent and tabu search split loads evenly, annealing and large-neighbourhood search (lns) as is best for "
            "a batch; auto: descent, annealing.",
        ),
    ] = "auto"
    seeds: Annotated[
        str | None,
        Option(
            ("--seeds",),
            "Placements that searches begin from, made, shown and judged under every policy: sequential, random, "
            "pairing, greedy (always among them), risk, steps, flexibility; by tokens partition (few rows, needs the "
            "extra partition) and rows (row and column assignment by exact models, which take longest). By "
            "default all but rows, each under the policies that it suits.",
            metavar="NAME,...",
        ),
    ] = None
    jobs: Annotated[
        int,
        Option(
            ("--jobs",),
            "Layers that are planned at once, each in a process; of one layer, threads that search. With --iterations "
            "their number changes no plan.",
            POSITIVE,
        ),
    ] = 2


def solve_options(search: SearchOptions, seed: SeedOptions, cost: CostOptions, constraints: "Constraints",
                  server: ServerOptions, max_rerouted: float | None = None) -> "SolveOptions":  # fmt: skip
    """What was asked of planning, with the search parameters of a `--config` file. Raises BadInput and InputError for
    values that cannot be used, such as a routing policy that the server does not run.

    The time limit is as the user gave it: what has passed of it since the command started is not subtracted yet.
    """
    from optimizer.commands.arguments import routings_named, seeds_named
    from optimizer.planning.options import SolveOptions

    return SolveOptions(
        time_limit=search.time_limit,
        seed=seed.seed,
        iterations=search.iterations,
        jobs=search.jobs,
        search=search.search,
        seeds=seeds_named(search.seeds),
        routings=routings_named(search.routing, server.to_server()),
        unit=cost.unit,
        constraints=constraints,
        max_rerouted=max_rerouted,
        **_parameters(),
    )


def parameter_tables() -> dict[str, Any]:
    """The dataclasses of search parameters by the names of their tables in a `--config` file, with their default
    values."""
    from optimizer.planning.options import SEARCH_PARAMETERS, SolveOptions

    usual = SolveOptions()
    return {name: getattr(usual, name) for name in SEARCH_PARAMETERS}


def _parameters() -> dict[str, Any]:
    """The checked search parameters of the tables in the `--config` file; tables that the file lacks are left out and
    keep their defaults. Raises BadInput for an unknown table."""
    given: dict[str, dict[str, Any]] = click.get_current_context().meta.get(TABLES, {})
    if not given:
        return {}
    known = parameter_tables()
    strange = [name for name in given if name not in known]
    if strange:
        raise BadInput(f"--config: {unknown(strange[0], known, 'a search; tables')}")
    return {name: _checked(name, known[name], table) for name, table in given.items()}


def _checked(name: str, usual: Any, table: dict[str, Any]) -> Any:
    """The parameters of one table as a dataclass like `usual`, which gives the values that the table lacks. Raises
    BadInput for a key that is no field and for a value of another type than its field."""
    from pydantic import TypeAdapter, ValidationError

    kind, allowed = type(usual), [field.name for field in fields(usual)]
    for key in table:
        if key not in allowed:
            raise BadInput(f"--config: [{name}] {unknown(key, allowed, 'this table')}")
    values = {field: getattr(usual, field) for field in allowed} | table
    try:
        return TypeAdapter(kind).validate_python(values, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or ", ".join(table)
        raise BadInput(f"--config: [{name}] {where}: {first['msg'].removeprefix('Value error, ')}") from None
