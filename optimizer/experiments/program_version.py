"""Which program made a row of results."""

import subprocess
from functools import cache
from pathlib import Path
from shutil import which

from optimizer import __version__


@cache
def program_version() -> str:
    """The version of the program, with the commit after a `+` where the program is run from a git checkout."""
    root = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    if not (root / ".git").exists() or which(command[0]) is None:
        return __version__
    described = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"{__version__}+{described.stdout.strip()}" if described.returncode == 0 else __version__
