"""Writing requests of any format that can be read in the native one."""

from collections.abc import Callable, Sequence
from pathlib import Path

from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.traces.corpus import Faults, TraceFile, stream
from optimizer.traces.formats.request import BadRequestError
from optimizer.traces.formats.sniff import COUNTS_ONLY
from optimizer.traces.formats.write import write_request


def convert(
    files: Sequence[TraceFile], out: Path, model: Model | None, strict: bool, progress: Callable[[float], None]
) -> tuple[int, tuple[str, ...]]:
    """Write every request of the files as `request_00000.npz` ... into folder `out`.

    Returns how many were written, and warnings about those that were not. Layers that a file names are written on an
    axis of all the model's layers; others are written as they are. `model` is needed for SGLang's flat arrays only.
    Raises InputError for counts, which hold no requests, and for a folder that holds requests already.
    """
    counted = [file.path for file in files if file.format in COUNTS_ONLY]
    if counted:
        said = f"{counted[0]}: counts hold no tokens to convert; use them as they are, or synthesise requests from them"
        raise InputError(said, "sources")
    if out.is_file() or next(out.glob("request_*.npz"), None) is not None:
        raise InputError(f"{out}: is a file or holds requests already; name a new or an empty folder")
    out.mkdir(parents=True, exist_ok=True)
    faults, written, places = Faults(strict), 0, {file.path: place for place, file in enumerate(files)}
    for path, request in stream(files, model):
        progress((places[path] + 1) / len(files))
        if isinstance(request, BadRequestError):
            faults.add(path, request)
        else:
            write_request(out / f"request_{written:05}.npz", request, written)
            written += 1
    return written, faults.warnings(written)
