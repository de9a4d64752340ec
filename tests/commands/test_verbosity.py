"""What commands say beside their results: by default, with --quiet and with --verbose, on terminals and elsewhere."""

import io
import json
import logging
import re
from pathlib import Path

import click
import pytest
from placement_files import plan_text
from rich.console import Console
from running_commands import fault, run

from cli import COMMANDS
from optimizer.commands import progress as shown
from optimizer.commands.progress import SURE, Stages, clock
from optimizer.commands.verbosity import LOGGER

pytestmark = pytest.mark.usefixtures("few_batches")


def test_every_command_has_both_options() -> None:
    for command in COMMANDS:
        flags = {flag for param in command.params for flag in param.opts}
        assert {"-q", "--quiet", "-v", "--verbose"} <= flags, command.name


def test_quiet_leaves_notes_out_and_results_as_they_are(traces: Path, plan: Path) -> None:
    asked = ("simulate", plan, traces, "--batch-count", 8)
    usual, quiet = run(*asked), run(*asked, "--quiet")
    assert "Note: 12 requests\n" in usual.stderr
    assert quiet.stderr == ""
    assert quiet.stdout == usual.stdout


def test_quiet_leaves_warnings_and_errors(traces: Path, plan: Path) -> None:
    """No released vLLM reads the file, and whoever deploys it should hear that."""
    own = traces.parent / "own.json"
    own.write_text(plan_text([[0, 1, 2], [3, 4, 5], [6, 7, 0], [1, 2, 3]], routed_experts=8, top_k=2))
    exported = ("export", own, "--to", "vllm", "--hidden-layers", 3, "--first-moe-layer", 0, "--fill", "identity",
                "-o", traces.parent / "map.jsonl")  # fmt: skip
    usual, quiet = run(*exported), run(*exported, "-q")
    assert usual.exit_code == quiet.exit_code == 0, usual.output
    warned = [line for line in usual.stderr.splitlines() if line.startswith("Warning: ")]
    assert quiet.stderr.splitlines() == warned
    assert "Warning: no released vLLM loads this file" in quiet.stderr
    assert "no layer 7" in fault(run("simulate", plan, traces, "--layer", 7, "-q"))


def test_verbose_tells_stages_with_their_times_and_what_batches_are_drawn_from(traces: Path, plan: Path) -> None:
    said = run("simulate", plan, traces, "--batch-count", 8, "--verbose")
    assert "Note: 12 requests" in said.stderr
    timed = [line for line in said.stderr.splitlines() if " s  " in line]
    assert any("reading traces: " in line for line in timed)
    assert any("layer 1: " in line for line in timed)
    searched = run("solve", traces, "--layer", 1, "--mesh", "2x2", "--time-limit", 20, "--iterations", 200,
                   "--batch-tokens", 24, "--routing", "even-source", "-o", traces.parent / "p.json", "-v")  # fmt: skip
    assert "requests for train, selection and test" in searched.stderr
    assert "seeds: " in searched.stderr
    assert "judging: " in searched.stderr


def test_verbose_leaves_json_alone(traces: Path, plan: Path) -> None:
    said = run("simulate", plan, traces, "--batch-count", 8, "-v", "--json")
    assert json.loads(said.stdout)["layers"]["1"]["batches"] == 8


def test_both_together_are_refused_and_nothing_stays_set(plan: Path) -> None:
    before = (LOGGER.level, LOGGER.propagate, list(LOGGER.handlers))
    assert "exclude each other" in fault(run("validate", plan, "--quiet", "--verbose"))
    assert (LOGGER.level, LOGGER.propagate, list(LOGGER.handlers)) == before


def test_what_other_modules_log_is_written_by_its_level() -> None:
    from optimizer.commands.verbosity import spoken

    with spoken(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", told := io.StringIO())
        logging.getLogger("optimizer.search").warning("two\nlines")
        logging.getLogger("optimizer.search").info("a note")
        logging.getLogger("optimizer.search").debug("not asked for")
    assert told.getvalue() == "Warning: two lines\nNote: a note\n"


def test_progress_is_silent_where_nobody_watches(traces: Path, plan: Path) -> None:
    said = run("simulate", plan, traces, "--batch-count", 8).stderr
    assert all(line.startswith("Note: ") for line in said.splitlines())


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_shows_stage_share_and_time_left_in_one_line(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr("rich.console.Console", lambda **_: terminal)
    with click.Context(click.Command("any")), shown.progress(time_limit=3600) as tell:
        tell("annealing, best p99 995.9 us (hint-device), 11.2M moves/s", 0.5)
    assert isinstance(terminal.file, io.StringIO)
    said = terminal.file.getvalue()
    assert "annealing, best p99 995.9 us (hint-device), 11.2M moves/s" in said
    assert ("\u2501" in said) == (width == 120), "a bar where there is room"
    assert re.search(r"50% .*(59:5|1:00:00).* left", said)


def test_the_time_left_of_a_stage_follows_from_its_share() -> None:
    stages = Stages()
    stages.told("reading")
    stages.began -= 10
    assert stages.left(SURE / 2) is None
    assert stages.left(0.25) == pytest.approx(30, abs=0.1)
    stages.told("reading, best so far")
    assert stages.left(0.25) == pytest.approx(30, abs=0.1), "the name ends at the comma, and the stage goes on"
    stages.told("judging")
    assert stages.left(0.25) == pytest.approx(0, abs=0.1)


def test_times_are_short() -> None:
    assert [clock(seconds) for seconds in (-3, 0, 61, 3599.6, 7322)] == ["0:00", "0:00", "1:01", "1:00:00", "2:02:02"]
