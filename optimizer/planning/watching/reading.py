"""The requests of a file that was found in the folder, read while others may still write, damage or remove it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.traces.corpus import Faults, told_apart, usable
from optimizer.traces.formats.request import BadRequestError
from optimizer.traces.formats.sniff import COUNTS_ONLY
from optimizer.traces.mending import AS_RECORDED, Mender


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

    def numbered(self, number: int) -> "RecentRequest":
        """The same request with another number."""
        return replace(self, number=number)


@dataclass(frozen=True)
class Reader:
    """Reads the layers of a model that are watched. first_moe_layer: as of `TraceInput`."""

    folder: Path
    model: Model
    layers: tuple[int, ...]
    first_moe_layer: int | None = None

    def read(self, name: str, start: int, number: int, faults: Faults) -> Iterator[RecentRequest]:
        """Yield the good requests of a file from the start-th on, the first of which gets this number; one is in memory
        at a time. Whatever is wrong goes to `faults`: nothing is raised for a bad file."""
        path = self.folder / name
        mender = Mender(AS_RECORDED, self.model, self.first_moe_layer)
        try:
            file = told_apart(path)
            if file.format in COUNTS_ONLY:
                raise InputError(f"holds counts; batches to judge by need what each token chose ({file.format})")
            for index, (_, _, kept) in enumerate(usable([file], mender, self.layers, faults)):
                if index >= start:
                    experts, prompt = kept.of_recorded()
                    yield RecentRequest(name, index, number + index - start, np.array(experts), prompt)
        except (InputError, OSError) as error:
            faults.add(path, BadRequestError(str(error).removeprefix(f"{path}: ")))
