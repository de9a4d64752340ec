"""The requests, or the steps of counts, of a file that was found in the folder, read while others may still write,
damage or remove it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.traces.corpus import Faults, TraceFile, told_apart, usable
from optimizer.traces.formats.counts import CountsReading, read_counts
from optimizer.traces.formats.request import BadRequestError
from optimizer.traces.formats.sniff import COUNTS_ONLY
from optimizer.traces.mending import AS_RECORDED, Mender

Kind = Literal["requests", "steps"]
"""What a watch takes: requests with their tokens, or steps of counts."""


@dataclass(frozen=True, eq=False, slots=True)
class RecentRequest:
    """The recorded tokens of one request.

    name: of its file; index: its place among the good requests of the file; number: its place among all that were
    counted. experts `[token, layer, k]` routed ids; the first prompt_tokens tokens are the prompt.
    """

    name: str
    index: int
    number: int
    experts: Ints
    prompt_tokens: int

    def of_phase(self, phase: str) -> Ints:
        """The experts of the tokens that batches of a phase are made of, `[token, layer, k]`."""
        parts = {"decode": self.experts[self.prompt_tokens :], "prefill": self.experts[: self.prompt_tokens]}
        wanted = parts.get(phase, self.experts)
        return wanted if len(wanted) else self.experts

    @property
    def kind(self) -> Kind:
        """The word for what this is a record of: a request with its tokens."""
        return "requests"

    @property
    def nbytes(self) -> int:
        """The bytes that it takes in memory."""
        return self.experts.nbytes

    def load(self, phase: str, routed_experts: int) -> Ints:
        """The pairs of each expert in the tokens that batches of a phase are made of, `[layer, expert]`."""
        experts = self.of_phase(phase)
        layers = experts.shape[1]
        place = experts.astype(np.int64) + routed_experts * np.arange(layers)[:, None]
        counted = np.bincount(place.ravel(), minlength=layers * routed_experts)
        return counted.reshape(layers, routed_experts)

    def placed(self, name: str, index: int, number: int) -> "RecentRequest":
        """The same request as one of a file, and of all that were counted."""
        return replace(self, name=name, index=index, number=number)


@dataclass(frozen=True, eq=False, slots=True)
class RecentStep:
    """A step of counts: the pairs of each expert, `[layer, expert]`, at least one in each layer; the other fields are
    as of `RecentRequest`."""

    name: str
    index: int
    number: int
    counted: Ints

    @property
    def kind(self) -> Kind:
        """The word for what this is a record of: a step of counts without tokens."""
        return "steps"

    @property
    def nbytes(self) -> int:
        """The bytes that it takes in memory."""
        return self.counted.nbytes

    def load(self, phase: str, routed_experts: int) -> Ints:
        """The pairs of each expert, `[layer, expert]`, of all phases: counts do not tell them apart."""
        return self.counted

    def placed(self, name: str, index: int, number: int) -> "RecentStep":
        """The same step as one of a file, and of all that were counted."""
        return replace(self, name=name, index=index, number=number)


Recent = RecentRequest | RecentStep
"""What is counted and planned on."""

OTHER_KIND = {
    "requests": "holds counts, but this watch takes requests with their tokens, which it found first; watch counts for "
    "another plan",
    "steps": "holds requests with their tokens, but this watch takes counts, which it found first; watch requests for "
    "another plan",
}
"""What is wrong with a file of another kind than those that were counted, by the kind of these."""


@dataclass(frozen=True)
class Reader:
    """Reads the layers of a model that are watched. first_moe_layer: as of `TraceInput`."""

    folder: Path
    model: Model
    layers: tuple[int, ...]
    first_moe_layer: int | None = None

    def read(self, name: str, start: int, number: int, faults: Faults, kind: Kind | None = None) -> Iterator[Recent]:
        """Yield the good requests, or the steps, of a file from the start-th on, the first of which gets this number;
        of requests one is in memory at a time. kind: the only one that is taken, None for either. Whatever is wrong
        goes to `faults`: nothing is raised for a bad file."""
        path = self.folder / name
        try:
            file = told_apart(path)
            counts = file.format in COUNTS_ONLY
            if kind is not None and file.format is not None and counts != (kind == "steps"):
                raise InputError(OTHER_KIND[kind])
            found: Iterator[Recent] = self._steps(file) if counts else self._requests(file, faults)
            for index, each in enumerate(found):
                if index >= start:
                    yield each.placed(name, index, number + index - start)
        except (InputError, OSError) as error:
            faults.add(path, BadRequestError(str(error).removeprefix(f"{path}: ")))

    def _requests(self, file: TraceFile, faults: Faults) -> Iterator[RecentRequest]:
        """The good requests of a file, not numbered yet."""
        mender = Mender(AS_RECORDED, self.model, self.first_moe_layer)
        for _, _, kept in usable([file], mender, self.layers, faults):
            experts, prompt = kept.of_recorded()
            yield RecentRequest("", 0, 0, np.array(experts), prompt)

    def _steps(self, file: TraceFile) -> Iterator[RecentStep]:
        """The steps of a file that counted something in all watched layers, not numbered yet. Raises InputError for a
        file that cannot be used."""
        assert file.format is not None
        counts = read_counts(file.path, file.format, CountsReading(self.first_moe_layer, self.model))
        if lacking := sorted(set(self.layers) - set(counts.layers)):
            raise InputError(f"counts nothing of layer {lacking[0]}")
        experts, routed = counts.load.shape[2], self.model.routed_experts
        if experts != routed:
            raise InputError(f"counts {experts} experts, not {routed}")
        places = [counts.layers.index(layer) for layer in self.layers]
        for load in counts.load[:, places]:
            if load.sum(axis=1).all():
                yield RecentStep("", 0, 0, load.copy())
