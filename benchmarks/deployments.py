"""Published GPU deployments: EPLB and FlashLB under the server's rule, beside our plans for that rule and for our own.

Usage: python benchmarks/deployments.py [--only NAME ...] [--seconds 20] [--own hint-device ...] [--tokens-per-rank N]
       [--requests 2048] [--seed 0] [--out FILE.json]

The deployments are those of `moeplan presets deployments`. One layer of each is planned on requests that `synth`
generates for its model, and all placements are judged on the same batches of requests that no planner has seen. Under
every rule that the server runs by itself there are EPLB's placement, FlashLB's and ours; below them are plans of ours
for policies that the server would need to be given (--own). Latency contains the price of the policy. Bounds are those
for any placement with the price of the row's policy added to them, and gaps are those of means over batches.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from formulations.expected_load.replication import ReplicaBudget
from formulations.expected_load.slot_pairs import SLOTS, PairInstance, least_paired_peak
from formulations.kit.clock import Clock
from optimizer.domain.cost import Cost
from optimizer.domain.deployment import ExpertRanks, with_shared_beside
from optimizer.domain.presets import load_deployment, load_hardware, load_model, names
from optimizer.domain.presets.schema import DeploymentPreset
from optimizer.domain.problem import Problem, make_problem
from optimizer.experiments.compare_rivals import judged
from optimizer.experiments.rivals.eplb import eplb
from optimizer.experiments.rivals.flashlb import flashlb
from optimizer.files import check_writable, write_whole
from optimizer.planning.bounds import IMBALANCE, LATENCY, Bound, bound_any, gaps_of
from optimizer.planning.options import SolveOptions
from optimizer.planning.plan_expected_load import expected_imbalance
from optimizer.planning.plan_layer import solve
from optimizer.routing.servers.abilities import SERVERS
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.report import SimulationReport
from optimizer.traces.batches import Sets
from optimizer.traces.source import TraceInput, open_traces
from optimizer.traces.synthetic.corpus_writer import CorpusRecipe, synthesise

RIVALS = {"EPLB": eplb, "FlashLB": flashlb}
USUAL_TOKENS = {"decode": 128, "prefill": 4096}
"""Tokens of a rank where the deployment's source names none: 128 decode as in DeepEP's test of its low-latency kernels;
DeepSeek's published profile prefills 16,384, a quarter of which is taken here so that batches can be judged in time."""

PROMPT, OUTPUT = 512, 256  # mean lengths of generated requests; a choice that only sets how many requests share a batch
TOKENS_PER_SET, FEWEST, MOST = 1 << 21, 32, 1024
"""Tokens of a set's batches, as `traces.source` takes them, and how many batches there are at least and at most. With
as few as 32 (prefill) the 99th percentile is as good as the slowest batch."""

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Case:
    """One deployment with its layer, batches and bounds."""

    name: str
    preset: DeploymentPreset
    problem: Problem
    sets: Sets
    bounds: list[Bound]

    @property
    def rules(self) -> tuple[str, ...]:
        """The policies that the deployment's server runs by itself."""
        return SERVERS[self.preset.server].policies


def opened(name: str, requests: int, tokens_per_rank: int | None, seed: int) -> Case:
    """A deployment's case, from requests generated for its model."""
    preset = load_deployment(name)
    model = load_model(preset.model)
    model = with_shared_beside(model) if SERVERS[preset.server].shared_beside else model
    mesh = ExpertRanks(preset.ep_size, preset.redundant_experts, preset.gpus_per_node).mesh(model)
    cost = Cost(preset.hardware, load_hardware(preset.hardware)).for_model(model)
    layer = model.moe_layer_ids[len(model.moe_layer_ids) // 2]
    tokens = (tokens_per_rank or preset.tokens_per_rank or USUAL_TOKENS[preset.phase]) * preset.ep_size
    with tempfile.TemporaryDirectory() as folder:
        synthesise(Path(folder), model, [layer], CorpusRecipe(requests, PROMPT, OUTPUT, seed=seed))
        named = TraceInput([folder], phase=preset.phase, batch_tokens=tokens, seed=seed)
        source = open_traces(named, [layer], model, mesh, lambda share: None)
    count = min(MOST, max(FEWEST, TOKENS_PER_SET // tokens))
    sets = source.sets(layer, (count,) * len(Sets._fields))
    problem = make_problem(model, mesh, cost, sets.train.load(model.experts), layer=layer)
    return Case(name, preset, problem, sets, bound_any(sets.test, model, mesh, cost))


def rows_of(case: Case, own: list[str], seconds: float, seed: int) -> Iterator[Row]:
    """One row after the other: under each rule the rivals and our plan for it, then our plans for other policies."""
    made = {name: planner(case.problem) for name, planner in RIVALS.items()}
    for rule in case.rules:
        for name, placement in made.items():
            yield row(case, name, judged(case.problem, case.sets, placement, Conditions(rule)))
        yield row(case, "moeplan", planned(case, rule, seconds, seed))
    for policy in own:
        yield row(case, "moeplan", planned(case, policy, seconds, seed))


def planned(case: Case, policy: str, seconds: float, seed: int) -> SimulationReport:
    """Our plan for one policy, on the test batches."""
    return solve(case.problem, case.sets, SolveOptions(seconds, seed, routings=(policy,))).chosen.report


def row(case: Case, planner: str, report: SimulationReport) -> Row:
    """The figures of one placement under one policy."""
    gaps = {gap.unit: gap for gap in gaps_of(case.bounds, report)}
    latency, imbalance = (np.percentile(of, [50, 99]).tolist() for of in (report.latency_us, report.imbalance))
    return {
        "planner": planner,
        "routing": report.routing,
        "server_runs_it": report.routing in case.rules,
        "imbalance": {"mean": float(report.imbalance.mean()), "p50": imbalance[0], "p99": imbalance[1]},
        "imbalance_bound": gaps[IMBALANCE].any_placement.mean,
        "imbalance_gap": gaps[IMBALANCE].to_any,
        "latency_us": {"mean": float(report.latency_us.mean()), "p50": latency[0], "p99": latency[1]},
        "price_us": report.price_us,
        "compute_us": float(report.compute_us.mean()),
        "most_active": float(report.active.mean()),
        "latency_bound_us": gaps[LATENCY].any_placement.mean,
        "latency_gap": gaps[LATENCY].to_any,
    }


def facts(case: Case) -> dict[str, Any]:
    """What a deployment is, and on what its rows are judged."""
    mesh, sets = case.problem.mesh, case.sets
    return {
        "model": case.preset.model,
        "hardware": case.preset.hardware,
        "server": case.preset.server,
        "phase": case.preset.phase,
        "ranks": case.preset.ep_size,
        "slots": mesh.slots_per_device,
        "tokens": sets.test.tokens,
        "test_batches": sets.test.count,
        "source": case.preset.source,
    }


def worth_below(rows: list[Row]) -> dict[str, float]:
    """For each policy that holds batches up, below which price in microseconds its plan would have the least mean
    latency of all rows; a negative price is one that no machine has."""
    free = [each["latency_us"]["mean"] for each in rows if each["price_us"] == 0]
    dear = [each for each in rows if each["price_us"] > 0]
    return {each["routing"]: min(free) - (each["latency_us"]["mean"] - each["price_us"]) for each in dear}


def expected_load(case: Case) -> dict[str, float] | None:
    """Peak / mean of the expected load, each expert's split evenly over its replicas: EPLB's, the least that exchanges
    of replicas find, and what no placement goes below. None but for devices of two slots, where these are told fast."""
    problem, load = case.problem, case.problem.load.sum(axis=0, dtype=np.int64)
    if problem.mesh.slots_per_device != SLOTS:
        return None
    devices, mean = problem.mesh.devices, float(load.sum()) / problem.mesh.devices
    budget = ReplicaBudget.of(len(load), problem.mesh.slots, devices)
    found = least_paired_peak(PairInstance(load, devices, budget), Clock.start(60))
    if found.objective is None:
        raise RuntimeError("the experts of a deployment fit in its slots")
    own = float(expected_imbalance(eplb(problem), load[None])[0])
    return {"EPLB": own, "moeplan": found.objective / mean, "bound": found.lower_bound / mean}


def header() -> str:
    """The head of the table."""
    columns = (
        "deployment",
        "planner, routing",
        "imbalance p50 / p99",
        "bound, gap",
        "latency p50 / p99, us",
        "bound, gap",
    )
    return "| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|"


def line(name: str, found: Row) -> str:
    """A row of the table."""
    imbalance, latency = found["imbalance"], found["latency_us"]
    cells = (
        name,
        f"{found['planner']}, `{found['routing']}`",
        f"{imbalance['p50']:.3f} / {imbalance['p99']:.3f}",
        f"{found['imbalance_bound']:.3f}, {found['imbalance_gap']:.1%}",
        f"{latency['p50']:,.1f} / {latency['p99']:,.1f}",
        f"{found['latency_bound_us']:,.1f}, {found['latency_gap']:.1%}",
    )
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run the deployments one after the other; the file is written after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names("deployments"), default=names("deployments"), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each plan of ours")
    parser.add_argument("--own", nargs="*", default=["hint-device"], help="policies beyond the server's")
    parser.add_argument("--tokens-per-rank", type=int, help="in place of the deployments' own")
    parser.add_argument("--requests", type=int, default=2048, help="that are generated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.out is not None:
        check_writable(given.out, "out")
    asked = {"seconds": given.seconds, "requests": given.requests, "seed": given.seed}
    found: dict[str, Any] = {"asked": asked, "deployments": {}}
    print(header(), flush=True)
    for name in given.only:
        started = time.monotonic()
        case = opened(name, given.requests, given.tokens_per_rank, given.seed)
        rows: list[Row] = []
        for each in rows_of(case, given.own, given.seconds, given.seed):
            print(line("" if rows else name, each), flush=True)
            rows.append(each)
        worth, took = worth_below(rows), time.monotonic() - started
        expected = expected_load(case)
        found["deployments"][name] = facts(case) | {
            "seconds": took,
            "rows": rows,
            "worth_below_us": worth,
            "expected_load": expected,
        }
        if expected is not None:
            said = ", ".join(f"{of} {value:.4f}" for of, value in expected.items())
            print(f"| | expected load, split evenly, imbalance: {said} | | | | |", flush=True)
        for policy, price in worth.items():
            print(f"| | `{policy}` would have the least mean below a price of {price:.1f} us | | | | |", flush=True)
        if given.out is not None:
            write_whole(given.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
