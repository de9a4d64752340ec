"""What is left out of requests or translated while they are read: repeats, columns that are no choice, physical ids and
experts that do nothing. Each stems from a public report of what people had in their recordings."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import request_experts, write_request

from formulations.kit.arrays import Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.statistics.inspect_traces import inspect_traces
from optimizer.traces.columns import constant_columns
from optimizer.traces.corpus import find_files, read_traces
from optimizer.traces.counted_source import open_counts
from optimizer.traces.formats.counts import Counts
from optimizer.traces.infer import ModelChoice, model_of_files
from optimizer.traces.mending import LONGEST_STRETCH, Mending, repeats
from optimizer.traces.physical import PhysicalToLogical, logical_ids
from optimizer.traces.source import TraceInput, open_source, open_traces
from optimizer.traces.trace import RoutingTrace

MESH = Mesh(2, 2, 16)


def read(path: Path, model: Model, layers: list[int], mending: Mending) -> RoutingTrace:
    return read_traces(find_files([str(path)]), model, layers, mending=mending)


def told(path: Path, choice: ModelChoice) -> Model:
    return model_of_files(choice, find_files([str(path)]))


def test_a_profile_run_is_left_out_and_its_share_said(tmp_path: Path, rng: np.random.Generator) -> None:
    """Of 5,500 logged rows 4,000 were those of a profile run, all alike (w11)."""
    rows = np.concatenate(
        [np.tile(np.array([43, 5, 7, 58], np.uint8), (4000, 1, 1)), request_experts(rng, 1500, 1, 60, 4)]
    )
    path = write_request(tmp_path / "log.npz", rows, prompt=4100)
    trace = read(path, Model("m", 60, 0, 4), [0], Mending(drop_repeats=True))
    assert trace.tokens == 1501
    assert (trace.experts == np.delete(rows, np.s_[1:4000], axis=0)).all()
    assert int((trace.phase == 0).sum()) == 101  # 100 of the prompt's tokens were no repeats, and the first of 4,000
    assert trace.warnings[0].startswith("3999 of 5500 tokens (73%) are left out")
    assert read(path, Model("m", 60, 0, 4), [0], Mending()).tokens == 5500


def test_stats_leaves_repeats_out_too(tmp_path: Path, rng: np.random.Generator) -> None:
    for number in range(3):
        rows = np.concatenate([np.tile(np.array([1, 2, 3], np.uint8), (200, 2, 1)), request_experts(rng, 50, 2, 8, 3)])
        write_request(tmp_path / "t" / f"{number}.npz", rows, prompt=10)
    named = TraceInput([str(tmp_path / "t")], batch_tokens=4, mending=Mending(drop_repeats=True))
    found = inspect_traces(named, ModelChoice(), None, MESH, lambda share: None)
    assert found.reports[0].figures.tokens == 3 * 51
    assert any("left out" in note for note in found.notes)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3 * LONGEST_STRETCH)), min_size=1, max_size=6))
def test_a_stretch_is_told_by_its_length(stretches: list[tuple[int, int]]) -> None:
    """Against the obvious way: cut the rows into stretches, and look at how long each is."""
    ids = np.repeat([value for value, _ in stretches], [length for _, length in stretches])
    experts = np.stack([ids, ids + 1], axis=1).astype(np.uint8)[:, None]
    expected: list[bool] = []
    for run in np.split(ids, np.flatnonzero(np.diff(ids)) + 1):
        expected += [False] + [len(run) > LONGEST_STRETCH] * (len(run) - 1)
    assert repeats(experts).tolist() == expected


def w08(rng: np.random.Generator) -> Ints:
    """64 experts, top-6, 26 layers, and a seventh column that always holds 255."""
    experts = np.full((100, 26, 7), 255, dtype=np.uint8)
    experts[..., :6] = request_experts(rng, 100, 26, 64, 6)
    return experts


def test_a_filler_column_is_named_and_never_a_model_of_256_experts(tmp_path: Path, rng: np.random.Generator) -> None:
    """An array of 64 experts was read as one of 256 with top-7 (w08)."""
    path = tmp_path / "w08.npy"
    experts = w08(rng)
    np.save(path, experts)
    with pytest.raises(InputError, match=r"column 6 \(of 0..6\) is 255 in every row, a filler") as caught:
        told(path, ModelChoice())
    assert caught.value.field == "top_k"
    model = told(path, ModelChoice(top_k=6))
    assert (model.name, model.routed_experts, model.top_k) == ("deepseek-v2-lite", 64, 6)
    for known in (model, Model("named", 64, 2, 6)):
        trace = read(path, known, [3], Mending())
        assert (trace.experts == experts[:, [3 - known.first_moe_layer], :6]).all()
        assert trace.warnings == (
            "column 6 (255 in every row) is no choice (a filler or a shared expert) and left out of 1 request(s)",
        )


def test_a_shared_expert_in_a_column_is_left_out(tmp_path: Path, rng: np.random.Generator) -> None:
    """The shared expert was recorded as one more choice, with id E, in the first column here."""
    experts = np.concatenate([np.full((3, 2, 1), 8, dtype=np.uint8), request_experts(rng, 3, 2, 8, 3)], axis=2)
    weights = rng.random(experts.shape).astype(np.float32)
    path = write_request(tmp_path / "a.npz", experts, routed_weights=weights)
    files = find_files([str(path)])
    trace = read_traces(files, Model("m", 8, 1, 3), [0, 1], extras=True)
    assert (trace.experts == experts[..., 1:]).all()
    assert trace.weights is not None
    assert (trace.weights == weights[..., 1:]).all()


def test_a_wrong_top_k_is_still_a_fault(tmp_path: Path, rng: np.random.Generator) -> None:
    """Only constant columns may be left out."""
    path = write_request(tmp_path / "a.npz", request_experts(rng, 30, 2, 8, 4))
    with pytest.raises(InputError, match="top-4, not top-3"):
        read(path, Model("m", 8, 0, 3), [0], Mending())


def test_few_rows_or_one_choice_make_no_constant_column(rng: np.random.Generator) -> None:
    """A token or two may choose the same expert twice over, and a layer may do so for a while."""
    assert constant_columns(np.zeros((500, 3, 1), dtype=np.uint8)) == {}
    assert constant_columns(np.tile(np.array([3, 4], np.uint8), (40, 1, 1))) == {}
    assert constant_columns(np.tile(np.array([3, 4], np.uint8), (300, 1, 1))) == {0: 3, 1: 4}
    assert constant_columns(request_experts(rng, 300, 3, 64, 4)) == {}


def test_all_ids_zero_says_that_nothing_was_captured(tmp_path: Path) -> None:
    path = write_request(tmp_path / "a.npz", np.zeros((30, 2, 4), dtype=np.uint8))
    with pytest.raises(InputError, match="every id in routed_experts is 0, so nothing was captured"):
        read(path, Model("m", 8, 0, 4), [0], Mending())


@given(st.integers(0, 2**32 - 1))
def test_physical_ids_become_the_experts_that_lay_there(seed: int) -> None:
    """Whatever slot of an expert was recorded: logical -> physical -> logical gives back what was chosen."""
    rng = np.random.default_rng(seed)
    slots = np.stack([rng.permutation(np.concatenate([np.arange(8), rng.integers(0, 8, 4), [-1]])) for _ in range(2)])
    placement = PhysicalToLogical(slots.astype(np.int32), (3, 5), "a placement")
    chosen = request_experts(rng, 20, 2, 8, 3).astype(np.uint16)
    physical = np.empty_like(chosen)
    for place in range(2):
        for index, expert in np.ndenumerate(chosen[:, place]):
            physical[index[0], place, index[1]] = rng.choice(np.flatnonzero(slots[place] == expert))
    trace = RoutingTrace(physical, (3, 5), np.array([0, 20]), np.ones(20, dtype=np.uint8), "recorded")
    found = logical_ids(trace, placement)
    assert isinstance(found, RoutingTrace)
    assert (found.experts == chosen).all()
    by_slot = np.stack([np.bincount(physical[:, place].ravel(), minlength=13) for place in range(2)])
    counts = logical_ids(Counts(by_slot[None], (3, 5), None, None, (), "counted"), placement)
    assert isinstance(counts, Counts)
    by_expert = [np.bincount(chosen[:, place].ravel(), minlength=8).tolist() for place in range(2)]
    assert counts.load[0].tolist() == by_expert


@pytest.mark.parametrize(
    ("physical", "layer", "said"),
    [(13, 3, "is no slot of a plan, which has 0..8"), (8, 3, "is an empty slot"), (1, 4, "not layer 4")],
)
def test_ids_that_the_placement_does_not_explain_are_refused(
    tmp_path: Path, physical: int, layer: int, said: str
) -> None:
    placement = PhysicalToLogical(np.array([[*range(8), -1]]), (3,), "a plan")
    experts = np.tile(np.array([1, 2, physical], np.uint8), (20, 5, 1))
    experts[:, :, 0] = 0
    path = write_request(tmp_path / "a.npz", experts)
    with pytest.raises(InputError, match=said):
        read(path, Model("m", 8, 0, 3), [layer], Mending(placement=placement))


def test_rows_without_physical_ids_stay_as_they_are(tmp_path: Path) -> None:
    """Rows of -1 were not recorded, and a dense layer's rows are zero: neither names the expert in slot 0."""
    placement = PhysicalToLogical(np.array([[3, 2, 1, 0]] * 2), (0, 1), "a map of all layers")
    experts = np.zeros((4, 2, 2), dtype=np.int16)
    experts[:, 1] = [[0, 1], [-1, -1], [2, 3], [3, 0]]
    experts[1] = -1
    found = read(
        write_request(tmp_path / "a.npz", experts), Model("m", 4, 0, 2, 2, 1), [1], Mending(placement=placement)
    )
    assert found.of_recorded().experts[:, 0].tolist() == [[3, 2], [1, 0], [0, 3]]


def no_op_requests(folder: Path, rng: np.random.Generator) -> list[Ints]:
    """Requests of a model with 8 experts, and 4 more that do nothing."""
    made = [request_experts(rng, 30, 2, 12, 3) for _ in range(10)]
    for number, experts in enumerate(made):
        write_request(folder / f"{number}.npz", experts)
    return made


def test_requests_with_no_op_experts_are_counted_without_them(tmp_path: Path, rng: np.random.Generator) -> None:
    """Tokens of such models have fewer pairs than top-k, which batches cannot hold: expected loads need no tokens."""
    made = np.concatenate(no_op_requests(tmp_path / "t", rng))
    named = TraceInput([str(tmp_path / "t")], mending=Mending(no_op_from=8))
    found = open_counts(named, ModelChoice())
    assert found is not None
    counts, model = found
    assert (model.routed_experts, model.top_k, counts.load.shape[2]) == (8, 3, 8)
    for layer in range(2):
        plain = np.bincount(made[:, layer].ravel(), minlength=12)[:8]
        assert counts.load[:, layer].sum(axis=0).tolist() == plain.tolist()
    assert "no-op experts" in counts.source
    with pytest.raises(InputError, match="as counts") as caught:
        open_source(named, [0], ModelChoice(), MESH, lambda share: None)
    assert caught.value.field == "no_op_experts"


def test_columns_of_no_op_experts_are_left_out_of_counts(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"logical_count": [[3, 1, 4, 40, 60]]}')
    found = open_counts(TraceInput([str(path)], mending=Mending(no_op_from=3)), ModelChoice(top_k=2))
    assert found is not None
    assert found[0].load.tolist() == [[[3, 1, 4]]]
    assert found[1].routed_experts == 3


def test_the_cache_keeps_what_was_mended_apart(tmp_path: Path) -> None:
    write_request(tmp_path / "a.npz", np.tile(np.array([1, 2], np.uint8), (300, 1, 1)))
    sizes = []
    for drop in (False, True, False):
        named = TraceInput([str(tmp_path / "a.npz")], cache=tmp_path / "cache", mending=Mending(drop_repeats=drop))
        sizes.append(open_traces(named, [0], Model("m", 8, 0, 2), MESH, lambda share: None).trace.tokens)
    assert sizes == [300, 1, 300]
