"""Options of the command line that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class SharedReplicas(click.ParamType[int | str]):
    """A number of replicas, or auto."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """An integer, or the word."""
        if str(value) == "auto":
            return "auto"
        if not str(value).isdecimal():
            self.fail(f"'{value}' is neither a number nor auto", param, ctx)
        return int(value)


def options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, shown in the order given."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


trace_options = options(
    click.argument("traces", nargs=-1),
    click.option("--batches", type=click.Path(path_type=Path), help="An .npz with experts [batch, token, top_k] "
                 "and, if wanted, source_row [batch, token], instead of TRACES."),
    click.option("--format", "format_name", metavar="NAME", help="The traces' format, for instance vllm, instead of "
                 "what their content shows."),
    click.option("--first-moe-layer", type=click.IntRange(min=0), help="Model layer of the first entry of the traces' "
                 "layer axis, where neither zero layers nor the model tell."),
    click.option("--batch-tokens", type=click.IntRange(min=1), help="Tokens in a batch, which are the users of a "
                 "decode step; by default 512, or the plan's."),
    click.option("--strict", is_flag=True, help="Refuse bad requests instead of skipping them."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables."),
)  # fmt: skip

batch_options = options(
    click.option("--row-users", metavar="N,N,...", help="Tokens of a batch from each mesh row, not equally many."),
    click.option("--phase", metavar="decode|prefill|mixed",
                 help="What batches are made of; by default decode, or the plan's."),
    click.option("--cache", type=click.Path(path_type=Path), metavar="DIR",
                 help="Keep the layers that were read here, so that the next run need not read the traces again."),
)  # fmt: skip

problem_options = options(
    click.option("--model", "model_name", help="A model preset; by default what the traces fit, or deepseek-v3."),
    click.option("--mesh", "mesh_text", metavar="RxC", help="Rows x columns of devices; by default the hardware's."),
    click.option("--slots", type=int, help="Expert slots per device; by default the hardware's."),
    click.option("--routed-experts", type=int, help="By default the model's, or as many as the traces show."),
    click.option("--shared-experts", type=int, help="By default the model's, or 0 for an unknown model."),
    click.option("--top-k", type=int, help="Routed experts per token; by default the model's or the traces'."),
    click.option("--hardware", default="tt-wormhole-quad-galaxy", show_default=True,
                 help="A hardware preset, or a TOML file like one."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
                 help="Seed of the built-in trace, the split of requests, the batches and the search."),
)  # fmt: skip

cost_options = options(
    click.option("--unit", type=click.Choice(["tokens", "tiles"]),
                 help="What load-aware policies count; by default the plan's, or what compute is paid by."),
    click.option("--moe-op", type=click.Choice(["optimized", "functional"]), default="optimized", show_default=True,
                 help="The MoE op that packs tokens per expert, or the one that leaves them in their places."),
    click.option("--dispatch-model", type=click.Choice(["link", "table", "node"]),
                 help="By busiest ring edge, by a fitted table, or by GPU ports; by default the hardware's own."),
)  # fmt: skip

replica_options = options(
    click.option("--shared-replicas", type=SharedReplicas(),
                 help="Replicas of each shared expert, spread over the rows; auto treats it like a routed one. "
                 "By default one per row."),
    click.option("--replicas", "extra_replicas", type=click.IntRange(min=0), metavar="N",
                 help="Replicas beyond one of each expert, at most; those of shared experts count only with "
                 "--shared-replicas auto. Slots that are left stay empty. By default as many as fit."),
)  # fmt: skip

run_options = options(
    click.option("--batch-count", type=click.IntRange(min=1), metavar="N",
                 help="Batches to simulate, in bounded memory; by default 1024, or all of a batch file."),
    click.option("--timing", type=click.Choice(["barrier", "overlap"]), default="barrier", show_default=True,
                 help="Dispatch, compute and combine one after another, or each token as soon as it can."),
    click.option("--drop", is_flag=True, help="Drop pairs that find no room, instead of serving them over capacity."),
    click.option("--slow", metavar="DEVICE=FACTOR,...", help="Devices that compute slower, by these factors."),
    click.option("--dead", metavar="DEVICE,...", help="Devices whose replicas are gone."),
)  # fmt: skip

solve_options = options(
    click.option("--layer", "layer_text", required=True, metavar="N|N-N|N,N|all", help="Model layers to plan."),
    click.option("--routing", default="auto", show_default=True,
                 help="Policy that the plan is made for and shipped with, or several to take the fastest of "
                 "(comma-separated); auto: even,nearest,optimal. See simulate --help for all."),
    click.option("--start", type=click.Path(path_type=Path), metavar="PLAN",
                 help="Start from this plan's placement of the layer, too; it must be for the same model and mesh."),
    click.option("--max-row-traffic", type=click.FloatRange(min=0), metavar="PAIRS",
                 help="Token-expert pairs per batch that may come to a mesh row from others, mean over selection "
                 "batches. By default any number."),
    click.option("--max-rerouted", type=click.FloatRange(min=0, max=1), metavar="SHARE",
                 help="Share of pairs that may go to another expert of their token, such as 0.01: the least capacity "
                 "of a replica that needs no more is chosen with the plan."),
    click.option("--synthesise", is_flag=True, help="Where TRACES are counts: plan on generated requests that choose "
                 "experts as often, instead of on expected load."),
    click.option("--fast", is_flag=True, help="Plan on the expected load alone, for even routing: a whole model within "
                 "a second after its traces are read."),
    click.option("--time-limit", type=click.FloatRange(min=1), default=60.0, show_default=True,
                 help="Seconds for the whole command; a limit under 5 s, or 20 s in the first run, which compiles, is "
                 "overrun. What is found in a given time may differ from run to run."),
    click.option("--search", type=click.Choice(["auto", "descent", "tabu", "annealing", "lns"]), default="auto",
                 show_default=True, help="Descent and tabu search split loads evenly, annealing and "
                 "large-neighbourhood search (lns) as is best for a batch; auto: descent, annealing."),
    click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True,
                 help="Layers that are planned at once, each in a process; of one layer, chains of annealing, each in "
                 "a thread."),
    click.option("--robust", type=click.Choice(["mean", "worst", "regret", "cvar"]), default="mean", show_default=True,
                 help="With several data sets (TRACES as NAME=PATH, or --phase decode,prefill): what the plan is "
                 "chosen by over them; regret is against each one's own plan, cvar the mean of the worst half."),
    click.option("--weights", metavar="NAME=N,...", help="Shares of the data sets in their mix; by default equal."),
    click.option("--separate", is_flag=True, help="Write each data set's own plan, too: plan.json's as "
                 "plan.NAME.json."),
    click.option("--matrix", type=click.Path(path_type=Path), metavar="FILE.html",
                 help="Draw every plan on every data set."),
    click.option("--slot-budget", type=click.IntRange(min=0), metavar="N",
                 help="Extra replicas of all layers together, shared out where they help most; see slots. For servers "
                 "whose layers may differ."),
    click.option("--work", type=click.Path(path_type=Path), metavar="DIR",
                 help="Keep every finished layer here, so that a run which was killed can be gone on with."),
    click.option("--resume", is_flag=True, help="Go on with the run in --work, which must have been asked for the "
                 "same; the time that its layers took counts."),
    click.option("--cluster", metavar="ADDRESS", help="Plan the layers on a dask cluster instead, with a scheduler at "
                 "this address, such as tcp://host:8786."),
    click.option("--iterations", type=click.IntRange(min=0), help="Moves that the search of a layer may evaluate. "
                 "Where these end the search before the time limit does, the same seed gives the same plan."),
    click.option("-o", "--output", type=click.Path(path_type=Path), default="plan.json", show_default=True,
                 help="Where the plan is written."),
)  # fmt: skip

synth_options = options(
    click.option("--requests", type=click.IntRange(min=1), default=512, show_default=True,
                 help="Requests per data set."),
    click.option("--layers", default="all", show_default=True, help="Model layers: 12, or 12,15, or 3-60, or all."),
    click.option("--prompt-tokens", type=click.IntRange(min=0), default=128, show_default=True,
                 help="Mean prompt length."),
    click.option("--output-tokens", type=click.IntRange(min=0), default=128, show_default=True,
                 help="Mean output length."),
    click.option("--datasets", default="", metavar="NAME,...",
                 help="A folder and a topic for each name; by default one corpus without a topic."),
    click.option("--counts", type=click.Path(), metavar="FILE",
                 help="Counts that the experts' shares shall follow, instead of DeepSeek-V3's."),
    click.option("--candidates", is_flag=True, help="Write candidate_experts, the 16 best in rank order."),
    click.option("--weights", is_flag=True, help="Write routed_weights."),
    click.option("--model", "model_name", help="A model preset; deepseek-v3 by default."),
    click.option("--routed-experts", type=int, help="By default the model's."),
    click.option("--top-k", type=int, help="By default the model's."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
                 help="Seed of everything generated."),
)  # fmt: skip
