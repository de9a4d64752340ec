"""Machine code of kernels on disk: it is used again by the next process, and never after what it came from changed."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from formulations.kit import compiling, kernels

CALLEE = "from formulations.kit.kernels import kernel\n\n@kernel\ndef inner(x):\n    return x + {}\n"
CALLER = """
from formulations.callee import inner
from formulations.constants import STEP
from formulations.kit.kernels import kernel

@kernel
def outer(x):
    return inner(x) * STEP
"""
RUN = """
import warnings
warnings.simplefilter("always")
from formulations.caller import outer
print(outer(1), sum(outer.stats.cache_hits.values()))
"""


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    """A package of two files with kernels, of which one calls the other's and uses a constant of a third file."""
    kit = tmp_path / "installation" / "formulations" / "kit"
    kit.mkdir(parents=True)
    (tmp_path / "installation" / "optimizer").mkdir()
    for module in (kernels, compiling):
        shutil.copy(str(module.__file__), kit)
    for folder in (kit, kit.parent):
        (folder / "__init__.py").write_text("")
    (kit.parent / "constants.py").write_text("STEP = 1\n")
    (kit.parent / "callee.py").write_text(CALLEE.format(1))
    (kit.parent / "caller.py").write_text(CALLER)
    return kit.parent.parent


def run(installation: Path, cache: Path, code: str = RUN, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a new process prints that runs the code in the installation, with `cache` as the user's cache folder."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", kernels.TOLD)}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | {"XDG_CACHE_HOME": str(cache), "HOME": str(cache)} | environment,
        cwd=installation,
        capture_output=True,
        text=True,
        check=True,
    )


def folders(parent: Path) -> list[Path]:
    """The folders of machine code in a folder."""
    return sorted(parent.glob("kernels-*"))


@pytest.mark.slow
def test_an_edit_of_a_callee_or_a_constant_changes_what_the_next_process_computes(
    installation: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    assert run(installation, cache).stdout == "2 0\n"
    assert run(installation, cache).stdout == "2 1\n", "the second process uses the machine code of the first"
    (installation / "formulations" / "callee.py").write_text(CALLEE.format(7))
    assert run(installation, cache).stdout == "8 0\n"
    (installation / "formulations" / "constants.py").write_text("STEP = 3\n")
    assert run(installation, cache).stdout == "24 0\n"
    assert len(folders(cache / "moeplan")) == 3
    assert not list(installation.rglob("*.nbi")), "nothing is kept beside the sources"


def test_an_edit_of_a_file_without_kernels_keeps_the_machine_code(installation: Path) -> None:
    before = kernels.kernel_digest(installation)
    (installation / "formulations" / "other.py").write_text("x = 1\n")
    assert kernels.kernel_digest(installation) == before
    (installation / "formulations" / "other.py").write_text("class Pair(NamedTuple): ...\n")
    assert kernels.kernel_digest(installation) != before


def test_a_folder_that_the_user_has_set_for_numba_holds_the_machine_code(installation: Path, tmp_path: Path) -> None:
    run(installation, tmp_path / "cache", NUMBA_CACHE_DIR=str(tmp_path / "own"))
    assert len(folders(tmp_path / "own")) == 1
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_without_a_folder_kernels_run_and_one_process_says_so_once(installation: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    worker = f"import subprocess, sys\n{RUN}\nsubprocess.run([sys.executable, '-c', '''{RUN}'''], check=True)"
    done = run(installation, tmp_path / "file", worker)
    assert sorted(done.stdout.splitlines()) == ["2 0", "2 0"]
    assert done.stderr.count("KernelCacheWarning: compiled kernels cannot be kept on disk") == 1
    assert not list(installation.rglob("*.nbi"))


def test_other_packages_keep_their_setting_of_numba() -> None:
    before = kernels.SETTINGS.CACHE_DIR
    assert kernels.kernel(lambda x: x)(2) == 2
    assert before == kernels.SETTINGS.CACHE_DIR


def test_folders_that_nothing_uses_any_more_are_removed(tmp_path: Path) -> None:
    now = time.time()
    for age in range(kernels.FOLDERS_KEPT + 5):
        (tmp_path / f"kernels-{age}").mkdir()
        os.utime(tmp_path / f"kernels-{age}", (now - age, now - age))
    long_ago = now - (kernels.DAYS_UNUSED + 1) * 24 * 3600
    os.utime(tmp_path / "kernels-3", (long_ago, long_ago))
    (tmp_path / "something else").mkdir()
    kernels._remove_unused(tmp_path)
    kept = {f"kernels-{age}" for age in range(kernels.FOLDERS_KEPT + 1) if age != 3}
    assert {folder.name for folder in tmp_path.iterdir()} == {*kept, "something else"}
