"""Several data sets for one plan: what the user named, with which weights; batches mixed from them; their drift."""

import glob
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.errors import InputError
from optimizer.traces.batches import Batches, Sets
from optimizer.traces.composition import PHASES
from optimizer.traces.source import TraceInput

ALL = "all"  # the name of the only data set, where nobody named one
MIX, ROBUST = "mix", "robust"  # plans made on all of them together, and chosen for all of them


@dataclass(frozen=True)
class DataSet:
    """One data set and its share of the mix."""

    name: str
    named: TraceInput
    weight: float


def datasets_of(traces: Sequence[str]) -> dict[str, tuple[str, ...]] | None:
    """The paths of each data set in the order of naming, from `NAME=PATH`; None where all are plain paths.

    Several of one name are joined. A path with a `=` of its own is a plain one if it is there, or as a glob finds
    something. Raises InputError for plain paths beside named ones, and for what is no name or path.
    """
    named = [text for text in traces if "=" in text and not (Path(text).exists() or glob.glob(text, recursive=True))]
    plain = [text for text in traces if text not in named]
    if not named:
        return None
    if plain:
        said = f"{plain[0]}: a plain path beside data set {named[0]}; write NAME=PATH for all or for none"
        raise InputError(said, "traces")
    found: dict[str, tuple[str, ...]] = {}
    for text in named:
        name, _, path = text.partition("=")
        if not (path and _may_be_a_name(name)):
            raise InputError(
                f"{text}: neither a path that is there nor a data set; write NAME=PATH, like code=traces/code",
                "traces",
            )
        found[name] = (*found.get(name, ()), path)
    return found


def _may_be_a_name(text: str) -> bool:
    """Whether it can be told from a path, from several names and from what other plans are called."""
    plain = text == text.strip() and text.isprintable() and not {*"/\\,"} & {*text}
    return plain and bool(text) and text != ROBUST and text.split()[0] != MIX


def phases_of(text: str | None) -> tuple[str, ...]:
    """The phases in `decode,prefill`; decode for None. Raises InputError for an unknown one and for one said twice."""
    phases = ("decode",) if text is None else tuple(part.strip() for part in text.split(","))
    strange = [phase for phase in phases if phase not in PHASES]
    if strange:
        raise InputError(f"phase '{strange[0]}' is not known; there are {', '.join(PHASES)}", "phase")
    if len(set(phases)) < len(phases):
        raise InputError(f"'{text}' names a phase twice; name each once", "phase")
    return phases


def weights_of(text: str | None) -> dict[str, float] | None:
    """Weights from `code=3,chat=1`; None for None. Raises InputError for what is no weight, and for a name twice."""
    if text is None:
        return None
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.rpartition("=")
        weight = _number(number)
        if not name.strip() or name.strip() in found or not 0 <= weight < math.inf:
            said = f"'{text}': '{part}' gives no data set a weight; write it like code=3,chat=1"
            raise InputError(said, "weights")
        found[name.strip()] = weight
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def datasets(named: TraceInput, phases: Sequence[str], weights: Mapping[str, float] | None = None) -> list[DataSet]:
    """A data set for each name and phase, names and phases in the order given, with weights that add up to 1.

    Where there are several phases they are called `code decode` and so on, or by the phase alone where no data set was
    named. weights: one for each data set, or one for each name or each phase, which those that have it share alike;
    None: all are alike. All split their requests by the seed of `named`, so that the phases of a data set, which are of
    the same requests, split them alike. Raises InputError for weights of anything else, for several phases of a batch
    file, and for data sets that have a file in common, as one would be planned on what the other is judged on.
    """
    if named.batches is not None and len(phases) > 1:
        raise InputError(
            f"the batches of {named.batches} are what they are; name one phase, not {', '.join(phases)}", "phase"
        )
    sets = datasets_of(named.traces)
    named_paths = sets or {ALL: tuple(named.traces)}
    parts = {name: replace(named, traces=paths) for name, paths in named_paths.items()}
    _check_apart(parts)
    labels = [(_full_name(name, phase, len(phases), sets is None), name, phase) for name in parts for phase in phases]
    shares = _weights(labels, weights)
    return [
        DataSet(full, replace(parts[name], phase=phase), share)
        for (full, name, phase), share in zip(labels, shares, strict=True)
    ]


def _full_name(name: str, phase: str, phases: int, unnamed: bool) -> str:
    if phases == 1:
        return name
    return phase if unnamed else f"{name} {phase}"


def _check_apart(parts: Mapping[str, TraceInput]) -> None:
    owner: dict[Path, str] = {}
    for name, part in parts.items() if len(parts) > 1 else ():
        for file in part.files:
            other = owner.setdefault(file.path.resolve(), name)
            if other != name:
                said = f"{file.path}: is in data set {other} and in {name}; leave it out of one of them"
                raise InputError(said, "traces")


def _weights(labels: Sequence[tuple[str, str, str]], weights: Mapping[str, float] | None) -> list[float]:
    """For labels (data set, name, phase); weights of any one of the three, complete."""
    if weights is None:
        return [1 / len(labels)] * len(labels)
    kinds = [list(kind) for kind in zip(*labels, strict=True)]
    fitting = [kind for kind in kinds if set(kind) == set(weights)]
    if not fitting:
        wanted = min(kinds, key=lambda kind: len(set(kind) ^ set(weights)))
        strange = [name for name in weights if name not in wanted] or [name for name in wanted if name not in weights]
        fault = "is no data set" if strange[0] in weights else "has no weight"
        every = ", ".join(dict.fromkeys(wanted))
        raise InputError(f"'{strange[0]}' {fault}; give a weight to each of {every}", "weights")
    total = sum(weights.values())
    if total <= 0:
        raise InputError("the weights are all 0; give at least one data set more", "weights")
    return [weights[name] / fitting[0].count(name) / total for name in fitting[0]]


def mixes(weights: Mapping[str, float]) -> dict[str, list[float]]:
    """Weights `[data set]` of the mix of all, and of each mix without one, for weights by name.

    What is planned on the latter shows how a plan does on data that it was not made for. There are none with fewer than
    three data sets, as one alone is no mix.
    """
    found = {MIX: list(weights.values())} if len(weights) > 1 else {}
    for name in weights if len(weights) > 2 else ():
        others = [0.0 if other == name else weight for other, weight in weights.items()]
        found[mix_without(name)] = others if any(others) else [float(other != name) for other in weights]
    return found


def mix_without(name: str) -> str:
    """What plans made on all data sets but one are called."""
    return f"{MIX} without {name}"


def mixed(sets: Sequence[Sets], weights: Sequence[float], seed: int) -> Sets:
    """Train, selection and test batches of several data sets in proportion to their weights, of which some may be 0.

    Each part has as many batches as the largest of those mixed. Batches are taken whole, each of a data set's once
    before any comes again; those of a data set stay in their order, and any stretch of the mix is in proportion.
    Raises InputError where batches differ in size.
    """
    turns = enumerate(zip(*sets, strict=True))
    return Sets(*(_mixed(parts, weights, np.random.default_rng([seed, turn])) for turn, parts in turns))


def _mixed(given: Sequence[Batches], weights: Sequence[float], rng: np.random.Generator) -> Batches:
    taken = [place for place, weight in enumerate(weights) if weight > 0]
    parts = [given[place] for place in taken]
    sizes = sorted({part.tokens for part in parts})
    if len(sizes) > 1:
        said = f"batches of {sizes[0]} and of {sizes[1]} tokens cannot be mixed; give all the same number of tokens"
        raise InputError(said, "batch_tokens")
    total = max(part.count for part in parts)
    numbers = _shared_out(total, np.array(weights)[taken])
    drawn = [_draw(part.count, number, rng) for part, number in zip(parts, numbers.tolist(), strict=True)]
    order = np.argsort(np.concatenate([(np.arange(n) + 0.5) / max(n, 1) for n in numbers]), kind="stable")

    def joined(arrays: Sequence[Any]) -> Any:
        return np.concatenate([array[index] for array, index in zip(arrays, drawn, strict=True)])[order]

    def joined_extras(arrays: Sequence[Any]) -> Any:
        """What not all have, or not equally much of, none has."""
        alike = len({None if array is None else array.shape[2] for array in arrays}) == 1
        return joined(arrays) if alike and arrays[0] is not None else None

    return Batches(
        joined([part.experts for part in parts]),
        joined([part.source_row for part in parts]),
        joined_extras([part.weights for part in parts]),
        joined_extras([part.candidates for part in parts]),
    )


def _shared_out(total: int, weights: Floats) -> Ints:
    """Whole numbers in proportion to weights, which add up to total: by largest remainders."""
    exact = total * weights / weights.sum()
    numbers: Ints = np.floor(exact).astype(np.int64)
    numbers[np.argsort(numbers - exact, kind="stable")[: total - numbers.sum()]] += 1
    return numbers


def _draw(count: int, number: int, rng: np.random.Generator) -> Ints:
    """Of 0..count-1 so many, ascending, none twice before all are there."""
    rounds, rest = divmod(number, count)
    drawn: Ints = np.concatenate([np.tile(np.arange(count), rounds), rng.choice(count, rest, replace=False)])
    drawn.sort()
    return drawn
