"""Presets from timings: every shipped one from its own, the published tables, and what timings leave open."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import published
import pytest
from random_problems import WORMHOLE
from timed_rows import cost_us, row, write_rows

from optimizer.domain.calibration.calibrate import Calibration, SectionFit, calibrate
from optimizer.domain.calibration.measurements import KINDS, Measurement
from optimizer.domain.calibration.preset_file import preset_text
from optimizer.domain.calibration.sheet import sheet_rows
from optimizer.domain.cost import Cost
from optimizer.domain.presets import load_hardware, load_model, names
from optimizer.domain.presets.schema import HardwarePreset
from optimizer.errors import InputError

NOISE_US = 1.0
REPEATS = 4


def timings(name: str, noise_us: float, repeats: int = 1) -> list[tuple[Measurement, float]]:
    """The rows of a preset's sheet with the times of its cost model, and noise."""
    cost, rng = Cost(name, load_hardware(name)), np.random.default_rng(11)
    rows = [each for each, _ in sheet_rows(cost.preset)] * repeats
    return [(each, max(0.0, cost_us(cost, each) + rng.normal(0, noise_us))) for each in rows]


def section(found: Calibration, name: str) -> SectionFit:
    return next(each for each in found.fits if each.section == name)


def values(found: SectionFit) -> dict[str, float]:
    return {figure.name: figure.value for figure in found.figures}


@pytest.mark.parametrize("name", names("hardware"))
def test_a_preset_comes_out_of_its_own_exact_timings(name: str, tmp_path: Path) -> None:
    """Begun with other constants, so that none is right because it was there before; the cost model has whole
    nanoseconds."""
    other = tmp_path / "other.toml"
    other.write_text(preset_text(_altered(name)))
    found = calibrate(write_rows(tmp_path / "rows.csv", timings(name, 0)), str(other))
    assert not found.kept
    for each in found.fits:
        own = getattr(load_hardware(name), each.section)
        assert each.rmse_us < 0.002
        for figure in each.figures:
            assert figure.told == "yes"
            assert figure.value == pytest.approx(getattr(own, figure.name), rel=1e-3, abs=1e-3)
            assert getattr(getattr(found.preset, each.section), figure.name) == pytest.approx(figure.value, rel=1e-5)


def _altered(name: str) -> HardwarePreset:
    """The preset with all constants that are fitted changed."""
    preset = load_hardware(name)
    changed = {}
    for title in ("compute", "functional", "dispatch", "table", "combine", "routing"):
        part = getattr(preset, title)
        if part is not None:
            fitted = [key for key in type(part).model_fields if key.endswith(("_us", "second", "efficiency"))]
            figures = {key: getattr(part, key) for key in fitted if getattr(part, key) is not None}
            changed[title] = part.model_copy(update={key: value * 0.7 + 0.1 for key, value in figures.items()})
    return preset.model_copy(update=changed)


@pytest.mark.parametrize("name", names("hardware"))
def test_a_preset_comes_out_of_its_own_noisy_timings(name: str, tmp_path: Path) -> None:
    found = calibrate(write_rows(tmp_path / "rows.csv", timings(name, NOISE_US, REPEATS)), name)
    for each in found.fits:
        assert 0.3 * NOISE_US < each.rmse_us < 1.5 * NOISE_US  # times near 0 have noise on one side only
        for figure in each.figures:
            assert figure.told == "yes"
            if figure.error is None:  # at its limit of 0
                assert figure.value == figure.before == 0
            else:
                assert abs(figure.value - figure.before) < 4 * figure.error


@pytest.mark.parametrize("name", names("hardware"))
def test_what_is_written_is_read_as_the_same_preset(name: str, tmp_path: Path) -> None:
    found = calibrate(write_rows(tmp_path / 'r\x7f"ows.csv', timings(name, NOISE_US)), name)
    file = tmp_path / "mine.toml"
    file.write_text(preset_text(found.preset), encoding="utf-8")
    assert load_hardware(str(file)) == found.preset
    for each in found.fits:
        source = getattr(found.preset, each.section).source
        assert source.startswith(f'fitted to {len(each.rows)} measurements of r\x7f"ows.csv, RMSE ')
    assert found.preset.mesh == load_hardware(name).mesh


def test_the_published_compute_examples_give_the_presets_tiles(tmp_path: Path) -> None:
    rows = [(row("compute", tokens), float(us)) for tokens, us in published.EXAMPLES.items()]
    found = calibrate(write_rows(tmp_path / "rows.csv", rows), WORMHOLE)
    assert values(section(found, "compute")) == pytest.approx({"first_tile_us": 117.5, "further_tile_us": 130})
    assert section(found, "compute").rmse_us == 0
    assert found.kept == ("functional", "dispatch", "table", "combine", "routing")
    assert found.preset.dispatch == load_hardware(WORMHOLE).dispatch


def test_the_published_dispatch_table_gives_the_stated_fits(tmp_path: Path) -> None:
    """Stated: 25.0 us, 34.8 GB/s and RMSE 11.3 over all cells, 20.7 us and 27.9 GB/s for the corners (2 %)."""
    cells = published.cells()

    def fitted(part: list[published.Cell]) -> Calibration:
        sent = [float(cell.halves.max(axis=1).mean() / 2) for cell in part]
        rows = [
            (row("dispatch", messages=messages, experts=cell.experts, hops=cell.hops), cell.measured)
            for messages, cell in zip(sent, part, strict=True)
        ]
        return calibrate(write_rows(tmp_path / "rows.csv", rows), WORMHOLE)

    every, corners = fitted(cells), fitted([cells[place] for place in published.CORNERS])
    base, speed, error = published.fit_link(cells, 14336)
    assert values(section(every, "dispatch")) == pytest.approx({"base_us": base, "gigabytes_per_second": speed})
    assert section(every, "dispatch").rmse_us == pytest.approx(error, abs=1e-5)
    assert error == pytest.approx(11.3, abs=0.05)
    assert values(section(corners, "dispatch")) == pytest.approx(
        {"base_us": 20.7, "gigabytes_per_second": 27.9}, rel=0.02
    )
    best, table_error = published.fit_table(cells)
    assert list(values(section(every, "table")).values()) == pytest.approx(best.tolist())
    assert section(every, "table").rmse_us == pytest.approx(table_error, abs=1e-5)


@pytest.mark.parametrize("stage", ["dispatch", "combine"])
def test_the_table_of_deepep_fits_better_than_the_preset(stage: str, tmp_path: Path) -> None:
    rows, ours = [], published.expert_parallel_us(Cost("h800", load_hardware("h800")))[stage]
    measured = published.DEEPEP[stage]
    for ranks, us in zip(published.RANKS, measured, strict=True):
        halves, remote = published.port_halves(ranks)
        local, far = (float(halves[0, part].max() / 2) for part in (~remote, remote))
        rows.append((row(stage, local=local, remote=far), float(us)))
    fit = section(calibrate(write_rows(tmp_path / "rows.csv", rows), "h800"), stage)
    assert fit.rmse_us < published.rmse(ours, np.array(measured))
    assert 39 < values(fit)["gigabytes_per_second"] < 50  # the preset's, 50, is the nominal speed of the network


ONE_TILE = row("compute", (17,)), row("compute", (17, 30))
IN_PROPORTION = row("compute", (33,)), row("compute", (34, 38))
FEW_TOKENS = row("compute", (1,)), row("compute", (2,)), row("compute", (4,)), row("compute", (4, 4))
ONE_SIZE = row("dispatch", messages=64), row("dispatch", messages=64)
REMOTE_ALONE = row("dispatch", remote=64), row("dispatch", remote=128), row("dispatch", local=8, remote=512)


@pytest.mark.parametrize(
    ("name", "rows", "told"),
    [
        (WORMHOLE, ONE_TILE, {"first_tile_us": "yes", "further_tile_us": "unseen"}),
        (WORMHOLE, IN_PROPORTION, {"first_tile_us": "not apart", "further_tile_us": "not apart"}),
        (WORMHOLE, ONE_SIZE, {"base_us": "not apart", "gigabytes_per_second": "not apart"}),
        ("h100", FEW_TOKENS, {"memory_gigabytes_per_second": "yes", "efficiency": "unseen"}),
        (
            "h100",
            REMOTE_ALONE,
            {"base_us": "yes", "local_gigabytes_per_second": "unseen", "gigabytes_per_second": "yes"},
        ),
    ],
)
def test_what_is_not_told_apart_is_named_and_kept_and_the_advice_tells_it(
    name: str, rows: tuple[Measurement, ...], told: dict[str, str], tmp_path: Path
) -> None:
    """Times are those of the preset itself, so that all it keeps is right."""
    cost = Cost(name, load_hardware(name))
    path = tmp_path / "rows.csv"
    found = calibrate(write_rows(path, [(each, cost_us(cost, each)) for each in rows]), name).fits[0]
    assert {figure.name: figure.told for figure in found.figures} == told
    for figure in found.figures:
        assert figure.value == pytest.approx(figure.before, rel=1e-3)
        assert figure.error is None or figure.told == "yes"
    advised = [each for each, _ in sheet_rows(cost.preset) if each.words() in found.advice]
    assert len(advised) == len(found.advice) == 1
    more = [(each, cost_us(cost, each)) for each in (*rows, *advised)]
    after = calibrate(write_rows(path, more), name).fits[0]
    assert not after.named("unseen")
    assert not after.named("not apart")


def test_a_source_names_what_was_not_told(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.csv", [(each, 117.5 * len(each.tokens)) for each in ONE_TILE])
    source = calibrate(rows, WORMHOLE).preset.compute.source
    assert f"not told by them, and so as near to {WORMHOLE} as they allow: further_tile_us;" in source
    assert source.endswith(load_hardware(WORMHOLE).compute.source)


def test_prices_that_were_not_measured_stay(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.csv", [(row("routing", information="batch"), us) for us in (60.0, 64.0)])
    found = calibrate(rows, "h100")
    assert values(section(found, "routing")) == pytest.approx({"batch_us": 62})
    assert section(found, "routing").figures[0].error == pytest.approx(math.sqrt(8))  # each row left out misses by 4
    assert found.preset.routing.model_dump(include={f"{kind}_us" for kind in KINDS}) == {
        "none_us": 0, "own_us": 0, "hint_us": 0, "batch_us": 62,
    }  # fmt: skip


def test_hardware_without_a_table_gets_one(tmp_path: Path) -> None:
    preset = load_hardware(WORMHOLE).model_copy(update={"table": None})
    like = tmp_path / "like.toml"
    like.write_text(preset_text(preset))
    rows = [(row("dispatch", experts=e, hops=h), 5 + 2.0 * e + 10 * h) for e, h in ((1, 1), (2, 1), (2, 3), (8, 8))]
    found = calibrate(write_rows(tmp_path / "rows.csv", rows), str(like))
    assert found.preset.table is not None
    assert found.preset.table.model_dump(exclude={"source"}) == {"base_us": 5, "per_expert_us": 2, "per_hop_us": 10}


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        (WORMHOLE, [(row("dispatch", messages=10), 9.0), (row("dispatch", messages=20), 5.0)], "do not grow"),
        (WORMHOLE, [(row("compute", (32,)), 90.0), (row("compute", (64,)), 50.0)], "further_tile_us comes out as 0"),
        ("h100", [(row("compute", (1,)), 1.0), (row("compute", (4096,)), 50.0)], "peak_tflops of your device"),
    ],
)
def test_times_that_fit_no_preset_are_refused(
    name: str, rows: list[tuple[Measurement, float]], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        calibrate(write_rows(tmp_path / "rows.csv", rows), name)


def test_the_worst_row_is_named_by_its_line(tmp_path: Path) -> None:
    rows = timings(WORMHOLE, 0)
    rows[3] = replace(rows[3][0]), rows[3][1] + 40
    found = section(calibrate(write_rows(tmp_path / "rows.csv", rows), WORMHOLE), "compute")
    assert found.rows[found.worst].line == 5  # the head is line 1
    residuals = found.modelled_us - [each.us for each in found.rows]
    assert found.rmse_us == pytest.approx(math.sqrt((residuals**2).mean()), abs=1e-6)


@pytest.mark.parametrize("name", ["qwen3-30b-a3b", "deepseek-v3"])
def test_experts_of_another_model_give_the_same_speeds(name: str, tmp_path: Path) -> None:
    """Times of smaller experts on the same devices: the preset's speeds, and figures of that size."""
    model, preset = load_model(name), load_hardware("h200")
    cost = Cost("h200", preset).for_model(model)
    times = [(each, cost_us(cost, each)) for each, _ in sheet_rows(preset) if each.stage != "routing"]
    found = calibrate(write_rows(tmp_path / "rows.csv", times), "h200", name)
    for each in found.fits:
        for figure in each.figures:
            assert figure.value == pytest.approx(getattr(getattr(preset, each.section), figure.name), rel=2e-3)
    assert found.preset.expert is not None
    assert (found.preset.expert.hidden_size, found.preset.expert.expert_width) == (
        model.hidden_size,
        model.expert_width,
    )
    assert found.preset.compute.weight_bytes == cost.preset.compute.weight_bytes
    assert cost_us(Cost("mine", found.preset), times[0][0]) == pytest.approx(times[0][1], rel=1e-3)


def test_tiles_of_another_model_must_be_timed_and_what_was_not_is_left_out(tmp_path: Path) -> None:
    rows = timings(WORMHOLE, 0)
    part = [pair for pair in rows if pair[0].stage in ("compute", "dispatch") and "hops" not in pair[0].numbers]
    with pytest.raises(InputError, match="for another model time combine, too"):
        calibrate(write_rows(tmp_path / "rows.csv", part), WORMHOLE, "gpt-oss-20b")
    part += [pair for pair in rows if pair[0].stage == "combine"]
    found = calibrate(write_rows(tmp_path / "rows.csv", part), WORMHOLE, "gpt-oss-20b")
    assert (found.preset.functional, found.preset.table, found.kept) == (None, None, ("routing",))
    assert found.preset.expert is not None
    assert not found.preset.expert.scales
    assert found.preset.dispatch.bytes_per_token == 2 * load_model("gpt-oss-20b").hidden_size
    assert calibrate(tmp_path / "rows.csv", WORMHOLE, "kimi-k2").kept == ("functional", "table", "routing")


def test_a_model_needs_a_preset_that_says_of_which_expert_it_is(tmp_path: Path) -> None:
    like = tmp_path / "like.toml"
    like.write_text(preset_text(load_hardware(WORMHOLE).model_copy(update={"expert": None})))
    with pytest.raises(InputError, match=r"has no \[expert\] section"):
        calibrate(write_rows(tmp_path / "rows.csv", timings(WORMHOLE, 0)), str(like), "kimi-k2")
