"""The calls of four servers: their signatures, what they return, tensors, and one line for what cannot be planned."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from plain_eplb import plain_eplb

from formulations.kit.arrays import Ints
from optimizer.eplb import VllmAscendPolicy, VllmPolicy, rebalance_experts, sglang_rebalance_experts
from optimizer.errors import InputError

README_WEIGHT = np.array(
    [
        [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
        [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
    ]
)
"""The loads in the example of DeepSeek's README: 12 experts in 4 groups, 16 replicas, 2 nodes of 4 GPUs."""


def drawn(layers: int = 3, experts: int = 32) -> Ints:
    return np.random.default_rng(0).integers(0, 1000, (layers, experts))


def test_the_arrays_are_deepseeks() -> None:
    phy2log, log2phy, logcnt = rebalance_experts(README_WEIGHT, 16, 4, 2, 8)
    assert {each.dtype for each in (phy2log, log2phy, logcnt)} == {np.dtype(np.int64)}
    assert phy2log.shape == (2, 16)
    assert logcnt.sum(axis=1).tolist() == [16, 16]
    assert log2phy.shape == (2, 12, logcnt.max())
    for layer in range(2):
        for expert in range(12):
            slots = log2phy[layer, expert, : logcnt[layer, expert]]
            assert slots.tolist() == np.flatnonzero(phy2log[layer] == expert).tolist()
            assert (log2phy[layer, expert, logcnt[layer, expert] :] == -1).all()


README_PLACEMENT = [
    [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
    [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
]
"""What DeepSeek's README shows for it."""


def peak(load: Ints, slots: Ints) -> float:
    """The largest load of 8 devices, each expert's load split evenly."""
    weight = load / np.bincount(slots, minlength=len(load))
    return float(weight[slots].reshape(8, -1).sum(axis=1).max())


@pytest.mark.parametrize("layer", [0, 1])
def test_deepseeks_example_has_a_peak_no_higher_than_in_its_readme(layer: int) -> None:
    theirs, ours = np.array(README_PLACEMENT[layer]), rebalance_experts(README_WEIGHT, 16, 4, 2, 8)[0][layer]
    assert peak(README_WEIGHT[layer], ours) <= peak(README_WEIGHT[layer], theirs)


@pytest.mark.parametrize("layer", [0, 1])
def test_the_benchmarks_plain_eplb_gives_the_placement_of_the_readme(layer: int) -> None:
    """It is what the benchmark compares with, so it must be EPLB."""
    found = plain_eplb(README_WEIGHT[layer].astype(np.float64), 16, 4, 2, 8)
    assert found.ravel().tolist() == README_PLACEMENT[layer]


def test_a_layers_placement_depends_on_its_loads_alone() -> None:
    weight = drawn()
    together = rebalance_experts(weight, 40, 1, 1, 8)[0]
    assert (rebalance_experts(weight[1:2], 40, 1, 1, 8)[0][0] == together[1]).all()


def test_nodes_that_do_not_divide_the_groups_do_not_matter() -> None:
    weight = drawn()
    assert (rebalance_experts(weight, 40, 4, 3, 8)[0] == rebalance_experts(weight, 40, 1, 1, 8)[0]).all()


def test_layers_without_any_load_are_planned_and_kept() -> None:
    """SGLang counts dense layers, too, as zeros."""
    found = rebalance_experts(np.zeros((1, 8)), 12, 1, 1, 4)[0]
    assert set(found[0].tolist()) == set(range(8))
    assert (rebalance_experts(np.zeros((1, 8)), 12, 1, 1, 4, old=found)[0] == found).all()


@pytest.mark.parametrize("algorithm", ["deepseek", SimpleNamespace(name="deepseek_vec_hierarchical"), "auto"])
def test_sglangs_call_adds_steps_up(algorithm: Any) -> None:
    steps = np.random.default_rng(1).integers(0, 50, (5, 2, 32))
    found = sglang_rebalance_experts(steps, 48, 6, 8, 2, algorithm)
    groups, nodes = (1, 1) if algorithm == "deepseek" else (8, 2)
    for ours, same in zip(found, rebalance_experts(steps.sum(axis=0), 48, groups, nodes, 8), strict=True):
        assert (ours == same).all()


@pytest.mark.parametrize(
    ("groups", "algorithm", "field"),
    [(None, "deepseek_hierarchical", "num_groups"), (8, "elasticity_aware", "algorithm")],
)
def test_sglangs_algorithms_that_cannot_be_stood_in_for_are_refused(
    groups: int | None, algorithm: str, field: str
) -> None:
    with pytest.raises(InputError) as caught:
        sglang_rebalance_experts(np.ones((1, 1, 32)), 48, 6, groups, 2, algorithm)
    assert caught.value.field == field


def test_vllms_policy_keeps_most_slots_of_the_old_placement() -> None:
    weight = np.random.default_rng(2).lognormal(0, 0.5, (2, 64))
    old = VllmPolicy.rebalance_experts(weight, 72, 1, 1, 8)
    assert (VllmPolicy.rebalance_experts(weight, 72, 1, 1, 8, old) == old).all()
    later = weight * np.random.default_rng(3).lognormal(0, 0.1, weight.shape)
    assert (VllmPolicy.rebalance_experts(later, 72, 1, 1, 8, old) != old).mean() < 0.5


def test_vllms_policy_looks_at_no_placement_of_another_size() -> None:
    weight = drawn()
    old = np.zeros((3, 48), dtype=np.int64)
    found = VllmPolicy.rebalance_experts(weight, 40, 1, 1, 8, old)
    assert (found == rebalance_experts(weight, 40, 1, 1, 8)[0]).all()


def test_vllm_ascends_policy_says_whether_it_pays() -> None:
    table = np.arange(16).reshape(1, 4, 4).repeat(2, axis=0)
    table[:, :, 3] = table[:, ::-1, 0]  # redundant copies of the first expert of each device
    experts = np.unique(table)
    table = np.searchsorted(experts, table)
    skewed = np.where(np.arange(4)[None, :, None] == 0, 100.0, 1.0).repeat(2, axis=0) * np.ones((2, 4, 4))
    changed, priority, found = VllmAscendPolicy(None).rebalance_experts(table, skewed)
    assert changed == 1
    assert sorted(priority.tolist()) == [0, 1]
    for old, new in zip(table.reshape(8, 4).tolist(), found.reshape(8, 4).tolist(), strict=True):
        assert len(set(new)) == 4
        for expert in set(old) & set(new):
            assert old.index(expert) == new.index(expert)  # the server refuses a layer with moves inside a device
    changed, _, same = VllmAscendPolicy().rebalance_experts(found, np.ones((2, 4, 4)))
    assert changed == 0
    assert same.shape == found.shape


def test_vllm_ascends_slots_that_were_not_counted_have_no_load() -> None:
    table = np.arange(8).reshape(1, 4, 2)
    one, two = (VllmAscendPolicy().rebalance_experts(table, np.full((1, 4, 2), value)) for value in (-1.0, 0.0))
    assert one[0] == two[0] == 0
    assert (one[2] == table).all()


class StandIn:
    """As much of a torch tensor as the calls use."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)

    def detach(self) -> "StandIn":
        return self

    cpu = detach

    def double(self) -> "StandIn":
        return StandIn(self.values.astype(np.float64))

    def is_floating_point(self) -> bool:
        return bool(np.issubdtype(self.values.dtype, np.floating))

    def numpy(self) -> Any:
        return self.values


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """torch itself where it is installed, else a stand-in."""
    if "torch" not in sys.modules:
        module = ModuleType("torch")
        module.__dict__.update(Tensor=StandIn, from_numpy=StandIn)
        monkeypatch.setitem(sys.modules, "torch", module)
    return sys.modules["torch"]


def test_tensors_give_tensors(torch: Any) -> None:
    weight = drawn(2)
    tensor = torch.from_numpy(weight.astype(np.float32))
    plain = rebalance_experts(weight, 40, 1, 1, 8)
    for ours, same in zip(rebalance_experts(tensor, 40, 1, 1, 8), plain, strict=True):
        assert isinstance(ours, torch.Tensor)
        assert (ours.numpy() == same).all()
    old = torch.from_numpy(plain[0])
    kept = VllmPolicy.rebalance_experts(tensor, 40, 1, 1, 8, old)
    assert isinstance(kept, torch.Tensor)
    assert (kept.numpy() == plain[0]).all()
    steps = torch.from_numpy(weight[None])
    assert all(isinstance(each, torch.Tensor) for each in sglang_rebalance_experts(steps, 40, 5, None, 1, "deepseek"))
    table = torch.from_numpy(plain[0].reshape(2, 8, 5))
    found = VllmAscendPolicy().rebalance_experts(table, torch.from_numpy(np.ones((2, 8, 5))))[2]
    assert isinstance(found, torch.Tensor)


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        ([[1.0, float("nan")]], "weight[0, 1] is nan"),
        ([[1.0, -2.0]], "weight[0, 1] is -2"),
        ([[1.0, float("inf")]], "weight[0, 1] is inf"),
        ([1.0, 2.0], "must have 2 axes"),
        ([[]], "not be empty"),
        (np.zeros((0, 2)), "not be empty"),
        ([["a", "b"]], "no array of numbers"),
    ],
)
def test_loads_that_cannot_be_planned_are_refused_in_one_line(weight: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        rebalance_experts(weight, 2, 1, 1, 1)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.field == "weight"


@pytest.mark.parametrize(
    "old", [np.zeros((1, 3), dtype=int), np.zeros((1, 4)), np.full((1, 4), -7), np.full((1, 4), 3)]
)
def test_an_old_placement_that_is_none_is_refused(old: Any) -> None:
    with pytest.raises(InputError) as caught:
        rebalance_experts(np.ones((1, 3)), 4, 1, 1, 2, old=old)
    assert caught.value.field == "old"


def test_ascends_tables_of_different_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="expert_workload"):
        VllmAscendPolicy().rebalance_experts(np.zeros((1, 2, 1), dtype=int), np.ones((1, 1, 1)))


def test_an_expert_that_ascends_table_lacks_is_named() -> None:
    with pytest.raises(InputError, match="expert 1 on no device in layer 0"):
        VllmAscendPolicy().rebalance_experts(np.array([[[0], [2]]]), np.ones((1, 2, 1)))
