"""docs/deploying.md: each command on the page runs, up to the server, on a small model."""

import re
import shlex
from pathlib import Path

import pytest
from running_commands import run

pytestmark = pytest.mark.usefixtures("few_batches")

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "deploying.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n\n```sh\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))

SMALL, MODEL = ("--mesh", "2x2"), ("--model", "deepseek-v3")
FEW = ("--iterations", "100", "--time-limit", "20", "--batch-tokens", "24")
SMALLER = {
    "solve": (*SMALL, "--slots", "3", "--layer", "1", *FEW),
    "export": ("--hidden-layers", "3", "--first-moe-layer", "0", "--fill", "identity"),
    "import": (*SMALL, "--top-k", "2", "--routed-experts", "8", "--first-moe-layer", "0"),
    "validate": SMALL,
    "simulate": ("--layer", "1"),
    "rebalance": ("--layer", "1", *FEW, "--max-moves", "2"),
    "watch": ("--layer", "1", *FEW, "--max-moves", "2", "--once"),
}
"""What is appended to the page's commands, so that they are for the model of the traces: the last of two values counts.
"""


@pytest.mark.parametrize("server", SECTIONS)
def test_every_command_runs_up_to_the_server(
    server: str, traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if server in ("Back from a server", "With few moves", "A plan that follows its traffic"):
        rows = str([[*range(8), 0, 1, 2, 3]] * 3)
        Path("expert_location.json").write_text(f'{{"physical_to_logical_map": {rows}}}')
    for line in SECTIONS[server].strip().splitlines():
        program, command, *arguments = shlex.split(line)
        assert program == "moeplan"
        given = [
            str(traces) if each == "TRACES" else each for each in arguments if each not in ("--model", "deepseek-v3")
        ]
        result = run(command, *given, *SMALLER[command])
        assert result.exit_code == 0, f"{line}\n{result.output}"


def test_each_server_has_five_lines_or_a_few_more() -> None:
    assert len(SECTIONS) == 11
    for section in PAGE.split("\n## ")[1:]:
        assert 4 <= len(re.findall(r"^- ", section, re.MULTILINE)) <= 6
