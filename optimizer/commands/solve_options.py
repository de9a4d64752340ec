"""The options that only `solve` has, with one dataclass for each section of its help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import click

from optimizer.commands.declare import Option
from optimizer.commands.options import NOT_NEGATIVE, ReplicaOptions


@dataclass(frozen=True)
class TargetOptions:
    """The options that say which layers are planned, and from what."""

    SECTION: ClassVar[str] = "What to plan"
    layer: Annotated[str, Option(("--layer",), "Model layers to plan.", metavar="N|N-N|N,N|all", essential=True)]
    start: Annotated[
        Path | None,
        Option(
            ("--start",),
            "Start from this plan's placement of the layer, too; it must be for the same model and mesh.",
            metavar="PLAN",
        ),
    ] = None
    synthesise: Annotated[
        bool,
        Option(
            ("--synthesise",),
            "Where TRACES are counts: plan on generated requests that choose experts as often, instead of on expected "
            "load.",
        ),
    ] = False
    fast: Annotated[
        bool,
        Option(
            ("--fast",),
            "Plan on the expected load alone, for even routing: a whole model within a second after its traces are "
            "read.",
        ),
    ] = False


@dataclass(frozen=True)
class LimitOptions:
    """The options that limit a plan besides the number of its replicas."""

    SECTION: ClassVar[str] = "Replicas and limits"
    max_row_traffic: Annotated[
        float | None,
        Option(
            ("--max-row-traffic",),
            "Token-expert pairs per batch that may come to a mesh row from others, mean over selection batches. By "
            "default any number.",
            click.FloatRange(min=0),
            "PAIRS",
        ),
    ] = None
    max_rerouted: Annotated[
        float | None,
        Option(
            ("--max-rerouted",),
            "Share of pairs that may go to another expert of their token, such as 0.01: the least capacity of a "
            "replica that needs no more is chosen with the plan.",
            click.FloatRange(min=0, max=1),
            "SHARE",
        ),
    ] = None


@dataclass(frozen=True)
class PlanLimits:
    """A bundle of all options that limit a plan."""

    replicas: ReplicaOptions
    more: LimitOptions


@dataclass(frozen=True)
class DatasetOptions:
    """The options that say how a plan for several data sets is chosen and shown."""

    SECTION: ClassVar[str] = "Several data sets (TRACES as NAME=PATH, or --phase decode,prefill)"
    robust: Annotated[
        Literal["mean", "worst", "regret", "cvar"],
        Option(
            ("--robust",),
            "What the plan is chosen by over the data sets; regret is against each one's own plan, cvar the mean of "
            "the worst half.",
        ),
    ] = "mean"
    weights: Annotated[
        str | None,
        Option(("--weights",), "Shares of the data sets in their mix; by default equal.", metavar="NAME=N,..."),
    ] = None
    separate: Annotated[
        bool, Option(("--separate",), "Write each data set's own plan, too: plan.json's as plan.NAME.json.")
    ] = False
    matrix: Annotated[Path | None, Option(("--matrix",), "Draw every plan on every data set.", metavar="FILE.html")] = (
        None
    )


@dataclass(frozen=True)
class ManyLayerOptions:
    """The options that say how a run of many layers is shared out over machines and kept on disk."""

    SECTION: ClassVar[str] = "Many layers"
    slot_budget: Annotated[
        int | None,
        Option(
            ("--slot-budget",),
            "Extra replicas of all layers together, shared out where they help most; see slots. For servers whose "
            "layers may differ.",
            NOT_NEGATIVE,
            "N",
        ),
    ] = None
    work: Annotated[
        Path | None,
        Option(
            ("--work",),
            "Keep every finished layer in this folder, so that a run which was killed can be gone on with.",
            metavar="DIR",
        ),
    ] = None
    resume: Annotated[
        bool,
        Option(
            ("--resume",),
            "Go on with the run in --work, which must have been asked for the same; the time that its layers took "
            "counts.",
        ),
    ] = False
    cluster: Annotated[
        str | None,
        Option(
            ("--cluster",),
            "Plan the layers on a dask cluster instead, with a scheduler at this address, such as tcp://host:8786.",
            metavar="ADDRESS",
        ),
    ] = None


@dataclass(frozen=True)
class PlanOutput:
    """The option that says where the plan is written."""

    SECTION: ClassVar[str] = "Output"
    output: Annotated[Path, Option(("-o", "--output"), "Where the plan is written.", essential=True)] = Path(
        "plan.json"
    )
