"""How much generated traces look like real ones, and how much their loads persist.

Usage: python benchmarks/calibration.py FOLDER, where FOLDER holds deepseek-v2-lite/ and gpt-oss-20b/, each with a
folder of native request files for each data set. There is one column for each corpus, and all are measured in the same
way: lift, overlap and shares over all data sets together, request variation as the mean over data sets, variation
between data sets as the mean over their pairs, and persistence (the last eight lines) over all data sets together. A
corpus that is made beside a recorded one has as many data sets and requests of the same lengths, because the fewer
requests there are, the more users share one, and the better loads can be predicted.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.model import Model
from optimizer.domain.presets import load_model
from optimizer.traces.composition import Composition
from optimizer.traces.corpus import find_files, read_traces
from optimizer.traces.source import BATCH_TOKENS, TraceSource
from optimizer.traces.synthetic.generator import builtin_trace, calibrated_gates, generate
from optimizer.traces.trace import OUTPUT, RoutingTrace

LAYER = 12
GENERATED = {"law": 200, "maths": 200, "code": 200, "chat": 200}  # requests of each data set, where none are recorded
LENGTH = 100
LAGS = (1, 4, 16, 64)  # tokens, inside a request
FEW = 32  # users, fewer than the 34 test requests of V2-Lite: no two need to run the same request at once
BATCHES = 1024  # of a set, as everywhere
FORGETTING_HALF_LIFE = 4  # batches, of the average that predicts loads; 2 to 20 explain about as much
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
FIGURES = [
    *(f"lift of pairs, quantile {share}" for share in QUANTILES),
    "lift, pairs of one group",
    "request variation",
    "overlap of neighbours",
    "overlap inside a request",
    "overlap across requests",
    "hottest / mean",
    "share of the top eighth",
    "variation between data sets",
    *(f"excess overlap, lag {lag}" for lag in LAGS),
    f"load explained, {FEW} users",
    f"load explained, {BATCH_TOKENS} users",
    "autocorrelation of loads, lag 1",
    "half-life of loads, steps",
]
NAN = float("nan")
STATED = {
    "fit, stated": [0.24, 0.54, 0.86, 1.29, 2.25, 3.25, NAN, 0.22, *[NAN] * 14],
    "real, stated": [0.27, 0.59, 0.87, 1.22, 2.15, 3.5, 1.6, 0.2, NAN, NAN, NAN, 5.2, 0.32, *[NAN] * 9],
}
STATED_RANGES = "stated ranges: overlap .29-.43, .17-.29, .12-.19 (32 and 64 experts); between data sets .15-.3"


@dataclass(frozen=True, eq=False)
class DataSet:
    """One layer of one data set: experts `[token, k]`; request r has the tokens offsets[r]:offsets[r + 1]."""

    experts: Ints
    offsets: Ints


def real(folder: Path, model: Model) -> dict[str, DataSet]:
    """One layer of each data set of a recorded corpus, by its name."""
    traces = {part.name: read_traces(find_files([str(part)]), model, [LAYER]) for part in sorted(folder.iterdir())}
    return {name: DataSet(trace.layer(LAYER), trace.offsets) for name, trace in traces.items()}


def generated(model: Model, lengths: Mapping[str, Ints]) -> list[DataSet]:
    """One layer of generated data sets; lengths `[request]` in tokens by the name of the data set."""
    gates = calibrated_gates(model, [LAYER], 0)
    return [
        DataSet(
            generate(gates, name, np.arange(len(tokens)), tokens).experts[:, 0],
            np.concatenate([[0], np.cumsum(tokens)]),
        )
        for name, tokens in lengths.items()
    ]


def built_in(model: Model) -> list[DataSet]:
    """One layer of the built-in trace, as if it were one data set."""
    trace = builtin_trace(model, [LAYER], 0)
    return [DataSet(trace.layer(LAYER), trace.offsets)]


def figures(sets: Sequence[DataSet], model: Model, rng: np.random.Generator) -> list[float]:
    """The values of FIGURES for a corpus."""
    everything = np.concatenate([part.experts for part in sets])
    counts = np.sort(np.bincount(everything.ravel(), minlength=model.routed_experts))[::-1]
    hot = counts[: model.routed_experts // 8].sum() / counts.sum()
    shares = [chosen(part.experts, model).mean(axis=0) / model.top_k for part in sets]
    apart = [0.5 * np.abs(one - other).sum() for one, other in combinations(shares, 2)]
    unusual = [request_variation(part, model, rng) for part in sets]
    few, many = (decode_loads(sets, model, users) for users in (FEW, BATCH_TOKENS))
    return [
        *lifts(everything, model),
        float(np.mean(unusual)),
        *overlaps(sets, rng),
        counts[0] / counts.mean(),
        hot,
        float(np.mean(apart)) if apart else NAN,
        *excess_overlaps(sets, rng),
        explained(*few),
        explained(*many),
        *autocorrelation(many[0]),
    ]


def chosen(experts: Ints, model: Model) -> Floats:
    """1 where a token chooses an expert and 0 where it does not, `[token, expert]`."""
    marks = np.zeros((len(experts), model.routed_experts), dtype=np.float32)
    np.put_along_axis(marks, experts.astype(np.int64), 1, axis=1)
    return marks


def lifts(experts: Ints, model: Model) -> list[float]:
    """The quantiles over pairs of experts of the lift, and its mean inside groups.

    Lift is how often a token chooses both, over how often it would if choices of k distinct experts were independent.
    """
    marks = chosen(experts, model)
    share = marks.mean(axis=0)
    one, other = np.triu_indices(model.routed_experts, 1)
    used = (share[one] > 0) & (share[other] > 0)
    one, other = one[used], other[used]
    together = (marks.T @ marks)[one, other] / len(experts)
    lift = together / (share[one] * share[other] * (1 - 1 / model.top_k))
    size = model.routed_experts // model.groups
    inside = lift[one // size == other // size].mean() if model.groups > 1 else NAN
    return [*np.quantile(lift, QUANTILES), inside]


def request_variation(part: DataSet, model: Model, rng: np.random.Generator) -> float:
    """How much requests vary beyond sampling noise: the root of the mean over requests of v^2 - w^2.

    v is the total variation of a request against its data set, w that of as many tokens drawn at random.
    """
    marks = chosen(part.experts, model) / model.top_k
    whole, lengths = marks.mean(axis=0), np.diff(part.offsets)[:, None]
    requests, strangers = (
        0.5 * np.abs(np.add.reduceat(rows, part.offsets[:-1]) / lengths - whole).sum(axis=1)
        for rows in (marks, marks[rng.integers(len(marks), size=len(marks))])
    )
    return float(np.sqrt(max(0.0, (requests**2 - strangers**2).mean())))


def overlaps(sets: Sequence[DataSet], rng: np.random.Generator) -> list[float]:
    """The share of experts that two tokens have in common: neighbours, others of one request, and of two requests."""
    experts = np.concatenate([part.experts for part in sets])
    lengths = np.concatenate([np.diff(part.offsets) for part in sets])
    request, start = np.repeat(np.arange(len(lengths)), lengths), np.repeat(np.cumsum(lengths) - lengths, lengths)
    near = np.flatnonzero(request[1:] == request[:-1])
    one, other = rng.integers(len(experts), size=(2, 30_000))
    inside = start[one] + rng.integers(lengths[request[one]])
    apart, across = np.abs(one - inside) > 1, request[one] != request[other]
    pairs = ((near, near + 1), (one[apart], inside[apart]), (one[across], other[across]))
    return [float((experts[a][:, :, None] == experts[b][:, None, :]).any(axis=2).mean()) for a, b in pairs]


def excess_overlaps(sets: Sequence[DataSet], rng: np.random.Generator) -> list[float]:
    """How alike two tokens of one request are by their distance (LAGS), beyond two tokens of different requests.

    This is `(o - a) / (1 - a)`, where o is the overlap of such tokens and a the overlap across requests: 0 if requests
    do not matter, 1 if all tokens of a request choose the same experts. Unlike the overlap it can be compared between
    models with different numbers of experts. Where all users run different requests, it is about the share of the
    variance of loads that tokens of that age can explain.
    """
    experts = np.concatenate([part.experts for part in sets])
    lengths = np.concatenate([np.diff(part.offsets) for part in sets])
    request, across = np.repeat(np.arange(len(lengths)), lengths), overlaps(sets, rng)[2]
    shares = []
    for lag in LAGS:
        near = np.flatnonzero(request[lag:] == request[:-lag])
        share = (experts[near][:, :, None] == experts[near + lag][:, None, :]).any(axis=2).mean()
        shares.append(float((share - across) / (1 - across)))
    return shares


def decode_loads(sets: Sequence[DataSet], model: Model, users: int) -> tuple[Floats, Floats]:
    """The loads of test batches in the order of time, `[batch, expert]`, and the mean load of train batches `[expert]`.

    Batches are decode steps of this many users, drawn from all data sets together as the program draws them.
    """
    experts = np.concatenate([part.experts for part in sets])
    lengths = np.concatenate([np.diff(part.offsets) for part in sets])
    trace = RoutingTrace(
        experts=experts[:, None],
        layers=(LAYER,),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        phase=np.full(len(experts), OUTPUT, dtype=np.uint8),
        source="one layer of all data sets",
    )
    source = TraceSource(model, Composition("decode", (users,)), trace, 0)
    train, _, test = source.sets(LAYER, (BATCHES, 1, BATCHES))
    loads = [batches.load(model.experts)[:, : model.routed_experts].astype(np.float64) for batches in (test, train)]
    return loads[0], loads[1].mean(axis=0)


def explained(test: Floats, mean: Floats) -> float:
    """How much of the loads' deviations from the train mean earlier batches explain: R^2 over experts and steps.

    Deviations are predicted by those of an average of the batches before, which forgets half of them every
    FORGETTING_HALF_LIFE batches and starts with the train mean. One slope is fitted for all experts and steps, so that
    the average's own noise counts against it only where it hides what persists.
    """
    keep = 0.5 ** (1 / FORGETTING_HALF_LIFE)
    average, predicted = mean, np.empty_like(test)
    for step, load in enumerate(test):
        predicted[step] = average - mean
        average = keep * average + (1 - keep) * load
    actual = test - mean
    return float((predicted * actual).sum() ** 2 / ((predicted**2).sum() * (actual**2).sum()))


def autocorrelation(test: Floats) -> list[float]:
    """The autocorrelation of loads one step apart, and its half-life: after how many more steps half of it is left.

    Loads count as deviations from their mean over the test batches; covariances are summed over experts. The half-life
    is interpolated between steps. Lag 0 is left out, as it contains the chance of each single choice.
    """
    deviation = test - test.mean(axis=0)
    variance = (deviation**2).mean(axis=0).sum()
    by_lag = [
        (deviation[lag:] * deviation[:-lag]).mean(axis=0).sum() / variance for lag in range(1, len(deviation) // 2)
    ]
    half = by_lag[0] / 2
    late = next(lag for lag, value in enumerate(by_lag) if value <= half)
    before, after = by_lag[late - 1], by_lag[late]
    return [float(by_lag[0]), float(late - 1 + (before - half) / (before - after))]


def table(folder: Path) -> dict[str, list[float]]:
    """All columns by name: the stated figures, DeepSeek-V3 generated, and two models generated and recorded."""
    columns, home = dict(STATED), load_model("deepseek-v3")
    equal = {name: np.full(requests, LENGTH) for name, requests in GENERATED.items()}
    columns["V3 made"] = figures(generated(home, equal), home, np.random.default_rng(0))
    columns["V3 built-in"] = figures(built_in(home), home, np.random.default_rng(0))
    for name, short in (("deepseek-v2-lite", "V2-Lite"), ("gpt-oss-20b", "GPT-OSS")):
        model = load_model(name)
        recorded = real(folder / name, model)
        lengths = {part: np.diff(data.offsets) for part, data in recorded.items()}
        columns[f"{short} made"] = figures(generated(model, lengths), model, np.random.default_rng(0))
        columns[f"{short} real"] = figures(list(recorded.values()), model, np.random.default_rng(0))
    return columns


if __name__ == "__main__":
    columns = table(Path(sys.argv[1]))
    print(" " * 32 + "".join(f"{name:>14}" for name in columns))
    for row, label in enumerate(FIGURES):
        values = (column[row] for column in columns.values())
        print(f"{label:32}" + "".join(f"{value:14.3f}" if value == value else " " * 13 + "-" for value in values))
    print(STATED_RANGES)
