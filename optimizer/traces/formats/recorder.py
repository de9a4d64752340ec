"""The file that SGLang's expert distribution recorder writes in its stat mode: `torch.save` of a dict."""

import importlib
import importlib.util
import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from optimizer.traces.formats.untrusted import LIMIT, Array, UnusableError

PLAIN_TENSOR = re.compile(r"torch\._utils _rebuild_tensor_v2|collections OrderedDict|torch \w+Storage")
LARGEST_PICKLE = 1 << 16  # bytes: ample, as the pickled dict has only a handful of keys


def read_logical_count(path: Path) -> Array:
    """Read `logical_count [step, layer, expert]` as it was recorded, unchecked.

    Reading needs torch, which is large and not installed with this program; where it is absent, or the file is not
    one of plain tensors, UnusableError says so.
    """
    if importlib.util.find_spec("torch") is None:
        raise UnusableError("is a torch file, and torch is not installed: run pip install torch")
    _refuse_strange(path)
    try:
        torch = importlib.import_module("torch")
        with warnings.catch_warnings(action="ignore"):
            held = torch.load(path, map_location="cpu", weights_only=True)
        tensor: Any = held["logical_count"] if isinstance(held, dict) else None
        # a tensor may repeat its memory: what is small in the file must not become large here
        small = tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
        array: Array = np.array(tensor.numpy()) if small else np.empty(0)
    except Exception:  # torch raises a dozen kinds for a damaged file
        raise UnusableError("is damaged, or has no tensor logical_count as SGLang's stat mode records it") from None
    if array.size == 0:
        raise UnusableError("logical_count is empty, or larger than the file")
    return array


def _refuse_strange(path: Path) -> None:
    """Let torch see only what this format needs: it would allocate whatever else a pickle may ask it for."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            pickles = [info for info in infos if info.filename.lower().endswith(".pkl")]
            stored = all(info.compress_type == zipfile.ZIP_STORED for info in infos)
            if not stored or sum(info.file_size for info in infos) > LIMIT:
                raise UnusableError(f"is compressed, or larger than {LIMIT} bytes")
            small = all(info.file_size <= LARGEST_PICKLE for info in pickles)
            if not small or not all(_plain(archive.read(info)) for info in pickles):
                raise UnusableError("holds other objects than tensors, which are never unpickled")
    except UnusableError:
        raise
    except Exception:  # zipfile and pickletools raise a dozen kinds for a damaged file
        raise UnusableError("is not a whole torch file") from None


def _plain(pickled: bytes) -> bool:
    """Whether a pickle names nothing but what makes a plain tensor; it is listed, not run."""
    named = [argument for opcode, argument, _ in pickletools.genops(pickled) if "GLOBAL" in opcode.name]
    return all(PLAIN_TENSOR.fullmatch(str(name)) for name in named)
