"""TensorRT-LLM's expert statistics: a folder with `meta_info.json` and one `rank{r}.safetensors` a rank."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import safe_open

from formulations.kit.arrays import Ints
from optimizer.traces.formats.raw_counts import RawCounts
from optimizer.traces.formats.untrusted import Array, UnusableError, count_from, counts_from, json_values

RANK = re.compile(r"rank([0-9]{1,6})\.safetensors")  # other files of a rank have longer names, and hold no counts
KEY = re.compile(r"([0-9]{1,9})_([0-9]{1,9})")


def read_statistics(path: Path) -> RawCounts:
    """Read the folder of all ranks' statistics, in which every iteration becomes a step.

    The numbers of experts and of experts per token are taken from its meta_info.json, the iterations and layers from
    the keys `{iteration}_{layer}` themselves. A rank may lack a key, but all ranks together must have every one.
    """
    meta = next((value for _, value in json_values(path / "meta_info.json")), None)
    experts, top_k = count_from(meta, "num_experts"), count_from(meta, "num_experts_per_token")
    if not experts:
        raise UnusableError("meta_info.json has no num_experts")
    load: dict[tuple[int, int], Ints] = {}
    files = _rank_files(path)
    for file in files:
        for key, counts in _tensors(file):
            place = _place(file, key)
            if counts.shape != (experts,):
                raise UnusableError(f"{file.name}: {key} has shape {counts.shape}, not {experts} experts")
            load[place] = load.get(place, 0) + counts_from(counts, f"{file.name}: {key}")
    iterations, layers = (tuple(sorted({place[axis] for place in load})) for axis in (0, 1))
    if not load or len(load) != len(iterations) * len(layers):
        raise UnusableError("not every iteration has every layer in the keys of its rank files")
    stacked = np.stack([load[iteration, layer] for iteration in iterations for layer in layers])
    return RawCounts(
        stacked.reshape(len(iterations), len(layers), experts),
        layers,
        None,
        top_k or None,
        tuple(f"iteration {iteration}" for iteration in iterations),
        (f"the counts of {len(files)} ranks were added up",) if len(files) > 1 else (),
    )


def _rank_files(path: Path) -> list[Path]:
    """The files of ranks 0..n-1, none of which may be missing, as its tokens would be missing in every count."""
    files = {int(found[1]): file for file in path.iterdir() if (found := RANK.fullmatch(file.name))}
    missing = [rank for rank in range(len(files)) if rank not in files]
    if missing or not files:
        raise UnusableError(f"has no rank{missing[0] if missing else 0}.safetensors")
    return [files[rank] for rank in sorted(files)]


def _place(file: Path, key: str) -> tuple[int, int]:
    """The iteration and the layer that a key names."""
    found = KEY.fullmatch(key)
    if not found:
        raise UnusableError(f"{file.name}: key {key[:40]!r} is not of the form iteration_layer")
    return int(found[1]), int(found[2])


def _tensors(file: Path) -> Iterator[tuple[str, Array]]:
    """Yield each key of a rank's file with its array."""
    try:
        with safe_open(str(file), framework="np") as held:
            for key in held.keys():  # noqa: SIM118  (it is no dictionary)
                yield key, held.get_tensor(key)
    except Exception:  # safetensors and numpy raise several kinds for damaged files and foreign types
        raise UnusableError(f"{file.name} is not a whole safetensors file of numbers") from None
