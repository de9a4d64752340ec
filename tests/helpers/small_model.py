"""A small whole model, planned by the command line: what tests of broken runs compare with."""

from pathlib import Path

import numpy as np
import pytest
from random_problems import request_experts, write_request

from optimizer.planning.rebalancing import expected
from optimizer.routing import learned_tables
from optimizer.traces import source

LAYERS = 3
ARGUMENTS = ("--layer", "all", "--mesh", "2x2", "--replicas", "64", "--batch-tokens", "24", "--iterations", "300")
"""With 64 replicas, more than all slots hold, none stays empty: few tokens would otherwise leave most so."""

FEW = 64  # batches in a set, so that a run takes a second
AMPLE = ("--time-limit", "100000")  # so that the clock decides nothing, however slow the machine


def write_corpus(folder: Path, seed: int = 7, layers: int = LAYERS) -> Path:
    """Write ten small requests into the folder, and return it."""
    rng = np.random.default_rng(seed)
    for number in range(10):
        write_request(folder / f"r{number}.npz", request_experts(rng, 20, layers, 8, 2))
    return folder


def with_few_batches(patch: pytest.MonkeyPatch) -> None:
    """Let trace sources make few batches, and dispatch tables and formulations of few moves take milliseconds, until
    the patch is undone."""
    patch.setattr(source, "BATCHES_PER_SET", FEW)
    patch.setattr(learned_tables, "ANNEALED", 100_000)
    patch.setattr(expected, "WORK", 0.1)


def solving(traces: Path, plan: Path, *more: object) -> list[str]:
    """The arguments of a run for all layers."""
    return ["solve", str(traces), *ARGUMENTS, *AMPLE, "-o", str(plan), *map(str, more)]
