"""The folder in which a run keeps what is finished."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_problems import WORMHOLE, random_placement
from running_commands import run

from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.planning.many_layers.run import Run
from optimizer.planning.many_layers.work import WorkFolder
from optimizer.planning.many_layers.workers import Crew
from optimizer.planning.plan_file import LayerPlan, Plan
from optimizer.search.stop import Deadline

ASKED: dict[str, Any] = {"layers": [0, 3], "seed": 1, "mesh": {"rows": 2, "cols": 2}, "start": None}


@pytest.fixture
def plan(rng: np.random.Generator) -> Plan:
    """Of layers 0 and 3."""
    mesh = Mesh(2, 2, 3)
    parts = {layer: LayerPlan(random_placement(rng, 9, mesh), {"of": layer}) for layer in (0, 3)}
    return Plan(Model("drawn", 8, 1, 2), mesh, WORMHOLE, "even", parts)


def refusal(path: Path, resume: bool, **changed: Any) -> str:
    with pytest.raises(InputError) as caught:
        WorkFolder.opened(path, ASKED | changed, resume)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_what_is_kept_is_found_again(tmp_path: Path, plan: Plan) -> None:
    folder = WorkFolder.opened(tmp_path / "a" / "work", ASKED, False)
    assert (folder.survey(), folder.finished([0, 3]), folder.seconds) == (None, {}, 0.0)
    folder.keep_survey(plan)
    folder.keep(3, plan, 12.3456)
    again = WorkFolder.opened(tmp_path / "a" / "work", ASKED, True)
    assert again.seconds == 12.346
    found = again.finished([0, 3])
    assert list(found) == [3]
    for read in (found[3], again.survey()):
        assert read is not None
        assert [(layer, part.quality) for layer, part in read.layers.items()] == [(0, {"of": 0}), (3, {"of": 3})]
        for layer, part in read.layers.items():
            assert (part.placement.slots == plan.layers[layer].placement.slots).all()


def test_layer_files_are_plans(tmp_path: Path, plan: Plan) -> None:
    WorkFolder.opened(tmp_path, ASKED, False).keep(3, plan, 1.0)
    assert run("validate", tmp_path / "layer-3.json").exit_code == 0


@pytest.mark.parametrize("kept", ["survey", "layer"])
def test_a_run_is_not_begun_over_another(tmp_path: Path, plan: Plan, kept: str) -> None:
    folder = WorkFolder.opened(tmp_path, ASKED, False)
    folder.keep_survey(plan) if kept == "survey" else folder.keep(0, plan, 1.0)
    before = content(tmp_path)
    assert "--resume" in refusal(tmp_path, False)
    assert content(tmp_path) == before


def test_a_run_that_came_to_nothing_may_be_begun_otherwise(tmp_path: Path) -> None:
    WorkFolder.opened(tmp_path, ASKED, False)
    WorkFolder.opened(tmp_path, ASKED | {"seed": 2}, False)
    assert WorkFolder.opened(tmp_path, ASKED | {"seed": 2}, True).seconds == 0
    assert "seed" in refusal(tmp_path, True)


def test_resume_of_nothing_begins(tmp_path: Path) -> None:
    WorkFolder.opened(tmp_path / "new", ASKED, True)
    assert json.loads((tmp_path / "new" / "settings.json").read_text())["seed"] == 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 2}, "seed 1, not 2;"),
        ({"layers": [0, 3, 4]}, "layers [0, 3], not [0, 3, 4];"),
        ({"mesh": {"rows": 4, "cols": 2}}, 'mesh {"rows": 2, "cols": 2}, not {"rows": 4, "cols": 2};'),
        ({"start": {"0": [[1, 2, 3]] * 40}}, "..."),
        ({"seed": 2, "start": {}}, "seed 1, not 2, and start differ;"),
        ({"new": 1}, "new null, not 1;"),
    ],
)
def test_what_differs_is_named(tmp_path: Path, plan: Plan, changed: dict[str, Any], said: str) -> None:
    WorkFolder.opened(tmp_path, ASKED, False).keep(0, plan, 1.0)
    before = content(tmp_path)
    refused = refusal(tmp_path, True, **changed)
    assert said in refused
    assert len(refused) < 300 + len(str(tmp_path))
    assert content(tmp_path) == before


def test_values_that_json_has_no_word_for_are_the_same_again(tmp_path: Path) -> None:
    WorkFolder.opened(tmp_path, {"layers": (1, 2), "limit": None}, False)
    WorkFolder.opened(tmp_path, {"layers": [1, 2], "limit": None}, True)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\x00"])
def test_settings_that_cannot_be_read_are_refused(tmp_path: Path, plan: Plan, text: str) -> None:
    WorkFolder.opened(tmp_path, ASKED, False).keep(0, plan, 1.0)
    (tmp_path / "settings.json").write_text(text)
    assert "--work" in refusal(tmp_path, True)


def test_layers_without_settings_are_refused(tmp_path: Path, plan: Plan) -> None:
    WorkFolder.opened(tmp_path, ASKED, False).keep(0, plan, 1.0)
    (tmp_path / "settings.json").unlink()
    assert "settings.json" in refusal(tmp_path, True)
    assert "--resume" in refusal(tmp_path, False)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"seconds": null}', '{"seconds": "soon"}'])
def test_a_clock_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    folder = WorkFolder.opened(tmp_path, ASKED, False)
    (tmp_path / "clock.json").write_text(text)
    with pytest.raises(InputError, match=r"clock\.json"):
        _ = folder.seconds


def test_a_layer_that_cannot_be_read_is_named(tmp_path: Path, plan: Plan) -> None:
    folder = WorkFolder.opened(tmp_path, ASKED, False)
    folder.keep(0, plan, 1.0)
    file = tmp_path / "layer-0.json"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match=r"layer-0\.json"):
        folder.finished([0])


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "cannot be written" in refusal(path, False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_leave_to_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir(mode=0o500)
    assert "cannot be written" in refusal(tmp_path / "work", False)


def test_what_a_killed_run_wrote_half_is_cleaned_and_nothing_else(tmp_path: Path) -> None:
    half = [".settings.json.ab_cd123", ".survey.json.abcdefgh", ".clock.json.12345678", ".layer-17.json.zyxwvuts"]
    others = [".layer-1.json", "layer-1.txt", ".bashrc.json.abcdefgh", ".settings.json.backup-of-mine", "notes"]
    for name in half + others:
        (tmp_path / name).write_text("{")
    WorkFolder.opened(tmp_path, ASKED, False)
    assert {file.name for file in tmp_path.iterdir()} == {*others, "settings.json"}


def test_a_file_is_whole_or_not_there(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = WorkFolder.opened(tmp_path, ASKED, False)
    folder.keep(0, plan, 1.0)
    before = content(tmp_path)

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for layer in (3, 0):
        with pytest.raises(OSError, match="No space"):
            folder.keep(layer, replace(plan, policy="nearest"), 2.0)
        assert content(tmp_path) == before


def test_time_spent_before_counts(tmp_path: Path, plan: Plan) -> None:
    folder = WorkFolder.opened(tmp_path, ASKED, False)
    folder.keep(0, plan, 40.0)

    resumed = Run(Crew(1), Deadline(100.0), lambda stage, share: None, WorkFolder.opened(tmp_path, ASKED, True))
    assert 40 <= resumed.spent() < resumed.end < 100
