"""Published planners beside one another, without plans of ours, as markdown tables.

Usage: python benchmarks/rivals.py [--sizes 512,2048] [--seed 0] [--planners "NAME;NAME"] [--layers 1,2,3] [TRACES]

Without TRACES the case is layer 12 of the built-in trace, as for quality.py, which has TRACES too. Each planner's
placement is judged on the test batches under the first routing that it was published with (`optimal` counts tokens
there, as LPLB does) and under `optimal` in tiles; every latency holds the price of its routing. The tables are latency
and imbalance, mean / p99, and the seconds that planning took once all was compiled.

With --layers extra replicas are shared out over these layers of the traces instead: equally, by CRAFT, and by the exact
knapsack of `formulations/choice/slot_budget.py` on the same estimates. All layers are placed by EPLB and judged under
`even-source` on 256 test batches; figures are means over layers.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from quality import MESHES, opened
from speed import HARDWARE, LAYER

from formulations.choice.slot_budget import share_budget
from formulations.kit.arrays import Floats
from optimizer.domain.cost import Cost
from optimizer.domain.presets import load_hardware
from optimizer.domain.problem import make_problem
from optimizer.experiments.compare_rivals import judged, timed
from optimizer.experiments.rivals.craft import balances, craft
from optimizer.experiments.rivals.eplb import eplb
from optimizer.experiments.rivals.planners import planners
from optimizer.simulation.conditions import Conditions
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import TraceInput, open_source

TABLES = (
    "latency, us, own routing",
    "imbalance, own routing",
    "latency, us, `optimal` in tiles",
    "imbalance, `optimal` in tokens",
    "seconds",
)
Cells = dict[str, dict[str, str]]
"""A cell by table and planner."""


def spread(figure: Floats) -> str:
    """The mean and the 99th percentile, as text."""
    digits = ",.1f" if figure.mean() > 10 else ".3f"
    return f"{figure.mean():{digits}} / {np.percentile(figure, 99):{digits}}"


def judge(trace: str | None, tokens: int, seed: int, wanted: list[str]) -> Cells:
    """The cells of one case."""
    source, mesh = opened(trace, tokens, seed)
    sets, cost = source.sets(LAYER), Cost(HARDWARE, load_hardware(HARDWARE))
    problem = make_problem(source.model, mesh, cost, sets.train.load(source.model.experts))
    found: Cells = {table: {} for table in TABLES}
    for planner in planners(problem, sets.train, seed):
        if wanted and planner.name not in wanted:
            continue
        planned, routing = timed(planner, problem), planner.routings[0]
        tokens_split = judged(problem, sets, planned.placement, Conditions("optimal", "tokens"))
        own = tokens_split
        if routing != "optimal":
            own = judged(problem, sets, planned.placement, Conditions(routing))
        tiles_split = judged(problem, sets, planned.placement, Conditions("optimal", "tiles"))
        figures = own.latency_us, own.imbalance, tiles_split.latency_us, tokens_split.imbalance
        cells = *map(spread, figures), f"{planned.seconds:.2f}"
        for table, cell in zip(TABLES, cells, strict=True):
            found[table][f"{planner.name}, `{routing}`"] = cell
    return found


def share_out(trace: str, layers: list[int], tokens: int, seed: int) -> None:
    """Print how balanced layers are with extra replicas for each layer in the mean, by who shares them out."""
    mesh, shared, first = MESHES[Path(trace).name]
    named = TraceInput(traces=[trace], batch_tokens=tokens, seed=seed, first_moe_layer=first)
    source = open_source(named, layers, ModelChoice(shared_experts=shared), mesh, lambda share: None)
    cost = Cost(HARDWARE, load_hardware(HARDWARE))
    sets = {layer: source.sets(layer) for layer in layers}
    problems = [make_problem(source.model, mesh, cost, of.train.load(source.model.experts)) for of in sets.values()]
    most = problems[0].most_free_replicas - int((~problems[0].spread).sum())
    extra = np.unique(np.append(np.arange(0, most, 2), most))
    known = balances(problems, extra)
    print(f"\n| {Path(trace).name}, {tokens}: budget | equal | CRAFT | exact knapsack |\n" + "| --- " * 4 + "|")
    for each in extra[[1, 2, 4, 8]].tolist():
        budget = each * len(problems)
        exact = share_budget(-known, extra, budget).value
        equal = np.full(len(problems), int(np.flatnonzero(extra == each)[0]))
        cells = []
        for places in (equal, craft(known, extra, budget), exact):
            if places is None:
                raise RuntimeError("the knapsack has an answer with no replicas at all")
            placed = [eplb(replace(of, extra_replicas=int(extra[at]))) for of, at in zip(problems, places, strict=True)]
            reports = [
                judged(problem, of._replace(test=of.test.part(0, 256)), placement, Conditions())
                for problem, of, placement in zip(problems, sets.values(), placed, strict=True)
            ]
            latency = np.mean([report.latency_us.mean() for report in reports])
            imbalance = np.mean([report.imbalance.mean() for report in reports])
            cells.append(f"{imbalance:.3f}, {latency:,.1f} us, {int(extra[places].sum())} replicas")
        print(f"| {budget} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Run all cases, one after the other, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("traces", nargs="*", default=[])
    parser.add_argument("--sizes", default="512,2048")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", default="", help="layers to share replicas out over")
    parser.add_argument("--planners", type=lambda text: text.split(";"), default=[], help="names, parted by ';'")
    given = parser.parse_args()
    if given.layers:
        for trace in given.traces:
            share_out(trace, list(map(int, given.layers.split(","))), int(given.sizes.split(",")[0]), given.seed)
        return
    cases = {}
    for trace in given.traces or [None]:
        for tokens in map(int, given.sizes.split(",")):
            name = f"{Path(trace).name if trace else 'built-in'}, {tokens}"
            cases[name] = judge(trace, tokens, given.seed, given.planners)
    for table in TABLES:
        rows = dict.fromkeys(planner for case in cases.values() for planner in case[table])
        print(f"\n| {table} | " + " | ".join(cases) + " |\n" + "| --- " * (len(cases) + 1) + "|")
        for planner in rows:
            print(f"| {planner} | " + " | ".join(case[table].get(planner, "") for case in cases.values()) + " |")


if __name__ == "__main__":
    main()
