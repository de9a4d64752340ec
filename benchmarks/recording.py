"""How much has to be recorded: what plans made from few tokens lose on held-out requests.

Usage: python benchmarks/recording.py [--search SECONDS] KIND=FOLDER ...

KIND is gpt-oss, v2-lite or glm, and FOLDER holds that real set: requests in the native format, or `expert_counts.npz`.
For each number of tokens some train requests are drawn (tokens of counts are drawn one by one), each of some layers is
planned on their expected load, and the plan is judged on the selection requests: peak over mean device load, which is
even over an expert's replicas, of all their tokens together and of decode batches of 512. The loss is what that is
above the figure of a plan made from all train requests. Test requests are not touched. With --search one layer of
each set is also planned by a search of so many seconds for optimal routing.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.presets import load_hardware, load_model
from optimizer.domain.problem import make_problem
from optimizer.planning.options import SolveOptions
from optimizer.planning.plan_expected_load import expected_imbalance
from optimizer.planning.plan_layer import solve
from optimizer.search.seeds.quick import quick
from optimizer.statistics.loads import request_burstiness
from optimizer.statistics.summary import SummaryBuilder
from optimizer.traces.batches import Sets, split_requests
from optimizer.traces.composition import Composition, sample_batches
from optimizer.traces.corpus import find_files, read_traces
from optimizer.traces.trace import RoutingTrace

SIZES = (250, 500, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 128000)
DRAWS, JUDGED = 5, 256
MESHES = {"gpt-oss": (4, 4, 3), "v2-lite": (4, 8, 3), "glm": (16, 8, 3)}
MODELS = {
    "gpt-oss": lambda: load_model("gpt-oss-20b"),
    "v2-lite": lambda: load_model("deepseek-v2-lite"),
    "glm": lambda: Model("glm", 256, 1, 8),
}
SCALE = 1 << 22  # pairs to which few counts are scaled, so that rounding to whole ones loses little


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer to plan: `draw(tokens, rng)` counts `[expert]` of so many train tokens, None for all; loads to judge on:
    held `[1, expert]` of all selection tokens, and batches `[batch, expert]`, None where there are none. burstiness:
    the mean of the experts' `request_burstiness` in train requests, 1 where tokens are drawn one by one."""

    draw: Callable[[int | None, np.random.Generator], Ints]
    held: Ints
    batches: Ints | None
    burstiness: float


def with_shared(counts: Ints, model: Model) -> Ints:
    """Counts `[..., expert]` with the shared experts, which every token uses, after the routed ones, scaled."""
    tokens = counts.sum(axis=-1, keepdims=True) / model.top_k
    whole = np.concatenate([counts, np.repeat(tokens, model.shared_experts, axis=-1)], axis=-1)
    scaled: Ints = np.rint(whole * (SCALE / whole.sum(axis=-1, keepdims=True))).astype(np.int64)
    return scaled


def drawn_tokens(trace: RoutingTrace, requests: Ints, tokens: int | None, rng: np.random.Generator) -> Ints:
    """The places of the first `tokens` tokens of these requests in random order, of all of them for None."""
    order = rng.permutation(requests)
    places = np.concatenate([np.arange(trace.offsets[one], trace.offsets[one + 1]) for one in order])
    return places[:tokens]


def burstiness(trace: RoutingTrace, layer: int, requests: Ints, model: Model) -> float:
    """The mean over experts of `request_burstiness`, each request taken as one run."""
    builder = SummaryBuilder(1, model.routed_experts, model.top_k)
    for one in requests:
        builder.add(trace.experts[trace.offsets[one] : trace.offsets[one + 1], [trace.place(layer)]], 0)
    return float(np.nanmean(request_burstiness(builder.finish(), 0)))


def layers_of_trace(trace: RoutingTrace, model: Model, mesh: Mesh) -> Iterator[Layer]:
    """The layers of requests."""
    train, selection, _ = split_requests(trace.requests, 0)
    composition = Composition.of("decode", 512, None, mesh)
    for layer in trace.layers:
        chosen = trace.layer(layer)

        def draw(tokens: int | None, rng: np.random.Generator, chosen: Ints = chosen) -> Ints:
            places = drawn_tokens(trace, train, tokens, rng)
            return np.bincount(chosen[places].ravel(), minlength=model.routed_experts)

        rng = np.random.default_rng(layer)
        held = np.bincount(chosen[drawn_tokens(trace, selection, None, rng)].ravel(), minlength=model.routed_experts)
        batches = sample_batches(trace, layer, selection, model, composition, JUDGED, rng)
        burst = burstiness(trace, layer, train, model)
        yield Layer(draw, with_shared(held[None], model), batches.load(model.experts), burst)


def layers_of_counts(path: Path, model: Model) -> Iterator[Layer]:
    """Every tenth layer of counts `[domain, shard, layer, expert]`: five shards of each domain are the train ones."""
    with np.load(path, allow_pickle=False) as held:
        counts = held["counts"].astype(np.int64)
    for place in range(0, counts.shape[2], 10):
        train, selection = counts[:, :5, place].sum(axis=(0, 1)), counts[:, 5:7, place].sum(axis=(0, 1))

        def draw(tokens: int | None, rng: np.random.Generator, train: Ints = train) -> Ints:
            return train if tokens is None else rng.multinomial(tokens * model.top_k, train / train.sum())

        yield Layer(draw, with_shared(selection[None], model), None, 1.0)


def losses(layer: Layer, model: Model, mesh: Mesh, cost: Cost, tokens: int | None) -> Floats:
    """Peak / mean of all selection tokens together and of their batches (nan where unknown), by draw `[draw, 2]`."""
    found = []
    for number in range(DRAWS if tokens else 1):
        rng = np.random.default_rng(number)
        counts = layer.draw(tokens, rng)
        problem = make_problem(model, mesh, cost, with_shared(counts[None], model))
        placement = quick(problem, rng)
        batches = np.nan if layer.batches is None else expected_imbalance(placement, layer.batches).mean()
        found.append((expected_imbalance(placement, layer.held)[0], batches))
    return np.array(found)


def searched(trace: RoutingTrace, layer: int, model: Model, mesh: Mesh, cost: Cost, options: SolveOptions) -> None:
    """Print the imbalance, on selection requests, of a search's plan from few tokens, for optimal routing."""
    train, selection, _ = split_requests(trace.requests, 0)
    composition = Composition.of("decode", 512, None, mesh)
    ends = np.cumsum(np.diff(trace.offsets)[train])
    for tokens in (*(size for size in (2000, 8000, 32000) if size < ends[-1]), int(ends[-1])):
        requests = train[: int(np.searchsorted(ends, tokens)) + 1]
        own = [requests[number::4] for number in range(4)]
        parts = (np.concatenate(own[:3]), own[3], selection)
        rngs = map(np.random.default_rng, range(3))
        drawn = zip(parts, (512, 256, JUDGED), rngs, strict=True)
        sets = Sets(*(sample_batches(trace, layer, part, model, composition, n, rng) for part, n, rng in drawn))
        problem = make_problem(model, mesh, cost, sets.train.load(model.experts), layer=layer)
        report = solve(problem, sets, options).chosen.report
        print(f"search, layer {layer}, {tokens} tokens: imbalance {report.imbalance.mean():.3f}", flush=True)


def table(kind: str, layers: Sequence[Layer], model: Model, mesh: Mesh, cost: Cost, most: int) -> None:
    """Print a row for each number of tokens; its constant is the loss of all tokens over what the rule multiplies."""
    burst = float(np.mean([layer.burstiness for layer in layers]))
    all_pairs = most * model.top_k / model.routed_experts
    whole = np.stack([losses(layer, model, mesh, cost, None)[0] for layer in layers])
    print(
        f"{kind}: all {most} train tokens {whole[:, 0].mean():.3f}, batches {whole[:, 1].mean():.3f}, burst {burst:.1f}"
    )
    print("| tokens | pairs per expert | loss, all tokens | constant | loss, batches | worst layer |")
    print("| --- | --- | --- | --- | --- | --- |")
    for tokens in (size for size in SIZES if size < most):
        found = np.stack([losses(layer, model, mesh, cost, tokens).mean(axis=0) for layer in layers]) / whole - 1
        pairs, (one, batch) = tokens * model.top_k / model.routed_experts, found.mean(axis=0)
        constant = one / np.sqrt(burst) / (pairs**-0.5 - all_pairs**-0.5)  # the plan of all tokens has a loss too
        print(
            f"| {tokens} | {pairs:.0f} | {one:.1%} | {constant:.2f} | {batch:.1%} | {found[:, 0].max():.1%} |",
            flush=True,
        )


def main() -> None:
    """Measure every set that was named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="KIND=FOLDER")
    parser.add_argument("--search", type=float, default=0, metavar="SECONDS")
    arguments = parser.parse_args()
    cost = Cost("tt-wormhole-quad-galaxy", load_hardware("tt-wormhole-quad-galaxy"))
    for kind, folder in (text.split("=", 1) for text in arguments.sets):
        model, mesh = MODELS[kind](), Mesh(*MESHES[kind])
        if kind == "glm":
            table(kind, list(layers_of_counts(Path(folder, "expert_counts.npz"), model)), model, mesh, cost, 968_000)
            continue
        layers = range(model.first_moe_layer, model.layers, 5)
        trace = read_traces(find_files([folder]), model, layers)
        train = split_requests(trace.requests, 0)[0]
        table(
            kind, list(layers_of_trace(trace, model, mesh)), model, mesh, cost, int(np.diff(trace.offsets)[train].sum())
        )
        if arguments.search:
            options = SolveOptions(time_limit=arguments.search, routings=("optimal",))
            searched(trace, trace.layers[len(trace.layers) // 2], model, mesh, cost, options)


if __name__ == "__main__":
    main()
