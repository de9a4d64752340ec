"""What the shared options give, as the program's own types; progress and notes, which go to stderr."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from optimizer.interrupts import Cancel

if TYPE_CHECKING:
    from optimizer.domain.cost import Cost
    from optimizer.domain.mesh import Mesh
    from optimizer.planning.options import SolveOptions
    from optimizer.planning.plan_file import Plan
    from optimizer.search.stop import Deadline
    from optimizer.simulation.conditions import Conditions
    from optimizer.simulation.report import SimulationReport
    from optimizer.traces.infer import ModelChoice
    from optimizer.traces.source import TraceInput


def model_choice(given: dict[str, Any]) -> "ModelChoice":
    from optimizer.traces.infer import ModelChoice

    return ModelChoice(given["model_name"], given["routed_experts"], given["shared_experts"], given["top_k"])


def mesh_of(given: dict[str, Any]) -> "Mesh":
    from optimizer.domain.mesh import Mesh
    from optimizer.domain.presets import load_hardware

    own = load_hardware(given["hardware"]).mesh
    slots = own.slots_per_device if given["slots"] is None else given["slots"]
    return Mesh.parse(given["mesh_text"] or f"{own.rows}x{own.cols}", slots)


def cost_of(hardware: str, given: dict[str, Any]) -> "Cost":
    from optimizer.domain.cost import Cost
    from optimizer.domain.presets import load_hardware

    return Cost(hardware, load_hardware(hardware), given["moe_op"], given["dispatch_model"])


def named_of(given: dict[str, Any]) -> "TraceInput":
    from optimizer.commands.arguments import format_named, row_users
    from optimizer.errors import InputError
    from optimizer.traces.datasets import phases_of
    from optimizer.traces.source import TraceInput

    if given["traces"] and given["batches"]:
        raise InputError("TRACES and --batches exclude each other; give one of them")
    keys = ("traces", "cache", "batches", "first_moe_layer", "batch_tokens", "phase", "seed", "strict")
    known = {key: given[key] for key in keys if given.get(key) is not None}
    if len(phases_of(given.get("phase"))) > 1:
        raise InputError(f"--phase {given['phase']} makes several data sets, for which solve alone plans; name one")
    users = row_users(given.get("row_users"))
    return TraceInput(**known, row_users=users, format=format_named(given["format_name"]))


class Invocation(NamedTuple):
    """A run of the command line: when it started, a reading of time.monotonic, and the token that Ctrl-C asks."""

    started: float
    cancel: Cancel


def solve_options(given: dict[str, Any]) -> "SolveOptions":
    from optimizer.commands.arguments import routings_named
    from optimizer.domain.problem import Constraints
    from optimizer.planning.options import SolveOptions

    return SolveOptions(
        given["time_limit"],
        given["seed"],
        given["iterations"],
        given["jobs"],
        given["search"],
        routings_named(given["routing"]),
        given["unit"],
        Constraints(given["shared_replicas"], given["extra_replicas"], given["max_row_traffic"]),
        given["max_rerouted"],
    )


def deadline_of(given: dict[str, Any]) -> "Deadline":
    """The time limit counts from the start of the command, imports and compilation included."""
    from optimizer.search.stop import Deadline

    return Deadline(given["time_limit"], *invocation())


def invocation() -> Invocation:
    found: Invocation = click.get_current_context().obj
    return found


def conditions_of(given: dict[str, Any], plan: "Plan") -> "Conditions":
    from optimizer.commands.arguments import devices, factors
    from optimizer.simulation.conditions import Conditions

    unit, timing, drop = given["unit"] or plan.unit, given["timing"], given["drop"]
    return Conditions(unit=unit, timing=timing, drop=drop, slow=factors(given["slow"]), dead=devices(given["dead"]))


def judged(plan: "Plan", given: dict[str, Any], trials: "list[Conditions]") -> "dict[int, list[SimulationReport]]":
    from optimizer.planning.judge_plan import judge

    with progress() as notify:
        cost = cost_of(plan.hardware, given)
        reports, notes = judge(plan, named_of(given), cost, trials, given["batch_count"], notify)
    say(notes)
    return reports


@contextmanager
def progress() -> Iterator[Callable[[str, float], None]]:
    """Report (stage, share done) on stderr; silent when that is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    stderr = Console(stderr=True)
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda stage, share: bar.update(task, description=stage, completed=share)


def say(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        click.echo(f"Note: {sentence}", err=True)
