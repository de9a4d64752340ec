"""What is new in a folder of traces, by polling: files that nobody writes any more, and files that have vanished."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG

from optimizer.errors import InputError
from optimizer.traces.corpus import SUFFIXES

SETTLED_SECONDS = 60.0
"""A file that has not changed for so long counts at the first look. Longer than a recorder pauses inside a file, and
short for somebody who waits. Not tuned."""

MOST_VANISHED = 1024
"""Files that are remembered after they have vanished, so that a folder that comes back is not counted twice. Limited,
as recorders may rotate files for months."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells whether a file has changed: its size in bytes, and when it was changed, in nanoseconds since 1970."""

    size: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class CountedFile:
    """A file as it was when it was read. requests: how many good ones were counted; fault: what is wrong with it, ""
    for nothing."""

    stamp: Stamp
    requests: int
    fault: str = ""


@dataclass
class CountedFiles:
    """The files that have been read, by their names below the folder; vanished: those that are gone, the oldest
    first."""

    present: dict[str, CountedFile] = field(default_factory=dict)
    vanished: dict[str, CountedFile] = field(default_factory=dict)

    def put(self, name: str, file: CountedFile) -> None:
        """Keep what was read of a file, in place of what was known of it."""
        self.vanished.pop(name, None)
        self.present[name] = file

    def known(self, name: str) -> CountedFile | None:
        """What was read of a file, also of one that has vanished; None for a new file."""
        return self.present.get(name) or self.vanished.get(name)

    def keep_to(self, there: set[str]) -> list[str]:
        """Set files apart that are not there any more, and return their names; files that came back are present."""
        for name in there & self.vanished.keys():
            self.present[name] = self.vanished.pop(name)
        gone = [name for name in self.present if name not in there]
        for name in gone:
            self.vanished[name] = self.present.pop(name)
        while len(self.vanished) > MOST_VANISHED:
            del self.vanished[next(iter(self.vanished))]
        return gone


@dataclass
class Folder:
    """A folder that is looked at again and again.

    own: resolved paths of files that are no traces, such as the plan. moving: files with their stamps at the last
    look, where these were new.
    """

    path: Path
    own: frozenset[Path] = frozenset()
    moving: dict[str, Stamp] = field(default_factory=dict)

    def look(self, counted: CountedFiles, now: float) -> tuple[dict[str, Stamp], list[str]]:
        """The files that are new or have changed and are now settled, the oldest first, and the names of those that
        have vanished.

        now: seconds since 1970. A file is settled if it is as it was at the last look, or has not changed for
        `SETTLED_SECONDS`. Raises InputError where the folder is not there, and then nothing counts as vanished.
        """
        stamps = dict(self._stamps())
        vanished = counted.keep_to(set(stamps))
        changed = {name: stamp for name, stamp in stamps.items() if not _as_counted(counted.known(name), stamp)}
        settled = {
            name: stamp
            for name, stamp in sorted(changed.items(), key=lambda each: (each[1].changed_ns, each[0]))
            if self.moving.get(name) == stamp or now - stamp.changed_ns / 1e9 >= SETTLED_SECONDS
        }
        self.moving = {name: stamp for name, stamp in changed.items() if name not in settled}
        return settled, vanished

    def _stamps(self) -> Iterator[tuple[str, Stamp]]:
        """Every file that may hold traces, with its stamp; hidden files are those that somebody is about to rename."""
        if not self.path.is_dir():
            raise InputError(f"{self.path}: no such folder; name the folder in which traces appear", "folder")
        for file in self.path.rglob("*"):
            if file.suffix not in SUFFIXES or file.name.startswith(".") or self._is_own(file):
                continue
            try:
                status = file.stat()
            except OSError:
                continue  # it has vanished since it was listed
            if S_ISREG(status.st_mode):
                yield file.relative_to(self.path).as_posix(), Stamp(status.st_size, status.st_mtime_ns)

    def _is_own(self, file: Path) -> bool:
        return any(file.name == own.name for own in self.own) and file.resolve() in self.own


def _as_counted(known: CountedFile | None, stamp: Stamp) -> bool:
    return known is not None and known.stamp == stamp
