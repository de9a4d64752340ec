"""A corpus of generated requests, written file by file: no more than one request is in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.streams import Purpose, key_of_text, random_stream
from optimizer.traces.formats.request import Request
from optimizer.traces.formats.write import write_request
from optimizer.traces.synthetic.drift import DriftingGates, check_rate
from optimizer.traces.synthetic.generator import calibrated_gates, generate
from optimizer.traces.synthetic.marginals import calibration_tokens

LENGTH_SIGMA, LONGEST = 0.7, 8  # lengths are log-normal, and at most 8 times the mean; a choice, not a fit


@dataclass(frozen=True)
class CorpusRecipe:
    """What to generate: `requests` for each data set, whose prompts and outputs have these mean lengths in tokens.

    A mean of 0 leaves prompts or outputs out. Each data set has a name and a folder of that name; the one without a
    name has requests of all topics, and lies in the corpus's own folder. drift: how far traffic moves from the first to
    the last request of each data set, as the total variation between the experts' shares in the first and in the last
    tenth of the requests, 0 for none. Raises InputError for what cannot be generated.
    """

    requests: int
    prompt_tokens: int
    output_tokens: int
    datasets: tuple[str, ...] = ("",)
    seed: int = 0
    candidates: bool = False
    weights: bool = False
    drift: float = 0.0

    def __post_init__(self) -> None:
        if self.requests < 1 or min(self.prompt_tokens, self.output_tokens) < 0 or not any(self.means):
            raise InputError(
                f"{self.requests} requests of {self.prompt_tokens} prompt and {self.output_tokens} output tokens: "
                "at least one request and a positive mean length are needed"
            )
        unfit = [name for name in self.datasets if Path(name).name != name or name == ".."]
        if unfit or not self.datasets or len(set(self.datasets)) < len(self.datasets):
            raise InputError(
                f"data sets {', '.join(self.datasets)}: each names a folder, so they must differ and hold no slash"
            )
        check_rate(self.drift)

    @property
    def means(self) -> tuple[int, int]:
        """The mean lengths of prompts and of outputs."""
        return self.prompt_tokens, self.output_tokens


def synthesise(
    out: Path,
    model: Model,
    layers: Sequence[int],
    corpus: CorpusRecipe,
    counts: Ints | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Write `request_00000.npz` ... of each data set into folder `out`, created where absent.

    counts `[layer, expert]`: how often requests without a data set shall choose each expert; without counts the shares
    are like DeepSeek-V3's. If the layers are all MoE layers of the model, the files hold them alone; else each layer
    stands at its number on an axis from 0. The order of the requests is their order in time. Request r depends on the
    seed, the data set's name, r and the layer alone, and where there is drift on its rate and the number of requests.
    `progress` receives the share of tokens made, those of the calibration included. Raises InputError for what cannot
    be generated or written, and for a folder that holds requests already.
    """
    folders = {name: _empty_folder(out / name) for name in corpus.datasets}
    sampled = calibration_tokens(model.routed_experts, model.top_k)
    share = sampled / (sampled + len(folders) * corpus.requests * sum(corpus.means))
    gates = calibrated_gates(model, layers, corpus.seed, counts, lambda done: progress(share * done))
    for turn, (name, folder) in enumerate(folders.items()):
        drifting = DriftingGates.of(gates, name, corpus.requests, corpus.drift)
        for number in range(corpus.requests):
            write_request(folder / f"request_{number:05}.npz", _request(drifting, corpus, name, number), number)
            done = (turn * corpus.requests + number + 1) / (len(folders) * corpus.requests)
            progress(share + (1 - share) * done)


def _empty_folder(folder: Path) -> Path:
    """Make the folder. Raises InputError where it cannot be made, and where it holds requests already."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = next(folder.glob("*.npz"), None)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); name a folder that you may write to") from None
    if held is not None:
        raise InputError(f"{held}: is there already; name a folder without requests, or remove them")
    return folder


def _request(drifting: DriftingGates, corpus: CorpusRecipe, dataset: str, number: int) -> Request:
    """Generate one request of a data set, by its number."""
    gates = drifting.at(number)
    model = gates.model
    rng = random_stream(Purpose.CORPUS_LENGTHS, corpus.seed, key_of_text(dataset), number)
    prompt, output = (_length(mean, rng) for mean in corpus.means)
    numbers, lengths = np.array([number]), np.array([prompt + output])
    generated = generate(gates, dataset, numbers, lengths, corpus.candidates, corpus.weights)
    whole = 0 < model.layers == model.first_moe_layer + len(gates.layers) and gates.layers == model.moe_layer_ids
    layers = None if whole else gates.layers
    return Request(generated.experts, prompt, layers, generated.weights, generated.candidates)


def _length(mean: int, rng: np.random.Generator) -> int:
    """Draw a log-normal length of this mean, at least 1 token; it is 0 where the mean is 0."""
    drawn = mean * np.exp(LENGTH_SIGMA * rng.standard_normal() - LENGTH_SIGMA**2 / 2)
    return int(np.clip(np.rint(drawn), min(mean, 1), LONGEST * mean))
