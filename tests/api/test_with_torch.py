"""Tensors and files of torch itself, where it is installed; this project does not need it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimizer.eplb import VllmAscendPolicy, VllmPolicy, rebalance_experts, sglang_rebalance_experts
from optimizer.errors import InputError
from optimizer.traces.formats.counts import read_counts
from optimizer.traces.formats.sniff import Format, sniff

torch: Any = pytest.importorskip("torch", reason="torch is not installed; these tests are of its own tensors and files")


def drawn(layers: int = 2) -> Any:
    """Loads of 32 experts, whole numbers that half precision holds, too."""
    return torch.from_numpy(np.random.default_rng(1).integers(1, 200, (layers, 32)).astype(np.float32))


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32", "float64", "int32", "int64"])
def test_loads_of_every_type_give_the_placement_of_the_array(kind: str) -> None:
    weight = drawn().to(getattr(torch, kind))
    plain = rebalance_experts(weight.double().numpy(), 40, 1, 1, 8)
    for ours, same in zip(rebalance_experts(weight, 40, 1, 1, 8), plain, strict=True):
        assert (ours.dtype, ours.device.type) == (torch.int64, "cpu")
        assert ours.tolist() == same.tolist()


def test_views_and_tensors_with_gradients_are_taken() -> None:
    weight = drawn()
    wanted = rebalance_experts(weight, 40, 1, 1, 8)[0].tolist()
    wide = torch.zeros(2, 64)
    wide[:, ::2] = weight
    assert rebalance_experts(wide[:, ::2], 40, 1, 1, 8)[0].tolist() == wanted
    assert rebalance_experts(weight.clone().requires_grad_(), 40, 1, 1, 8)[0].tolist() == wanted
    with torch.inference_mode():
        assert rebalance_experts(weight.clone(), 40, 1, 1, 8)[0].tolist() == wanted


def test_results_are_the_callers_to_write_into() -> None:
    phy2log, log2phy, logcnt = rebalance_experts(drawn(), 40, 1, 1, 8)
    for found in (phy2log, log2phy, logcnt):
        found[0].fill_(7)
    assert rebalance_experts(drawn(), 40, 1, 1, 8)[0].tolist() != phy2log.tolist()


def test_the_servers_calls_take_and_give_tensors() -> None:
    """With the types that the servers pass: vLLM's old placement is int64 or int32, SGLang's steps are whole counts."""
    weight = drawn()
    phy2log = rebalance_experts(weight, 40, 1, 1, 8)[0]
    for old in (phy2log, phy2log.to(torch.int32), phy2log.numpy()):
        kept = VllmPolicy.rebalance_experts(weight, 40, 1, 1, 8, old)
        assert isinstance(kept, torch.Tensor)
        assert kept.tolist() == phy2log.tolist()
    steps = torch.stack([weight.to(torch.int32)] * 3)
    assert all(isinstance(each, torch.Tensor) for each in sglang_rebalance_experts(steps, 40, 5, None, 1, "deepseek"))
    table, load = phy2log.reshape(2, 8, 5), torch.ones(2, 8, 5)
    changed, order, found = VllmAscendPolicy().rebalance_experts(table, load)
    assert isinstance(found, torch.Tensor)
    assert (changed in (0, 1), sorted(np.asarray(order).tolist()), found.shape) == (True, [0, 1], table.shape)


@pytest.mark.parametrize("weight", [torch.rand(2, 32, device="meta"), torch.rand(2, 32).to_sparse(), torch.rand(4)])
def test_tensors_that_hold_no_loads_are_refused_in_one_line(weight: Any) -> None:
    with pytest.raises(InputError) as fault:
        rebalance_experts(weight, 40, 1, 1, 8)
    assert str(fault.value).startswith("weight is ")
    with pytest.raises(InputError, match="old is "):
        rebalance_experts(drawn(), 40, 1, 1, 8, torch.zeros(2, 40, device="meta", dtype=torch.int64))
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("kind", ["int32", "int64", "float32"])
def test_files_that_torch_writes_are_read(kind: str, tmp_path: Path) -> None:
    """As SGLang's recorder writes them, with a view of a larger tensor, and as LMDeploy's does."""
    load = np.random.default_rng(2).integers(1, 90, (3, 4, 5))
    tensor = torch.from_numpy(load).to(getattr(torch, kind))
    ring = torch.zeros(6, 4, 5, dtype=tensor.dtype)
    ring[:3] = tensor
    path = tmp_path / "recorder.pt"
    torch.save({"rank": 0, "logical_count": ring[:3], "average_utilization_rate_over_window": None}, path)
    assert sniff(path) == Format.RECORDER_PT
    assert read_counts(path, Format.RECORDER_PT).load.tolist() == load.tolist()
    torch.save({"counts": tensor[0]}, path)
    assert read_counts(path, Format.RECORDER_PT).load.tolist() == load[:1].tolist()


def test_compact_and_old_files_are_read_or_named(tmp_path: Path) -> None:
    """Files of torch before 1.6 are no archives."""
    path = tmp_path / "old.pt"
    torch.save({"counts": torch.ones(4, 5)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"old\.pt: "):
        read_counts(path, Format.RECORDER_PT)
