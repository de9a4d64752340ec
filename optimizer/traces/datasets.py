"""Several data sets for one plan: which there are, with which weights, and batches that are mixed from them."""

import glob
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from formulations.kit.arrays import Floats, Ints
from optimizer.errors import InputError
from optimizer.streams import Purpose, random_stream
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
    """Read the paths of each data set, in the order of naming, from `NAME=PATH`; None where all are plain paths.

    Several paths of one name are joined. A path that contains `=` itself is a plain one if it exists, or finds
    something as a glob. Raises InputError for plain paths beside named ones, and for what is no name or path.
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
    """Whether a data set may have this name: it is no path, no list of names, and no name that plans have already."""
    plain = text == text.strip() and text.isprintable() and not {*"/\\,"} & {*text}
    return plain and bool(text) and text != ROBUST and text.split()[0] != MIX


def phases_of(text: str | None) -> tuple[str, ...]:
    """Read phases from text like `decode,prefill`; None means decode.

    Raises InputError for an unknown phase, and for one that is named twice.
    """
    phases = ("decode",) if text is None else tuple(part.strip() for part in text.split(","))
    strange = [phase for phase in phases if phase not in PHASES]
    if strange:
        raise InputError(f"phase '{strange[0]}' is not known; there are {', '.join(PHASES)}", "phase")
    if len(set(phases)) < len(phases):
        raise InputError(f"'{text}' names a phase twice; name each once", "phase")
    return phases


def weights_of(text: str | None) -> dict[str, float] | None:
    """Read weights from text like `code=3,chat=1`; None where there is no text.

    Raises InputError for what is no weight, and for a name that has two.
    """
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
    """The number that a text is, or NaN, which no comparison lets by."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def data_sets(
    parts: Mapping[str, TraceInput],
    phases: Sequence[str],
    weights: Mapping[str, float] | None = None,
    named: bool = True,
) -> list[DataSet]:
    """Make a data set of each of the named traces in each phase, in the order given, with weights that add up to 1.

    Where there are several phases the data sets are called `code decode` and so on, or by the phase alone where nobody
    named the traces (`named` is false). weights: one for each data set, or one for each name or for each phase, which
    is shared out evenly over the data sets that have this name or phase; None gives all the same weight. The phases of
    one name have the same requests, and split them by the seed of the traces, so in the same way. Raises InputError for
    weights of anything else, for several phases of a batch file, and for data sets that have a file in common, as one
    would be planned on what the other is judged on.
    """
    batches = [part.batches for part in parts.values() if part.batches is not None]
    if batches and len(phases) > 1:
        raise InputError(
            f"the batches of {batches[0]} are what they are; name one phase, not {', '.join(phases)}", "phase"
        )
    _check_apart(parts)
    names = dataset_names(list(parts), phases, named)
    labels = [(full, name, phase) for full, (name, phase) in zip(names, product(parts, phases), strict=True)]
    shares = _weights(labels, weights)
    return [
        DataSet(full, replace(parts[name], phase=phase), share)
        for (full, name, phase), share in zip(labels, shares, strict=True)
    ]


def dataset_names(names: Sequence[str], phases: Sequence[str], named: bool = True) -> list[str]:
    """What the data sets of some traces in some phases are called: each phase of each of the traces in turn."""
    if len(phases) == 1:
        return list(names)
    return [f"{name} {phase}" if named else phase for name, phase in product(names, phases)]


def _check_apart(parts: Mapping[str, TraceInput]) -> None:
    """Raise InputError where a file belongs to two data sets."""
    owner: dict[Path, str] = {}
    for name, part in parts.items() if len(parts) > 1 else ():
        for file in part.files:
            other = owner.setdefault(file.path.resolve(), name)
            if other != name:
                said = f"{file.path}: is in data set {other} and in {name}; leave it out of one of them"
                raise InputError(said, "traces")


def _weights(labels: Sequence[tuple[str, str, str]], weights: Mapping[str, float] | None) -> list[float]:
    """Each data set's share, for labels (data set, name, phase); weights are of all of one kind."""
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
    """List the mixes to plan on, by name, with the weight of each data set in them, `[data set]`.

    There is the mix of all data sets, and for each data set the mix without it: a plan made on that shows how well
    plans do on data that they were not made for. With two data sets there are no mixes without one, as one data set
    alone is no mix; with one there is no mix at all.
    """
    found = {MIX: list(weights.values())} if len(weights) > 1 else {}
    for name in weights if len(weights) > 2 else ():
        others = [0.0 if other == name else weight for other, weight in weights.items()]
        found[mix_without(name)] = others if any(others) else [float(other != name) for other in weights]
    return found


def mix_without(name: str) -> str:
    """The name of the mix of all data sets but one."""
    return f"{MIX} without {name}"


def mixed(sets: Sequence[Sets], weights: Sequence[float], seed: int) -> Sets:
    """Mix the batches of several data sets in proportion to their weights, some of which may be 0.

    Each part (train, selection, test) has as many batches as the largest of those mixed into it. Batches are taken
    whole, and each of a data set's batches once before any comes again. Those of a data set stay in their order, and
    every stretch of the mix is in proportion. Raises InputError where batches differ in size.
    """
    turns = enumerate(zip(*sets, strict=True))
    return Sets(*(_mixed(parts, weights, random_stream(Purpose.MIXED_DATA_SETS, seed, turn)) for turn, parts in turns))


def _mixed(given: Sequence[Batches], weights: Sequence[float], rng: np.random.Generator) -> Batches:
    """Mix one part of several data sets, such as their train batches."""
    taken = [place for place, weight in enumerate(weights) if weight > 0]
    parts = [given[place] for place in taken]
    sizes = sorted({part.tokens for part in parts})
    if len(sizes) > 1:
        said = f"batches of {sizes[0]} and of {sizes[1]} tokens cannot be mixed; give all the same number of tokens"
        raise InputError(said, "batch_tokens")
    total = max(part.count for part in parts)
    numbers = shared_out(total, np.array(weights)[taken])
    drawn = [_draw(part.count, number, rng) for part, number in zip(parts, numbers.tolist(), strict=True)]
    order = np.argsort(np.concatenate([(np.arange(n) + 0.5) / max(n, 1) for n in numbers]), kind="stable")

    def joined(arrays: Sequence[Any]) -> Any:
        return np.concatenate([array[index] for array, index in zip(arrays, drawn, strict=True)])[order]

    def joined_extras(arrays: Sequence[Any]) -> Any:
        """Join arrays that all data sets have, with equally many entries for a token; None where they do not."""
        alike = len({None if array is None else array.shape[2] for array in arrays}) == 1
        return joined(arrays) if alike and arrays[0] is not None else None

    return Batches(
        joined([part.experts for part in parts]),
        joined([part.source_row for part in parts]),
        joined_extras([part.weights for part in parts]),
        joined_extras([part.candidates for part in parts]),
        None if any(part.source is None for part in parts) else joined([part.source for part in parts]),
    )


def shared_out(total: int, weights: Floats) -> Ints:
    """Whole numbers that add up to `total`, in proportion to weights, by the method of largest remainders."""
    exact = total * weights / weights.sum()
    numbers: Ints = np.floor(exact).astype(np.int64)
    numbers[np.argsort(numbers - exact, kind="stable")[: total - numbers.sum()]] += 1
    return numbers


def _draw(count: int, number: int, rng: np.random.Generator) -> Ints:
    """Draw `number` of 0..count-1, in ascending order; none comes a second time before all have come once."""
    rounds, rest = divmod(number, count)
    drawn: Ints = np.concatenate([np.tile(np.arange(count), rounds), rng.choice(count, rest, replace=False)])
    drawn.sort()
    return drawn
