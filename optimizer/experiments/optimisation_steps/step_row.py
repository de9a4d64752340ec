"""One placement as judged under one routing policy and one capacity, as a row of the CSV file of the experiments."""

from pathlib import Path

from pydantic import Field, FiniteFloat, NonNegativeFloat, NonNegativeInt, PositiveInt

from optimizer.experiments.journal import Journal, ResultRow

Block = tuple[str, int, str, str, str, int, float, int | None, str]
"""Data set, layer, setting, MoE op, method, seed, limit, moves and digest of a planning."""

Place = tuple[str, float | None]
"""Routing policy and capacity factor under which a plan is judged; None is no capacity."""


class StepRow(ResultRow):
    """One placement under one routing policy and capacity, in the order of the file's columns.

    version is that of this program; setting is `routed` or `all`, see `settings`. limit (seconds), moves and seed are
    those of the planning; digest is that of everything that the figures follow from. batches and tokens are the number
    of test batches and their size.

    On the test batches: imbalance (median and 99th percentile), tiles (mean over batches of the fullest device's),
    latency (mean and percentiles, microseconds). With a capacity also the share of pairs of routed experts that other
    experts serve (rerouted), the share that is served over capacity, and the share of gate weight that is kept.

    On the selection batches, by which rows are chosen: selection_us is the mean latency, selection_rerouted the sum of
    both shares. bound_us and its percentiles are what no placement and routing of this setting goes below, gap is
    latency_us / bound_us - 1; all are None where no bound is known. seconds is what planning took.
    """

    version: str
    dataset: str
    layer: NonNegativeInt
    setting: str
    experts: PositiveInt
    slots: PositiveInt
    moe_op: str
    method: str
    policy: str
    capacity_factor: FiniteFloat | None = Field(gt=0)
    seed: NonNegativeInt
    limit: FiniteFloat = Field(gt=0)
    moves: NonNegativeInt | None
    batches: PositiveInt
    tokens: PositiveInt
    digest: str
    imbalance_p50: FiniteFloat
    imbalance_p99: FiniteFloat
    tiles: FiniteFloat
    latency_us: FiniteFloat
    latency_p50_us: FiniteFloat
    latency_p99_us: FiniteFloat
    rerouted: NonNegativeFloat | None
    over_capacity: NonNegativeFloat | None
    gate_weight_kept: FiniteFloat | None
    selection_us: FiniteFloat
    selection_rerouted: NonNegativeFloat
    bound_us: FiniteFloat | None
    bound_p50_us: FiniteFloat | None
    bound_p99_us: FiniteFloat | None
    gap: FiniteFloat | None
    seconds: NonNegativeFloat

    @property
    def block(self) -> Block:
        """What was planned: all rows of a block judge the same plan."""
        return (self.dataset, self.layer, self.setting, self.moe_op, self.method, self.seed, self.limit, self.moves,
                self.digest)  # fmt: skip

    @property
    def place(self) -> Place:
        """The conditions under which the plan was judged, by which the rows of a block differ."""
        return self.policy, self.capacity_factor


class StepJournal(Journal[StepRow]):
    """The rows of the file that the `csv` parameter names; the rows of a block are the judgements of one plan."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, StepRow, "csv")
