"""Where a server's experts are, as its own file says: one neutral form for all formats."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.arrays import fitting, frozen
from optimizer.errors import InputError

Numbering = Literal["model", "moe"]
"""Whether layer ids count all hidden layers of the model, dense ones included, or only those with experts."""


@dataclass(frozen=True, eq=False)
class ServerPlacement:
    """The experts in the physical slots of several layers.

    physical_to_logical `[layer, slot]` int32: the expert in each slot, -1 in an empty one. Slots are numbered rank by
    rank, all ranks having equally many, so slot p is on rank p // (slots / ranks). layers: the id of each of its rows.
    numbering: what these ids count; see `numbered`. experts: how many experts there are, shared ones included where the
    format names them. ranks: how many, None where the file does not say. dispatch `[layer, source device, expert]`
    int32: the device to which each source device sends, None where the format has no such table. log2phy
    `[layer, expert, entry]` int32: the slots of each expert, some repeated by their shares, padded with -1; None
    likewise. routed: how many of the experts are routed ones, None where the format does not tell. remarks: what is odd
    about the file, though it can be used, in a sentence each.

    What a file says may be wrong: `optimizer.exchange.faults` tells. Arrays are copied and read-only. Raises ValueError
    for arrays of other shapes or types.
    """

    format: str
    layers: tuple[int, ...]
    physical_to_logical: Ints
    experts: int
    ranks: int | None = None
    numbering: Numbering = "model"
    dispatch: Ints | None = None
    log2phy: Ints | None = None
    routed: int | None = None
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        limit = -(2**31)
        rows = len(self.layers)
        for name, axes in (("physical_to_logical", 2), ("dispatch", 3), ("log2phy", 3)):
            given = getattr(self, name)
            if given is None:
                continue
            if given.ndim != axes or len(given) != rows:
                raise ValueError(f"{name} {list(given.shape)} does not have a row for each of {rows} layers")
            object.__setattr__(self, name, frozen(fitting(name, given, np.int32, lowest=limit)))

    @property
    def slots(self) -> int:
        """How many slots a layer has on all ranks together."""
        return int(self.physical_to_logical.shape[1])

    def row(self, layer: int) -> Ints:
        """The experts of one layer's slots, `[slot]`. Raises InputError where the file has no such layer."""
        if layer not in self.layers:
            there = f"{self.layers[0]}..{self.layers[-1]}" if self.layers else "none"
            raise InputError(f"the placement has no layer {layer}, but {there}", "layer")
        found: Ints = self.physical_to_logical[self.layers.index(layer)]
        return found

    def numbered(self, first_moe_layer: int) -> "ServerPlacement":
        """The same placement with the model's own layer ids, where the file counts only layers with experts.

        first_moe_layer: the model's first layer with experts, all later ones having experts too.
        """
        if self.numbering == "model":
            return self
        layers = tuple(first_moe_layer + layer for layer in self.layers)
        return replace(self, layers=layers, numbering="model")

    def on_ranks(self, ranks: int) -> "ServerPlacement":
        """The same placement on so many ranks.

        Raises InputError where the file says another number, or the slots cannot be dealt out to the ranks evenly.
        """
        if self.ranks not in (None, ranks):
            raise InputError(f"the file is for {self.ranks} ranks, not for {ranks}", "mesh")
        if self.slots % ranks:
            raise InputError(f"{self.slots} slots are not divisible by {ranks} ranks", "mesh")
        return replace(self, ranks=ranks)

    def by_rank(self) -> Ints:
        """The experts by rank, `[layer, rank, slot]`. Raises InputError where the number of ranks is not known."""
        if self.ranks is None:
            raise InputError(f"the file does not say on how many ranks its {self.slots} slots are", "ranks")
        found: Ints = self.on_ranks(self.ranks).physical_to_logical.reshape(len(self.layers), self.ranks, -1)
        return found
