"""The work folder: what a run keeps there is found again by the next run, and by no run beside it."""

import json
import os
import subprocess
import sys
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
    """A plan of layers 0 and 3."""
    mesh = Mesh(2, 2, 3)
    parts = {layer: LayerPlan(random_placement(rng, 9, mesh), {"of": layer}) for layer in (0, 3)}
    return Plan(Model("drawn", 8, 1, 2), mesh, WORMHOLE, "even-source", parts)


def refusal(path: Path, resume: bool, field: str, **changed: Any) -> str:
    """The one line with which opening the folder is refused, for the sake of the field."""
    with pytest.raises(InputError) as caught:
        WorkFolder.opened(path, ASKED | changed, resume)
    said = str(caught.value)
    assert "\n" not in said
    assert "--" not in said
    assert caught.value.field == field
    return said


def begun(path: Path) -> WorkFolder:
    """The folder of a new run, which has been opened and closed; tests write into it as that run would have."""
    folder = WorkFolder.opened(path, ASKED, False)
    folder.close()
    return folder


def content(path: Path) -> dict[str, bytes]:
    """The files of a folder, by name, but for the lock."""
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != ".lock"}


def test_what_is_kept_is_found_again(tmp_path: Path, plan: Plan) -> None:
    folder = begun(tmp_path / "a" / "work")
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
    begun(tmp_path).keep(3, plan, 1.0)
    assert run("validate", tmp_path / "layer-3.json").exit_code == 0


@pytest.mark.parametrize("kept", ["survey", "layer"])
def test_a_run_is_not_begun_over_another(tmp_path: Path, plan: Plan, kept: str) -> None:
    folder = begun(tmp_path)
    folder.keep_survey(plan) if kept == "survey" else folder.keep(0, plan, 1.0)
    before = content(tmp_path)
    assert "holds a run already; resume that run" in refusal(tmp_path, False, "work")
    assert content(tmp_path) == before


def test_a_run_that_came_to_nothing_may_be_begun_otherwise(tmp_path: Path) -> None:
    for settings, resume in ((ASKED, False), (ASKED | {"seed": 2}, False), (ASKED | {"seed": 2}, True)):
        with WorkFolder.opened(tmp_path, settings, resume) as folder:
            assert folder.seconds == 0
    assert "seed" in refusal(tmp_path, True, "resume")


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
    begun(tmp_path).keep(0, plan, 1.0)
    before = content(tmp_path)
    refused = refusal(tmp_path, True, "resume", **changed)
    assert said in refused
    assert len(refused) < 300 + len(str(tmp_path))
    assert content(tmp_path) == before


def test_values_that_json_has_no_word_for_are_the_same_again(tmp_path: Path) -> None:
    WorkFolder.opened(tmp_path, {"layers": (1, 2), "limit": None}, False).close()
    WorkFolder.opened(tmp_path, {"layers": [1, 2], "limit": None}, True).close()


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\x00"])
def test_settings_that_cannot_be_read_are_refused(tmp_path: Path, plan: Plan, text: str) -> None:
    begun(tmp_path).keep(0, plan, 1.0)
    (tmp_path / "settings.json").write_text(text)
    assert "name another folder" in refusal(tmp_path, True, "work" if text in ("", "{", "\x00") else "resume")


def test_layers_without_settings_are_refused(tmp_path: Path, plan: Plan) -> None:
    begun(tmp_path).keep(0, plan, 1.0)
    (tmp_path / "settings.json").unlink()
    assert "settings.json" in refusal(tmp_path, True, "resume")
    assert "resume that run" in refusal(tmp_path, False, "work")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"seconds": null}', '{"seconds": "soon"}'])
def test_a_clock_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    folder = begun(tmp_path)
    (tmp_path / "clock.json").write_text(text)
    with pytest.raises(InputError, match=r"clock\.json"):
        _ = folder.seconds


def test_a_layer_that_cannot_be_read_is_named(tmp_path: Path, plan: Plan) -> None:
    folder = begun(tmp_path)
    folder.keep(0, plan, 1.0)
    file = tmp_path / "layer-0.json"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match=r"layer-0\.json"):
        folder.finished([0])


def test_a_folder_in_use_is_refused_and_left_as_it_is(tmp_path: Path, plan: Plan) -> None:
    with WorkFolder.opened(tmp_path, ASKED, False) as folder:
        folder.keep(0, plan, 1.0)
        (tmp_path / ".layer-3.json.12345678").write_text("half of what the first run is writing")
        before = content(tmp_path)
        for resume in (False, True):
            assert "is in use by another run" in refusal(tmp_path, resume, "work")
        assert content(tmp_path) == before
    with WorkFolder.opened(tmp_path, ASKED, True) as folder:
        assert list(folder.finished([0])) == [0]


def test_a_run_that_is_refused_does_not_keep_the_folder(tmp_path: Path, plan: Plan) -> None:
    begun(tmp_path).keep(0, plan, 1.0)
    with pytest.raises(InputError) as refused:
        WorkFolder.opened(tmp_path, ASKED, False)
    WorkFolder.opened(tmp_path, ASKED, True).close()
    assert refused.value.field == "work"  # the error, which holds the objects of the call that raised it, still lives


def test_another_process_is_refused_and_a_killed_one_blocks_nobody(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from optimizer.planning.many_layers.work import WorkFolder\n"
        f"folder = WorkFolder.opened(Path({str(tmp_path)!r}), {ASKED!r}, False)\n"
        "print('opened', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"opened\n"
        assert "is in use by another run" in refusal(tmp_path, True, "work")
        other.kill()
    WorkFolder.opened(tmp_path, ASKED, True).close()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "cannot be written" in refusal(path, False, "work")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_leave_to_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir(mode=0o500)
    assert "cannot be written" in refusal(tmp_path / "work", False, "work")


def test_what_a_killed_run_wrote_half_is_cleaned_and_nothing_else(tmp_path: Path) -> None:
    half = [".settings.json.ab_cd123", ".survey.json.abcdefgh", ".clock.json.12345678", ".layer-17.json.zyxwvuts"]
    others = [".layer-1.json", "layer-1.txt", ".bashrc.json.abcdefgh", ".settings.json.backup-of-mine", "notes"]
    for name in half + others:
        (tmp_path / name).write_text("{")
    WorkFolder.opened(tmp_path, ASKED, False)
    assert {file.name for file in tmp_path.iterdir()} == {*others, "settings.json", ".lock"}


def test_a_file_is_whole_or_not_there(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = begun(tmp_path)
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
    folder = begun(tmp_path)
    folder.keep(0, plan, 40.0)

    resumed = Run(Crew(1), Deadline(100.0), lambda stage, share: None, WorkFolder.opened(tmp_path, ASKED, True))
    assert 40 <= resumed.spent() < resumed.end < 100
