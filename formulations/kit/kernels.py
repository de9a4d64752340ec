"""How this project compiles its hot loops, and where the machine code is kept for the next process.

Numba keeps machine code beside a stamp of the file that a function stands in, and does not see that a function which it
calls, from another file, has changed. So the folder of the machine code carries a digest of all files with kernels.
"""

import hashlib
import os
import re
import shutil
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

from formulations.kit.compiling import compiled_by_one, same_for_integers

Function = TypeVar("Function", bound=Callable[..., object])

SETTINGS: Any = numba.config  # numba makes its attributes at run time, so mypy knows none of them

INSTALLATION = Path(__file__).resolve().parents[2]
ROOMS = ("formulations", "optimizer")
COMPILED = (b"formulations.kit.kernels import", b"NamedTuple")
"""Files with one of these texts decide on machine code: they have kernels, or define tuples that kernels take apart."""

IMPORT = re.compile(rb"\nfrom ((?:formulations|optimizer)[.\w]*) import (\([^)]*\)|.*)")
CONSTANT = re.compile(rb"\b[A-Z][A-Z0-9_]+\b")

DAYS_UNUSED = 30
FOLDERS_KEPT = 20
"""A folder of machine code is removed when no process has used it for 30 days, or when 20 others were used since. A
folder holds some 20 MB, and each edit of a kernel begins another. Both limits are compromises between disk space and
the minutes that compiling all kernels anew takes; neither is tuned."""

TOLD = "MOEPLAN_TOLD_THAT_KERNELS_ARE_NOT_KEPT"
"""An environment variable that worker processes inherit, so that only the first process warns."""


class KernelCacheWarning(UserWarning):
    """Machine code cannot be kept on disk, so every process compiles its kernels anew."""


def kernel(function: Function) -> Function:
    """Compile with numba on first use; the machine code is kept on disk for the next process.

    Numba's own setting of a folder is changed only while the function is being declared, as numba chooses the folder
    then, and other packages in this process keep theirs. Nothing calls a kernel by a C pointer, and numba's wrapper for
    such calls would add 7 per cent to the time that compiling takes.
    """
    with _SETTING:
        before = SETTINGS.CACHE_DIR
        SETTINGS.CACHE_DIR = str(FOLDER or before)
        try:
            compiled = numba.njit(cache=FOLDER is not None, nogil=True, no_cfunc_wrapper=True)(function)
            compiled = same_for_integers(compiled)
            return cast(Function, compiled if FOLDER is None else compiled_by_one(compiled, FOLDER))
        finally:
            SETTINGS.CACHE_DIR = before


def kernel_digest(installation: Path) -> str:
    """A digest of everything that the machine code follows from: the versions of numba and Python, and the files of an
    installation that have kernels, define tuples, or hold constants which files with kernels import."""
    files = dict(_sources(installation))
    compiled = {name for name, content in files.items() if any(text in content for text in COMPILED)}
    imports = (line for name in compiled for line in IMPORT.findall(files[name]))
    holding = {module.decode().replace(".", "/") for module, names in imports if CONSTANT.search(names)}
    compiled |= {f"{path}{end}" for path in holding for end in (".py", "/__init__.py")} & files.keys()
    found = hashlib.blake2b(f"{numba.__version__} {sys.version}".encode(), digest_size=10)
    for name in sorted(compiled):
        found.update(f"{name} {len(files[name])} ".encode())
        found.update(files[name])
    return found.hexdigest()


def _sources(installation: Path) -> Iterator[tuple[str, bytes]]:
    """The path below the installation, and the content, of each Python file of the rooms with kernels."""
    for room in ROOMS:
        for folder, _, files in os.walk(os.path.join(installation, room)):
            inside = os.path.relpath(folder, installation).replace(os.sep, "/")
            for file in files:
                if file.endswith(".py"):
                    with open(os.path.join(folder, file), "rb", buffering=0) as source:
                        yield f"{inside}/{file}", source.read()


def _folder() -> Path | None:
    """The folder for this installation's machine code, ready to be written to; None, with a warning, if there is none.

    A folder that the user has set for numba, as by NUMBA_CACHE_DIR, holds it, else the user's cache folder.
    """
    try:
        parent = Path(SETTINGS.CACHE_DIR) if SETTINGS.CACHE_DIR else _user_cache() / "moeplan"
        folder = parent.absolute() / f"kernels-{kernel_digest(INSTALLATION)}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # whether it can be written to, which the mode alone does not say
        os.utime(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: pathlib knows no home folder
        _warn(error)
        return None
    _remove_unused(parent)
    return folder


def _user_cache() -> Path:
    """Where the system keeps what programs can make again. Raises RuntimeError where the user has no home folder."""
    if sys.platform == "win32" and "LOCALAPPDATA" in os.environ:
        return Path(os.environ["LOCALAPPDATA"])
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return chosen if chosen.is_absolute() else Path.home() / ".cache"


def _remove_unused(parent: Path) -> None:
    """Remove the folders of earlier kernels that nothing has used of late; one that is needed again is made again."""
    folders = []
    for folder in parent.glob("kernels-*"):
        try:
            folders.append((folder.stat().st_mtime, folder))
        except OSError:  # another process has just removed it
            continue
    oldest = time.time() - DAYS_UNUSED * 24 * 3600
    for place, (used, folder) in enumerate(sorted(folders, reverse=True)):
        if place >= FOLDERS_KEPT or used < oldest:
            shutil.rmtree(folder, ignore_errors=True)


def _warn(error: Exception) -> None:
    if TOLD in os.environ:
        return
    os.environ[TOLD] = "1"
    warnings.warn(
        f"compiled kernels cannot be kept on disk ({error}), so each run compiles them anew; set NUMBA_CACHE_DIR to a "
        "folder that you may write to",
        KernelCacheWarning,
        stacklevel=2,
    )


_SETTING = threading.Lock()
FOLDER = _folder()
"""Where this process keeps machine code; None where it cannot."""
