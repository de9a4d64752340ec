"""Native request files: every oddity of the format, read or refused in one sentence."""

import io
import pickle
import tempfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_files import little_memory, npy_header
from hypothesis import given
from hypothesis import strategies as st
from random_problems import request_experts, write_request

from optimizer.domain.model import Model
from optimizer.domain.presets import load_model
from optimizer.errors import InputError
from optimizer.traces.corpus import TraceFile, find_files, read_traces
from optimizer.traces.formats.npz import layer_ids
from optimizer.traces.formats.sniff import Format
from optimizer.traces.infer import ModelChoice, model_of_array, model_of_files
from optimizer.traces.trace import OUTPUT, PROMPT

SMALL = Model("small", 8, 0, 3)


def files_at(path: Path) -> list[TraceFile]:
    return find_files([str(path)])


def dense_first(rng: np.random.Generator, dtype: Any = np.uint8) -> np.ndarray:
    """61 layers of a DeepSeek-V3 request, the three dense ones all zero."""
    experts = request_experts(rng, 6, 61, 256, 8).astype(dtype)
    experts[:, :3] = 0
    return experts


def test_layers_phases_and_offsets(tmp_path: Path, rng: np.random.Generator) -> None:
    first, second = (request_experts(rng, tokens, 5, 8, 3) for tokens in (6, 4))
    write_request(tmp_path / "a.npz", first, prompt=2)
    write_request(tmp_path / "b.npz", second, prompt=1, output=4)  # one less than prompt + output
    trace = read_traces(find_files([str(tmp_path)]), SMALL, [3, 1], first_moe_layer=1)
    assert trace.layers == (3, 1)
    assert trace.offsets.tolist() == [0, 6, 10]
    assert trace.phase.tolist() == [PROMPT] * 2 + [OUTPUT] * 4 + [PROMPT] + [OUTPUT] * 3
    assert (trace.layer(3) == np.concatenate([first[:, 2], second[:, 2]])).all()
    assert (trace.layer(1) == np.concatenate([first[:, 0], second[:, 0]])).all()
    assert trace.experts.dtype == np.uint8
    assert trace.warnings == ()
    assert trace.has(OUTPUT).tolist() == trace.has(PROMPT).tolist() == [True, True]
    with pytest.raises(InputError, match="layer 2 is not in the trace, which holds layers 3, 1"):
        trace.layer(2)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "i8", "u8", ">i4"])
def test_any_integer_type_is_read(tmp_path: Path, rng: np.random.Generator, dtype: str) -> None:
    experts = request_experts(rng, 5, 2, 8, 3)
    write_request(tmp_path / "a.npz", experts.astype(dtype))
    assert (read_traces(find_files([str(tmp_path)]), SMALL, [1]).layer(1) == experts[:, 1]).all()


def test_61_layers_count_absolutely_and_58_start_at_the_first_moe_layer(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    v3, experts = load_model("deepseek-v3"), dense_first(rng)
    write_request(tmp_path / "61.npz", experts)
    write_request(tmp_path / "58.npz", experts[:, 3:])
    trace = read_traces(find_files([str(tmp_path)]), v3, [12])
    assert trace.tokens == 12
    assert (trace.layer(12) == np.concatenate([experts[:, 12]] * 2)).all()


@pytest.mark.parametrize(
    ("layers", "dense", "model", "said", "first"),
    [
        (61, 3, "deepseek-v3", None, 0),
        (58, 0, "deepseek-v3", None, 3),
        (58, 0, "deepseek-v3", 5, 5),
        (10, 0, "deepseek-v3", None, 0),
        (10, 0, "deepseek-v3", 3, 3),
        (10, 2, "deepseek-v3", 3, 0),
        (26, 0, "deepseek-v2-lite", None, 1),
        (27, 1, "deepseek-v2-lite", None, 0),
    ],
)
def test_where_a_layer_axis_starts(layers: int, dense: int, model: str, said: int | None, first: int) -> None:
    experts = np.tile(np.arange(4, dtype=np.uint8), (2, layers, 1))
    experts[:, :dense] = 0
    assert layer_ids(experts, load_model(model), said) == tuple(range(first, first + layers))


def test_top_1_routing_to_expert_0_is_no_dense_layer() -> None:
    assert layer_ids(np.zeros((3, 5, 1), dtype=int), Model("m", 4, 0, 1), 2) == tuple(range(2, 7))


BAD: dict[str, tuple[Any, str]] = {
    "object": (np.array(None, dtype=object), "never unpickled"),
    "object list": (np.array([[1], [2, 3]], dtype=object), "never unpickled"),
    "empty": (np.zeros((0, 2, 3), dtype=np.uint8), "routed_experts is empty"),
    "float": (np.ones((5, 2, 3)), "holds float64 values, not integers"),
    "flat": (np.ones((5, 3), dtype=int), "not integers"),
    "doubled": (
        np.array([[[0, 1, 2]] * 2] * 4 + [[[0, 1, 2], [1, 5, 1]]]),
        "token 4 of layer 1 names one expert twice",
    ),
    "too large": (np.array([[[0, 1, 8]] * 2] * 5), r"expert id 8, outside 0\.\.7"),
    "negative": (np.array([[[0, 1, -1]] * 2] * 5), r"expert id -1 among others in token 0, layer 1"),
    "other top-k": (np.array([[[0, 1]] * 2] * 5), "top-2, not top-3"),
    "other layers": (np.array([[[0, 1, 2]]] * 5), r"holds layers 0\.\.0, not layer 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_skipped_and_counted_or_refused(tmp_path: Path, rng: np.random.Generator, name: str) -> None:
    experts, said = BAD[name]
    write_request(tmp_path / "bad.npz", experts, prompt=2, output=3)
    for number in range(3):
        write_request(tmp_path / f"good{number}.npz", request_experts(rng, 4, 2, 8, 3))
    files = find_files([str(tmp_path)])
    trace = read_traces(files, SMALL, [1])
    assert trace.requests == 3
    assert len(trace.warnings) == 1
    assert trace.warnings[0].startswith("1 of 4 requests skipped; the first:")
    with pytest.raises(InputError, match=rf"bad\.npz: .*{said}.*strictly"):
        read_traces(files, SMALL, [1], strict=True)
    with pytest.raises(InputError, match=said):
        read_traces(files_at(tmp_path / "bad.npz"), SMALL, [1])


@pytest.mark.parametrize(
    ("prompt", "output", "good"), [(2, 3, True), (2, 4, True), (5, 0, True), (6, 0, True), (2, 5, False), (2, 2, False)]
)
def test_lengths_must_fit(tmp_path: Path, rng: np.random.Generator, prompt: int, output: int, good: bool) -> None:
    path = write_request(tmp_path / "a.npz", request_experts(rng, 5, 2, 8, 3), prompt, output)
    if good:
        assert (read_traces(files_at(path), SMALL, [0]).phase == PROMPT).sum() == min(prompt, 5)
    else:
        with pytest.raises(InputError, match="has 5 tokens, not the"):
            read_traces(files_at(path), SMALL, [0])


def test_missing_token_ids_and_missing_experts_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", routed_experts=np.array([[[0, 1, 2]]]))
    np.savez(tmp_path / "b.npz", prompt_token_ids=np.zeros(3))
    with pytest.raises(InputError, match="phases are unknown"):
        read_traces(files_at(tmp_path / "a.npz"), SMALL, [0])
    with pytest.raises(InputError, match="no array routed_experts"):
        read_traces(files_at(tmp_path / "b.npz"), SMALL, [0])


def recorded(rng: np.random.Generator, tokens: int, layers: int, m: int = 5) -> dict[str, Any]:
    """experts of SMALL and what may be recorded beside them."""
    candidates = request_experts(rng, tokens, layers, 8, m)
    weights = rng.random((tokens, layers, 3)).astype(np.float16)
    return {"experts": candidates[..., :3], "routed_weights": weights, "candidate_experts": candidates}


def test_weights_and_candidates_are_read_where_they_are_asked_for(tmp_path: Path, rng: np.random.Generator) -> None:
    parts = [recorded(rng, 6, 4), recorded(rng, 4, 4, m=7)]
    for number, part in enumerate(parts):
        write_request(tmp_path / f"{number}.npz", **part)
    files = find_files([str(tmp_path)])
    trace = read_traces(files, SMALL, [3, 1], strict=True, extras=True)
    assert trace.weights is not None
    assert trace.candidates is not None
    assert trace.weights.dtype == np.float32
    assert trace.candidates.dtype == np.uint16
    assert (trace.weights == np.concatenate([part["routed_weights"][:, [3, 1]] for part in parts])).all()
    assert (trace.candidates == np.concatenate([part["candidate_experts"][:, [3, 1], :5] for part in parts])).all()
    assert trace.warnings == ()
    plain = read_traces(files, SMALL, [3, 1], strict=True)
    assert plain.weights is None
    assert plain.candidates is None
    assert (plain.experts == trace.experts).all()


def test_what_some_requests_lack_is_used_of_none(tmp_path: Path, rng: np.random.Generator) -> None:
    for number, left_out in enumerate(["", "candidate_experts", "candidate_experts", "routed_weights"]):
        part = {name: array for name, array in recorded(rng, 4, 2).items() if name != left_out}
        write_request(tmp_path / f"{number}.npz", **part)
    files = find_files([str(tmp_path)])
    trace = read_traces(files, SMALL, [1], strict=True, extras=True)
    assert trace.weights is None
    assert trace.candidates is None
    assert trace.warnings == (
        "1 of 4 requests have no routed_weights, so those of the others are not used",
        "2 of 4 requests have no candidate_experts, so those of the others are not used",
    )
    trace = read_traces(files[1:3], SMALL, [1], extras=True)
    assert trace.weights is not None
    assert trace.candidates is None
    assert trace.warnings == ()


def changed(name: str, at: tuple[int, ...], value: Any, dtype: Any) -> dict[str, np.ndarray]:
    array = recorded(np.random.default_rng(7), 5, 2)[name].astype(dtype)
    array[at] = value
    return {name: array}


BAD_EXTRAS: dict[str, tuple[dict[str, Any], str]] = {
    "weights object": ({"routed_weights": np.array(None, dtype=object)}, r"routed_weights is \(\), but"),
    "weights of objects": (changed("routed_weights", (0, 0, 0), None, object), "never unpickled"),
    "weights text": (changed("routed_weights", (0, 0, 0), "1", "U5"), "holds str160 values, not numbers"),
    "weights shape": ({"routed_weights": np.ones((5, 2, 2))}, r"\(5, 2, 2\), but routed_experts is \(5, 2, 3\)"),
    "weights nan": (changed("routed_weights", (3, 1, 2), np.nan, "f2"), "token 3 of layer 1 has nan in routed_weights"),
    "weights infinite": (changed("routed_weights", (3, 1, 2), np.inf, ">f8"), "has inf in routed_weights"),
    "weights huge": (changed("routed_weights", (3, 1, 2), 1e300, "f8"), r"has 1e\+300 in .*, not a finite number"),
    "weights negative": (changed("routed_weights", (3, 1, 2), -0.5, "f4"), r"has -0\.5 in .*, not .* at least 0"),
    "candidates float": (changed("candidate_experts", (0, 0, 0), 1, "f4"), "holds float32 values, not integers"),
    "candidates flat": ({"candidate_experts": np.ones((5, 2), dtype=int)}, r"candidate_experts is \(5, 2\), not"),
    "candidates tokens": ({"candidate_experts": np.ones((6, 2, 4), dtype=int)}, r"is \(6, 2, 4\), not \(5, 2\)"),
    "candidates few": ({"candidate_experts": np.ones((5, 2, 3), dtype=int)}, "and more than the 3 of routed_experts"),
    "candidates large": (changed("candidate_experts", (3, 1, 4), 8, "i8"), r"has expert id 8, outside 0\.\.7"),
    "candidates negative": (changed("candidate_experts", (3, 1, 4), -1, "i2"), "candidate_experts has expert id -1"),
    "candidates doubled": (
        {"candidate_experts": np.array([[[0, 1, 2, 3]] * 2] * 4 + [[[0, 1, 2, 3], [4, 5, 6, 4]]])},
        "token 4 of layer 1 names one expert twice in candidate_experts",
    ),
    "more candidates than experts": (
        {"candidate_experts": np.tile(np.arange(2000) % 8, (5, 2, 1))},
        "token 0 of layer 1 names one expert twice in candidate_experts",
    ),
}


@pytest.mark.parametrize("name", BAD_EXTRAS)
def test_bad_weights_and_candidates_make_a_bad_request(tmp_path: Path, rng: np.random.Generator, name: str) -> None:
    arrays, said = BAD_EXTRAS[name]
    write_request(tmp_path / "bad.npz", **(recorded(rng, 5, 2) | arrays))
    write_request(tmp_path / "good.npz", **recorded(rng, 4, 2))
    files = find_files([str(tmp_path)])
    trace = read_traces(files, SMALL, [1], extras=True)
    assert trace.requests == 1
    assert trace.warnings[0].startswith("1 of 2 requests skipped; the first:")
    assert trace.weights is not None
    with pytest.raises(InputError, match=rf"bad\.npz: .*{said}.*strictly"):
        read_traces(files, SMALL, [1], strict=True, extras=True)
    assert read_traces(files, SMALL, [1], strict=True).requests == 2  # nobody asked


def test_a_fault_in_a_layer_that_nobody_asked_for_is_none(tmp_path: Path) -> None:
    for name in ("weights nan", "candidates large", "candidates doubled"):
        path = tmp_path / f"{name}.npz"
        write_request(path, **(recorded(np.random.default_rng(7), 5, 2) | BAD_EXTRAS[name][0]))
        assert read_traces(files_at(path), SMALL, [0], strict=True, extras=True).candidates is not None


@pytest.mark.parametrize(("shape", "said"), [((5, 2, 1 << 26), "declares 671088640 bytes"), ((5, 9, 4), "not")])
def test_a_lying_header_of_candidates_allocates_nothing(
    tmp_path: Path, rng: np.random.Generator, shape: tuple[int, ...], said: str
) -> None:
    path = write_request(tmp_path / "a.npz", request_experts(rng, 5, 2, 8, 3))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("candidate_experts.npy", npy_header("'|u1'", repr(shape)) + bytes(100))
    with little_memory(), pytest.raises(InputError, match=f"candidate_experts .*{said}"):
        read_traces(files_at(path), SMALL, [0], extras=True)


def test_every_truncation_is_one_sentence(tmp_path: Path, rng: np.random.Generator) -> None:
    whole = write_request(tmp_path / "a.npz", request_experts(rng, 5, 2, 8, 3)).read_bytes()
    cut = tmp_path / "cut.npz"
    for length in range(0, len(whole), 97):
        cut.write_bytes(whole[:length])
        with pytest.raises(InputError, match="not a whole"):
            read_traces(files_at(cut), SMALL, [0])


WHOLE = io.BytesIO()
np.savez(
    WHOLE,
    prompt_token_ids=np.zeros(2, dtype=np.int32),
    output_token_ids=np.zeros(3, dtype=np.int32),
    routed_experts=np.tile(np.array([0, 5, 7], dtype=np.uint8), (5, 2, 1)),
    routed_weights=np.ones((5, 2, 3), dtype=np.float16),
    candidate_experts=np.tile(np.array([0, 5, 7, 1], dtype=np.uint8), (5, 2, 1)),
)


@given(
    st.lists(st.tuples(st.integers(0, len(WHOLE.getvalue()) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.booleans(),
)
def test_whatever_bytes_are_damaged_it_reads_or_is_one_sentence(damage: list[tuple[int, int]], extras: bool) -> None:
    content = bytearray(WHOLE.getvalue())
    for place, value in damage:
        content[place] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.npz")
        path.write_bytes(content)
        try:
            said = f"{read_traces(files_at(path), SMALL, [0], extras=extras).tokens} tokens"
        except InputError as error:
            said = str(error)
    assert "\n" not in said
    assert said.startswith((str(path), "5 tokens"))


def test_a_bomb_is_refused_by_its_declared_size(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 20, 1 << 8, 16)}
    )
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("routed_experts.npy", "w", force_zip64=True) as member:
            member.write(header.getvalue())
            for _ in range(200):
                member.write(bytes(1 << 20))
        for name in ("prompt_token_ids", "output_token_ids"):
            buffer = io.BytesIO()
            np.save(buffer, np.zeros(1 << 19))
            archive.writestr(f"{name}.npy", buffer.getvalue())
    tracemalloc.start()
    with pytest.raises(InputError, match="routed_experts declares"):
        read_traces(files_at(tmp_path / "bomb.npz"), SMALL, [0])
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_a_bare_array_and_a_pickle_are_not_archives(tmp_path: Path) -> None:
    (tmp_path / "bare.npz").write_bytes(b"")
    np.save(tmp_path / "bare.npy", np.zeros(3))
    (tmp_path / "bare.npy").rename(tmp_path / "bare.npz")
    with pytest.raises(InputError, match="the array holds float64 values"):
        read_traces(files_at(tmp_path / "bare.npz"), SMALL, [0])
    (tmp_path / "bomb.npz").write_bytes(pickle.dumps({"routed_experts": 1}))
    with pytest.raises(InputError, match="not a whole"):
        read_traces(files_at(tmp_path / "bomb.npz"), SMALL, [0])


def test_files_folders_and_globs_are_found_once(tmp_path: Path, rng: np.random.Generator) -> None:
    experts = request_experts(rng, 3, 1, 8, 3)
    paths = [write_request(tmp_path / name, experts) for name in ("x/a.npz", "x/y/b.npz", "c.npz")]
    assert files_at(tmp_path) == [TraceFile(path, Format.NPZ) for path in sorted(paths)]
    twice = find_files([str(tmp_path / "x" / "a.npz"), str(tmp_path / "x")])
    assert [file.path for file in twice] == sorted(paths[:2])
    assert [file.path for file in files_at(tmp_path / "**" / "b.npz")] == [paths[1]]
    with pytest.raises(InputError, match="no such file or folder"):
        find_files([str(tmp_path / "none")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no trace files"):
        find_files([str(tmp_path / "empty")])


def test_the_model_follows_from_layers_and_top_k(tmp_path: Path, rng: np.random.Generator) -> None:
    def found(layers: int, experts: int, top_k: int, choice: ModelChoice | None = None) -> Model:
        folder = tmp_path / f"{layers}-{experts}-{top_k}"
        write_request(folder / "a.npz", request_experts(rng, 60, layers, experts, top_k))
        return model_of_files(choice or ModelChoice(), files_at(folder))

    assert found(58, 256, 8).name == "deepseek-v3"
    assert found(26, 64, 6).name == "deepseek-v2-lite"
    assert found(24, 32, 4).name == "gpt-oss-20b"
    assert found(5, 12, 2) == Model("custom", 12, 0, 2)
    assert found(24, 60, 4).name == "qwen1.5-moe-a2.7b"  # its first 32 experts alone would be those of gpt-oss-20b
    assert found(24, 61, 4) == Model("custom", 61, 0, 4)
    assert found(5, 12, 2, ModelChoice(routed_experts=20, shared_experts=1)) == Model("custom", 20, 1, 2)
    assert found(26, 64, 6, ModelChoice(shared_experts=2)).name == "deepseek-v2-lite"
    assert found(26, 64, 6, ModelChoice(shared_experts=1)).name == "custom"
    assert found(26, 64, 6, ModelChoice(name="deepseek-v3")).name == "deepseek-v3"


def test_the_model_of_explicit_batches() -> None:
    assert model_of_array(ModelChoice(), 8, 255).name == "deepseek-v3"
    assert model_of_array(ModelChoice(), 8, 256) == Model("custom", 257, 0, 8)
    assert model_of_array(ModelChoice(name="gpt-oss-20b"), 4, 3).name == "gpt-oss-20b"


def test_a_model_is_not_inferred_from_bad_files(tmp_path: Path) -> None:
    path = write_request(tmp_path / "bad.npz", np.array(None, dtype=object))
    with pytest.raises(InputError, match="never unpickled"):
        model_of_files(ModelChoice(), files_at(path))


def test_real_traces(real_traces: Path) -> None:
    files = find_files([str(real_traces / "deepseek-v2-lite")])
    model = model_of_files(ModelChoice(), files)
    trace = read_traces(files, model, [12], extras=True)
    assert (model.name, trace.requests, trace.tokens) == ("deepseek-v2-lite", 171, 27066)
    assert not trace.has(OUTPUT).any()
    with np.load(files[0].path) as archive:
        assert (trace.layer(12)[: trace.offsets[1]] == archive["routed_experts"][:, 11]).all()
        assert trace.weights is not None
        assert (trace.weights[: trace.offsets[1], 0] == archive["routed_weights"][:, 11]).all()
    assert trace.candidates is None
    assert trace.warnings == ()
