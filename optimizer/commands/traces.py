"""The commands `convert` and `synth`, which make traces."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar

import click

from optimizer.commands.declare import Argument, Option, command
from optimizer.commands.options import NOT_NEGATIVE, POSITIVE, SEED
from optimizer.commands.output import say
from optimizer.commands.progress import progress


@dataclass(frozen=True)
class ConvertOptions:
    """The options that say what is converted, and how it is read."""

    SECTION: ClassVar[str] = "Reading"
    sources: Annotated[tuple[str, ...], Argument("SRC...", many=True)]
    out: Annotated[Path, Argument("OUT")]
    format: Annotated[
        str | None, Option(("--format",), "The sources' format, not what their content shows.", metavar="NAME")
    ] = None
    model: Annotated[str | None, Option(("--model",), "A model preset; SGLang's flat arrays need one, or --top-k.")] = (
        None
    )
    top_k: Annotated[int | None, Option(("--top-k",), "Routed experts per token, for an unknown model.", POSITIVE)] = (
        None
    )
    strict: Annotated[bool, Option(("--strict",), "Refuse bad requests instead of skipping them.")] = False


@command(example="moeplan convert responses/ traces/ --model deepseek-v3")
def convert(what: ConvertOptions) -> None:
    """Write the requests of SRC (servers' responses, arrays, routing lines) as native .npz files into folder OUT."""
    from optimizer.commands.arguments import format_named
    from optimizer.traces.convert import convert as convert_files
    from optimizer.traces.corpus import find_files
    from optimizer.traces.infer import ModelChoice

    model = ModelChoice(name=what.model, top_k=what.top_k).for_reading()
    with progress() as tell:
        files = find_files(what.sources, format_named(what.format))
        written, notes = convert_files(files, what.out, model, what.strict, partial(tell, "converting"))
    say(notes)
    click.echo(f"{written} requests written to {what.out}.")


@dataclass(frozen=True)
class SynthOptions:
    """The options that say which requests are generated."""

    SECTION: ClassVar[str] = "What to generate"
    out: Annotated[Path, Argument("OUT")]
    requests: Annotated[int, Option(("--requests",), "Requests per data set.", POSITIVE, essential=True)] = 512
    layers: Annotated[
        str,
        Option(("--layers",), "Model layers: 12, or 12,15, or 3-60, or all.", metavar="LAYERS", essential=True),
    ] = "all"
    prompt_tokens: Annotated[int, Option(("--prompt-tokens",), "Mean prompt length.", NOT_NEGATIVE)] = 128
    output_tokens: Annotated[int, Option(("--output-tokens",), "Mean output length.", NOT_NEGATIVE)] = 128
    datasets: Annotated[
        str,
        Option(
            ("--datasets",),
            "A folder and a topic for each name; by default one corpus with requests of all topics.",
            metavar="NAME,...",
        ),
    ] = ""
    counts: Annotated[
        str | None,
        Option(
            ("--counts",), "Counts that the experts' shares shall follow, instead of DeepSeek-V3's.", metavar="FILE"
        ),
    ] = None
    drift: Annotated[
        float,
        Option(
            ("--drift",),
            "How far traffic moves over the day: total variation between the experts' shares in the first and in the "
            "last tenth of each data set's requests, 0 to 0.6.",
            metavar="RATE",
        ),
    ] = 0.0
    candidates: Annotated[bool, Option(("--candidates",), "Write candidate_experts, the 16 best in rank order.")] = (
        False
    )
    weights: Annotated[bool, Option(("--weights",), "Write routed_weights.")] = False
    model: Annotated[str | None, Option(("--model",), "A model preset; deepseek-v3 by default.", essential=True)] = None
    routed_experts: Annotated[int | None, Option(("--routed-experts",), "By default the model's.")] = None
    top_k: Annotated[int | None, Option(("--top-k",), "By default the model's.")] = None
    seed: Annotated[int, Option(("--seed",), "Seed of everything generated.", SEED)] = 0


@command(example="moeplan synth traces/ --requests 512 --layers 3-60")
def synth(what: SynthOptions) -> None:
    """Generate requests with DeepSeek-V3's statistics, as native .npz files in folder OUT."""
    from optimizer.commands.arguments import layer_ids
    from optimizer.traces.infer import ModelChoice
    from optimizer.traces.synthetic.corpus_writer import CorpusRecipe
    from optimizer.traces.synthetic.generate_corpus import generate_corpus

    names = tuple(name.strip() for name in what.datasets.split(","))
    recipe = CorpusRecipe(
        requests=what.requests,
        prompt_tokens=what.prompt_tokens,
        output_tokens=what.output_tokens,
        datasets=names,
        seed=what.seed,
        candidates=what.candidates,
        weights=what.weights,
        drift=what.drift,
    )
    choice = ModelChoice(what.model, what.routed_experts, None, what.top_k)
    with progress() as tell:
        generate_corpus(what.out, recipe, choice, layer_ids(what.layers), what.counts, partial(tell, "generating"))
    click.echo(f"{len(names) * recipe.requests} requests written to {what.out}.")
