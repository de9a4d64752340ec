"""RTP-LLM's file for `--phy2log_path`: a bare list `[layers][P]` with a row for each hidden layer of the model."""

import json
from pathlib import Path

from optimizer.exchange.arrays import experts_in
from optimizer.exchange.reading import json_of, rows_of
from optimizer.exchange.server_placement import ServerPlacement

NAME = "rtp-llm"


def read(path: Path) -> ServerPlacement:
    """The placement in a file. Raises InputError for what is no such file."""
    table = rows_of(json_of(path), path, "the list")
    return ServerPlacement(NAME, tuple(range(len(table))), table, experts_in(table))


def content(placement: ServerPlacement) -> bytes:
    """The file that holds a placement of all hidden layers."""
    return json.dumps(placement.physical_to_logical.tolist()).encode()
