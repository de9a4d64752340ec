"""One row per run of the experiments, in a CSV file that is resumable whenever it was left."""

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeFloat, NonNegativeInt, PositiveInt

from optimizer.experiments.journal import append, header, lines, parse
from optimizer.files import write_whole

OPTION = "--csv"
Share = FiniteFloat
Block = tuple[str, int, str, str, str, int, float, int | None, str]
Place = tuple[str, float | None]


class StepRow(BaseModel):
    """One placement under one routing policy and capacity, in the order of the file's columns.

    version: of this program; setting: `routed` or `all`, as of `settings`; limit, moves and seed: of the planning;
    batches and tokens: test batches and their size; digest: of all that figures follow from. Of the test batches:
    imbalance, tiles (mean of the fullest device), latency (mean and percentiles, microseconds), and with a capacity the
    share of pairs of routed experts that other experts serve, that are served over capacity, and the gate weight kept.
    selection_us, selection_rerouted: mean latency, and both shares together, on the selection batches, by which rows
    are chosen. bound: what no placement and routing of this setting goes below in mean and percentiles of latency, gap:
    latency_us / bound_us - 1; None where none is known. seconds: that planning took.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

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
        """What was planned: all rows of a block are of one plan."""
        return (self.dataset, self.layer, self.setting, self.moe_op, self.method, self.seed, self.limit, self.moves,
                self.digest)  # fmt: skip

    @property
    def place(self) -> Place:
        """Of a row in its block: under what the plan was judged."""
        return self.policy, self.capacity_factor


class StepJournal:
    """The rows of a file, by block.

    Searches that are ended by the clock do not find the same twice, so rows of a block that is incomplete are not
    mixed with others: the block is made anew. A last line without an end is what a run left that was killed, and is
    cut off. Raises InputError where the file is there and holds anything else.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.blocks = path, dict[Block, list[StepRow]]()
        content = path.read_bytes() if path.exists() else b""
        head = header(StepRow).encode()
        whole = b"" if head.startswith(content) else content[: content.rfind(b"\n") + 1] or content
        for row in parse(path, whole, StepRow, OPTION):
            self.blocks.setdefault(row.block, []).append(row)
        if not whole:
            write_whole(path, head.decode())
        elif len(whole) < len(content):
            os.truncate(path, len(whole))

    def rows(self, block: Block) -> list[StepRow]:
        """Those of a block so far."""
        return self.blocks.get(block, [])

    def put(self, rows: Sequence[StepRow]) -> None:
        """Add all rows of one block, instead of those that there are."""
        known = rows[0].block in self.blocks
        self.blocks[rows[0].block] = list(rows)
        if known:
            kept = (row for of_block in self.blocks.values() for row in of_block)
            write_whole(self.path, header(StepRow) + lines(kept))
        else:
            append(self.path, rows)
