"""docs/runtime.md: what it shows as running does run, and what it says comes out."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"```python( not-run)?\n(.*?)```", (ROOT / "docs" / "runtime.md").read_text(), re.DOTALL)
RUN, SHOWN = ([code for mark, code in BLOCKS if bool(mark) == shown] for shown in (False, True))


def test_the_loop_on_the_page_runs_as_one_program(tmp_path: Path) -> None:
    """The layer is read back, loads come out nearly level, and pairs are dealt out by the shares."""
    (tmp_path / "page.py").write_text("\n".join(RUN))
    code = f"import sys, runpy; sys.path.insert(0, {str(ROOT)!r}); runpy.run_path('page.py')"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    layers, peak, dealt = found.stdout.splitlines()
    assert layers == "(3,)"
    assert 1 <= float(peak.split(": ")[1]) < 1.5
    numbers = [float(each) for each in re.findall(r"[\d.]+(?=[\s\]])", dealt)]
    assert len(numbers) == 4
    assert numbers[:2] == pytest.approx(numbers[2:], abs=2e-3)


def test_what_is_only_shown_is_marked_and_is_python() -> None:
    """The three servers are not installed here, so no more than their syntax can be checked."""
    assert len(SHOWN) == 3
    assert (ROOT / "docs" / "runtime.md").read_text().count("*Not run here.*") == len(SHOWN)
    for code in SHOWN:
        assert len(code.splitlines()) <= 12
        ast.parse(code)
