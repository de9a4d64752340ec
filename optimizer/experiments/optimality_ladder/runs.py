"""Running the benchmark: every method on every instance of every family; each answer is checked and valued anew."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite

from formulations.kit.outcome import SolveStatus
from formulations.kit.solver import Limits
from optimizer.domain.placement import Placement
from optimizer.domain.problem import Problem
from optimizer.experiments.optimality_ladder.families import FAMILIES
from optimizer.experiments.optimality_ladder.ladder import LadderInstance, tiny
from optimizer.experiments.optimality_ladder.ladder_row import LadderJournal, LadderRow, LadderRun
from optimizer.experiments.optimality_ladder.token_methods import TOKEN_METHODS, TokenMethod
from optimizer.experiments.program_version import program_version
from optimizer.planning.options import Effort, Progress
from optimizer.search.stop import Deadline
from optimizer.streams import Purpose, derived_seed

FORMULATION = "formulation"  # the name of the exact method, beside the names of the heuristics
COMPILATION_SECONDS, COMPILATION_MOVES = 60.0, 1000  # allowed for a tiny instance; generous, not tuned
LOOK_SECONDS = 2.0  # for a method by tokens to run through all that it compiles; not tuned
ROUNDING = 1e-6  # relative tolerance, as the bounds of solvers are floats


class WrongAnswerError(Exception):
    """A placement breaks a rule, or is better than what was proven to be best, so the program has a fault."""


@dataclass(frozen=True, eq=False)
class LadderCase:
    """One instance, to be solved for the objective of one family.

    seed: that of the methods; limit: the seconds that each method may take; moves: those that a search may evaluate,
    None for the method's own number.
    """

    family: str
    instance: LadderInstance
    seed: int
    limit: float
    moves: int | None = None

    @cached_property
    def problem(self) -> Problem:
        """The problem that the family makes of the instance."""
        return FAMILIES[self.family].view(self.instance.problem)

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of all methods. The formulation comes first, as its bound is the one for all others."""
        return (FORMULATION, *FAMILIES[self.family].methods, *self.token_methods)

    @property
    def token_methods(self) -> dict[str, TokenMethod]:
        """The methods that look at tokens, by name; none where the instance has none."""
        return {} if self.instance.batches is None else TOKEN_METHODS.get(self.family, {})

    def ran(self, method: str) -> LadderRun:
        """What is run when a method is applied to the case."""
        instance = self.instance
        return (self.family, instance.size, instance.name, instance.digest, method, self.seed, self.limit)

    def run(self, method: str, bound: float | None) -> LadderRow:
        """Run a method; the formulation finds the bound, and heuristics are given it. Raises WrongAnswerError."""
        started = time.monotonic()
        if method == FORMULATION:
            found = FAMILIES[self.family].optimum(
                self.problem, Limits(self.limit, seed=derived_seed(Purpose.LADDER_OPTIMUM, self.seed))
            )
            placement = None if found.value is None else Placement(found.value)
            bound = found.lower_bound if isfinite(found.lower_bound) else None
        else:
            effort = Effort(Deadline(self.limit), self.seed, self.moves)
            placement = self._placed(method, effort)
        seconds = time.monotonic() - started
        value = None if placement is None else self._valued(placement, method, bound)
        return self._row(method, value, bound, seconds)

    def _placed(self, method: str, effort: Effort) -> Placement:
        """The placement that a heuristic finds."""
        batches, by_tokens = self.instance.batches, self.token_methods
        if batches is not None and method in by_tokens:
            return by_tokens[method](self.problem, batches, effort)
        return FAMILIES[self.family].methods[method](self.problem, effort)

    def _valued(self, placement: Placement, method: str, bound: float | None) -> float:
        """The value of a placement, from the placement alone. Raises WrongAnswerError where it cannot be right."""
        mesh, experts = self.problem.mesh, self.problem.model.experts
        where = f"{method} on {self.instance.name}, {self.instance.size}, {self.family}"
        if faults := placement.violations(experts, mesh.devices, mesh.slots_per_device):
            raise WrongAnswerError(f"{where}: {'; '.join(faults)}")
        value = float(FAMILIES[self.family].value(self.problem, placement))
        if bound is not None and value < bound * (1 - ROUNDING):
            raise WrongAnswerError(f"{where}: value {value} is below the bound {bound}, so one of them is wrong")
        return value

    def _row(self, method: str, value: float | None, bound: float | None, seconds: float) -> LadderRow:
        proven = value is not None and bound is not None and value <= bound * (1 + ROUNDING)
        found = SolveStatus.OPTIMAL if proven else SolveStatus.UNKNOWN if value is None else SolveStatus.FEASIBLE
        gap = max(value / bound - 1, 0.0) if value is not None and bound else None
        family, size, name, digest, _, seed, limit = self.ran(method)
        return LadderRow(
            version=program_version(),
            family=family,
            size=size,
            instance=name,
            digest=digest,
            method=method,
            seed=seed,
            limit=limit,
            value=value,
            bound=bound,
            status=found,
            gap=gap,
            seconds=seconds,
        )


def run_all(
    families: Sequence[str],
    instances: Sequence[LadderInstance],
    seed: int,
    limit: float,
    journal: LadderJournal,
    notify: Progress,
) -> list[LadderRow]:
    """The rows of all runs. Runs that the journal has are not made again; the others are added to it as they end.

    Raises WrongAnswerError at the first answer that cannot be right.
    """
    cases = list(_cases(families, instances, seed, limit))
    if any(journal.row(case.ran(method)) is None for case in cases for method in case.methods):
        _compile(families, notify)
        _compile_by_tokens(cases, notify)
    return [row for number, case in enumerate(cases) for row in _rows(case, journal, number / len(cases), notify)]


def _cases(
    families: Sequence[str], instances: Sequence[LadderInstance], seed: int, limit: float
) -> Iterator[LadderCase]:
    for family in families:
        for instance in instances:
            if not (instance.counted and FAMILIES[family].needs_tokens):
                yield LadderCase(family, instance, seed, limit)


def _compile(families: Sequence[str], notify: Progress) -> None:
    """Run every method once on tiny instances, so that no run spends its time on compiling."""
    for case in _cases(families, tiny(), 0, COMPILATION_SECONDS):
        for method in case.methods:
            notify(f"compiling {case.family} {method}", 0.0)
            replace(case, moves=COMPILATION_MOVES).run(method, None)


def _compile_by_tokens(cases: Sequence[LadderCase], notify: Progress) -> None:
    """Run the methods that look at tokens for a moment on the first, which is the smallest, case that has any."""
    for case in [case for case in cases if case.token_methods][:1]:
        for method in case.token_methods:
            notify(f"compiling {case.family} {method}", 0.0)
            replace(case, limit=LOOK_SECONDS).run(method, None)


def _rows(case: LadderCase, journal: LadderJournal, share: float, notify: Progress) -> Iterator[LadderRow]:
    """The rows of all methods on one case; share: the share of the benchmark that is done."""
    bound = None
    for method in case.methods:
        notify(f"{case.family} {case.instance.size} {method}", share)
        row = journal.row(case.ran(method))
        if row is None:
            row = case.run(method, bound)
            journal.put([row])
        bound = row.bound
        yield row
