"""How much generated traces look like real ones.

Usage: python benchmarks/calibration.py FOLDER, where FOLDER holds deepseek-v2-lite/ and gpt-oss-20b/, each with a
folder of native request files for each data set. There is one column for each corpus, and all are measured in the same
way: lift, overlap and shares over all data sets together, request variation as the mean over data sets, and the last
line as the mean over pairs of data sets.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.domain.model import Model
from optimizer.domain.presets import load_model
from optimizer.traces.corpus import find_files, read_traces
from optimizer.traces.synthetic.generator import calibrated_gates, generate

LAYER = 12
GENERATED = {"": 200, "law": 200, "maths": 200, "code": 200}  # requests of each data set
LENGTH = 100
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
]
NAN = float("nan")
STATED = {
    "fit, stated": [0.24, 0.54, 0.86, 1.29, 2.25, 3.25, NAN, 0.22, NAN, NAN, NAN, NAN, NAN, NAN],
    "real, stated": [0.27, 0.59, 0.87, 1.22, 2.15, 3.5, 1.6, 0.2, NAN, NAN, NAN, 5.2, 0.32, NAN],
}
STATED_RANGES = "stated ranges: overlap .29-.43, .17-.29, .12-.19 (32 and 64 experts); between data sets .15-.3"


@dataclass(frozen=True, eq=False)
class DataSet:
    """One layer of one data set: experts `[token, k]`; request r has the tokens offsets[r]:offsets[r + 1]."""

    experts: Ints
    offsets: Ints


def real(folder: Path, model: Model) -> list[DataSet]:
    """One layer of each data set of a recorded corpus."""
    traces = [read_traces(find_files([str(part)]), model, [LAYER]) for part in sorted(folder.iterdir())]
    return [DataSet(trace.layer(LAYER), trace.offsets) for trace in traces]


def generated(model: Model) -> list[DataSet]:
    """One layer of each of the GENERATED data sets, of which the first has no topic."""
    gates = calibrated_gates(model, [LAYER], 0)
    return [
        DataSet(
            generate(gates, name, np.arange(requests), np.full(requests, LENGTH)).experts[:, 0],
            np.arange(requests + 1) * LENGTH,
        )
        for name, requests in GENERATED.items()
    ]


def figures(sets: Sequence[DataSet], model: Model, rng: np.random.Generator) -> list[float]:
    """The values of FIGURES for a corpus."""
    everything = np.concatenate([part.experts for part in sets])
    counts = np.sort(np.bincount(everything.ravel(), minlength=model.routed_experts))[::-1]
    hot = counts[: model.routed_experts // 8].sum() / counts.sum()
    shares = [chosen(part.experts, model).mean(axis=0) / model.top_k for part in sets]
    apart = [0.5 * np.abs(one - other).sum() for one, other in combinations(shares, 2)]
    unusual = [request_variation(part, model, rng) for part in sets]
    return [
        *lifts(everything, model),
        float(np.mean(unusual)),
        *overlaps(sets, rng),
        counts[0] / counts.mean(),
        hot,
        float(np.mean(apart)),
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


def table(folder: Path) -> dict[str, list[float]]:
    """All columns by name: the stated figures, DeepSeek-V3 generated, and two models generated and recorded."""
    columns, home = dict(STATED), load_model("deepseek-v3")
    columns["V3 made"] = figures(generated(home), home, np.random.default_rng(0))
    for name, short in (("deepseek-v2-lite", "V2-Lite"), ("gpt-oss-20b", "GPT-OSS")):
        model = load_model(name)
        columns[f"{short} made"] = figures(generated(model), model, np.random.default_rng(0))
        columns[f"{short} real"] = figures(real(folder / name, model), model, np.random.default_rng(0))
    return columns


if __name__ == "__main__":
    columns = table(Path(sys.argv[1]))
    print(" " * 30 + "".join(f"{name:>14}" for name in columns))
    for row, label in enumerate(FIGURES):
        values = (column[row] for column in columns.values())
        print(f"{label:30}" + "".join(f"{value:14.3f}" if value == value else " " * 13 + "-" for value in values))
    print(STATED_RANGES)
