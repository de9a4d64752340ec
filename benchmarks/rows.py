"""The seed by row and column assignment beside other seeds, judged under each routing policy on test batches.

Usage: python benchmarks/rows.py [--tokens 512,2048] [--seconds 25] [FOLDER:MESH ...]; without a folder it is the home
case, layer 12 of the built-in trace on 16x8 devices; FOLDER:MESH is a folder of real traces and a mesh such as 4x8.
Devices have 3 slots. Every seed is judged as it is and with its devices arranged for the network, and the better of
both on selection batches counts. Latencies are mean / p99 in microseconds, with the price of routing in them.
"""

import argparse
from collections.abc import Iterator

import numpy as np
from speed import HARDWARE, LAYER

from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.presets import load_hardware
from optimizer.domain.problem import Problem, make_problem
from optimizer.planning.candidates import Candidate, seeds
from optimizer.planning.options import AUTO, SolveOptions
from optimizer.planning.portfolio import Portfolio
from optimizer.planning.token_seeds import token_seeds
from optimizer.traces.batches import Sets
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import TraceInput, open_source

OTHERS = ("greedy", "flexibility")
BY_TOKENS = ("partition", "rows")


def case(folder: str, mesh: Mesh, tokens: int) -> tuple[Problem, Sets]:
    """Layer 12 of the traces in a folder, or of the built-in trace where none is named."""
    named = TraceInput(traces=(folder,) if folder else (), batch_tokens=tokens)
    source = open_source(named, [LAYER], ModelChoice(), mesh, lambda share: None)
    sets, cost = source.sets(LAYER), Cost(HARDWARE, load_hardware(HARDWARE)).for_model(source.model)
    return make_problem(source.model, mesh, cost, sets.train.load(source.model.experts)), sets


def made(problem: Problem, sets: Sets, options: SolveOptions) -> Iterator[Candidate]:
    """The seeds that are compared."""
    yield from seeds(problem, options.seed, OTHERS)
    yield from token_seeds(problem, sets.train, BY_TOKENS, options.effort(), options.shares, lambda *told: None)


def judged(problem: Problem, sets: Sets, candidate: Candidate, options: SolveOptions) -> list[str]:
    """The figures of a seed under each policy."""
    portfolio = Portfolio.of(problem, sets, options)
    portfolio.offer_seeds([candidate], options.effort())
    found = []
    for pool in portfolio.pools.values():
        latency = pool.judge.test(pool.placements[pool.best()]).latency_us
        found.append(f"{latency.mean():,.1f} / {np.percentile(latency, 99):,.1f}")
    return found


def main() -> None:
    """Print a table for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="FOLDER:MESH")
    parser.add_argument("--tokens", default="512,2048")
    parser.add_argument("--seconds", type=float, default=25.0)
    asked = parser.parse_args()
    options = SolveOptions(time_limit=4 * asked.seconds, seeds=(*OTHERS, *BY_TOKENS))  # rows take a quarter of it
    for text in asked.cases or [":16x8"]:
        folder, _, mesh = text.rpartition(":")
        for tokens in map(int, asked.tokens.split(",")):
            problem, sets = case(folder, Mesh.parse(mesh, 3), tokens)
            print(f"\n{folder or 'home'}, {mesh}, {tokens} tokens\n| seed | made in, s | " + " | ".join(AUTO) + " |")
            for candidate in made(problem, sets, options):
                cells = judged(problem, sets, candidate, options)
                print(f"| {candidate.method} | {candidate.seconds:.1f} | " + " | ".join(cells) + " |", flush=True)
                if candidate.says:
                    print(candidate.says)


if __name__ == "__main__":
    main()
