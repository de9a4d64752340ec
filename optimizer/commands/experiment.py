"""`experiment`: each step of optimisation on its own."""

import json
from pathlib import Path
from typing import Any

import click

from optimizer.commands.given import cost_of, mesh_of, model_choice, named_of, progress, say
from optimizer.commands.options import batch_options, problem_options, trace_options


@click.command()
@trace_options
@batch_options
@problem_options
@click.option("--layer", "layers", default="12", show_default=True, help="Model layers: 12, or 12,15, or 3-60, or all.")
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0.1),
    default=20.0,
    show_default=True,
    help="Seconds for each search, of which there are two for a layer; judging takes about as long.",
)
@click.option("--iterations", type=click.IntRange(min=0), help="Moves that a search may evaluate, as in solve.")
@click.option(
    "--csv",
    type=click.Path(path_type=Path),
    default="experiment.csv",
    show_default=True,
    help="One row per run. What it has already is not run again.",
)
def experiment(layers: str, time_limit: float, iterations: int | None, csv: Path, as_json: bool, **given: Any) -> None:
    """Show what each step of optimisation wins, on the same test batches.

    TRACES may be data sets, each as NAME=PATH. A layer's routed experts are placed in as few slots as hold them, and
    all its experts, with replicas, in all slots: in order, by pairing, greedily, by the formulation and by search.
    Every placement is judged under even, least-loaded and optimal routing, without and with capacities. The ladder
    leads from the functional MoE op to the bound; what stands on it was chosen on selection batches.
    """
    from dataclasses import replace

    from optimizer.commands.arguments import layer_ids
    from optimizer.commands.report import experiment as report
    from optimizer.experiments.optimisation_steps.run_experiment import StepsRequest
    from optimizer.experiments.optimisation_steps.run_experiment import experiment as run
    from optimizer.experiments.optimisation_steps.runs import Terms
    from optimizer.experiments.optimisation_steps.step_row import StepJournal
    from optimizer.files import check_writable
    from optimizer.traces.datasets import datasets_of

    check_writable(csv, "csv")
    mesh, cost = mesh_of(given), cost_of(given["hardware"], given | {"moe_op": "optimized", "dispatch_model": None})
    terms = Terms(time_limit, iterations, given["seed"])
    named = named_of(given)
    sets = datasets_of(given["traces"]) or {"traces" if given["traces"] else "built-in": given["traces"]}
    datasets = {name: replace(named, traces=paths) for name, paths in sets.items()}
    asked = StepsRequest(layer_ids(layers), model_choice(given), mesh, cost, terms)
    journal = StepJournal(csv)
    with progress() as notify:
        rows, notes = run(datasets, asked, journal, notify)
    say(notes)
    if as_json:
        click.echo(json.dumps(report.as_json(rows) | {"csv": str(csv)}, indent=1))
        return
    report.show(rows)
    click.echo(f"{len(rows)} runs; each is a row of {csv}.")
