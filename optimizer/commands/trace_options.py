"""The options that say which recorded routing is read, how, and how batches are made of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import click

from optimizer.commands.declare import Argument, Option
from optimizer.commands.failures import BadInput
from optimizer.commands.options import NOT_NEGATIVE, POSITIVE

if TYPE_CHECKING:
    from optimizer.traces.mending import Mending
    from optimizer.traces.source import TraceInput


FirstLayer = Annotated[
    int | None,
    Option(
        ("--first-moe-layer",),
        "Model layer of the first entry of the traces' layer axis, where neither zero layers nor the model tell.",
        NOT_NEGATIVE,
    ),
]
BatchTokens = Annotated[
    int | None,
    Option(
        ("--batch-tokens",),
        "Tokens in a batch, which are the users of a decode step; by default 512, or the plan's.",
        POSITIVE,
        essential=True,
    ),
]
Phase = Annotated[
    str | None,
    Option(("--phase",), "What batches are made of; by default decode, or the plan's.", metavar="decode|prefill|mixed"),
]


@dataclass(frozen=True)
class TraceOptions:
    """The options that say which recorded routing is read, and how."""

    SECTION: ClassVar[str] = "Traces"
    traces: Annotated[tuple[str, ...], Argument("[TRACES]...", many=True)] = ()
    batches: Annotated[
        Path | None,
        Option(
            ("--batches",),
            "An .npz with experts [batch, token, top_k], consecutive batches of one layer, and, if wanted, "
            "source_row [batch, token] and source [batch, token] (rank or row), instead of TRACES.",
        ),
    ] = None
    format: Annotated[
        str | None,
        Option(
            ("--format",),
            "The traces' format, for instance vllm, instead of what their content shows.",
            metavar="NAME",
        ),
    ] = None
    first_moe_layer: FirstLayer = None
    batch_tokens: BatchTokens = None
    scale: Annotated[
        float | None,
        Option(
            ("--scale",),
            "What to multiply counts by that are no whole numbers, such as shares; they are then rounded.",
            click.FloatRange(min=0, min_open=True),
            "S",
        ),
    ] = None
    drop_repeats: Annotated[
        bool,
        Option(
            ("--drop-repeats",),
            "Of more than 64 equal tokens in a row, which a warm-up run leaves, keep the first.",
        ),
    ] = False
    no_op_experts: Annotated[
        int | None,
        Option(
            ("--no-op-experts",),
            "Expert ids from this one on do nothing: leave them out, and plan on counts of the others.",
            POSITIVE,
            metavar="FROM",
        ),
    ] = None
    placement: Annotated[
        Path | None,
        Option(
            ("--placement",),
            "The plan or server's placement file that was in force, where traces hold physical ids (slots).",
            metavar="FILE",
        ),
    ] = None
    strict: Annotated[
        bool, Option(("--strict",), "Refuse bad requests instead of skipping them, and whatever looks wrong.")
    ] = False

    def mending(self) -> "Mending":
        """What is left out of traces or translated while they are read. Raises InputError for a file that holds no
        placement."""
        from optimizer.planning.physical_map import read_physical_map
        from optimizer.traces.mending import Mending

        placement = None if self.placement is None else read_physical_map(self.placement, self.first_moe_layer)
        return Mending(self.drop_repeats, placement, self.no_op_experts)


@dataclass(frozen=True)
class BatchOptions:
    """The options that say how batches are made of requests, and where layers that were read are kept."""

    SECTION: ClassVar[str] = "Traces"
    row_users: Annotated[
        str | None,
        Option(("--row-users",), "Tokens of a batch from each mesh row, where rows differ.", metavar="N,N,..."),
    ] = None
    phase: Phase = None
    cache: Annotated[
        Path | None,
        Option(
            ("--cache",),
            "Keep the layers that were read in this folder, so that the next run need not read the traces again.",
            metavar="DIR",
        ),
    ] = None


def trace_input(traces: TraceOptions, batches: BatchOptions | None = None, seed: int | None = None) -> "TraceInput":
    """The traces that the options name, for one data set, as the program's own type. Raises BadInput where both TRACES
    and a batch file are named, and where several phases are named."""
    from optimizer.commands.arguments import format_named, row_users
    from optimizer.traces.datasets import phases_of
    from optimizer.traces.source import TraceInput

    if traces.traces and traces.batches:
        raise BadInput("TRACES and --batches exclude each other; give one of them")
    how = batches or BatchOptions()
    if len(phases_of(how.phase)) > 1:
        raise BadInput(f"--phase {how.phase} makes several data sets, for which solve alone plans; name one")
    return TraceInput(
        traces=traces.traces,
        format=format_named(traces.format),
        cache=how.cache,
        batches=traces.batches,
        first_moe_layer=traces.first_moe_layer,
        phase=how.phase,
        batch_tokens=traces.batch_tokens,
        row_users=row_users(how.row_users),
        seed=TraceInput.seed if seed is None else seed,
        strict=traces.strict,
        scale=traces.scale,
        mending=traces.mending(),
    )
