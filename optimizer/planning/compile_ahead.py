"""Compiling ahead: while a first run begins, further processes compile the kernels that its later stages call.

A first run spends most of a minute in the compiler, on one core, as numba compiles under one lock. Kernels are kept on
disk, and of all processes one alone compiles each (`formulations.kit.compiling`). So helpers search a little for each
policy, on batches made up at random, and the planning process reads what it would have compiled. They begin with the
last policies, while the planning process is busy with seeds and with the first ones.
"""

import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import numpy as np
from joblib import cpu_count

from formulations.kit import kernels
from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.problem import make_problem
from optimizer.planning.candidates import Candidate
from optimizer.planning.options import SolveOptions, silent
from optimizer.planning.portfolio import Portfolio
from optimizer.search.seeds.greedy import greedy
from optimizer.traces.batches import Batches, Sets, with_shared

LEAST_SECONDS = 30.0
"""The time limit from which on helpers are started: a shorter run is over before they have compiled much."""

WARM = 100
"""Kernels in the folder from which on a run counts as no first one: the first run of a layer leaves some 150 there, and
commands that plan nothing a few dozen."""

BATCHES, TOKENS, MOVES, SECONDS = 4, 64, 400, 120.0
"""How little a helper searches on, as kernels do not depend on sizes, and after how many seconds it stops searching
where nothing has ended it, as its run was killed."""

CODE = "from optimizer.planning.compile_ahead import help_out; help_out()"


@dataclass(frozen=True)
class Little:
    """What a helper searches for: the model, the machine, the options of the run, and the policies in their order."""

    model: Model
    mesh: Mesh
    cost: Cost
    options: SolveOptions

    def parts(self, number: int) -> "list[Little]":
        """The same for so many helpers, each with some of the policies, the last ones first."""
        dealt = [self.options.routings[::-1][first::number] for first in range(number)]
        return [replace(self, options=replace(self.options, routings=policies)) for policies in dealt]

    def search(self) -> None:
        """Judge a placement under each policy, and search from it."""
        rng, model = np.random.default_rng(0), self.model
        ranks = rng.random((3, BATCHES, TOKENS, model.routed_experts)).argsort(axis=3)
        rows = np.sort(rng.integers(0, self.mesh.rows, (BATCHES, TOKENS)), axis=1)
        sets = Sets(*(Batches(with_shared(chosen[..., : model.top_k], model), rows) for chosen in ranks))
        problem = make_problem(model, self.mesh, self.cost, sets.train.load(model.experts), self.options.constraints)
        found = [Candidate("greedy", greedy(problem), 0.0)]
        for policy in self.options.routings:
            options = replace(self.options, routings=(policy,), iterations=MOVES, time_limit=SECONDS)
            Portfolio.of(problem, sets, options).search(found, options.effort(), SECONDS, silent)


@contextmanager
def compiled_ahead(model: Model, mesh: Mesh, cost: Cost, options: SolveOptions) -> Iterator[None]:
    """While the block plans a layer, let helpers compile on the other cores, if that is a first run and its time limit
    is long enough. They are ended with the block."""
    helpers: list[subprocess.Popen[bytes]] = []
    try:
        if options.iterations is None and options.time_limit >= LEAST_SECONDS and is_first_run():
            number = min(cpu_count() - 1, len(options.routings))
            with suppress(OSError):  # too little memory for a process, say; the run compiles by itself
                helpers.extend(map(_started, Little(model, mesh, cost, options).parts(number)))
        yield
    finally:
        for helper in helpers:
            helper.kill()
            helper.wait()


def is_first_run() -> bool:
    """Whether kernels are kept and few of them have been compiled yet."""
    return kernels.FOLDER is not None and sum(1 for _ in kernels.FOLDER.glob("*/*.nbc")) < WARM


def _started(part: Little) -> "subprocess.Popen[bytes]":
    """A process with this part of the work. It is in a session of its own, as Ctrl-C is not for it."""
    helper = subprocess.Popen(
        [sys.executable, "-P", "-c", CODE],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert helper.stdin is not None
    with suppress(BrokenPipeError), helper.stdin:  # it has ended, and does not help
        helper.stdin.write(pickle.dumps(part))
    return helper


def help_out() -> None:
    """Do the work that comes over standard input, as a helper."""
    part: Little = pickle.loads(sys.stdin.buffer.read())
    part.search()
