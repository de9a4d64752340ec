"""The folder in which a run keeps what is finished, so that another can go on where it was killed."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from optimizer.errors import InputError
from optimizer.files import write_whole
from optimizer.planning.plan_file import Plan, read_plan, write_plan

SETTINGS, SURVEY, CLOCK = "settings.json", "survey.json", "clock.json"
FORMAT = {"format": "moeplan/work", "version": 1}
UNFINISHED = tuple(f".{name}.????????" for name in (SETTINGS, SURVEY, CLOCK, "layer-*.json"))  # as `files` names them


@dataclass(frozen=True)
class WorkFolder:
    """settings.json: what the run was asked for; survey.json: a plan of simple placements for all layers; layer-N.json:
    the plan of each finished layer; clock.json: the seconds spent. Every file is written whole or not at all."""

    path: Path

    @classmethod
    def opened(cls, path: Path, settings: dict[str, Any], resume: bool) -> "WorkFolder":
        """The folder of a new run, or with `resume` of one that was begun, if it was asked for the same.

        Raises InputError where the folder cannot be used, holds a run already, or one with other settings.
        """
        folder, wanted = cls(path), json.loads(json.dumps(FORMAT | settings))
        folder._make()
        begun = folder._settings()
        if folder._kept() and not resume:
            raise InputError(f"--work {path}: holds a run already; go on with it by --resume, or name another folder")
        if folder._kept() and begun is None:
            raise InputError(f"--resume: {path} holds layers, but no {SETTINGS}; name another --work folder")
        if begun is not None and resume:
            folder._check(begun, wanted)
        else:
            write_whole(path / SETTINGS, json.dumps(wanted, indent=1) + "\n")
        return folder

    def _make(self) -> None:
        """Have an empty folder, or one without what a killed run has written half."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for unfinished in chain.from_iterable(self.path.glob(pattern) for pattern in UNFINISHED):
                unfinished.unlink()
        except OSError as error:
            raise InputError(
                f"--work {self.path}: cannot be written ({error.strerror}); name a folder that you may write to"
            ) from None
        if not os.access(self.path, os.W_OK):
            raise InputError(f"--work {self.path}: cannot be written; name a folder that you may write to")

    def _kept(self) -> bool:
        return any(self.path.glob("layer-*.json")) or (self.path / SURVEY).exists()

    def _check(self, begun: dict[str, Any], wanted: dict[str, Any]) -> None:
        differing = [key for key in wanted if begun.get(key) != wanted[key]]
        if differing:
            key = differing[0]
            more = f", and {', '.join(differing[1:])} differ" if differing[1:] else ""
            raise InputError(
                f"--resume: {self.path} was begun with {key} {_short(begun.get(key))}, not "
                f"{_short(wanted[key])}{more}; ask for the same again, or name another --work folder"
            )

    def _settings(self) -> dict[str, Any] | None:
        file = self.path / SETTINGS
        if not file.exists():
            return None
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{file}: cannot be read ({error}); name another --work folder") from None
        return found if isinstance(found, dict) else {}

    def survey(self) -> Plan | None:
        """The plan of simple placements, if the run came so far."""
        file = self.path / SURVEY
        return read_plan(file) if file.exists() else None

    def keep_survey(self, plan: Plan) -> None:
        """Write it."""
        write_plan(self.path / SURVEY, plan)

    def finished(self, layers: Sequence[int]) -> dict[int, Plan]:
        """What was kept of these layers."""
        there = [(layer, self._layer(layer)) for layer in layers]
        return {layer: read_plan(file) for layer, file in there if file.exists()}

    def keep(self, layer: int, plan: Plan, seconds: float) -> None:
        """Write a finished layer, as a plan of that layer alone, and the seconds spent so far."""
        write_plan(self._layer(layer), plan)
        write_whole(self.path / CLOCK, json.dumps({"seconds": round(seconds, 3)}) + "\n")

    @property
    def seconds(self) -> float:
        """Spent until the last layer was kept."""
        file = self.path / CLOCK
        try:
            return float(json.loads(file.read_text(encoding="utf-8"))["seconds"]) if file.exists() else 0.0
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{file}: cannot be read ({error}); delete it, or name another --work folder") from None

    def _layer(self, layer: int) -> Path:
        return self.path / f"layer-{layer}.json"


def _short(value: Any) -> str:
    said = json.dumps(value)
    return said if len(said) <= 60 else f"{said[:57]}..."
