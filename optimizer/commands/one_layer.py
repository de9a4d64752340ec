"""`solve` of a single layer."""

from typing import Any

from optimizer.commands.errors import BadInput
from optimizer.commands.found import Found
from optimizer.commands.given import cost_of, invocation, mesh_of, model_choice, named_of, progress, solve_options

LAST = "The last row is the plan, written"


def solve_one(layer: int, given: dict[str, Any]) -> Found:
    from dataclasses import replace

    from optimizer.commands.report import expected as expected_report
    from optimizer.commands.report import solution as solution_report
    from optimizer.planning.plan_expected_load import plan_counts
    from optimizer.planning.plan_file import read_plan
    from optimizer.planning.plan_layer import plan_tokens
    from optimizer.traces.source import Source, open_counts, open_source, synthesised

    mesh, cost = mesh_of(given), cost_of(given["hardware"], given)
    start = None if given["start"] is None else read_plan(given["start"])
    options, named, choice = solve_options(given), named_of(given), model_choice(given)
    started, cancel = invocation()
    effort = options.effort(cancel, started)
    with progress() as notify:
        reading = lambda share: notify("reading traces", share)  # noqa: E731
        counted = open_counts(named, choice)
        if given["synthesise"] and not counted:
            raise BadInput("--synthesise makes tokens from counts; give a file of counts, or leave the option out")
        if counted and not given["synthesise"]:
            expected = plan_counts(counted, layer, mesh, cost, options, effort, notify, start)
            figures = {"layer": layer, **expected_report.as_json(expected.solution)}
            show = lambda: expected_report.show(expected.solution, layer)  # noqa: E731
            return Found(expected.plan, expected.notes, figures, show, LAST)
        if counted:
            source: Source = synthesised(*counted, layer, named, mesh)
        else:
            source = open_source(
                replace(named, extras=options.max_rerouted is not None), [layer], choice, mesh, reading
            )
        result = plan_tokens(source, layer, mesh, cost, options, effort, notify, start)
    figures = {"layer": layer, **solution_report.as_json(result.solution)}
    return Found(result.plan, result.notes, figures, lambda: solution_report.show(result.solution, layer), LAST)
