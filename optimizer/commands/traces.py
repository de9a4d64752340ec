"""`convert` and `synth`: make traces."""

from pathlib import Path
from typing import Any

import click

from optimizer.commands.given import progress, say
from optimizer.commands.options import synth_options


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SRC...")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--format", "format_name", metavar="NAME", help="The sources' format, not what their content shows.")
@click.option("--model", "model_name", help="A model preset; SGLang's flat arrays need one, or --top-k.")
@click.option("--top-k", type=click.IntRange(min=1), help="Routed experts per token, for an unknown model.")
@click.option("--strict", is_flag=True, help="Refuse bad requests instead of skipping them.")
def convert(sources: tuple[str, ...], out: Path, format_name: str | None, model_name: str | None, top_k: int | None,
            strict: bool) -> None:  # fmt: skip
    """Write the requests of SRC (servers' responses, arrays, routing lines) as native .npz files into folder OUT."""
    from optimizer.commands.arguments import format_named
    from optimizer.traces.convert import convert as convert_files
    from optimizer.traces.corpus import find_files
    from optimizer.traces.infer import ModelChoice

    model = ModelChoice(name=model_name, top_k=top_k).for_reading()
    with progress() as notify:
        files = find_files(sources, format_named(format_name))
        written, notes = convert_files(files, out, model, strict, lambda share: notify("converting", share))
    say(notes)
    click.echo(f"{written} requests written to {out}.")


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@synth_options
def synth(out: Path, layers: str, datasets: str, counts: str | None, **given: Any) -> None:  # fmt: skip
    """Generate requests with DeepSeek-V3's statistics, as native .npz files in folder OUT."""
    from optimizer.commands.arguments import layer_ids
    from optimizer.traces.infer import ModelChoice
    from optimizer.traces.synthetic.corpus_writer import CorpusRecipe
    from optimizer.traces.synthetic.generate_corpus import generate_corpus

    names = tuple(name.strip() for name in datasets.split(","))
    sizes = {key: given[key] for key in ("requests", "prompt_tokens", "output_tokens", "seed", "candidates", "weights")}
    choice = ModelChoice(given["model_name"], given["routed_experts"], None, given["top_k"])
    with progress() as notify:
        recipe = CorpusRecipe(datasets=names, **sizes)
        generate_corpus(out, recipe, choice, layer_ids(layers), counts, lambda share: notify("generating", share))
    click.echo(f"{len(names) * recipe.requests} requests written to {out}.")
