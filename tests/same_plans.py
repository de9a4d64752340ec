"""Six small runs that a change of structure must not change: which plan each of them makes, as one line.

Usage: python tests/same_plans.py [REAL_DATA] > before.txt, the same after the change, then compare the two files.
REAL_DATA is the folder of real routing data; without it the three generated instances run alone. The searches end by
their number of moves, so that the clock decides nothing.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

MOVES = ("--iterations", "3000", "--time-limit", "3600", "--jobs", "1", "--json")
GENERATED = {
    "built-in, 128 tokens": ("--batch-tokens", "128"),
    "built-in, 512 tokens": (),
    "built-in, 2048 tokens": ("--batch-tokens", "2048"),
}
REAL = {
    "DeepSeek-V2-Lite": ("deepseek-v2-lite", "--mesh", "4x8", "--shared-experts", "2", "--first-moe-layer", "1"),
    "GPT-OSS-20B": ("gpt-oss-20b", "--mesh", "4x4"),
    "counts": ("glm-5.2/expert_counts.npz",),
}


def plan_of(arguments: tuple[str, ...], folder: Path) -> str:
    """Policy and a digest of the slots of the plan that `moeplan solve --layer 12` makes with these arguments."""
    file = folder / "plan.json"
    command = [sys.executable, "-m", "cli", "solve", *arguments, "--layer", "12", *MOVES, "-o", str(file)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    plan = json.loads(file.read_text())
    slots = json.dumps({layer: part["slots"] for layer, part in plan["layers"].items()})
    return f"{plan['routing']['policy']} {hashlib.sha256(slots.encode()).hexdigest()[:16]}"


def main() -> None:
    """Print a line for each instance."""
    runs = dict(GENERATED)
    if len(sys.argv) > 1:
        real = Path(sys.argv[1])
        runs |= {name: (str(real / path), *options) for name, (path, *options) in REAL.items()}
    for name, arguments in runs.items():
        with tempfile.TemporaryDirectory() as folder:
            print(f"{name}: {plan_of(arguments, Path(folder))}", flush=True)


if __name__ == "__main__":
    main()
