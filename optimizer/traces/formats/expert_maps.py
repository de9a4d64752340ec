"""Telling expert maps, which say where experts are, from recordings of how often they are chosen."""

from collections.abc import Sequence

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.errors import InputError
from optimizer.exchange import rtp_llm
from optimizer.exchange.formats import FORMATS, PLAN

CERTAIN = 16
"""A list in whose every row each of so many ids stands at least once is a map: in counts, so many small numbers without
a gap are no chance. With fewer ids it could be a small example of counts."""


class ForeignFileError(InputError):
    """A file whose content is known, and is no recorded routing."""


def foreign(formats: Sequence[str]) -> ForeignFileError:
    """The sentence on a file of one of these formats of `optimizer.exchange`, or on a plan.

    It continues a sentence that begins with the name of the file.
    """
    if list(formats) == [PLAN]:
        said = "is a plan, not recorded routing; give the traces, and name the plan where a plan is asked"
        return ForeignFileError(said)
    what = " or ".join(FORMATS[name].file for name in formats)
    return ForeignFileError(
        f"is {what}, which says where experts are and not how often they are chosen; `moeplan validate` checks it, and "
        "`moeplan import` makes a plan of it"
    )


def check_list(rows: Ints) -> None:
    """Tell counts `[layer, expert]` or `[step, layer, expert]` from RTP-LLM's map `[layer, slot]`, both bare lists.

    Every expert stands in every row of a map, so its rows hold every id from 0 to the largest. Raises ForeignFileError
    for a map, and InputError where a list may be either.
    """
    if rows.ndim != 2 or not 0 <= int(rows.max()) < rows.shape[1] or rows.min() < 0:
        return
    experts = int(rows.max()) + 1
    ordered = np.sort(rows, axis=1)
    different = 1 + (np.diff(ordered, axis=1) > 0).sum(axis=1)
    if (different < experts).any() or experts < 2:
        return
    if experts >= CERTAIN:
        raise foreign([rtp_llm.NAME])
    raise InputError(
        f"fits two readings: counts of {rows.shape[1]} experts in {len(rows)} layers (count-list), or a map of "
        f"{experts} experts to {rows.shape[1]} slots, which `moeplan import` reads; name the format if it holds counts",
        "format",
    )
