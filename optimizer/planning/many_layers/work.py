"""The folder in which a run keeps what is finished, so that another run can go on where it was killed."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from optimizer.errors import InputError
from optimizer.files import UNFINISHED_SUFFIX, write_whole
from optimizer.planning.plan_file import Plan, read_plan, write_plan

SETTINGS, SURVEY, CLOCK, LOCK = "settings.json", "survey.json", "clock.json", ".lock"
FORMAT = {"format": "moeplan/work", "version": 1}
UNFINISHED = tuple(f".{name}.{UNFINISHED_SUFFIX}" for name in (SETTINGS, SURVEY, CLOCK, "layer-*.json"))
"""The names of the temporary files that a killed run may leave, as patterns."""


@dataclass(frozen=True)
class WorkFolder:
    """The folder of a run; no other run can open it until it is closed, or the process that opened it has ended.

    settings.json holds what the run was asked for; survey.json a plan of simple placements for all layers;
    layer-N.json the plan of each finished layer; clock.json the seconds spent; .lock is empty, and locked by the
    system for as long as the folder is open. Every file is written whole or not at all.
    """

    path: Path
    lock: FileLock = field(repr=False, compare=False)

    @classmethod
    def opened(cls, path: Path, settings: dict[str, Any], resume: bool) -> "WorkFolder":
        """The folder of a new run, or with `resume` of one that was begun, if that was asked for the same.

        Raises InputError where the folder cannot be used, is in use by another run, or holds a run already; and with
        `resume` where that run has other settings.
        """
        _make(path)
        folder = cls(path, _locked(path))
        try:
            folder._begin(json.loads(json.dumps(FORMAT | settings)), resume)
        except BaseException:
            folder.close()
            raise
        return folder

    def close(self) -> None:
        """Let other runs use the folder."""
        self.lock.release()

    def __enter__(self) -> "WorkFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def survey(self) -> Plan | None:
        """The plan of simple placements, if the run has come so far."""
        file = self.path / SURVEY
        return read_plan(file) if file.exists() else None

    def keep_survey(self, plan: Plan) -> None:
        """Write the plan of simple placements."""
        write_plan(self.path / SURVEY, plan)

    def finished(self, layers: Sequence[int]) -> dict[int, Plan]:
        """The plans that were kept for these layers, by layer."""
        there = [(layer, self._layer(layer)) for layer in layers]
        return {layer: read_plan(file) for layer, file in there if file.exists()}

    def keep(self, layer: int, plan: Plan, seconds: float) -> None:
        """Write a finished layer, as a plan of that layer alone, and the seconds spent so far."""
        write_plan(self._layer(layer), plan)
        write_whole(self.path / CLOCK, json.dumps({"seconds": round(seconds, 3)}) + "\n")

    @property
    def seconds(self) -> float:
        """The seconds that the run had spent when it kept its last layer."""
        file = self.path / CLOCK
        try:
            return float(json.loads(file.read_text(encoding="utf-8"))["seconds"]) if file.exists() else 0.0
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{file} cannot be read ({error}); delete it, or name another folder", "work") from None

    def _begin(self, wanted: dict[str, Any], resume: bool) -> None:
        """Clean up after a killed run; then check the settings of the run that is to go on, or write a new run's."""
        for unfinished in chain.from_iterable(self.path.glob(pattern) for pattern in UNFINISHED):
            unfinished.unlink()
        begun, kept = self._settings(), any(self.path.glob("layer-*.json")) or (self.path / SURVEY).exists()
        if kept and not resume:
            raise InputError(f"{self.path} holds a run already; resume that run, or name another folder", "work")
        if kept and begun is None:
            raise InputError(f"{self.path} holds layers, but no {SETTINGS}; name another folder", "resume")
        if begun is not None and resume:
            self._check(begun, wanted)
        else:
            write_whole(self.path / SETTINGS, json.dumps(wanted, indent=1) + "\n")

    def _check(self, begun: dict[str, Any], wanted: dict[str, Any]) -> None:
        """Raise InputError, with the first setting that differs and the names of the others, if the settings differ."""
        differing = [key for key in wanted if begun.get(key) != wanted[key]]
        if differing:
            key = differing[0]
            more = f", and {', '.join(differing[1:])} differ" if differing[1:] else ""
            raise InputError(
                f"{self.path} was begun with {key} {_short(begun.get(key))}, not {_short(wanted[key])}{more}; "
                "ask for the same again, or name another folder",
                "resume",
            )

    def _settings(self) -> dict[str, Any] | None:
        """The settings of the run that the folder holds, or None if it holds none."""
        file = self.path / SETTINGS
        if not file.exists():
            return None
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{file} cannot be read ({error}); name another folder", "work") from None
        return found if isinstance(found, dict) else {}

    def _layer(self, layer: int) -> Path:
        return self.path / f"layer-{layer}.json"


def _make(path: Path) -> None:
    """Make the folder if it is missing. Raises InputError where it cannot be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f" ({error.strerror})"
    else:
        reason = ""
    if reason or not os.access(path, os.W_OK):
        raise InputError(f"{path} cannot be written{reason}; name a folder that you may write to", "work")


def _locked(path: Path) -> FileLock:
    """The lock of the folder, taken. The system releases it when the process ends, however it ends."""
    lock = FileLock(path / LOCK, thread_local=False)  # any thread may close the folder
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{path} is in use by another run; wait for its end, or name another folder", "work") from None
    except (OSError, NotImplementedError) as error:  # the latter where the system itself has no locks
        raise InputError(f"{path} cannot be locked ({error}); name another folder", "work") from None
    return lock


def _short(value: Any) -> str:
    """A setting as JSON, cut to a length that a message can hold."""
    said = json.dumps(value)
    return said if len(said) <= 60 else f"{said[:57]}..."
