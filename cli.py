"""The command line: parse, call, print."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from optimizer.options import (
    batch_options,
    cost_options,
    problem_options,
    run_options,
    solve_options,
    synth_options,
    trace_options,
)

if TYPE_CHECKING:
    from optimizer.conditions import Conditions
    from optimizer.cost import Cost
    from optimizer.inputs import Named, Source
    from optimizer.mesh import Mesh
    from optimizer.plan import Plan
    from optimizer.simulated import SimulationReport
    from optimizer.traces.infer import ModelChoice

STARTED = time.monotonic()  # the time limit counts from here, imports and compilation included


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

    TRACES are files, folders (searched recursively) or globs of .npz requests, of servers' responses and routing logs,
    or of counts; a file's content tells its format. Without TRACES a small built-in trace is generated. Exit code 0 is
    fine, 1 a failed run, 2 bad usage or bad input.
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


def _cost(hardware: str, given: dict[str, Any]) -> "Cost":
    from optimizer.cost import Cost
    from optimizer.presets import load_hardware

    return Cost(hardware, load_hardware(hardware), given["moe_op"], given["dispatch_model"])


def _named(given: dict[str, Any]) -> "Named":
    from optimizer.arguments import format_named, row_users
    from optimizer.errors import InputError
    from optimizer.inputs import Named

    if given["traces"] and given["batches"]:
        raise InputError("TRACES and --batches exclude each other; give one of them")
    keys = ("traces", "cache", "batches", "first_moe_layer", "batch_tokens", "phase", "seed", "strict")
    known = {key: given[key] for key in keys if given.get(key) is not None}
    users = row_users(given.get("row_users"))
    return Named(**known, row_users=users, format=format_named(given["format_name"]))


def _conditions(given: dict[str, Any], plan: "Plan") -> "Conditions":
    from optimizer.arguments import devices, factors
    from optimizer.conditions import Conditions

    unit, timing, drop = given["unit"] or plan.unit, given["timing"], given["drop"]
    return Conditions(unit=unit, timing=timing, drop=drop, slow=factors(given["slow"]), dead=devices(given["dead"]))


def _judged(plan: "Plan", given: dict[str, Any], trials: "list[Conditions]") -> "dict[int, list[SimulationReport]]":
    from optimizer.judge import judge

    with _progress() as notify:
        cost = _cost(plan.hardware, given)
        reports, notes = judge(plan, _named(given), cost, trials, given["batch_count"], notify)
    _say(notes)
    return reports


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
@batch_options
@problem_options
@cost_options
@solve_options
def solve(layer: int, routing: str, shared_replicas: int | str | None, synthesise: bool, time_limit: float,
          iterations: int | None, output: Path, as_json: bool, **given: Any) -> None:  # fmt: skip
    """Plan one layer, and judge the plan on requests that it was not made from.

    Seeds, a CP-SAT formulation and descents plan for even routing on train batches; the candidate that is best on
    selection batches, routed by --routing, becomes the plan; all figures printed are of test batches. The three share
    no request.
    Where TRACES are counts without tokens, the expected load is planned and judged instead.
    """
    from optimizer.arguments import policy_names
    from optimizer.candidates import Effort
    from optimizer.conditions import Conditions
    from optimizer.expected import plan_counts
    from optimizer.files import check_writable
    from optimizer.inputs import open_counts, open_source, synthesised
    from optimizer.plan import write_plan
    from optimizer.report import expected as expected_report
    from optimizer.report import solution as solution_report
    from optimizer.search.stop import Deadline
    from optimizer.solve import plan_tokens

    check_writable(output, "--output")
    mesh = _mesh(given)
    cost = _cost(given["hardware"], given)
    conditions = Conditions(policy_names(routing, most=1)[0], given["unit"])
    effort = Effort(Deadline(time_limit, STARTED), given["seed"], iterations)
    named, choice = _named(given), _model_choice(given)
    with _progress() as notify:
        reading = lambda share: notify("reading traces", share)  # noqa: E731
        counted = open_counts(named, choice)
        if synthesise and not counted:
            raise BadInput("--synthesise makes tokens from counts; give a file of counts, or leave the option out")
        if counted and not synthesise:
            plan, expected, notes = plan_counts(*counted, layer, mesh, cost, shared_replicas, effort, notify)
            found: dict[str, Any] = expected_report.as_json(expected)
            show: Callable[[], None] = lambda: expected_report.show(expected, layer)  # noqa: E731
        else:
            if counted:
                source: Source = synthesised(*counted, layer, named, mesh)
            else:
                source = open_source(named, [layer], choice, mesh, reading)
            plan, solution, notes = plan_tokens(source, layer, mesh, cost, shared_replicas, effort, notify, conditions)
            found = solution_report.as_json(solution)
            show = lambda: solution_report.show(solution, layer)  # noqa: E731
    write_plan(output, plan)
    _say(notes)
    if as_json:
        click.echo(json.dumps({"layer": layer, "plan": str(output), **found}, indent=1))
        return
    show()
    click.echo(f"The search row is the plan, written to {output}.")


@main.command()
@click.argument("plan", type=click.Path(path_type=Path))
@trace_options
@batch_options
@cost_options
@run_options
@click.option("--routing", help="Judge this policy, several (comma-separated) or all, instead of the plan's.")
@click.option(
    "--capacity-factor",
    type=click.FloatRange(min=0, min_open=True),
    help="Let a replica take this many times its even part of the pairs, and reroute what is beyond.",
)
def simulate(plan: Path, routing: str | None, capacity_factor: float | None, as_json: bool, **given: Any) -> None:
    """Run the layers of PLAN through the token-dispatch simulator.

    All requests of TRACES count, unless the plan was made from these very traces: then its test requests alone do.
    Policies: primary, even (round robin), hash, nearest (fewest hops), capacity-fill, least-loaded, weights (learned
    shares), optimal (least peak, then fewest hops).
    """
    from dataclasses import replace

    from optimizer.arguments import policy_names
    from optimizer.plan import read_plan
    from optimizer.report import simulation as report

    if given["drop"] and capacity_factor is None:
        raise BadInput("--drop goes with --capacity-factor: without a capacity no pair is in want of room")
    read = read_plan(plan)
    conditions = replace(_conditions(given, read), capacity_factor=capacity_factor)
    reports = _judged(read, given, [replace(conditions, routing=name) for name in policy_names(routing or read.policy)])
    if as_json:
        found = {str(layer): report.as_json(of_layer) for layer, of_layer in reports.items()}
        click.echo(json.dumps({"layers": found}, indent=1))
        return
    for layer, of_layer in reports.items():
        report.show(of_layer, layer)


@main.command()
@click.argument("plan", type=click.Path(path_type=Path))
@trace_options
@batch_options
@cost_options
@run_options
@click.option("--routing", help="Policy whose choices are limited, instead of the plan's.")
@click.option(
    "--capacity-factor",
    "factors",
    default="1.0:3.0:0.25",
    show_default=True,
    metavar="FROM:TO:STEP",
    help="Capacity factors to try.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    default="sweep.html",
    show_default=True,
    help="Where the curve of latency against rerouting is drawn, as a page for a browser.",
)
def sweep(plan: Path, routing: str | None, factors: str, plot: Path, as_json: bool, **given: Any) -> None:
    """Try capacity factors on PLAN: what latency is won by rerouting how many pairs to other experts.

    A replica takes at most FACTOR * tokens * top_k / slots pairs. Beyond that a pair goes to another replica of its
    expert, else to the token's next expert: the recorded one where TRACES have candidate_experts, else an estimate.
    """
    from dataclasses import replace

    from optimizer.arguments import policy_names, spaced
    from optimizer.files import check_writable, write_whole
    from optimizer.plan import read_plan
    from optimizer.report import simulation as report
    from optimizer.report.charts import sweep_page

    check_writable(plot, "--plot")
    read = read_plan(plan)
    conditions = replace(_conditions(given, read), routing=policy_names(routing or read.policy, most=1)[0])
    tried = spaced("--capacity-factor", factors)
    reports = _judged(read, given, [replace(conditions, capacity_factor=factor) for factor in tried])
    write_whole(plot, sweep_page(reports))
    if as_json:
        found = {str(layer): [each.summary() for each in of_layer] for layer, of_layer in reports.items()}
        click.echo(json.dumps({"plot": str(plot), "layers": found}, indent=1))
        return
    for layer, of_layer in reports.items():
        report.show_sweep(of_layer, layer)
    click.echo(f"The curve is drawn in {plot}.")


@main.command()
@trace_options
@problem_options
@click.option("--layer", "layers", required=True, help="Model layers to look at: 12, or 12,15, or 3-60, or all.")
@click.option(
    "--csv",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write all figures as CSV files into this folder, too.",
)
def stats(layers: str, folder: Path | None, as_json: bool, **given: Any) -> None:  # fmt: skip
    """Print what the traces say: hot experts, bursts, co-activation, drift. One table per question."""
    from optimizer.arguments import layer_ids
    from optimizer.look import look
    from optimizer.report.statistics import as_json as statistics_json
    from optimizer.report.statistics import tables, write_csv
    from optimizer.report.tables import show_table

    with _progress() as notify:
        reading = lambda share: notify("reading traces", share)  # noqa: E731
        reports, notes = look(_named(given), _model_choice(given), layer_ids(layers), _mesh(given), reading)
    _say(notes)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        _say(f"written: {path}" for path in write_csv(folder, reports))
    if as_json:
        click.echo(json.dumps(statistics_json(reports), indent=1))
        return
    for table in tables(reports):
        show_table(table)


@main.command()
@click.argument("sources", nargs=-1, required=True, metavar="SRC...")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--format", "format_name", metavar="NAME", help="The sources' format, not what their content shows.")
@click.option("--model", "model_name", help="A model preset; SGLang's flat arrays need one, or --top-k.")
@click.option("--top-k", type=click.IntRange(min=1), help="Routed experts per token, for an unknown model.")
@click.option("--strict", is_flag=True, help="Refuse bad requests instead of skipping them.")
def convert(sources: tuple[str, ...], out: Path, format_name: str | None, model_name: str | None, top_k: int | None,
            strict: bool) -> None:  # fmt: skip
    """Write the requests of SRC (servers' responses, arrays, routing lines) as native .npz files into folder OUT."""
    from optimizer.arguments import format_named
    from optimizer.convert import convert as convert_files
    from optimizer.traces.corpus import find_files
    from optimizer.traces.infer import ModelChoice

    model = ModelChoice(name=model_name, top_k=top_k).for_reading()
    with _progress() as notify:
        files = find_files(sources, format_named(format_name))
        written, notes = convert_files(files, out, model, strict, lambda share: notify("converting", share))
    _say(notes)
    click.echo(f"{written} requests written to {out}.")


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@synth_options
def synth(out: Path, layers: str, datasets: str, counts: str | None, **given: Any) -> None:  # fmt: skip
    """Generate requests with DeepSeek-V3's statistics, as native .npz files in folder OUT."""
    from optimizer.arguments import layer_ids
    from optimizer.generate import generate_corpus
    from optimizer.traces.infer import ModelChoice
    from optimizer.traces.synthesise import Corpus

    names = tuple(name.strip() for name in datasets.split(","))
    sizes = {key: given[key] for key in ("requests", "prompt_tokens", "output_tokens", "seed", "candidates", "weights")}
    choice = ModelChoice(given["model_name"], given["routed_experts"], None, given["top_k"])
    with _progress() as notify:
        recipe = Corpus(datasets=names, **sizes)
        generate_corpus(out, recipe, choice, layer_ids(layers), counts, lambda share: notify("generating", share))
    click.echo(f"{len(names) * recipe.requests} requests written to {out}.")


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
