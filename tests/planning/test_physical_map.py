"""The file by which physical ids become experts: a plan, or whatever placement file the server was started with."""

import json
from pathlib import Path

import numpy as np
import pytest

from optimizer.errors import InputError
from optimizer.planning.physical_map import read_physical_map


def test_a_server_s_file_says_which_expert_lay_in_which_slot(tmp_path: Path) -> None:
    """SGLang's file has a row for each hidden layer, so its rows are the model's layers."""
    rows = [[0, 1, 2, 3, 0, 1], [3, 2, 1, 0, 3, 2]]
    (tmp_path / "location.json").write_text(json.dumps({"physical_to_logical_map": rows}))
    found = read_physical_map(tmp_path / "location.json")
    assert found.layers == (0, 1)
    assert found.logical(np.array([4, 0]), 1).tolist() == [3, 3]


def test_a_file_that_counts_layers_with_experts_needs_the_first_of_them(tmp_path: Path) -> None:
    """Its row 12 is layer 15 of a model with three dense layers, and must not be taken for layer 12."""
    devices = [{"device_id": rank, "device_expert": held} for rank, held in enumerate([[1, 0, 2], [3, 2, 0]])]
    layers = [{"layer_id": 0, "device_count": 2, "device_list": devices}]
    (tmp_path / "map.json").write_text(json.dumps({"moe_layer_count": 1, "layer_list": layers}))
    with pytest.raises(InputError, match=r"map\.json: counts only layers with experts") as caught:
        read_physical_map(tmp_path / "map.json")
    assert caught.value.field == "first_moe_layer"
    found = read_physical_map(tmp_path / "map.json", first_moe_layer=3)
    assert found.layers == (3,)
    assert found.logical(np.arange(6), 3).tolist() == [1, 0, 2, 3, 2, 0]


def test_another_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"weights": []}')
    with pytest.raises(InputError, match="holds no placement in a known format") as caught:
        read_physical_map(tmp_path / "other.json")
    assert "\n" not in str(caught.value)
