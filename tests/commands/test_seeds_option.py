"""`--seeds` names the placements that searches begin from, and faults in it are one line that says what there is."""

import json
from pathlib import Path

import pytest
from running_commands import fault, run, solve

from optimizer.planning.options import SEEDS

pytestmark = pytest.mark.usefixtures("few_batches")


def test_named_seeds_are_in_the_table_and_rows_says_how_it_was_made(traces: Path) -> None:
    _, result = solve(traces, "--seeds", "rows, risk", "--routing", "even-source")
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    assert "Seed rows: rows " in shown
    assert "; columns " in shown
    _, as_json = solve(traces, "--seeds", "risk,rows,risk", "--routing", "even-source", "--json")
    methods = [row["method"] for row in json.loads(as_json.stdout)["rows"]]
    assert methods == ["greedy", "risk", "rows", "formulation", "search"]


def test_unknown_seeds_are_named_with_those_that_there_are(traces: Path) -> None:
    _, result = solve(traces, "--seeds", "greedy,luck")
    assert fault(result) == f"Error: --seeds: 'luck' is no seed; there are {', '.join(SEEDS)}"
    assert "'' is no seed" in fault(solve(traces, "--seeds", "")[1])


def test_counts_have_no_tokens_for_seeds_that_look_at_them(tmp_path: Path) -> None:
    counts = tmp_path / "counts.json"
    counts.write_text(json.dumps({"logical_count": [[[9, 7, 5, 3, 2, 2, 1, 1]]] * 6}))
    asked = ("solve", counts, "--layer", 0, "--mesh", "2x2", "--slots", 3, "--top-k", 2, "--iterations", 50)
    said = fault(run(*asked, "--seeds", "rows", "-o", tmp_path / "p.json"))
    assert said.startswith("Error: --seeds: the seed rows needs token traces")


def test_the_help_names_every_seed() -> None:
    shown = run("solve", "--help").stdout
    text = shown[shown.index("--seeds") :]
    assert all(name in text for name in SEEDS)
