"""Which mesh columns replicas are in, their rows given: experts that tokens choose together in different columns.

Column c is a ring of devices, so with rows and columns every replica has its device. Finding the columns is a min
k-partition, whose linearised relaxation is near nothing. Small cases are solved by CP-SAT; in large ones the bound is
spectral (Donath and Hoffman 1973, with the rows projected out), and columns come from exchanges within rows, from
starts that assign row by row (an assignment problem each) and from a partition by Mt-KaHyPar where that is installed.
At home size (384 replicas, 8 columns) a random assignment has weight 2304, exchanges reach 1728 without the partition
and 1721 with it, and the bound is 1500: a gap of 13 %, in 3 s if no other process wants the cores.
"""

from dataclasses import dataclass, replace

import numpy as np
from ortools.sat.python import cp_model
from scipy.linalg import eigh, null_space
from scipy.optimize import linear_sum_assignment

from formulations.kit.arrays import Floats, Ints
from formulations.kit.clock import Clock
from formulations.kit.outcome import Outcome, SolveStatus
from formulations.kit.solver import Limits, run, solver_for
from formulations.rows.partition import spread_apart

PROVEN = 1e-6  # relative gap from which on `Outcome` takes a value for optimal
LARGEST_MODEL = 4000  # pairs of replicas times columns; with more, CP-SAT proves next to nothing
LARGEST_TOTAL = 1 << 45  # of the whole weights for CP-SAT; they are rounded down, which keeps its bound valid
EXCHANGE_SHARE = 0.5  # of the time, at most, for exchanges before the bound
STARTS = 20  # of exchanges, time permitting
STEPS = 100  # of the subgradient that shifts the spectrum's diagonal


@dataclass(frozen=True, eq=False)
class Columns:
    """expert, row `[replica]`; together `[expert, expert]` how often a token chooses both, symmetric, >= 0.

    traffic `[replica]`, whole numbers, and most_traffic: what the replicas of one column, a ring, may have in all.
    """

    expert: Ints
    row: Ints
    together: Ints | Floats
    columns: int
    slots_per_device: int
    traffic: Ints | None = None
    most_traffic: float = np.inf

    def weight(self) -> Floats:
        """How often two replicas serve the same token, `[replica, replica]`: pairs shared out over replicas evenly."""
        share = 1 / np.bincount(self.expert)[self.expert]
        weight = self.together[np.ix_(self.expert, self.expert)] * share * share[:, None]
        return np.where(self.expert == self.expert[:, None], 0.0, weight)

    def apart(self) -> Floats:
        """1.0 for two replicas of one expert in one row, which are to be on different devices, `[replica, replica]`."""
        same = (self.expert == self.expert[:, None]) & (self.row == self.row[:, None])
        return np.where(np.eye(len(same)) > 0, 0.0, same)

    def met(self, column: Ints) -> float:
        """The objective for column `[replica]`: weight of the pairs of replicas in one column."""
        return float((self.weight() * (column == column[:, None])).sum() / 2)

    def excess(self, column: Ints) -> float:
        """Traffic beyond what columns may have, summed over columns."""
        if self.traffic is None:
            return 0.0
        traffic = np.bincount(column, self.traffic, self.columns)
        return float(np.maximum(traffic - self.most_traffic, 0.0).sum())

    def violations(self, column: Ints) -> list[str]:
        """What is wrong with column `[replica]`, in words; empty if nothing is."""
        device, number = np.unique(self.row * self.columns + column, return_counts=True)
        full = device[number > self.slots_per_device]
        found = [f"device {d // self.columns}, {d % self.columns} is over-full" for d in full]
        twice = self.expert[(self.apart() * (column == column[:, None])).any(axis=1)]
        found += [f"expert {e} is on a device twice" for e in np.unique(twice)]
        return found + (["a column has too much traffic"] if self.excess(column) > 0 else [])


def assign_columns(case: Columns, hint: Ints | None, limits: Limits) -> Outcome[Ints]:
    """Minimise the weight of pairs in one column; columns `[replica]`.

    hint: columns to start from. The bound holds for all columns with these rows. `UNKNOWN` where exchanges leave a
    violation, most likely of a tight traffic limit, and the case is too large to be solved.
    """
    clock = limits.clock()
    if np.bincount(case.row).max() > case.columns * case.slots_per_device:
        return Outcome(None, None, np.inf, SolveStatus.INFEASIBLE, clock.elapsed())
    best = _exchanged(case, hint, limits.seed, clock.part(EXCHANGE_SHARE))
    bound = max(spectral_bound(case, clock), 0.0)
    if len(case.row) ** 2 / 2 * case.columns <= LARGEST_MODEL:
        return _solve(case, best, bound, replace(limits, seconds=clock.left()))
    if best is None:
        return Outcome(None, None, bound, SolveStatus.UNKNOWN, clock.elapsed())
    return _outcome(case, best, bound, clock.elapsed())


def spectral_bound(case: Columns, clock: Clock) -> float:
    """A bound to the weight within columns, if every row fills its devices; else with empty slots as replicas.

    With x the incidence `[replica, column]`, k columns of m each and equal shares of every row in each column, x is
    1 / k plus z with columns orthogonal to all rows' indicators, and z' z has the eigenvalues 0 and k - 1 times m. So
    the weight within is at least total / k + m / 2 * (sum of the k - 1 least eigenvalues of the weight, projected off
    the indicators). A diagonal adds half its sum to the weight within, whatever x, but not to the bound, so
    subgradient steps look for a good one. Returns the best of at most STEPS, one at least.
    """
    weight, row = _with_empty_slots(case, case.weight())
    total, size, rest = weight.sum() / 2, len(row) / case.columns, 1 - 1 / case.columns
    basis = null_space((row == np.arange(row.max() + 1)[:, None]).astype(np.float64))
    diagonal, best, step = np.zeros(len(row)), -np.inf, weight.sum(axis=1).mean() / 4
    for number in range(STEPS if case.columns > 1 else 0):
        shifted = basis.T @ (weight + np.diag(diagonal)) @ basis
        value, vector = eigh(shifted, subset_by_index=(0, case.columns - 2))
        bound = total / case.columns + size / 2 * value.sum() - rest / 2 * diagonal.sum()
        best = max(best, float(bound))
        if clock.over():
            break
        slope = size / 2 * ((basis @ vector) ** 2).sum(axis=1) - rest / 2
        diagonal += step / (1 + number) ** 0.5 * slope / max(float(np.abs(slope).max()), 1e-12)
    return best if case.columns > 1 else total


def _with_empty_slots(case: Columns, weight: Floats) -> tuple[Floats, Ints]:
    """Weight `[item, item]` and row `[item]`, the items being the replicas and a weightless one for each empty slot."""
    rows, room = int(case.row.max()) + 1, case.columns * case.slots_per_device
    empty = np.repeat(np.arange(rows), room - np.bincount(case.row, minlength=rows))
    return np.pad(weight, (0, len(empty))), np.concatenate([case.row, empty])


def _exchanged(case: Columns, hint: Ints | None, seed: int, clock: Clock) -> Ints | None:
    """The best columns without violations that exchanges reach from the hint, the partition and random orders."""
    rng, swaps = np.random.default_rng(seed), _Exchanges.of(case)
    starts = [labels for labels in (hint, spread_apart(case.weight(), case.columns, seed)) if labels is not None]
    found: list[Ints] = [] if hint is None else [hint]
    for number in range(STARTS):
        if number and clock.over():
            break
        labels = starts[number] if number < len(starts) else None
        column = swaps.to_rest(swaps.start(labels, rng), clock)
        found.append(column[: len(case.row)])
    return min((column for column in found if not case.violations(column)), key=case.met, default=None)


@dataclass(frozen=True, eq=False)
class _Exchanges:
    """Exchanges of two items of a row; weight `[item, item]` with `large` for replicas to be kept apart, row and
    traffic `[item]`."""

    case: Columns
    weight: Floats
    row: Ints
    traffic: Floats
    large: float

    @classmethod
    def of(cls, case: Columns) -> "_Exchanges":
        plain = case.weight()
        large = float(plain.sum()) + 1
        weight, row = _with_empty_slots(case, plain + large * case.apart())
        traffic = np.zeros(len(row))
        traffic[: len(case.row)] = 0 if case.traffic is None else case.traffic
        return cls(case, weight, row, traffic, large)

    def start(self, labels: Ints | None, rng: np.random.Generator) -> Ints:
        """Columns `[item]`: those of labels `[replica]` as far as rows allow; without, row by row, in random order,
        the ones with least weight to the rows before."""
        column = np.full(len(self.row), -1, dtype=np.int64)
        wanted = np.full(len(self.row), -1)
        wanted[: 0 if labels is None else len(labels)] = () if labels is None else labels
        for row in rng.permutation(self.row.max() + 1):
            items = np.flatnonzero(self.row == row)
            cost = self.weight[items] @ (column[:, None] == np.arange(self.case.columns))
            if labels is not None:
                cost = -(wanted[items, None] == np.arange(self.case.columns)).astype(np.float64)
            place, slot = linear_sum_assignment(np.repeat(cost, self.case.slots_per_device, axis=1))
            column[items[place]] = slot // self.case.slots_per_device
        return column

    def to_rest(self, column: Ints, clock: Clock) -> Ints:
        """The best exchange of each row in turn, until no row has one that helps, or time is up."""
        rows, idle, row = int(self.row.max()) + 1, 0, 0
        while idle < rows and not clock.over():
            items = np.flatnonzero(self.row == row)
            delta = self._deltas(items, column)
            one, two = np.unravel_index(delta.argmin(), delta.shape)
            if delta[one, two] < -1e-9 * self.large:
                column[items[[one, two]]] = column[items[[two, one]]]
                idle = 0
            else:
                row, idle = (row + 1) % rows, idle + 1
        return column

    def _deltas(self, items: Ints, column: Ints) -> Floats:
        """Change of weight within columns, and of large times the excess, by each exchange of two items of a row."""
        here = column[items]
        near = self.weight[items] @ (column[:, None] == np.arange(self.case.columns))
        moved = near[:, here] - np.diag(near[:, here])[:, None]
        delta = np.where(here == here[:, None], 0.0, moved + moved.T - 2 * self.weight[np.ix_(items, items)])
        total: Floats = np.bincount(column, self.traffic, self.case.columns).astype(np.float64)[here][:, None]
        more: Floats = self.traffic[items] - self.traffic[items][:, None]
        over: Floats = np.asarray(self._over(total + more) - self._over(total))
        return delta + self.large * np.where(here == here[:, None], 0.0, over + over.T)

    def _over(self, traffic: Floats) -> Floats:
        over: Floats = np.maximum(traffic - self.case.most_traffic, 0.0)
        return over


Bools = list[list[cp_model.IntVar]]
Pairs = dict[tuple[int, int], cp_model.IntVar]


def _solve(case: Columns, hint: Ints | None, bound: float, limits: Limits) -> Outcome[Ints]:
    """By CP-SAT, from a hint without violations; bound: one known."""
    model, weight = cp_model.CpModel(), case.weight()
    on, same = _variables(model, case, weight)
    _one_column_each(model, on)
    _slots_suffice(model, case, on)
    _replicas_apart(model, case, on)
    _rings_carry(model, case, on)
    _same_where_both(model, on, same)
    scale = LARGEST_TOTAL / max(float(weight.sum()), 1e-12)
    model.minimize(sum(int(weight[pair] * scale) * variable for pair, variable in same.items()))
    model.add(on[0][0] == 1)  # columns are alike
    if hint is not None:
        _hint(model, on, same, hint)
    solver = solver_for(limits)
    status = run(solver, model, limits)
    return _extract(case, solver, status, on, max(bound, solver.best_objective_bound / scale))


def _variables(model: cp_model.CpModel, case: Columns, weight: Floats) -> tuple[Bools, Pairs]:
    """on[replica][column]; same[replica, replica]: both in one column, for pairs that have a weight."""
    on = [[model.new_bool_var(f"on_{i}_{c}") for c in range(case.columns)] for i in range(len(case.row))]
    pairs = np.argwhere(np.triu(weight) > 0).tolist()
    return on, {(i, j): model.new_bool_var(f"same_{i}_{j}") for i, j in pairs}


def _one_column_each(model: cp_model.CpModel, on: Bools) -> None:
    for row in on:
        model.add_exactly_one(row)


def _slots_suffice(model: cp_model.CpModel, case: Columns, on: Bools) -> None:
    for row in np.unique(case.row):
        for column in range(case.columns):
            here = [on[i][column] for i in np.flatnonzero(case.row == row)]
            model.add(sum(here) <= case.slots_per_device)


def _replicas_apart(model: cp_model.CpModel, case: Columns, on: Bools) -> None:
    for i, j in np.argwhere(np.triu(case.apart()) > 0).tolist():
        for one, two in zip(on[i], on[j], strict=True):
            model.add_at_most_one([one, two])


def _rings_carry(model: cp_model.CpModel, case: Columns, on: Bools) -> None:
    if case.traffic is None or not np.isfinite(case.most_traffic):
        return
    for column in range(case.columns):
        carried = [int(traffic) * row[column] for traffic, row in zip(case.traffic, on, strict=True)]
        model.add(sum(carried) <= int(case.most_traffic))


def _same_where_both(model: cp_model.CpModel, on: Bools, same: Pairs) -> None:
    """The products on * on, linearised from below, which suffices as weights are not negative."""
    for (i, j), variable in same.items():
        for one, two in zip(on[i], on[j], strict=True):
            model.add_bool_or([variable, one.negated(), two.negated()])


def _hint(model: cp_model.CpModel, on: Bools, same: Pairs, hint: Ints) -> None:
    """A value for every variable; columns renumbered so that the first replica is in the first."""
    column = np.where(hint == hint[0], 0, np.where(hint == 0, hint[0], hint))
    for row, chosen in zip(on, column, strict=True):
        for number, variable in enumerate(row):
            model.add_hint(variable, int(number == chosen))
    for (i, j), variable in same.items():
        model.add_hint(variable, int(column[i] == column[j]))


def _extract(case: Columns, solver: cp_model.CpSolver, status: SolveStatus, on: Bools, bound: float) -> Outcome[Ints]:
    if status not in (SolveStatus.OPTIMAL, SolveStatus.FEASIBLE):
        return Outcome(None, None, bound, status, solver.wall_time)
    column = np.array([[solver.boolean_value(variable) for variable in row] for row in on]).argmax(axis=1)
    return _outcome(case, column, bound, solver.wall_time)


def _outcome(case: Columns, column: Ints, bound: float, runtime: float) -> Outcome[Ints]:
    met = case.met(column)
    status = SolveStatus.OPTIMAL if met - bound <= PROVEN * met else SolveStatus.FEASIBLE
    return Outcome(column, met, min(bound, met), status, runtime)
