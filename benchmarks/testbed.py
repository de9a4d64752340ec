"""Plans for traffic of generators that the product was not fitted to, and for recorded traffic.

Usage: python benchmarks/testbed.py [--names NAMES] [--sizes 512,2048] [--kinds optimal,plan] [--seconds 60] [--jobs 1]
    [--seed 0] [--data FOLDER] [--json FILE]

NAMES are those of TUNING and JUDGING below, or `tuning` and `judging` for all of these; `--data` is the folder of the
real sets, without which those that need them are left out. Each generator makes requests of which 1,024 are to plan on
and 341 to choose by, for 16x8 devices of 3 slots, 256 experts and a shared one, top-8. Test batches are made of further
requests, which come later, and no two users of a batch run the same one. Recorded sets are too small for that; their
batches are the product's, on the meshes of `quality.py`.

`optimal` is the plan with exact routing of tokens, and its imbalance is asked for; `plan` is what `moeplan solve`
chooses by itself, and its latency is asked for.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from plain_traces import (
    Recipe,
    Router,
    counted,
    distinct_users,
    like_deepseek,
    log_normal,
    nearly_uniform,
    power_law,
)
from quality import figures, opened
from speed import HARDWARE, LAYER, MESH

from optimizer.domain.cost import Cost
from optimizer.domain.presets import load_hardware, load_model
from optimizer.domain.problem import Problem, make_problem
from optimizer.planning.options import AUTO, SolveOptions
from optimizer.planning.plan_layer import solve
from optimizer.traces.batches import Batches, Sets, default_rows, with_shared
from optimizer.traces.source import TraceInput, open_source
from optimizer.traces.trace import OUTPUT, RoutingTrace

COST = Cost(HARDWARE, load_hardware(HARDWARE))
TRAIN_REQUESTS = 1024
REQUESTS = round(TRAIN_REQUESTS / 0.6)  # of which the product plans on 60 %
FRESH_REQUESTS = 2560  # of which 2,048 users run distinct ones, with some to go on with
FRESH_TIME = 0.25  # how long after those to plan on the fresh ones last, in units of the time of these
STEPS = 1024

TUNING = {
    "log-normal": Recipe(log_normal(0.8), topic=0.6, rank=16),
    "power law": Recipe(power_law(0.7), topic=1.0, rank=8, kept=0.5, drift=0.2),
    "few hot": Recipe(nearly_uniform(0.1, 12, 6.0), topic=0.3, rank=32, kept=0.95),
    "persistent": Recipe(like_deepseek, topic=0.5, rank=16, token=2.0, kept=0.95, drift=0.1),
}
"""Generators whose figures may be looked at while a search is changed."""

JUDGING = {
    "heavy tail": Recipe(log_normal(0.7, 1.5), topic=1.2, rank=16),
    "steep": Recipe(power_law(0.9, 3.0), topic=0.7, rank=4, drift=0.1),
    "like DeepSeek": Recipe(like_deepseek, topic=0.9, rank=24, kept=0.7, drift=0.3),
    "hot four": Recipe(nearly_uniform(0.3, 4, 12.0), topic=0.8, rank=64, kept=0.98),
}
"""Generators by which a search is judged alone, never changed."""

COUNTED, COUNTED_LAYER = "GLM's counts", 20  # judging too: domains are recorded, the rest is made
RECORDED = {"deepseek-v2-lite": "tuning", "gpt-oss-20b": "judging"}
"""The real sets, and what they are for: many constants were set on V2-Lite before there was this test bed, and some on
GPT-OSS."""

KINDS: dict[str, SolveOptions] = {
    "optimal": SolveOptions(routings=("optimal",), unit="tokens"),
    "plan": SolveOptions(routings=AUTO),
}
"""What is asked for: the most even plan under exact routing of tokens, or what `solve` chooses by itself."""


def generated(recipe: Recipe, tokens: int, seed: int) -> tuple[Problem, Sets]:
    """The problem and the batches of a generator, with `tokens` tokens in each batch."""
    rng, model = np.random.default_rng(seed), load_model("deepseek-v3")
    router = Router.of(recipe, rng)
    known = router.requests(rng.permutation(np.linspace(0, 1, REQUESTS)), rng)
    fresh = router.requests(rng.permutation(np.linspace(1, 1 + FRESH_TIME, FRESH_REQUESTS)), rng)
    ends = np.concatenate([[0], np.cumsum(known.lengths)])
    phase = np.full(len(known.experts), OUTPUT, dtype=np.uint8)
    trace = RoutingTrace(known.experts[:, None], (LAYER,), ends, phase, f"{REQUESTS} generated requests")
    named = TraceInput(memory=trace, batch_tokens=tokens, seed=seed)
    sets = open_source(named, [LAYER], model, MESH, lambda share: None).sets(LAYER)
    place = distinct_users(fresh, tokens, STEPS, rng)
    row = np.broadcast_to(default_rows(tokens, MESH.rows), place.shape)
    sets = sets._replace(test=Batches(with_shared(fresh.experts[place], model), row))
    return make_problem(model, MESH, COST, sets.train.load(model.experts)), sets


def recorded(folder: Path, tokens: int, seed: int) -> tuple[Problem, Sets]:
    """The problem and the batches of a real set."""
    source, mesh = opened(str(folder), tokens, seed)
    sets = source.sets(LAYER)
    return make_problem(source.model, mesh, COST, sets.train.load(source.model.experts)), sets


def cases(data: Path | None) -> dict[str, str]:
    """The names of all cases, and what each is for: "tuning" or "judging"."""
    known = dict.fromkeys(TUNING, "tuning") | dict.fromkeys(JUDGING, "judging")
    return known if data is None else known | {COUNTED: "judging"} | RECORDED


def case(name: str, tokens: int, seed: int, data: Path | None) -> tuple[Problem, Sets]:
    """The problem and the batches of a case; data: the folder of the real sets, None where there is none."""
    recipes = TUNING | JUDGING
    if name in recipes:
        return generated(recipes[name], tokens, seed)
    assert data is not None
    if name in RECORDED:
        return recorded(data / name, tokens, seed)
    weights = counted(data / "glm-5.2" / "expert_counts.npz", COUNTED_LAYER)
    return generated(Recipe(weights, topic=0.3, rank=16), tokens, seed)


def wanted(names: str, known: dict[str, str]) -> list[str]:
    """The cases that were named, or that are for what was named."""
    asked = [name.strip() for name in names.split(",")]
    if unknown := {*asked} - {*known, *known.values()}:
        raise SystemExit(f"{', '.join(sorted(unknown))}: no such case; there are {', '.join(known)}")
    return [name for name, use in known.items() if {name, use} & {*asked}]


def planned(problem: Problem, sets: Sets, options: SolveOptions) -> dict[str, float | str]:
    """The figures of a plan on test batches, its routing, and the seconds that it took."""
    started = time.monotonic()
    report = solve(problem, sets, options).chosen.report
    return {**figures(report), "routing": report.routing, "seconds": time.monotonic() - started}


def main() -> None:
    """Run all cases, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", default="tuning,judging")
    parser.add_argument("--sizes", default="512,2048")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    known = cases(given.data)
    kept = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    print(
        "| case | for | tokens | kind | routing | imbalance p50, mean, p99 | latency p50, p99, us |\n|" + " --- |" * 7
    )
    for name in wanted(given.names, known):
        for tokens in map(int, given.sizes.split(",")):
            problem, sets = case(name, tokens, given.seed, given.data)
            for kind in given.kinds.split(","):
                asked = replace(KINDS[kind], time_limit=given.seconds, seed=given.seed, jobs=given.jobs)
                found = planned(problem, sets, asked)
                even = ", ".join(f"{found[f'imbalance {of}']:.3f}" for of in ("p50", "mean", "p99"))
                us = ", ".join(f"{found[f'latency {of}']:.1f}" for of in ("p50", "p99"))
                row = (name, known[name], tokens, kind, found["routing"], even, us)
                print("| " + " | ".join(map(str, row)) + " |", flush=True)
                kept[f"{name}, {tokens} tokens, {kind}"] = found
                if given.json:
                    given.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
