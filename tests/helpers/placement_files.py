"""Small placements in every server's format: the text of the files, and what they say."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from optimizer.exchange.formats import FORMATS
from optimizer.exchange.server_placement import Numbering, ServerPlacement

ROWS = [[0, 1, 2, 0], [2, 1, 0, 2]]
"""Two layers of three experts on two ranks of two slots."""

TEXTS = {
    "sglang": '{"physical_to_logical_map": [[0, 1, 2, 0], [2, 1, 0, 2]]}',
    "vllm": '{"record_type": "eplb_initial_mapping", "version": 1, "num_redundant_experts": 1, "num_slots": 4, '
    '"initial_global_assignments": {"0": [0, 1, 2, 0], "1": [2, 1, 0, 2]}}\n',
    "vllm-json": "[[0, 1, 2, 0], [2, 1, 0, 2]]",
    "rtp-llm": "[[0, 1, 2, 0], [2, 1, 0, 2]]",
    "tensorrt-llm": "num_slots: 4\nlayer_updates_per_iter: 0\ninitial_global_assignments:\n"
    "  3: [0, 1, 2, 0]\n  4: [2, 1, 0, 2]\n",
    "vllm-ascend": '{"moe_layer_count": 2, "layer_list": [{"layer_id": 0, "device_count": 2, "device_list": ['
    '{"device_id": 0, "device_expert": [0, 1]}, {"device_id": 1, "device_expert": [2, 0]}]}, '
    '{"layer_id": 1, "device_count": 2, "device_list": ['
    '{"device_id": 0, "device_expert": [2, 1]}, {"device_id": 1, "device_expert": [0, 2]}]}]}',
    "tt-metal-yaml": "experts:\n  expert_mapping: [0, 1, 0, 1]\n  shared_expert_ids_to_devices:\n    4: [0, 1]\n",
}
"""The whole file of `ROWS` in each format that is text, and settings of tt-metal for one layer with a shared expert."""

TABLE = np.array([[[0, 0, 1], [1, 0, 1]], [[1, 0, 0], [1, 0, 1]]])
"""Where two devices send the experts of `ROWS`, `[layer, source device, expert]`."""


def placed(name: str, rows: list[list[int]] = ROWS, ranks: int = 2) -> ServerPlacement:
    """A placement with such rows; layers begin at 3 where the format has the model's ids of some layers."""
    rule = FORMATS[name].rows
    first = 3 if rule in ("ids", "planned") else 0
    numbering: Numbering = "moe" if rule in ("moe", "one") else "model"
    layers, experts = tuple(range(first, first + len(rows))), 1 + max(map(max, rows))
    dispatch = TABLE if name == "tt-metal" and rows is ROWS else None
    return ServerPlacement(name, layers, np.array(rows), experts, ranks, numbering, dispatch)


def settings_of_tt_metal() -> ServerPlacement:
    """What the settings in `TEXTS` say."""
    return ServerPlacement("tt-metal-yaml", (0,), np.array([[4, 0, 2, 3, 4, 1]]), 5, 2, "moe", routed=4)


FILES = {name: text.encode() for name, text in TEXTS.items()} | {
    name: FORMATS[name].content(placed(name)) for name in ("omniinfer", "eplb", "tt-metal")
}
"""The file of `ROWS` in every format."""


def read_again(name: str, content: bytes) -> ServerPlacement:
    """What is read from a file with this content, in the format of this name."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "placement"
        path.write_bytes(content)
        return FORMATS[name].read(path)


def plan_text(slots: list[list[int]], **model: int) -> str:
    """A plan of layer 1 on 2 x 2 devices, or on one row of as many as there are."""
    rows = 2 if len(slots) == 4 else 1
    content = {
        "format": "moeplan/plan",
        "version": 1,
        "model": {"name": "m", "shared_experts": 0, "top_k": 1} | model,
        "mesh": {"rows": rows, "cols": len(slots) // rows, "slots_per_device": len(slots[0])},
        "hardware": "tt-wormhole-quad-galaxy",
        "routing": {"policy": "vllm"},
        "layers": {"1": {"slots": slots}},
    }
    return json.dumps(content)
