"""Whole models: quality against a minute for each layer, speed-up with two processes, memory, and the fast plan.

Usage: python benchmarks/whole_models.py quality|speedup|fast TRACES [--layers 3-60] [--seconds 600] [--sample 5]

TRACES: a corpus such as `moeplan synth big --requests 4000 --prompt-tokens 125 --output-tokens 125` makes (1 M tokens).

- quality: all layers are planned in one plan in --seconds, then some layers (--sample of them, evenly spaced) alone
  in a minute each, and the figures of those layers are compared.
- speedup: the same layers are planned with the same moves in one process and in two; the plans must be equal.
- fast: all layers are planned on expected load; reading them is not timed.

Memory is the largest sum, over the time of a run, of the proportional set sizes of all its processes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from speed import HARDWARE, MESH

from optimizer.commands.arguments import layer_ids
from optimizer.domain.cost import Cost
from optimizer.domain.presets import load_hardware
from optimizer.domain.problem import make_problem
from optimizer.planning.many_layers.reading import LayerReader
from optimizer.planning.options import SolveOptions
from optimizer.planning.plan_expected_load import expected_imbalance
from optimizer.planning.plan_fast import TRAIN, fast_plan, loads_of
from optimizer.search.seeds.greedy import greedy
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import TraceInput

SAMPLED_EVERY = 0.5  # seconds between two looks at memory
ALONE_SECONDS = 60
MOVES, AMPLE = 300_000, 3600  # moves of a layer's search, and a time limit that does not end it before


class Run(NamedTuple):
    """What a command printed, the seconds it took, and its peak memory in gigabytes."""

    said: dict[str, Any]
    seconds: float
    gigabytes: float


def run(*arguments: object) -> Run:
    """Run `solve` with these arguments, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder, "plan.json")
        command = [sys.executable, "-m", "cli", "solve", *map(str, arguments), "--json", "-o", str(plan)]
        root, started, peak, out = Path(__file__).resolve().parents[1], time.monotonic(), 0, ""
        with subprocess.Popen(
            command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            while process.returncode is None:
                peak = max(peak, held(process.pid))
                with suppress(subprocess.TimeoutExpired):
                    out, _ = process.communicate(timeout=SAMPLED_EVERY)
        if process.returncode:
            sys.exit(f"{' '.join(command)} ended with {process.returncode}")
        said = json.loads(out) | {"slots": {k: v["slots"] for k, v in json.loads(plan.read_text())["layers"].items()}}
        return Run(said, time.monotonic() - started, peak / 1e9)


def held(process: int) -> int:
    """The bytes that a process and all its descendants hold (proportional set size)."""
    total = 0
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        children = [file.read_text().split() for file in Path(f"/proc/{process}/task").glob("*/children")]
    except OSError:
        return total
    return total + sum(held(int(child)) for of_thread in children for child in of_thread)


def quality(traces: str, layers: str, seconds: float, sample: int) -> None:
    """Compare one plan of all layers with layers that are planned alone."""
    whole = run(traces, "--layer", layers, "--time-limit", seconds)
    print(f"{len(whole.said['layers'])} layers in {whole.seconds:.1f} s, {whole.gigabytes:.2f} GB, "
          f"routing {whole.said['routing']}, sum {whole.said['total_latency_us']}")  # fmt: skip
    ids = list(whole.said["layers"])
    ratios = []
    print("layer | p99 in the whole plan | alone | ratio | mean | alone | ratio")
    for layer in (ids[place] for place in np.linspace(0, len(ids) - 1, sample).astype(int)):
        alone = run(traces, "--layer", layer, "--time-limit", ALONE_SECONDS).said["rows"][-1]["latency_us"]
        shared = whole.said["layers"][layer]["latency_us"]
        ratios.append([shared[name] / alone[name] for name in ("p99", "mean")])
        cells = [
            f"{shared[name]:.1f} | {alone[name]:.1f} | {shared[name] / alone[name]:.4f}" for name in ("p99", "mean")
        ]
        print(f"{layer} | {' | '.join(cells)}", flush=True)
    print(f"mean ratio p99 {np.mean(ratios, axis=0)[0]:.4f}, mean {np.mean(ratios, axis=0)[1]:.4f}")


def speedup(traces: str, layers: str) -> None:
    """Compare the time of the same work in one process and in two."""
    asked = (traces, "--layer", layers, "--iterations", MOVES, "--time-limit", AMPLE)
    run(*asked[:2], layers.split("-")[0] + "," + layers.split("-")[-1], *asked[3:], "--jobs", 2)  # compiles
    one, two = (run(*asked, "--jobs", jobs) for jobs in (1, 2))
    assert one.said["slots"] == two.said["slots"]
    print(f"one process {one.seconds:.1f} s, {one.gigabytes:.2f} GB; two {two.seconds:.1f} s, {two.gigabytes:.2f} GB; "
          f"speed-up {one.seconds / two.seconds:.2f}")  # fmt: skip


def fast(traces: str, layers: str) -> None:
    """Plan all layers on expected load twice, and print the second time, in which nothing is compiled."""
    reader = LayerReader.of(TraceInput([traces]), ModelChoice(), MESH, layer_ids(layers), lambda share: None)
    cost = Cost(HARDWARE, load_hardware(HARDWARE))
    for source, held_layers in reader.sources():
        for _ in range(2):
            started = time.monotonic()
            rows = fast_plan(source, held_layers, MESH, cost, SolveOptions()).layers
            seconds = time.monotonic() - started
        print(f"{len(rows)} layers in {seconds:.2f} s; imbalance on train and test requests, mean and worst:")
        load = loads_of(source, held_layers)
        problems = [make_problem(source.model, MESH, cost, of[None]) for of in load[TRAIN]]
        packed = [greedy(problem) for problem in problems]
        both = {
            "fast": [[row.train_imbalance, row.test_imbalance] for row in rows],
            "greedy": [[expected_imbalance(p, of[None])[0] for of in load[:, i]] for i, p in enumerate(packed)],
        }
        for name, imbalance in both.items():
            print(name, np.mean(imbalance, axis=0).round(4), np.max(imbalance, axis=0).round(4))


def main() -> None:
    """Run the measurement that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["quality", "speedup", "fast"])
    parser.add_argument("traces")
    parser.add_argument("--layers", default="all")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--sample", type=int, default=5)
    given = parser.parse_args()
    if given.what == "quality":
        quality(given.traces, given.layers, given.seconds, given.sample)
    elif given.what == "speedup":
        speedup(given.traces, given.layers)
    else:
        fast(given.traces, given.layers)


if __name__ == "__main__":
    main()
