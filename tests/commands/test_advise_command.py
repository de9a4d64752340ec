"""The command `advise`: the verdict first, the placement that is there now, and one line for what cannot be used."""

import json
import shlex
from pathlib import Path

import pytest
from running_commands import fault, run

from cli import main

pytestmark = pytest.mark.usefixtures("few_batches")

SMALL = ("--layer", 1, "--mesh", "2x2", "--slots", 3, "--shared-experts", 0, "--batch-tokens", 24, "--hardware", "h800",
         "--iterations", 200, "--time-limit", 100_000)  # fmt: skip


def test_the_page_has_the_verdict_first_and_one_table(traces: Path) -> None:
    result = run("advise", traces, *SMALL, "--server", "vllm", "--sizes", "8,48")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith(("Worth it: ", "No gain to be had", "Nothing that "))
    assert lines[1].startswith("Now: vLLM's own order of experts")
    assert result.stdout.count("┏") == 1
    assert "With 8 tokens in a batch" in result.stdout
    assert "With 48 tokens in a batch" in result.stdout


def test_what_runs_now_is_read_from_a_plan(traces: Path, plan: Path) -> None:
    """The plan holds the model's shared expert, too."""
    small = [*SMALL[:6], *SMALL[8:10], *SMALL[-4:]]
    result = run("advise", traces, *small, "--placement", plan, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["present"]["placement"] == "the plan plan.json"
    assert found["steps"][0]["step"] == "placement"
    assert found["verdict"]


def test_without_a_layer_the_middle_one_is_looked_at(traces: Path) -> None:
    result = run("advise", traces, *SMALL[2:], "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["layer"] == 1
    assert "layer 1, the middle one" in result.stderr


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--sizes", "8,no"), "--sizes: '8,no' is not a list of numbers of tokens"),
        (("--placement", "missing.json"), "missing.json"),
    ],
)
def test_what_cannot_be_used_is_one_line(traces: Path, more: tuple[str, ...], said: str) -> None:
    assert said in fault(run("advise", traces, *SMALL, *more))


def test_counts_are_refused(tmp_path: Path) -> None:
    counts = tmp_path / "counts.json"
    counts.write_text(json.dumps({"logical_count": [[[5, 3, 2, 2]] * 2]}))
    result = run("advise", counts, "--layer", 1, "--mesh", "1x2", "--slots", 3, "--top-k", 1)
    assert "advice needs token traces" in result.stderr
    assert result.exit_code == 2


def test_the_commands_of_its_document_have_options_that_there_are() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "advising.md").read_text()
    lines = [line.partition("#")[0] for line in page.splitlines() if line.startswith("moeplan advise ")]
    assert len(lines) == 3
    for line in lines:
        main.commands["advise"].make_context("advise", shlex.split(line)[2:])
