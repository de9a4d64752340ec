"""Torch files without torch: what was saved comes back, and no damaged or malicious file does more than be refused."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_files import Bomb, damaged, little_memory, one_line
from hypothesis import given
from torch_files import torch_bytes, write_torch

from optimizer.traces.formats.recorder_records import Recording
from optimizer.traces.formats.sniff import Format, sniff
from optimizer.traces.formats.torch_file import StoredTensor, TorchFile
from optimizer.traces.formats.untrusted import UnusableError

IDS = np.arange(2 * 5 * 8, dtype=np.int32).reshape(2, 5, 8)
MAP = np.array([[0, 1, 2, 0], [2, 1, 0, 1]])


def recording(**changes: Any) -> dict[str, Any]:
    """Two records, with everything that SGLang 0.5 writes beside the ids."""
    records = [
        {
            "forward_pass_id": number,
            "rank": 3,
            "gatherer_key": "primary",
            "input_ids": [7, -1, 70000, 2**40, 0],
            "positions": [0, 1, 2, 3, 4],
            "extend_seq_lens": None,
            "forward_mode": 2,
            "topk_ids_of_layer": IDS + number,
            "misc_objects": [],
            "global_physical_count": np.ones((2, 4), dtype=np.int32),
        }
        for number in range(2)
    ]
    return {"records": records, "last_physical_to_logical_map": MAP} | changes


@pytest.mark.parametrize("dtype", ["i8", "i4", "i2", "u1", "f4", "f8", "?"])
def test_arrays_come_back_in_their_type_and_order(tmp_path: Path, dtype: str) -> None:
    """A tensor may be a transposed part of a larger one, which torch saves as a view."""
    base = (np.arange(60) % 2 if dtype == "?" else np.arange(60)).astype(dtype).reshape(5, 4, 3)
    views = {"whole": base, "part": base[1:4, :, 1:], "turned": base.T, "scalar": base[2, 3, 1:2]}
    with TorchFile(write_torch(tmp_path / "a.pt", views)) as file:
        assert isinstance(file.held, dict)
        for name, view in views.items():
            assert isinstance(file.held[name], StoredTensor)
            found = file.array(file.held[name])
            assert found.dtype == view.dtype
            assert found.tolist() == view.tolist()


def test_records_come_one_by_one_with_the_arrays_that_are_wanted(tmp_path: Path) -> None:
    with Recording(write_torch(tmp_path / "a.pt", recording())) as found:
        assert found.physical_to_logical.tolist() == MAP.tolist()
        for number, record in enumerate(found.records(["topk_ids_of_layer"])):
            assert (np.asarray(record["topk_ids_of_layer"]) == IDS + number).all()
            assert "global_physical_count" not in record
            assert (record["forward_pass_id"], record["rank"], record["forward_mode"]) == (number, 3, 2)
            assert record["input_ids"] == [7, -1, 70000, 2**40, 0]


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (7, "has no records"),
        ({"records": []}, "has no records"),
        ({"records": [1]}, "has no records"),
        (recording(last_physical_to_logical_map=None), "has no last_physical_to_logical_map"),
        (recording(last_physical_to_logical_map=MAP[0]), "has no last_physical_to_logical_map"),
        (recording(last_physical_to_logical_map=MAP.astype(float)), "has no last_physical_to_logical_map"),
        (recording(last_physical_to_logical_map=MAP - 1), "names experts -1..1, not within"),
        (recording(last_physical_to_logical_map=np.broadcast_to(MAP, (900, 2, 4))[:, 0]), "larger than the file"),
        (recording(last_physical_to_logical_map=np.ones((1, 1, 1, 1, 1), dtype=int)), "impossible shape"),
    ],
)
def test_what_is_no_recording_is_said(tmp_path: Path, held: Any, said: str) -> None:
    with pytest.raises(UnusableError, match=said):
        Recording(write_torch(tmp_path / "a.pt", held))


def with_description(whole: bytes, path: Path, description: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    """A torch file with another description."""
    path.write_bytes(whole)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, description if name.endswith(".pkl") else content)
    return path


@pytest.mark.parametrize(
    ("description", "said"),
    [
        (b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x40\x85R.", "never unpickled"),  # a gigabyte, if it were called
        (b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00exit\x85R.", "never unpickled"),
        (pickle.dumps(Bomb(Path("harm")), protocol=2), "never unpickled"),
        (pickle.dumps(b"other", protocol=4), "never unpickled"),
        (b"\x80\x02]\x8a\xffabc", "is damaged"),
        (b"\x80\x02", "is damaged"),
        (b"\x80\x02K\x01a.", "is damaged"),
        (b"\x80\x02K\x01h\x05.", "is damaged"),
        (b"", "is damaged"),
    ],
)
def test_a_strange_description_is_refused(tmp_path: Path, description: bytes, said: str) -> None:
    with little_memory(), pytest.raises(UnusableError, match=said):
        TorchFile(with_description(torch_bytes(recording()), tmp_path / "a", description))
    assert not Path("harm").exists()


def test_archives_that_lie_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(UnusableError, match="not a whole torch file"):
        TorchFile(tmp_path / "empty")
    packed = with_description(torch_bytes(recording()), tmp_path / "a", b"\x80\x02N.", zipfile.ZIP_DEFLATED)
    with pytest.raises(UnusableError, match="is compressed"):
        TorchFile(packed)
    shared = recording()
    shared["records"][1]["topk_ids_of_layer"] = shared["records"][0]["topk_ids_of_layer"]
    with (
        Recording(write_torch(tmp_path / "b", shared)) as found,
        pytest.raises(UnusableError, match="one and the same topk_ids_of_layer"),
    ):
        list(found.records(["topk_ids_of_layer"]))


@pytest.mark.parametrize("member", ["file/data.pkl", "file/byteorder", "file/data/0"])
def test_a_member_that_says_to_be_huge_in_the_file_takes_no_memory(tmp_path: Path, member: str) -> None:
    """zipfile asks the system for as many bytes as the compressed size says, before it sees that there are fewer."""
    content = bytearray(torch_bytes(recording()))
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(member.encode()))  # in the directory at the end
    content[entry + 20 : entry + 24] = b"\xff" * 4
    (tmp_path / "a").write_bytes(content)
    with little_memory(), pytest.raises(UnusableError, match="is compressed, or declares more bytes"):
        TorchFile(tmp_path / "a")
    with little_memory():
        assert sniff(tmp_path / "a") in (Format.RECORDER_TOKENS, Format.RECORDER_PT)


def test_hostile_files_are_read_or_refused_in_a_line(tmp_path: Path) -> None:
    path, whole = tmp_path / f"{os.getpid()}.pt", torch_bytes(recording())
    with zipfile.ZipFile(write_torch(tmp_path / "whole", recording())) as archive:
        description = archive.read("file/data.pkl")

    def read() -> None:
        with little_memory():
            try:
                with Recording(path) as found:
                    for record in found.records(["topk_ids_of_layer", "global_physical_count"]):
                        assert all(array.size for array in record.values() if isinstance(array, np.ndarray))
            except UnusableError as error:
                one_line(error)

    @given(damaged(whole))
    def check_bytes(content: bytes) -> None:
        path.write_bytes(content)
        read()

    @given(damaged(description))
    def check_description(content: bytes) -> None:
        with_description(whole, path, content)
        read()

    check_bytes()
    check_description()
