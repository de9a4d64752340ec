"""Presets: each figure's source, files of the user's, and faults that are named."""

import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import pytest
from random_problems import WORMHOLE

from optimizer.domain.presets import load_hardware, load_model, names
from optimizer.domain.presets.schema import RooflineCompute
from optimizer.errors import InputError


def sections(kind: Literal["models", "hardware", "deployments"], name: str) -> dict[str, Any]:
    """The content of a preset's file."""
    text = (files("optimizer.domain.presets") / kind / f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def unsourced(section: dict[str, Any]) -> list[str]:
    """The figures of a section that its source does not state; yes and no are no figures."""
    values = [value for value in section.values() if not isinstance(value, bool)]
    figures = [f"{value:.10g}" for value in values if isinstance(value, int | float)]
    stated = re.findall(r"\d+(?:\.\d+)?", section["source"])
    return [figure for figure in figures if figure not in stated]


SECTIONS = {
    (name, title): section for name in names("hardware") for title, section in sections("hardware", name).items()
}

OWN = """
[mesh]
source = "mine"
rows = 2
cols = 2
slots_per_device = 4
[compute]
source = "mine"
kind = "tiles"
tile_tokens = 16
first_tile_us = 10
further_tile_us = 5
[dispatch]
source = "mine"
kind = "link"
base_us = 1
bytes_per_token = 1000
gigabytes_per_second = 1
[combine]
source = "mine"
kind = "link"
base_us = 1
bytes_per_token = 1000
gigabytes_per_second = 1
message_per = "expert"
"""

NETWORK = """
[network]
source = "mine"
tokens = "device"
links = "rings"
hop_us = 0
"""

NODES = """
[mesh]
source = "mine"
rows = 2
cols = 2
slots_per_device = 4
[network]
source = "mine"
tokens = "device"
links = "nodes"
hop_us = 2
[compute]
source = "mine"
kind = "roofline"
weight_bytes = 1e6
memory_gigabytes_per_second = 1000
flops_per_token = 2e6
peak_tflops = 10
efficiency = 0.5
[dispatch]
source = "mine"
kind = "node"
base_us = 1
bytes_per_token = 1000
gigabytes_per_second = 1
local_gigabytes_per_second = 10
message_per = "device"
[combine]
source = "mine"
kind = "node"
base_us = 1
bytes_per_token = 2000
gigabytes_per_second = 1
local_gigabytes_per_second = 10
message_per = "expert"
"""


def written(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


def test_every_model_preset_has_its_own_name() -> None:
    assert {load_model(name).name for name in names("models")} == set(names("models"))


@pytest.mark.parametrize("name", names("hardware"))
def test_every_hardware_preset_has_room_for_the_experts_of_deepseek_v3(name: str) -> None:
    """The Galaxy of 32 devices is the exception, for smaller models."""
    mesh = load_hardware(name).mesh
    slots = mesh.rows * mesh.cols * mesh.slots_per_device
    assert slots >= load_model("deepseek-v3").experts or (name, slots) == ("tt-wormhole-galaxy", 96)


def test_the_presets_have_the_devices_of_their_machines() -> None:
    meshes = {name: load_hardware(name).mesh for name in names("hardware")}
    assert {name: mesh.rows * mesh.cols for name, mesh in meshes.items()} == {
        "ascend-384": 384,
        "gb200-nvl72": 72,
        "h100": 128,
        "h200": 128,
        "h800": 128,
        "tt-wormhole-galaxy": 32,
        "tt-wormhole-quad-galaxy": 128,
    }


@pytest.mark.parametrize("name", names("hardware"))
def test_every_preset_names_its_network(name: str) -> None:
    assert (name, "network") in SECTIONS


@pytest.mark.parametrize(("name", "title"), SECTIONS)
def test_every_figure_is_in_the_source_of_its_section(name: str, title: str) -> None:
    assert any(isinstance(value, int | float) for value in SECTIONS[name, title].values())
    assert unsourced(SECTIONS[name, title]) == []


@pytest.mark.parametrize("name", names("models"))
def test_every_figure_of_a_model_is_in_its_source(name: str) -> None:
    """A zero is what the model's file does not speak of."""
    preset = sections("models", name)
    assert unsourced({key: value for key, value in preset.items() if value != 0}) == []


@pytest.mark.parametrize("name", names("hardware"))
def test_every_preset_says_of_which_expert_its_figures_are(name: str) -> None:
    """Bytes and operations are those of DeepSeek-V3's expert, which has three matrices, in the precision of a byte."""
    preset, v3 = load_hardware(name), load_model("deepseek-v3")
    assert preset.expert is not None
    assert (preset.expert.hidden_size, preset.expert.expert_width) == (v3.hidden_size, v3.expert_width)
    assert preset.expert.scales == isinstance(preset.compute, RooflineCompute)
    if isinstance(preset.compute, RooflineCompute):
        assert preset.compute.weight_bytes == 3 * v3.hidden_size * v3.expert_width
        assert preset.compute.flops_per_token == 2 * preset.compute.weight_bytes
    else:  # bfp4 takes 4.5 bits
        assert preset.compute.weight_bytes == 3 * v3.hidden_size * v3.expert_width * 4.5 / 8
    assert preset.combine.bytes_per_token == 2 * v3.hidden_size


def test_the_ascend_base_times_are_those_that_fit_the_published_latency_at_ep_256() -> None:
    """The paper's ranks are dies: half the bandwidth of an NPU, 128 tokens, 8 messages each, 1 / 256 to itself."""
    preset = load_hardware("ascend-384")
    for transfer, published in ((preset.dispatch, 152), (preset.combine, 149)):
        assert transfer.kind == "node"
        sent = 128 * 8 * 255 / 256 * transfer.bytes_per_token
        assert transfer.base_us + sent / (transfer.local_gigabytes_per_second / 2 * 1e3) == pytest.approx(
            published, abs=0.1
        )


def test_hopper_efficiency_is_that_of_both_multiplications_of_an_expert() -> None:
    flops = [2 * 1024 * 4096 * 7168, 2 * 1024 * 7168 * 2048]
    reached = sum(flops) / (flops[0] / 1233 + flops[1] / 925)
    for name in ("h800", "h100", "h200"):
        compute = load_hardware(name).compute
        assert isinstance(compute, RooflineCompute)
        assert compute.efficiency == pytest.approx(reached / compute.peak_tflops, abs=0.005)


def test_an_unknown_preset_names_those_that_exist() -> None:
    with pytest.raises(InputError, match=r"model 'gpt-7'.*deepseek-v3"):
        load_model("gpt-7")
    with pytest.raises(InputError, match=r"hardware 'abacus'.*tt-wormhole-quad-galaxy"):
        load_hardware("abacus")


def test_hardware_of_the_users_own_is_read_from_toml(tmp_path: Path) -> None:
    preset = load_hardware(written(tmp_path, OWN))
    assert (preset.mesh.slots_per_device, preset.compute.kind, preset.dispatch.bytes_per_token) == (4, "tiles", 1000)
    assert (preset.functional, preset.table) == (None, None)


def test_a_file_without_a_network_has_that_of_the_default_hardware(tmp_path: Path) -> None:
    network, default = load_hardware(written(tmp_path, OWN)).network, load_hardware(WORMHOLE).network
    assert network.model_dump(exclude={"source"}) == default.model_dump(exclude={"source"})
    assert "default" in network.source


def test_a_roofline_and_nodes_are_read(tmp_path: Path) -> None:
    preset = load_hardware(written(tmp_path, NODES))
    assert (preset.compute.kind, preset.dispatch.kind, preset.network.links) == ("roofline", "node", "nodes")


def test_a_switch_needs_no_speed_between_nodes(tmp_path: Path) -> None:
    text = NODES.replace('"nodes"', '"switch"').replace("\ngigabytes_per_second = 1", "")
    assert load_hardware(written(tmp_path, text)).network.links == "switch"


@pytest.mark.parametrize(
    ("text", "old", "new", "said"),
    [
        (OWN, "tile_tokens = 16", "tile_tokens = 0", r": compute\.tile_tokens: "),
        (OWN, "further_tile_us = 5", "furthr_tile_us = 5", r": compute\.(further|furthr)_tile_us: "),
        (OWN, 'source = "mine"\nrows', "rows", r": mesh\.source: "),
        (OWN, "[mesh]", "[mesh", "not TOML"),
        (OWN, 'kind = "tiles"', 'kind = "tile"', r": compute: .*'tiles', 'roofline'"),
        (OWN, 'kind = "tiles"\n', "", r": compute: .*'kind'"),
        (OWN, "[compute]", "[nothing]", r": compute: "),
        (OWN, "[combine]", NETWORK + "[combine]", None),
        (OWN, "[combine]", NETWORK.replace('"device"', '"rank"') + "[combine]", r": network\.tokens: "),
        (OWN, "[combine]", NETWORK.replace("hop_us = 0", "hop_us = -1") + "[combine]", r": network\.hop_us: "),
        (
            OWN,
            "[combine]",
            NETWORK.replace("rings", "switch") + "[combine]",
            r"mine\.toml: dispatch\.kind: must be 'node' where network\.links is 'switch' \(1 ",
        ),
        (
            NODES,
            '"nodes"',
            '"rings"',
            r"mine\.toml: dispatch\.kind: must be 'link' where network\.links is 'rings' \(1 ",
        ),
        (NODES, "gigabytes_per_second = 1\n", "", r": dispatch\.gigabytes_per_second: is needed .*'nodes'"),
        (NODES, "efficiency = 0.5", "efficiency = 1.5", r": compute\.efficiency: "),
        (NODES, 'message_per = "device"', "", r": dispatch\.message_per: "),
        (NODES, "[combine]", '[table]\nsource = ""\n[combine]', r": table\.source: "),
        (NODES, "[combine]", "[functional]\n[combine]", r": functional\.source: "),
    ],
)
def test_a_fault_in_a_users_toml_is_named_in_one_line(
    tmp_path: Path, text: str, old: str, new: str, said: str | None
) -> None:
    assert old in text
    path = written(tmp_path, text.replace(old, new, 1))
    if said is None:
        assert load_hardware(path).network.tokens == "device"
        return
    with pytest.raises(InputError, match=said) as caught:
        load_hardware(path)
    assert "\n" not in str(caught.value)


def test_both_directions_must_fit_the_links(tmp_path: Path) -> None:
    text = OWN.split("[combine]")[0] + "[combine]" + NODES.split("[combine]")[1]
    with pytest.raises(InputError, match=r": combine\.kind: must be 'link'"):
        load_hardware(written(tmp_path, text))


def test_a_missing_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_hardware(str(tmp_path / "none.toml"))
