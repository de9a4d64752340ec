"""What a shell offers for the values of options, for click's own shell completion.

A shell waits for the answer, so nothing heavy is imported here: presets are looked up as files, and names that other
rooms define are written down again. A test holds them equal.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem

PRESETS = Path(__file__).parents[1] / "domain" / "presets"
"""The folder of all presets."""

POLICIES = (
    *("primary", "even-ideal", "even-source", "near-source", "hash", "nearest", "table", "capacity-fill"),
    *("least-loaded", "weights", "optimal", "least-active", "hint", "hint-table", "hint-random", "hint-device"),
    *("sglang-static", "sglang-dynamic", "sglang-rows", "vllm", "tensorrt-llm", "vllm-ascend"),
)
"""The policies of `routing.policies`."""

SEEDS = ("sequential", "random", "pairing", "greedy", "risk", "steps", "flexibility", "partition", "rows")
"""The seeds of `planning.options`."""

SERVER_FORMATS = (
    *("sglang", "vllm", "vllm-json", "tensorrt-llm", "vllm-ascend", "rtp-llm", "omniinfer", "eplb", "tt-metal"),
    "tt-metal-yaml",
)
"""The placement formats of `exchange.formats`."""

TRACE_FORMATS = (
    *("npz", "counts-npz", "npy", "vllm", "sglang", "routing-jsonl", "expert-log", "recorder-tokens", "tensorrt-raw"),
    *("logical-count", "load-history", "count-list", "vllm-load", "recorder-pt", "recorder-passes", "tensorrt"),
)
"""The formats of `traces.formats.sniff`."""

PHASES = ("decode", "prefill", "mixed")

Completion = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
"""Gives what may stand in place of what was typed so far of a value."""


def preset_names(kind: str) -> list[str]:
    """The presets of a kind (models, hardware or deployments) that the program ships."""
    return sorted(file.stem for file in (PRESETS / kind).glob("*.toml"))


def paths(ctx: click.Context, param: click.Parameter, typed: str) -> list[CompletionItem]:
    """Let the shell complete what was typed as the path of a file or a folder."""
    return [CompletionItem(typed, type="file")]


def one_of(names: Iterable[str]) -> Completion:
    """A completion for options that take one of these names: those that begin with what was typed."""
    return lambda ctx, param, typed: _fitting(names, typed)


def several_of(names: Iterable[str]) -> Completion:
    """Names with commas between: the last one is completed."""

    def completed(ctx: click.Context, param: click.Parameter, typed: str) -> list[CompletionItem]:
        before, comma, last = typed.rpartition(",")
        return [CompletionItem(f"{before}{comma}{item.value}") for item in _fitting(names, last)]

    return completed


def preset_or_path(kind: str) -> Completion:
    """The presets of a kind; where none begins as what was typed, files."""
    return lambda ctx, param, typed: _fitting(preset_names(kind), typed) or paths(ctx, param, typed)


def _fitting(names: Iterable[str], typed: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(typed)]


BY_FLAG: dict[str, Completion] = {
    "--model": preset_or_path("models"),
    "--hardware": preset_or_path("hardware"),
    "--like": preset_or_path("hardware"),
    "--deployment": lambda ctx, param, typed: _fitting(preset_names("deployments"), typed),
    "--routing": several_of((*POLICIES, "all", "auto")),
    "--seeds": several_of(SEEDS),
    "--phase": several_of(PHASES),
    "--to": one_of(SERVER_FORMATS),
    "--from": one_of(SERVER_FORMATS),
    "--format": one_of(TRACE_FORMATS),
    "--layer": one_of(("all",)),
}
"""What completes the values of options, by their flags, unless an option has a type that offers something itself."""


def for_flags(flags: Iterable[str]) -> Completion | None:
    """What completes the value of an option with these flags; None for what its type offers."""
    return next((BY_FLAG[flag] for flag in flags if flag in BY_FLAG), None)
