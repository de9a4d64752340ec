"""Models from config.json: the files of well-known makers, what lacks or contradicts itself, and damaged files."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optimizer.domain.model import Model
from optimizer.domain.presets import load_model, names
from optimizer.errors import InputError

DEEPSEEK = {
    "model_type": "deepseek_v3", "num_hidden_layers": 61, "n_routed_experts": 256, "n_shared_experts": 1,
    "num_experts_per_tok": 8, "first_k_dense_replace": 3, "moe_layer_freq": 1, "num_nextn_predict_layers": 1,
    "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_group": 8, "topk_group": 4,
    "ep_size": 1, "norm_topk_prob": True, "scoring_func": "sigmoid",
}  # fmt: skip
QWEN3 = {
    "model_type": "qwen3_moe", "num_hidden_layers": 94, "num_experts": 128, "num_experts_per_tok": 8,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "hidden_size": 4096, "intermediate_size": 12288,
    "moe_intermediate_size": 1536, "router_aux_loss_coef": 0.001,
}  # fmt: skip
LLAMA4 = {
    "model_type": "llama4", "vision_config": {"num_hidden_layers": 34, "hidden_size": 1408},
    "text_config": {
        "model_type": "llama4_text", "num_hidden_layers": 48, "num_local_experts": 128, "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 2, "moe_layers": list(range(1, 48, 2)), "hidden_size": 5120,
        "intermediate_size": 8192, "intermediate_size_mlp": 16384,
    },
}  # fmt: skip
MIXTRAL = {
    "model_type": "mixtral", "num_hidden_layers": 32, "num_local_experts": 8, "num_experts_per_tok": 2,
    "hidden_size": 4096, "intermediate_size": 14336,
}  # fmt: skip
FILES: dict[str, dict[str, Any]] = {
    "deepseek-v3": DEEPSEEK,
    "qwen3-235b-a22b": QWEN3,
    "llama-4-maverick": LLAMA4,
    "mixtral-8x7b": MIXTRAL,
    "gpt-oss-120b": {
        "model_type": "gpt_oss", "num_hidden_layers": 36, "num_local_experts": 128, "num_experts_per_tok": 4,
        "experts_per_token": 4, "hidden_size": 2880, "intermediate_size": 2880,
    },
    "olmoe-1b-7b": {
        "model_type": "olmoe", "num_hidden_layers": 16, "num_experts": 64, "num_experts_per_tok": 8,
        "hidden_size": 2048, "intermediate_size": 1024,
    },
    "qwen1.5-moe-a2.7b": {
        "model_type": "qwen2_moe", "num_hidden_layers": 24, "num_experts": 60, "num_experts_per_tok": 4,
        "decoder_sparse_step": 1, "hidden_size": 2048, "intermediate_size": 5632, "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    },
    "glm-4.5": {
        "model_type": "glm4_moe", "num_hidden_layers": 92, "n_routed_experts": 160, "num_experts_per_tok": 8,
        "n_shared_experts": 1, "first_k_dense_replace": 3, "num_nextn_predict_layers": 1, "n_group": 1,
        "topk_group": 1, "hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536,
    },
}  # fmt: skip
"""What the makers' files say of their experts; the names are those of the presets that say the same."""


def written(folder: Path, content: object) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))
    return str(folder / "config.json")


def read(folder: Path, **settings: object) -> Model:
    """The model of a small file with these settings beside those that every file needs."""
    least = {"num_hidden_layers": 6, "num_experts": 8, "num_experts_per_tok": 2}
    return load_model(written(folder / "m", least | settings))


@pytest.mark.parametrize("name", FILES)
def test_a_makers_file_says_what_the_preset_says(tmp_path: Path, name: str) -> None:
    """Two ways to the same numbers: the preset was written by hand, the file is read."""
    path = written(tmp_path / name, FILES[name])
    assert load_model(path) == load_model(name)
    assert load_model(str(Path(path).parent)) == load_model(name)


def test_a_preset_goes_before_a_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the same command would mean another thing in another folder."""
    written(tmp_path / "mixtral-8x7b", DEEPSEEK)
    monkeypatch.chdir(tmp_path)
    assert load_model("mixtral-8x7b").routed_experts == 8
    assert load_model("./mixtral-8x7b").routed_experts == 256


@pytest.mark.parametrize(
    ("settings", "moe"),
    [
        ({}, (0, 1, 2, 3, 4, 5)),
        ({"first_k_dense_replace": 2}, (2, 3, 4, 5)),
        ({"first_k_dense_replace": 1, "moe_layer_freq": 2}, (2, 4)),  # DeepSeek counts from layer 0
        ({"moe_layer_freq": [0, 1, 1, 0, 1, 1]}, (1, 2, 4, 5)),
        ({"decoder_sparse_step": 2}, (1, 3, 5)),  # Qwen counts from 1
        ({"decoder_sparse_step": 2, "mlp_only_layers": [3]}, (1, 5)),
        ({"interleave_moe_layer_step": 3}, (2, 5)),
        ({"interleave_moe_layer_step": 2, "moe_layers": []}, (1, 3, 5)),
        ({"interleave_moe_layer_step": 1, "moe_layers": [4, 2]}, (2, 4)),
        ({"moe_layers_enum": "1,2, 5"}, (1, 2, 5)),
        ({"moe_layer_start_index": 2, "moe_layer_end_index": 4, "moe_layer_interval": 1}, (2, 3, 4)),
        ({"moe_layer_start_index": 3, "moe_layer_end_index": -1}, (3, 4, 5)),
        ({"expert_layer_period": 2, "expert_layer_offset": 1}, (1, 3, 5)),
        ({"mlp_layer_types": ["dense", "sparse", "sparse", "sparse", "dense", "sparse"]}, (1, 2, 3, 5)),
        ({"hybrid_override_pattern": "ME*EME"}, (1, 3, 5)),
        ({"num_dense_layers": 5}, (5,)),
    ],
)
def test_which_layers_have_experts_follows_the_makers_rule(
    tmp_path: Path, settings: dict[str, object], moe: tuple[int, ...]
) -> None:
    model = read(tmp_path, **settings)
    assert model.moe_layer_ids == moe
    assert (model.first_moe_layer, model.moe_layers) == (moe[0], len(moe))


@pytest.mark.parametrize("top_k", ["num_experts_per_token", "moe_top_k", "moe_topk", "moe_k", "experts_per_token"])
def test_other_names_of_the_top_k_are_read(tmp_path: Path, top_k: str) -> None:
    assert read(tmp_path, **{"num_experts_per_tok": None, top_k: 3}).top_k == 3


def test_lists_of_equal_numbers_are_that_number(tmp_path: Path) -> None:
    """Hunyuan writes one number for each layer."""
    model = read(tmp_path, moe_intermediate_size=[96] * 6, num_experts_per_tok=[4] * 6, hidden_size=64)
    assert (model.expert_width, model.top_k) == (96, 4)


def test_sizes_that_are_half_known_are_not_known(tmp_path: Path) -> None:
    assert read(tmp_path, hidden_size=64).hidden_size == 0


def test_the_shared_expert_of_qwen_is_as_many_as_it_is_wide(tmp_path: Path) -> None:
    wide = {"moe_intermediate_size": 100, "hidden_size": 64}
    assert read(tmp_path, **wide, shared_expert_intermediate_size=250).shared_experts == 3
    assert read(tmp_path, **wide, shared_expert_intermediate_size=0).shared_experts == 0


def test_settings_of_experts_that_are_not_known_are_named(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"config\.json: zero_expert_num, moe_stride look like settings of experts"):
        read(tmp_path, zero_expert_num=4, moe_stride=[1, 2], moe_router_topk_norm=1, moe_activation="silu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(tmp_path, router_aux_loss_coef=1, norm_topk_prob=True, moe_norm_min=3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_experts": None}, r"this model has no experts.*none of n_routed_experts, num_experts, "),
        ({"num_experts": 0, "model_type": "llama"}, "a model of type llama has no experts"),
        ({"num_experts_per_tok": None}, r"no number of experts per token: none of num_experts_per_tok, .*give the"),
        ({"num_hidden_layers": None}, r"no number of layers: none of num_hidden_layers"),
        ({"num_experts": -8}, "num_experts is -8, but a whole number between"),
        ({"num_experts": 8.0}, r"num_experts is 8\.0, but a whole number"),
        ({"num_experts": True}, "num_experts is True"),
        ({"num_experts": "8"}, "num_experts is '8'"),
        ({"num_experts": 10**40}, "num_experts is a number of more than 30 digits"),
        ({"num_experts": [8, 16]}, "num_experts is a list of several values"),
        ({"num_experts_per_tok": 9}, "top-9 of 8"),
        ({"num_experts_per_tok": 0}, "top-0 of 8"),
        ({"num_hidden_layers": 10**9}, "layers"),
        ({"n_routed_experts": 16}, "n_routed_experts is 16 and num_experts is 8, which should be the same"),
        ({"first_k_dense_replace": 6}, "none of its 6 layers has experts"),
        ({"decoder_sparse_step": 0}, "none of its 6 layers has experts"),
        ({"moe_layers": [7]}, "moe_layers names layers that are not among the 6"),
        ({"moe_layers": "all"}, "moe_layers is 'all', but a list of layer ids"),
        ({"moe_layers_enum": "1-5"}, "moe_layers_enum is not a text of layer ids"),
        ({"moe_layer_freq": [1, 0]}, "moe_layer_freq has 2 values, but num_hidden_layers is 6"),
        ({"mlp_only_layers": [1.5]}, "mlp_only_layers is "),
        ({"hidden_size": 1 << 30, "intermediate_size": 4}, "hidden size 1073741824"),
        ({"text_config": {"num_experts": 4}}, "names 8 experts, but 4 in a nested part"),
    ],
)
def test_what_no_model_can_have_is_refused_in_one_line(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read(tmp_path, **settings)
    assert str(caught.value).startswith(str(tmp_path / "m" / "config.json"))
    assert "\n" not in str(caught.value)
    assert caught.value.field == "model"


def test_files_that_are_none_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "text.json").write_text("{")
    (tmp_path / "deep.json").write_text('{"a":' * 100_000)
    (tmp_path / "digits.json").write_text('{"num_experts": ' + "9" * 5000 + "}")
    (tmp_path / "large.json").write_bytes(b" " * ((1 << 24) + 1))
    for name, said in (
        ("empty", "no such file"), ("none.json", "no such file"), ("list.json", "no names and values"),
        ("text.json", "not JSON"), ("deep.json", "not JSON"), ("digits.json", "not JSON"), ("large.json", "16 MB"),
        ("no/folder/config.json", "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said) as caught:
            load_model(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_an_unknown_name_tells_of_presets_and_of_files() -> None:
    with pytest.raises(InputError, match=r"model 'gpt-7'.*kimi-k2.*path of its config\.json"):
        load_model("gpt-7")
    with pytest.raises(InputError, match="is not known"):
        load_model("x" * 5000)


def outcome(path: str) -> Model | str:
    """The model of a file, or what is said of its faults."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return load_model(path)
        except InputError as error:
            return str(error)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
KEYS = sorted({key for content in FILES.values() for key in content} | {*LLAMA4["text_config"], "moe_layers_enum"})


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(FILES)), st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5))
def test_any_value_under_any_key_gives_a_model_or_one_line(
    tmp_path: Path, name: str, changed: dict[str, object]
) -> None:
    """Files are made by other people and programs: whatever they hold, nothing but an InputError may come of it."""
    path = written(tmp_path / "fuzz", FILES[name] | changed)
    found = outcome(path)
    assert isinstance(found, Model) or "\n" not in found


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 400), st.binary(min_size=0, max_size=3))
def test_any_damaged_bytes_give_a_model_or_one_line(tmp_path: Path, place: int, bytes_there: bytes) -> None:
    """As above, for files that were cut or overwritten."""
    text = json.dumps(DEEPSEEK).encode()
    (tmp_path / "config.json").write_bytes(text[:place] + bytes_there + text[place + 1 :])
    found = outcome(str(tmp_path))
    assert isinstance(found, Model) or "\n" not in found


def test_every_model_that_people_ask_for_has_a_preset() -> None:
    assert {"deepseek-v3", "kimi-k2", "qwen3-235b-a22b", "qwen3-30b-a3b", "gpt-oss-120b", "gpt-oss-20b", "glm-4.5",
            "llama-4-maverick", "mixtral-8x7b", "olmoe-1b-7b", "qwen1.5-moe-a2.7b"} <= set(names("models"))  # fmt: skip


def test_layers_without_experts_are_refused_by_the_names_of_those_with_some() -> None:
    with pytest.raises(InputError, match=r"layer 2 is no MoE layer of llama-4-maverick, which are 1, 3, 5 \.\. 47"):
        load_model("llama-4-maverick").check_layers([1, 2])
    with pytest.raises(InputError, match=r"which are 3\.\.60 and of MTP 61"):
        load_model("deepseek-v3").check_layers([61, 62])
    Model("custom", 4, 0, 1).check_layers([99])  # nothing is known of its layers
