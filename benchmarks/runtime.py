"""How long a router takes to take note of a batch and to make what the next one uses, for all layers of DeepSeek-V3.

Usage: python benchmarks/runtime.py. The case is layer 12 of the built-in trace with the greedy placement, taken 58
times, with its test batches of 512 tokens; sources are the 16 rows, or the 128 devices of such a mesh where each has
tokens of its own. One thread. Printed are medians of 200 steps: the time that passed, the time of the processor alone
(which other programs disturb less), the same in plain numpy for one layer times 58, and the ratio of the two.
"""

import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence

import numpy as np
from plain_runtime import PlainHints
from speed import LAYER, MESH, home_problem

from formulations.kit.arrays import Ints
from optimizer.domain.network import Network
from optimizer.domain.problem import Problem
from optimizer.routing.context import LearnedShares, RoutingContext
from optimizer.routing.expected_split import MILLION
from optimizer.routing.forecast import count_pairs
from optimizer.routing.hints import USUAL_HINTS
from optimizer.runtime.router import Router
from optimizer.search.seeds.greedy import greedy
from optimizer.traces.batches import Batches

LAYERS, STEPS, FEW = 58, 200, 3


def counted(test: Batches, network: Network, experts: int) -> list[Ints]:
    """The counts `[source, expert]` of some batches."""
    source = network.source(test.source_row)
    counts: list[Ints] = [np.zeros((network.sources, experts), dtype=np.int32) for _ in range(32)]
    for batch, of in enumerate(counts):
        count_pairs(test.experts[batch], source[batch], of)
    return counts


def medians(step: Callable[[int], object], steps: int) -> tuple[float, float]:
    """The median milliseconds of a step, of the clock and of the processor, after one that warms up."""
    step(0)
    clock, processor = [], []
    for number in range(steps):
        begun, worked = time.perf_counter(), time.thread_time()
        step(number)
        clock.append(time.perf_counter() - begun)
        processor.append(time.thread_time() - worked)
    return 1e3 * statistics.median(clock), 1e3 * statistics.median(processor)


def check(router: Router, plain: PlainHints, counts: list[Ints]) -> None:
    """Raise AssertionError unless the router and numpy say the same of some batches."""
    router.shares(0), router.table(0)
    for each in counts:
        router.observe(0, each)
        plain.observe(each)
        plain.level()
        plain.assign()
    flat = router.shares(0).ravel()
    for slots, share in zip(plain.slots, plain.share, strict=True):
        if not np.allclose(flat[slots], share, atol=1e-9):
            raise AssertionError("numpy and the router disagree on shares")
    if (router.table(0) != plain.table).mean() > 1e-3:  # equally heavy devices may be told apart by rounding alone
        raise AssertionError("numpy and the router disagree on the table")


def contexts(problem: Problem, network: Network) -> dict[int, RoutingContext]:
    """The same layer with the greedy placement and its train loads, 58 times."""
    placement = greedy(problem)
    even = LearnedShares.nothing(placement, problem.model.experts).share
    known = LearnedShares(problem.load.mean(axis=0), even)
    return {layer: RoutingContext.of(placement, problem.model, network, 1, 0, known) for layer in range(LAYERS)}


def plain_layer(context: RoutingContext) -> PlainHints:
    """The same in numpy, for one layer."""
    slots = [context.slot[start:stop] for start, stop in zip(context.start, context.start[1:], strict=False)]
    known = context.load / MILLION
    return PlainHints(slots, MESH.slots_per_device, MESH.devices, len(context.distance), known, USUAL_HINTS.kept)


def by_experts(router: Router, form: str, counts: Sequence[Ints]) -> Callable[[int], None]:
    """A step that takes note of counts of experts, and reads a form of hints into the same array, for all layers."""
    read = getattr(router, form)
    out = read(0)

    def step(number: int) -> None:
        for layer in router.layers:
            router.observe(layer, counts[number % len(counts)])
            read(layer, out)

    return step


def by_devices(router: Router, loads: Sequence[Ints]) -> Callable[[int], None]:
    """A step that takes note of loads of devices, and reads weights, for all layers."""
    out = router.weights(0)

    def step(number: int) -> None:
        for layer in router.layers:
            router.observe_devices(layer, loads[number % len(loads)])
            router.weights(layer, out)

    return step


def in_numpy(plain: PlainHints, form: str, counts: Sequence[Ints]) -> Callable[[int], None]:
    """A step of one layer in numpy."""
    make = {"shares": plain.level, "table": plain.assign}[form]

    def step(number: int) -> None:
        plain.observe(counts[number % len(counts)])
        make()

    return step


def measure(problem: Problem, test: Batches, network: Network) -> None:
    """Print the times for one number of sources."""
    counts = counted(test, network, problem.model.experts)
    check(Router(contexts(problem, network)), plain_layer(contexts(problem, network)[0]), counts[:FEW])
    for form in ("shares", "table", "log2phy"):
        clock, processor = medians(by_experts(Router(contexts(problem, network)), form, counts), STEPS)
        said = f"{network.sources:>7}  {form:8}{clock:10.2f}{processor:14.2f}"
        if form != "log2phy":
            plain = plain_layer(contexts(problem, network)[0])
            theirs = LAYERS * medians(in_numpy(plain, form, counts), 5)[1]
            said += f"{theirs:10.0f}{theirs / processor:8.0f}"
        print(said)
    loads = [np.bincount(np.arange(257) % MESH.devices, each.sum(axis=0)).astype(np.int32) for each in counts]
    clock, processor = medians(by_devices(Router(contexts(problem, network)), loads), STEPS)
    print(f"{network.sources:>7}  {'weights':8}{clock:10.2f}{processor:14.2f}")


def memory(problem: Problem, network: Network) -> None:
    """Print what a router of all layers takes once all its forms have been read."""
    Router(contexts(problem, network))  # so that what is imported and compiled once does not count
    seen = contexts(problem, network)
    tracemalloc.start()
    router = Router(seen)
    for layer in router.layers:
        for read in (router.shares, router.table, router.log2phy, router.weights):
            read(layer)
    print(f"{network.sources} sources: {tracemalloc.get_traced_memory()[0] / LAYERS / 1e3:.0f} kB a layer")
    tracemalloc.stop()


if __name__ == "__main__":
    problem, sets = home_problem()
    print(f"layer {LAYER} x {LAYERS}: ms to take note of a batch and to read, all layers")
    print("sources  form           clock     processor     numpy   ratio")
    networks = Network(MESH, "row"), Network(MESH, "device")
    for network in networks:
        measure(problem, sets.test, network)
    for network in networks:
        memory(problem, network)
