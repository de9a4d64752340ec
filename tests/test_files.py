"""Files are written whole or not at all, where links lead, and in the mode that they had."""

import os
import stat
import threading
from pathlib import Path

import numpy as np
import pytest

from optimizer.errors import InputError
from optimizer.files import check_writable, file_names, write_whole, write_whole_binary


def mode(path: Path) -> int:
    """The permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    """What a folder holds."""
    return sorted(each.name for each in folder.iterdir())


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "plan.json", tmp_path / "link"
    target.write_text("old")
    link.symlink_to("far/plan.json")
    check_writable(link, "output")
    write_whole(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert names(tmp_path) == ["far", "link"]
    assert names(tmp_path / "far") == ["plan.json"]


def test_the_target_of_a_dangling_link_is_made(tmp_path: Path) -> None:
    (tmp_path / "chain").symlink_to(tmp_path / "link")
    (tmp_path / "link").symlink_to("target")
    check_writable(tmp_path / "chain", "output")
    write_whole(tmp_path / "chain", "new")
    assert (tmp_path / "chain").is_symlink()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


def test_links_that_lead_to_no_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "to folder").symlink_to("folder")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "astray").symlink_to("none/file")
    for name in ("to folder", "circle", "astray"):
        with pytest.raises(InputError, match=f"{name} (is a folder|cannot be written)") as caught:
            check_writable(tmp_path / name, "output")
        assert caught.value.field == "output"
        with pytest.raises(OSError, match=name if name == "circle" else "folder|none"):
            write_whole(tmp_path / name, "new")
    assert names(tmp_path) == ["astray", "circle", "folder", "to folder"]


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    check_writable(pipe, "output")
    write_whole_binary(pipe, lambda file: np.savez(file, numbers=np.arange(3)))
    reader.join()
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    (tmp_path / "read.npz").write_bytes(read[0])
    assert np.load(tmp_path / "read.npz")["numbers"].tolist() == [0, 1, 2]


def test_nothing_goes_into_a_device_when_the_content_cannot_be_made(tmp_path: Path) -> None:
    def fails(file: object) -> None:
        raise ValueError("no content")

    os.mkfifo(tmp_path / "pipe")  # without a reader, so that opening it would wait for ever
    with pytest.raises(ValueError, match="no content"):
        write_whole_binary(tmp_path / "pipe", fails)


def test_the_null_device_stays_a_device(tmp_path: Path) -> None:
    (tmp_path / "null").symlink_to(os.devnull)
    for path in (Path(os.devnull), tmp_path / "null"):
        check_writable(path, "output")
        write_whole(path, "gone")
        write_whole_binary(path, lambda file: np.savez(file, numbers=np.arange(3)))
        assert stat.S_ISCHR(path.stat().st_mode)


def test_an_existing_file_keeps_its_mode(tmp_path: Path) -> None:
    for bits in (0o600, 0o644, 0o666, 0o751):
        file = tmp_path / f"{bits:o}"
        file.write_text("old")
        file.chmod(bits)
        write_whole(file, "new")
        assert (mode(file), file.read_text()) == (bits, "new")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_an_existing_file_keeps_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "of another"
    file.write_text("old")
    os.chown(file, 1234, 2345)
    write_whole(file, "new")
    assert (file.stat().st_uid, file.stat().st_gid, file.read_text()) == (1234, 2345, "new")


def test_a_new_file_gets_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    for mask in (0o022, 0o077, 0o002):
        before = os.umask(mask)
        try:
            write_whole(tmp_path / f"{mask:o}", "new")
        finally:
            os.umask(before)
        assert mode(tmp_path / f"{mask:o}") == 0o666 & ~mask


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_leave_to_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o500)
    with pytest.raises(InputError, match="cannot be written"):
        check_writable(tmp_path / "folder" / "file", "output")


def test_a_folder_that_the_system_says_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for path in (tmp_path / "file", Path(os.devnull)):
        with pytest.raises(InputError, match="cannot be written"):
            check_writable(path, "output")


def test_an_output_that_cannot_be_written_is_refused_beforehand(tmp_path: Path) -> None:
    check_writable(tmp_path / "new.json", "output")
    for path in (tmp_path, tmp_path / "none" / "plan.json"):
        with pytest.raises(InputError, match=r"(is a folder|cannot be written); name a file") as caught:
            check_writable(path, "output")
        assert caught.value.field == "output"
        assert "--" not in str(caught.value)


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "plan.json").write_text("old")
    (tmp_path / "link").symlink_to("plan.json")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "link", "half a pl")
    assert (tmp_path / "plan.json").read_text() == "old"
    assert names(tmp_path) == ["link", "plan.json"]


def test_each_data_set_gets_a_file_of_its_own() -> None:
    assert file_names(["code", "chat decode"]) == {"code": "code", "chat decode": "chat-decode"}
    for pair in (["a b", "a-b"], ["Code", "code"], ["Straße", "STRASSE"]):
        with pytest.raises(InputError, match=f"'{pair[0]}' and '{pair[1]}' would share one file") as caught:
            file_names(pair)
        assert caught.value.field == "traces"
