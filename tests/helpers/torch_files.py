"""Files as `torch.save` writes them, made without torch: the archive, its description, and a member for each tensor."""

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

STORAGES = {"i8": "Long", "i4": "Int", "i2": "Short", "u1": "Byte", "f4": "Float", "f8": "Double", "b1": "Bool"}


def torch_bytes(held: Any) -> bytes:
    """What `torch.save` writes for nested dicts and lists, in which numpy arrays stand for tensors."""
    members: list[bytes] = []
    description = _described(held, members)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("file/data.pkl", description)
        archive.writestr("file/byteorder", "little")
        for number, content in enumerate(members):
            archive.writestr(f"file/data/{number}", content)
        archive.writestr("file/version", "3\n")
    return file.getvalue()


def write_torch(path: Path, held: Any) -> Path:
    """Write `torch_bytes` to a file."""
    path.write_bytes(torch_bytes(held))
    return path


def _described(held: Any, members: list[bytes]) -> bytes:
    """The description, by the standard library's pickler with stand-ins for what torch's tensors name."""
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")

    def rebuild(*_: object) -> None: ...

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils.__dict__["_rebuild_tensor_v2"] = rebuild
    torch.__dict__["_utils"] = utils
    for name in STORAGES.values():
        torch.__dict__[f"{name}Storage"] = type(f"{name}Storage", (), {"__module__": "torch"})

    class Storage:
        def __init__(self, array: Any) -> None:
            self.array = array

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if not isinstance(value, Storage):
                return None
            members.append(value.array.tobytes())
            kind = torch.__dict__[f"{STORAGES[value.array.dtype.str[1:]]}Storage"]
            return "storage", kind, str(len(members) - 1), "cuda:0", value.array.size

        def reducer_override(self, value: Any) -> Any:
            if not isinstance(value, np.ndarray):
                return NotImplemented
            strides = tuple(step // value.itemsize for step in value.strides)
            owner = value if value.base is None or not isinstance(value.base, np.ndarray) else value.base
            offset = (value.__array_interface__["data"][0] - owner.__array_interface__["data"][0]) // value.itemsize
            return rebuild, (Storage(owner), offset, value.shape, strides, False, OrderedDict())

    out = io.BytesIO()
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update({"torch": torch, "torch._utils": utils})
    try:
        Pickler(out, protocol=2).dump(held)
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    return out.getvalue()
