"""The servers' own rules where small random cases do not reach: long batches, and figures worked out by hand."""

import numpy as np
import pytest
from reference import Slots
from reference_routing import ORACLES, Layer
from reference_traffic import Wires, holders

from formulations.kit.arrays import Ints
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.routing.context import RoutingContext
from optimizer.routing.policies import POLICIES

MESH, MODEL = Mesh(3, 1, 4), Model("small", 6, 0, 3)
SLOTS: Slots = [[0, 1, 2, 3], [4, 5, 0, 1], [0, 2, 3, 4]]
"""Expert 0 has three copies, experts 1 to 4 have two, and expert 5 has one."""


def routed(policy: str, experts: Ints, rows: Ints) -> Ints:
    """The flat slots of one batch: experts `[token, k]`, source rows `[token]`."""
    context = RoutingContext.of(Placement(np.array(SLOTS)), MODEL, Network(MESH), 1, 10**6, None)
    found: Ints = POLICIES[policy](experts[None].astype(np.uint16), rows[None].astype(np.int32), context)[0]
    return found


@pytest.mark.parametrize("policy", ["even-source", "vllm", "tensorrt-llm", "vllm-ascend"])
def test_long_batches_are_routed_as_the_oracle_does(policy: str, rng: np.random.Generator) -> None:
    """One source has 2,000 tokens and so six blocks of pairs, one has few, and one has none."""
    experts = np.argsort(rng.random((2100, 6)), axis=1)[:, :3]
    rows = (rng.random(2100) < 0.05).astype(np.int64) * 2
    layer = Layer(Wires(3, 1), SLOTS, 1, 10**6, [1.0] * 6, [[1.0] * 4] * 3)
    expected = ORACLES[policy](layer, experts.tolist(), holders(layer.wires, rows.tolist()))
    assert routed(policy, experts, rows).tolist() == [[4 * device + slot for device, slot in each] for each in expected]


def test_vllm_hashes_a_tokens_row_in_its_own_rank() -> None:
    """Rows 0 to 4 give 0, 2654435769, 1013904242, 3668340011 and 2027808484, which modulo 3 is 0, 0, 2, 2, 1."""
    copies = [0, 6, 8]
    experts = np.array([[0, 5, 3]] * 10)
    rows = np.array([1, 0] * 5)
    found = routed("vllm", experts, rows)
    assert found[0::2, 0].tolist() == found[1::2, 0].tolist() == [copies[rank] for rank in (0, 0, 2, 2, 1)]
    assert (found[:, 1] == 5).all()


def test_tensorrt_llm_begins_anew_in_each_block_one_copy_further() -> None:
    """All pairs are of expert 1, whose copies are slots 1 and 7; a block has 1,024 pairs."""
    experts, rows = np.ones((1026, 1), dtype=np.int64), np.zeros(1026, dtype=np.int64)
    found = routed("tensorrt-llm", experts, rows)[:, 0]
    assert found[:3].tolist() == [1, 7, 1]
    assert found[1022:].tolist() == [1, 7, 7, 1]
    assert routed("tensorrt-llm", experts, rows + 1)[:3, 0].tolist() == [7, 1, 7]


def test_vllm_ascend_uses_one_copy_in_a_rank() -> None:
    found = routed("vllm-ascend", np.array([[0, 1, 5]] * 3), np.arange(3))
    assert found.tolist() == [[0, 1, 5], [6, 7, 5], [8, 1, 5]]
