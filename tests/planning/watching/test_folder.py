"""Which files of a folder count: those that nobody writes any more, each once."""

import os
from pathlib import Path

import pytest

from optimizer.errors import InputError
from optimizer.planning.watching import folder as module
from optimizer.planning.watching.folder import CountedFile, CountedFiles, Folder


def write(path: Path, text: str, changed: int) -> None:
    path.write_text(text)
    os.utime(path, (changed, changed))


def counted(folder: Folder, files: CountedFiles, now: float) -> list[str]:
    """Look, and count what is settled."""
    settled, _ = folder.look(files, now)
    for name, stamp in settled.items():
        files.put(name, CountedFile(stamp, 1))
    return list(settled)


def test_a_file_counts_once_it_stays_as_it_is_between_two_looks(tmp_path: Path) -> None:
    folder, files = Folder(tmp_path), CountedFiles()
    write(tmp_path / "a.json", "half", 100)
    assert counted(folder, files, 101) == []
    write(tmp_path / "a.json", "half and more", 102)
    assert counted(folder, files, 103) == []
    assert counted(folder, files, 104) == ["a.json"]
    assert counted(folder, files, 105) == []


def test_a_file_that_has_not_changed_for_long_counts_at_once_and_the_oldest_first(tmp_path: Path) -> None:
    folder, files = Folder(tmp_path), CountedFiles()
    write(tmp_path / "a.json", "new", 200)
    write(tmp_path / "b.json", "old", 100)
    (tmp_path / "below").mkdir()
    write(tmp_path / "below" / "c.npz", "older", 50)
    assert counted(folder, files, 200 + module.SETTLED_SECONDS) == ["below/c.npz", "b.json", "a.json"]


def test_what_is_no_trace_is_not_looked_into(tmp_path: Path) -> None:
    """The plan may lie in the folder; hidden files are about to be renamed, others have another end."""
    for name in ("plan.json", ".a.json", "a.json.part", "notes.txt"):
        write(tmp_path / name, "{}", 1)
    (tmp_path / "folder.json").mkdir()
    assert counted(Folder(tmp_path, frozenset({(tmp_path / "plan.json").resolve()})), CountedFiles(), 1e6) == []


def test_a_file_that_comes_back_is_not_counted_again(tmp_path: Path) -> None:
    folder, files = Folder(tmp_path), CountedFiles()
    write(tmp_path / "a.json", "content", 1)
    assert counted(folder, files, 1e6) == ["a.json"]
    (tmp_path / "a.json").rename(tmp_path / "a.gone")
    assert folder.look(files, 1e6) == ({}, ["a.json"])
    assert folder.look(files, 1e6) == ({}, [])
    (tmp_path / "a.gone").rename(tmp_path / "a.json")
    assert counted(folder, files, 1e6) == []


def test_where_the_folder_is_gone_nothing_counts_as_vanished(tmp_path: Path) -> None:
    folder, files = Folder(tmp_path / "traces"), CountedFiles()
    (tmp_path / "traces").mkdir()
    write(tmp_path / "traces" / "a.json", "content", 1)
    counted(folder, files, 1e6)
    (tmp_path / "traces").rename(tmp_path / "unmounted")
    with pytest.raises(InputError, match="no such folder"):
        folder.look(files, 1e6)
    assert list(files.present) == ["a.json"]


def test_vanished_files_are_forgotten_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_VANISHED", 3)
    folder, files = Folder(tmp_path), CountedFiles()
    for number in range(10):
        write(tmp_path / f"r{number}.json", "content", 1)
        counted(folder, files, 1e6)
        (tmp_path / f"r{number}.json").unlink()
    folder.look(files, 1e6)
    assert [*files.present, *files.vanished] == ["r7.json", "r8.json", "r9.json"]
