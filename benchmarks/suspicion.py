"""Which faults of recording are found, and how often something looks wrong where nothing is.

Usage: python benchmarks/suspicion.py [REAL_DATA ...]

Each fault is put into generated requests or counts of several seeds, and it is found where a suspicion of its kind is
the first. False alarms are counted on twenty generated sets of several models and sizes, all layers together and each
alone, and on every REAL_DATA: a folder of requests, or a file of counts. For requests the processor time of the look
is given as a share of that of reading.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.model import Model
from optimizer.domain.presets import load_model
from optimizer.errors import InputError
from optimizer.statistics.checked import suspicions_of_trace
from optimizer.statistics.count_faults import suspicions_of_counts
from optimizer.traces.corpus import read_traces
from optimizer.traces.counted_source import open_counts
from optimizer.traces.formats.counts import Counts
from optimizer.traces.infer import ModelChoice, model_of_files
from optimizer.traces.memory import with_layers
from optimizer.traces.source import TraceInput
from optimizer.traces.synthetic.corpus_writer import CorpusRecipe
from optimizer.traces.synthetic.generate_corpus import generate_corpus
from optimizer.traces.trace import OUTPUT, RoutingTrace

SEEDS = 5
Change = Callable[[RoutingTrace, np.random.Generator], RoutingTrace]
CountChange = Callable[[Ints, np.random.Generator], Ints]
SIZES = ((8, 32), (40, 128))  # requests, and mean tokens of prompts and of outputs


def generated(choice: ModelChoice, requests: int, tokens: int, seed: int, layers: list[int]) -> RoutingTrace:
    """A generated set of requests, written and read."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = CorpusRecipe(requests, tokens, tokens, ("",), seed, False, False)
        generate_corpus(Path(folder), recipe, choice, layers, None, lambda share: None)
        files = TraceInput([folder]).files
        return read_traces(files, model_of_files(choice, files), layers)


def changed(trace: RoutingTrace, experts: Ints) -> RoutingTrace:
    """The trace with other experts."""
    return replace(trace, experts=experts)


def profile_run(trace: RoutingTrace, rng: np.random.Generator) -> RoutingTrace:
    """The first request grows by 2,000 equal tokens."""
    experts = np.concatenate([np.repeat(trace.experts[:1], 2000, axis=0), trace.experts])
    phase = np.concatenate([np.full(2000, OUTPUT, dtype=np.uint8), trace.phase])
    offsets = np.concatenate([[0], trace.offsets[1:] + 2000])
    return replace(trace, experts=experts, phase=phase, offsets=offsets)


def padded(trace: RoutingTrace, rng: np.random.Generator) -> RoutingTrace:
    """A tenth of all tokens, anywhere, are padding ones."""
    experts = trace.experts.copy()
    experts[rng.random(len(experts)) < 0.1] = experts[0]
    return changed(trace, experts)


def alike(phase: int) -> Change:
    """The rows of one phase are those that one and the same buffer holds."""

    def change(trace: RoutingTrace, rng: np.random.Generator) -> RoutingTrace:
        experts, buffer = trace.experts.copy(), trace.experts[rng.permutation(trace.tokens)]
        for start, stop in zip(trace.offsets[:-1], trace.offsets[1:], strict=True):
            places = start + np.flatnonzero(trace.phase[start:stop] == phase)
            experts[places] = buffer[: len(places)]
        return changed(trace, experts)

    return change


def one_block(trace: RoutingTrace, rng: np.random.Generator) -> RoutingTrace:
    """Only tokens of the first half of the experts: local ids of one rank of two."""
    half = (int(trace.experts.max()) + 1) // 2
    order = np.argsort(rng.random((trace.tokens, len(trace.layers), half)), axis=2)
    return changed(trace, order[..., : trace.experts.shape[2]].astype(trace.experts.dtype))


TRACES: dict[str, tuple[str, Change]] = {
    "profile run": ("repeats", profile_run),
    "padded rows": ("frequent-row", padded),
    "outputs alike": ("outputs-alike", alike(1)),
    "stale prompts": ("prompts-alike", alike(0)),
    "one rank's experts": ("one-rank", one_block),
}


def rank_block(load: Ints, rng: np.random.Generator) -> Ints:
    """The counts of one rank of sixteen."""
    size = load.shape[2] // 16
    first = int(rng.integers(16)) * size
    kept = np.zeros_like(load)
    kept[..., first : first + size] = load[..., first : first + size]
    return kept


def padding_counted(load: Ints, rng: np.random.Generator) -> Ints:
    """A third of all tokens was padding, and chose the same eight experts."""
    added = load.copy()
    for layer in range(load.shape[1]):
        added[:, layer, rng.choice(load.shape[2], 8, replace=False)] += load[:, layer].sum() // 8 // 2
    return added


def with_shared(load: Ints, rng: np.random.Generator) -> Ints:
    """The shared expert as one more column."""
    return np.concatenate([load, load.sum(axis=2, keepdims=True) // 8], axis=2)


def with_extra_layer(load: Ints, rng: np.random.Generator) -> Ints:
    """A last row of an MTP layer, which saw a fiftieth of the tokens."""
    return np.concatenate([load, load[:, -1:] // 50], axis=1)


COUNTS: dict[str, tuple[str, CountChange]] = {
    "one rank's counts": ("one-rank", rank_block),
    "counts times 16": ("times-ranks", lambda load, rng: load * 16),
    "padding counted": ("padding", padding_counted),
    "shared expert counted": ("shared-expert", with_shared),
    "no-op experts counted": ("beyond-model", lambda load, rng: np.concatenate([load, load], axis=2)),
    "extra layer": ("uneven-layers", with_extra_layer),
}


def counts_of(trace: RoutingTrace, routed: int) -> Ints:
    """Pairs of each expert, `[1, layer, expert]`, tokens rounded down to a multiple of 8."""
    load = [np.bincount(trace.layer(layer).ravel(), minlength=routed) for layer in trace.layers]
    return np.stack(load)[None]


def found_in(kind: str, found: list[str]) -> bool:
    """Whether the first suspicion is of the kind."""
    return found[:1] == [kind]


def faults() -> Iterator[tuple[str, int]]:
    """Each fault, and in how many of the seeds it is found."""
    choice, layers = ModelChoice(), [3, 10, 20, 30]
    traces = [generated(choice, 40, 128, seed, layers) for seed in range(SEEDS)]
    model = load_model("deepseek-v3")
    for name, (kind, change) in TRACES.items():
        made = [change(trace, np.random.default_rng(seed)) for seed, trace in enumerate(traces)]
        yield name, sum(found_in(kind, [each.kind for each in suspicions_of_trace(one, model)]) for one in made)
    for name, (kind, alter) in COUNTS.items():
        hits = 0
        for seed, trace in enumerate(traces):
            whole = trace.experts[: trace.tokens // 8 * 8]
            cut = RoutingTrace(whole, trace.layers, np.array([0, len(whole)]), trace.phase[: len(whole)], "cut")
            load = alter(counts_of(cut, 256), np.random.default_rng(seed))
            counts = Counts(load, tuple(range(3, 3 + load.shape[1])), None, None, (), "counts")
            hits += found_in(kind, [each.kind for each in suspicions_of_counts(counts, model)])
        yield name, hits


def with_filler(experts: Ints, held: int) -> Ints:
    """One more column, which holds the same id in every row."""
    column = np.full((*experts.shape[:2], 1), held, dtype=np.uint16)
    return np.concatenate([experts.astype(np.uint16), column], axis=2)


REFUSED: dict[str, tuple[str, Callable[[Ints], Ints]]] = {
    "255 as filler": ("column 8 (of 0..8) is 255 in every row", lambda experts: with_filler(experts, 255)),
    "shared expert as a column": ("column 8 (of 0..8) is 256", lambda experts: with_filler(experts, 256)),
    "all ids zero": ("is 0, so nothing was captured", np.zeros_like),
}


def refusals() -> Iterator[tuple[str, int]]:
    """Faults that readers refuse or ask about where nobody says the model, and in how many of the seeds they do."""
    for name, (said, change) in REFUSED.items():
        hits = 0
        for seed in range(SEEDS):
            trace = generated(ModelChoice(), 3, 40, seed, [3, 10])
            with tempfile.TemporaryDirectory() as folder:
                np.save(Path(folder, "a.npy"), change(np.asarray(trace.experts)))
                files = TraceInput([folder]).files
                try:
                    read_traces(files, model_of_files(ModelChoice(), files), [0])
                except InputError as error:
                    hits += said in str(error)
        yield name, hits


def alarms(trace: RoutingTrace, model: Model) -> int:
    """How many suspicions there are about a good trace, its layers together, each alone, and as counts."""
    load = counts_of(trace, model.routed_experts)
    found = suspicions_of_counts(Counts(load, trace.layers, None, None, (), "counts"), model)
    found += suspicions_of_trace(trace, model)
    for layer in trace.layers:
        found += suspicions_of_trace(with_layers(trace, [layer]), model)
    for each in found:
        print(f"false alarm: {each.seen}", file=sys.stderr)
    return len(found)


def sets() -> Iterator[tuple[str, int]]:
    """Twenty generated sets, and the false alarms about each."""
    presets = ("deepseek-v3", "deepseek-v2-lite", "gpt-oss-20b")
    choices = [*map(ModelChoice, presets), ModelChoice(routed_experts=64, top_k=2), ModelChoice(None, 128, 0, 8)]
    number = 0
    for choice in choices:
        for requests, tokens in SIZES:
            for _ in range(2):
                trace = generated(choice, requests, tokens, number, [4, 9, 16])
                model = Model("one", choice.routed_experts or 256, 0, trace.experts.shape[2])
                model = model if choice.name is None else load_model(choice.name)
                yield f"{model.name} {requests} x {2 * tokens}", alarms(trace, model)
                number += 1


def real(path: str) -> tuple[str, int, float]:
    """A real set, the false alarms about it, and the time of the look over that of reading (nan for counts)."""
    named, choice = TraceInput([path]), ModelChoice()
    if (counted := open_counts(named, choice)) is not None:
        return path, len(suspicions_of_counts(*counted)), float("nan")
    model = model_of_files(choice, named.files)
    layers = list(range(model.first_moe_layer, model.layers))
    seconds = []
    for _ in range(3):
        started = time.process_time()
        trace = read_traces(named.files, model, layers)
        read = time.process_time()
        suspicions_of_trace(trace, model)
        seconds.append((time.process_time() - read) / (read - started))
    return path, alarms(trace, model), float(np.median(seconds))


def main() -> None:
    """Print the table of faults, and the false alarms."""
    print("| fault | found |\n| --- | --- |")
    for name, hits in chain(faults(), refusals()):
        print(f"| {name} | {hits} of {SEEDS} |", flush=True)
    found = list(sets())
    print(f"\nFalse alarms on {len(found)} generated sets: {sum(each for _, each in found)}")
    for path in sys.argv[1:]:
        name, count, share = real(path)
        print(f"False alarms on {Path(name).name}: {count}; the look takes {share:.1%} of the time of reading")


if __name__ == "__main__":
    main()
