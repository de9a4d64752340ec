"""What shells are offered: click's protocol is driven as the scripts of bash, zsh and fish drive it."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import COMMANDS, main
from optimizer.commands.completion import POLICIES, SEEDS, SERVER_FORMATS, TRACE_FORMATS, preset_names
from optimizer.domain.presets import names
from optimizer.exchange.formats import FORMATS
from optimizer.planning import options
from optimizer.routing import policies
from optimizer.traces.formats.sniff import Format


def offered(words: str, typed: str = "") -> list[tuple[str, str]]:
    """What bash is offered behind these words for a word of which so much is typed: kinds and values."""
    line = [*words.split(), typed]
    asked = {"_MOEPLAN_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(line), "COMP_CWORD": str(len(line) - 1)}
    result = CliRunner().invoke(main, [], prog_name="moeplan", env=asked)
    assert result.exit_code == 0, result.output
    pairs = (line.partition(",") for line in result.stdout.splitlines())
    return [(kind, value) for kind, _, value in pairs]


def values(words: str, typed: str = "") -> list[str]:
    return [value for _, value in offered(words, typed)]


def test_names_are_those_that_other_rooms_define() -> None:
    """They are written down again, because importing these rooms takes longer than a shell should wait."""
    assert tuple(policies.POLICIES) == POLICIES
    assert options.SEEDS == SEEDS
    assert tuple(FORMATS) == SERVER_FORMATS
    assert tuple(Format) == TRACE_FORMATS
    assert all(preset_names(kind) == sorted(names(kind)) for kind in ("models", "hardware", "deployments"))


def test_commands_and_options_are_offered() -> None:
    assert set(values("moeplan")) == {command.name for command in COMMANDS}
    assert values("moeplan", "sim") == ["simulate"]
    assert {"--quiet", "--verbose", "--map", "--routing"} <= set(values("moeplan simulate", "--"))


@pytest.mark.parametrize(
    ("words", "typed", "expected"),
    [
        ("moeplan solve --model", "deepseek-v2", ["deepseek-v2-lite"]),
        ("moeplan solve --hardware", "tt-wormhole-g", ["tt-wormhole-galaxy"]),
        ("moeplan calibrate --like", "h10", ["h100"]),
        ("moeplan solve --deployment", "kimi", ["kimi-k2-ep144"]),
        ("moeplan solve --server", "tensor", ["tensorrt-llm"]),
        ("moeplan solve --routing", "near", ["near-source", "nearest"]),
        ("moeplan simulate plan.json --routing", "optimal,sglang-d", ["optimal,sglang-dynamic"]),
        ("moeplan slots --routing", "o", ["optimal"]),
        ("moeplan solve --seeds", "greedy,pa", ["greedy,pairing", "greedy,partition"]),
        ("moeplan export plan.json --to", "vllm-", ["vllm-json", "vllm-ascend"]),
        ("moeplan stats --format", "tensorrt-", ["tensorrt-raw"]),
        ("moeplan solve --phase", "de", ["decode"]),
        ("moeplan solve --search", "ta", ["tabu"]),
        ("moeplan presets", "m", ["models"]),
    ],
)
def test_known_values_are_offered(words: str, typed: str, expected: list[str]) -> None:
    assert values(words, typed) == expected


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        ("moeplan solve --model", "models/conf"),
        ("moeplan solve", "trac"),
        ("moeplan simulate", "pl"),
        ("moeplan solve --output", ""),
    ],
)
def test_files_are_offered_where_they_may_stand(words: str, typed: str) -> None:
    assert [kind for kind, _ in offered(words, typed)] == ["file"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.shell_completion.BashComplete._check_version", lambda *_: None)  # it would start a bash
    result = CliRunner().invoke(main, [], prog_name="moeplan", env={"_MOEPLAN_COMPLETE": f"{shell}_source"})
    assert result.exit_code == 0
    assert f"_MOEPLAN_COMPLETE={shell}_complete" in result.stdout


def test_the_document_names_each_shell() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "command-line.md").read_text()
    assert all(f"_MOEPLAN_COMPLETE={shell}_source" in text for shell in ("bash", "zsh", "fish"))
