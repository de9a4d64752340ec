"""The options of the commands: how the help shows them, how a file gives them, and which option an error names."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from running_commands import SHORT, fault, run, solve

from cli import main
from optimizer.commands.declare import FIRST_SECTION, OptionsCommand
from optimizer.commands.failures import OPTION_OF_FIELD, option_of
from optimizer.errors import InputError
from optimizer.planning.options import SolveOptions

pytestmark = pytest.mark.usefixtures("few_batches")

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [command for command in main.commands.values() if isinstance(command, OptionsCommand)]


def names(command: OptionsCommand) -> str:
    """The name by which pytest tells the test of one command from that of another."""
    return str(command.name)


def test_all_commands_show_their_options_in_sections() -> None:
    assert len(COMMANDS) == len(main.commands) == 20


@pytest.mark.parametrize("command", COMMANDS, ids=names)
def test_help_shows_every_option_once_an_example_and_lines_of_at_most_100_columns(command: OptionsCommand) -> None:
    text = run(command.name, "--help").stdout
    assert "Example:" in text
    assert f"moeplan {command.name}" in text
    assert max(map(len, text.splitlines())) <= 100
    shown = [option for options in command.sections.values() for option in options]
    assert len(shown) == len({option.name for option in shown})
    for option in shown:
        assert len(re.findall(rf"^  (?:-\w, )?{max(option.opts, key=len)} ", text, re.MULTILINE)) <= 1
        assert max(option.opts, key=len) in text


@pytest.mark.parametrize("command", ["solve", "stats", "bound", "compare"])
def test_an_option_without_a_default_must_be_given(command: str) -> None:
    """Without --layer a command ended in a traceback, or looked for a layer named None."""
    found = run(command, "traces")
    assert found.exit_code == 2
    assert found.stderr.endswith("Error: Missing option '--layer'.\n")


def test_the_help_of_solve_begins_with_the_ten_options_that_everybody_needs() -> None:
    solving = next(command for command in COMMANDS if command.name == "solve")
    assert next(iter(solving.sections)) == FIRST_SECTION
    assert {max(option.opts, key=len) for option in solving.sections[FIRST_SECTION]} == {
        "--layer", "--output", "--time-limit", "--hardware", "--mesh", "--slots", "--model", "--batch-tokens",
        "--routing", "--json",
    }  # fmt: skip
    for title in ("What to plan", "Hardware", "Replicas and limits", "Search", "Many layers", "Output"):
        assert solving.sections[title]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from cli import main\n"
        "CliRunner().invoke(main, ['solve', '--help'])\n"
        "heavy = {'numpy', 'numba', 'scipy', 'ortools', 'pydantic', 'rich', 'plotly', 'networkx'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


def test_options_are_read_from_a_file_and_flags_win(traces: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        'layer = 1\nmesh = "2x2"\nslots = 3\niterations = 100\ntime-limit = 20\nbatch_tokens = 24\nseed = 3\n'
    )
    plan = tmp_path / "p.json"
    assert run("solve", traces, "--config", config, "--seed", 5, "-o", plan).exit_code == 0
    written = json.loads(plan.read_text())
    assert written["mesh"] == {"rows": 2, "cols": 2, "slots_per_device": 3}
    assert written["layers"]["1"]["provenance"]["seed"] == 5
    assert written["layers"]["1"]["provenance"]["batch_tokens"] == 24


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mehs = '2x2'", "did you mean 'mesh'?"),
        ("[mesh]\nrows = 2", "mesh is a table; write a value"),
        ("layer = ", "cannot be read as TOML"),
        ("[annealing]\nworsning = 0.1", "did you mean 'worsening'?"),
        ("[annealing]\nworsening = 7.0", "[annealing] worsening"),
        ("[annealing]\nworsening = 'much'", "[annealing] worsening"),
        ("[anealing]\nworsening = 0.1", "did you mean 'annealing'?"),
        ("time_limit = 'long'", "--time-limit"),
    ],
)
def test_a_fault_in_the_file_is_one_line(traces: Path, tmp_path: Path, text: str, said: str) -> None:
    config = tmp_path / "run.toml"
    config.write_text(text)
    result = run("solve", traces, "--layer", 1, *SHORT[:2], "--config", config, "-o", tmp_path / "p.json")
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_search_parameters_of_the_file_reach_the_search(
    traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, seen = tmp_path / "run.toml", []

    def noted(*arguments: Any) -> None:
        seen.append(next(each for each in arguments if isinstance(each, SolveOptions)))
        raise InputError("seen")

    monkeypatch.setattr("optimizer.api.planning.plan_layer", noted)
    config.write_text("[annealing]\nworsening = 0.5\n[shares]\neven = 0.4\n[latency]\nhot = 1e-3\n")
    assert "seen" in fault(solve(traces, "--config", config)[1])
    usual, options = SolveOptions(), seen[0]
    assert options.annealing == replace(usual.annealing, worsening=0.5)
    assert options.shares == replace(usual.shares, even=0.4)
    assert options.latency == replace(usual.latency, hot=1e-3)
    assert (options.tabu, options.descent) == (usual.tabu, usual.descent)


def test_an_error_about_a_field_names_the_option_that_the_user_knows(traces: Path) -> None:
    assert fault(solve(traces, "--shared-replicas", 2)[1]).startswith("Error: --shared-replicas: ")
    assert fault(run("solve", traces, "--layer", 1, "--mesh", "2by2")).startswith("Error: --mesh: ")


def test_fields_with_other_names_than_their_options_are_translated() -> None:
    solving = next(command for command in COMMANDS if command.name == "solve")
    flags = {max(param.opts, key=len) for param in solving.params}
    assert set(OPTION_OF_FIELD.values()) <= flags
    assert {option_of(field, solving.params) for field in OPTION_OF_FIELD} <= flags
    assert option_of("nothing", solving.params) is None
    assert option_of(None, solving.params) is None
