"""`solve` of a single layer."""

from typing import Any

from optimizer.commands.errors import BadInput
from optimizer.commands.found import Found
from optimizer.commands.given import cost_of, deadline_of, mesh_of, model_choice, named_of, progress

LAST = "The last row is the plan, written"


def solve_one(layer: int, given: dict[str, Any]) -> Found:
    from dataclasses import replace

    from optimizer.commands.arguments import routings_named
    from optimizer.commands.report import expected as expected_report
    from optimizer.commands.report import solution as solution_report
    from optimizer.domain.problem import Constraints
    from optimizer.planning.candidates import Effort
    from optimizer.planning.plan_expected_load import plan_counts
    from optimizer.planning.plan_file import read_plan
    from optimizer.planning.plan_layer import plan_tokens
    from optimizer.simulation.conditions import Conditions
    from optimizer.traces.source import Source, open_counts, open_source, synthesised

    mesh, cost = mesh_of(given), cost_of(given["hardware"], given)
    start = None if given["start"] is None else read_plan(given["start"])
    conditions, routings = Conditions(unit=given["unit"]), routings_named(given["routing"])
    constraints = Constraints(given["shared_replicas"], given["extra_replicas"], given["max_row_traffic"])
    effort = Effort(deadline_of(given), given["seed"], given["iterations"], given["search"], given["jobs"])
    named, choice, most = named_of(given), model_choice(given), given["max_rerouted"]
    with progress() as notify:
        reading = lambda share: notify("reading traces", share)  # noqa: E731
        counted = open_counts(named, choice)
        if given["synthesise"] and not counted:
            raise BadInput("--synthesise makes tokens from counts; give a file of counts, or leave the option out")
        if counted and not given["synthesise"]:
            plan, expected, notes = plan_counts(*counted, layer, mesh, cost, constraints, effort, notify, start)
            figures = {"layer": layer, **expected_report.as_json(expected)}
            return Found(plan, notes, figures, lambda: expected_report.show(expected, layer), LAST)
        if counted:
            source: Source = synthesised(*counted, layer, named, mesh)
        else:
            source = open_source(replace(named, extras=most is not None), [layer], choice, mesh, reading)
        plan, solution, notes = plan_tokens(
            source, layer, mesh, cost, constraints, effort, notify, conditions, routings, start, most
        )
    figures = {"layer": layer, **solution_report.as_json(solution)}
    return Found(plan, notes, figures, lambda: solution_report.show(solution, layer), LAST)
