"""SGLang's file for `--init-expert-location`, as of its release 0.5.23.

`{"physical_to_logical_map": [L][P]}`, where L counts all hidden layers. The server passes every key of the file on as
an argument, so that any other one ends its start. MTP layers are not in the file.
"""

import json
from pathlib import Path

from optimizer.exchange.arrays import experts_in
from optimizer.exchange.reading import json_of, object_of, only_keys, rows_of
from optimizer.exchange.server_placement import ServerPlacement

NAME = "sglang"
KEY = "physical_to_logical_map"


def read(path: Path) -> ServerPlacement:
    """The placement in a file. Raises InputError for what is no such file."""
    value = object_of(json_of(path), str(path))
    only_keys(value, (KEY,), str(path))
    table = rows_of(value[KEY], path, KEY)
    return ServerPlacement(NAME, tuple(range(len(table))), table, experts_in(table))


def content(placement: ServerPlacement) -> bytes:
    """The file that holds a placement of all hidden layers."""
    return json.dumps({KEY: placement.physical_to_logical.tolist()}).encode()
