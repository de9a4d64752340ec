"""Writing files whole or not at all: a reader, or a run that is killed, never leaves or sees half a file."""

import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

from optimizer.errors import InputError

UNFINISHED_SUFFIX = "?" * 8
"""A glob pattern for the random end of a temporary file's name, which is `.NAME.` and these characters."""


def check_writable(path: Path, field: str) -> None:
    """Raise InputError, with the name of the field that holds the path, if `write_whole` could not write there.

    Commands call this before the work whose result the file will hold. A link is judged by what it leads to. Devices
    and pipes are accepted where they may be written to; a pipe is not opened, as that would wait for its reader.
    """
    status = _status(path)
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a folder; name a file", field)
    target = _target(path)
    if status is not None and not stat.S_ISREG(status.st_mode):
        writable = not stat.S_ISSOCK(status.st_mode) and os.access(path, os.W_OK)
    else:
        writable = not target.is_symlink() and target.parent.is_dir() and os.access(target.parent, os.W_OK)
    if not writable:
        raise InputError(f"{path} cannot be written; name a file in an existing folder that you may write to", field)


def write_whole(path: Path, text: str) -> None:
    """Write text as UTF-8 in the way of `write_whole_binary`."""
    write_whole_binary(path, lambda file: file.write(text.encode()))


def write_whole_binary(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Replace the file by what `write` puts into the binary file that it is given.

    The content goes to a temporary file in the same folder, which is then renamed. A link stays, and what it leads to
    is replaced, or made where it does not exist. An existing file keeps its mode, and its owner where this process may
    give files away. A device or a pipe cannot be replaced; it is opened and gets the content once `write` has ended.
    """
    status = _status(path)
    if status is not None and not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        _write_into(path, write)
    else:
        target = _target(path)
        if target.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        _replace(target, status, write)


def file_names(names: Iterable[str]) -> dict[str, str]:
    """The part of a file's name that stands for each of some data sets: its name, with `-` for spaces.

    The names hold no slashes, which `traces.datasets` sees to. Raises InputError where two of them would share a file,
    also on file systems that do not tell `A` from `a`.
    """
    parts: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in names:
        part = name.replace(" ", "-")
        other = taken.setdefault(part.casefold(), name)
        if other != name:
            raise InputError(f"the data sets '{other}' and '{name}' would share one file; rename one of them", "traces")
        parts[name] = part
    return parts


def _status(path: Path) -> os.stat_result | None:
    """What the system knows of the file that the path leads to, or None if there is no such file."""
    try:
        return path.stat()
    except OSError:
        return None


def _target(path: Path) -> Path:
    """The path of the file itself, after all links; a link that leads in a circle stays a link."""
    return Path(os.path.realpath(path))


def _write_into(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Make the content elsewhere, so that a failure writes nothing and `write` may seek, and copy it into a device."""
    with tempfile.TemporaryFile() as content:
        write(content)
        content.seek(0)
        with path.open("wb") as special:
            shutil.copyfileobj(content, special)


def _replace(target: Path, status: os.stat_result | None, write: Callable[[IO[bytes]], object]) -> None:
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(len(UNFINISHED_SUFFIX) // 2)}")
    with temporary.open("xb") as file:  # the system applies the umask, which Python can only read by changing it
        try:
            if status is not None:
                _make_like(temporary, status)
            write(file)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _make_like(file: Path, status: os.stat_result) -> None:
    """Give a file the mode of another, and its owner and group if this process may; the owner first, as a change of
    owner takes away some bits of the mode."""
    own = file.stat()
    if hasattr(os, "chown") and (own.st_uid, own.st_gid) != (status.st_uid, status.st_gid):
        with suppress(OSError):
            os.chown(file, status.st_uid, status.st_gid)
    file.chmod(stat.S_IMODE(status.st_mode))
