"""The commands of the README and of the documents run on a small model, and what they print fits on a terminal.

`tests/exchange/test_deploying_document.py` runs those of the page on deploying.
"""

import json
import shutil
from pathlib import Path

import pytest
from document_text import ROOT, shell_lines
from running_commands import run
from small_model import write_corpus
from timed_rows import cost_us, write_rows

from optimizer.domain.calibration.sheet import sheet_rows
from optimizer.domain.cost import Cost
from optimizer.domain.presets import load_hardware
from optimizer.report.rendering import WIDTH

pytestmark = pytest.mark.usefixtures("few_batches")

PAGES = ("README.md", *(f"docs/{name}.md" for name in
                        ("advising", "calibrating", "command-line", "models", "report", "servers")))  # fmt: skip
COMMANDS = {
    " ".join(words[1:]): words[1:]
    for page in PAGES
    for words in shell_lines((ROOT / page).read_text())
    if words[0] == "moeplan"
}
"""The words of each command, once where several pages have it."""

LEFT_OUT = ("--ep-size", "--redundant-experts", "--gpus-per-node", "--deployment", "--model", "--png", "--svg")
"""Options with a value that are left out: ranks that the small model's experts do not fill, other models than the small
one, and pictures that need a browser."""

SMALL, FEW = ("--mesh", "2x2", "--slots", "3"), ("--iterations", "100", "--time-limit", "20", "--batch-tokens", "24")
LAYER = ("--layer", "1")
SMALLER: dict[str, tuple[str, ...]] = {
    "stats": LAYER,
    "advise": (*SMALL, *FEW, *LAYER, "--shared-experts", "0", "--hardware", "h800"),
    "solve": (*SMALL, *FEW),
    "rebalance": (*FEW, "--max-moves", "2"),
    "watch": (*FEW, *LAYER, "--max-moves", "2", "--once"),
    "simulate": (),
    "report": ("--batch-count", "8", "--routing", "even-source"),
    "slots": (*SMALL, "--batch-tokens", "24"),
    "bound": (*SMALL, *LAYER, "--batch-tokens", "24"),
    "compare": (*SMALL, *FEW, *LAYER),
    "experiment": (*SMALL, *FEW, *LAYER),
    "export": ("--hidden-layers", "3", "--first-moe-layer", "0", "--fill", "identity"),
    "validate": (),
    "convert": (),
    "calibrate": (),
}
"""What is appended to each command, so that it is for the small model: the last of two values counts."""


def smaller(words: list[str]) -> list[str]:
    """A command as it runs here: without what is left out, and for the layers and slots of the small model."""
    kept = [word for before, word in zip(["", *words], words, strict=False) if not {before, word} & {*LEFT_OUT}]
    given = {"12": "1", "1856": "4", "law=DIR": "law=LAW"}  # a request may be in one data set alone
    given |= {"timings.csv": "sheet.csv"} if "--sheet" in words else {}  # with times it would not be written over
    return [given.get(word, word) for word in kept]


@pytest.fixture
def folder(traces: Path, plan: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the documents' reader is: with traces under all names, a plan and a server's file."""
    monkeypatch.chdir(traces.parent)
    for name in ("TRACES", "RESPONSES", "DIR"):
        shutil.copytree(traces, name)
    for seed, name in enumerate(("LAW", "traces/code", "traces/chat")):
        write_corpus(Path(name), seed)
    Path("map.json").write_text(plan.read_text())
    point = {"budget": 2, "moves": 2, "gain": {"mean": 0.03, "low": 0.02, "high": 0.04}}
    Path("moves.json").write_text(
        json.dumps({"measure": "latency_us", "routing": "even-source", "asked": point, "curve": [point]})
    )
    Path("expert_location.json").write_text(f'{{"physical_to_logical_map": {[[*range(8), 0, 1, 2, 3]] * 3}}}')
    cost = Cost("h100", load_hardware("h100"))
    write_rows(Path("timings.csv"), [(row, cost_us(cost, row)) for row, _ in sheet_rows(cost.preset)])
    shutil.copy(ROOT / "optimizer" / "domain" / "presets" / "hardware" / "h100.toml", "mine.toml")
    return traces.parent


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_every_command_runs(words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    result = run(*smaller(words), *SMALLER[words[0]])
    assert result.exit_code == 0, f"{words}\n{result.output}"
    if words[0] != "watch":  # which prints a line of JSON for each decision
        assert [line for line in result.stdout.splitlines() if len(line) > WIDTH] == []


def test_what_else_prints_tables_fits_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands that no page shows by an example that runs, or shows without all of their tables."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    for command in (
        *(("presets", kind) for kind in ("models", "hardware", "servers", "deployments")),
        ("bound", "TRACES", *SMALLER["bound"], "--plan", "plan.json"),
        ("sweep", "plan.json", "TRACES", "--capacity-factor", "1:2:0.5"),
        ("benchmark", "TRACES", "--sizes", "1x8", "--family", "replication", "--time-limit", "0.5"),
        ("experiment", "TRACES", *SMALLER["experiment"]),
    ):
        result = run(*command)
        assert result.exit_code == 0, result.output
        assert [line for line in result.stdout.splitlines() if len(line) > WIDTH] == [], command
