"""The fast passes over JSON: they must find what the standard library finds, in files of any size and damage."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_files import as_json, damaged
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from optimizer.traces.formats import json_scan
from optimizer.traces.formats.json_scan import items, lifted, whole_list
from optimizer.traces.formats.untrusted import UnusableError, json_values

numbers = st.integers(-3, 70000) | st.just(10**12) | st.floats(0, 1)
lists = st.recursive(numbers, lambda inner: st.lists(inner, max_size=3), max_leaves=20)
blocks = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)).map(
    lambda shape: np.arange(np.prod(shape)).reshape(shape).tolist()
)
PARTS = st.fixed_dictionaries(
    {"routed_experts": blocks | lists, "text": st.sampled_from(['"routed_experts": [1, 2]', "[[", '\\"', "ä"])},
    optional={"prompt_routed_experts": blocks, "other": st.none() | blocks},
)


def back(text: bytes) -> Any:
    """What the library reads of a text from which lists were taken, with each list in its place again."""
    rest, arrays = lifted(text)
    return json.loads(
        rest,
        object_hook=lambda found: {
            key: arrays[value].tolist() if isinstance(value, str) and value in arrays else value
            for key, value in found.items()
        },
    )


@pytest.fixture(autouse=True)
def short_texts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of a few letters, and files in pieces of a few, go the ways of long ones."""
    monkeypatch.setattr(json_scan, "SHORT", 0)
    monkeypatch.setattr(json_scan, "CHUNK", 7)


@given(PARTS, st.sampled_from([None, 1]))
def test_lists_that_are_taken_out_are_those_that_the_library_reads(value: Any, indent: int | None) -> None:
    text = json.dumps(value, indent=indent).encode()
    assert back(text) == value


def test_full_blocks_are_taken_out_and_others_are_not() -> None:
    for value, taken in (
        ([[1, -1], [0, 2]], 1),
        ([[1, 2], [3]], 0),
        ([1, [2]], 0),
        ([], 0),
        ([[]], 0),
        ([1.0], 0),
        ([2**31], 1),
        ([2**62], 0),
    ):
        assert len(lifted(json.dumps({"routed_experts": value}).encode())[1]) == taken
    for text in (b"[01]", b"[-]", b"[1 2]", b"[1,]", b"[,1]", b"[1", b"[[[[[1]]]]]", b"[1e3]"):
        assert lifted(b'{"routed_experts": ' + text)[1] == {}


@given(
    st.binary(max_size=30).map(lambda text: b'{"routed_experts": [[1, 2], [3, 4]' + text)
    | damaged(b'{"routed_experts": [[1, 2], [3, 4]]}')
)
def test_no_damage_is_read_as_something(text: bytes) -> None:
    try:
        wanted = json.loads(text)
    except (ValueError, RecursionError):  # RecursionError: some thousand lists in each other
        with pytest.raises((ValueError, RecursionError)):
            back(text)
        return
    assert back(text) == wanted


@given(st.lists(PARTS | st.integers() | st.text(max_size=5), max_size=4), st.sampled_from([None, 2]))
def test_a_list_is_read_item_by_item(tmp_path_factory: pytest.TempPathFactory, values: Any, indent: int | None) -> None:
    path = tmp_path_factory.getbasetemp() / "items.json"
    path.write_text("\n " + json.dumps(values, indent=indent) + "\n")
    found = list(json_values(path))
    assert [place for place, _ in found] == [f"item {number}: " for number in range(len(values))]
    for (_, value), wanted in zip(found, values, strict=True):
        assert json.dumps(value, default=lambda array: array.tolist()) == json.dumps(wanted)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"]", []),
        (b" ]", []),
        (b"1]", [b"1"]),
        (b"1,]", [b"1", b""]),
        (b",]", [b"", b""]),
        (b'{"a":"x]\\","}, [1,{"b":"}"}] , 3 ] \n', [b'{"a":"x]\\","}', b' [1,{"b":"}"}] ', b" 3 "]),
        (b"1", [b""]),
        (b"1, 2", [b"1", b""]),
        (b"1] x", [b"1", b""]),
        (b'"', [b""]),
        (b"", [b""]),
    ],
)
def test_the_text_of_items(text: bytes, wanted: list[bytes]) -> None:
    """What is no whole list ends in an empty text, which is no JSON."""
    assert list(items(io.BytesIO(text))) == wanted


def test_damage_in_a_list_leaves_the_items_before_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b'[{"a": 1}, {"b": }, {"c": 3}')
    found = [value for _, value in json_values(tmp_path / "a")]
    assert found[0] == {"a": 1}
    assert [isinstance(value, UnusableError) for value in found] == [False, True, True]


ARRAYS = arrays(np.int64, array_shapes(max_dims=4, max_side=4), elements=st.integers(-(2**58), 2**58))


@given(ARRAYS, st.sampled_from([None, 1]))
def test_lists_of_whole_numbers_become_their_array(array: Any, indent: int | None) -> None:
    # The shape is told from brackets and commas alone, so lists of every depth and layout are tried.
    found = whole_list(json.dumps(array.tolist(), indent=indent).encode())
    assert found is not None
    assert found.shape == array.shape
    assert (found == array).all()


@given(ARRAYS.flatmap(lambda array: damaged(as_json(array.tolist()))))
def test_what_is_read_of_a_damaged_list_is_what_json_reads(text: bytes) -> None:
    # An empty place must not pass for 0, nor 007 for 7.
    found = whole_list(text)
    if found is not None:
        assert found.tolist() == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "[[]]", "[1,[2]]", "[[1],[2,3]]", "[1,]", "[,1]", "[1 2]", "[[1]", "[1]]", "1", "", "[1.5]", "[-]"),
        *("[1.]", "[[1][2]]", "[99999999999999999999]", "[[[1]],[[1],[2]]]", "[1,,2]", "[[1],]", "[[1]],", "[true]"),
        *("[[[[[1]]]]]", "[01]", "[1,00]", "[[1]\f]", "[1] x", "x [1]"),
    ],
)
def test_other_lists_are_left_to_the_library(text: str) -> None:
    # The library says what is wrong with them, or reads fractions.
    assert whole_list(text.encode()) is None


def test_a_text_is_no_list() -> None:
    # Lists that are taken out have names, which a hostile file could try to write down itself.
    text = b'{"expert_load": "array 0", "logical_count": [[1, 2]]}'
    rest, taken = lifted(text)
    assert json.loads(rest)["expert_load"] == "array 0"
    assert [array.tolist() for array in taken.values()] == [[[1, 2]]]
