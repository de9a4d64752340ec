"""Each format: exactly the described file, read back as what was written, and told by its content."""

import io
from pathlib import Path

import numpy as np
import pytest
import reference_exchange as reference
from hostile_files import npy_bytes
from hypothesis import given
from hypothesis import strategies as st
from placement_files import FILES, ROWS, TABLE, TEXTS, placed, read_again, settings_of_tt_metal
from random_placements import Sizes, drawn_rows, drawn_sizes

from optimizer.errors import InputError
from optimizer.exchange import ServerPlacement, read_placement
from optimizer.exchange.arrays import held, slots_by_expert
from optimizer.exchange.faults import faults
from optimizer.exchange.formats import FORMATS, formats_of, write_placement


@pytest.mark.parametrize("name", TEXTS)
def test_files_are_exactly_as_described(name: str, tmp_path: Path) -> None:
    """The texts were read once by hand against the description of each format."""
    path = tmp_path / "placement.json"
    write_placement(path, settings_of_tt_metal() if name == "tt-metal-yaml" else placed(name))
    assert path.read_text() == TEXTS[name]


def test_a_pattern_is_exactly_as_described(tmp_path: Path) -> None:
    path = tmp_path / "pattern.npy"
    write_placement(path, placed("omniinfer"))
    pattern = np.array([[[1, 1, 0], [0, 1, 1]], [[1, 0, 1], [1, 0, 1]]], dtype=np.int32)
    header, body = path.read_bytes()[:-48], path.read_bytes()[-48:]
    assert body == pattern.tobytes()
    assert header.strip().split(b"\n")[0].rstrip() == npy_bytes(pattern)[:-48].strip().split(b"\n")[0].rstrip()


def test_eplb_arrays_are_exactly_as_described(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    write_placement(path, placed("eplb"))
    rows, entries = reference.eplb(path.read_bytes())
    assert rows == dict(enumerate(ROWS))
    assert entries == {(0, 0): [0, 3], (0, 1): [1], (0, 2): [2], (1, 0): [2], (1, 1): [1], (1, 2): [0, 3]}


def test_tables_of_tt_metal_are_exactly_as_described() -> None:
    assert reference.tt_metal(FILES["tt-metal"]) == {3: TABLE[0].tolist(), 4: TABLE[1].tolist()}


def test_settings_of_tt_metal_are_exactly_as_described() -> None:
    assert reference.tt_metal_yaml(FILES["tt-metal-yaml"]) == ([0, 1, 0, 1], {4: [0, 1]})
    read = read_again("tt-metal-yaml", FILES["tt-metal-yaml"])
    assert np.array_equal(read.physical_to_logical, np.array([[0, 2, 4, 1, 3, 4]]))


READERS = {
    "sglang": reference.sglang,
    "rtp-llm": reference.lists,
    "vllm": reference.vllm,
    "vllm-json": reference.lists,
    "tensorrt-llm": reference.tensorrt_llm,
    "vllm-ascend": reference.vllm_ascend,
}


@given(drawn_sizes(), st.integers(0, 2**32), st.sampled_from(sorted(READERS)))
def test_what_is_written_is_read_back_by_us_and_by_the_description(sizes: Sizes, seed: int, name: str) -> None:
    rows = drawn_rows(np.random.default_rng(seed), sizes)
    before = placed(name, rows.tolist(), sizes.ranks)
    content = FORMATS[name].content(before)
    assert READERS[name](content) == dict(zip(before.layers, rows.tolist(), strict=True))
    after = read_again(name, content)
    assert (after.layers, after.experts, after.numbering) == (before.layers, before.experts, before.numbering)
    assert np.array_equal(after.physical_to_logical, before.physical_to_logical)
    assert after.ranks == (sizes.ranks if name == "vllm-ascend" else None)
    if name != "rtp-llm" or after.slots <= 2 * sizes.experts:
        assert faults(after.on_ranks(sizes.ranks)) == []


@given(drawn_sizes(), st.integers(0, 2**32))
def test_patterns_hold_which_experts_a_device_has(sizes: Sizes, seed: int) -> None:
    rows = drawn_rows(np.random.default_rng(seed), sizes)
    content = FORMATS["omniinfer"].content(placed("omniinfer", rows.tolist(), sizes.ranks))
    by_rank = rows.reshape(sizes.layers, sizes.ranks, sizes.slots)
    assert reference.omniinfer(content) == {
        layer: [set(held_there.tolist()) for held_there in by_rank[layer]] for layer in range(sizes.layers)
    }
    after = read_again("omniinfer", content)
    assert np.array_equal(after.by_rank(), np.sort(by_rank, axis=2))


@given(drawn_sizes(), st.integers(0, 2**32), st.booleans())
def test_eplb_arrays_hold_slots_and_shares(sizes: Sizes, seed: int, weighted: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = drawn_rows(rng, sizes)
    before = placed("eplb", rows.tolist(), sizes.ranks)
    entries = slots_by_expert(rows, sizes.experts)[0]
    if weighted:
        first = entries[:, :, :1]
        doubled = np.concatenate([first, entries], axis=2)
        before = ServerPlacement("eplb", before.layers, rows, sizes.experts, None, "moe", log2phy=doubled)
        entries = doubled
    content = FORMATS["eplb"].content(before)
    read, named = reference.eplb(content)
    assert read == dict(enumerate(rows.tolist()))
    assert {place: sorted(slots) for place, slots in named.items()} == {
        (layer, expert): sorted(slot for slot in entries[layer, expert].tolist() if slot >= 0)
        for layer in range(sizes.layers)
        for expert in range(sizes.experts)
    }
    after = read_again("eplb", content)
    assert np.array_equal(after.physical_to_logical, rows)
    assert (after.log2phy is not None) == weighted
    if after.log2phy is not None:
        assert np.array_equal(after.log2phy, entries)


@given(drawn_sizes(), st.integers(0, 2**32))
def test_tables_hold_where_each_source_sends(sizes: Sizes, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = drawn_rows(rng, sizes)
    found = held(rows.reshape(sizes.layers, sizes.ranks, -1), sizes.experts)
    table = np.where(found, rng.random(found.shape), -1)
    chosen = np.array([[table[layer].argmax(axis=0)] * sizes.ranks for layer in range(sizes.layers)])
    layers = tuple(range(3, 3 + sizes.layers))
    before = ServerPlacement("tt-metal", layers, rows, sizes.experts, sizes.ranks, dispatch=chosen)
    content = FORMATS["tt-metal"].content(before)
    assert reference.tt_metal(content) == dict(zip(layers, chosen.tolist(), strict=True))
    after = read_again("tt-metal", content)
    assert after.layers == layers
    assert after.dispatch is not None
    assert np.array_equal(after.dispatch, chosen)
    for layer, (row, sent) in enumerate(zip(after.by_rank(), chosen, strict=True)):
        for device, ids in enumerate(row.tolist()):
            assert {each for each in ids if each >= 0} == set(np.flatnonzero(sent[0] == device).tolist()), layer


def test_settings_of_tt_metal_are_read_with_words_and_lists(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(
        "mesh_shape: [2, 2]\nhas_bias: false\nexperts:\n  expert_mapping: [3, 0, 1, 2]\n"
        "  shared_expert_ids_to_devices: fully_replicated\n"
    )
    read = read_placement(path)
    assert (read.ranks, read.experts, read.routed) == (4, 5, 4)
    assert read.by_rank()[0].tolist() == [[1, 4], [2, 4], [3, 4], [0, 4]]
    assert faults(read) == []


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("vllm-json", "rtp-llm")])
def test_content_tells_the_format(name: str, tmp_path: Path) -> None:
    path = tmp_path / "placement.without-a-suffix"
    path.write_bytes(FILES[name])
    assert formats_of(path) == [name]
    assert read_placement(path).format == name


def test_two_fitting_formats_are_asked_about(tmp_path: Path) -> None:
    path = tmp_path / "lists.json"
    path.write_text("[[0, 1], [1, 0]]")
    with pytest.raises(InputError, match=r"vllm-json .*rtp-llm") as caught:
        read_placement(path)
    assert caught.value.field == "format"
    assert read_placement(path, "rtp-llm").numbering == "model"
    assert read_placement(path, "vllm-json").numbered(3).layers == (3, 4)


def test_a_map_of_eight_experts_on_two_devices_is_read(tmp_path: Path) -> None:
    """The example that vllm-ascend's own documentation of expert maps begins with: 8 experts, 2 devices of 5 slots."""
    path = tmp_path / "expert_map.json"
    path.write_text(
        '{"moe_layer_count": 1, "layer_list": [{"layer_id": 0, "device_count": 2, "device_list": [{"device_id": 0, '
        '"device_expert": [7, 2, 0, 3, 5]}, {"device_id": 1, "device_expert": [6, 1, 4, 7, 2]}]}]}'
    )
    read = read_placement(path)
    assert (read.experts, read.ranks, read.slots) == (8, 2, 10)
    assert read.row(0).tolist() == [7, 2, 0, 3, 5, 6, 1, 4, 7, 2]
    assert faults(read) == []


def test_archives_of_other_arrays_are_no_placement(tmp_path: Path) -> None:
    path = tmp_path / "counts.npz"
    file = io.BytesIO()
    np.savez(file, counts=np.zeros((2, 3)))
    path.write_bytes(file.getvalue())
    with pytest.raises(InputError, match="no placement in a known format"):
        read_placement(path)
