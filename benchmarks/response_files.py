"""How fast servers' files of requests are read, beside the same numbers taken from them by json and numpy.

Usage: python benchmarks/response_files.py. Each file holds requests of 250 tokens, 58 layers and top-8 of 256; an
expert log and routing lines hold one layer. One layer is kept, as for a plan. Figures are medians of five runs.
"""

import base64
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measure import Measured, rate

from formulations.kit.arrays import Ints
from optimizer.domain.model import Model
from optimizer.traces.corpus import find_files, read_traces

MODEL, LAYER, TOP_K = Model("58 layers", 256, 0, 8, 58), 3, 8
TOKENS, REQUESTS = 250, 20
Response = dict[str, object]


def raw(ids: Ints) -> str:
    """Bytes as base64."""
    return base64.b64encode(ids.tobytes()).decode()


def npy(ids: Ints) -> str:
    """A `.npy` file as base64."""
    file = io.BytesIO()
    np.save(file, ids.astype(np.uint8))
    return base64.b64encode(file.getvalue()).decode()


def of_npy(text: str) -> Ints:
    """The array of a `.npy` file as base64."""
    found: Ints = np.load(io.BytesIO(base64.b64decode(text)))
    return found


FORMS: dict[str, tuple[Callable[[Ints], Response], Callable[[Response], Ints]]] = {
    "vLLM, .npy": (lambda ids: {"routed_experts": npy(ids)}, lambda held: of_npy(str(held["routed_experts"]))),
    "vLLM, lists": (lambda ids: {"routed_experts": ids.tolist()}, lambda held: np.array(held["routed_experts"])),
    "SGLang, raw": (
        lambda ids: {"meta_info": {"routed_experts": raw(ids), "prompt_tokens": 125, "completion_tokens": 126}},
        lambda held: np.frombuffer(base64.b64decode(held["meta_info"]["routed_experts"]), "<i4"),  # type: ignore[index]
    ),
    "payload": (
        lambda ids: {"routed_experts": {"data": raw(ids), "shape": list(ids.shape), "start": 0, "dtype": "int32"}},
        lambda held: np.frombuffer(base64.b64decode(held["routed_experts"]["data"]), "<i4"),  # type: ignore[index]
    ),
}


def log_lines(ids: Ints) -> list[Response]:
    """An expert log of one layer."""
    return [
        {"type": "route", "req_id": f"r{token // 250}", "token_idx": token % 250, "layer": LAYER}
        | {"topk_ids": row.tolist(), "topk_weights": [0.1] * TOP_K}
        for token, row in enumerate(ids[:, LAYER])
    ]


def routing_lines(ids: Ints) -> list[Response]:
    """Routing lines of one layer, 1,000 tokens a line."""
    parts = np.split(ids[:, LAYER], len(ids) // 1000)
    return [{"layer": LAYER, "batch_id": n, "topk_experts": part.tolist()} for n, part in enumerate(parts)]


def measured(name: str, lines: list[Response], numbers: int, take: Callable[[Response], Ints]) -> Measured:
    """Read a file of these lines; numpy must find as many numbers, and does not check them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "lines.jsonl")
        path.write_text("\n".join(map(json.dumps, lines)))
        files = find_files([folder])
        with path.open() as file:
            if sum(take(json.loads(line)).size for line in file) != numbers:
                raise AssertionError("numpy and the reader disagree")

        def theirs() -> None:
            with path.open() as file:
                for line in file:
                    take(json.loads(line))

        ours = rate(numbers / 1e6, lambda: read_traces(files, MODEL, [LAYER]))
        return Measured(name, "M selections/s", ours, rate(numbers / 1e6, theirs))


if __name__ == "__main__":
    shape = (TOKENS, MODEL.layers, MODEL.routed_experts)
    ids = np.argsort(np.random.default_rng(0).random(shape), axis=2)[..., :TOP_K].astype(np.int32)
    tall = np.concatenate([ids] * 200)
    print(f"{'read':32}{'moeplan':>10}{'numpy':>10}{'ratio':>8}")
    rows = [measured(name, [made(ids)] * REQUESTS, REQUESTS * ids.size, take) for name, (made, take) in FORMS.items()]
    one_layer = tall[:, LAYER].size
    rows.append(measured("expert log", log_lines(tall), one_layer, lambda line: np.array(line["topk_ids"])))
    rows.append(measured("routing lines", routing_lines(tall), one_layer, lambda line: np.array(line["topk_experts"])))
    for found in rows:
        print(f"{found.name:32}{found.ours:10.2f}{found.numpy:10.2f}{found.ours / found.numpy:8.1f}  {found.unit}")
