"""OmniInfer's placement pattern: a `.npy` of int32, 1 where a device holds an expert of a layer and 0 elsewhere,
`[device, MoE layer, expert]`. Which slot of its device an expert has is not said: the server takes ascending ids."""

import io
from pathlib import Path

import numpy as np

from optimizer.errors import InputError
from optimizer.exchange.arrays import held, slots_of
from optimizer.exchange.reading import npy_of
from optimizer.exchange.server_placement import ServerPlacement

NAME = "omniinfer"


def read(path: Path) -> ServerPlacement:
    """The placement in a file. Raises InputError for what is no such file."""
    pattern = npy_of(path)
    if pattern.ndim != 3:
        raise InputError(f"{path}: has {pattern.ndim} axes instead of [device, MoE layer, expert]")
    wrong = np.argwhere((pattern != 0) & (pattern != 1))
    if len(wrong):
        device, layer, expert = wrong[0].tolist()
        said = f"device {device}, layer {layer}, expert {expert} is {pattern[device, layer, expert]}"
        raise InputError(f"{path}: {said}, but a pattern holds 0 and 1 alone")
    devices, layers, experts = pattern.shape
    table = slots_of(pattern.transpose(1, 0, 2) == 1)
    return ServerPlacement(NAME, tuple(range(layers)), table, experts, devices, "moe")


def content(placement: ServerPlacement) -> bytes:
    """The file that holds a placement of all MoE layers."""
    pattern = held(placement.by_rank(), placement.experts).transpose(1, 0, 2)
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(pattern, dtype=np.int32), allow_pickle=False)
    return file.getvalue()
