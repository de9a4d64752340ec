"""The folder in which a run keeps what is finished, so that another can go on where it was killed."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimizer.errors import InputError
from optimizer.files import write_whole
from optimizer.plan import Plan, read_plan, write_plan

SETTINGS, SURVEY, CLOCK = "settings.json", "survey.json", "clock.json"
FORMAT = {"format": "moeplan/work", "version": 1}


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
        if path.exists() and (not path.is_dir() or not os.access(path, os.W_OK)):
            raise InputError(f"--work {path}: cannot be written; name a folder that you may write to")
        begun = folder._settings()
        if begun is None:
            path.mkdir(parents=True, exist_ok=True)
            write_whole(path / SETTINGS, json.dumps(wanted, indent=1) + "\n")
        elif not resume:
            raise InputError(f"--work {path}: holds a run already; go on with it by --resume, or name another folder")
        elif differing := [key for key in wanted if begun.get(key) != wanted[key]]:
            key = differing[0]
            more = f", and {', '.join(differing[1:])} differ" if differing[1:] else ""
            raise InputError(
                f"--resume: {path} was begun with {key} {_short(begun.get(key))}, not {_short(wanted[key])}{more}; "
                "ask for the same again, or name another --work folder"
            )
        return folder

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
        return float(json.loads(file.read_text())["seconds"]) if file.exists() else 0.0

    def _layer(self, layer: int) -> Path:
        return self.path / f"layer-{layer}.json"


def _short(value: Any) -> str:
    said = json.dumps(value)
    return said if len(said) <= 60 else f"{said[:57]}..."
