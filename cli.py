"""The command line: parse, call, print."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from optimizer.inputs import Named
    from optimizer.mesh import Mesh
    from optimizer.traces.infer import ModelChoice

STARTED = time.monotonic()  # the time limit counts from here, imports and compilation included

Command = TypeVar("Command", bound=Callable[..., Any])


class SharedReplicas(click.ParamType[int | str]):
    """A number of replicas, or auto."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """An integer, or the word."""
        if str(value) == "auto":
            return "auto"
        if not str(value).isdecimal():
            self.fail(f"'{value}' is neither a number nor auto", param, ctx)
        return int(value)


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, shown in the order given."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


trace_options = _options(
    click.argument("traces", nargs=-1),
    click.option("--batches", type=click.Path(path_type=Path), help="An .npz with experts [batch, token, top_k] "
                 "and, if wanted, source_row [batch, token], instead of TRACES."),
    click.option("--first-moe-layer", type=click.IntRange(min=0), help="Model layer of the first entry of the traces' "
                 "layer axis, where neither zero layers nor the model tell."),
    click.option("--batch-tokens", type=click.IntRange(min=1), help="Users in a decode step; by default 512, or the "
                 "plan's."),
    click.option("--strict", is_flag=True, help="Refuse bad requests instead of skipping them."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables."),
)  # fmt: skip

problem_options = _options(
    click.option("--model", "model_name", help="A model preset; by default what the traces fit, or deepseek-v3."),
    click.option("--mesh", "mesh_text", metavar="RxC", help="Rows x columns of devices; by default the hardware's."),
    click.option("--slots", type=int, help="Expert slots per device; by default the hardware's."),
    click.option("--routed-experts", type=int, help="By default the model's, or as many as the traces show."),
    click.option("--shared-experts", type=int, help="By default the model's, or 0 for an unknown model."),
    click.option("--top-k", type=int, help="Routed experts per token; by default the model's or the traces'."),
    click.option("--hardware", default="tt-wormhole-quad-galaxy", show_default=True,
                 help="A hardware preset, or a TOML file like one."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
                 help="Seed of the built-in trace, the split of requests, the batches and the search."),
)  # fmt: skip


class Moeplan(click.Group):
    """Turns what went wrong into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """2 for what the user gave, 1 for what the machine could not do."""
        from optimizer.errors import InputError

        try:
            return super().invoke(ctx)
        except InputError as error:
            raise BadInput(" ".join(str(error).split())) from None
        except (OSError, MemoryError) as error:
            raise FailedRun(f"the run failed: {error or type(error).__name__}") from None


class BadInput(click.ClickException):
    """What the user gave cannot be used."""

    exit_code = 2


class FailedRun(click.ClickException):
    """The machine could not do what was asked."""

    exit_code = 1


@click.group(cls=Moeplan, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="moeplan")
def main() -> None:
    """Place the experts of a Mixture-of-Experts model on a device mesh, from recorded routing traces.

    TRACES are .npz request files, folders of them (searched recursively) or globs. Without TRACES a small built-in
    trace is generated. Exit code 0 is fine, 1 a failed run, 2 bad usage or bad input.
    """


def _model_choice(given: dict[str, Any]) -> "ModelChoice":
    from optimizer.traces.infer import ModelChoice

    return ModelChoice(given["model_name"], given["routed_experts"], given["shared_experts"], given["top_k"])


def _mesh(given: dict[str, Any]) -> "Mesh":
    from optimizer.mesh import Mesh
    from optimizer.presets import load_hardware

    own = load_hardware(given["hardware"]).mesh
    slots = own.slots_per_device if given["slots"] is None else given["slots"]
    return Mesh.parse(given["mesh_text"] or f"{own.rows}x{own.cols}", slots)


def _named(given: dict[str, Any]) -> "Named":
    from optimizer.errors import InputError
    from optimizer.inputs import Named

    if given["traces"] and given["batches"]:
        raise InputError("TRACES and --batches exclude each other; give one of them")
    keys = ("traces", "batches", "first_moe_layer", "batch_tokens", "seed", "strict")
    return Named(**{key: given[key] for key in keys if given.get(key) is not None})


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """Report (stage, share done) on stderr; silent when that is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    stderr = Console(stderr=True)
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda stage, share: bar.update(task, description=stage, completed=share)


def _say(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        click.echo(f"Note: {sentence}", err=True)


@main.command()
@trace_options
@problem_options
@click.option("--layer", type=click.IntRange(min=0), required=True, help="Model layer to plan.")
@click.option(
    "--shared-replicas",
    type=SharedReplicas(),
    help="Replicas of each shared expert, spread over the rows; "
    "auto treats it like a routed one. By default one per row.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    help="Seconds for the whole command; a limit under 5 s, or 15 s in the first run, which compiles, is overrun. "
    "What is found in a given time may differ from run to run.",
)
@click.option(
    "--iterations",
    type=click.IntRange(min=0),
    help="Moves that the search may evaluate. Where these end the "
    "search before the time limit does, the same seed gives the same plan.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default="plan.json",
    show_default=True,
    help="Where the plan is written.",
)
def solve(layer: int, shared_replicas: int | str | None, time_limit: float, iterations: int | None, output: Path,
          as_json: bool, **given: Any) -> None:  # fmt: skip
    """Plan one layer, and judge the plan on requests that it was not made from.

    Seeds, a CP-SAT formulation and descents plan for even routing on train batches; the candidate that is best on
    selection batches becomes the plan; all figures printed are of test batches. The three share no request.
    """
    from optimizer.cost import Cost
    from optimizer.files import check_writable
    from optimizer.inputs import open_source
    from optimizer.plan import write_plan
    from optimizer.presets import load_hardware
    from optimizer.problem import make_problem
    from optimizer.report.tables import bound_lines, console, solution_json, solution_table
    from optimizer.search.stop import Deadline
    from optimizer.solve import Effort, as_plan
    from optimizer.solve import solve as solve_layer

    check_writable(output, "--output")
    mesh = _mesh(given)
    cost = Cost(given["hardware"], load_hardware(given["hardware"]))
    effort = Effort(Deadline(time_limit, STARTED), given["seed"], iterations)
    with _progress() as notify:
        reading = lambda share: notify("reading traces", share)  # noqa: E731
        source = open_source(_named(given), [layer], _model_choice(given), mesh, reading)
        train, selection, test = source.sets(layer)
        problem = make_problem(source.model, mesh, cost, train, selection, shared_replicas)
        solution = solve_layer(problem, test, effort, notify)
    write_plan(output, as_plan(solution, problem, source, layer, given["seed"]))
    _say([source.origin, *source.notes])
    if as_json:
        click.echo(json.dumps({"layer": layer, "plan": str(output), **solution_json(solution)}, indent=1))
        return
    console().print(solution_table(solution, layer))
    for line in (*bound_lines(solution), f"The search row is the plan, written to {output}."):
        click.echo(line)


@main.command()
@click.argument("plan", type=click.Path(path_type=Path))
@trace_options
@click.option("--routing", help="Judge this policy (primary, even, least-loaded) instead of the plan's.")
def simulate(plan: Path, routing: str | None, as_json: bool, **given: Any) -> None:
    """Run the layers of PLAN through the token-dispatch simulator.

    All requests of TRACES count, unless the plan was made from these very traces: then its test requests alone do.
    """
    from optimizer.judge import judge
    from optimizer.plan import read_plan
    from optimizer.report.tables import console, simulation_table

    read = read_plan(plan)
    with _progress() as notify:
        reports, notes = judge(read, _named(given), given["batch_tokens"], routing, notify)
    _say(notes)
    if as_json:
        summaries = {str(layer): report.summary() for layer, report in reports.items()}
        click.echo(json.dumps({"layers": summaries}, indent=1))
        return
    for layer, report in reports.items():
        console().print(simulation_table(report, layer))


@main.command()
@trace_options
@problem_options
@click.option("--layer", type=click.IntRange(min=0), required=True, help="Model layer to look at.")
def stats(layer: int, as_json: bool, **given: Any) -> None:
    """Print how the load of a layer is spread over its experts, per batch."""
    from optimizer.inputs import open_source
    from optimizer.report.tables import console, imbalance_line, statistics_json, statistics_table
    from optimizer.statistics import sequential_imbalance, statistics

    mesh = _mesh(given)
    with _progress() as notify:
        reading = lambda share: notify("reading traces", share)  # noqa: E731
        source = open_source(_named(given), [layer], _model_choice(given), mesh, reading)
        found = statistics(source.everything(layer), source.model)
    imbalance = sequential_imbalance(found, source.model, mesh)
    _say([source.origin, *source.notes])
    if as_json:
        click.echo(json.dumps({"layer": layer, **statistics_json(found, imbalance, source.model)}, indent=1))
        return
    console().print(statistics_table(found, source.model, layer))
    click.echo(imbalance_line(imbalance, source.model, mesh))


@main.command()
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a sentence.")
def validate(plan: Path, as_json: bool) -> None:
    """Check PLAN: format, mesh, and every placement. Exit code 2, and the first fault, if it may not be deployed."""
    from optimizer.plan import read_plan

    read = read_plan(plan)
    layers = {str(layer): {"replicas": int((part.placement.slots >= 0).sum())} for layer, part in read.layers.items()}
    if as_json:
        click.echo(json.dumps({"valid": True, "model": read.model.name, "layers": layers}, indent=1))
        return
    mesh = read.mesh
    click.echo(
        f"{plan} is valid: {len(layers)} layer(s) of {read.model.name}, {read.model.experts} experts in "
        f"{mesh.slots} slots on {mesh.rows}x{mesh.cols} devices, routing {read.policy}."
    )


if __name__ == "__main__":
    main()
