"""Files that are written whole or not at all."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from optimizer.errors import InputError


def check_writable(path: Path, option: str) -> None:
    """Raise InputError if a file could not be put there; called before the work whose result it will hold."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"{option} {path}: cannot be written; name a file in an existing folder that you may write to")


def write_whole(path: Path, text: str) -> None:
    """Write text through a temporary file beside the target and a rename: a reader never sees half a file."""
    write_whole_binary(path, lambda file: file.write(text.encode()))


def write_whole_binary(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """The same for what `write` puts into a binary file."""
    with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        temporary = Path(file.name)
        try:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
