"""Counts of one run in several files: what is added up, counted once, or refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_files import one_line
from torch_files import write_torch

from optimizer.errors import InputError
from optimizer.traces.corpus import find_files
from optimizer.traces.count_files import read_count_files
from optimizer.traces.counted_source import open_counts
from optimizer.traces.formats.counts import Counts, CountsReading
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import TraceInput

RNG = np.random.default_rng(6)
LOAD = RNG.integers(1, 900, (3, 4, 32))  # 3 dumps of 4 layers and 32 experts


def write(path: Path, load: Any, name: str = "logical_count") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({name: load.tolist()} if name else load.tolist()))
    return path


def read(*paths: Path, strict: bool = False) -> Counts:
    return read_count_files(find_files(list(map(str, paths))), CountsReading(), strict)


def test_files_of_a_folder_are_steps_of_one_run(tmp_path: Path) -> None:
    # A run is dumped again and again, here in three formats.
    write(tmp_path / "run" / "a.json", LOAD[:2])
    write(tmp_path / "run" / "b.json", LOAD[2], "")
    write_torch(tmp_path / "run" / "c.pt", {"rank": 0, "logical_count": LOAD[::-1].copy()})
    found = read(tmp_path / "run")
    assert (found.load == np.concatenate([LOAD, LOAD[::-1]])).all()
    assert found.source == "6 steps of 3 files in run"
    assert found.notes == ("3 files were read as one run, with 6 steps in all",)


def test_copies_are_counted_once(tmp_path: Path) -> None:
    # SGLang adds up over ranks before it writes, so what another rank's copy holds is the same.
    for rank in range(2):
        write_torch(tmp_path / f"{rank}.pt", {"rank": rank, "logical_count": LOAD})
    found = read(tmp_path)
    assert (found.load == LOAD).all()
    assert found.notes == ("1.pt holds the same counts as 0.pt, which were counted once",)


def test_running_totals_become_steps_by_their_differences(tmp_path: Path) -> None:
    # LMDeploy's recorder goes on counting after a dump; names say nothing about their order.
    for name, total in zip("cab", np.cumsum(LOAD, axis=0), strict=True):
        write(tmp_path / f"{name}.json", total, "")
    found = read(tmp_path)
    assert (found.load == LOAD).all()
    assert "every dump holds the counts of those before it, so the steps are their differences" in found.notes


def test_few_counts_are_no_evidence_of_running_totals(tmp_path: Path) -> None:
    # Two small dumps may grow in every count by chance.
    write(tmp_path / "a.json", np.array([[1, 2]]))
    write(tmp_path / "b.json", np.array([[3, 4]]))
    assert read(tmp_path).load.tolist() == [[[1, 2]], [[3, 4]]]


@pytest.mark.parametrize("other", [LOAD[0, :3], LOAD[0, :, :16]])
def test_files_that_do_not_fit_together_are_refused(tmp_path: Path, other: Any) -> None:
    # They are of different models, or one of them is a part.
    write(tmp_path / "a.json", LOAD)
    write(tmp_path / "b.json", other)
    with pytest.raises(InputError, match=rf"b\.json: counts {other.shape[0]} layers of {other.shape[1]}.*a\.json") as e:
        read(tmp_path)
    one_line(e.value)


def test_other_files_of_the_folder_are_left_out_and_requests_refused(tmp_path: Path) -> None:
    # A folder of a run holds settings and maps as well, but counts and tokens are no one recording.
    write(tmp_path / "a.json", LOAD)
    (tmp_path / "settings.json").write_text('{"model": "x"}')
    (tmp_path / "map.json").write_text('{"physical_to_logical_map": [[0, 1]]}')
    assert read(tmp_path).notes[0].startswith("2 files left out, as they hold no counts; the first: ")
    with pytest.raises(InputError, match=r"map\.json: is an expert location of SGLang"):
        read(tmp_path, strict=True)
    np.savez(tmp_path / "r.npz", routed_experts=np.zeros((3, 4, 2), dtype=int))
    with pytest.raises(InputError, match=r"r\.npz: holds requests \(npz\), and .*a\.json holds counts"):
        read(tmp_path)


def test_a_map_alone_is_named_and_a_list_of_two_readings_is_asked_about(tmp_path: Path) -> None:
    # Neither is one bad request among others.
    (tmp_path / "map.json").write_text('{"physical_to_logical_map": [[0, 1]]}')
    with pytest.raises(InputError, match=r"map\.json: is an expert location of SGLang"):
        find_files([str(tmp_path)])
    (tmp_path / "list.json").write_text("[[0, 1], [1, 0]]")
    with pytest.raises(InputError, match="fits two readings"):
        find_files([str(tmp_path)])


@pytest.mark.parametrize(("rows", "held"), [(59, range(3, 62)), (58, range(3, 61))])
def test_the_mtp_layer_of_counts(tmp_path: Path, rows: int, held: range) -> None:
    # 59 rows of DeepSeek-V3 were numbered from 0, so that layer 12 was really layer 15.
    counts = RNG.integers(500, 1500, (rows, 256))
    path = write(tmp_path / "a.json", counts)
    opened = open_counts(TraceInput([str(path)]), ModelChoice("deepseek-v3"))
    assert opened is not None
    assert opened[0].layers == tuple(held)
    assert (opened[0].load[0] == counts).all()


def test_a_scale_reaches_the_files(tmp_path: Path) -> None:
    # It is an option of every command that reads traces.
    path = write(tmp_path / "a.json", LOAD / 1000)
    opened = open_counts(TraceInput([str(path)], scale=1000.0), ModelChoice(top_k=2))
    assert opened is not None
    assert (opened[0].load == LOAD).all()
    assert opened[0].notes[0].startswith("all counts were multiplied by 1000 and rounded, by ")
