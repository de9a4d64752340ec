"""Damaged and malicious files: one line each, soon, and in little memory."""

import io
import json
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hostile_files import MEMORY, as_json, damaged, little_memory, lying_npy, one_line, pickled_npy, replaced
from hypothesis import given
from hypothesis import strategies as st
from placement_files import FILES, read_again

from optimizer.errors import InputError
from optimizer.exchange.faults import faults
from optimizer.exchange.formats import FORMATS
from optimizer.exchange.safe_yaml import yaml_of


def attempt(name: str, content: bytes) -> None:
    """Read a file as a format, and judge it; nothing but an InputError of one line may come."""
    try:
        found = read_again(name, content)
    except InputError as error:
        one_line(error)
        return
    for fault in faults(found):
        assert "\n" not in fault


@given(st.sampled_from(sorted(FILES)).flatmap(lambda name: st.tuples(st.just(name), damaged(FILES[name]))))
def test_damaged_files_are_one_line(case: tuple[str, bytes]) -> None:
    attempt(*case)


JSON_FILES = {name: json.loads(content) for name, content in FILES.items() if content[:1] in (b"{", b"[")}


@given(st.sampled_from(sorted(JSON_FILES)).flatmap(lambda name: st.tuples(st.just(name), replaced(JSON_FILES[name]))))
def test_other_values_in_json_are_one_line(case: tuple[str, object]) -> None:
    attempt(case[0], as_json(case[1]))


@given(lying_npy(), st.sampled_from(["phy2log", "log2phy", "logcnt", "expert_mapping", "layers"]))
def test_lying_arrays_are_one_line(content: bytes, member: str) -> None:
    attempt("omniinfer", content)
    name = "eplb" if member[-3:] in ("log", "phy", "cnt") else "tt-metal"
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(FILES[name])) as whole, zipfile.ZipFile(file, "w") as archive:
        for other in whole.namelist():
            archive.writestr(other, content if other == f"{member}.npy" else whole.read(other))
    attempt(name, file.getvalue())


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    attempt("omniinfer", pickled_npy(tmp_path / "ran"))
    assert not (tmp_path / "ran").exists()


NAMES = list(pairwise("abcdefghi"))
SAME = "".join(f" {layer}: *a\n" for layer in range(1, 9_000))
HUGE_TEXTS = {
    "brackets": "[" * 1_000_000,
    "dashes": "- " * 1_000_000,
    "aliases": "\n".join(["a: &a [x, x, x, x]", *(f"{n}: &{n} [{', '.join([f'*{p}'] * 9)}]" for p, n in NAMES)]),
    "merge keys": "a: &a {x: 1}\nb:\n  <<: *a\n",
    "scalars": "num_slots: [" + "1," * 400_000 + "]",
    "same key": "num_slots: 1\nnum_slots: 2\n",
    "foreign tag": "num_slots: !!python/object/apply:os.system ['true']\n",
    "own tag": "num_slots: !other 3\n",
    "one row for all": "num_slots: 9\ninitial_global_assignments:\n 0: &a [" + "1," * 60_000 + "1]\n" + SAME,
    "itself": "num_slots: &a [*a]\n",
}  # fmt: skip


@pytest.mark.parametrize("text", HUGE_TEXTS.values(), ids=HUGE_TEXTS)
def test_yaml_that_would_grow_is_one_line(text: str) -> None:
    attempt("tensorrt-llm", text.encode())
    attempt("tt-metal-yaml", text.encode())


def test_yaml_is_read_as_its_parts_say(tmp_path: Path) -> None:
    path = tmp_path / "sample.yaml"
    path.write_text("a: &x [1, -2, '3', 0x4, true]\nb: *x\nc: {3: [], d: ~}\n5: |\n  text\n---\nnot: read\n")
    found = yaml_of(path)
    assert found == {"a": [1, -2, "3", "0x4", "true"], "b": found["a"], "c": {3: [], "d": "~"}, 5: "text\n"}


def test_files_that_would_fill_memory_are_refused(tmp_path: Path) -> None:
    bomb = io.BytesIO()
    zeros = np.zeros(1 << 27, dtype=np.int8)  # 128 MB, which deflate to a thousandth
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("phy2log.npy", zeros.tobytes())
    del zeros
    path = tmp_path / "large.json"
    path.write_bytes(b" " * (9 << 20))
    with little_memory():
        attempt("eplb", bomb.getvalue())
        with pytest.raises(InputError, match="more than 4 MB"):
            FORMATS["sglang"].read(path)
    assert MEMORY < 1 << 27
