"""Count-only traces: golden files from the documented layouts, damaged ones, malicious ones."""

import io
import json
import pickle
import struct
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_files import (
    Bomb,
    as_json,
    damaged,
    little_memory,
    lying_npy,
    npy_bytes,
    npy_header,
    one_line,
    pickled_npy,
    replaced,
)
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save
from torch_files import write_torch

from formulations.kit.arrays import Ints
from optimizer.errors import InputError
from optimizer.traces.formats.counts import Counts, CountsReading, read_counts
from optimizer.traces.formats.sniff import COUNTS_ONLY, Format, sniff

LOAD = np.random.default_rng(2).integers(1, 90, (3, 4, 5))  # 3 steps, 4 layers, 5 experts
DENSE = LOAD * (np.arange(4) > 1)[:, None]  # the first two layers count nothing


def write(path: Path, value: Any) -> Path:
    path.write_bytes(as_json(value))
    return path


def write_archive(path: Path, **arrays: Any) -> Path:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return path


def write_recorder(path: Path, **held: Any) -> Path:
    """As SGLang's recorder does, numpy arrays as tensors."""
    return write_torch(path, {"rank": 0, "average_utilization_rate_over_window": None} | held)


def write_statistics(path: Path, ranks: list[dict[str, Any]], **meta: Any) -> Path:
    path.mkdir(exist_ok=True)
    write(path / "meta_info.json", {"num_experts": 5, "num_experts_per_token": 2} | meta)
    for rank, tensors in enumerate(ranks):
        (path / f"rank{rank}.safetensors").write_bytes(save(tensors))
    return path


def keyed(load: Ints, first_iteration: int = 50, first_layer: int = 3) -> dict[str, Any]:
    """`{iteration}_{layer}` -> counts of the experts."""
    return {
        f"{first_iteration + step}_{first_layer + layer}": load[step, layer]
        for step in range(len(load))
        for layer in range(load.shape[1])
    }


def read(path: Path, first_layer: int = 3) -> Counts:
    return read_counts(path, sniff(path), CountsReading(first_layer))


# Golden files


@pytest.mark.parametrize("as_type", [int, float])
def test_logical_counts_with_and_without_steps(tmp_path: Path, as_type: type) -> None:
    three = read(write(tmp_path / "a", {"rank": 0, "logical_count": LOAD.astype(as_type).tolist()}))
    one = read(write(tmp_path / "b.json", {"logical_count": LOAD[1].astype(as_type).tolist()}))
    (tmp_path / "c").write_text(json.dumps({"logical_count": LOAD.astype(as_type).tolist()}, indent=2))
    assert (three.load == LOAD).all()
    assert (one.load == LOAD[1:2]).all()
    assert (read(tmp_path / "c").load == LOAD).all()
    assert three.load.dtype == np.int64
    assert (three.layers, three.top_k, three.names) == ((3, 4, 5, 6), None, ())
    assert three.tokens is None
    assert one.source == "1 steps of b.json"
    with pytest.raises(ValueError, match="read-only"):
        one.load[0, 0, 0] = 1


def test_a_load_history(tmp_path: Path) -> None:
    entries = [{"logical_expert_load": load.tolist(), "step": step} for step, load in enumerate(LOAD)]
    found = read(write(tmp_path / "a", {"load_history": entries}), first_layer=0)
    assert (found.load == LOAD).all()
    assert found.layers == (0, 1, 2, 3)


@pytest.mark.parametrize("dtype", ["i4", "i8", "f4"])
def test_a_recorder_file(tmp_path: Path, dtype: str) -> None:
    found = read(write_recorder(tmp_path / "a", logical_count=LOAD.astype(dtype)))
    part = read(write_recorder(tmp_path / "b", logical_count=LOAD.astype(dtype)[:, 1:, ::2].copy()))
    assert (found.load == LOAD).all()
    assert (part.load == LOAD[:, 1:, ::2]).all()
    assert found.layers == (3, 4, 5, 6)


def test_tensorrt_statistics_are_summed_over_ranks(tmp_path: Path) -> None:
    ranks = [keyed(LOAD), keyed(LOAD[:2].astype(np.int32)), keyed(np.ones_like(LOAD))]
    found = read(write_statistics(tmp_path / "a", ranks), first_layer=77)
    assert (found.load[:2] == 2 * LOAD[:2] + 1).all()
    assert (found.load[2] == LOAD[2] + 1).all()
    assert (found.layers, found.top_k) == ((3, 4, 5, 6), 2)
    assert found.names == ("iteration 50", "iteration 51", "iteration 52")


def test_tensorrt_iterations_and_layers_are_numbers_and_other_files_are_left_alone(tmp_path: Path) -> None:
    path = write_statistics(tmp_path / "a", [keyed(LOAD, 9, 98)], num_experts_per_token=None)
    for name in ("rank0_raw", "rank1_raw", "cooccurrence_rank1"):
        (path / f"{name}.safetensors").write_bytes(save({"9_98": np.zeros(7)}))
    found = read_counts(path, Format.TENSORRT, CountsReading(3))  # said, as the raw files hold the same run's tokens
    assert (found.load == LOAD).all()  # iteration 10 comes after 9, layer 100 after 99
    assert (found.layers, found.top_k) == ((98, 99, 100, 101), None)


@pytest.mark.parametrize(("tokens", "top_k"), [(None, None), (0, 2), (1, None)])
def test_an_archive_of_counts(tmp_path: Path, tokens: int | None, top_k: int | None) -> None:
    counts = np.zeros((2, 3, 4, 5), dtype=np.int32)
    counts[..., 0], counts[..., 3] = 6, np.arange(2, 26, 4).reshape(2, 3, 1)
    said = {} if tokens is None else {"tokens": counts[:, :, 0].sum(axis=2) // 2 + tokens}
    archive = {"counts": counts, "layers": np.array([5, 7, 8, 9]), "domains": np.array(["law", "code"]), **said}
    found = read(write_archive(tmp_path / "a", **archive))
    assert (found.load == counts.reshape(6, 4, 5)).all()
    assert (found.layers, found.top_k) == ((5, 7, 8, 9), top_k)
    assert found.names == ("law",) * 3 + ("code",) * 3
    assert (found.tokens is None) if tokens is None else (found.tokens == said["tokens"].ravel()).all()
    bare = read(write_archive(tmp_path / "b", counts=counts), first_layer=1)
    assert (bare.layers, bare.names) == ((1, 2, 3, 4), ())


def test_leading_layers_without_counts_number_the_layers_from_0(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a", {"logical_count": DENSE.tolist()})).layers == (0, 1, 2, 3)
    assert read(write(tmp_path / "a", {"logical_count": DENSE[:, ::-1].tolist()})).layers == (3, 4, 5, 6)
    one_step = DENSE.copy()
    one_step[0, 0, 0] = 1
    assert read(write(tmp_path / "a", {"logical_count": one_step.tolist()})).layers == (3, 4, 5, 6)
    said = read(write_archive(tmp_path / "b", counts=DENSE[None], layers=np.arange(7, 11)))
    assert said.layers == (7, 8, 9, 10)


def test_real_counts(real_traces: Path) -> None:
    path = real_traces / "glm-5.2" / "expert_counts.npz"
    found = read_counts(path, sniff(path))
    with np.load(path) as archive:
        assert (found.load.reshape(8, 8, 75, 256) == archive["counts"]).all()
        assert found.tokens is not None
        assert (found.tokens.reshape(8, 8) == archive["tokens"]).all()
        assert found.names[::8] == tuple(archive["domains"])
    assert (found.layers, found.top_k) == (tuple(range(3, 78)), 8)


@pytest.mark.parametrize("change", [{"layers": (3, 4)}, {"names": ("a",)}, {"tokens": np.ones((3, 1))}])
def test_counts_that_do_not_fit_together_cannot_be_made(change: Any) -> None:
    fitting: dict[str, Any] = {"layers": (0, 1, 2, 3), "tokens": np.ones(3, dtype=int), "names": ("a", "b", "c")}
    Counts(LOAD.copy(), top_k=None, source="a test", **fitting)
    with pytest.raises(ValueError, match="do not fit together"):
        Counts(LOAD.copy(), top_k=None, source="a test", **(fitting | change))


# Faults


def changed(index: tuple[int, ...], value: Any) -> Any:
    values = LOAD.tolist()
    inner = values
    for at in index[:-1]:
        inner = inner[at]
    inner[index[-1]] = value
    return values


JSON_FAULTS = {
    "negative": (changed((1, 2, 3), -1), r"logical_count\[1, 2, 3\] is -1, not a whole number"),
    "nan": (changed((2, 3, 4), float("nan")), r"logical_count\[2, 3, 4\] is nan, not a whole number"),
    "infinite": (changed((2, 3, 4), float("inf")), r"logical_count\[2, 3, 4\] is inf, not a whole number"),
    "enormous": (changed((2, 3, 4), 2**41), r"logical_count\[2, 3, 4\] is 2199023255552, not a whole number"),
    "beyond": (changed((2, 3, 4), 10**30), "logical_count is empty, or holds numbers beyond 64 bits"),
    "text": (changed((2, 3, 4), "7"), "logical_count holds text, not numbers alone"),
    "long text": (changed((2, 3, 4), "7" * 10**6), "logical_count holds text, not numbers alone"),
    "null": (changed((2, 3, 4), None), "logical_count holds null, not numbers alone"),
    "truth": (changed((2, 3, 4), True), "logical_count holds true or false, not numbers alone"),
    "object": (changed((2, 3), {}), "logical_count holds an object, not numbers alone"),
    "ragged": (changed((1, 2), [1, 2]), "logical_count has lists of different lengths"),
    "flat": ([1, 2], r"logical_count has shape \(2,\), not \[step, layer, expert\]"),
    "deep": ([LOAD.tolist()], r"logical_count has shape \(1, 3, 4, 5\), not \[step, layer, expert\]"),
    "deeper": ([[[[[[1]]]]]], "logical_count holds a list, not numbers alone"),
    "empty": ([[[]]], "logical_count is empty"),
    "zero": ((0 * LOAD).tolist(), "every count is zero"),
    "no list": (7, "logical_count is another number, not a list"),
}


@pytest.mark.parametrize("name", JSON_FAULTS)
def test_faulty_json_is_one_sentence(tmp_path: Path, name: str) -> None:
    value, said = JSON_FAULTS[name]
    path = write(tmp_path / "a.json", {"logical_count": value})
    with suppress(InputError):
        read(path)  # a first reading loads the kernels that scan long texts, which are not the file's memory
    with little_memory(), pytest.raises(InputError, match=rf"a\.json: {said}.*; record it again") as caught:
        read(path)
    one_line(caught.value)


@pytest.mark.parametrize(
    ("history", "said"),
    [
        ([], "load_history is empty, or no list"),
        (None, "load_history is empty, or no list"),
        ([7], r"load_history\[0\]\.logical_expert_load is null"),
        ([{"logical_expert_load": [[1, 2]]}, {}], r"load_history\[1\]\.logical_expert_load is null"),
        (
            [{"logical_expert_load": [[1, 2]]}, {"logical_expert_load": [[1]]}],
            r"load_history\[1\].* has shape \(1, 1\)",
        ),
        ([{"logical_expert_load": [1, 2]}], r"load_history\[0\].* has shape \(2,\)"),
        ([{"logical_expert_load": [[1, -2]]}], r"load_history\[0, 0, 1\] is -2"),
    ],
)
def test_a_faulty_history_is_one_sentence(tmp_path: Path, history: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(write(tmp_path / "a", {"load_history": history}))


@pytest.mark.parametrize(
    "text", ['{"logical_count": [[1]]}\n{"logical_count": [[1]]}', "[]", "7", "{", '{"logical_count": [[']
)
def test_other_than_one_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a").write_text(text)
    with pytest.raises(InputError, match="a: is not one JSON object"):
        read_counts(tmp_path / "a", Format.LOGICAL_COUNT)


COUNTS = LOAD[None].astype(np.int32)  # one domain of three shards
ARCHIVE_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "axes": ({"counts": LOAD}, r"counts is missing, or not \[domain, shard, layer, expert\]"),
    "negative": ({"counts": COUNTS * -1}, r"counts\[0, 0, 0, 0\] is -"),
    "text": ({"counts": COUNTS.astype("U3")}, "counts holds str.* values, not numbers"),
    "truth": ({"counts": COUNTS > 1}, "counts holds bool values, not numbers"),
    "objects": ({"counts": COUNTS.astype(object)}, "counts holds a pickled object, which is never unpickled"),
    "tokens": ({"tokens": np.ones((3, 1), dtype=int)}, r"tokens has shape \(3, 1\), not \(1, 3\) as counts has"),
    "half a token": ({"tokens": np.full((1, 3), 0.5)}, r"tokens\[0, 0\] is 0.5"),
    "layers": ({"layers": np.arange(3)}, r"layers has shape \(3,\), not \(4,\)"),
    "same layer": ({"layers": np.array([1, 2, 2, 3])}, "layers names a layer twice"),
    "no layer": ({"layers": np.array([-1, 2, 3, 4])}, r"layers\[0\] is -1"),
    "layer types": ({"layers": np.arange(4.0)}, "layers holds float64 values, not integers"),
    "domains": ({"domains": np.array(["a", "b"])}, r"domains has shape \(2,\), not \(1,\)"),
    "numbered": ({"domains": np.array([1])}, "domains holds int64 values, not text"),
    "lines": ({"domains": np.array(["a\nb"])}, "domains holds what is no printable text"),
    "no letters": (
        {"domains": np.array([2**31 - 1], dtype="i4").view("U1")},
        "domains holds what is no printable text",
    ),
}


@pytest.mark.parametrize("name", ARCHIVE_FAULTS)
def test_a_faulty_archive_is_one_sentence(tmp_path: Path, name: str) -> None:
    change, said = ARCHIVE_FAULTS[name]
    with pytest.raises(InputError, match=f"a: {said}") as caught:
        read(write_archive(tmp_path / "a", **({"counts": COUNTS} | change)))
    one_line(caught.value)


def forged_archive(path: Path, member: bytes, claimed: int) -> Path:
    """An archive whose directory claims that counts.npy unpacks to `claimed` bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("counts.npy", member)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, claimed)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("gigabytes", "agree", "said"),
    [
        (0.5, True, "is not a whole .npz"),
        (2, True, "declares 2147483648 bytes"),
        (2, False, "declares 2147483648 bytes"),
    ],
)
def test_a_zip_bomb_is_refused(tmp_path: Path, gigabytes: float, agree: bool, said: str) -> None:
    size = int(gigabytes * 2**30)
    header = npy_header("'<i4'", f"(1, 1, {2**14}, {size >> 16})")
    claimed = len(header) + (size if agree else 2**16)  # else the header alone lies
    path = forged_archive(tmp_path / "a", header + bytes(2**16), claimed)
    with little_memory(), pytest.raises(InputError, match=said) as caught:
        read(path)
    one_line(caught.value)


def test_an_archive_with_a_foreign_compression_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("counts.npy", npy_bytes(COUNTS))
    with pytest.raises(InputError, match="counts in a compression that numpy does not write"):
        read(tmp_path / "a")


STATISTICS_FAULTS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "experts": ([keyed(LOAD)], {"num_experts": 6}, r"rank0\.safetensors: \S+ has shape \(5,\), not 6 experts"),
    "no experts": ([keyed(LOAD)], {"num_experts": None}, "meta_info.json has no num_experts"),
    "odd experts": ([keyed(LOAD)], {"num_experts": "5"}, "num_experts is text"),
    "axes": ([{"1_1": LOAD[0]}], {}, r"rank0\.safetensors: 1_1 has shape \(4, 5\)"),
    "key": ([{"1-1": LOAD[0, 0]}], {}, r"rank0\.safetensors: key '1-1' is not of the form iteration_layer"),
    "hole": ([{"1_1": LOAD[0, 0], "2_2": LOAD[0, 0]}], {}, "not every iteration has every layer"),
    "nothing": ([{}], {}, "not every iteration has every layer"),
    "negative": ([{"1_1": -LOAD[0, 0]}], {}, r"rank0\.safetensors: 1_1\[0\] is -"),
    "zero": ([{"1_1": 0 * LOAD[0, 0]}], {}, "every count is zero"),
}


@pytest.mark.parametrize("name", STATISTICS_FAULTS)
def test_faulty_statistics_are_one_sentence(tmp_path: Path, name: str) -> None:
    ranks, meta, said = STATISTICS_FAULTS[name]
    with pytest.raises(InputError, match=f"a: {said}") as caught:
        read(write_statistics(tmp_path / "a", ranks, **meta))
    one_line(caught.value)


def test_a_missing_rank_is_noticed(tmp_path: Path) -> None:
    path = write_statistics(tmp_path / "a", [keyed(LOAD)] * 3)
    (path / "rank1.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no rank1\.safetensors"):
        read(path)
    for rank in (0, 2):
        (path / f"rank{rank}.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no rank0\.safetensors"):
        read_counts(path, Format.TENSORRT)


@pytest.mark.parametrize("kind", sorted(set(Format) - COUNTS_ONLY))
def test_requests_are_no_counts(tmp_path: Path, kind: Format) -> None:
    with pytest.raises(InputError, match=f"a: format {kind} holds requests, not counts"):
        read_counts(tmp_path / "a", kind)


@pytest.mark.parametrize("kind", sorted(COUNTS_ONLY))
def test_a_file_that_is_not_there(tmp_path: Path, kind: Format) -> None:
    with pytest.raises(InputError) as caught:
        read_counts(tmp_path / "none", kind)
    one_line(caught.value)


@pytest.mark.parametrize("held", [{}, {"logical_count": LOAD.tolist()}, {"logical_count": LOAD > 2}, {"x": LOAD}])
def test_a_recorder_file_without_counts(tmp_path: Path, held: Any) -> None:
    with pytest.raises(InputError, match="logical_count") as caught:
        read(write_recorder(tmp_path / "a", **held))
    one_line(caught.value)


# Hostile files


def whole_archive(counts: bytes, **more: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in ({"counts": counts} | more).items():
            archive.writestr(f"{name}.npy", content)
    return packed.getvalue()


ARCHIVE = {"counts": npy_bytes(COUNTS), "layers": npy_bytes(np.arange(4)), "domains": npy_bytes(np.array(["x"]))}
DOCUMENTS = {
    Format.LOGICAL_COUNT: {"rank": 0, "logical_count": LOAD.tolist()},
    Format.LOAD_HISTORY: {"load_history": [{"logical_expert_load": load.tolist()} for load in LOAD]},
    Format.COUNT_LIST: LOAD[0].tolist(),
    Format.VLLM_LOAD: {
        "record_type": "eplb_load_stats",
        "step": 3,
        "expert_load": LOAD[0].tolist(),
        "p2l_map": [[0, 1, 2, 0, 3]] * 4,
    },
}
SAFETENSORS = save(keyed(LOAD))


@st.composite
def hostile_archive(draw: st.DrawFn) -> bytes:
    if draw(st.booleans()):
        return draw(damaged(whole_archive(**ARCHIVE)))
    name = draw(st.sampled_from(sorted(ARCHIVE)))
    return whole_archive(**(ARCHIVE | {name: draw(lying_npy() | damaged(ARCHIVE[name]))}))


@st.composite
def hostile_safetensors(draw: st.DrawFn) -> bytes:
    if draw(st.booleans()):
        return draw(damaged(SAFETENSORS))
    (length,) = struct.unpack_from("<Q", SAFETENSORS)
    header = as_json(draw(replaced(json.loads(SAFETENSORS[8 : 8 + length]))))
    claimed = draw(st.sampled_from([len(header)] * 4 + [0, 2**20, 2**40, 2**64 - 1]))
    return struct.pack("<Q", claimed) + header + SAFETENSORS[8 + length :]


def read_or_refuse(path: Path, kind: Format) -> bool:
    """Read, or fail in the one allowed way; whether it was read."""
    with little_memory():
        try:
            found = read_counts(path, kind, CountsReading(3))
        except InputError as error:
            one_line(error)
            return False
    assert found.load.dtype == np.int64
    assert found.load.min() >= 0
    assert found.load.any()
    return True


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_hostile_json_is_read_or_refused_in_a_line(tmp_path_factory: pytest.TempPathFactory, kind: Format) -> None:
    path = tmp_path_factory.getbasetemp() / f"hostile-{kind}"

    @given(damaged(as_json(DOCUMENTS[kind])) | replaced(DOCUMENTS[kind]).map(as_json))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        read_or_refuse(path, kind)

    check()


def test_hostile_archives_are_read_or_refused_in_a_line(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "hostile-archive"

    @given(hostile_archive())
    def check(content: bytes) -> None:
        path.write_bytes(content)
        read_or_refuse(path, Format.COUNTS_NPZ)

    check()


def test_hostile_statistics_are_read_or_refused_in_a_line(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write_statistics(tmp_path_factory.mktemp("hostile") / "a", [keyed(LOAD)] * 2)
    meta = {"num_experts": 5, "num_experts_per_token": 2}

    @given(hostile_safetensors(), st.just(meta) | st.just(meta) | replaced(meta))
    def check(content: bytes, said: Any) -> None:
        (path / "rank1.safetensors").write_bytes(content)
        (path / "meta_info.json").write_bytes(as_json(said))
        read_or_refuse(path, Format.TENSORRT)

    check()


def test_hostile_recorder_files_are_read_or_refused_in_a_line(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write_recorder(tmp_path_factory.mktemp("hostile") / "a", logical_count=LOAD)
    assert read_or_refuse(path, Format.RECORDER_PT)
    whole = path.read_bytes()

    @given(damaged(whole))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        read_or_refuse(path, Format.RECORDER_PT)

    check()


def test_nothing_is_ever_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(whole_archive(pickled_npy(tmp_path / "harm")))
    with pytest.raises(InputError, match="never unpickled"):
        read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"logical_count": Bomb(tmp_path / "harm")}))
    with pytest.raises(InputError):
        read(path)
    assert not (tmp_path / "harm").exists()
