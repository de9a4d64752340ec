"""What is wrong with a placement is said in the server's words: expert, rank, layer."""

import numpy as np
import pytest

from optimizer.exchange.faults import faults
from optimizer.exchange.server_placement import ServerPlacement


def placement(rows: list[list[int]], ranks: int | None = 2, name: str = "sglang", **more: int) -> ServerPlacement:
    return ServerPlacement(name, tuple(range(7, 7 + len(rows))), np.array(rows), more.get("experts", 4), ranks)


TWICE, HOLE = [[0, 0, 1, 2, 3, 3]], [[0, 1, 2, -1, 3, 0]]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (placement(TWICE), ["expert 0 twice on rank 0 in layer 7", "expert 3 twice on rank 1 in layer 7"]),
        (placement([[0, 1, 2, 3], [0, 1, 0, 1]]), ["experts 2, 3 missing in layer 8"]),
        (placement([[0, 1, 2, 3]], ranks=3), ["4 slots are not divisible by 3 ranks"]),
        (placement([[0, 1, 2, 9, 3, 1]]), ["expert 9 in slot 3 of layer 7, but ids are 0..3"]),
        (placement(HOLE), ["no expert (-1, which SGLang takes for the last expert) in slot 3 of layer 7"]),
        (placement(HOLE, name="vllm"), ["no expert (-1) in slot 3 of layer 7"]),
        (placement([[0, 1], [1, 0]], experts=2), []),
    ],
)  # fmt: skip
def test_each_fault_has_its_sentence(given: ServerPlacement, said: list[str]) -> None:
    assert faults(given) == said


def test_more_experts_may_be_asked_for_than_the_file_shows() -> None:
    said = "experts 4, 5, 6, 7, 8 and 3 more missing in layer 7"
    assert faults(placement([[0, 1, 2, 3]]), experts=12) == [said]
    assert faults(placement([[0, 1, 2, 3]]), experts=3) == ["expert 3 in slot 3 of layer 7, but ids are 0..2"]


def test_dense_layers_may_hold_anything() -> None:
    given = placement([[0, 0, 0, 0], [0, 1, 2, 3]])
    assert faults(given, dense=[7]) == []
    assert faults(given, doubles=False) == ["experts 1, 2, 3 missing in layer 7"]


def test_rtp_llm_wants_no_more_redundant_experts_than_experts() -> None:
    given = placement([[0, 1, 0, 1, 0, 1]], ranks=3, name="rtp-llm", experts=2)
    assert faults(given) == ["4 redundant experts are more than the 2 experts, which RTP-LLM refuses"]


def test_devices_with_unequal_numbers_of_experts_are_named() -> None:
    said = "device 0 has 2 experts in layer 7, but device 1 has 1; all devices must have equally many"
    assert faults(placement([[0, 1, 2, -1]], name="omniinfer", experts=3)) == [said]
    assert faults(placement([[0, 1, 2, -1]], name="tt-metal", experts=3)) == []
    settings = placement([[0, 1, 2, -1]], name="tt-metal-yaml", experts=3)
    assert "2 routed experts, but device 1 has 1" in faults(settings)[0]
