"""What looks wrong in recorded routing: faults that people have met while recording, each with what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from formulations.kit.arrays import Ints
from optimizer.errors import InputError
from optimizer.statistics.row_evidence import AlikeParts, RowEvidence
from optimizer.traces.mending import LONGEST_STRETCH

LOOKS_WRONG = "looks wrong: "
"""What a sentence of what looks wrong has at its beginning, behind the name of its data set."""

FEWEST_TOKENS = 100  # below, no share of rows says anything
FEWEST_ALIKE = 4  # requests that must be alike before it is no accident

SEVERAL_LAYERS, ONE_LAYER, FEW_ROWS = 0.02, 0.1, 0.5
"""The share of one and the same row that is suspicious: of rows of several layers (in recorded sets the most frequent
row has at most .2 %), of rows of one layer (at most 3.5 %), and where there are few different rows anyway."""

FEW_DIFFERENT = 0.2
"""Rows are few where fewer than this share of the others differ: a layer that uses one or two of eight experts has few;
in recorded sets more than a third of the rows of a single layer differ."""

ALIKE_SHARE = 0.5
"""The share of requests that must be alike: in recorded sets none is like another over 16 tokens, and a prompt that
half of the users send would be as bad to plan on as a stale one."""

UNSEEN_PAIRS = 3000
"""Pairs per expert from which on an expert that was never chosen is suspicious: the coldest expert of recorded sets has
.0016 of the mean, so it would still be met five times."""

FEW_PAIRS = 30  # the same where a quarter of the experts was never chosen; the 25th percentile of recorded sets is .3 x
BLOCK_PAIRS = 2  # the same where all that were chosen are one block: that none of the others was is no accident then
SMALLEST_BLOCKED = 8  # experts of a model whose block may be named: among fewer, neighbours are chosen by accident


@dataclass(frozen=True)
class Suspicion:
    """Something that looks wrong. kind: a word for tests and programs; seen: what was seen, with figures; remedy: what
    to do; impossible: whether it is beyond suspicion, so that nothing can be made of the recording."""

    kind: str
    seen: str
    remedy: str
    impossible: bool = False

    def summary(self) -> dict[str, str]:
        """The stable JSON form."""
        return {"kind": self.kind, "seen": self.seen, "remedy": self.remedy}


def suspicions_of_rows(evidence: RowEvidence) -> list[Suspicion]:
    """What looks wrong in the rows of requests, the worst first."""
    return [*_repeats(evidence), *_alike_requests(evidence), *_frequent_row(evidence)]


def _repeats(evidence: RowEvidence) -> list[Suspicion]:
    """A profile or warm-up run: thousands of equal tokens."""
    if not evidence.repeats:
        return []
    share = evidence.repeats / evidence.tokens
    seen = (
        f"{evidence.repeats:,} of {evidence.tokens:,} tokens ({share:.0%}) repeat the one before them in stretches of "
        f"more than {LONGEST_STRETCH}, the longest {evidence.longest:,}: a profile or warm-up run, or padded rows"
    )
    return [Suspicion("repeats", seen, "leave them out with --drop-repeats, or record after the warm-up")]


def _alike_requests(evidence: RowEvidence) -> list[Suspicion]:
    """Outputs that a CUDA graph left as they were, and prompts that a server did not fill in."""
    found = []
    if _too_many(evidence.outputs):
        seen = f"the outputs of {evidence.outputs.most} of {evidence.outputs.compared} requests are alike"
        remedy = "record with CUDA graphs off (eager mode), or by a server that captures routing inside the graph"
        found.append(Suspicion("outputs-alike", f"{seen}: a CUDA graph may have been replayed", remedy))
    if _too_many(evidence.prompts):
        seen = f"the prompts of {evidence.prompts.most} of {evidence.prompts.compared} requests are alike"
        remedy = "plan decode on the outputs alone, and record prompts on the server that runs them"
        found.append(Suspicion("prompts-alike", f"{seen}: stale rows, or one prompt sent again and again", remedy))
    return found


def _too_many(parts: AlikeParts) -> bool:
    return parts.most >= FEWEST_ALIKE and parts.most >= ALIKE_SHARE * parts.compared


def _frequent_row(evidence: RowEvidence) -> list[Suspicion]:
    """Padded rows, anywhere; a row that comes in long stretches has been said already."""
    rows, most, others = evidence.modal()
    if rows < FEWEST_TOKENS or evidence.repeats >= most / rows * evidence.tokens / 2:
        return []
    few = others < FEW_DIFFERENT * (rows - most)
    if most < rows * (FEW_ROWS if few else SEVERAL_LAYERS if evidence.several_layers else ONE_LAYER):
        return []
    seen = f"{most / rows:.0%} of all tokens make the very same choices: padded rows may have been recorded"
    return [Suspicion("frequent-row", seen, "record without padding, or cut the rows of padding tokens out")]


def suspicions_of_loads(load: Ints, layers: Sequence[int]) -> list[Suspicion]:
    """Experts that were never chosen, where that is no accident.

    load `[layer, expert]` pairs; layers: the model layer id of each entry of the first axis. Layers without any pair
    are passed over.
    """
    used = [place for place in range(len(load)) if load[place].any()]
    if not used:
        return []
    counted, experts = load[used], load.shape[1]
    chosen = np.flatnonzero(counted.any(axis=0))
    mean = counted.sum(axis=1) / experts
    if len(chosen) == 1 and experts > 1 and counted.sum() >= FEWEST_TOKENS:
        seen = f"all tokens chose expert {chosen[0]} alone in every layer: nothing was captured"
        remedy = "record again, and check that the server returns routing for this model"
        return [Suspicion("nothing-captured", seen, remedy, impossible=True)]
    first, last, unseen = int(chosen[0]), int(chosen[-1]), experts - len(chosen)
    if unseen and _is_block(first, len(chosen), last - first + 1, experts) and mean.min() >= BLOCK_PAIRS:
        seen = f"{unseen} of {experts} experts were never counted, only the block {first}..{last}: one rank's counts"
        return [Suspicion("one-rank", seen, "add up what all ranks have recorded")]
    zero = (counted == 0).sum(axis=1)
    bad = ((zero > 0) & (mean >= UNSEEN_PAIRS)) | ((zero >= experts / 4) & (mean >= FEW_PAIRS))
    if not bad.any():
        return []
    place = int(np.argmax(np.where(bad, zero, -1)))
    where = f"{zero[place]} of {experts} experts of layer {layers[used[place]]}"
    seen = f"{where} were never chosen, at {mean[place]:,.0f} pairs per expert"
    more = f"; {int(bad.sum())} of {len(used)} layers are like that"
    remedy = "add up what all ranks have recorded, and check how many experts the model has"
    return [Suspicion("never-chosen", seen + more, remedy)]


def _is_block(first: int, size: int, span: int, experts: int) -> bool:
    """Whether `size` experts, from `first` on, are what one rank of several equal ones holds."""
    return size == span and experts >= SMALLEST_BLOCKED and experts % size == 0 and first % size == 0


def worst(found: Sequence[Suspicion]) -> tuple[str, ...]:
    """One sentence with the worst of what was found, for commands that do not list it; none where nothing was."""
    if not found:
        return ()
    more = f"; {len(found) - 1} more thing(s) look wrong, see `moeplan stats`" if len(found) > 1 else ""
    return (f"{LOOKS_WRONG}{found[0].seen}; {found[0].remedy}{more}",)


def refuse(found: Sequence[Suspicion], strict: bool) -> None:
    """Raise InputError for what is impossible, and, if `strict`, for the worst of whatever was found."""
    for each in found:
        if each.impossible:
            raise InputError(f"{each.seen}; {each.remedy}")
    if strict and found:
        (said,) = worst(found)
        raise InputError(f"{said}; or do not read strictly, which only warns", "strict")
