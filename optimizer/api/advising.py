"""The function that says whether anything is worth deploying."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimizer.api.traces import Traces, choice_of, opened
from optimizer.domain.hardware import Hardware
from optimizer.domain.model import Model
from optimizer.experiments.advice.advise import AdviceRequest
from optimizer.experiments.advice.advise import advise as look
from optimizer.experiments.advice.study import Advice
from optimizer.interrupts import Cancel
from optimizer.planning.options import Progress, SolveOptions, silent
from optimizer.report import advice as report
from optimizer.report.printable import Printable
from optimizer.report.tables import Part
from optimizer.routing.servers.abilities import ANY, Server
from optimizer.traces.infer import ModelChoice


@dataclass(frozen=True, eq=False)
class Advised(Printable):
    """Advice on one layer; it prints as a page of words and a table, the verdict first.

    advice: what was found. notes: sentences about the traces that a user should read.
    """

    advice: Advice
    notes: tuple[str, ...]

    def parts(self) -> list[Part]:
        """The verdict, what runs now and what its time goes to, and the table of steps."""
        return report.parts(self.advice)

    def as_json(self) -> dict[str, Any]:
        """All figures of all steps as a dictionary in a stable JSON form."""
        return report.as_json(self.advice)


def advise(
    traces: Traces,
    layer: int | None = None,
    model: Model | ModelChoice | str | None = None,
    hardware: Hardware | None = None,
    options: SolveOptions | None = None,
    placement: Path | None = None,
    server: Server = ANY,
    sizes: Sequence[int] = (),
    progress: Progress = silent,
    cancel: Cancel | None = None,
) -> Advised:
    """Say whether anything is worth it, before anything is deployed: what a layer costs now, and what each step gives.

    Parameters
    ----------
    traces, model, hardware, progress, cancel
        See `plan_layer`. Traces must hold tokens of the model's own expert ids.
    layer
        The id of the layer that is looked at; None for the middle one of the traces.
    options
        Time limit in seconds for all steps together, seed, and moves that the search of a step may evaluate; policies
        and constraints do not matter. None for the defaults.
    placement
        The file of the plan, or of the server, that runs now; None for what the server does by itself.
    server
        The server that is to run it, one of `SERVERS`; for any server every policy counts as run.
    sizes
        Further numbers of tokens in a batch, at which the present placement and the advice are judged.

    Returns
    -------
    Advised
        The present placement's cost and its parts, and each step's gain with its interval, the cheapest step first.

    Raises
    ------
    InputError
        For traces that are counts, and for a placement or options that cannot be used.

    Examples
    --------
    >>> import numpy as np
    >>> chosen = np.zeros((40, 32, 1), dtype=int)
    >>> chosen[:, 16:] = np.random.default_rng(0).integers(0, 4, (40, 16, 1))
    >>> wanted = SolveOptions(time_limit=20, iterations=50, jobs=1)
    >>> found = advise(chosen, 0, Model("tiny", 4, 0, 1), Hardware.of(mesh="1x2"), wanted)
    >>> found.as_json()["steps"][0]["step"]
    'placement'
    """
    machine = hardware or Hardware.of()
    asked = AdviceRequest(layer, placement, sizes, server)
    given = opened(traces), asked, choice_of(model), machine.mesh, machine.cost, options or SolveOptions()
    found, notes = look(*given, progress, cancel)
    return Advised(found, tuple(notes))
