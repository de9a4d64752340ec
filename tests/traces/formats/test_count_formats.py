"""Counts as servers write them today: slots mapped back to experts, bare lists, maps that are no counts, shares."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_files import as_json, damaged, little_memory, one_line, replaced
from hypothesis import given
from torch_files import write_torch

from optimizer.errors import InputError
from optimizer.traces.formats.counts import Counts, CountsReading, raw_passes, read_counts
from optimizer.traces.formats.sniff import Format, sniff

RNG = np.random.default_rng(4)
SLOTS = RNG.integers(0, 900, (3, 4, 8))  # 3 steps, 4 layers, 8 slots
EXPERTS_OF = np.stack([[RNG.permutation([0, 1, 2, 3, 4, 5, 2, 2]) for _ in range(4)] for _ in range(3)])
META = {"record_type": "eplb_load_meta", "version": 1, "num_layers": 4, "num_redundant_experts": 2}


def line(step: int, **change: Any) -> dict[str, Any]:
    held = {"expert_load": SLOTS[step].tolist(), "p2l_map": EXPERTS_OF[step].tolist()}
    return {"record_type": "eplb_load_stats", "version": 1, "step": step} | held | change


def write_lines(path: Path, *lines: Any) -> Path:
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


def read(path: Path, scale: float | None = None) -> Counts:
    return read_counts(path, sniff(path), CountsReading(scale=scale))


def mapped(slots: Any, experts_of: Any, experts: int = 6) -> Any:
    """Counts of experts `[step, layer, expert]`, slot by slot."""
    found = np.zeros((len(slots), slots.shape[1], experts), dtype=np.int64)
    for place, count in np.ndenumerate(slots):
        found[place[0], place[1], experts_of[place]] += count
    return found


# vLLM's statistics


def test_loads_of_slots_are_mapped_back_step_by_step(tmp_path: Path) -> None:
    # Experts move between steps, so each line has a map of its own.
    found = read(write_lines(tmp_path / "a", META, *map(line, range(3)), {"record_type": "bench_run_start"}))
    assert (found.load == mapped(SLOTS, EXPERTS_OF)).all()
    assert "loads of 8 physical experts were added up to those of 6 experts by each step's map" in found.notes
    assert sniff(tmp_path / "a") is Format.VLLM_LOAD


def test_without_a_meta_line_the_map_says_how_many_experts_there_are(tmp_path: Path) -> None:
    # Statistics of other tools lack the line; steps without any load are left out, which is said.
    empty = line(1, expert_load=(0 * SLOTS[1]).tolist())
    found = read(write_lines(tmp_path / "a", line(0), empty, line(2)))
    assert (found.load == mapped(SLOTS[[0, 2]], EXPERTS_OF[[0, 2]])).all()
    assert found.notes[0] == "1 of 3 recorded steps count nothing and were left out"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([META], "has no line of record_type eplb_load_stats"),
        ([META, line(0, expert_load=[[1, 2]])], r"line 2: expert_load has shape \(1, 2\), but its map of slots"),
        ([META, line(0, expert_load=None)], "line 2: expert_load is null"),
        (
            [META, line(0, p2l_map=[[9] * 8] * 4)],
            "line 2: p2l_map names expert 9, but its slots that",
        ),
        ([line(0, p2l_map=[[65000] * 8] * 4)], "line 1: p2l_map names expert 65000"),
        ([line(0), line(1, p2l_map=[[6] * 8] * 4)], "line 2: expert_load has a map that names expert 6"),
        ([line(0), line(1, expert_load=[[1]], p2l_map=[[0]])], "but that of earlier lines"),
        ([line(0, expert_load=[1, 2])], r"line 1: expert_load has shape \(2,\), not \[layer, physical expert\]"),
        ([line(0, expert_load=[[-1] * 8] * 4)], r"line 1: expert_load\[0, 0\] is -1"),
        ([META | {"num_redundant_experts": "2"}, line(0)], "line 1: num_redundant_experts is text"),
    ],
)
def test_faulty_statistics_are_one_sentence(tmp_path: Path, lines: list[Any], said: str) -> None:
    # A line that cannot be used is named, as the file may have thousands.
    with little_memory(), pytest.raises(InputError, match=said) as caught:
        read_counts(write_lines(tmp_path / "a", *lines), Format.VLLM_LOAD)
    one_line(caught.value)


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    # As where the server was killed while it wrote.
    path = write_lines(tmp_path / "a", META, line(0))
    path.write_text(path.read_text() + json.dumps(line(1))[:60])
    with pytest.raises(InputError, match="line 3: not JSON"):
        read(path)


# Bare lists, and maps


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5)])
def test_a_bare_list_holds_counts(tmp_path: Path, shape: tuple[int, ...]) -> None:
    # LMDeploy's has no keys at all.
    load = RNG.integers(20, 900, shape)
    (tmp_path / "a.json").write_text(json.dumps(load.tolist()))
    assert sniff(tmp_path / "a.json") is Format.COUNT_LIST
    assert (read(tmp_path / "a.json").load == load.reshape(-1, 4, 5)).all()
    (tmp_path / "b.json").write_text("\ufeff" + json.dumps(load.astype(float).tolist(), indent=1))
    assert (read(tmp_path / "b.json").load == load.reshape(-1, 4, 5)).all()


def test_a_list_that_can_only_be_a_map_is_named_with_the_command_for_it(tmp_path: Path) -> None:
    # Where experts are is not how often they are chosen, though both are lists of small numbers.
    (tmp_path / "a.json").write_text(json.dumps([RNG.permutation([*range(16), 3, 5]).tolist() for _ in range(3)]))
    with pytest.raises(InputError, match=r"a\.json: is an expert list of RTP-LLM, .*`moeplan import` makes") as caught:
        sniff(tmp_path / "a.json")
    one_line(caught.value)


def test_a_plan_is_no_recording(tmp_path: Path) -> None:
    # It is named in place of traces by mistake.
    (tmp_path / "a.json").write_text(json.dumps({"format": "moeplan/plan", "version": 1, "layers": {}}))
    with pytest.raises(InputError, match=r"a\.json: is a plan, not recorded routing"):
        sniff(tmp_path / "a.json")


def test_a_file_with_a_map_and_counts_holds_counts(tmp_path: Path) -> None:
    # The map that was in use beside them changes nothing, as counts are of experts.
    (tmp_path / "a.json").write_text(json.dumps({"physical_to_logical_map": [[0, 1]], "logical_count": [[3, 4]]}))
    assert sniff(tmp_path / "a.json") is Format.LOGICAL_COUNT


@pytest.mark.parametrize(
    ("rows", "asked"),
    [
        ([[0, 1, 2, 0], [2, 1, 0, 1]], True),
        ([[0, 1], [1, 0]], True),
        ([[0, 1, 2, 0], [2, 1, 0, 3]], False),  # expert 3 would be missing in the first layer
        ([[0, 1, 2, 4], [2, 1, 0, 4]], False),  # as expert 3 here
        ([[0, 0], [0, 0]], False),  # one expert with two replicas would be no mixture
        ([[0, 1, 7, 9]], False),
    ],
)
def test_a_small_list_that_may_be_a_map_is_asked_about(tmp_path: Path, rows: Any, asked: bool) -> None:
    # Neither reading is guessed, and whoever names the format has it read as counts.
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    if not asked:
        assert sniff(path) is Format.COUNT_LIST
        return
    with pytest.raises(InputError, match=r"fits two readings: counts of .*, or a map of .* to . slots") as caught:
        sniff(path)
    assert caught.value.field == "format"
    assert (read_counts(path, Format.COUNT_LIST).load == rows).all()


# Shares and means


def test_numbers_that_are_not_whole_need_a_scale(tmp_path: Path) -> None:
    # Shares are common in what people write themselves; 4 decimals are no counts until someone says what they are.
    shares = RNG.dirichlet(np.ones(5), 4)
    (tmp_path / "a.json").write_text(json.dumps({"logical_count": shares.tolist()}))
    with pytest.raises(InputError, match=r"logical_count\[0, 0\] is 0\..*say by what all .* multiplied") as caught:
        read(tmp_path / "a.json")
    assert caught.value.field == "scale"
    one_line(caught.value)
    found = read(tmp_path / "a.json", 1e6)
    assert (found.load[0] == np.rint(1e6 * shares)).all()
    largest = np.abs(1e6 * shares - np.rint(1e6 * shares)).max()
    assert found.notes == (f"all counts were multiplied by 1e+06 and rounded, by {largest:.3g} at most",)


def test_counts_of_a_few_experts_alone_are_read(tmp_path: Path) -> None:
    # As floats, and with 240 experts that were never counted: that is suspicious, and no fault of the file.
    counts = [float(count) for count in RNG.integers(1, 10**6, 16)] + [0.0] * 240
    (tmp_path / "a.json").write_text(json.dumps({"logical_count": [counts]}))
    assert read(tmp_path / "a.json").load.tolist() == [[counts]]


@pytest.mark.parametrize("wrong", [-0.5, float("nan"), float("inf"), 1e13])
def test_no_scale_makes_counts_of_impossible_numbers(tmp_path: Path, wrong: float) -> None:
    # And none is suggested for them.
    (tmp_path / "a.json").write_text(json.dumps({"logical_count": [[1.5, wrong]]}))
    for scale in (None, 10.0):
        with pytest.raises(InputError, match="not a whole number from 0") as caught:
            read(tmp_path / "a.json", scale)
        assert caught.value.field is None


# Recorders' torch files


def test_a_circular_buffer_has_empty_steps_and_large_sums(tmp_path: Path) -> None:
    # Steps that were never recorded are zero, and sums over steps pass 32 bits.
    load = np.full((4, 2, 3), 2**31 - 1, dtype=np.int32)
    load[1:3] = 0
    found = read(write_torch(tmp_path / "a.pt", {"rank": 0, "logical_count": load}))
    assert found.load.sum(axis=0)[0, 0] == 2 * (2**31 - 1)
    assert found.notes == ("2 of 4 recorded steps count nothing and were left out",)


def test_lmdeploys_file(tmp_path: Path) -> None:
    # It has one dump of `[layer, expert]` under another name.
    counts = {
        "counts": SLOTS[0],
        "balancedness": np.ones(4),
        "total_tokens": SLOTS[0].sum(axis=1),
        "step": 7,
        "rank": 0,
    }
    assert (read(write_torch(tmp_path / "a.pt", counts)).load == SLOTS[:1]).all()


def write_passes(folder: Path, load: Any, numbers: Any = None, experts_of: Any = EXPERTS_OF[0]) -> list[Path]:
    """A rank's file for each entry of load `[rank, pass, layer, slot]`."""
    folder.mkdir(exist_ok=True)
    paths = []
    for rank, passes in enumerate(load):
        records = [
            {"forward_pass_id": number, "rank": rank, "gatherer_key": "primary", "global_physical_count": counts}
            for number, counts in zip(numbers or range(len(passes)), passes, strict=True)
        ]
        held = {"records": records, "last_physical_to_logical_map": experts_of}
        paths.append(write_torch(folder / f"expert_distribution_recorder_17.{rank}_{rank}.pt", held))
    return paths


def test_passes_are_added_up_over_ranks_and_mapped_back(tmp_path: Path) -> None:
    # Each rank counts its own tokens alone, and a pass in which no rank had any is left out.
    load = RNG.integers(0, 99, (2, 3, 4, 8)).astype(np.int32)
    load[:, 1] = 0
    found = raw_passes(write_passes(tmp_path / "a", load, numbers=[40, 41, 45]))
    assert (found.load == mapped(load.sum(axis=0)[[0, 2]], np.stack([EXPERTS_OF[0]] * 2))).all()
    assert found.names == ("pass 40", "pass 45")
    assert found.notes == (
        "1 of 3 recorded steps count nothing and were left out",
        "the counts of 2 ranks were added up in each of 3 passes",
    )
    assert sniff(tmp_path / "a" / "expert_distribution_recorder_17.0_0.pt") is Format.RECORDER_PASSES


def test_ranks_that_counted_the_same_tokens_count_once(tmp_path: Path) -> None:
    # Under tensor parallel attention every rank selects experts for all tokens, so a sum would be many times too large.
    load = np.stack([RNG.integers(0, 99, (3, 4, 8))] * 4)
    found = raw_passes(write_passes(tmp_path / "a", load))
    assert (found.load == mapped(load[0], np.stack([EXPERTS_OF[0]] * 3))).all()
    assert found.notes == ("all 4 ranks counted the same tokens, which are counted once",)


def test_missing_ranks_are_said(tmp_path: Path) -> None:
    # One rank's tokens must not pass for all without a word.
    paths = write_passes(tmp_path / "a", RNG.integers(0, 99, (3, 2, 4, 8)))
    assert "only rank 2 is there" in raw_passes(paths[2:]).notes[0]
    assert raw_passes([paths[0], paths[2]]).notes[-1] == "rank 1 is missing: its tokens are not counted"


def test_many_passes_become_fewer_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An hour of decoding has more passes than steps are worth keeping.
    monkeypatch.setattr("optimizer.traces.formats.recorder_passes.MOST_STEPS", 4)
    load = RNG.integers(1, 99, (1, 10, 4, 8))
    found = raw_passes(write_passes(tmp_path / "a", load))
    whole = mapped(load[0], np.stack([EXPERTS_OF[0]] * 10))
    assert found.load.tolist() == [whole[start : start + 3].sum(axis=0).tolist() for start in range(0, 10, 3)]
    assert found.notes[-1] == "every 3 passes were added up to one step"


def test_passes_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    # A server that was started again numbers its passes from the beginning; other shapes are of another model.
    load = RNG.integers(1, 99, (1, 2, 4, 8))
    one, again = write_passes(tmp_path / "a", load)[0], write_passes(tmp_path / "b", load)[0]
    with pytest.raises(InputError, match=r"holds pass 0 of rank 0, as .* does"):
        raw_passes([one, again])
    other = write_passes(tmp_path / "c", load[:, :, :3], experts_of=EXPERTS_OF[0, :3])[0]
    with pytest.raises(InputError, match=r"has shape \(3, 8\), but that of another rank \(4, 8\)"):
        raw_passes([one, other])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"forward_pass_id": None}, "has a record without forward_pass_id or rank"),
        ({"global_physical_count": None}, "has a record of pass 0 without a tensor global_physical_count"),
        ({"global_physical_count": SLOTS[0, :2]}, "of pass 0 has shape"),
        ({"global_physical_count": -SLOTS[0]}, "is -"),
    ],
)
def test_faulty_records_are_one_sentence(tmp_path: Path, change: Any, said: str) -> None:
    # Records are plain dicts, in which anything may be missing.
    record = {"forward_pass_id": 0, "rank": 0, "global_physical_count": SLOTS[0]} | change
    path = write_torch(tmp_path / "a.pt", {"records": [record], "last_physical_to_logical_map": EXPERTS_OF[0]})
    with pytest.raises(InputError, match=said) as caught:
        read(path)
    one_line(caught.value)


def test_a_map_of_too_many_experts_is_refused_before_they_take_memory(tmp_path: Path) -> None:
    # Every expert has a slot, so there cannot be more experts than slots.
    record = {"forward_pass_id": 0, "rank": 0, "global_physical_count": SLOTS[0]}
    held = {"records": [record], "last_physical_to_logical_map": EXPERTS_OF[0] + 60_000}
    with little_memory(), pytest.raises(InputError, match="names expert 60005, but there are 8 slots"):
        read(write_torch(tmp_path / "a.pt", held))


# Hostile files


def test_hostile_files_are_read_or_refused_in_a_line(tmp_path_factory: pytest.TempPathFactory) -> None:
    # Statistics of several lines and recorders' files, damaged anywhere; one-line documents are in test_counts.
    folder = tmp_path_factory.mktemp("hostile")
    lines = write_lines(folder / "lines", META, *map(line, range(3))).read_bytes()
    passes = write_passes(folder / "a", SLOTS[None])[0].read_bytes()
    statistics = replaced([META, line(0)]).map(
        lambda value: b"\n".join(map(as_json, value)) if isinstance(value, list) else as_json(value)
    )

    @given(
        damaged(lines).map(lambda content: (content, Format.VLLM_LOAD))
        | damaged(passes).map(lambda content: (content, Format.RECORDER_PASSES))
        | statistics.map(lambda content: (content, Format.VLLM_LOAD))
    )
    def check(drawn: tuple[bytes, Format]) -> None:
        path = folder / "hostile"
        path.write_bytes(drawn[0])
        with little_memory():
            try:
                found = read_counts(path, drawn[1])
            except InputError as error:
                one_line(error)
                return
        assert found.load.min() >= 0
        assert found.load.any()

    check()
